"""What functions said and how they ended, of late: the log stream of a deployment.

    every call      one record when it is over: its lines, duration, error
    an action       a record for each line as it is written, then one for its end
    the system      what nobody called for: runs that were missed, a module that changed hands

Records are numbered; a reader asks for those after the last one it has seen, and may wait for more. Only the newest are
kept: in memory, and in a file beside the store, from which a server that starts again goes on. A stream without a file has
a name of its own, so a reader notices that another began.

Cost       a tuple in a ring per call; words are made when somebody reads, or twice a second for the file
Invariant  numbers rise; the request id in a record is the one its caller was told
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from typing import Any

from cellstore.knobs import Knobs
from cellstore.runtime.log_file import Entry, LogFile
from cellstore.runtime.outcome import Outcome

_WRITE_EVERY_S = 0.5
_QUIET_MAX = 100  # calls that said nothing and went well, written at a time: of thousands the newest will do
_LOST_MAX = 1_000_000  # numbers that may have been given, and shown to somebody, without being written
_PATH_CHARS_MAX = 200
_NO_LINES: list[str] = []


class LogStream:
    """The newest records. On the host's loop, except `say`."""

    def __init__(self, knobs: Knobs, store: str = "") -> None:
        """`store`: the path of the store it is about; empty for one that is not on disk."""
        self._file = LogFile(store, knobs.log_file_bytes)
        self._entries: deque[Entry] = deque(maxlen=knobs.log_records_kept)
        self._last = self._written = 0
        self._errors: dict[str, tuple[float, str, str]] = {}  # by function: its latest
        self._waiting: list[asyncio.Future[None]] = []
        self._writing: asyncio.TimerHandle | None = None
        self._is_kept = bool(store)

    @property
    def name(self) -> str:
        """Of this stream; it outlives the server where there is a file."""
        return self._file.name

    def start(self) -> None:
        """Take up what was said before, and keep what will be."""
        if self._is_kept:
            self._entries.extend(self._file.load())
            if self._entries:
                self._last = self._written = self._entries[-1][0] + _LOST_MAX
            self._write()

    def stop(self) -> None:
        """Write what is not written."""
        if self._writing is not None:
            self._writing.cancel()
            self._write()
            self._writing.cancel()

    def _write(self) -> None:
        self._writing = asyncio.get_running_loop().call_later(_WRITE_EVERY_S, self._write)
        if self._last == self._written:
            return
        new = self._newer(self._written)
        self._written = self._last
        quiet = [entry[0] for entry in new if _is_quiet(entry)][-_QUIET_MAX:]
        self._file.append(entry for entry in new if not _is_quiet(entry) or entry[0] >= quiet[0])

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
        return [self._plain(entry) for entry in self._newer(number)[:limit]]

    def _newer(self, number: int) -> list[Entry]:
        missing = max(0, self._last - number)
        entries = list(self._entries)[-missing:] if missing else []
        return [entry for entry in entries if entry[0] > number]

    def tail(self, count: int) -> list[dict[str, Any]]:
        """The newest `count` records."""
        return [self._plain(entry) for entry in list(self._entries)[-count:]] if count > 0 else []

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
        finally:
            if future in self._waiting:
                self._waiting.remove(future)

    def _plain(self, entry: Entry) -> dict[str, Any]:
        number, at, kind, path, request_id, lines, ok, error, duration_ms = entry
        record: dict[str, Any] = {"number": number, "at_ms": at * 1000, "kind": kind, "function": path, "lines": lines}
        record["request_id"] = request_id or f"{self.name}{number:08x}"
        if duration_ms >= 0:
            record["ok"], record["duration_ms"] = ok, duration_ms
        if error:
            record["error"] = error
        return record


def _is_quiet(entry: Entry) -> bool:
    _, _, _, _, _, lines, ok, _, _ = entry
    return ok and not lines
