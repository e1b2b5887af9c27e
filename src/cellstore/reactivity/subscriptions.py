"""Follows the committer and finds the read sets each commit touched.

    commit ─▶ index keys, old and new ─▶ interval maps ─▶ subscribers hit ─▶ told once, with the commit's timestamp

The committer calls `on_commit` synchronously, perhaps from a thread; matching happens on the event loop right after,
once for all commits of a group. `catch_up` matches at once, for a caller who needs the newest moment now.

Cost:      of a commit: its keys times the log of the distinct intervals of the indexes it touches, plus the hits
Invariant: `processed_ts` never falls, and every subscriber still registered read nothing that changed in
           (its subscription, processed_ts]
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

from cellstore.errors import OutOfRetention
from cellstore.knobs import Knobs
from cellstore.reactivity.interval_map import IntervalMap
from cellstore.transaction.requests import Commit
from cellstore.transaction.write_log import WriteLog
from cellstore.values.interval import ReadIntervals

S = TypeVar("S", bound=Hashable)


class Subscriptions(Generic[S]):
    """Read sets with somebody interested in them.

    Keeps a write log of its own, of what it has processed, because the committer's may be ahead and on another thread.

    Order: everything but `on_commit` happens on the event loop's thread.
    """

    def __init__(self, wake: Callable[[], None], published_ts: int, knobs: Knobs) -> None:
        self.processed_ts = published_ts
        self._log = WriteLog(published_ts, knobs)
        self._wake = wake  # asks the loop to call catch_up soon; safe from any thread
        self._pending: deque[Commit] = deque()
        self._indexes: dict[int, IntervalMap[S]] = {}
        self._on_hit: Callable[[S, int], None] = lambda _subscriber, _ts: None
        self._on_commit: Callable[[Commit], None] = lambda _commit: None

    def listen(self, on_hit: Callable[[S, int], None], on_commit: Callable[[Commit], None]) -> None:
        """Call `on_commit` for every commit, then `on_hit(subscriber, commit_ts)` for each read set it touched."""
        self._on_hit, self._on_commit = on_hit, on_commit

    def on_commit(self, commits: Sequence[Commit]) -> None:
        """The committer's listener."""
        self._pending.extend(commits)
        self._wake()

    def catch_up(self) -> int:
        """Match everything published so far; returns `processed_ts`."""
        while self._pending:
            commit = self._pending.popleft()
            if commit.ts <= self.processed_ts:
                continue  # committed before we began to follow
            self._log.append(commit)
            if self._log.needs_trim():
                self._log.trim()
            self.processed_ts = commit.ts
            self._on_commit(commit)
            for subscriber in self.touched(commit):
                self._on_hit(subscriber, commit.ts)
        return self.processed_ts

    def ended(self, reads: ReadIntervals, since_ts: int) -> int | None:
        """When, after `since_ts`, the first processed commit touched `reads`; None when none did.

        Of a moment older than what is remembered only that moment itself is vouched for.
        """
        try:
            return self._log.first_hit(reads, since_ts)
        except OutOfRetention:
            return since_ts + 1

    def touched(self, commit: Commit) -> set[S]:
        """Whose read sets hold one of the commit's keys."""
        found: set[S] = set()
        for index, keys in commit.keys.items():
            intervals = self._indexes.get(index)
            if intervals is not None:
                found |= intervals.hits(keys)
        return found

    def add(self, reads: ReadIntervals, subscriber: S) -> None:
        """Watch `reads` on behalf of `subscriber`. The caller makes sure nothing in it changed up to `processed_ts`."""
        for index, intervals in reads.items():
            self._indexes.setdefault(index, IntervalMap()).add(intervals, subscriber)

    def discard(self, reads: ReadIntervals, subscriber: S) -> None:
        """Undo `add` with the same reads."""
        for index, intervals in reads.items():
            held = self._indexes.get(index)
            if held is not None:
                held.discard(intervals, subscriber)
                if not held:
                    del self._indexes[index]
