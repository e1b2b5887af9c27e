"""The committer as a state machine: any steps of any transactions in any order, in groups, in a lane, on both storages.

Hypothesis chooses the steps and makes failing ones short. Two things are asked at the end of each run:

    sound      the history of what was committed is serial (`testing.history`)
    exact      whatever was refused had reason to be: since it began, somebody wrote a document or range it had read
"""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path
from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cellstore.errors import ConflictError
from cellstore.testing.clock import FakeClock
from cellstore.testing.history import FOREVER, History, Recorded, iterate_log
from cellstore.testing.model import State, answer, replay
from cellstore.testing.trace import RecordedDatabase
from cellstore.testing.workloads import table
from cellstore.transaction.database import Engine
from cellstore.transaction.overlay import Overlay
from cellstore.transaction.requests import CommitRequest, Committed
from cellstore.values.value import same

LANE = 2
PLACES = st.integers(0, LANE)
VALUES = st.integers(0, 3)


class CommitterMachine(RuleBasedStateMachine):
    """Three transactions at a time, each begun by its first step; the third place is a lane."""

    def __init__(self) -> None:
        super().__init__()
        self.path = tempfile.TemporaryDirectory()
        self.dice, self.clock = Random(1), FakeClock()
        self.open: dict[int, RecordedDatabase] = {}
        self.began: dict[int, int] = {}
        self.heard: list[tuple[CommitRequest, Recorded]] = []  # answers the lane has not taken note of
        self.frozen: list[tuple[CommitRequest, Recorded]] = []
        self.history, self.tick = History("hypothesis"), 0
        self.overlay = Overlay("L")
        self.ids: list[str] = []  # anybody may know
        self.own: dict[int, list[str]] = {}  # minted by a transaction that is open: nobody else can know them yet

    @initialize(sqlite=st.booleans())
    def open_store(self, sqlite: bool) -> None:
        store = Path(self.path.name) / "store.db"
        self.engine = Engine.open(store, clock=self.clock) if sqlite else Engine.memory(clock=self.clock)
        self.engine.define(table("t", by_x="x"))
        for value in range(3):
            self.insert(0, value)
        self.freeze(0)
        self.commit(1)

    def now(self) -> int:
        self.tick += 1
        return self.tick

    # ── transactions ──────────────────────────────────────────────────────────────────────────────────────────────

    def at(self, place: int) -> RecordedDatabase:
        """The transaction in a place; begun now if there is none."""
        if place not in self.open:
            if place == LANE:
                self.hear()
            overlay = self.overlay if place == LANE else None
            self.open[place] = RecordedDatabase(self.engine.begin(overlay=overlay, random=self.dice.randbytes))
            self.began[place] = self.now()
        return self.open[place]

    def hear(self) -> None:
        """What the lane is told, between two of its transactions."""
        for request, record in self.heard:
            assert request.lane is not None
            if record.fate == "committed":
                self.overlay.acknowledge(request.lane.position, record.ts or 0)
            else:
                self.overlay.refuse(request.lane.position)
        self.heard.clear()

    @rule(place=PLACES, at=st.integers(0, 9))
    def get(self, place: int, at: int) -> None:
        self.at(place).get(self.known(place, at))

    @rule(
        place=PLACES,
        low=VALUES,
        how=st.sampled_from(["collect", "first", "count", "take", "page", "filter"]),
        up=st.booleans(),
    )
    def scan(self, place: int, low: int, how: str, up: bool) -> None:
        query = self.at(place).query("t").with_index("by_x", lambda q: q.gte("x", low))
        query = query.order("asc" if up else "desc")
        match how:
            case "take":
                query.take(2)
            case "page":
                query.paginate(2)
            case "filter":
                query.filter(lambda one: one["x"] == 2).first()
            case _:
                getattr(query, how)()

    @rule(place=PLACES, value=VALUES)
    def insert(self, place: int, value: int) -> None:
        self.own.setdefault(place, []).append(self.at(place).insert("t", {"x": value}))

    def known(self, place: int, at: int) -> str:
        """An id that the transaction in a place may know."""
        ids = [*self.ids, *self.own.get(place, [])]
        return ids[at % len(ids)]

    @rule(place=PLACES, at=st.integers(0, 9), value=VALUES)
    def patch(self, place: int, at: int, value: int) -> None:
        id = self.known(place, at)
        if self.at(place).get(id) is not None:
            self.at(place).patch(id, {"x": value})

    @rule(place=PLACES, at=st.integers(0, 9))
    def delete(self, place: int, at: int) -> None:
        id = self.known(place, at)
        if self.at(place).get(id) is not None:
            self.at(place).delete(id)

    @rule(place=PLACES, at=st.integers(0, 9), value=VALUES)
    def restore(self, place: int, at: int, value: int) -> None:
        id = self.known(place, at)
        if self.at(place).get(id) is None:
            self.at(place).restore("t", id, {"x": value})

    @rule(place=PLACES, at=st.integers(0, 9))
    def change_mind(self, place: int, at: int) -> None:
        """A nested mutation that fails after reading and writing."""
        db, id = self.at(place), self.known(place, at)
        try:
            with db.savepoint():
                if db.get(id) is not None:
                    db.delete(id)
                raise KeyError(id)
        except KeyError:
            pass

    @rule(place=PLACES)
    def freeze(self, place: int) -> None:
        """Done: its request waits for the committer."""
        if place not in self.open:
            return
        db = self.open.pop(place)
        self.ids += self.own.pop(place, [])
        request = db.transaction.freeze(f"place {place}")
        began, changed = self.began[place], bool(request.writes)
        record = Recorded(f"place {place}", db.trace, began, FOREVER, "refused", request.begin_ts, changed)
        if request.lane is not None:
            self.overlay.apply(request)
            record.ts = None
        db.transaction.close()
        self.frozen.append((request, record))

    # ── the committer ─────────────────────────────────────────────────────────────────────────────────────────────

    @precondition(lambda self: self.frozen)
    @rule(count=st.integers(1, 4))
    def commit(self, count: int) -> None:
        """One group of those that wait."""
        group, self.frozen = self.frozen[:count], self.frozen[count:]
        for (request, record), result in zip(group, self.engine.commit([one for one, _ in group]), strict=True):
            record.ended = self.now()
            if isinstance(result, Committed):
                record.fate, record.ts = "committed", result.ts
            else:
                assert isinstance(result, ConflictError)
            if request.lane is not None:
                self.heard.append((request, record))
            self.history.add(record)

    @precondition(lambda self: self.open)
    @rule(count=st.integers(1, 4))
    def finish_all(self, count: int) -> None:
        """All that are open, in one group or two."""
        for place in list(self.open):
            self.freeze(place)
        self.commit(count)

    @rule(by_ns=st.sampled_from([1, 10**9, -(10**9)]))
    def move_clock(self, by_ns: int) -> None:
        self.clock.move(by_ns)

    @invariant()
    def the_log_is_whole(self) -> None:
        if hasattr(self, "engine"):
            self.engine.write_log.check()
            assert self.engine.write_log.last_ts <= self.engine.published_ts

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            for db in self.open.values():
                db.transaction.close()
            reader = self.engine.storage.reader()
            self.history.check(log=list(iterate_log(reader.log, reader.refresh())))
            reader.close()
            self.check_refusals()
            assert list(self.engine.storage.check(self.engine.catalog.keys_of)) == []
            self.engine.close()
        self.path.cleanup()

    def check_refusals(self) -> None:
        """Of those outside the lane: in the lane one may go because of another."""
        writers = [one for one in self.history.order() if one.changed]
        states: list[tuple[int, State]] = [(0, {})]
        for one in writers:
            states.append((one.ts or 0, replay(one.trace, states[-1][1])[0]))
        for one in self.history.transactions:
            if one.fate == "refused" and one.ts is not None:
                assert any(interferes(one, a, b) for (_, a), (ts, b) in pairwise(states) if ts > one.ts), one


def interferes(one: Recorded, before: State, after: State) -> bool:
    """Whether a commit changed an answer, or a document that a range or a count went over."""
    reads = [at for at, op in enumerate(one.trace) if op[0] in ("get", "range", "count", "page")]
    if any(not same(answer(one.trace[: at + 1], before), answer(one.trace[: at + 1], after)) for at in reads):
        return True
    changed = {id for id in before.keys() | after.keys() if before.get(id) != after.get(id)}
    ranges = [op for op in one.trace if op[0] in ("range", "count", "page")]
    touched = [state[id][1]["x"] for state in (before, after) for id in changed if id in state]
    return any(x >= bound for op in ranges for _, _, bound in op[3] for x in touched)


CommitterMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestCommitter = CommitterMachine.TestCase
