"""Room in the write-ahead log for the commits to come, so that their fsyncs need not record that the file has grown.

    │ commits … │ commit │ zeros, on the disk already                          │
                          ▲ the next commit                                     ▲ moved on by a thread, when little is left

The fsync of a commit that makes the log longer waits for the file system's journal as well, which takes half as long
again. SQLite finds the end of its log by checksums and not by the size of the file: zeros behind it mean nothing to it.

Order      `noticed` by the writer after each commit, holding its guard. The thread takes the guard for a slice at a time:
           at the end of the file, where it writes, SQLite might write as well. Each slice is on the disk before the next is
           begun: the writer gets its turn, and no fsync of a commit has more than one to wait for
Errors     none. Where no room is to be had (a full disk), what was begun is given back, and no more is asked for
"""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

FRAME_BYTES = 4096 + 24  # of a page in the log
FROM_BYTES = 128 << 10  # a store with hardly any commits needs none
FIRST_BYTES, MOST_BYTES = 1 << 20, 40 << 20  # the log is begun again at about 32 MB
SLICE = bytes(256 << 10)  # what the writer may have to wait for


class Room:
    """The room in one log file. `guard` is what the writer holds while it writes."""

    def __init__(self, log: Path, guard: threading.Lock) -> None:
        self._log, self._guard = log, guard
        self._thread: threading.Thread | None = None
        self._used_bytes = 0  # by the log
        self._size_bytes = 0  # of the file, as far as is known
        self._most_bytes = MOST_BYTES if hasattr(os, "pwrite") else 0
        self._closed = False

    def noticed(self, pages: int) -> None:
        """After a commit: the log holds so many pages. Makes room when little is left. The writer's guard is held."""
        used_bytes = pages * FRAME_BYTES
        if used_bytes < self._used_bytes:
            self._size_bytes = 0  # it has begun again, and perhaps the file was cut
        self._used_bytes = used_bytes
        is_little = self._size_bytes < self._most_bytes and used_bytes > self._size_bytes * 3 // 4
        if is_little and used_bytes > FROM_BYTES and self._thread is None and not self._closed:
            self._begin()

    def close(self) -> None:
        """Make no more. Not while holding the guard."""
        with self._guard:
            self._closed = True
            thread = self._thread
        if thread is not None:
            thread.join()

    def _begin(self) -> None:
        self._thread = thread = threading.Thread(target=self._run, name="cellstore room", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no thread to be had: commits take longer, that is all
            self._thread = None

    def _run(self) -> None:
        try:
            aim_bytes = min(max(2 * self._used_bytes, FIRST_BYTES), self._most_bytes)
            with self._log.open("r+b", buffering=0) as log:
                while self._lengthen(log.fileno(), aim_bytes):
                    os.fsync(log.fileno())
        except OSError:
            self._most_bytes = 0
        finally:
            self._thread = None

    def _lengthen(self, log: int, aim_bytes: int) -> bool:
        """One slice; false when there is no need of another."""
        with self._guard:
            self._size_bytes = size_bytes = os.fstat(log).st_size
            if size_bytes >= aim_bytes or self._closed:
                return False
            try:
                if os.pwrite(log, SLICE, size_bytes) < len(SLICE):  # as much as there was room for
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                os.ftruncate(log, size_bytes)  # whoever has something to write there needs it more
                raise
        return True
