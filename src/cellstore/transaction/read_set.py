"""What a transaction has looked at: the only place where reads are recorded.

    get(id), found or not          the one key in by_id
    a scan, while it runs          from its start to the last document consumed, in scan direction
    a scan that came to its end    its whole interval, the empty tail too: nothing may appear there unnoticed
    a count                        its whole interval, under the `membership` of the index: what comes or goes matters, not
                                   what stays and is changed

Documents fetched ahead but never handed out are not recorded, and a scan nobody pulled records nothing. Recording too
much is slow; recording too little is wrong.

Invariant  intervals only grow; nothing is taken back, not even when a nested mutation is rolled back
"""

from __future__ import annotations

from dataclasses import dataclass

from cellstore.errors import LimitExceeded
from cellstore.knobs import DEFAULTS, Knobs
from cellstore.values.interval import IntervalSet, ReadIntervals


@dataclass(slots=True)
class RangeRead:
    """One scan of an index. `reach` is the key consumed last; `done` once nothing is left in the interval."""

    index: int
    lo: bytes
    hi: bytes
    descending: bool = False
    reach: bytes | None = None
    done: bool = False

    @property
    def interval(self) -> tuple[bytes, bytes] | None:
        """What has been seen so far, or None before the first pull."""
        if self.done:
            return self.lo, self.hi
        if self.reach is None:
            return None
        return (self.reach, self.hi) if self.descending else (self.lo, self.reach + b"\0")


class ReadSet:
    """Index intervals a transaction depends on, and the budget it reads within.

    Errors: LimitExceeded naming read_rows_max, read_size_bytes or read_intervals_max
    """

    __slots__ = ("_implied", "_intervals", "_knobs", "_points", "_ranges", "rows", "size_bytes")

    def __init__(self, knobs: Knobs = DEFAULTS) -> None:
        self._knobs = knobs
        self._points: dict[int, set[bytes]] = {}
        self._ranges: list[RangeRead] = []
        self._implied: dict[int, set[tuple[bytes, bytes]]] = {}
        self._intervals = 0
        self.rows = 0
        self.size_bytes = 0

    def point(self, index: int, key: bytes, size_bytes: int = 0) -> None:
        """One key was looked up, whether or not a document (of that size) was there. Again costs nothing."""
        keys = self._points.get(index)
        if keys is None:
            keys = self._points[index] = set()
        elif key in keys:
            return
        keys.add(key)
        self._count_interval()
        self.consumed(size_bytes)

    def open(self, index: int, lo: bytes, hi: bytes, descending: bool = False) -> RangeRead:
        """A scan begins. The caller moves `reach` with each document it hands out and sets `done` at the end."""
        read = RangeRead(index, lo, hi, descending)
        self._ranges.append(read)
        self._count_interval()
        return read

    def imply(self, index: int, interval: tuple[bytes, bytes]) -> None:
        """A dependency on a name or definition, which no user asked for and no limit counts."""
        self._implied.setdefault(index, set()).add(interval)

    def consumed(self, size_bytes: int) -> None:
        """A document of that size was handed out."""
        self.rows += 1
        self.size_bytes += size_bytes
        knobs = self._knobs
        if self.rows > knobs.read_rows_max:
            raise self._exceeded("read_rows_max", knobs.read_rows_max, self.rows, "documents")
        if self.size_bytes > knobs.read_size_bytes:
            raise self._exceeded("read_size_bytes", knobs.read_size_bytes, self.size_bytes, "bytes")

    def intervals(self) -> ReadIntervals:
        """Everything read so far: index number to sorted, disjoint intervals."""
        # keys of by_id have one length, so points neither overlap nor touch
        found: dict[int, list[tuple[bytes, bytes]]] = {
            index: [(key, key + b"\0") for key in sorted(keys)] for index, keys in self._points.items()
        }
        if not self._implied and not self._ranges:
            return found
        mixed: set[int] = set()  # indexes whose intervals may overlap
        for index, implied in self._implied.items():
            found.setdefault(index, []).extend(implied)
            mixed.add(index)
        for read in self._ranges:
            interval = read.interval
            if interval is not None:
                found.setdefault(read.index, []).append(interval)
                mixed.add(read.index)
        for index in mixed:
            found[index] = _merged(found[index])
        return found

    def _count_interval(self) -> None:
        self._intervals += 1
        if self._intervals > self._knobs.read_intervals_max:
            raise self._exceeded(
                "read_intervals_max", self._knobs.read_intervals_max, self._intervals, "lookups and scans"
            )

    def _exceeded(self, knob: str, limit: int, used: int, what: str) -> LimitExceeded:
        return LimitExceeded(
            f"this call read {used:,} {what} and the limit {knob} is {limit:,}: read less with an index range, take(n) or "
            "pages, or raise the limit",
            knob=knob,
            limit=limit,
            used=used,
        )


def _merged(spans: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    if len(spans) < 2:
        return spans
    merged = IntervalSet()
    for lo, hi in spans:
        merged.add(lo, hi)
    return list(merged)
