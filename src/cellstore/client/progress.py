"""A progress bar where the user is looking: in the cell, in the terminal, or nowhere.

It is drawn by the thread that does the work, between two steps, a few times a second at most; a thread of its own would
print into whatever cell happens to run. What it leaves behind is one line that says what was done, and nothing where it
failed before there was anything to say.
"""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

_REDRAW_S = 0.2
_PATIENT_S = 1.0  # a call may take so long without a word


class Progress(AbstractContextManager["Progress"]):
    """Counts to `total` (None: not known). Draws nothing when `shown` is false or nobody could see it."""

    def __init__(self, what: str, total: float | None, shown: bool = True) -> None:
        self._what, self._total = what, total
        self._began = self._drawn = time.monotonic()
        self.done: float = 0
        self.note = ""
        self.is_over = False
        self._screen: Any = None if not shown else _notebook() or _terminal(what, total)

    def advance(self, count: int) -> None:
        """`count` more are done."""
        self.done += count
        now = time.monotonic()
        if self._screen is not None and now - self._drawn >= _REDRAW_S:
            self._drawn = now
            self._screen.draw(self)

    def report(self, done: float, total: float | None, note: str) -> None:
        """How far somebody else says it is."""
        self._total, self.note = total, note
        self.done = done
        self.advance(0)

    @property
    def total(self) -> float | None:
        """How many there will be."""
        return self._total

    @property
    def text(self) -> str:
        """'flights: 120,000 of 336,776 · 41,000/s'; with a note, that in the place of the speed."""
        of = f" of {self._total:,}" if self._total is not None and self.done != self._total else ""
        seconds = max(time.monotonic() - self._began, 1e-9)
        if self.note:
            return f"{self._what}: {self.done:,}{of} in {seconds:.1f} s · {self.note}"
        return f"{self._what}: {self.done:,}{of} in {seconds:.1f} s · {self.done / seconds:,.0f}/s"

    def __exit__(self, kind: type[BaseException] | None = None, *_: object) -> None:
        self.is_over = True
        if self._screen is not None and (kind is None or self.done):
            self._screen.close(self)


class ActionBar:
    """The bar of an action that runs elsewhere: told on one thread, drawn on the one that waits; nothing until it is told."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._latest: tuple[float, float | None, str] | None = None
        self._bar: Progress | None = None

    def heard(self, done: float, total: float | None, note: str) -> None:
        """From any thread: how far it is."""
        self._latest = (done, total, note)

    def draw(self) -> None:
        """Show what was heard last."""
        latest, self._latest = self._latest, None
        if latest is not None:
            if self._bar is None:
                self._bar = Progress(self._what, latest[1])
            self._bar.report(*latest)

    def close(self) -> None:
        """It is over; the last word stays."""
        self.draw()
        if self._bar is not None:
            self._bar.__exit__()


class WaitingLine:
    """What a call waits for, in the cell that made it, once it has waited for a while; then how long it did."""

    done, total, is_over = 0.0, None, True  # no bar

    def __init__(self, what: str, waits_for: Callable[[], str]) -> None:
        self._what, self._waits_for = what, waits_for
        self._began = time.monotonic()
        self._screen: _Cell | None = None
        self.text = ""

    def draw(self) -> None:
        """Called now and then while it waits."""
        waited_s = time.monotonic() - self._began
        if waited_s < _PATIENT_S:
            return
        self._screen = self._screen or _notebook()
        if self._screen is not None:
            self.text = f"{self._what}: {self._waits_for()} ({waited_s:.0f} s)"
            self._screen.draw(self)

    def close(self) -> None:
        """It waits no longer."""
        if self._screen is not None:
            self.text = f"{self._what}: waited {time.monotonic() - self._began:.1f} s"
            self._screen.draw(self)


class _Shown(Protocol):
    """What a screen draws."""

    @property
    def text(self) -> str: ...
    @property
    def done(self) -> float: ...
    @property
    def total(self) -> float | None: ...
    @property
    def is_over(self) -> bool: ...


class _Cell:
    """An HTML bar in the output of the cell that runs."""

    def __init__(self, display: Any) -> None:
        self._display = display
        self._handle: Any = None

    def draw(self, progress: _Shown) -> None:
        bundle = {"text/plain": progress.text, "text/html": _bar(progress)}
        if self._handle is not None:
            self._handle.update(bundle, raw=True)
        else:
            self._handle = self._display(bundle, raw=True, display_id=True)

    close = draw


class _Terminal:
    """A line that is drawn over itself."""

    def __init__(self, what: str, total: float | None) -> None:
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._rich = RichProgress(TextColumn("{task.description}"), BarColumn(), auto_refresh=False, transient=True)
        self._task = self._rich.add_task(what, total=total)

    def draw(self, progress: Progress) -> None:
        self._rich.update(self._task, completed=progress.done, description=progress.text)
        self._rich.start()
        self._rich.refresh()

    def close(self, progress: Progress) -> None:
        self._rich.stop()
        print(progress.text, file=sys.stderr)


def _notebook() -> _Cell | None:
    """The cell that runs, in a kernel; None elsewhere."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None or getattr(shell, "kernel", None) is None:
        return None
    from IPython.display import display

    return _Cell(display)


def _terminal(what: str, total: float | None) -> _Terminal | None:
    """This process's terminal; None when its output goes elsewhere."""
    return _Terminal(what, total) if sys.stderr.isatty() else None


def _bar(progress: _Shown) -> str:
    known = "" if progress.total is None else f' value="{progress.done}" max="{progress.total}"'
    bar = "" if progress.is_over else f'<progress{known} style="width:16em"></progress> '
    return f'<div style="font-variant-numeric:tabular-nums">{bar}{html.escape(progress.text)}</div>'
