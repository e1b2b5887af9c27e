"""Time and chance, handed in. Nothing below the server reads a clock or rolls dice by itself.

Units:  timestamps are integer nanoseconds since the epoch (`Timestamp`); creation times are float milliseconds.
"""

from __future__ import annotations

import os
import time
from typing import NewType, Protocol

Timestamp = NewType("Timestamp", int)


class Clock(Protocol):
    """Where "now" comes from."""

    def now_ns(self) -> int:
        """Wall clock, nanoseconds since the epoch. May jump; nobody may rely on it rising."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now_ns(self) -> int:
        return time.time_ns()


def system_random(count: int) -> bytes:
    """`count` bytes nobody can guess."""
    return os.urandom(count)
