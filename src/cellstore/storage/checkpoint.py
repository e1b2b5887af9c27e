"""Copying the write-ahead log back into the file, beside the writer, so that no commit waits for it.

    commit · commit · commit ▸ the log is long ▸ commit · commit · commit · commit ▸ wait ▸ commit: the log begins anew
                                      └── a thread copies ──────────────┘ └ the last few pages

SQLite begins the log again only at a moment when all of it is copied. Beside a writer that never rests there is no such
moment, so the last few pages are copied while the writer waits: a few milliseconds for every 32 MB of log. SQLite syncs the
file only then; what was copied before is synced by the thread, so that the writer has not to wait for that. A log that gets
far ahead of the thread (bulk loads) is copied by the writer itself, which slows it down to what the disk can do.

Where readers overlap all the time the log is not begun again although it is copied; see `SqliteStorage._bound_log`.

Order      `noticed` by the writer after each commit, holding its guard; the thread takes the guard for the last few pages
Errors     what could not be copied (a full disk) stays in the log, where it is safe, and is tried again. Only when the file
           could not be synced it is not: the next sync might succeed without the pages. Then `failure` says so: stop
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import apsw

from cellstore.errors import CellstoreError

PAGES = 8000  # 32 MB of log before it is copied back
PAGES_AGAIN = 1000  # the same, after it was copied but readers kept it from beginning again
PAGES_AT_ONCE = 32_000  # the writer itself copies a log that has become so long
_FEW_PAGES = 512  # left to be copied while the writer waits: a millisecond, and a sync
_ROUNDS_MAX = 8  # of copying what came while the round before was under way


class Checkpoints:
    """The checkpoints of one store.

    `connect` opens a connection of its own for the thread; `guard` is what the writer holds while it writes.
    """

    def __init__(self, writer: apsw.Connection, connect: Callable[[], apsw.Connection], guard: threading.Lock) -> None:
        self._writer, self._connect, self._guard = writer, connect, guard
        self._path = writer.filename
        self._file: int | None = None  # open to be synced, once something was copied
        self._turn = threading.Lock()  # one copies at a time; taken after the guard
        self._thread: threading.Thread | None = None
        self.pages = 0  # in the log after the newest commit
        self._copied = 0  # of them, as far as is known
        self._closed = False
        self.failure: apsw.IOError | OSError | None = None
        writer.wal_autocheckpoint(0)
        writer.set_wal_hook(self._on_commit)

    def noticed(self) -> None:
        """After a commit: begin to copy if it is time to. Raises nothing. The writer's guard is held."""
        if self.pages < self._copied:
            self._copied = 0  # the log has begun again
        if self.pages >= PAGES_AT_ONCE and self.pages - self._copied >= PAGES_AGAIN:
            self._copy(self._writer)
        elif self.pages - self._copied >= (PAGES_AGAIN if self._copied else PAGES) and self._is_idle():
            self._begin()

    def _begin(self) -> None:
        self._thread = thread = threading.Thread(target=self._run, name="cellstore checkpoint", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more to be had; the commit has happened all the same
            self._thread = None
            self._copy(self._writer)

    def begin_again(self) -> bool:
        """Empty the log, waiting for readers as long as the writer's connection does. The writer's guard is held."""
        with self._turn:
            try:
                self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            except apsw.BusyError:
                return False
            except apsw.Error as error:
                self._note(error)
                raise
        return True

    def close(self) -> None:
        """Copy no more. Not while holding the guard."""
        with self._guard:  # nobody begins to copy at this moment
            self._closed = True
            thread = self._thread
        if thread is not None:
            thread.join()

    def let_go(self) -> None:
        """Close the file. Only when no connection of this process is left: they would lose their locks on it."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _is_idle(self) -> bool:
        return self._thread is None and not self._closed

    def _on_commit(self, _connection: apsw.Connection, _database: str, pages: int) -> int:
        self.pages = pages
        return apsw.SQLITE_OK

    def _run(self) -> None:
        try:
            connection = self._connect()
            try:
                self._keep_up(connection)
                with self._guard:
                    if not self._closed and self.failure is None:
                        self._copy(connection)
            finally:
                connection.close(True)
        except (apsw.Error, CellstoreError) as error:
            self._note(error)
        finally:
            self._thread = None

    def _keep_up(self, connection: apsw.Connection) -> None:
        """Copy and sync until little is left to do of either, or as good as it gets."""
        for _ in range(_ROUNDS_MAX):
            self._copy(connection)
            self._sync()
            if self._closed or self.failure is not None or self.pages - self._copied <= _FEW_PAGES:
                return

    def _sync(self) -> None:
        """Have the disk take what was copied, so that it need not do so while the writer waits."""
        if self._file is None:
            try:
                self._file = os.open(self._path, os.O_RDWR)
            except OSError:  # no more files to be had: then it is all synced in the end
                return
        try:
            os.fsync(self._file)
        except OSError as error:
            self.failure = error

    def _copy(self, connection: apsw.Connection) -> None:
        """Copy what no reader needs in the log, and sync the file."""
        with self._turn:
            try:
                _, self._copied = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            except apsw.Error as error:
                self._note(error)

    def _note(self, error: Exception) -> None:
        self._copied = self.pages  # tried; again when there is more
        if isinstance(error, apsw.IOError) and getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_FSYNC:
            self.failure = error
