"""Named points where a test may stop, fail or kill the process. Free in production: one dictionary look-up.

    faults.reach("commit.persisted")          in the code
    faults.install("commit.persisted", kill)  in a test

A server that a crash test starts (`cellstore serve`) arms itself from the environment when it begins to serve:
`CELLSTORE_FAULT="commit.persisted=kill@3"` kills the process the third time it gets there.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

_armed: dict[str, Callable[[], None]] = {}


def reach(name: str) -> None:
    """Called by the code at the point `name`."""
    action = _armed.get(name)
    if action is not None:
        action()


def install(name: str, action: Callable[[], None]) -> None:
    """Run `action` whenever the point `name` is reached."""
    _armed[name] = action


def clear() -> None:
    """Disarm every point."""
    _armed.clear()


def arm_from_environment() -> None:
    """Arm the points named in CELLSTORE_FAULT (`name=kill@N`, comma separated)."""
    for clause in filter(None, os.environ.get("CELLSTORE_FAULT", "").split(",")):
        name, _, rest = clause.partition("=")
        what, _, count = rest.partition("@")
        if what != "kill":
            raise ValueError(f"CELLSTORE_FAULT knows only name=kill@N, got {clause!r}")
        install(name, _kill_at(int(count or 1)))


def _kill_at(count: int) -> Callable[[], None]:
    left = count

    def action() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return action
