"""What a cell made ends when the cell runs again.

    cell 3 runs          board = cs.live(tasks); cs.subscribe(tasks, ring)      held by cell 3
    cell 5 shows board                                                          held by both
    cell 3 runs again    the subscription ends; the board lives on in cell 5
    cell 5 runs again    now the board ends too

So a cell run twenty times is one live view, not twenty. Where a frontend does not say which cell it runs (a console),
and for what is made between cells, nothing is held and everything lives until it is closed.

Order:     `begin` and `end` on the kernel's main thread; `hold` from any.
Invariant: nothing is kept alive from here.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any, Protocol


class Closeable(Protocol):
    """What a cell holds."""

    def close(self) -> None:
        """End it; again is fine."""
        ...


class Cells:
    """The cells of one shell, and what is theirs."""

    def __init__(self) -> None:
        self._running: str | None = None
        self._holders: weakref.WeakKeyDictionary[Closeable, set[str]] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()

    def install(self, shell: Any) -> None:
        """Follow the cells of `shell`, the running one included."""
        shell.events.register("pre_run_cell", self.begin)
        shell.events.register("post_run_cell", self.end)
        parent = shell.get_parent() if hasattr(shell, "get_parent") else {}
        self._running = (parent or {}).get("metadata", {}).get("cellId")

    def uninstall(self, shell: Any) -> None:
        """Follow them no more."""
        shell.events.unregister("pre_run_cell", self.begin)
        shell.events.unregister("post_run_cell", self.end)
        self._running = None

    def begin(self, info: Any) -> None:
        """IPython's pre_run_cell: close what only this cell held."""
        self._running = cell = getattr(info, "cell_id", None)
        if cell is None:
            return
        with self._lock:
            held = [(thing, cells) for thing, cells in self._holders.items() if cell in cells]
            for _, cells in held:
                cells.discard(cell)
            over = [thing for thing, cells in held if not cells]
        for thing in over:
            thing.close()

    def end(self, _result: Any = None) -> None:
        """IPython's post_run_cell."""
        self._running = None

    def hold(self, thing: Closeable) -> None:
        """The running cell made or shows `thing`."""
        if self._running is not None:
            with self._lock:
                self._holders.setdefault(thing, set()).add(self._running)

    def let_go(self, thing: Closeable) -> None:
        """Somebody else ends `thing`."""
        with self._lock:
            self._holders.pop(thing, None)


cells = Cells()
