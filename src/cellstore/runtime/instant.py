"""Coroutines that never wait, run to their end: what an `async def` query or mutation is.

`await ctx.…`, helpers of one's own, `asyncio.gather`, task groups and `asyncio.sleep(0)` are at home here: they hand over
between coroutines and need nobody from outside. What would take time (a sleep, a socket, a thread) has nobody to wait for.

The loop has no selector: when nothing is ready it does not wait, it refuses. Nested calls have a loop each.
"""

from __future__ import annotations

import asyncio
from asyncio import events
from collections.abc import Coroutine
from typing import Any


class WouldWait(Exception):
    """Nothing is ready, and nothing ever will be without time passing."""


class _Loop(asyncio.BaseEventLoop):
    """A loop that is its own selector."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = self
        self.tasks = 0  # that were made

    def create_task(self, *args: Any, **options: Any) -> asyncio.Task[Any]:
        """As ever, and counted."""
        self.tasks += 1
        return super().create_task(*args, **options)

    def select(self, timeout: float | None) -> list[Any]:
        """Nothing comes from outside. Raises when somebody waits for it."""
        if timeout != 0:
            raise WouldWait
        return []

    def _process_events(self, _events: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody sleeps who would have to be woken."""


_idle: list[_Loop] = []  # loops that nothing is left in


def run_at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The coroutine's result. Errors: its own; WouldWait, with the traceback of where it waits."""
    around = events._get_running_loop()
    events._set_running_loop(None)
    loop, clean = _idle.pop() if _idle else _Loop(), False
    loop.tasks = 0
    try:
        result = _run(loop, coroutine)
        clean = loop.tasks == 1
        return result
    finally:
        if clean:
            _idle.append(loop)
        else:
            _end(loop)
        events._set_running_loop(around)


def _run(loop: _Loop, coroutine: Coroutine[Any, Any, Any]) -> Any:
    main = loop.create_task(coroutine)
    try:
        return loop.run_until_complete(main)
    except WouldWait as refusal:
        raise refusal.with_traceback(_where(loop, main)) from None


def _where(loop: _Loop, task: asyncio.Task[Any]) -> Any:
    """The traceback of where a task waits: that of cancelling it there."""
    task.cancel()
    try:
        loop.run_until_complete(task)
    except (asyncio.CancelledError, WouldWait) as stopped:
        return stopped.__traceback__
    return None


def _end(loop: _Loop) -> None:
    """Let go of tasks nobody waited for."""
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        try:
            loop.run_until_complete(asyncio.wait(left))
        except WouldWait:  # one that does not let itself be cancelled
            pass
    loop.close()
