"""A clock that shows what a test says."""

from __future__ import annotations

from collections.abc import Callable

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
