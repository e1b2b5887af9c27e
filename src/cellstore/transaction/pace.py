"""How much to do at a time so that nobody waits long: learnt from what was done before.

A row may be forty bytes or a megabyte, a disk fast or busy, so work that others wait for goes in slices of some
milliseconds, and how much fits into one is found out.
"""

from __future__ import annotations

_SIZE_MIN = 16
_EAGERNESS_MAX = 2  # a slice is at most this many times as large as the one before


class Pace:
    """The size of the next slice, in whatever is counted; it is to take `slice_s`."""

    def __init__(self, slice_s: float, size_max: int) -> None:
        self.size = _SIZE_MIN
        self._slice_s, self._size_max = slice_s, size_max

    def learn(self, done: int, took_s: float) -> None:
        """A slice came to `done`, and took so long."""
        fitting = self.size * self._slice_s / max(took_s, 1e-6)
        if done >= self.size or fitting < self.size:  # a slice that found little says nothing about a full one
            self.size = int(min(max(_SIZE_MIN, min(fitting, self.size * _EAGERNESS_MAX)), self._size_max))
