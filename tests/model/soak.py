"""How long to look: a fixed few seeds, or fresh ones for CELLSTORE_SOAK_S seconds a test."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator

SOAK_S = float(os.environ.get("CELLSTORE_SOAK_S", "0"))


def seeds(count: int) -> Iterator[int]:
    """0 … count - 1; while soaking, then as many random ones as time allows."""
    yield from range(count)
    deadline = time.monotonic() + SOAK_S
    while time.monotonic() < deadline:
        yield random.randrange(1 << 32)


def seconds(usual: float) -> float:
    """How long a test against the clock runs."""
    return max(usual, SOAK_S)
