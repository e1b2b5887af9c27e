"""Imports as clients ask for them: begin, rows as often as needed, end; or abort.

    import_begin   params mode, tables [{"name", "number"?}]     → {"import"}
    import_rows    params import, table, row (of the first)      body JSON lines → {"count", "ts"}
    import_file    params id, sha256, content_type, creation_time   body: a file of ctx.storage → {"new"}
                   a large one in pieces, `more` is true of all but the last: {"part"} is what the next one names, and all of
                   its params; {"new": false} when no more is wanted
    import_end     params import                                 → what became of each table
    import_abort   params import
    drop_table     params table                             → {"ts"}; here because what is dropped is emptied here

Documents come in batches that the client makes, and files in pieces, so the server never holds more than one. The work
is done on a thread of its own, one import at a time. Tables that were replaced, dropped or given up are hidden, and emptied
in the background, after a restart too.

Order      what an operation finds and what it does with it are one step on that thread
Errors     CallerError when another import fills the same table; NotFound for an import or a file that is over, or that
           nobody has fed for IDLE_S; LimitExceeded for a file beyond the knob file_size_bytes
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from cellstore.errors import CallerError, FatalError, LimitExceeded, NotFound, StorageError, ValidationError
from cellstore.reactivity.principal import Principal
from cellstore.transaction import files
from cellstore.transaction.hidden import drop_table, leftovers, purge
from cellstore.transaction.importing import Import, Wanted

if TYPE_CHECKING:
    from cellstore.transaction.database import Engine

IDLE_S = 3600.0  # a client that reads a slow file still comes by more often

PURGE_STEPS = 4  # commits before a waiting import has its turn

log = logging.getLogger(__name__)
T = TypeVar("T")
Answer = tuple[dict[str, Any], bytes]


@dataclass(slots=True)
class _File:
    """A file of which some has come. `of`: the import it belongs to, if that was said."""

    incoming: files.Incoming
    id: str
    created: float | None
    digest: str | None
    of: str | None = None
    used_s: float = field(default_factory=time.monotonic)


class Imports:
    """The imports of one store."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._running: dict[str, tuple[Import, float]] = {}
        self._files: dict[str, _File] = {}  # by what their next piece is called
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
        key = secrets.token_hex(8)

        def start() -> None:  # known before the next thing happens on the thread, which may be emptying hidden tables
            self._forget_idle()
            self._refuse_busy({each.table for each in wanted})
            self._running[key] = Import(self._engine, params.get("mode", "fail"), wanted), time.monotonic()

        try:
            await self._do(start)
        except asyncio.CancelledError:  # it may have begun all the same, and nobody knows its name
            with contextlib.suppress(RuntimeError):  # the thread has ended, and everything with it
                self._thread.submit(self._running.pop, key, None)
            raise
        self._purge_soon()
        return {"import": key}, b""

    def _refuse_busy(self, tables: set[str]) -> None:
        busy = {table for running, _ in self._running.values() for table in running.tables}
        if twice := busy & tables:
            raise CallerError(
                f"another import is filling the table {min(twice)!r}: wait for its end, or start again when it has been "
                f"left alone for {IDLE_S / 60:g} minutes",
                code="ImportRunning",
            )

    async def rows(self, params: dict[str, Any], body: bytes, _who: Principal) -> Answer:
        """Some documents, one durable commit."""
        row = params.get("row", 0)
        if not isinstance(row, int):
            raise ValidationError(path="row", expected="an integer", got=repr(row)[:60])

        def load() -> dict[str, Any]:
            running = self._find(params)
            return {"count": running.load(str(params.get("table")), body, row), "ts": running.ts}

        return await self._do(load), b""

    async def file(self, params: dict[str, Any], body: bytes, _who: Principal) -> Answer:
        """A file that keeps its id, or a piece of one. One that is there already stays: its id says that it is the same."""
        return await self._do(lambda: self._take_piece(params, body)), b""

    async def take_file(self, known: dict[str, Any], pieces: Iterable[bytes]) -> bool:
        """A file, piece by piece; whether it is new. Errors: ValidationError, for a digest that differs too."""

        def take() -> bool:
            file = self._new_file(known)
            if file is not None:
                self._feed(file, pieces)
                self._keep(file)
            return file is not None

        return await self._do(take)

    async def end(self, params: dict[str, Any], _body: bytes, _who: Principal) -> Answer:
        """Make it visible."""

        def finish() -> dict[str, Any]:
            report = self._find(params).finish()
            self._give_up(params["import"])
            return report

        report = await self._do(finish)
        self._purge_soon()
        return report, b""

    async def abort(self, params: dict[str, Any], _body: bytes, _who: Principal) -> Answer:
        """Give up what is not visible yet."""

        def give_up() -> None:
            self._find(params)
            self._give_up(params["import"])

        await self._do(give_up)
        self._purge_soon()
        return {}, b""

    async def drop_table(self, params: dict[str, Any], _body: bytes, _who: Principal) -> Answer:
        """Take a table away; its documents leave in the background."""
        name = params.get("table")
        if not isinstance(name, str):
            raise ValidationError(path="table", expected="a table's name", got=repr(name)[:60])

        def drop() -> int:
            self._forget_idle()
            self._refuse_busy({name})
            return drop_table(self._engine, name)

        ts = await self._do(drop)
        self._purge_soon()
        return {"ts": ts}, b""

    async def close(self) -> None:
        """End what runs. What is left over is emptied at the next start."""
        self._closed = True
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)
        for file in self._files.values():
            file.incoming.drop()
        self._files.clear()
        if self._purging is not None:
            await asyncio.wait([self._purging])

    def _find(self, params: dict[str, Any]) -> Import:
        key = params.get("import")
        found = self._running.get(key) if isinstance(key, str) else None
        if found is None or not isinstance(key, str):
            raise NotFound("this import is over, or was given up: begin again", kind="import", name=str(key))
        self._running[key] = found[0], time.monotonic()
        return found[0]

    def _give_up(self, key: str) -> None:
        """Forget an import, or that it was one, and the files of it that are not whole."""
        del self._running[key]
        for part, file in list(self._files.items()):
            if file.of == key:
                self._files.pop(part).incoming.drop()

    def _forget_idle(self) -> None:
        since_s = time.monotonic() - IDLE_S
        for key, (_, used_s) in list(self._running.items()):
            if used_s < since_s:
                self._give_up(key)
        for part, file in list(self._files.items()):
            if file.used_s < since_s:
                self._files.pop(part).incoming.drop()

    # ── files, on the thread ──────────────────────────────────────────────────────────────────────────────────────

    def _take_piece(self, params: dict[str, Any], body: bytes) -> dict[str, Any]:
        file = self._new_file(params) if params.get("part") is None else self._files.pop(str(params["part"]), None)
        if file is None and params.get("part") is None:
            return {"new": False}
        if file is None:
            raise NotFound("this file is over, or was given up: begin the import again", kind="file")
        self._feed(file, [body])
        if params.get("more") is not True:
            self._keep(file)
            return {"new": True}
        part, file.used_s = secrets.token_hex(8), time.monotonic()
        self._files[part] = file
        return {"part": part}

    def _new_file(self, known: dict[str, Any]) -> _File | None:
        """A file that begins to come; None for one that is there. Errors: ValidationError."""
        id, created, digest = known.get("id"), known.get("creation_time"), known.get("sha256")
        if not isinstance(id, str):
            raise ValidationError(path="id", expected="an id of _storage", got=repr(id)[:60])
        if not (created is None or type(created) in (int, float)):
            raise ValidationError(path="creation_time", expected="milliseconds, a number", got=repr(created)[:60])
        if not (digest is None or isinstance(digest, str)):
            raise ValidationError(path="sha256", expected="a digest in base64, or null", got=repr(digest)[:60])
        with self._engine.begin() as transaction:
            if files.metadata(transaction, id) is not None:
                return None
        return _File(
            files.Incoming(self._engine.path, known.get("content_type")), id, created, digest, known.get("import")
        )

    def _feed(self, file: _File, pieces: Iterable[bytes]) -> None:
        """Take some of it. Errors: LimitExceeded, those of the disk and of the pieces; nothing is left of it then."""
        limit = self._engine.knobs.file_size_bytes
        try:
            for piece in pieces:
                if file.incoming.size + len(piece) > limit:
                    raise LimitExceeded(f"the file {file.id} is more than {limit:,} bytes (knob file_size_bytes)")
                file.incoming.write(piece)
        except BaseException:
            file.incoming.drop()
            raise

    def _keep(self, file: _File) -> None:
        """That was all of it. Errors: ValidationError for a digest that differs; nothing is left of it then."""
        try:
            arrived = file.incoming.finish(file.digest)
        except BaseException:
            file.incoming.drop()
            raise
        self._engine.run(lambda tx: files.keep(tx, arrived, id=file.id, creation_time=file.created), files.STORAGE)

    # ── the thread ────────────────────────────────────────────────────────────────────────────────────────────────

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


def _wanted(tables: Any) -> list[Wanted]:
    """The tables a client wants to fill. Errors: ValidationError."""
    if not isinstance(tables, list) or not tables or not all(isinstance(each, dict) for each in tables):
        raise ValidationError(path="tables", expected='a list of {"name", "number"}', got=repr(tables)[:60])
    for each in tables:
        name, number = each.get("name"), each.get("number")
        if not isinstance(name, str) or not (number is None or type(number) is int):
            raise ValidationError(path="tables", expected="a name and a number or null", got=repr(each)[:60])
    return [Wanted(each["name"], each.get("number")) for each in tables]
