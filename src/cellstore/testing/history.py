"""Records what concurrent transactions did, and judges whether one order explains it all.

The store claims an order: a transaction that writes happened at its commit timestamp, one that only reads at the
moment it read. So nothing has to be searched for. The checker takes the transactions in that order, replays one at a
time on a plain dict (`testing.model`), and compares:

    serial      every read came out as it does alone: documents, ranges, misses, counts, pages
    real time   what ended before another began has the smaller timestamp
    rules       what the workload says of every state holds in every state: money is conserved, one doctor is on call
    log         the document log holds the same commits with the same documents; nothing acknowledged is missing
    live        a live query showed only what it must show at some moment, moved forward only, and ends up to date

A violation prints the seed and the shortest history that shows it: the transaction, and those whose absence would have
made its reads right.

Order       any thread may record; check once they are done
Source      Adya 1999 for the words; the recency rule is Herlihy and Wing's
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar

from cellstore.storage.contract import LogEntry
from cellstore.testing.model import Mismatch, State, answer, describe, replay, writes
from cellstore.testing.trace import Trace
from cellstore.values.ids import encode_id
from cellstore.values.json import dumps, loads
from cellstore.values.value import same

FOREVER = 1 << 62
T = TypeVar("T")
Fate = Literal["committed", "refused", "unknown", "replayed"]
Rule = Callable[[State], str | None]
"""What is wrong with a state, if anything."""


class Violation(AssertionError):
    """A history that no serial execution explains."""


@dataclass(slots=True, eq=False)
class Recorded:
    """One transaction, from its beginning to what came of it.

    Fate     committed: it happened at `ts` · refused: it read a snapshot as of `ts` (None: it is not known as of when)
             and nothing came of it · unknown: the process died before the answer · replayed: it was answered, to a
             request sent twice, so it must have happened, and the log has to say when
    Units    began and ended in ns of a clock that never goes back, taken before the first and after the last step
    """

    label: str
    trace: Trace
    began: int
    ended: int
    fate: Fate
    ts: int | None
    changed: bool = False  # whether some document is other than it was
    value: Any = None

    def to_json(self) -> bytes:
        """One line."""
        return dumps([getattr(self, name) for name in _FIELDS])

    @classmethod
    def from_json(cls, line: bytes | str) -> Recorded:
        """What `to_json` wrote."""
        return cls(*loads(line))

    def __str__(self) -> str:
        steps = "; ".join(describe(op) for op in self.trace)
        return f"{self.label} {self.fate} @{self.ts}: {steps}"


_FIELDS = tuple(field.name for field in fields(Recorded))


@dataclass(slots=True)
class Shown:
    """What a live query showed: the trace of the run, valid at `ts`."""

    query: str
    trace: Trace
    ts: int


@dataclass
class History:
    """Everything that happened to one store, in any order."""

    seed: object = None
    transactions: list[Recorded] = field(default_factory=list)
    shown: list[Shown] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, transaction: Recorded) -> None:
        """One more, from any thread."""
        with self._lock:
            self.transactions.append(transaction)

    def show(self, query: str, trace: Trace, ts: int) -> None:
        """A live query showed a result."""
        with self._lock:
            self.shown.append(Shown(query, trace, ts))

    def order(self) -> list[Recorded]:
        """The committed transactions in the order the store claims. At one timestamp the writer comes first."""
        committed = [one for one in self.transactions if one.fate == "committed"]
        return sorted(committed, key=lambda one: (one.ts or 0, not one.changed))

    def committed(self, name: str) -> int:
        """How many transactions with a label beginning with `name` have committed."""
        return sum(one.fate == "committed" and one.label.startswith(name) for one in self.transactions)

    def check(self, rule: Rule = lambda _state: None, log: Sequence[LogEntry] | None = None) -> State:
        """Everything above; the state at the end. Errors: Violation"""
        stored = None if log is None else _commits(log)
        if stored is not None:
            self._settle(stored)
        states = self._check_serial(rule)
        self._check_refused(states)
        self._check_real_time()
        self._check_live(states)
        if stored is not None:
            self._check_log(stored, states[-1][1])
        return states[-1][1]

    # ── serial ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _check_serial(self, rule: Rule) -> list[tuple[int, State]]:
        """Replay; every state with the timestamp since when it held."""
        states: list[tuple[int, State]] = [(0, {})]
        for one in self.order():
            assert one.ts is not None
            before = states[-1][1]
            after, wrong = replay(one.trace, before)
            if wrong is not None:
                raise self._violation("these reads fit no order", self._story(one, wrong, states))
            if not one.changed:
                continue
            if one.ts == states[-1][0]:
                raise self._violation(f"two commits have the timestamp {one.ts}", [one])
            states.append((one.ts, after))
            broken = rule(after)
            if broken is not None:
                raise self._violation(f"the state after a commit is wrong: {broken}", [one])
        return states

    def _check_refused(self, states: list[tuple[int, State]]) -> None:
        """What came to nothing nevertheless ran on one moment, and may have told its caller so."""
        for one in self.transactions:
            if one.fate == "refused" and one.ts is not None:
                _, wrong = replay(one.trace, _at(states, one.ts))
                if wrong is not None:
                    raise self._violation("a transaction that failed saw no single moment", [f"{one}", f"{wrong}"])

    def _story(self, one: Recorded, wrong: Mismatch, states: list[tuple[int, State]]) -> list[object]:
        """The transactions between the last moment at which the reads were right and the one they are claimed for."""
        right = [at for at, (_, state) in enumerate(states) if _fits(one, state, wrong.position)]
        here = len(states) - 1
        story: list[object] = []
        if right:
            nearest = max([at for at in right if at <= here], default=right[0])
            span = sorted((states[nearest][0], states[here][0]))
            story = [f"up to @{states[nearest][0]} {one.label} would have been right; then came"]
            story += [other for other in self.order() if other.changed and span[0] < (other.ts or 0) <= span[1]]
            story = [part for part in story if isinstance(part, str) or self._matters(part, one, wrong, states)]
        else:
            ids = _documents(wrong.expected) | _documents(wrong.seen)
            story = ["at no moment would it have been right; these wrote what it read:"]
            story += [other for other in self.transactions if other is not one and ids & writes(other.trace)][-4:]
        return [*story, one, wrong]

    def _matters(self, other: object, one: Recorded, wrong: Mismatch, states: list[tuple[int, State]]) -> bool:
        """Whether this commit changed what the read answers."""
        assert isinstance(other, Recorded)
        at = next(at for at, (ts, _) in enumerate(states) if ts == other.ts)
        reads = one.trace[: wrong.position + 1]
        return not same(answer(reads, states[at - 1][1]), answer(reads, states[at][1]))

    # ── real time ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _check_real_time(self) -> None:
        """Sweep over time with the newest timestamp that has been answered to anybody."""
        done = [one for one in self.transactions if one.fate == "committed"]
        moments = [(one.began, 1, one) for one in done] + [(one.ended, 0, one) for one in done]
        newest: Recorded | None = None
        for _, begins, one in sorted(moments, key=lambda moment: moment[:2]):
            ts = one.ts or 0
            if not begins:
                newest = one if newest is None or ts > (newest.ts or 0) else newest
            elif newest is not None and (ts < (newest.ts or 0) or (ts == newest.ts and one.changed)):
                raise self._violation("one had ended before the other began, and yet comes after it", [newest, one])

    # ── the log ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _settle(self, stored: dict[int, dict[str, Any]]) -> None:
        """Find out from what is stored what became of those whose process died."""
        acknowledged = {one.ts: one for one in self.order() if one.changed}
        for ts, one in acknowledged.items():
            if ts not in stored:
                raise self._violation("an acknowledged commit is not in the log", [one])
        open_fates = [one for one in self.transactions if one.fate in ("unknown", "replayed")]
        for ts, documents in sorted(stored.items()):
            if ts not in acknowledged:
                self._explain(ts, documents, open_fates)
        for one in self.transactions:
            if one.fate == "replayed" and one.changed:
                raise self._violation("an answered request is not in the log", [one])
        self.transactions = [one for one in self.transactions if one.fate not in ("unknown", "replayed")]

    def _explain(self, ts: int, documents: dict[str, Any], candidates: list[Recorded]) -> None:
        """Nobody was told that he committed at `ts`: somebody must have asked for it."""
        for one in candidates:
            if one.fate != "committed" and one.changed and writes(one.trace) >= set(documents):
                made, _ = replay(one.trace, self._state_before(ts))
                if all(same(made[id][1] if id in made else None, body) for id, body in documents.items()):
                    one.fate, one.ts = "committed", ts
                    return
        raise self._violation(f"the log has a commit @{ts} that nobody asked for", [documents])

    def _state_before(self, ts: int) -> State:
        state: State = {}
        for one in self.order():
            if one.changed and (one.ts or 0) < ts:
                state, _ = replay(one.trace, state)
        return state

    def _check_log(self, stored: dict[int, dict[str, Any]], final: State) -> None:
        """The newest revision of each document is what the replay came to."""
        newest = {id: body for _, documents in sorted(stored.items()) for id, body in documents.items()}
        for id in final.keys() | newest.keys():
            made = final[id][1] if id in final else None
            if not same(made, newest.get(id)):
                story = [one for one in self.order() if id in writes(one.trace)]
                what = f"document {id} is stored as {newest.get(id)!r} and must be {made!r}"
                raise self._violation(what, story[-3:])

    # ── live ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _check_live(self, states: list[tuple[int, State]]) -> None:
        newest: dict[str, Shown] = {}
        for shown in self.shown:
            before = newest.get(shown.query)
            if before is not None and shown.ts < before.ts:
                raise self._violation(f"{shown.query} went back from @{before.ts} to @{shown.ts}", [])
            newest[shown.query] = shown
            _, wrong = replay(shown.trace, _at(states, shown.ts))
            if wrong is not None:
                raise self._violation(f"{shown.query} showed as of @{shown.ts} what was not so", [wrong])
        for shown in newest.values():
            _, wrong = replay(shown.trace, states[-1][1])
            if wrong is not None:
                since = next(one for one in self.order() if one.changed and (one.ts or 0) > shown.ts)
                raise self._violation(f"{shown.query} stands still at @{shown.ts}", ["first missed:", since, wrong])

    def _violation(self, what: str, story: Iterable[object]) -> Violation:
        lines = "\n  ".join(map(str, story))
        return Violation(f"{what} (seed {self.seed!r}, {len(self.transactions)} transactions)\n  {lines}")


def clock() -> int:
    """The time by which transactions are recorded, in ns."""
    return time.monotonic_ns()


def shortest(steps: Sequence[T], fails: Callable[[Sequence[T]], bool]) -> list[T]:
    """As few of `steps` as still fail: take away halves, quarters, … single ones while it does. Zeller's ddmin."""
    kept, size = list(steps), max(1, len(steps) // 2)
    while True:
        smaller = _smaller(kept, size, fails)
        if smaller is not None:
            kept = smaller
        elif size == 1:
            return kept
        else:
            size = max(1, size // 2)


def _smaller(steps: list[T], size: int, fails: Callable[[Sequence[T]], bool]) -> list[T] | None:
    tries = (steps[:at] + steps[at + size :] for at in range(0, len(steps), size))
    return next((fewer for fewer in tries if fewer and fails(fewer)), None)


def _at(states: list[tuple[int, State]], ts: int) -> State:
    return next(state for since, state in reversed(states) if since <= ts)


def _fits(one: Recorded, state: State, position: int) -> bool:
    """Whether the reads up to `position` come out as recorded on this state."""
    return replay(one.trace[: position + 1], state)[1] is None


def _documents(value: Any) -> set[str]:
    """The ids in an answer."""
    found = value if isinstance(value, list) else [value]
    return {one["_id"] for one in found if isinstance(one, dict)}


def _commits(log: Sequence[LogEntry]) -> dict[int, dict[str, Any]]:
    """Timestamp to the documents of user tables written then, None once deleted."""
    found: dict[int, dict[str, Any]] = {}
    for entry in log:
        if entry.table > 10_000:
            id = encode_id(entry.table, entry.id)
            body = None if entry.body is None else {"_id": id, **loads(entry.body)}
            found.setdefault(entry.ts, {})[id] = body
    return found


def iterate_log(read: Callable[[int, int, int], list[LogEntry]], upto: int) -> Iterator[LogEntry]:
    """The whole document log, by a reader's `log`."""
    after = 0
    while True:
        entries = read(after, upto, 1000)
        if not entries:
            return
        yield from entries
        after = entries[-1].ts
