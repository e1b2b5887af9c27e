"""Imports as clients ask for them: begin, rows as often as needed, end; or abort.

    import_begin   params mode, tables [{"name", "number"?}]     → {"import"}
    import_rows    params import, table, row (of the first)      body JSON lines → {"count", "ts"}
    import_file    params id, sha256, content_type, creation_time   body: a file of ctx.storage → {"new"}
    import_end     params import                                 → what became of each table
    import_abort   params import

Documents come in batches that the client makes, so the server never holds more than one. The work is done on a thread of
its own, one import at a time. Tables that were replaced or given up are hidden, and emptied in the background, after a
restart too.

Errors     CallerError when another import fills the same table; NotFound for an import that is over, or that nobody has
           fed for IDLE_S
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from cellstore.errors import CallerError, FatalError, NotFound, StorageError, ValidationError
from cellstore.reactivity.principal import Principal
from cellstore.transaction import files
from cellstore.transaction.importing import Import, Wanted, leftovers, purge

if TYPE_CHECKING:
    from cellstore.transaction.database import Engine

IDLE_S = 3600.0  # a client that reads a slow file still comes by more often

PURGE_STEPS = 4  # commits before a waiting import has its turn

log = logging.getLogger(__name__)
T = TypeVar("T")
Answer = tuple[dict[str, Any], bytes]


class Imports:
    """The imports of one store."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._running: dict[str, tuple[Import, float]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cellstore-import")
        self._purging: asyncio.Task[None] | None = None
        self._closed = False

    def clean_up(self) -> None:
        """Empty hidden tables that an earlier run left, in the background."""
        if any(table.stands_for for table in self._engine.catalog.tables()):
            self._purge_soon()

    async def begin(self, params: dict[str, Any], _body: bytes, _who: Principal) -> Answer:
        """A new import."""
        wanted = _wanted(params.get("tables"))
        self._forget_idle()
        busy = {table for running, _ in self._running.values() for table in running.tables}
        if twice := busy & {each.table for each in wanted}:
            raise CallerError(
                f"another import is filling the table {min(twice)!r}: wait for its end, or start again when it has been "
                f"left alone for {IDLE_S / 60:g} minutes",
                code="ImportRunning",
            )
        key = secrets.token_hex(8)

        def start() -> None:  # known before the next thing happens on the thread, which may be emptying hidden tables
            self._running[key] = Import(self._engine, params.get("mode", "fail"), wanted), time.monotonic()

        await self._do(start)
        return {"import": key}, b""

    async def rows(self, params: dict[str, Any], body: bytes, _who: Principal) -> Answer:
        """Some documents, one durable commit."""
        running, row = self._find(params), params.get("row", 0)
        if not isinstance(row, int):
            raise ValidationError(path="row", expected="an integer", got=repr(row)[:60])
        count = await self._do(lambda: running.load(str(params.get("table")), body, row))
        return {"count": count, "ts": running.ts}, b""

    async def file(self, params: dict[str, Any], body: bytes, _who: Principal) -> Answer:
        """A file that keeps its id. One that is there already stays: its id says that it is the same."""
        return {"new": await self.take_file(params, [body])}, b""

    async def take_file(self, known: dict[str, Any], pieces: Iterable[bytes]) -> bool:
        """A file, piece by piece; whether it is new. Errors: ValidationError, for a digest that differs too."""
        return await self._do(lambda: _take_file(self._engine, known, pieces))

    async def end(self, params: dict[str, Any], _body: bytes, _who: Principal) -> Answer:
        """Make it visible."""
        running = self._find(params)
        report = await self._do(running.finish)
        del self._running[params["import"]]
        self._purge_soon()
        return report, b""

    async def abort(self, params: dict[str, Any], _body: bytes, _who: Principal) -> Answer:
        """Give up what is not visible yet."""
        self._find(params)
        del self._running[params["import"]]
        self._purge_soon()
        return {}, b""

    async def close(self) -> None:
        """End what runs. What is left over is emptied at the next start."""
        self._closed = True
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)
        if self._purging is not None:
            await asyncio.wait([self._purging])

    def _find(self, params: dict[str, Any]) -> Import:
        key = params.get("import")
        found = self._running.get(key) if isinstance(key, str) else None
        if found is None or not isinstance(key, str):
            raise NotFound("this import is over, or was given up: begin again", kind="import", name=str(key))
        self._running[key] = found[0], time.monotonic()
        return found[0]

    def _forget_idle(self) -> None:
        for key, (_, used) in list(self._running.items()):
            if time.monotonic() - used > IDLE_S:
                del self._running[key]
                self._purge_soon()

    async def _do(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _purge_soon(self) -> None:
        if self._purging is None or self._purging.done():
            self._purging = asyncio.get_running_loop().create_task(self._purge())

    async def _purge(self) -> None:
        """Empty hidden tables, except those that are being filled; imports have their turns in between."""
        try:
            while not self._closed and await self._do(self._purge_some):
                pass
        except asyncio.CancelledError:
            pass  # closing; the next start goes on
        except (FatalError, StorageError) as error:
            log.warning("hidden tables could not be emptied, the next start will: %s", error.message)

    def _purge_some(self) -> bool:
        """A step of it; whether there is more to do."""
        busy = {number for running, _ in list(self._running.values()) for number in running.hidden}
        left = [number for number in leftovers(self._engine) if number not in busy]
        if left:
            purge(self._engine, left[0], steps_max=PURGE_STEPS)
        return bool(left)


def _take_file(engine: Engine, known: dict[str, Any], pieces: Iterable[bytes]) -> bool:
    id, created, digest = known.get("id"), known.get("creation_time"), known.get("sha256")
    if not isinstance(id, str):
        raise ValidationError(path="id", expected="an id of _storage", got=repr(id)[:60])
    if not (created is None or type(created) in (int, float)):
        raise ValidationError(path="creation_time", expected="milliseconds, a number", got=repr(created)[:60])
    if not (digest is None or isinstance(digest, str)):
        raise ValidationError(path="sha256", expected="a digest in base64, or null", got=repr(digest)[:60])
    with engine.begin() as transaction:
        if files.metadata(transaction, id) is not None:
            return False
    incoming = files.Incoming(engine.path, known.get("content_type"))
    try:
        for piece in pieces:
            incoming.write(piece)
        arrived = incoming.finish(digest)
    except BaseException:
        incoming.drop()
        raise
    engine.run(lambda tx: files.keep(tx, arrived, id=id, creation_time=created), files.STORAGE)
    return True


def _wanted(tables: Any) -> list[Wanted]:
    """The tables a client wants to fill. Errors: ValidationError."""
    if not isinstance(tables, list) or not tables or not all(isinstance(each, dict) for each in tables):
        raise ValidationError(path="tables", expected='a list of {"name", "number"}', got=repr(tables)[:60])
    for each in tables:
        name, number = each.get("name"), each.get("number")
        if not isinstance(name, str) or not (number is None or type(number) is int):
            raise ValidationError(path="tables", expected="a name and a number or null", got=repr(each)[:60])
    return [Wanted(each["name"], each.get("number")) for each in tables]
