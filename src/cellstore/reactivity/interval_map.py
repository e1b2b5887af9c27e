"""Which subscribers cover this key?

One `IntervalMap` per index. Points (a document looked up by id) live in a dict; proper intervals in an interval tree
that holds each *distinct* interval once, its subscribers in a set beside it. Ten thousand clients that watch the same
range are one interval: put raw into the tree they would collide and cost seconds a look-up.

Shape:     intervals are half-open [lo, hi) over index-key bytes; a point is [key, key + b"\\0")
Cost:      add, discard O(log distinct); one key O(log distinct + hits); many keys at once the cheaper of one look-up
           per key and one bisection per interval
Invariant: no empty subscriber set is kept; tree and `_ranges` hold the same intervals
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Iterable, Sequence
from typing import Generic, TypeVar

from intervaltree import Interval, IntervalTree

S = TypeVar("S", bound=Hashable)
K = TypeVar("K", bound=Hashable)
Bounds = tuple[bytes, bytes]


class IntervalMap(Generic[S]):
    """Subscribers of one index, by the intervals they read."""

    __slots__ = ("_points", "_ranges", "_tree")

    def __init__(self) -> None:
        self._points: dict[bytes, set[S]] = {}
        self._ranges: dict[Bounds, set[S]] = {}
        self._tree = IntervalTree()

    def __bool__(self) -> bool:
        return bool(self._points or self._ranges)

    def add(self, intervals: Iterable[Bounds], subscriber: S) -> None:
        """`subscriber` wants to hear of every key in `intervals`. Empty intervals are dropped."""
        for lo, hi in intervals:
            if hi == lo + b"\0":
                self._points.setdefault(lo, set()).add(subscriber)
            elif lo < hi:
                held = self._ranges.get((lo, hi))
                if held is None:
                    held = self._ranges[lo, hi] = set()
                    self._tree.add(Interval(lo, hi))
                held.add(subscriber)

    def discard(self, intervals: Iterable[Bounds], subscriber: S) -> None:
        """Undo `add` with the same intervals."""
        for lo, hi in intervals:
            if hi == lo + b"\0":
                _drop(self._points, lo, subscriber)
            elif lo < hi and _drop(self._ranges, (lo, hi), subscriber):
                self._tree.remove(Interval(lo, hi))

    def hits(self, keys: Sequence[bytes]) -> set[S]:
        """Every subscriber that covers at least one of `keys`."""
        found: set[S] = set()
        if self._points:
            for key in keys:
                held = self._points.get(key)
                if held:
                    found |= held
        if self._ranges:
            if len(keys) > 16 and len(keys) > len(self._ranges):
                self._scan_ranges(sorted(keys), found)
            else:
                for key in keys:
                    for interval in self._tree.at(key):
                        found |= self._ranges[interval.begin, interval.end]
        return found

    def _scan_ranges(self, keys: list[bytes], found: set[S]) -> None:
        for (lo, hi), held in self._ranges.items():
            place = bisect_left(keys, lo)
            if place < len(keys) and keys[place] < hi:
                found |= held


def _drop(table: dict[K, set[S]], key: K, subscriber: S) -> bool:
    """Take `subscriber` out of `table[key]`; true when that set is gone with it."""
    held = table.get(key)
    if held is None:
        return False
    held.discard(subscriber)
    if held:
        return False
    del table[key]
    return True
