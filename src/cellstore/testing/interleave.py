"""Threads that run one at a time and change places only where they pause, in an order a test decides.

    baton = Baton()
    baton.start("a", lambda: …)          `baton.pause()` inside: somebody else may go on
    while baton.running:
        baton.step(choose(baton.running))

What runs is ordinary blocking code; with the same choices it runs the same way again, so a failure found by dice can be
replayed and made smaller.

Order      `step` from the one thread that directs; `pause` from the others
Cost       two hand-overs a step, some 20 µs
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class Abandoned(BaseException):
    """Ends a thread nobody wants any more; not an Exception, so that nothing in between eats it."""


class _Part:
    """One thread and whether it may go."""

    def __init__(self, baton: Baton, body: Callable[[], None]) -> None:
        self.go = threading.Semaphore(0)
        self.done = False
        self.error: BaseException | None = None
        self._baton, self._body = baton, body
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        self._baton._parts_by_thread[threading.get_ident()] = self
        self.go.acquire()
        try:
            if not self._baton._abandoned:
                self._body()
        except Abandoned:
            pass
        except BaseException as error:  # noqa: BLE001  a thread ends here; whoever directs is told
            self.error = error
        finally:
            self.done = True
            self._baton._back.release()


class Baton:
    """Whose turn it is."""

    def __init__(self) -> None:
        self._parts: dict[str, _Part] = {}
        self._parts_by_thread: dict[int, _Part] = {}
        self._back = threading.Semaphore(0)
        self._abandoned = False

    @property
    def running(self) -> list[str]:
        """Those that have not come to their end, in the order they were started."""
        return [name for name, part in self._parts.items() if not part.done]

    def start(self, name: str, body: Callable[[], None]) -> None:
        """A thread that will run `body`; it waits for its first turn."""
        self._parts[name] = _Part(self, body)

    def step(self, name: str) -> None:
        """Let one go on to its next pause or its end. Errors: what it raised"""
        part = self._parts[name]
        part.go.release()
        self._back.acquire()
        if part.error is not None:
            error, part.error = part.error, None
            raise error

    def pause(self) -> None:
        """Let others go on. Outside the threads of this baton: nothing."""
        part = self._parts_by_thread.get(threading.get_ident())
        if part is None:
            return
        self._back.release()
        part.go.acquire()
        if self._abandoned:
            raise Abandoned

    def abandon(self) -> None:
        """End everything that is left, where it stands."""
        self._abandoned = True
        for name in self.running:
            self.step(name)
        for part in self._parts.values():
            part.thread.join()
