"""What every runner does alike: what is deployed, what a running action may ask for, where the lines of a call go.

How a function is run is the runner's own business: `PoolRunner` in worker processes, `InlineRunner` in this one.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Sequence
from typing import Any

from cellstore.deploy.unit import Unit
from cellstore.runtime import files, variables
from cellstore.runtime.deploying import Deploying, taken_over_text
from cellstore.runtime.log_stream import LogStream
from cellstore.runtime.outcome import Identity, Outcome, cancelled
from cellstore.runtime.registry import Registry
from cellstore.runtime.runner import LogSink, OnVisible
from cellstore.runtime.scheduler import Scheduler, schedule
from cellstore.transaction.database import Engine


class Serving(ABC):
    """The part of a runner that does not depend on where functions run."""

    _loop: asyncio.AbstractEventLoop
    scheduler: Scheduler

    def __init__(self, engine: Engine, registry: Registry | None = None) -> None:
        self._engine = engine
        self._registry = registry or Registry()
        self._deploying = Deploying(engine, self._registry)
        self.logs = LogStream(engine.knobs, engine.path)
        self.on_visible: OnVisible | None = None

    @abstractmethod
    def query(
        self, path: str, args: dict[str, Any], *, identity: Identity | None = None, internal: bool = False
    ) -> Awaitable[Outcome]:
        """See `Runner.query`."""

    @abstractmethod
    def mutation(
        self,
        path: str,
        args: dict[str, Any],
        *,
        identity: Identity | None = None,
        internal: bool = False,
        parent: str | None = None,
    ) -> Awaitable[Outcome]:
        """See `Runner.mutation`. `parent`: the job of the action that asks."""

    @abstractmethod
    def action(
        self,
        path: str,
        args: dict[str, Any],
        *,
        identity: Identity | None = None,
        internal: bool = False,
        job: str | None = None,
    ) -> Awaitable[Outcome]:
        """See `Runner.action`. `job`: the scheduled job this is, or is part of."""

    @abstractmethod
    def _check_running(self) -> object:
        """Errors: Overloaded when the store is not open; FatalError when it must not be used any more."""

    @abstractmethod
    async def _try(self, unit: Unit) -> str | None:
        """Load `unit` without keeping it: what is wrong with it, if anything."""

    @abstractmethod
    def _install(self, module: str, units: list[Unit]) -> None:
        """Have the module consist of `units` before any later call."""

    async def deploy(self, unit: Unit) -> dict[str, Any]:
        """See `Runner.deploy`."""
        self._check_running()
        report = await self._deploying.deploy(unit, self._try, self._install)
        if "took_over" in report:
            self.logs.say("WARN", taken_over_text(report), unit.module)
        self.scheduler.plan_crons()
        return report

    async def drop(self, paths: Sequence[str]) -> dict[str, Any]:
        """See `Runner.drop`."""
        self._check_running()
        report = await self._deploying.drop(paths, self._install)
        self.scheduler.plan_crons()
        return report

    def has_route(self, method: str, path: str) -> bool:
        """See `Runner.has_route`."""
        return self._registry.has_route(method, path)

    def functions(self) -> list[dict[str, Any]]:
        """See `Runner.functions`."""
        return [each | self.logs.last_error(each["path"]) for each in self._registry.listing()]

    def _note_stopped(self, path: str, began_s: float, request_id: str) -> None:
        """An action that began then, by the loop's clock, was stopped by its caller."""
        self.logs.note("action", path, cancelled(path, self._loop.time() - began_s), request_id, said=True)

    async def _nested(
        self, kind: str, path: str, args: dict[str, Any], identity: Identity | None, job: str | None
    ) -> Outcome:
        """What a running action asks for."""
        match kind:
            case "query":
                return await self.query(path, args, identity=identity, internal=True)
            case "mutation":
                return await self.mutation(path, args, identity=identity, internal=True, parent=job)
            case "action":
                return await self.action(path, args, identity=identity, internal=True, job=job)
            case "storage":
                return files.answer(self._engine, path, args)
            case _:
                return schedule(self._engine, kind, path, args, job)

    def _variables(self) -> dict[str, str]:
        with self._engine.begin() as transaction:
            return variables.everything(transaction)

    def _sink(self, kind: str, path: str, on_log: LogSink | None) -> tuple[LogSink, str]:
        """Where the lines of an action go while it runs, and its request id."""
        request_id = self.logs.request_id()

        def sink(line: str) -> None:
            self.logs.line(kind, path, request_id, line)
            if on_log is not None:
                on_log(line)

        return sink, request_id
