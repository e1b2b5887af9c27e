"""What functions said and how they ended, of late: the log stream of a deployment.

    every call      one record when it is over: its lines, duration, error
    an action       a record for each line as it is written, then one for its end
    the system      what nobody called for: runs that were missed, a module that changed hands

Records are numbered; a reader asks for those after the last one it has seen, and may wait for more. Only the newest are
kept, in memory. A stream has a name of its own, so a reader notices that the server began another.

Cost       a tuple in a ring per call; words are made when somebody reads
Invariant  numbers rise by one; the request id in a record is the one its caller was told
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from typing import Any

from cellstore.runtime.outcome import Outcome

_Entry = tuple[int, float, str, str, str, list[str], bool, str, float]  # see `_plain`
_PATH_CHARS_MAX = 200
_NO_LINES: list[str] = []


class LogStream:
    """The newest records. On the host's loop, except `say`."""

    def __init__(self, records_max: int) -> None:
        self.name = secrets.token_hex(4)
        self._entries: deque[_Entry] = deque(maxlen=records_max)
        self._last = 0
        self._errors: dict[str, tuple[float, str, str]] = {}  # by function: its latest
        self._waiting: list[asyncio.Future[None]] = []

    def request_id(self) -> str:
        """An id for a request that begins now and says things before it ends."""
        return secrets.token_hex(8)

    def note(self, kind: str, path: str, outcome: Outcome, request_id: str = "", *, said: bool = False) -> Outcome:
        """A call is over; its error gets its request id. `said`: its lines are in the stream already."""
        path = path[:_PATH_CHARS_MAX]
        error = outcome.error
        if error is not None:
            if not error.request_id:
                error.request_id = request_id or self.request_id()
            request_id = error.request_id
            text = error.traceback or error.message
            if error.code != "NotFound":  # names that somebody made up are not kept
                self._errors[path] = (time.time() * 1000, error.message, error.request_id)
        else:
            text = ""
        self._add(kind, path, request_id, _NO_LINES if said else outcome.logs, error is None, text, outcome.duration_ms)
        return outcome

    def line(self, kind: str, path: str, request_id: str, line: str) -> None:
        """A call that still runs has said something."""
        self._add(kind, path, request_id, [line], True, "", -1.0)

    def say(self, level: str, text: str, path: str = "") -> None:
        """Something that no caller can be told."""
        self._add("system", path, "", [f"[{level}] {text}"], True, "", -1.0)

    def _add(
        self, kind: str, path: str, request_id: str, lines: list[str], ok: bool, error: str, duration_ms: float
    ) -> None:
        self._last += 1
        self._entries.append((self._last, time.time(), kind, path, request_id, lines, ok, error, duration_ms))
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    def after(self, number: int, limit: int) -> list[dict[str, Any]]:
        """The records after `number` that are still there, oldest first, at most `limit`."""
        missing = max(0, self._last - number)
        entries = list(self._entries)[-missing:] if missing else []
        return [self._plain(entry) for entry in entries[:limit]]

    def tail(self, count: int) -> list[dict[str, Any]]:
        """The newest `count` records."""
        return self.after(self._last - count, count)

    def last_error(self, path: str) -> dict[str, Any]:
        """The latest error of a function since the server started, under its name in a listing; empty when there was none."""
        if path not in self._errors:
            return {}
        at_ms, message, request_id = self._errors[path]
        return {"last_error": {"at_ms": at_ms, "message": message, "request_id": request_id}}

    @property
    def last(self) -> int:
        """The number of the newest record."""
        return self._last

    async def more(self, number: int, wait_s: float) -> None:
        """Wait until there is a record after `number`, at most `wait_s`."""
        if self._last > number or wait_s <= 0:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            async with asyncio.timeout(wait_s):
                await future
        except TimeoutError:
            pass  # then there is nothing new

    def _plain(self, entry: _Entry) -> dict[str, Any]:
        number, at, kind, path, request_id, lines, ok, error, duration_ms = entry
        record: dict[str, Any] = {"number": number, "at_ms": at * 1000, "kind": kind, "function": path, "lines": lines}
        record["request_id"] = request_id or f"{self.name}{number:08x}"
        if duration_ms >= 0:
            record["ok"], record["duration_ms"] = ok, duration_ms
        if error:
            record["error"] = error
        return record
