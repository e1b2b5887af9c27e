"""The runner of a server: user functions in worker processes, commits here.

    caller ─▶ team ─▶ worker ─▶ arrived ─┐ everything that arrived in this turn of the loop
                                         └─▶ committer.commit(batch): one fsync ─▶ answers, conflicts run again

Commits are made inline, on the loop: a thread would cost more in handing over than the fsync takes. Mutations of one
lane arrive in the order they ran, and nothing of a turn is answered before its commits are durable, errors included:
what a function saw in the lane counts only once it has happened.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from cellstore.deploy.unit import Unit
from cellstore.errors import (
    CellstoreError,
    ConflictError,
    FatalError,
    LimitExceeded,
    NotFound,
    Overloaded,
    TransientError,
)
from cellstore.knobs import DEFAULTS
from cellstore.runtime import calls
from cellstore.runtime.actions import ActionTeam
from cellstore.runtime.calls import Message
from cellstore.runtime.outcome import Identity, Outcome
from cellstore.runtime.pending import Pending
from cellstore.runtime.process import Link
from cellstore.runtime.registry import Deployed, Environment
from cellstore.runtime.runner import HttpSend, LogSink, ProgressSink
from cellstore.runtime.scheduler import Scheduler
from cellstore.runtime.serving import Serving
from cellstore.runtime.spawning import Spawner
from cellstore.runtime.team import Team, Tenancy
from cellstore.transaction.database import Engine
from cellstore.transaction.requests import CommitRequest, CommitResult, Committed, Replayed
from cellstore.values.json import dumps
from cellstore.values.value import check_value
from cellstore.web import Request

_WATCH_S = 0.05
_JOIN_S = 2.0
_RETRIES_MAX = 100  # of one call; a bound against a livelock nobody has seen

_Item = tuple[Pending, Tenancy | None, list[Any] | None, CommitRequest | None]


class PoolRunner(Serving):
    """Runs functions in worker processes that read the store's file by themselves.

    Order      start, calls, stop; all on one event loop
    Errors     FatalError from the committer ends the runner: every call from then on has that outcome
    """

    def __init__(self, engine: Engine, *, on_fatal: Callable[[FatalError], None] | None = None) -> None:
        super().__init__(engine)
        self._knobs = engine.knobs
        self._on_fatal = on_fatal
        self._fatal: FatalError | None = None
        self._teams: dict[Environment, Team] = {}
        self._actions: dict[Environment, ActionTeam] = {}
        self._arrived: list[_Item] = []
        self._turn_planned = False
        self._numbers = itertools.count(1)
        self._requests: dict[tuple[str, int], Pending] = {}  # of clients: the mutations that are under way
        self._trying: dict[int, asyncio.Future[Any]] = {}  # by link: a worker that tries a unit
        self._spawner = Spawner(forks=engine.knobs.workers_are_forked)
        self._watching: asyncio.TimerHandle | None = None
        self._leaving: list[Link] = []  # told to go when the store failed, not joined yet
        self._running = False

    # Life

    async def start(self) -> None:
        """Load the deployed functions and have workers ready for them."""
        self._loop = asyncio.get_running_loop()
        self.logs.start()
        self._running = True
        for module, units in self._deploying.stored_modules().items():
            self._install(module, units)
        for environment in self._registry.environments() or {self._default_environment()}:
            self._team(environment).start(self._knobs.workers_min)
        self._watch()
        self.scheduler = Scheduler(self._engine, self._registry, self)
        self.scheduler.start()

    async def stop(self) -> None:
        """End the scheduler and every process; unanswered calls get an error."""
        if not self._running:
            return
        self._running = False
        await self.scheduler.stop()
        if self._watching is not None:
            self._watching.cancel()
        links = self._leaving + [worker.link for team in self._teams.values() for worker in team.stop()]
        links += [link for team in self._actions.values() for link in team.stop()]
        deadline = time.monotonic() + _JOIN_S
        for link in links:
            link.join(max(0.0, deadline - time.monotonic()))
        self._spawner.stop()
        self.logs.stop()

    def _default_environment(self) -> Environment:
        return sys.executable, str(Path.cwd())

    def _settings(self) -> dict[str, Any]:
        return {"store": self._engine.path, "role": "calls", "knobs": dataclasses.asdict(self._knobs)}

    def _team(self, environment: Environment) -> Team:
        team = self._teams.get(environment)
        if team is None:
            team = self._teams[environment] = Team(
                environment,
                self._knobs,
                self._settings(),
                self._on_arrived,
                self._on_tried,
                lambda: self._engine.published_ts,
                self._numbers.__next__,
                self._spawner.spawn,
            )
        return team

    def _action_team(self, environment: Environment) -> ActionTeam:
        team = self._actions.get(environment)
        if team is None:
            team = self._actions[environment] = ActionTeam(
                environment, self._knobs, self._settings(), self._nested, self._spawner.spawn, self._variables
            )
            team.units.update(self._team(environment).units)
        return team

    def _watch(self) -> None:
        now = time.monotonic()
        for team in self._teams.values():
            team.watch(now)
        self._watching = self._loop.call_later(_WATCH_S, self._watch)

    # Calls

    def query(
        self,
        path: str,
        args: dict[str, Any],
        *,
        identity: Identity | None = None,
        ts: int | None = None,
        journal: str | None = None,
        internal: bool = False,
    ) -> Awaitable[Outcome]:
        """See `Runner.query`."""
        call = Pending("query", path, b"", self._loop.create_future(), identity, ts, journal)
        if ts is None:
            return self._until_lasting(call, args, internal)
        call.on_outcome = self._query_ended
        self._begin(call, args, internal)
        return call.answer

    async def _until_lasting(self, call: Pending, args: dict[str, Any], internal: bool) -> Outcome:
        """What asks for the newest moment is asked again when that moment was gone before it could be read."""
        for attempt in range(_RETRIES_MAX):
            if attempt:
                await asyncio.sleep(min(attempt - 1, 20) / 1000)  # a commit is on its way to the disk
            call.ts = self._engine.published_ts  # a worker may see more, which may not last
            self._begin(call, args, internal)
            outcome = await call.answer
            if outcome.ok or not _lost_its_moment(outcome):
                break
            call.answer = self._loop.create_future()
        return self.logs.note("query", call.path, outcome)

    def _begin(self, call: Pending, args: dict[str, Any], internal: bool) -> None:
        """Send a call on its way; one that may not go is answered at once."""
        try:
            function, call.args = self._accept(call.path, args, call.kind, internal)
        except FatalError as stop:
            call.fail(stop)
        except CellstoreError as error:
            call.resolve(Outcome.failed(error, function=call.path))
        else:
            call.path = function.path
            if call.request is not None:
                self._requests[call.request] = call
            self._submit(function.environment, call)

    def _query_ended(self, call: Pending, outcome: Outcome) -> None:
        self.logs.note("query", call.path, outcome)

    def mutation(
        self,
        path: str,
        args: dict[str, Any],
        *,
        identity: Identity | None = None,
        request: tuple[str, int] | None = None,
        internal: bool = False,
        job: str | None = None,
        parent: str | None = None,
    ) -> asyncio.Future[Outcome]:
        """See `Runner.mutation`. `job`: the scheduled job this run completes; `parent`: that of the action that asks."""
        earlier = None if request is None else self._requests.get(request)
        if earlier is not None:  # sent again while the first is still on its way
            return asyncio.shield(earlier.answer)
        call = Pending("mutation", path, b"", self._loop.create_future(), identity, request=request, job=job)
        call.parent, call.on_outcome = parent, self._mutation_ended
        self._begin(call, args, internal)
        return call.answer

    def _mutation_ended(self, call: Pending, outcome: Outcome) -> None:
        if call.request is not None:
            self._requests.pop(call.request, None)
        self.logs.note("mutation", call.path, outcome)

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
        """See `Runner.action`. `job`: the scheduled job this is, or is part of."""
        try:
            function, text = self._accept(path, args, "action", internal)
        except FatalError:
            raise
        except CellstoreError as error:
            return self._refused("action", path, error)
        sink, request_id = self._sink("action", function.path, on_log)
        team = self._action_team(function.environment)
        began = self._loop.time()
        try:
            outcome = await team.run(function.path, text, identity, sink, on_progress, job)
        except asyncio.CancelledError:
            self._note_stopped(function.path, began, request_id)
            raise
        outcome.ts = self._engine.published_ts
        return self.logs.note("action", function.path, outcome, request_id, said=True)

    async def http(self, request: Request, *, identity: Identity | None = None, send: HttpSend) -> Outcome:
        """See `Runner.http`."""
        self._check_running()
        try:
            function = self._registry.route(request.method, request.path)
        except NotFound as error:
            return Outcome.failed(error)
        sink, request_id = self._sink("http", function.path, None)
        team = self._action_team(function.environment)
        outcome = await team.http(function.path, request, identity, sink, send)
        return self.logs.note("http", function.path, outcome, request_id, said=True)

    def _refused(self, kind: str, path: str, error: CellstoreError) -> Outcome:
        return self.logs.note(kind, path, Outcome.failed(error, function=path))

    async def bulk(self, table: str, ndjson: bytes) -> tuple[int, int]:
        """See `Runner.bulk`."""
        self._check_running()
        environment = next(iter(self._teams), self._default_environment())
        call = Pending("bulk", table, ndjson, self._loop.create_future())
        outcome = await self._submit(environment, call)
        if not outcome.ok:
            assert outcome.error is not None
            refusal = outcome.error.to_exception()
            refusal.inserted = call.inserted
            raise refusal
        return int(outcome.value), outcome.ts

    def find(self, path: str) -> Deployed:
        """The deployed function at `path`. Errors: NotFound."""
        return self._registry.find(path)

    def _accept(self, path: str, args: dict[str, Any], kind: str, internal: bool) -> tuple[Deployed, bytes]:
        self._check_running()
        function = self._registry.find(path, kind, internal=internal)
        text = dumps(args)
        size, most, depth = len(text), self._knobs.arguments_size_bytes, self._knobs.value_depth_max
        if size > most or depth < DEFAULTS.value_depth_max:  # which workers see to
            check_value(args, depth_max=depth)
        if size > most:
            problem = f"the arguments are {size:,} bytes, and a call takes {most:,} at most (knob arguments_size_bytes)"
            raise LimitExceeded(problem, knob="arguments_size_bytes", limit=most, used=size)
        return function, text

    def _check_running(self) -> None:
        if self._fatal is not None:
            raise self._fatal
        if not self._running:
            raise Overloaded("the store is not open", queue="runner")

    def _submit(self, environment: Environment, call: Pending) -> asyncio.Future[Outcome]:
        team = self._team(environment)
        if team.queued >= self._knobs.queued_calls_max:
            call.resolve(
                Outcome.failed(
                    Overloaded(f"{team.queued:,} calls are waiting for a worker (knob queued_calls_max)", queue="calls")
                )
            )
        else:
            call.team = team
            team.submit(call)
        return call.answer

    # A turn of the loop

    def _on_arrived(
        self, call: Pending, tenancy: Tenancy | None, outcome: list[Any] | None, commit: list[Any] | None
    ) -> None:
        if call.kind == "query" and outcome is not None:  # nothing to wait for
            call.resolve(calls.outcome_from_wire(outcome))
            return
        request = None if commit is None else CommitRequest.from_wire(commit)
        if tenancy is not None and request is not None and request.lane is not None:
            tenancy.arrive(request.lane.position)
        self._arrived.append((call, tenancy, outcome, request))
        self._plan_turn()

    def _plan_turn(self) -> None:
        if not self._turn_planned:
            self._turn_planned = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Commit everything that arrived, then answer, in order."""
        self._turn_planned = False
        arrived, self._arrived = _one_part_each(self._arrived)
        if self._arrived:
            self._plan_turn()
        batch = [item for item in arrived if item[3] is not None and not (item[1] is not None and item[1].broken)]
        try:
            results = self._commit([item[3] for item in batch if item[3] is not None])
        except FatalError as error:
            self._fail(error, arrived)
            return
        fates = {id(item[0]): result for item, result in zip(batch, results, strict=True)}
        again = [item[0] for item in arrived if not self._settle(item, fates.get(id(item[0])))]
        self._arrived = [item for item in self._arrived if item[0] not in again]  # parts of an attempt that is over
        for team in {call.team for call in again if call.team is not None}:
            team.again([call for call in again if call.team is team])
        for team in self._teams.values():
            team.pump()

    def _commit(self, requests: list[CommitRequest]) -> Sequence[CommitResult]:
        """Commit, in order. Whatever the turn's calls have seen lasts then, also what was committed beside the loop and
        also if there is nothing to commit: a failure may tell of it."""
        try:
            return self._engine.commit(requests, self.on_visible)
        except FatalError:
            raise
        except CellstoreError as error:  # nothing was written: the disk is full, say
            return [error] * len(requests)

    def _settle(self, item: _Item, fate: CommitResult | None) -> bool:
        """Answer one call that arrived; False when it has to run again."""
        call, tenancy, wire, commit = item
        if wire is None and isinstance(fate, TransientError) and not call.inserted and call.attempts < _RETRIES_MAX:
            return False
        if wire is None:
            _settle_part(call, commit, fate)
            return True
        if tenancy is not None and tenancy.broken and not isinstance(fate, Committed):
            return False
        refused = isinstance(fate, CellstoreError)
        if tenancy is not None and (refused or isinstance(fate, Replayed)):
            tenancy.broken = True  # what ran after it may have seen writes that will never be
        elif tenancy is not None and isinstance(fate, Committed) and commit is not None and commit.lane is not None:
            tenancy.durable(commit.lane.position, fate.ts)
        if isinstance(fate, TransientError) and call.attempts < _RETRIES_MAX:
            return False
        call.resolve(_outcome(call, wire, fate))
        return True

    def _fail(self, error: FatalError, arrived: list[_Item]) -> None:
        """The committer does not know whether it wrote: nothing may be acknowledged any more."""
        self._fatal = error
        for call, *_ in arrived:
            call.fail(error)
        for team in self._teams.values():
            self._leaving += [worker.link for worker in team.stop(error)]
        if self._on_fatal is not None:
            self._on_fatal(error)

    # Deploying

    async def _try(self, unit: Unit, again: bool = True) -> str | None:
        """Load `unit` in a worker without keeping it: what is wrong with it, if anything.

        A worker may be about to go, for the sake of the call before: when it does, another one is asked, `again`.
        """
        team = self._team((unit.python, unit.cwd))
        team.start(self._knobs.workers_min)
        worker = team.anyone()
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._trying[worker.link.number] = answer
        worker.link.send(["try", unit.to_json()])
        try:
            async with asyncio.timeout(self._knobs.worker_start_s):
                error = await answer
        except TimeoutError:
            return f"it did not load within {self._knobs.worker_start_s:g} s"
        finally:
            del self._trying[worker.link.number]
        if error is not None and worker.link.dead and again:
            return await self._try(unit, again=False)
        return None if error is None else "\n".join(part for part in (error[1], error[0]) if part)

    def _on_tried(self, message: Message, link: Link) -> None:
        _, module, _, error = message
        answer = self._trying.get(link.number)
        if answer is None or answer.done():
            return
        if module is None:
            error = [f"the worker process died while it loaded the module: {link.exit_text()}", link.dump().strip()]
        answer.set_result(error)

    def _install(self, module: str, units: list[Unit]) -> None:
        """Have the module consist of `units`, here and in every worker, before any later call."""
        before = self._registry.units.get(module, [])
        self._registry.install(module, units)
        now = {unit.key: (unit.python, unit.cwd) for unit in units}
        for unit in before:
            if now.get(unit.key) != (unit.python, unit.cwd):
                self._forget(unit)
        for unit in units:
            if not any(unit is each for each in before):
                self._send_unit(unit)

    def _send_unit(self, unit: Unit) -> None:
        environment = (unit.python, unit.cwd)
        self._spawner.preload(unit)
        wire = unit.to_json()
        team = self._team(environment)
        team.units[unit.key] = wire
        team.sources.update({name: f'File "{name}"' for name in unit.sources} | unit.cells)
        team.broadcast(["unit", wire])
        actions = self._actions.get(environment)
        if actions is not None:
            actions.units[unit.key] = wire
            actions.broadcast(["unit", wire])

    def _forget(self, unit: Unit) -> None:
        environment = (unit.python, unit.cwd)
        for team in (self._teams.get(environment), self._actions.get(environment)):
            if team is not None:
                team.units.pop(unit.key, None)
                team.broadcast(["forget", unit.key])


def _one_part_each(arrived: list[_Item]) -> tuple[list[_Item], list[_Item]]:
    """What to commit now, and what in a later turn: parts of a bulk insert take turns, so that others get theirs, and so
    that none is committed after one that was refused. Parts of a call that is answered already are dropped."""
    now: list[_Item] = []
    later: list[_Item] = []
    busy: set[int] = set()
    for item in arrived:
        call, wire = item[0], item[2]
        if call.kind != "bulk":
            now.append(item)
        elif not call.answer.done():
            (later if id(call) in busy else now).append(item)
            if wire is None:
                busy.add(id(call))
    return now, later


def _settle_part(call: Pending, commit: CommitRequest | None, fate: CommitResult | None) -> None:
    if isinstance(fate, Committed) and commit is not None:
        call.inserted += int(commit.result)
        call.inserted_ts = fate.ts
    elif isinstance(fate, CellstoreError):
        call.resolve(Outcome.failed(fate, function=call.path))


def _outcome(call: Pending, wire: list[Any], result: CommitResult | None) -> Outcome:
    """What a finished attempt comes to, now that its commit has a fate."""
    if isinstance(result, CellstoreError):
        if isinstance(result, ConflictError):
            result.message += f" ({call.attempts + 1} attempts)"
        return Outcome.failed(result, function=call.path)
    outcome = calls.outcome_from_wire(wire)
    if isinstance(result, Replayed):
        from cellstore.runtime.execute import replayed

        return replayed(result.result, result.ts)
    if isinstance(result, Committed):
        outcome.ts = result.ts
    elif call.kind == "bulk":
        outcome.ts = call.inserted_ts
    return outcome


def _lost_its_moment(outcome: Outcome) -> bool:
    """Whether what it was to read was gone, or had changed, before it could be read."""
    return outcome.error is not None and outcome.error.code in ("ConflictError", "OutOfRetention")
