"""Errors as the caller meets them: the right type, the user's own lines, nothing of ours in between.

A failure crosses the wire as code, message, data and a text traceback of the user's function. `error_from` makes the
exception of our hierarchy again. In a cell, errors a user can do something about print as the user's own call lines,
the user's own function lines, and the reason; our own bugs print in full. Ctrl-C prints where the user was.
In a plain script an error that ends it prints the same way (`report`, called by the front door's `sys.excepthook`). What
somebody else prints has the function's lines as a note of the exception, which `doorway`, around everything a user calls,
sees to.
"""

from __future__ import annotations

import functools
import inspect
import linecache
import os
import sys
import traceback as tracebacks
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from cellstore import errors
from cellstore.client.wire import Failure, read_failure
from cellstore.errors import ApplicationError, CellstoreError, FunctionError, function_lines

_RED, _PLAIN = "\x1b[31m", "\x1b[39m"  # as IPython prints the name of an error
_OURS = str(Path(__file__).parents[1]) + os.sep
_HOST_PARTS = (
    "/IPython/core/",
    "/ipykernel/",
    "/concurrent/futures/",
    "/asyncio/",
    "/contextlib.py",
    "/cellstore_kernel/",
)


def error_from(failure: Failure, path: str = "") -> CellstoreError:
    """The exception that a failure stands for; `path` is what was called."""
    function = failure.function or path
    if failure.code == "ApplicationError" or (failure.has_data and not {failure.code, failure.kind} & _CLASSES.keys()):
        error: CellstoreError = ApplicationError(failure.data, failure.message or None)
    else:
        error = (_CLASSES.get(failure.kind) or _CLASSES.get(failure.code, FunctionError))(failure.message)
        error.code = failure.code
        if failure.has_data:
            error.data = failure.data
    if isinstance(error, FunctionError):
        error.function, error.request_id = function, failure.request_id
        error.traceback = failure.traceback
    _add_lines(error, failure.traceback, function, failure.message)
    return error


def _add_lines(error: CellstoreError, traceback: str, function: str, reason: str) -> None:
    lines = function_lines(traceback, function, reason)
    if traceback and "\n" in lines:  # more than the heading: an error that no line of the user's raised has none
        error.add_note(lines)


def error_from_json(payload: object, fallback: str) -> CellstoreError:
    """The exception in an HTTP error body `{code, message, data?, traceback?, …}`; `fallback` when it is none of ours.

    Other fields of the body (path, expected, got, kind, name …) become attributes where the class has them.
    """
    if not isinstance(payload, dict) or "code" not in payload:
        return CellstoreError(fallback, code="BadAnswer")
    error = error_from(read_failure(payload, fallback))
    for name, value in payload.items():
        if name not in ("code", "message", "data", "traceback", "function", "args", "class") and hasattr(error, name):
            setattr(error, name, value)
    return error


@contextmanager
def doorway() -> Iterator[None]:
    """Around what a user calls: a function's error that passes carries the function's own lines as a note."""
    try:
        yield
    except CellstoreError as error:
        if isinstance(error, FunctionError) and error.traceback and not hasattr(error, "__notes__"):
            _add_lines(error, error.traceback, error.function, error.message)  # of an inline run
        raise
    except KeyboardInterrupt as stopped:
        setattr(stopped, "_render_traceback_", functools.partial(render_stopped, stopped))  # noqa: B010  IPython's hook
        raise


def render(error: CellstoreError, *_: Any) -> list[str]:
    """The lines a notebook prints for an error."""
    lines = [*caller_lines(error.__traceback__), *getattr(error, "__notes__", ())]
    name = type(error).__name__
    return [*lines, f"{f'{_RED}{name}{_PLAIN}' if _in_colour() else name}: {error.message}"]


def render_stopped(stopped: KeyboardInterrupt, *_: Any) -> list[str]:
    """The lines a notebook prints for a call that Ctrl-C ended: where the user called, and what becomes of the call."""
    name = f"{_RED}KeyboardInterrupt{_PLAIN}" if _in_colour() else "KeyboardInterrupt"
    fate = "; ".join(getattr(stopped, "__notes__", ()))
    return [*caller_lines(stopped.__traceback__, inward=False), f"{name}: {fate}" if fate else name]


def report(error: BaseException) -> str:
    """What a plain script that ends with `error` prints: Python's own traceback without our frames, then the function's lines
    and the reason, as in a cell. Nothing for errors that are to be printed in full.
    """
    rendered = getattr(error, "_render_traceback_", None)
    if rendered is None:
        return ""
    entries: Iterable[tracebacks.FrameSummary] = tracebacks.extract_tb(error.__traceback__)
    notes = getattr(error, "__notes__", [])
    if isinstance(error, KeyboardInterrupt):
        entries, notes = takewhile(lambda entry: not entry.filename.startswith(_OURS), entries), []
    stack = tracebacks.StackSummary.from_list([entry for entry in entries if not _is_machinery(entry.filename)])
    lines = ["Traceback (most recent call last):\n", *stack.format(), *(f"{note}\n" for note in notes)]
    return "".join([*lines, rendered()[-1], "\n"])


def _in_colour() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return str(getattr(shell, "colors", "nocolor")).lower() != "nocolor"


def caller_lines(traceback: TracebackType | None, inward: bool = True) -> list[str]:
    """The user's own frames of a traceback, outermost first: where, and the line itself.

    Not `inward`: those before ours begin, for whatever we call in turn.
    """
    walk = tracebacks.walk_tb(traceback)
    if not inward:
        walk = takewhile(lambda each: not each[0].f_code.co_filename.startswith(_OURS), walk)
    frames = [(frame, line) for frame, line in walk if not _is_machinery(frame.f_code.co_filename)]
    shown = [_frame_lines(frame, line) for frame, line in frames]
    return [lines for lines in shown if "\n    get_ipython().run_" not in lines]  # a magic: nothing the user wrote


def _frame_lines(frame: FrameType, line: int) -> str:
    path, name = frame.f_code.co_filename, frame.f_code.co_name
    where = _cell_name(path) or f'File "{path}"'
    scope = "" if name == "<module>" else f", in {name}"
    text = linecache.getline(path, line, frame.f_globals).strip()
    return f"{where}, line {line}{scope}\n    {text}"


def _cell_name(path: str) -> str | None:
    """`Cell In[3]` for code of a notebook cell."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    describe = getattr(getattr(shell, "compile", None), "format_code_name", None)
    label = describe(path) if describe is not None else None
    return " ".join(label) if label else None


def _is_machinery(path: str) -> bool:
    return path.startswith((_OURS, "<frozen ")) or any(part in path for part in _HOST_PARTS)


_CLASSES: dict[str, type[CellstoreError]] = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, CellstoreError) and value is not ApplicationError
}

for _class in (errors.CallerError, errors.FunctionError, errors.TransientError, errors.StoreLocked):
    setattr(_class, "_render_traceback_", render)  # noqa: B010  IPython's hook; the ground layer knows no notebooks
