"""The runner inside a user's own process: `cs.open(path)`, tests, scripts.

Functions run in one thread of this process, so mutations come one after another and an ordinary debugger stops in them.
Actions get threads of their own. A query or mutation that computes for too long is ended where it stands (`Watchdog`). What
else the worker processes give is missing here, on purpose, because it could not be confined to a function in a process that
belongs to somebody else: the clock is not frozen, chance is not seeded, I/O is not refused. Use `ctx.now` and `ctx.random`.

Order      start, calls, stop on one event loop; functions run off it, so the loop stays free
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from cellstore.deploy.unit import Unit
from cellstore.errors import CellstoreError, FatalError, Overloaded, TransientError
from cellstore.runtime import capture
from cellstore.runtime.action_worker import ActionRun, HttpRun, Reports, run_action
from cellstore.runtime.capture import LogLines
from cellstore.runtime.context import ActionContext, Report
from cellstore.runtime.execute import Call, Executor, replayed
from cellstore.runtime.loaded import Loaded, LoadedModules
from cellstore.runtime.outcome import Identity, Outcome
from cellstore.runtime.registry import Deployed, Registry
from cellstore.runtime.runner import HttpSend, LogSink, ProgressSink
from cellstore.runtime.scheduler import Scheduler
from cellstore.runtime.serving import Serving
from cellstore.runtime.watchdog import LOOK_EVERY_S, Watchdog
from cellstore.transaction.bulk import parts_of
from cellstore.transaction.database import Engine
from cellstore.transaction.requests import Committed, Replayed
from cellstore.web import Head, Request

_RETRIES_MAX = 100


def _nobody(_done: float, _total: float | None, _note: str) -> None:
    """Hears how far an action is when nobody asked."""


class InlineRunner(Serving):
    """Runs functions in this process. See `Runner` for what each method promises."""

    scheduler_class: type[Scheduler] = Scheduler

    def __init__(
        self, engine: Engine, *, modules: LoadedModules | None = None, registry: Registry | None = None
    ) -> None:
        super().__init__(engine, registry)
        self._modules = modules or LoadedModules()
        self._watchdog = Watchdog(self._modules, engine.knobs)
        self._executor = Executor(self._modules, self._watchdog, engine.knobs, os.urandom, self._stored, engine.path)
        self._running = 0  # calls in the functions' thread or waiting for it
        self._looking: asyncio.TimerHandle | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._actions: set[asyncio.Task[Outcome]] = set()

    async def start(self) -> None:
        """Load the deployed functions."""
        self._loop = asyncio.get_running_loop()
        self.logs.start()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cellstore-functions")
        for module, units in self._deploying.stored_modules().items():
            self._install(module, units)
        self.scheduler = self.scheduler_class(self._engine, self._registry, self)
        self.scheduler.start()

    async def stop(self) -> None:
        """End the scheduler; the running function comes to its end, those that wait do not begin."""
        if self._thread is None:
            return
        await self.scheduler.stop()
        for task in list(self._actions):
            task.cancel()
        await asyncio.gather(*self._actions, return_exceptions=True)
        thread, self._thread = self._thread, None
        await asyncio.to_thread(thread.shutdown, cancel_futures=True)
        self.logs.stop()

    # Calls

    async def query(
        self,
        path: str,
        args: dict[str, Any],
        *,
        identity: Identity | None = None,
        ts: int | None = None,
        journal: str | None = None,
        internal: bool = False,
    ) -> Outcome:
        """See `Runner.query`."""

        def work(function: Deployed) -> Outcome:
            call = Call(0, "query", function.path, args, identity, ts, journal)
            with self._engine.begin(ts) as transaction, capture.installed():
                return self._executor.query(call, transaction, self._engine.clock.now_ns())

        return await self._in_thread(path, "query", internal, work)

    async def mutation(
        self,
        path: str,
        args: dict[str, Any],
        *,
        identity: Identity | None = None,
        request: tuple[str, int] | None = None,
        internal: bool = False,
        job: str | None = None,
        parent: str | None = None,
    ) -> Outcome:
        """See `Runner.mutation`."""

        def work(function: Deployed) -> Outcome:
            call = Call(0, "mutation", function.path, args, identity, request=request, job=job, parent=parent)
            refusal = TransientError()
            for _ in range(_RETRIES_MAX):
                outcome = self._attempt(call)
                if isinstance(outcome, Outcome):
                    return outcome
                refusal = outcome
            return Outcome.failed(refusal, function=function.path)

        return await self._in_thread(path, "mutation", internal, work)

    def _attempt(self, call: Call) -> Outcome | TransientError:
        with self._engine.begin(told_by_commit=True) as transaction, capture.installed():
            ran = self._executor.mutation(call, transaction, self._engine.clock.now_ns())
        if ran.commit is None:
            self._engine.commit([])  # nobody hears of what it saw before that lasts
            return ran.outcome
        [result] = self._engine.commit([ran.commit])
        match result:
            case Committed():
                ran.outcome.ts = result.ts
                return ran.outcome
            case Replayed():
                return replayed(result.result, result.ts)
            case TransientError():
                return result
            case _:
                return Outcome.failed(result, function=call.path)

    async def action(
        self,
        path: str,
        args: dict[str, Any],
        *,
        identity: Identity | None = None,
        on_log: LogSink | None = None,
        on_progress: ProgressSink | None = None,
        internal: bool = False,
        job: str | None = None,
    ) -> Outcome:
        """See `Runner.action`. Runs in a thread; an `async def` action on a loop of its own there."""
        self._check_running()
        try:
            function = self._registry.find(path, "action", internal=internal)
            loaded = self._modules.find(function.path)
        except CellstoreError as error:
            return self.logs.note("action", path, Outcome.failed(error, function=path))
        lines, request_id = self._lines("action", function.path, on_log)
        report = Reports(functools.partial(self._tell, on_progress)) if on_progress is not None else _nobody
        context = self._action_context(loaded, identity, job, report)
        began = self._loop.time()
        try:
            outcome = await self._run_action(ActionRun(loaded, args, context, lines))
        except asyncio.CancelledError:
            self._note_stopped(function.path, began, request_id)
            raise
        outcome.ts = self._engine.published_ts
        return self.logs.note("action", function.path, outcome, request_id, said=True)

    async def http(self, request: Request, *, identity: Identity | None = None, send: HttpSend) -> Outcome:
        """See `Runner.http`."""
        self._check_running()
        try:
            loaded = self._modules.find(self._registry.route(request.method, request.path).path, "http")
        except CellstoreError as error:
            return Outcome.failed(error)
        lines, request_id = self._lines("http", loaded.path, None)
        context = self._action_context(loaded, identity)

        async def over(piece: Head | bytes) -> None:
            await send(piece)

        limit = self._engine.knobs.http_body_bytes
        outcome = await self._run_action(HttpRun(loaded, request, context, lines, over, limit))
        return self.logs.note("http", loaded.path, outcome, request_id, said=True)

    def _now_ms(self) -> float:
        return self._engine.clock.now_ns() / 1e6

    def _lines(self, kind: str, path: str, on_log: LogSink | None) -> tuple[LogLines, str]:
        """Where an action writes, from its thread, and its request id."""
        sink, request_id = self._sink(kind, path, on_log)
        return LogLines(self._engine.knobs, functools.partial(self._tell, sink), self._modules.cells), request_id

    async def _run_action(self, run: ActionRun) -> Outcome:
        """An action in a thread of its own. One that never ends does not hold up the end of the process."""
        with capture.installed():
            task = asyncio.ensure_future(run_action(run, self._modules, self._engine.knobs))
            self._actions.add(task)
            task.add_done_callback(self._actions.discard)
            try:
                return await asyncio.shield(task)
            except asyncio.CancelledError:
                run.cancel()
                raise

    def _tell(self, sink: Callable[..., None], *words: Any) -> None:
        self._loop.call_soon_threadsafe(sink, *words)

    def _action_context(
        self, loaded: Loaded, identity: Identity | None, job: str | None = None, report: Report = _nobody
    ) -> ActionContext:
        engine, env = self._engine, self._variables()
        ask = self._asker(identity, job)
        return ActionContext(loaded, identity, ask, self._now_ms, report, env, engine.path, engine.knobs)

    def _asker(
        self, identity: Identity | None, job: str | None = None
    ) -> Callable[[str, str, dict[str, Any]], Future[Outcome]]:
        def ask(kind: str, path: str, args: dict[str, Any]) -> Future[Outcome]:
            args = self._modules.asked(kind, path, args)
            return asyncio.run_coroutine_threadsafe(self._nested(kind, path, args, identity, job), self._loop)

        return ask

    async def bulk(self, table: str, ndjson: bytes) -> tuple[int, int]:
        """See `Runner.bulk`."""
        thread = self._check_running()
        count, ts = 0, self._engine.published_ts
        for part in parts_of(self._engine.catalog, table, ndjson):
            try:
                inserted, ts = await self._loop.run_in_executor(thread, self._engine.bulk_insert, table, part, count)
            except CellstoreError as error:
                error.inserted = count
                raise
            count += inserted
        return count, ts

    # Deploying

    async def _try(self, unit: Unit) -> str | None:
        try:
            LoadedModules().install(unit)
        except Exception as error:  # noqa: BLE001 — module code may raise anything; the deployer is told
            from cellstore.runtime.traces import user_traceback

            return user_traceback(error, unit.sources.__contains__, unit.cells)
        return None

    def _install(self, module: str, units: list[Unit]) -> None:
        before = self._registry.units.get(module, [])
        self._registry.install(module, units)
        for unit in before:
            if not any(unit is each for each in units):
                self._modules.forget(unit.key)
        for unit in units:
            if not any(unit is each for each in before):
                self._modules.install(unit)

    # Inside

    def _check_running(self) -> ThreadPoolExecutor:
        if self._thread is None:
            raise Overloaded("the store is not open", queue="runner")
        return self._thread

    def _stored(self, session: str, request: int) -> bytes | None:
        return self._engine.request(session, request)

    async def _watched(self, running: asyncio.Future[Outcome]) -> Outcome:
        """The outcome of a call; while there are any, somebody looks whether the one that runs comes to an end."""
        self._running += 1
        if self._looking is None:
            self._looking = self._loop.call_later(LOOK_EVERY_S, self._look)
        try:
            return await running
        finally:
            self._running -= 1

    def _look(self) -> None:
        runs = self._watchdog.look() or self._running  # a call outlives a caller that was cancelled
        self._looking = self._loop.call_later(LOOK_EVERY_S, self._look) if runs else None

    async def _in_thread(self, path: str, kind: str, internal: bool, work: Callable[[Deployed], Outcome]) -> Outcome:
        thread = self._check_running()
        try:
            function = self._registry.find(path, kind, internal=internal)
            outcome = await self._watched(self._loop.run_in_executor(thread, work, function))
            return self.logs.note(kind, function.path, outcome)
        except FatalError:
            raise
        except CellstoreError as error:
            return self.logs.note(kind, path, Outcome.failed(error, function=path))
