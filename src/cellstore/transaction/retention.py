"""Giving up history in the background, in slices no writer notices.

    every trim_pause_s      slice ▸ pause ▸ slice ▸ pause ▸ …      until nothing older than retention_s is left

A slice takes about `trim_slice_s`: how many rows that is, is learnt from the slices before. The pause after a slice is
three times as long as the slice took, so trimming takes a quarter of the time at most and keeps up with any stream of
writes, since giving up a revision is quicker than writing one. Whoever drives this (the deployment's loop, or a script)
just calls `slice` and waits as long as it says.

Order      any thread; a slice and a group commit take turns
Errors     StorageError from a slice leaves nothing half done: try again later. FatalError: stop
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from cellstore.clock import Clock
from cellstore.knobs import Knobs
from cellstore.transaction.pace import Pace
from cellstore.transaction.window import Window

if TYPE_CHECKING:
    from cellstore.storage.contract import Storage

_ROWS_MAX = 256  # cheap rows, many at a time, may be followed by dear ones
_PAUSE_SHARE = 3  # of a slice's time
_PAUSE_MIN_S = 0.01  # also where no history is kept at all


class Retention:
    """What is given up when. One per store.

    Invariant  the newest moment that lasts stays readable, however little history is kept
    """

    def __init__(self, storage: Storage, clock: Clock, knobs: Knobs, published_ts: Callable[[], int]) -> None:
        self._storage = storage
        self._published_ts = published_ts
        self._clock = clock
        self._knobs = knobs
        self._window = Window(knobs.retention_s)
        self._pace = Pace(knobs.trim_slice_s, _ROWS_MAX)

    def slice(self) -> float:
        """Give up a little of what is too old. Returns in how many seconds to call again."""
        looked, took_s = self._trim()
        if looked:
            return max(_PAUSE_SHARE * took_s, 0.001)
        return max(min(self._knobs.trim_pause_s, self._knobs.retention_s / 10), _PAUSE_MIN_S)

    def drain(self) -> None:
        """Give up all that is too old. For whoever can wait; others get their turn between slices."""
        while self._trim()[0]:
            pass

    def _trim(self) -> tuple[int, float]:
        """One slice: at how many rows it looked, and how long it took."""
        knobs, now = self._knobs, self._clock.now_ns()
        begun = time.perf_counter()
        looked = self._storage.trim(
            min(self._window.begin(now, self._storage.last_ts), self._published_ts()),
            self._pace.size,
            requests_before_ts=now - int(knobs.request_retention_s * 1e9),
            requests_kept=knobs.requests_kept_max,
        )
        took_s = time.perf_counter() - begun
        self._pace.learn(looked, took_s)
        return looked, took_s
