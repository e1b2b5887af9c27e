"""The newest records of a log stream on disk, beside the store: what was said before a restart, or before a crash.

    store.db-logs      {"stream": name}, then one JSON array a record; begun anew when it is full
    store.db-logs.1    the one before

Written twice a second in one piece, so a record costs a microsecond and a crash loses the last half second of talk (never
of data). What does not read as a record, a torn last line, is passed over. A disk that does not take it is no reason to
stop: the stream goes on in memory.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

Entry = tuple[int, float, str, str, str, list[str], bool, str, float]
"""number, seconds since 1970, kind, path, request id, lines, ok, error, duration in ms (below 0: it still runs)"""

log = logging.getLogger(__name__)
_FIELDS = (int, float, str, str, str, list, bool, str, float)


class LogFile:
    """Two files that take turns, `size_max` bytes each."""

    def __init__(self, store: str, size_max: int) -> None:
        self._path, self._before = Path(f"{store}-logs"), Path(f"{store}-logs.1")
        self._size_max = size_max
        self._size = 0
        self.name = secrets.token_hex(4)  # of the stream; that of the file once it is loaded

    def load(self) -> list[Entry]:
        """What is there, oldest first."""
        entries: list[Entry] = []
        for path in (self._before, self._path):
            try:
                lines = path.read_bytes().splitlines()
            except OSError:  # not there yet
                continue
            for line in lines:
                match _parsed(line):
                    case {"stream": str(name)}:
                        self.name = name
                    case [*fields] if [type(each) for each in fields] == list(_FIELDS):
                        entries.append(tuple(fields))
        return entries

    def append(self, entries: Iterable[Entry]) -> None:
        """Write these. Never raises for what the disk does."""
        data = b"".join(orjson.dumps(entry) + b"\n" for entry in entries)
        try:
            if not self._size and self._path.exists():
                self._size = self._path.stat().st_size
                data = b"\n" + data  # a crash may have torn the last line
            if self._size > self._size_max:
                self._path.replace(self._before)
                self._size = 0
            if not self._size:
                data = orjson.dumps({"stream": self.name}) + b"\n" + data
            with self._path.open("ab") as file:
                file.write(data)
            self._size += len(data)
        except OSError as error:
            self._size = 0  # some of it may be there: the next begins on a line of its own
            log.warning("the log stream is not kept on disk: %s", error)


def _parsed(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
