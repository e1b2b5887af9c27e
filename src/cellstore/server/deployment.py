"""One store and everything that serves it, wired.

    engine (one committer) ─┬─▶ runner: functions in workers, or in this process
                            └─▶ hub: live queries, sessions
                                   ▲
               connect(send, close, who)      a WebSocket, or a caller in the same process
               control(op, params, body, who) deploy, load, snapshots, SQL

Order:     `start` before anything else; everything on the loop that called it. `stop` may be called again.
Errors:    `start` raises StoreLocked, naming the holder, when another process has the store. After a FatalError the
           deployment stops itself; `failure` then says why, and calls come back as that error. Another may be started in its
           place: what is on the disk is true, and clients ask again for what they were not told.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cellstore.clock import Clock, SystemClock
from cellstore.errors import (
    CellstoreError,
    Corruption,
    FatalError,
    InvariantError,
    NotFound,
    Overloaded,
    StorageError,
)
from cellstore.knobs import DEFAULTS, Knobs
from cellstore.reactivity.connection import CloseSocket, Connection, Hub, SendFrame, VerifyToken, no_tokens
from cellstore.reactivity.principal import EMBEDDED, EVERYTHING, Principal
from cellstore.reactivity.result import Query
from cellstore.runtime.outcome import Outcome
from cellstore.server.changes import Changes
from cellstore.server.control import Answer, Control
from cellstore.server.system import SystemQueries, with_system
from cellstore.transaction import files

if TYPE_CHECKING:
    from cellstore.analytics.exports import Export
    from cellstore.runtime.log_stream import LogStream
    from cellstore.runtime.runner import HttpSend, Runner
    from cellstore.server.uploads import Uploads
    from cellstore.transaction.database import Engine
    from cellstore.web import Request

log = logging.getLogger(__name__)

DAY_NS = 86_400 * 10**9
REOPEN_AFTER_S = 5.0  # a disk that fails now and then is not asked in a rush
MEMORY = ":memory:"
ADMIN = Principal("admin", EVERYTHING, owner=True, internal=True)  # on whose behalf the deployment asks itself


class RisingClock:
    """A clock that never reads below what a client has already seen of this store."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._floor = clock, 0

    def now_ns(self) -> int:
        """Wall clock, or just above the newest timestamp observed."""
        return max(self._clock.now_ns(), self._floor)

    def observe(self, ts: int, who: Principal) -> str | None:
        """A client has seen `ts`. Returns why it cannot be served, when time would have to jump for it.

        A store put back from a copy is behind its clients; commits must not reuse timestamps they know. Strangers
        cannot move the clock.
        """
        ahead = ts - self._clock.now_ns()
        if ahead > DAY_NS:
            return "ClockAhead: this client has seen a timestamp more than a day ahead of the server"
        if ahead >= 0 and who.owner:
            self._floor = max(self._floor, ts + 1)
        return None


class Deployment:
    """A store at `path` (":memory:" for none), served from this process.

    `runner` is "pool" (user code in worker processes), "inline" (in this process, for scripts and tests), or makes one.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        runner: Literal["pool", "inline"] | Callable[[Engine], Runner] = "pool",
        name: str = "default",
        knobs: Knobs = DEFAULTS,
        clock: Clock | None = None,
        url: str = "",
    ) -> None:
        """`url`: where clients find it, if they do."""
        self.path, self.name, self.knobs, self.url = str(path), name, knobs, url
        self.failure: CellstoreError | None = None
        self.on_failed: Callable[[], None] = lambda: None  # it has stopped by itself: see `failure`
        self._kind = runner
        self._clock = RisingClock(clock or SystemClock())
        self._engine: Engine | None = None
        self._runner: Runner | None = None
        self._hub: Hub | None = None
        self._control: Control | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._failed_s = 0.0  # when, by the loop's clock
        self._upkeep: list[asyncio.Task[None]] = []
        self._export: tuple[str, Export] | None = None  # made for Convex's command line, which will fetch it

    # ── life ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Open the store, recover, start workers.

        Errors: StoreLocked naming who has it open; Corruption. Nothing is left open then.
        """
        self._engine = engine = self._open_engine()
        try:
            self._runner = runner = self._make_runner(engine)
            self.system = SystemQueries(engine, runner.functions, self.url)
            self._hub = Hub(
                with_system(runner, self.system),
                engine.published_ts,
                self.knobs,
                observe=self._clock.observe,
                on_fatal=self._fail,
            )
            engine.committer.listeners.append(self._hub.subscriptions.on_commit)
            runner.on_visible = self._hub.foresee
            self._control = Control(self.name, engine, runner, self._hub, self.path)
            await runner.start()
            self._control.clean_up()
            files.announce(engine, self.url)
            loop = asyncio.get_running_loop()
            self._upkeep = [loop.create_task(self._retain(engine)), loop.create_task(self._sweep(engine))]
        except BaseException as error:
            self.failure = error if isinstance(error, CellstoreError) else None
            await self.stop()
            raise

    async def stop(self) -> None:
        """Close every connection, end every run, close the store and give back its lease. Again is fine."""
        if self._stopping is not None and self._stopping is not asyncio.current_task():  # it has failed, and is at it
            await asyncio.wait([self._stopping])
        hub, runner, engine, control = self._hub, self._runner, self._engine, self._control
        self._hub = self._runner = self._engine = self._control = None
        upkeep, self._upkeep = self._upkeep, []
        for task in upkeep:
            task.cancel()
        await asyncio.gather(*upkeep, return_exceptions=True)
        if self._export is not None:
            self._export[1].close()
            self._export = None
        if hub is not None:
            await hub.close()
        if control is not None:
            await control.close()
        if runner is not None:
            await runner.stop()
        if engine is not None:
            engine.close()

    @property
    def running(self) -> bool:
        """Whether it serves."""
        return self._hub is not None

    @property
    def stands(self) -> bool:
        """Whether it serves, or tells why not. If neither, another may open the store: also some time after a disk failed."""
        if self.running or self.failure is None:
            return self.running
        if isinstance(self.failure, Corruption | InvariantError) or self._stopping is None or not self._stopping.done():
            return True
        return asyncio.get_running_loop().time() - self._failed_s < REOPEN_AFTER_S

    def check_running(self) -> None:
        """Errors: why it does not serve, Overloaded when that will pass."""
        self._serving()

    def activity(self) -> dict[str, int]:
        """What goes on: connections, and calls that run."""
        hub = self._hub
        return {} if hub is None else {"connections": len(hub.connections), "calls": hub.running_calls}

    # ── doors ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def connect(
        self, send: SendFrame, close: CloseSocket, who: Principal = EMBEDDED, verify: VerifyToken = no_tokens
    ) -> Connection:
        """A new connection of the sync protocol, let in as `who`.

        `send(frame)` puts one text frame (UTF-8 bytes) on the wire and returns False when it was only buffered; then
        `Connection.sent()` is called as it leaves. `close(code, reason)` ends the other side.
        Errors: Overloaded when the deployment is not running.
        """
        return self._serving().connect(send, close, who, verify)

    async def control(self, op: str, params: dict[str, Any], body: bytes = b"", who: Principal = EMBEDDED) -> Answer:
        """One control operation: (what JSON says, octets that go with it).

        Errors: NotFound for an unknown operation; Unauthenticated, Forbidden; the operation's own.
        """
        self._serving()
        assert self._control is not None
        return await self._control.run(op, params, body, who)

    async def query(self, path: str, args: dict[str, Any], who: Principal = EMBEDDED, ts: int | None = None) -> Outcome:
        """Ask once, at the newest moment or at `ts`."""
        return await self._serving().query(Query.of(path, args), who, ts)

    async def mutation(self, path: str, args: dict[str, Any], who: Principal = EMBEDDED) -> Outcome:
        """Run a mutation; durable when this returns with `ok`."""
        return await self._serving().mutation(path, args, who)

    async def action(self, path: str, args: dict[str, Any], who: Principal = EMBEDDED) -> Outcome:
        """Run an action."""
        return await self._serving().action(path, args, who)

    async def http(self, request: Request, who: Principal, send: HttpSend) -> Outcome:
        """Have the HTTP action of a route answer; see `Runner.http`."""
        return await self._serving().http(request, who, send)

    def has_route(self, method: str, path: str) -> bool:
        """Whether some HTTP action takes such a request."""
        self._serving()
        assert self._runner is not None
        return self._runner.has_route(method, path)

    def newest_ts(self) -> int:
        """The newest moment every connection can be shown."""
        return self._serving().subscriptions.catch_up()

    def changes(self) -> Changes:
        """The store as a stream."""
        self._serving()
        assert self._engine is not None
        return Changes(self._engine)

    def uploads(self) -> Uploads:
        """Files on their way into the store."""
        self._serving()
        assert self._control is not None
        return self._control.uploads

    def incoming(self, token: str, content_type: str | None) -> files.Incoming:
        """A file that comes to an upload address. Errors: ValidationError for a token that is none, or over, and for what
        is no content type."""
        self._serving()
        assert self._engine is not None
        with self._engine.begin() as transaction:
            files.check_token(transaction, token)
        return files.Incoming(self._engine.path, content_type)

    def keep_file(self, arrived: dict[str, Any]) -> str:
        """Make a finished file known; its id."""
        self._serving()
        assert self._engine is not None
        return self._engine.run(lambda tx: files.keep(tx, arrived), files.STORAGE)[0]

    def file(self, name: str) -> tuple[Path, dict[str, Any]]:
        """Where a file lies, and what is known of it. Errors: NotFound."""
        self._serving()
        assert self._engine is not None
        with self._engine.begin() as transaction:
            known = files.found(transaction, name)
        if known is None:
            raise NotFound("there is no such file, or no longer", kind="file", code="FileNotFound")
        return files.directory(self._engine.path) / name, known

    def logs(self) -> LogStream:
        """What functions said of late."""
        self._serving()
        assert self._runner is not None
        return self._runner.logs

    async def make_export(self, with_files: bool = False) -> None:
        """Make a snapshot as a ZIP file, in place of the one before. Errors: those of an export."""
        answer, export = await self.control("export", {"format": "zip", "files": with_files}, b"", ADMIN)
        assert not isinstance(export, bytes)
        ts = answer["ts"]
        earlier, self._export = self._export, (str(ts), export)
        if earlier is not None:
            earlier[1].close()
        self.system.exported({"state": "completed", "start_ts": ts, "complete_ts": ts, "zip_object_key": str(ts)})

    def take_export(self, ts: str) -> Export | None:
        """The snapshot made at `ts`; whoever takes it closes it, and it is gone then."""
        held = self._export
        if held is None or held[0] != ts:
            return None
        self._export = None
        return held[1]

    def functions(self) -> list[dict[str, Any]]:
        """Every deployed function."""
        self._serving()
        assert self._runner is not None
        return self._runner.functions()

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _serving(self) -> Hub:
        if self._hub is None:
            raise self.failure or Overloaded("the store is not open: it is starting or stopping; try again in a moment")
        return self._hub

    def _open_engine(self) -> Engine:
        from cellstore.transaction.database import Engine

        if self.path == MEMORY:
            return Engine.memory(clock=self._clock, knobs=self.knobs)
        Path(self.path).parent.mkdir(parents=True, exist_ok=True)
        return Engine.open(self.path, clock=self._clock, knobs=self.knobs)

    def _make_runner(self, engine: Engine) -> Runner:
        if callable(self._kind):
            return self._kind(engine)
        if self._kind == "inline":
            from cellstore.runtime.inline import InlineRunner

            return InlineRunner(engine)
        from cellstore.runtime.pool import PoolRunner

        return PoolRunner(engine, on_fatal=self._fail)

    async def _retain(self, engine: Engine) -> None:
        """Give up old history, a slice of a few milliseconds at a time, for as long as the store is open."""
        while True:
            try:
                wait_s = engine.retention.slice()
            except StorageError as error:
                log.warning("deployment %s could not give up old history: %s", self.name, error.message)
                wait_s = self.knobs.trim_pause_s
            except FatalError as stop:
                self._fail(stop)
                return
            await asyncio.sleep(wait_s)

    async def _sweep(self, engine: Engine) -> None:
        """Remove the bytes of files that were deleted, now and then, for as long as the store is open."""
        is_over = threading.Event()
        while True:
            sweeping = asyncio.ensure_future(asyncio.to_thread(files.sweep, engine, is_over.is_set))
            try:
                await asyncio.shield(sweeping)
            except asyncio.CancelledError:
                is_over.set()
                await asyncio.wait([sweeping])  # the store stays open until nobody reads it any more
                raise
            except (OSError, CellstoreError) as error:
                log.warning("deployment %s could not remove the bytes of deleted files: %s", self.name, error)
            await asyncio.sleep(files.SWEEP_S)

    def _fail(self, stop: FatalError) -> None:
        """The store must not be written any more: stop, and say why to whoever asks."""
        if self.failure is None:
            self.failure, self._failed_s = stop, asyncio.get_running_loop().time()
            log.critical("deployment %s stops: %s", self.name, stop.message)
            if self._hub is not None:
                self._hub.halt()
            self._stopping = asyncio.get_running_loop().create_task(self.stop())
            self._stopping.add_done_callback(lambda _: self.on_failed())


def has_functions(path: Path) -> bool:
    """Whether functions are deployed in the store at `path`, which nobody needs to serve. Errors: NotFound, StorageError."""
    from cellstore.transaction.worker_store import WorkerStore

    with closing(WorkerStore(path)) as store:
        return any(True for _ in store.begin().scan("_modules", "by_path"))
