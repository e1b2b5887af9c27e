"""The workers of one Python environment and the calls they share: who runs what, and when it is taken back.

    queries ──▶ waiting ──▶ the least busy worker, a bounded number ahead
    mutations ──▶ lane.waiting ──▶ the one worker that is the lane, a bounded number ahead, in order

A worker that is late with a call (`slow`) keeps that call and gives back everything behind it; if it was the lane,
another worker becomes the lane. The late mutation commits optimistically; when it loses too often, it runs once more
with the lane all to itself. When a request of the lane is refused, its tenancy is over: every later call of it may have
seen writes that will never be, so all of them are run again in a new tenancy, in their old order.

Order      on the host's event loop
Invariant  a call is in exactly one place: waiting, flying with one worker, arrived in this turn, or answered
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from cellstore.errors import CellstoreError, FatalError, LimitExceeded, Overloaded
from cellstore.knobs import Knobs
from cellstore.runtime import traces
from cellstore.runtime.calls import Message
from cellstore.runtime.outcome import ErrorInfo, Outcome
from cellstore.runtime.pending import Pending
from cellstore.runtime.process import Link, Spawn
from cellstore.runtime.registry import Environment

_KILL_GRACE_S = 0.5
_FAILED_STARTS_MAX = 3
_TELL_EVERY = 32
_TIDY_AFTER_S = 5.0  # of doing nothing; what a worker keeps at hand is for those who ask again soon


@dataclass(slots=True, eq=False)
class Tenancy:
    """One worker's time as the lane, until it is late, dies, or is refused a commit."""

    lane_id: str
    broken: bool = False
    arrived: int = 0  # position of the last commit request that came
    position: int = 0  # of the last commit that is durable,
    ts: int = 0  # and its timestamp
    told: int = 0  # the position the worker knows to be durable

    def arrive(self, position: int) -> None:
        """A commit request came. After a gap nothing of this tenancy can be trusted."""
        self.broken = self.broken or position != self.arrived + 1
        self.arrived = position

    def durable(self, position: int, ts: int) -> None:
        """The commit at `position` has happened."""
        self.position, self.ts = position, ts


@dataclass(slots=True, eq=False)
class Worker:
    """A process and what the team knows about it."""

    link: Link
    flying: dict[int, Pending] = field(default_factory=dict)  # in the order sent
    generation: int = 0
    slow: int = 0  # the number of the call it is late with
    tenancy: Tenancy | None = None
    watched: int = 0  # the call it was seen running,
    watched_since: float = 0.0  # and when that was first seen
    quiet_since: float = 0.0  # last message from it or first message to it
    tidied_at: float = 0.0  # when it was last told to give back memory

    @property
    def is_open(self) -> bool:
        """Whether it may be sent calls."""
        return self.link.is_ready and not self.link.is_retiring and not self.slow and not self.link.dead


Arrived = Callable[[Pending, Tenancy | None, list[Any] | None, list[Any] | None], None]
"""Told of each finished attempt: the call, its lane, outcome and commit request as they came over the wire. Without an
outcome it is a part of a bulk insert, and more will come."""


class Team:
    """Dispatches calls to the workers of one environment."""

    def __init__(
        self,
        environment: Environment,
        knobs: Knobs,
        settings: dict[str, Any],
        on_arrived: Arrived,
        on_tried: Callable[[Message, Link], None],
        published_ts: Callable[[], int],
        next_number: Callable[[], int],
        spawn: Spawn,
    ) -> None:
        self.environment = environment
        self.units: dict[str, Any] = {}  # module to unit JSON, for workers to come
        self.sources: dict[str, str] = {}  # file name to what a traceback calls it: what is the user's
        self.workers: list[Worker] = []
        self.waiting: deque[Pending] = deque()
        self.lane_waiting: deque[Pending] = deque()
        self._lane: Worker | None = None
        self._loader: Worker | None = None
        self._alone: Pending | None = None  # the exclusive call that has the lane, until it is answered or taken back
        self._tenancies = 0
        self._failed_starts = 0
        self._stopping = False
        self._knobs = knobs
        self._spawn = spawn
        self._settings = settings
        self._on_arrived = on_arrived
        self._on_tried = on_tried
        self._published_ts = published_ts
        self._next_number = next_number
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    # Calls come in

    @property
    def queued(self) -> int:
        """How many calls wait for a worker."""
        return len(self.waiting) + len(self.lane_waiting)

    def submit(self, call: Pending) -> None:
        """Run `call` as soon as may be."""
        if call.kind == "mutation" and call.in_lane:
            self.lane_waiting.append(call)
            self._fill_lane()
        else:
            self.waiting.append(call)
            self._dispatch()

    def again(self, calls: list[Pending]) -> None:
        """Run `calls` again after a conflict, before those that wait."""
        for call in calls:
            call.attempts += 1
            for worker in self.workers:  # a bulk insert is taken back while its worker still sends parts
                worker.flying.pop(call.number, None)
            if call.kind == "mutation" and not call.in_lane and call.attempts > self._knobs.commit_retries_max:
                call.in_lane = call.exclusive = True
        self._end_tenancy()  # what flew behind them goes to the front first, and they before it
        self._to_front(calls)

    def _to_front(self, calls: Iterable[Pending]) -> None:
        lane: list[Pending] = []
        other: list[Pending] = []
        for call in calls:
            call.number, call.tenancy = 0, None
            (lane if call.kind == "mutation" and call.in_lane else other).append(call)
        self.lane_waiting.extendleft(reversed(lane))
        self.waiting.extendleft(reversed(other))
        self._loop.call_soon(self.pump)

    def pump(self) -> None:
        """Send whatever can be sent."""
        if not self._stopping:
            self._fill_lane()
            self._dispatch()

    def _send(self, worker: Worker, call: Pending) -> None:
        call.number = self._next_number()
        if not worker.flying:
            worker.quiet_since = time.monotonic()
        worker.flying[call.number] = call
        worker.link.send(call.message(worker.generation))

    # Queries and whatever is not for the lane

    def _dispatch(self) -> None:
        while self.waiting:
            if self.waiting[0].abandoned:
                self.waiting.popleft()
                continue
            worker = self._loading_worker() if self.waiting[0].kind == "bulk" else self._least_busy()
            if worker is None:
                self._grow()
                return
            call = self.waiting.popleft()
            call.tenancy = None
            was_idle = not worker.flying
            self._send(worker, call)
            if was_idle:
                # It begins while we go on, and what else this turn has for it follows in one frame. Not so in the lane:
                # mutations that come together are to be committed together.
                worker.link.flush()

    def _loading_worker(self) -> Worker | None:
        """The one worker that prepares bulk inserts, so that they are created in the order sent and never fill a team."""
        loader = self._loader
        if loader is None or not loader.is_open or loader is self._lane:
            loader = self._loader = self._least_busy()
        return loader if loader is not None and len(loader.flying) < self._knobs.worker_pipeline_max else None

    def _least_busy(self) -> Worker | None:
        best: Worker | None = None
        alternatives = False  # whether somebody but the lane could do it, now or soon
        for worker in self.workers:
            if worker is self._lane:
                continue
            alternatives = alternatives or not worker.link.dead
            if worker.is_open and (best is None or len(worker.flying) < len(best.flying)):
                best = worker
        if best is None and not alternatives and self._lane is not None and self._lane.is_open:
            best = self._lane
        if best is None or len(best.flying) >= self._knobs.worker_pipeline_max:
            return None
        return best

    # The lane

    def _fill_lane(self) -> None:
        if not self.lane_waiting:
            return
        lane = self._lane if self._lane is not None and self._lane.is_open else self._new_lane()
        if lane is None:
            self._grow()
            return
        self._end_tenancy()
        if lane.tenancy is None:
            self._begin_tenancy(lane)
        self._tell_durable(lane)
        while self.lane_waiting and self._lane_has_room(lane):
            call = self.lane_waiting.popleft()
            call.tenancy = lane.tenancy
            self._send(lane, call)
            if call.exclusive:
                self._alone = call

    def _lane_has_room(self, lane: Worker) -> bool:
        if len(lane.flying) >= self._knobs.lane_pipeline_max:
            return False
        if self._alone is not None:
            if self._alone.number:
                return False
            self._alone = None
        return not (self.lane_waiting[0].exclusive and lane.flying)

    def _new_lane(self) -> Worker | None:
        self._lane = None
        candidates = [worker for worker in self.workers if worker.is_open]
        if not candidates:
            return None
        self._lane = min(candidates, key=lambda worker: len(worker.flying))
        return self._lane

    def _begin_tenancy(self, lane: Worker) -> None:
        self._tenancies += 1
        lane.tenancy = Tenancy(f"{lane.link.number}.{self._tenancies}")
        lane.link.send(["lane", lane.tenancy.lane_id])

    def _tell_durable(self, lane: Worker) -> None:
        """Let the worker move its snapshot on and forget what is in it.

        Moving on costs it the pages it has cached, so it is told of its own commits in steps. Others' commits it has to
        see soon: until then everything it reads of them is refused.
        """
        tenancy = lane.tenancy
        assert tenancy is not None
        behind = tenancy.position - tenancy.told
        if behind and (behind >= _TELL_EVERY or not lane.flying or self._published_ts() != tenancy.ts):
            tenancy.told = tenancy.position
            lane.link.send(["at", tenancy.position, tenancy.ts])

    def _end_tenancy(self) -> None:
        """Take back what flies in a lane that is broken: its worker drops it when it is told of another tenancy."""
        lane = self._lane
        if lane is not None and lane.tenancy is not None and lane.tenancy.broken:
            self._to_front(self._take_back(lane, keep=0))

    def _take_back(self, worker: Worker, keep: int) -> list[Pending]:
        """Everything `worker` has not answered except the call `keep`, in order; it is told to forget them."""
        taken = [call for number, call in worker.flying.items() if number != keep]
        worker.flying = {number: call for number, call in worker.flying.items() if number == keep}
        worker.generation += 1
        worker.tenancy = None
        worker.link.send(["gen", worker.generation])
        return taken

    # What workers say

    def _on_messages(self, link: Link, messages: list[Message]) -> None:
        worker = self._worker_of(link)
        worker.quiet_since = time.monotonic()
        for message in messages:
            match message[0]:
                case "done":
                    self._done(worker, message)
                case "part":
                    self._part(worker, message)
                case "slow":
                    self._late(worker, message[1])
                case "tried":
                    self._on_tried(message, link)
                case "hello":
                    link.is_ready = True
                    self._failed_starts = 0
        self.pump()

    def _done(self, worker: Worker, message: Message) -> None:
        _, number, outcome, commit = message
        if worker.slow == number:
            worker.slow = 0
        call = worker.flying.pop(number, None)
        if call is not None:
            self._on_arrived(call, call.tenancy, outcome, commit)

    def _part(self, worker: Worker, message: Message) -> None:
        """Some of a bulk insert; the call flies on."""
        _, number, _, commit = message
        call = worker.flying.get(number)
        if call is not None:
            self._on_arrived(call, None, None, commit)

    def _late(self, worker: Worker, number: int) -> None:
        """`worker` is late with the call `number`: others need not wait for it."""
        worker.slow = number
        call = worker.flying.get(number)
        if call is not None:
            call.in_lane = False
        self._to_front(self._take_back(worker, keep=number))
        if worker is self._lane:
            self._lane = None
        if not any(other.is_open for other in self.workers):
            self._grow()

    def _worker_of(self, link: Link) -> Worker:
        return next(worker for worker in self.workers if worker.link is link)

    # Processes

    def start(self, count: int) -> None:
        """Have at least `count` workers."""
        while len(self.workers) < count and not self._stopping and self._start_one():
            pass

    def _grow(self) -> None:
        """More work than open workers: start another one, unless one is coming up or there are enough."""
        coming = any(not worker.link.is_ready for worker in self.workers)
        if not coming and len(self.workers) < self._knobs.workers_max:
            self.start(len(self.workers) + 1)

    def _start_one(self) -> bool:
        try:
            worker = Worker(Link(self.environment, self._settings, self._on_messages, self._on_death, self._spawn))
        except OSError as error:  # no process to be had: no memory, no descriptors, no permission
            self._give_up(str(error), "")
            return False
        worker.quiet_since = time.monotonic()
        self.workers.append(worker)
        for unit in self.units.values():
            worker.link.send(["unit", unit])
        return True

    def anyone(self) -> Worker:
        """The worker with the least to do that is not the lane, if there is one. Errors: Overloaded when none is there."""
        self.start(1)
        if not self.workers:
            raise Overloaded(f"no worker of {self.environment[0]} can be started", queue="workers")
        return min(self.workers, key=lambda worker: (worker is self._lane, not worker.is_open, len(worker.flying)))

    def broadcast(self, message: Message) -> None:
        """Send `message` to every worker."""
        for worker in self.workers:
            worker.link.send(message)

    def _on_death(self, link: Link) -> None:
        """A process is gone: its running call gets an error, the others another worker."""
        worker = self._worker_of(link)
        self.workers.remove(worker)
        culprit = link.running_call()
        if worker is self._lane:
            self._lane = None
        self._on_tried(["tried", None, "", None], link)
        if not link.is_ready:
            self._failed_starts += 1
        spared = []
        for number, call in worker.flying.items():
            call.deaths += 1
            if number == culprit or call.deaths > self._knobs.worker_deaths_max:
                call.resolve(Outcome(False, error=self._obituary(call, link)))
            else:
                spared.append(call)
        self._to_front(spared)
        if self._failed_starts >= _FAILED_STARTS_MAX:
            self._give_up(link.exit_text(), link.dump().strip())
        elif not self._stopping:
            self.start(self._knobs.workers_min)

    def _obituary(self, call: Pending, link: Link) -> ErrorInfo:
        dump = link.dump()
        texts = {name: text for unit in self.units.values() for name, text in unit["sources"].items()}
        trace = traces.from_dump(dump, self.sources.__contains__, self.sources, texts)
        if call.stopped is not None:
            info = ErrorInfo.of(call.stopped, function=call.path)
        else:
            what = "ran" if call.kind != "bulk" else "prepared rows for"
            written = "Nothing was written" if not call.inserted else f"{call.inserted:,} documents were inserted"
            message = f"the worker process died while it {what} {call.path}: {link.exit_text()}. {written}"
            info = ErrorInfo("WorkerDied", message, function=call.path)
        info.traceback = f"{trace}\n{info.message}" if trace else info.message
        return info

    def _give_up(self, why: str, last_words: str) -> None:
        """Workers of this environment do not come up: say so to everybody who waits, unless others are at work."""
        if self.workers:
            return
        info = ErrorInfo("WorkerFailed", f"workers of {self.environment[0]} do not start: {why}", traceback=last_words)
        calls = [*self.waiting, *self.lane_waiting]
        self.waiting.clear()
        self.lane_waiting.clear()
        self._failed_starts = 0
        for call in calls:
            call.resolve(Outcome(False, error=info))

    # Time

    def watch(self, now: float) -> None:
        """Called every few milliseconds while calls run: finds workers that cannot speak for themselves."""
        for worker in list(self.workers):
            if not worker.flying and worker.link.is_ready:
                worker.watched = 0
                if worker.tidied_at < worker.quiet_since < now - _TIDY_AFTER_S:
                    worker.tidied_at = now
                    worker.link.send(["tidy"])
                continue
            running = worker.link.running_call()
            if running != worker.watched:
                worker.watched, worker.watched_since = running, now
            if running:
                self._watch_call(worker, running, now - worker.watched_since)
            elif now - worker.quiet_since > self._knobs.worker_start_s:
                self._kill(worker, None, f"it said nothing for {self._knobs.worker_start_s:g} s")

    def _watch_call(self, worker: Worker, running: int, elapsed_s: float) -> None:
        call = worker.flying.get(running)
        limit_s, knob = self._limit(call)
        if elapsed_s > limit_s and elapsed_s > limit_s * (1 + worker.link.begun_anew()):
            error = LimitExceeded(
                f"{call.path if call else 'a call'} did not stop after {elapsed_s:.1f} s and its worker was ended; "
                f"longer work belongs in an action (knob {knob})"
            )
            self._kill(worker, call, str(error), error)
        elif elapsed_s > 5 * self._knobs.lane_budget_s + 0.05 and not worker.slow:
            worker.link.read_now()  # perhaps it has spoken and this loop was busy
            if not worker.link.dead and not worker.slow and worker.link.running_call() == running:
                self._late(worker, running)

    def _limit(self, call: Pending | None) -> tuple[float, str]:
        """How long a call may hold its worker before it is killed: its own timer had every chance by then."""
        knobs = self._knobs
        if call is not None and call.kind == "bulk":
            return knobs.action_time_s, "action_time_s"
        budget = knobs.query_time_s if call is not None and call.kind == "query" else knobs.mutation_time_s
        return 2 * budget + _KILL_GRACE_S, f"{call.kind if call else 'query'}_time_s"

    def _kill(self, worker: Worker, call: Pending | None, why: str, error: CellstoreError | None = None) -> None:
        if not worker.link.is_retiring:
            worker.link.is_retiring = True
            if call is not None:
                call.stopped = error
            task = self._loop.create_task(worker.link.kill(why))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    # The end

    def stop(self, error: FatalError | None = None) -> list[Worker]:
        """Hang up on every worker; every call that is not answered gets an error. Returns whom to join."""
        self._stopping = True
        calls = [*self.waiting, *self.lane_waiting, *(c for worker in self.workers for c in worker.flying.values())]
        self.waiting.clear()
        self.lane_waiting.clear()
        for worker in self.workers:
            worker.link.hang_up()
        for call in calls:
            if error is not None:
                call.fail(error)
            else:
                message = "the store closed before the call came to an end"
                call.resolve(Outcome.failed(CellstoreError(message, code="Stopping"), function=call.path))
        workers, self.workers = self.workers, []
        return workers
