"""Clients on one engine, interleaved by dice: the same seed, the same history, and a smaller one when it is wrong.

    clients    optimistic: begin, run step by step while others go on, send the request, wait for the answer
    the lane   runs its steps back to back on an overlay, as a worker does: view behind, answers late, refusals rerun
    committer  takes what has been sent, as one group, whenever the dice say

    simulate(WORKLOADS["bank"], seed=7)       raises Violation with the shortest history it could find, or returns

Clients find their own steps in a list, so that a failing list can be made shorter by leaving steps out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

from cellstore.errors import CellstoreError, TransientError
from cellstore.storage.contract import Reader
from cellstore.testing.clock import FakeClock
from cellstore.testing.history import History, Recorded, Violation, iterate_log, shortest
from cellstore.testing.interleave import Baton
from cellstore.testing.trace import RecordedDatabase
from cellstore.testing.workloads import Step, Workload
from cellstore.transaction.database import Engine
from cellstore.transaction.overlay import Overlay
from cellstore.transaction.requests import CommitRequest, CommitResult, Committed
from cellstore.transaction.transaction import Transaction
from cellstore.transaction.worker_store import Catalogs, begin

LANE = "lane"
_LANE_PIPELINE_MAX = 6
_ATTEMPTS_MAX = 200

Task = tuple[str, Step]
"""Who does what."""
OpenEngine = Callable[[FakeClock], Engine]


@dataclass(slots=True)
class _Sent:
    """A request on its way to the committer."""

    request: CommitRequest
    record: Recorded
    answer: CommitResult | None = None
    task: Step | None = None  # of the lane: to be run again if it is refused


@dataclass(frozen=True, slots=True)
class _Chances:
    """How likely things are in one run. They differ from run to run: some bugs need a slow committer, some a deaf lane."""

    commit: float  # that the committer comes before anybody goes on
    hear: float  # that the lane takes the answers that have come
    refresh: float  # that the lane moves its view without need

    @classmethod
    def of(cls, dice: Random) -> _Chances:
        often = (0.05, 0.25, 0.6)
        return cls(dice.choice(often), dice.choice(often), dice.choice(often))


@dataclass
class Simulation:
    """One run: a workload, its tasks, dice."""

    workload: Workload
    engine: Engine
    dice: Random
    history: History
    chances: _Chances = field(init=False)
    _baton: Baton = field(default_factory=Baton)
    _sent: list[_Sent] = field(default_factory=list)
    _tick: int = 0

    def run(self, tasks: Sequence[Task]) -> History:
        """Set up, run all tasks to their end, and return what happened."""
        self.chances = _Chances.of(self.dice)
        self.engine.define(*self.workload.tables)
        self._optimistic("setup", ("setup", {}), group=False)
        steps: dict[str, list[Step]] = {}
        for who, step in tasks:
            steps.setdefault(who, []).append(step)
        for who, own in steps.items():
            self._baton.start(who, self._body(who, own))
        try:
            self._direct()
        finally:
            self._baton.abandon()
        return self.history

    def _body(self, who: str, steps: list[Step]) -> Callable[[], None]:
        if who == LANE:
            return lambda: _Lane(self, steps).run()

        def body() -> None:
            for at, step in enumerate(steps):
                self._optimistic(f"{who}.{at}", step)

        return body

    def _direct(self) -> None:
        while running := self._baton.running:
            if self._sent and self.dice.random() < self.chances.commit:
                self._commit()
            else:
                self._baton.step(self.dice.choice(running))

    def _commit(self) -> None:
        count = self.dice.randint(1, len(self._sent))
        group, self._sent = self._sent[:count], self._sent[count:]
        for sent, answer in zip(group, self.engine.commit([sent.request for sent in group]), strict=True):
            sent.answer = answer

    def now(self) -> int:
        """Time goes on with every look at it."""
        self._tick += 1
        return self._tick

    def pause(self) -> None:
        """Somebody else may go on."""
        self._baton.pause()

    def send(self, sent: _Sent) -> None:
        """The committer will take it when it comes to it."""
        self._sent.append(sent)

    def perform(self, label: str, transaction: Transaction, step: Step) -> tuple[CommitRequest, Recorded]:
        """Run a step: what it asks of the committer, and its record so far."""
        record = Recorded(label, [], self.now(), 0, "refused", transaction.begin_ts)
        db = RecordedDatabase(transaction, self.pause)
        record.trace = db.trace
        try:
            record.value = self.workload.perform(db, step)
        except (CellstoreError, AssertionError) as error:
            # what it failed on may never be: an error, too, counts only once the committer agrees with its reads
            record.value, record.trace = repr(error), [["savepoint"], *db.trace, ["rollback"]]
            return transaction.freeze(label, writes=False), record
        request = transaction.freeze(label)
        record.changed = bool(request.writes)
        return request, record

    def judged(self, sent: _Sent) -> bool:
        """Record an answered request; False if it has to be run again."""
        record, answer = sent.record, sent.answer
        record.ended = self.now()
        if isinstance(answer, Committed):
            record.fate, record.ts = "committed", answer.ts
        elif isinstance(answer, CellstoreError) and not isinstance(answer, TransientError):
            raise answer
        self.history.add(record)
        return record.fate == "committed"

    def _optimistic(self, label: str, step: Step, group: bool = True) -> None:
        name = f"{step[0]} {label}"
        for _ in range(_ATTEMPTS_MAX):
            self.pause()
            with self.engine.begin(random=self.dice.randbytes) as transaction:
                request, record = self.perform(name, transaction, step)
            sent = _Sent(request, record)
            if not request.writes and self.dice.random() < 0.5:
                sent.answer = Committed(request.begin_ts)  # as a query: nobody is asked
            elif not group:
                (sent.answer,) = self.engine.commit([request])
            else:
                self.send(sent)
            while sent.answer is None:
                self.pause()
            if self.judged(sent):
                return
        raise Violation(f"{name} was refused {_ATTEMPTS_MAX} times (seed {self.history.seed!r})")


class _Lane:
    """One worker's time as the lane."""

    def __init__(self, simulation: Simulation, steps: list[Step]) -> None:
        self._simulation = simulation
        self._engine, self._dice = simulation.engine, simulation.dice
        self._steps = deque(steps)
        self._overlay = Overlay(LANE)
        self._catalogs = Catalogs()
        self._reader: Reader = self._engine.storage.reader()
        self._reader.refresh()
        self._flying: deque[_Sent] = deque()
        self._count = self._refusals = 0

    def run(self) -> None:
        """Until every step is committed."""
        while self._steps or self._flying:
            self._simulation.pause()
            if self._dice.random() < self._simulation.chances.hear or not self._steps:
                self._hear()
            if self._steps and len(self._flying) < _LANE_PIPELINE_MAX:
                self._perform(self._steps.popleft())
        self._reader.close()

    def _hear(self) -> None:
        """Take the answers that have come, in order, up to a refusal: it takes along everything after it."""
        while self._flying and self._flying[0].answer is not None:
            sent = self._flying.popleft()
            lane = sent.request.lane
            assert lane is not None
            if self._simulation.judged(sent):
                assert isinstance(sent.answer, Committed)
                self._overlay.acknowledge(lane.position, sent.answer.ts)
            else:
                self._overlay.refuse(lane.position)
                assert sent.task is not None
                self._steps.append(sent.task)
                self._refusals += 1
                if self._refusals > _ATTEMPTS_MAX:
                    seed = self._simulation.history.seed
                    raise Violation(f"the lane was refused {_ATTEMPTS_MAX} times (seed {seed!r})")

    def _perform(self, step: Step) -> None:
        self._count += 1
        if self._overlay.known_ts > self._reader.ts or self._dice.random() < self._simulation.chances.refresh:
            self._reader.refresh()
        transaction = begin(
            self._reader,
            self._catalogs,
            now_ms=self._engine.clock.now_ns() / 1e6,
            random=self._dice.randbytes,
            overlay=self._overlay,
        )
        request, record = self._simulation.perform(f"{step[0]} {LANE}.{self._count}", transaction, step)
        record.ts = None  # if it is refused: it may have seen what never was
        self._overlay.apply(request)
        sent = _Sent(request, record, task=step)
        self._flying.append(sent)
        self._simulation.send(sent)


def simulate(
    workload: Workload,
    seed: int,
    *,
    clients: int = 3,
    lane: int = 1,
    steps: int = 40,
    shorten: bool = True,
    open_engine: OpenEngine = lambda clock: Engine.memory(clock=clock),
    clock_step: Callable[[Random], int] = lambda dice: dice.choice((0, 0, 1, 1000)),
) -> History:
    """Run `steps` tasks and check. The lane gets as many as `lane` clients would.

    Errors: Violation, with the shortest list of tasks found that fails, and its history
    """

    def once(tasks: Sequence[Task], order: int) -> History:
        dice = Random(order)
        clock = FakeClock(step=lambda: clock_step(dice))
        with open_engine(clock) as engine:
            history = Simulation(workload, engine, dice, History(seed)).run(tasks)
            reader = engine.storage.reader()
            history.check(workload.rule, list(iterate_log(reader.log, reader.refresh())))
            reader.close()
        return history

    plan = Random(seed)
    who = [f"client{number}" for number in range(clients)] + [LANE] * lane
    tasks: list[Task] = [(plan.choice(who), workload.plan(plan)) for _ in range(steps)]
    try:
        return once(tasks, seed)
    except Violation as first:
        if not shorten:
            raise
        raise _shortened(once, tasks, seed, first) from None


def _shortened(
    once: Callable[[Sequence[Task], int], History], tasks: list[Task], seed: int, first: Violation
) -> Violation:
    """The violation of the shortest list of tasks found; each list gets a few orders in which to fail."""
    found = [first]

    def fails(fewer: Sequence[Task]) -> bool:
        for order in range(seed, seed + 10):
            try:
                with suppress(CellstoreError):
                    once(fewer, order)
            except Violation as violation:
                found.append(violation)
                return True
        return False

    kept = shortest(tasks, fails)
    lines = "\n  ".join(f"{who}: {name} {arguments}" for who, (name, arguments) in kept)
    return Violation(f"{found[-1]}\nThe shortest list of tasks found, of {len(tasks)}:\n  {lines}")
