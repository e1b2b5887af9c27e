"""Tracebacks as the owner of a function wants them: their own lines, by cell, and nothing of ours.

    Traceback (most recent call last):
      Cell In[3], line 7, in transfer
        balance = account["balence"]
                  ~~~~~~~^^^^^^^^^^^
    KeyError: 'balence'

A frame belongs to the user when its file is one of the shipped sources or lies under a directory of the unit. Frames of
libraries below the last user line are left out: the line that called them is the one to look at.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterable, Mapping
from types import FrameType

from cellstore.errors import INSIDE

_OUR_ERROR = re.compile(r"^cellstore\.[\w.]*?(\w+)(?=:|$)", re.MULTILINE)
_FILE_LINE = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)(?:,)? in (?P<name>.+)')

_IMPORTING = "<frozen importlib._bootstrap>"

IsUsers = Callable[[str], bool]

TEXT_CHARS_MAX = 1 << 15  # of what an error says; the rest is nobody's reading


def plain(text: str) -> str:
    """`text` so that it can be sent: what is no Unicode is spelt out."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text


def readable(text: str) -> str:
    """`text`, plain; what is too long for anybody loses its middle."""
    if len(text) > TEXT_CHARS_MAX:
        half = TEXT_CHARS_MAX // 2
        text = f"{text[:half]} … ({len(text) - 2 * half:,} characters left out) … {text[-half:]}"
    return plain(text)


def message_of(error: BaseException) -> str:
    """What an exception of any class says of itself: its name, and its text when there is one to be had."""
    try:
        text = str(error)
    except Exception as failure:  # noqa: BLE001 — anybody's code
        text = f"<its text cannot be had: {type(failure).__name__}>"
    return readable(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def user_traceback(error: BaseException, is_users: IsUsers, cells: Mapping[str, str]) -> str:
    """The traceback of `error`, its causes included, cut down to the user's frames."""
    whole = traceback.TracebackException(type(error), error, error.__traceback__, compact=True)
    for part in _chain(whole):
        part.stack[:] = [entry for entry in part.stack if is_users(entry.filename)]
    return name_cells(_OUR_ERROR.sub(r"\1", readable(_text(whole)).rstrip("\n")), cells)


def _text(whole: traceback.TracebackException) -> str:
    """As Python formats it, with the lines of a function that was called below those of the one that called it."""
    notes = whole.__notes__ if isinstance(whole.__notes__, list) else []
    inner = [note for note in notes if isinstance(note, str) and note.startswith(INSIDE)]
    if not inner:
        return "".join(whole.format())
    whole.__notes__ = [note for note in notes if note not in inner]
    reason = "".join(whole.format_exception_only())
    return "".join(["".join(whole.format()).removesuffix(reason), *(f"{note}\n" for note in inner), reason])


def _chain(top: traceback.TracebackException) -> Iterable[traceback.TracebackException]:
    pending: list[traceback.TracebackException | None] = [top]
    while pending:
        part = pending.pop()
        if part is not None:
            yield part
            pending += [part.__cause__, part.__context__]
            pending += getattr(part, "exceptions", None) or []


def name_cells(text: str, cells: Mapping[str, str]) -> str:
    """`File "/tmp/ipykernel_1/2.py", line 3, in f` becomes `Cell In[5], line 3, in f`."""

    def rename(match: re.Match[str]) -> str:
        cell = cells.get(match["file"])
        return match[0] if cell is None else f"{cell}, line {match['line']}, in {match['name']}"

    return _FILE_LINE.sub(rename, text)


def user_line(frame: FrameType | None, is_users: IsUsers, cells: Mapping[str, str]) -> str:
    """`Cell In[5], line 3` where running code stands, of the innermost frame that is the user's, or nothing."""
    while frame is not None:
        name = frame.f_code.co_filename
        if is_users(name):
            return f"{cells.get(name, name)}, line {frame.f_lineno}"
        frame = frame.f_back
    return ""


def is_importing(frame: FrameType | None) -> bool:
    """Whether code that stands at `frame` is part of an import."""
    while frame is not None:
        if frame.f_code.co_filename == _IMPORTING:
            return True
        frame = frame.f_back
    return False


def from_dump(dump: str, is_users: IsUsers, cells: Mapping[str, str], texts: Mapping[str, str]) -> str:
    """A faulthandler dump (innermost first) as a traceback of the user's frames (innermost last).

    `texts`: what stands in the files, as far as it is known.
    """
    frames = [
        f'  File "{match["file"]}", line {match["line"]}, in {match["name"]}'
        + _quoted(texts.get(match["file"], ""), int(match["line"]))
        for match in _FILE_LINE.finditer(dump)
        if is_users(match["file"])
    ]
    if not frames:
        return ""
    return name_cells("\n".join(["Traceback (most recent call last):", *reversed(frames)]), cells)


def _quoted(text: str, number: int) -> str:
    """A line of `text` as it stands below its frame; nothing when there is no such line."""
    lines = text.splitlines()
    return f"\n    {lines[number - 1].strip()}" if number <= len(lines) else ""
