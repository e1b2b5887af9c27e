"""The host's side of actions: the processes of an environment that run them, and the answers to their nested calls.

An action has a process to itself as long as there are few at once, so that one which crashes, or eats all memory, takes
nobody with it; beyond `action_processes_max` they share. A process that is idle serves the next one; of several that idle
for long one is kept.

An action runs at most once: whatever happens to its process, it is never started again. A process whose action would
not stop gets no new ones and is ended when its other actions are over.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import orjson

from cellstore.errors import CellstoreError, LimitExceeded, Overloaded
from cellstore.knobs import Knobs
from cellstore.runtime import calls
from cellstore.runtime.calls import Message
from cellstore.runtime.outcome import ErrorInfo, Identity, Outcome
from cellstore.runtime.process import Link, Spawn
from cellstore.runtime.registry import Environment
from cellstore.runtime.runner import HttpSend, LogSink, ProgressSink
from cellstore.values.json import decode
from cellstore.web import Arriving, Head, Request

_CANCEL_GRACE_S = 1.0
_IDLE_S = 30.0  # then a process that others can stand in for is ended
_PIECES_MAX = 8  # of a request's body that its function has not taken

Nested = Callable[[str, str, dict[str, Any], Identity | None, str | None], Awaitable[Outcome]]
"""Runs what an action asked for: kind, path, arguments, the action's own caller, the job it is."""


@dataclass(slots=True, eq=False)
class Running:
    """An action that runs."""

    number: int
    path: str
    identity: Identity | None
    answer: asyncio.Future[Outcome]
    on_log: LogSink | None
    link: Link
    on_progress: ProgressSink | None = None
    job: str | None = None  # the scheduled one it is, or is part of
    pieces: asyncio.Queue[Head | bytes | None] = field(
        default_factory=asyncio.Queue
    )  # of an HTTP response; None ends it
    room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_PIECES_MAX))  # for the request's body
    nested: set[asyncio.Task[None]] = field(default_factory=set)  # actions that it runs
    timer: asyncio.TimerHandle | None = None
    late: LimitExceeded | None = None  # its time is up, and it has been told

    def resolve(self, outcome: Outcome) -> None:
        """Answer the caller, if there still is one."""
        if self.timer is not None:
            self.timer.cancel()
        if not self.answer.done():
            self.answer.set_result(outcome)
            self.pieces.put_nowait(None)


class ActionTeam:
    """Runs the actions of one environment."""

    def __init__(
        self,
        environment: Environment,
        knobs: Knobs,
        settings: dict[str, Any],
        nested: Nested,
        spawn: Spawn,
        variables: Callable[[], dict[str, str]],
    ) -> None:
        self.environment = environment
        self.units: dict[str, Any] = {}
        self._knobs = knobs
        self._settings = {**settings, "role": "actions"}
        self._nested = nested
        self._spawn_process = spawn
        self._variables = variables  # the environment variables that are set now
        self._links: list[Link] = []
        self._load: dict[Link, int] = {}  # how many actions a process runs
        self._idle_since: dict[Link, float] = {}  # of those that run none
        self._sweeping: asyncio.TimerHandle | None = None
        self._running: dict[int, Running] = {}
        self._last = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.get_running_loop()

    async def run(
        self,
        path: str,
        args: bytes,
        identity: Identity | None,
        on_log: LogSink | None,
        on_progress: ProgressSink | None = None,
        job: str | None = None,
    ) -> Outcome:
        """One action to its outcome. Cancelling the caller cancels the action."""
        if self._is_full():
            return self._overloaded()
        run = self._begin(path, identity, on_log)
        run.on_progress, run.job = on_progress, job
        options = [b'"$' in args, identity, self._variables()]
        run.link.send(["call", run.number, 0, "", "action", path, orjson.Fragment(args), options])
        try:
            return await run.answer
        except asyncio.CancelledError:
            self._cancel(run)
            raise

    async def http(
        self, path: str, request: Request, identity: Identity | None, on_log: LogSink | None, send: HttpSend
    ) -> Outcome:
        """One HTTP action to its outcome; its response goes to `send`, which may take its time, or raise to end it."""
        if self._is_full():
            return self._overloaded()
        run = self._begin(path, identity, on_log)
        head = [request.method, request.url, request.path, request.headers.raw]
        arriving = request.arriving
        body = None if arriving is not None else base64.b64encode(request.body).decode()
        run.link.send(["http", run.number, path, head, body, identity, self._variables()])
        pump = None if arriving is None else self._loop.create_task(_pump(run, arriving))
        try:
            while (piece := await run.pieces.get()) is not None:
                await send(piece)
                run.link.send(["more", run.number])
            return run.answer.result()
        except BaseException:  # the other side has gone
            self._cancel(run)
            raise
        finally:
            if pump is not None:
                pump.cancel()

    def _is_full(self) -> bool:
        return len(self._running) >= self._knobs.actions_running_max

    def _overloaded(self) -> Outcome:
        full = f"as many actions as may run at once are running: {len(self._running):,} (knob actions_running_max)"
        return Outcome.failed(Overloaded(full, queue="actions"))

    def _begin(self, path: str, identity: Identity | None, on_log: LogSink | None) -> Running:
        link = self._link()
        self._load[link] += 1
        self._last += 1
        run = Running(self._last, path, identity, self._loop.create_future(), on_log, link)
        self._running[run.number] = run
        run.timer = self._loop.call_later(self._knobs.action_time_s, self._out_of_time, run)
        return run

    def _cancel(self, run: Running) -> None:
        run.link.send(["cancel", run.number])
        for task in run.nested:
            task.cancel()
        self._loop.call_later(_CANCEL_GRACE_S, self._abandon, run)

    def _link(self) -> Link:
        """The process for one more action: an idle one, a new one, or the one with the least to do."""
        open_links = [link for link in self._links if not (link.dead or link.is_retiring)]
        best = min(open_links, key=self._load.__getitem__, default=None)
        if best is None or (self._load[best] and len(open_links) < self._knobs.action_processes_max):
            return self._start()
        return best

    def _start(self) -> Link:
        link = Link(self.environment, self._settings, self._on_messages, self._on_death, self._spawn_process)
        self._links.append(link)
        self._load[link] = 0
        for unit in self.units.values():
            link.send(["unit", unit])
        if self._sweeping is None:
            self._sweeping = self._loop.call_later(_IDLE_S, self._sweep)
        return link

    def _taken(self, number: int) -> Running | None:
        """The run, which is over for its process."""
        run = self._running.pop(number, None)
        if run is not None:
            self._load[run.link] -= 1
            if not self._load[run.link]:
                self._idle_since[run.link] = self._loop.time()
        return run

    def _sweep(self) -> None:
        """End processes that have been idle for long, but for one."""
        idle = [link for link in self._links if not self._load[link] and not link.is_retiring]
        for link in idle[1:]:
            if self._loop.time() - self._idle_since.get(link, 0.0) > _IDLE_S:
                link.is_retiring = True
                self._end_if_retired(link)
        again = len(self._links) > 1
        self._sweeping = self._loop.call_later(_IDLE_S, self._sweep) if again else None

    def broadcast(self, message: Message) -> None:
        """Send `message` to every process."""
        for link in self._links:
            link.send(message)

    def _on_messages(self, link: Link, messages: list[Message]) -> None:
        for message in messages:
            match message[0]:
                case "done":
                    run = self._taken(message[1])
                    if run is not None:
                        run.resolve(_with_reason(run, calls.outcome_from_wire(message[2])))
                        self._end_if_retired(link)
                case "log":
                    run = self._running.get(message[1])
                    if run is not None and run.on_log is not None:
                        run.on_log(message[2])
                case "progress":
                    run = self._running.get(message[1])
                    if run is not None and run.on_progress is not None:
                        run.on_progress(*message[2:])
                case "head" | "piece":
                    self._piece(message)
                case "took":
                    run = self._running.get(message[1])
                    if run is not None:
                        run.room.release()
                case "ask":
                    self._ask(link, message)
                case "hello":
                    link.is_ready = True
                case _:
                    pass  # `loaded`: its queries' workers tell whether a unit loads

    def _piece(self, message: Message) -> None:
        run = self._running.get(message[1])
        if run is None:
            return
        if message[0] == "piece":
            run.pieces.put_nowait(base64.b64decode(message[2]))
        else:
            _, _, status, fields, length = message
            run.pieces.put_nowait(Head(status, [(name, value) for name, value in fields], length))

    def _ask(self, link: Link, message: Message) -> None:
        task = self._spawn(self._answer(link, message))
        run = self._running.get(message[2])
        if run is not None and message[3] == "action":  # it ends with the one that wants it
            run.nested.add(task)
            task.add_done_callback(run.nested.discard)

    async def _answer(self, link: Link, message: Message) -> None:
        _, ask_id, number, kind, path, args, [wrapped] = message
        run = self._running.get(number)
        identity, job = (run.identity, run.job) if run is not None else (None, None)
        outcome = await self._nested(kind, path, decode(args) if wrapped else args, identity, job)
        link.send(["reply", ask_id, calls.outcome_to_wire(outcome)])

    def _out_of_time(self, run: Running) -> None:
        message = f"{run.path} ran longer than {self._knobs.action_time_s:g} s and was stopped (knob action_time_s)"
        run.late = LimitExceeded(message, knob="action_time_s")
        self._cancel(run)  # it says where it stood, if it can

    def _abandon(self, run: Running) -> None:
        """It was told to stop and did not: its process gets no new work and ends with its last other action."""
        if self._taken(run.number) is not None:
            run.link.is_retiring = True
            if run.late is not None:
                run.resolve(Outcome.failed(run.late, function=run.path))
            self._end_if_retired(run.link)

    def _end_if_retired(self, link: Link) -> None:
        if link.is_retiring and not self._load[link]:
            self._spawn(link.kill("nobody needs it any more"))

    def _on_death(self, link: Link) -> None:
        self._links.remove(link)
        for run in [run for run in self._running.values() if run.link is link]:
            self._taken(run.number)
            text = f"the process died while {run.path} ran: {link.exit_text()}. It may have done part of its work"
            info = ErrorInfo("WorkerDied", text, function=run.path, traceback=link.dump().strip() or text)
            run.resolve(Outcome(False, error=info))
        del self._load[link]
        self._idle_since.pop(link, None)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def stop(self) -> list[Link]:
        """End every process; running actions get an error. Returns whom to join."""
        for run in list(self._running.values()):
            info = ErrorInfo("Stopping", f"the store closed while {run.path} ran", function=run.path)
            run.resolve(Outcome(False, error=info))
        self._running.clear()
        if self._sweeping is not None:
            self._sweeping.cancel()
        for task in self._tasks:
            task.cancel()
        for link in self._links:
            link.hang_up()
        links, self._links = self._links, []
        return links


async def _pump(run: Running, arriving: Arriving) -> None:
    """Pass a request's body on, no faster than the function takes it."""
    broken: str | None = None
    try:
        while (piece := await asyncio.wrap_future(arriving.take())) is not None:
            await run.room.acquire()
            run.link.send(["body", run.number, base64.b64encode(piece).decode()])
    except CellstoreError as error:
        broken = error.message
    run.link.send(["end", run.number, broken])


def _with_reason(run: Running, outcome: Outcome) -> Outcome:
    """The outcome of an action; one that was stopped because it was late says that, and where it stood."""
    if run.late is not None and outcome.error is not None and outcome.error.code == "Cancelled":
        where = outcome.error.traceback.rpartition("\n")[0]
        outcome.error = ErrorInfo.of(run.late, function=run.path)
        outcome.error.traceback = f"{where}\n{run.late.message}" if where else run.late.message
    return outcome
