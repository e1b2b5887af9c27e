"""Recent commits in memory: did anybody write what I read?

Commits stand in timestamp order. The newest few are looked at one by one; older ones are gathered in blocks of 64 whose
keys are sorted per index, so that an interval is checked against a block by one bisection. Most transactions begin a
moment before they commit, and most of those commits were their own lane's: both are decided without looking at a key.

Cost       nobody else committed since: O(1). Else O(log n) per interval and block of 64 commits
Bound      write_log_s and write_log_keys_max; whoever began before the oldest commit kept gets OutOfRetention
Invariant  timestamps rise; every commit in (floor_ts, last_ts] is here
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator

from cellstore.errors import ConflictError, OutOfRetention
from cellstore.knobs import DEFAULTS, Knobs
from cellstore.transaction.requests import Commit, Lane
from cellstore.values.interval import ReadIntervals

BLOCK_COMMITS = 64
_BISECT_FROM = 8
_Block = dict[int, list[bytes]]  # all keys of 64 commits in a row by index, sorted


class WriteLog:
    """Commits newer than `floor_ts`.

    Order   one thread at a time; the committer holds its lock, readers of the log run between commits
    """

    def __init__(
        self,
        floor_ts: int = 0,
        knobs: Knobs = DEFAULTS,
        describe: Callable[[int], str] = lambda index: f"index {index}",
    ) -> None:
        self.floor_ts = floor_ts
        self._knobs = knobs
        self._describe = describe
        self._ts: list[int] = []
        self._commits: list[Commit] = []
        self._blocks: list[_Block | None] = []  # block i covers commits [64 i, 64 i + 64); made when first needed
        self._keys = 0
        self._newest: tuple[str | None, int] = (None, floor_ts)  # the lane that committed last, and when
        self._newest_other = floor_ts  # when somebody not of that lane did
        self._lane_position: dict[str, int] = {}

    @property
    def last_ts(self) -> int:
        """The newest commit; the floor of an empty log."""
        return self._ts[-1] if self._ts else self.floor_ts

    def __len__(self) -> int:
        return len(self._commits)

    def append(self, commit: Commit) -> None:
        """The next commit. Its timestamp is above all others."""
        assert commit.ts > self.last_ts, "timestamps rise"
        self._ts.append(commit.ts)
        self._commits.append(commit)
        self._keys += sum(map(len, commit.keys.values()))
        lane, newest = self._newest
        if commit.lane is None or commit.lane != lane:
            self._newest_other = newest
        self._newest = (commit.lane, commit.ts)
        if commit.lane is not None:
            self._lane_position[commit.lane] = max(commit.position, self._lane_position.get(commit.lane, 0))

    def truncate(self, after_ts: int) -> None:
        """Forget the commits after `after_ts`: they could not be made durable. What the log knows of lanes stays on the
        careful side."""
        keep = bisect_right(self._ts, after_ts)
        self._keys -= sum(len(keys) for commit in self._commits[keep:] for keys in commit.keys.values())
        del self._ts[keep:], self._commits[keep:], self._blocks[keep // BLOCK_COMMITS :]

    def trim(self) -> None:
        """Give up what the knobs do not keep, whole blocks at a time."""
        horizon = self.last_ts - int(self._knobs.write_log_s * 1e9)
        drop = bisect_left(self._ts, horizon) // BLOCK_COMMITS * BLOCK_COMMITS
        keys = self._keys - self._key_count(0, drop)
        while keys > self._knobs.write_log_keys_max and drop + BLOCK_COMMITS < len(self._ts):
            keys -= self._key_count(drop, drop + BLOCK_COMMITS)
            drop += BLOCK_COMMITS
        if drop:
            self.floor_ts = self._ts[drop - 1]
            self._keys = keys
            del self._ts[:drop], self._commits[:drop], self._blocks[: drop // BLOCK_COMMITS]

    def needs_trim(self) -> bool:
        """Whether `trim` would find something; cheap."""
        if len(self._ts) <= BLOCK_COMMITS:
            return False
        old = self._ts[BLOCK_COMMITS] < self._ts[-1] - int(self._knobs.write_log_s * 1e9)
        return old or self._keys > self._knobs.write_log_keys_max

    def conflict(self, reads: ReadIntervals, after_ts: int, lane: Lane | None = None) -> ConflictError | None:
        """The first commit after `after_ts` that wrote into `reads`, as an error; None when there is none.

        Commits the transaction saw in its lane's overlay do not count.
        Errors: OutOfRetention when the log does not reach back to `after_ts`
        """
        if self._nothing_foreign(after_ts, lane) or not reads:
            return None
        hit = self._first(reads, after_ts, lane)
        if hit is None:
            return None
        commit, index = hit
        writer = f" by {commit.source}" if commit.source else ""
        return ConflictError(
            f"another commit{writer} changed {self._describe(index)} inside what this transaction read: run it again",
            index=max(index, ~index),
            write_ts=commit.ts,
            writer=commit.source,
        )

    def first_hit(self, reads: ReadIntervals, after_ts: int) -> int | None:
        """The timestamp of the first commit after `after_ts` that wrote into `reads`. Errors: OutOfRetention"""
        hit = self._first(reads, after_ts, None)
        return None if hit is None else hit[0].ts

    def since(self, after_ts: int) -> list[Commit]:
        """The commits after `after_ts`. Errors: OutOfRetention"""
        self._check_reach(after_ts)
        return self._commits[bisect_right(self._ts, after_ts) :]

    def check(self) -> None:
        """Assert the invariants."""
        assert self._ts == [commit.ts for commit in self._commits]
        assert all(a < b for a, b in zip(self._ts, self._ts[1:], strict=False))
        assert self._keys == self._key_count(0, len(self._ts))
        assert not self._ts or self.floor_ts < self._ts[0]

    def _nothing_foreign(self, after_ts: int, lane: Lane | None) -> bool:
        """Whether every commit after `after_ts` is one the lane's transaction saw."""
        newest_lane, newest = self._newest
        if newest <= after_ts:
            return True
        if lane is None or newest_lane != lane.id:
            return False
        return self._newest_other <= after_ts and self._lane_position[lane.id] <= lane.seen

    def _check_reach(self, after_ts: int) -> None:
        if after_ts < self.floor_ts:
            raise OutOfRetention(
                "this transaction began too long ago to be checked: begin again",
                ts=after_ts,
                min_snapshot_ts=self.floor_ts,
            )

    def _first(self, reads: ReadIntervals, after_ts: int, lane: Lane | None) -> tuple[Commit, int] | None:
        self._check_reach(after_ts)
        at, end = bisect_right(self._ts, after_ts), len(self._commits)
        while at < end:
            if at % BLOCK_COMMITS == 0 and at + BLOCK_COMMITS <= end and not _touches(self._block(at), reads):
                at += BLOCK_COMMITS
                continue
            stop = min(end, at - at % BLOCK_COMMITS + BLOCK_COMMITS)
            for commit in self._commits[at:stop]:
                if lane is not None and commit.lane == lane.id and commit.position <= lane.seen:
                    continue
                index = _touched_index(commit, reads)
                if index is not None:
                    return commit, index
            at = stop
        return None

    def _block(self, at: int) -> _Block:
        number = at // BLOCK_COMMITS
        while len(self._blocks) <= number:
            self._blocks.append(None)
        block = self._blocks[number]
        if block is None:
            block = self._blocks[number] = _gather(self._commits[at : at + BLOCK_COMMITS])
        return block

    def _key_count(self, start: int, stop: int) -> int:
        return sum(len(keys) for commit in self._commits[start:stop] for keys in commit.keys.values())

    def __iter__(self) -> Iterator[Commit]:
        return iter(self._commits)


def _gather(commits: list[Commit]) -> _Block:
    keys: _Block = {}
    for commit in commits:
        for index, touched in commit.keys.items():
            keys.setdefault(index, []).extend(touched)
    for touched in keys.values():
        touched.sort()
    return keys


def _touches(keys: _Block, reads: ReadIntervals) -> bool:
    """Whether some interval holds one of the sorted keys."""
    for index, intervals in reads.items():
        touched = keys.get(index)
        if touched is not None and any(_holds(touched, lo, hi) for lo, hi in intervals):
            return True
    return False


def _holds(touched: list[bytes], lo: bytes, hi: bytes) -> bool:
    at = bisect_left(touched, lo)
    return at < len(touched) and touched[at] < hi


def _touched_index(commit: Commit, reads: ReadIntervals) -> int | None:
    """The first index in which a commit wrote into the reads."""
    for index, touched in commit.keys.items():
        intervals = reads.get(index)
        if intervals is None:
            continue
        if len(touched) >= _BISECT_FROM:
            commit.sort()
            if any(_holds(touched, lo, hi) for lo, hi in intervals):
                return index
        elif len(intervals) >= _BISECT_FROM:
            if any(_inside(key, intervals) for key in touched):
                return index
        elif any(lo <= key < hi for key in touched for lo, hi in intervals):
            return index
    return None


def _inside(key: bytes, intervals: list[tuple[bytes, bytes]]) -> bool:
    """Whether sorted, disjoint intervals hold the key."""
    at = bisect_right(intervals, (key, b"\xff" * 64)) - 1
    return at >= 0 and key < intervals[at][1]
