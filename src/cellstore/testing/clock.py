"""Clocks that show what a test says."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random

NOON_NS = 1_750_000_000_000_000_000


class FakeClock:
    """Stands still until told otherwise; may go backward, as real clocks do.

    Units    ns. `step` is asked at each look how far the clock has gone since the last one, negative for back
    """

    def __init__(self, now_ns: int = NOON_NS, step: Callable[[], int] = lambda: 0) -> None:
        self._now_ns = now_ns
        self._step = step

    def now_ns(self) -> int:
        """What the clock shows."""
        self._now_ns += self._step()
        return self._now_ns

    def move(self, by_ns: int) -> None:
        """Forward, or back."""
        self._now_ns += by_ns


class JumpingClock:
    """The time of day, wrong by up to an hour: by how much is drawn anew at every look."""

    def __init__(self, seed: int) -> None:
        self._dice = Random(seed)

    def now_ns(self) -> int:
        """What the clock shows."""
        return time.time_ns() + self._dice.choice((0, 1, -1)) * self._dice.randrange(3_600 * 10**9)
