"""A store for one test: in memory, functions in this process, time and callers as the test says.

    with StoreUnderTest() as store:
        remind(text="milk", minutes=10)            decorated functions run on it, the very objects: no copies, so that
        store.clock.advance(minutes=10)            monkeypatch, breakpoints and coverage work
        with store.signed_in("ann"):
            assert mine() == []

It is a `Database`, so everything else is there as well: subscribe, snapshot, sql, insert_df.

Time       stands at `store.clock.now` until it is moved (each commit takes a microsecond, so that documents keep their
           order); `ctx.now`, `_creationTime` and schedules go by it. Jobs
           and crons run when it is moved over them, one moment after another, or by `run_jobs`, never by themselves.
           `time.time()` is the machine's: functions that ask it are refused by a server, not here
Cost       some milliseconds a store
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json as plain_json
import math
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from cellstore.client.connect import make_current
from cellstore.client.database import Database
from cellstore.client.embedded import EmbeddedLink
from cellstore.client.loop import LoopThread
from cellstore.client.shipping import Shipper
from cellstore.client.wire import Kind, Outcome, read_failure
from cellstore.deploy.load import adapted_to
from cellstore.deploy.unit import Unit
from cellstore.errors import LimitExceeded
from cellstore.functions import Function
from cellstore.functions import registry as defined
from cellstore.reactivity.principal import EMBEDDED, EVERYTHING, Principal, identity_of
from cellstore.reactivity.result import plain
from cellstore.runtime.inline import InlineRunner
from cellstore.runtime.loaded import Loaded, LoadedModules
from cellstore.runtime.registry import Deployed, Registry, canonical
from cellstore.runtime.scheduler import Scheduler
from cellstore.schema.types import validator
from cellstore.server.deployment import MEMORY, Deployment
from cellstore.testing.clock import FakeClock
from cellstore.values.document import documents
from cellstore.values.json import loads
from cellstore.web import Head, Request, Response

if TYPE_CHECKING:
    from cellstore.transaction.database import Engine

COMMIT_NS = 1000
_JOBS_MAX = 10_000  # at one moment; a job that schedules itself at once would go on for ever
_loaded: weakref.WeakKeyDictionary[Any, Loaded] = weakref.WeakKeyDictionary()


class TestClock:
    """The store's clock. Moving it forward runs what is due on the way, each at its own moment."""

    __test__ = False  # pytest: not a class of tests

    def __init__(self, store: StoreUnderTest, clock: FakeClock) -> None:
        self._store, self._clock = store, clock

    def __repr__(self) -> str:
        return f"<clock at {self.now:%Y-%m-%d %H:%M:%S.%f} UTC>"

    @property
    def now(self) -> dt.datetime:
        """What it shows, in UTC."""
        return dt.datetime.fromtimestamp(self._clock.now_ns() / 1e9, dt.UTC)

    def advance(self, by: dt.timedelta | float = 0, /, **units: float) -> None:
        """Go forward: `advance(30)` seconds, `advance(hours=2)`, `advance(timedelta(days=1))`."""
        span = by if isinstance(by, dt.timedelta) else dt.timedelta(seconds=by)
        span += dt.timedelta(**units)
        self._store.drive(self._clock.now_ns() + span // dt.timedelta(microseconds=1) * 1000)

    def set(self, when: dt.datetime) -> None:
        """Go to an aware moment; back is possible, and runs nothing, as when a real clock is set back."""
        until_ns = round(when.timestamp() * 1e9)
        if until_ns < self._clock.now_ns():
            self._clock.move(until_ns - self._clock.now_ns())
        else:
            self._store.drive(until_ns)

    def sleep_until(self, when: dt.datetime) -> None:
        """Be away until then: nothing runs on the way, as with a machine that slept; afterwards what is due."""
        until_ns = round(when.timestamp() * 1e9)
        self._clock.move(until_ns - self._clock.now_ns())
        self._store.run_jobs()


class Fetched:
    """What an HTTP action answered."""

    def __init__(self, head: Head, body: bytes) -> None:
        self.status, self.body = head.status, body
        self.headers = Response(None, headers=head.fields).headers

    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    def json(self) -> Any:
        """The body as JSON."""
        return plain_json.loads(self.body)

    def __repr__(self) -> str:
        kind = self.headers.get("Content-Type", "").partition(";")[0]
        shown = self.body[:200].decode("utf-8", "replace") + (" …" if len(self.body) > 200 else "")
        return f"<{self.status}{f' {kind}' if kind else ''}, {len(self.body)} bytes: {shown}>"


class StoreUnderTest(Database):
    """A fresh store; the current database until it is closed."""

    def __init__(self) -> None:
        self._fake = FakeClock()
        self.clock = TestClock(self, self._fake)
        self._who: Principal = EMBEDDED
        self._thread = LoopThread("cellstore-test")
        self._deployment = Deployment(MEMORY, runner=self._make_runner, clock=self._fake)
        self._thread.run(self._deployment.start())
        link = EmbeddedLink(self._thread, self._deployment)
        super().__init__(link, self._carry_out, where=MEMORY, rung="test", on_close=self._end)
        self._shipper = DirectShipper(self._deploy_unit)
        make_current(self)

    def _make_runner(self, engine: Engine) -> DirectRunner:
        self._runner = DirectRunner(engine)
        engine.committer.listeners.append(lambda _commits: self._fake.move(COMMIT_NS))
        return self._runner

    def _end(self) -> None:
        if self._thread.is_usable:
            self.link.close()
            try:
                self._thread.run(self._deployment.stop(), 30)
            finally:
                self._thread.stop()

    # time

    def run_jobs(self) -> None:
        """Run every job that is due now, and those they schedule for now."""
        self.drive(self._fake.now_ns())

    def drive(self, until_ns: int) -> None:
        """Move the clock from one due job to the next, up to `until_ns`."""
        scheduler = self._runner.scheduler
        assert isinstance(scheduler, DrivenScheduler)
        self._thread.run(scheduler.drive(self._fake, until_ns))

    def jobs(self, state: str | None = None) -> list[dict[str, Any]]:
        """Scheduled functions, by due time: name, args, scheduledTime, state, result; of one `state` if given."""
        rows: list[dict[str, Any]] = documents(loads(self._thread.run(self._runner.job_rows())))
        return [row for row in rows if state is None or row["state"]["kind"] == state]

    # callers

    @contextmanager
    def signed_in(self, subject: str, name: str = "", **claims: Any) -> Iterator[None]:
        """Calls inside come from this user: `ctx.auth.identity()["subject"]` is `subject`."""
        before = self._who
        identity = {**identity_of("https://test.example", subject, name), **claims}
        self._who = Principal("user", EVERYTHING, identity, owner=True)
        try:
            yield
        finally:
            self._who = before

    def fetch(
        self, method: str, url: str, body: bytes = b"", *, json: Any = None, headers: Mapping[str, str] | None = None
    ) -> Fetched:
        """Ask an HTTP action: `store.fetch("POST", "/hook", json={…})`. Errors: NotFound; what the action raised."""
        fields = dict(headers or {})
        if json is not None:
            body, fields = plain_json.dumps(json).encode(), {"Content-Type": "application/json", **fields}
        return self._thread.run(self._fetch(Request(method, url, fields, body)))

    async def _fetch(self, request: Request) -> Fetched:
        heads: list[Head] = []
        pieces: list[bytes] = []

        async def send(piece: Head | bytes) -> None:
            (heads if isinstance(piece, Head) else pieces).append(piece)  # type: ignore[arg-type]

        self._runner.adopt_everything()
        outcome = await self._deployment.http(request, self._who, send)
        if outcome.error is not None:
            raise outcome.error.to_exception()
        return Fetched(heads[0], b"".join(pieces))

    # what a database does, by way of the present caller

    def _carry_out(
        self, op: str, params: dict[str, Any], body: bytes = b"", *, sink: IO[bytes] | None = None
    ) -> tuple[dict[str, Any], bytes]:
        answer, octets = self._thread.run(self._deployment.control(op, params, body, self._who))
        data = octets if isinstance(octets, bytes) else octets.read(-1)
        if sink is None:
            return answer, data
        sink.write(data)
        return answer, b""

    def _request(self, kind: Kind, path: str, args: dict[str, Any]) -> Any:
        if self._who is EMBEDDED:
            return super()._request(kind, path, args)
        self._check_open()
        run = self._deployment.mutation if kind == "mutation" else self._deployment.action
        outcome = self._thread.run(run(path, args, self._who))
        failure = None if outcome.error is None else read_failure(plain(outcome.error))
        value = None if failure is not None else loads(outcome.value)
        return self._value(path, Outcome(value, failure, tuple(outcome.logs), outcome.ts))


class DirectShipper(Shipper):
    """Tells the store which functions there are; nothing is packed."""

    def ship(self, module: str, handles: list[Any], tables: list[Any]) -> dict[str, Any] | None:
        """Deploy the definitions alone."""
        with self._lock:
            return self._deploy(unit_of(module, handles, tables))


def unit_of(module: str, handles: list[Any], tables: list[Any]) -> Unit:
    """A module's definitions, without its code."""
    return Unit(
        module=module,
        functions=[handle.spec for handle in handles],
        tables=list(tables),
        crons=[{"path": handle.path, **cron} for handle in handles for cron in handle.crons],
        sources={handle.spec.file: "" for handle in handles},
        hashes={handle.name: f"{id(handle.fn):x}" for handle in handles},
        cwd=str(Path.cwd()),
    )


class DirectModules(LoadedModules):
    """Functions as they stand in this process, looked up where they were defined."""

    def install(self, unit: Unit) -> None:
        """Take the handles of the module."""
        self.forget(unit.key)
        self._units[unit.key] = unit
        for handle in defined.handles(unit.module):
            assert isinstance(handle, Function)
            self._functions[handle.path] = loaded_from(handle)
        self._learn_files()

    def find(self, path: str, kind: str | None = None) -> Loaded:
        """As ever; a function of a module nobody has deployed yet is found as well."""
        handle = defined.find(canonical(path))
        if canonical(path) not in self._functions and isinstance(handle, Function):
            self._functions[handle.path] = loaded_from(handle)
        return super().find(path, kind)


def loaded_from(handle: Function[..., Any]) -> Loaded:
    """A handle as what can be called, with its checks; made once, they cost most of a store."""
    loaded = _loaded.get(handle)
    if loaded is None:
        spec = handle.spec
        loaded = _loaded[handle] = Loaded(
            path=spec.path,
            kind=spec.kind,
            module=handle.module,
            unit=Unit(module=handle.module).key,
            fn=adapted_to(handle.fn, handle.hints),
            is_async=asyncio.iscoroutinefunction(handle.fn),
            spec=spec,
            check_args=validator(spec.args, "argument").check,
            check_result=None if spec.returns is None else validator(spec.returns).check,
        )
    return loaded


class DirectRegistry(Registry):
    """Also knows what was defined and not deployed: a job may name a function of a module no test has called."""

    def find(self, path: str, kind: str | None = None, *, internal: bool = True) -> Deployed:
        """As ever; a module nobody has deployed yet is taken in."""
        handle = defined.find(canonical(path))
        if canonical(path) not in self._functions and handle is not None:
            self.adopt(handle.module)
        return super().find(path, kind, internal=internal)

    def adopt(self, module: str) -> None:
        """Take in the functions of a module, without its tables and crons."""
        unit = unit_of(module, list(defined.handles(module)), [])
        units = dict(self.units)
        self.install(module, [unit])
        self.units = units


class DirectRunner(InlineRunner):
    """An inline runner of the very functions."""

    def __init__(self, engine: Engine) -> None:
        self.scheduler_class = DrivenScheduler
        self._engine_of = engine
        super().__init__(engine, modules=DirectModules(), registry=DirectRegistry())

    async def _try(self, _unit: Unit) -> str | None:
        return None  # they are loaded already

    def adopt_everything(self) -> None:
        """Know every function that was defined: a route is found by looking at all."""
        assert isinstance(self._registry, DirectRegistry)
        for module in defined.modules():
            if not any(function.module == module for function in self._registry.all()):
                self._registry.adopt(module)

    async def job_rows(self) -> bytes:
        """Every row of `_scheduled_functions`, by due time, as native JSON."""
        from cellstore.runtime.jobs import TABLE
        from cellstore.values.json import dumps

        with self._engine_of.begin() as transaction:
            rows = [dict(row) for _, row in transaction.scan(TABLE, "by_state")]
        return dumps(sorted(rows, key=lambda row: row["scheduledTime"]))


class DrivenScheduler(Scheduler):
    """Runs jobs when it is told."""

    async def _run(self) -> None:
        await asyncio.Event().wait()

    async def drive(self, clock: FakeClock, until_ns: int) -> None:
        """Move `clock` from due job to due job up to `until_ns`. Errors: LimitExceeded for jobs that never end."""
        for _ in range(_JOBS_MAX):
            await self._settle()
            due_ms = self.next_due_ms
            due_ns = until_ns + 1 if due_ms is None else math.ceil(due_ms * 1e6) + 1000
            if due_ns > until_ns:
                break
            clock.move(max(0, due_ns - clock.now_ns()))
        clock.move(max(0, until_ns - clock.now_ns()))
        await self._settle()

    async def _settle(self) -> None:
        await asyncio.sleep(0)
        for _ in range(_JOBS_MAX):
            if not self.begin_due():
                return
            if self._running:
                await asyncio.wait(set(self._running), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(0)  # what they committed is heard of
            await asyncio.sleep(0)
        raise LimitExceeded(f"{_JOBS_MAX:,} jobs ran at one moment and more are due: does one schedule itself at once?")
