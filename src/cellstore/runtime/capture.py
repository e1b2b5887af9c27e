"""What a function prints, logs and warns about becomes log lines of its call.

A line is `"[LEVEL] text"` with the levels DEBUG, INFO, LOG (print), WARN and ERROR. The lines of the call that runs in
this thread or task are found through a context variable, so concurrent actions do not mix, and whoever prints outside
of a call reaches the real stream.

Invariant  at most `log_lines_max` lines of at most `log_line_chars` characters; then a line says so
"""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TextIO

from cellstore.knobs import DEFAULTS, Knobs
from cellstore.runtime.traces import name_cells, plain, user_traceback

_OURS = str(Path(__file__).parents[1]) + os.sep
_LEVELS = {"DEBUG": "DEBUG", "INFO": "INFO", "WARNING": "WARN", "ERROR": "ERROR", "CRITICAL": "ERROR"}


class LogLines:
    """The log lines of one call, bounded; each is also handed to `sink` as it is complete.

    `cells`: file name to "Cell In[3]", for the tracebacks among them.
    """

    __slots__ = ("_cells", "_knobs", "_partial", "_sink", "dropped", "lines")

    def __init__(
        self,
        knobs: Knobs = DEFAULTS,
        sink: Callable[[str], None] | None = None,
        cells: Mapping[str, str] | None = None,
    ) -> None:
        self.lines: list[str] = []
        self.dropped = 0
        self._partial = ""
        self._sink = sink
        self._knobs = knobs
        self._cells = cells

    def write(self, level: str, text: str) -> None:
        """One whole message."""
        if len(self.lines) > self._knobs.log_lines_max:
            self.dropped += 1
            return
        limit = self._knobs.log_line_chars
        text = name_cells(text, self._cells) if self._cells else text
        if len(self.lines) == self._knobs.log_lines_max:
            line = f"[WARN] more than {self._knobs.log_lines_max} log lines; the rest of this call's lines is dropped"
        else:
            line = plain(f"[{level}] {text if len(text) <= limit else text[:limit] + ' … (cut)'}")
        self.lines.append(line)
        if self._sink is not None:
            self._sink(line)

    def print(self, text: str) -> None:
        """A piece of printed text; lines end at newlines."""
        *whole, self._partial = (self._partial + text).split("\n")
        for line in whole:
            self.write("LOG", line)

    def finish(self) -> list[str]:
        """All lines, the unfinished one too."""
        if self._partial:
            self.write("LOG", self._partial)
            self._partial = ""
        return self.lines


current: ContextVar[LogLines | None] = ContextVar("cellstore_log_lines", default=None)


class _Stream(io.TextIOBase):
    """Stands in for stdout or stderr: inside a call it collects, outside it passes on."""

    def __init__(self, real: TextIO | Any) -> None:
        self.real = real

    def write(self, text: str) -> int:
        lines = current.get()
        if lines is None:
            return int(self.real.write(text) or 0)
        lines.print(text)
        return len(text)

    def flush(self) -> None:
        if current.get() is None:
            self.real.flush()

    def writable(self) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class _Formatter(logging.Formatter):
    """Tracebacks without our frames."""

    def formatException(self, ei: Any) -> str:  # noqa: N802 — logging's name
        return user_traceback(ei[1], lambda file: not file.startswith(_OURS), {}) if ei[1] else ""


class _Handler(logging.Handler):
    """Root logging handler: records of a running call become its log lines."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(_Formatter())

    def emit(self, record: logging.LogRecord) -> None:
        lines = current.get()
        if lines is not None:
            lines.write(_LEVELS.get(record.levelname, "INFO"), self.format(record))


class _Installed:
    """Counts who needs the capture; the first puts it in place, the last removes it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._undo: Callable[[], None] = lambda: None

    def acquire(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._undo = _install()

    def release(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._undo()


_installed = _Installed()


def install() -> None:
    """Capture for the rest of this process (workers): from INFO up, and a warning in every call that gives it."""
    logging.getLogger().setLevel(logging.INFO)
    warnings.simplefilter("always", UserWarning)
    _installed.acquire()


@contextmanager
def installed() -> Iterator[None]:
    """Capture while the block runs (functions inside a user's own process)."""
    _installed.acquire()
    try:
        yield
    finally:
        _installed.release()


def _install() -> Callable[[], None]:
    out, err, show = sys.stdout, sys.stderr, warnings.showwarning
    handler, root = _Handler(), logging.getLogger()

    def showwarning(message: Any, category: type[Warning], *rest: Any, **more: Any) -> None:
        lines = current.get()
        if lines is None:
            show(message, category, *rest, **more)
        else:
            lines.write("WARN", f"{category.__name__}: {message}")

    sys.stdout, sys.stderr = _Stream(out), _Stream(err)
    warnings.showwarning = showwarning
    root.addHandler(handler)

    def undo() -> None:
        # Somebody else may have replaced the streams since; only our own stand-ins are taken away.
        if isinstance(sys.stdout, _Stream):
            sys.stdout = out
        if isinstance(sys.stderr, _Stream):
            sys.stderr = err
        if warnings.showwarning is showwarning:
            warnings.showwarning = show
        root.removeHandler(handler)

    return undo
