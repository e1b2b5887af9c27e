"""Sets of half-open intervals over key bytes.

A read set is, for each index, a set of the intervals a transaction looked at. Intervals merge as they are added, so a
scan that records every step stays one interval.

Shape:     [lo, hi), bytes; a single key k is [k, k + 00)
Invariant: the intervals held are sorted, not empty, and neither overlap nor touch
Cost:      add O(log n) and a list insertion; contains O(log n)
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import TypeAlias

Interval: TypeAlias = tuple[bytes, bytes]
ReadIntervals: TypeAlias = dict[int, list[Interval]]
"""Index number to its sorted, disjoint intervals: a read set at rest."""


def point(key: bytes) -> Interval:
    """The interval that holds `key` and nothing else."""
    return key, key + b"\0"


class IntervalSet:
    """A growing union of intervals."""

    __slots__ = ("_his", "_los")

    def __init__(self, intervals: Iterable[Interval] = ()) -> None:
        self._los: list[bytes] = []
        self._his: list[bytes] = []
        for lo, hi in intervals:
            self.add(lo, hi)

    def add(self, lo: bytes, hi: bytes) -> None:
        """Join [lo, hi) to the set. An empty interval changes nothing."""
        if lo >= hi:
            return
        los, his = self._los, self._his
        # those from `first` up to, not including, `last` overlap or touch [lo, hi)
        first = bisect_left(his, lo)
        last = bisect_right(los, hi, first)
        if first < last:
            lo = min(lo, los[first])
            hi = max(hi, his[last - 1])
        los[first:last] = [lo]
        his[first:last] = [hi]

    def update(self, intervals: Iterable[Interval]) -> None:
        """Add every one of `intervals`."""
        for lo, hi in intervals:
            self.add(lo, hi)

    def copy(self) -> IntervalSet:
        """An independent set of the same intervals."""
        made = IntervalSet()
        made._los, made._his = self._los[:], self._his[:]
        return made

    def covers(self, lo: bytes, hi: bytes) -> bool:
        """Is all of [lo, hi) in the set?"""
        at = bisect_right(self._los, lo) - 1
        return lo >= hi or (at >= 0 and hi <= self._his[at])

    def overlaps(self, lo: bytes, hi: bytes) -> bool:
        """Is any of [lo, hi) in the set?"""
        at = bisect_right(self._his, lo)
        return lo < hi and at < len(self._los) and self._los[at] < hi

    def intervals(self) -> list[Interval]:
        """The intervals, sorted and disjoint."""
        return list(zip(self._los, self._his, strict=True))

    def check(self) -> None:
        """Assert the invariant."""
        assert all(lo < hi for lo, hi in self), "an empty interval"
        assert all(hi < lo for hi, lo in zip(self._his, self._los[1:], strict=False)), "intervals overlap or touch"

    def __contains__(self, key: bytes) -> bool:
        at = bisect_right(self._los, key) - 1
        return at >= 0 and key < self._his[at]

    def __iter__(self) -> Iterator[Interval]:
        return zip(self._los, self._his, strict=True)

    def __len__(self) -> int:
        return len(self._los)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, IntervalSet):
            return NotImplemented
        return self._los == other._los and self._his == other._his

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"IntervalSet({self.intervals()!r})"
