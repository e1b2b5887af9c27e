"""A thread that owns an asyncio loop, and waits that Ctrl-C interrupts.

A notebook's own loop stands still while a cell runs, so the client keeps a loop of its own on a daemon thread. Calls
come in from any thread through `submit`; answers go back as `concurrent.futures.Future`. An interrupt reaches only the
main thread and only between bytecodes, so every wait here is a row of short ones.

Invariant: nothing blocks on the loop's own thread; a forked child owns none of its parent's loops and says so.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from concurrent.futures.thread import ThreadPoolExecutor  # noqa: F401  has its exit handler registered before ours
from typing import Any, Protocol, TypeVar

from cellstore.errors import CallerError, Disconnected

T = TypeVar("T")

WAIT_TICK_S = 0.1  # how long an interrupt may go unnoticed
STOP_TIMEOUT_S = 5.0


class Closeable(Protocol):
    """What is closed at exit."""

    def close(self) -> None:
        """End it; again is fine."""
        ...


class LoopThread:
    """One daemon thread running one event loop."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._owner = os.getpid()
        self._thread.start()

    @property
    def is_usable(self) -> bool:
        """Does the thread run, in this very process?"""
        return self._owner == os.getpid() and self._thread.is_alive() and not self.loop.is_closed()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine on the loop. Errors: Disconnected in a forked child or after `stop`."""
        try:
            self._check()
        except BaseException:
            coroutine.close()
            raise
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def call_soon(self, function: Callable[..., object], *args: object) -> None:
        """Run a plain function on the loop, in order with others. Errors: as `submit`."""
        self._check()
        self.loop.call_soon_threadsafe(function, *args)

    def run(self, coroutine: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        """Start a coroutine and wait for its end.

        Errors: its own, TimeoutError, CallerError when called on the loop's own thread.
        """
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise CallerError(
                "a blocking cellstore call was made on cellstore's own thread, where it would wait for itself; "
                "make it from another thread",
                code="WouldBlockForever",
            )
        return wait(self.submit(coroutine), timeout_s)

    def stop(self) -> None:
        """Cancel what still runs and end the thread. Again is fine; a no-op in a forked child."""
        if not self.is_usable:
            return
        self.loop.call_soon_threadsafe(self.loop.stop)
        if threading.current_thread() is not self._thread:
            self._thread.join(STOP_TIMEOUT_S)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            leftover = asyncio.all_tasks(self.loop)
            for task in leftover:
                task.cancel()
            if leftover:
                self.loop.run_until_complete(asyncio.gather(*leftover, return_exceptions=True))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()

    def check_process(self) -> None:
        """Errors: Disconnected in a forked child, which has its parent's sockets too, and must leave them alone."""
        if self._owner != os.getpid():
            raise Disconnected(
                "this process was forked from one that held a cellstore connection, and threads do not cross a fork; "
                "connect again here with cs.connect() or cs.open()"
            )

    def _check(self) -> None:
        self.check_process()
        if not self.is_usable:
            raise Disconnected("this cellstore connection is closed; connect again with cs.connect() or cs.open()")


def wait(future: Future[T], timeout_s: float | None = None) -> T:
    """The future's result, waited for in steps short enough that Ctrl-C works at once.

    Errors: the future's own; TimeoutError after `timeout_s`.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        left = WAIT_TICK_S if deadline is None else min(WAIT_TICK_S, deadline - time.monotonic())
        try:
            return future.result(max(left, 0.0))
        except TimeoutError:
            if future.done():  # the error is the result, not our tick
                raise
            if deadline is not None and time.monotonic() >= deadline:
                raise


_shared: LoopThread | None = None
_shared_lock = threading.Lock()
_open: weakref.WeakSet[Closeable] = weakref.WeakSet()


def shared_loop() -> LoopThread:
    """The process's one loop thread for sockets; started at first use, and again in a forked child."""
    global _shared
    with _shared_lock:
        if _shared is None or not _shared.is_usable:
            _shared = LoopThread("cellstore-client")
        return _shared


def close_at_exit(thing: Closeable) -> None:
    """Have `thing` closed politely when the interpreter ends, unless it is gone by then."""
    _open.add(thing)


def _close_all() -> None:
    for thing in list(_open):
        with contextlib.suppress(Exception):  # the interpreter is going away; nobody is left to tell
            thing.close()
    if _shared is not None:
        _shared.stop()


# Ordinary exit handlers run after executors have been shut down, which closing an engine still needs; handlers of
# `threading` run before, the latest registered first.
_at_exit: Callable[[Callable[[], None]], object] = getattr(threading, "_register_atexit", atexit.register)
_at_exit(_close_all)


def _after_fork_in_child() -> None:
    global _shared, _shared_lock, _open
    _shared, _shared_lock, _open = None, threading.Lock(), weakref.WeakSet()


os.register_at_fork(after_in_child=_after_fork_in_child)
