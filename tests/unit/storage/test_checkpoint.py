"""The log is copied back beside the writer: it does not grow, nobody waits for it, and nothing is lost when that fails."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from cellstore.errors import FatalError
from cellstore.storage import checkpoint
from cellstore.storage.checkpoint import Checkpoints
from cellstore.storage.sqlite import SqliteStorage
from cellstore.testing.revisions import Scribe, assert_same_as_scribe, keys_of

PAGE = 4096


class Stand:
    """A store whose log is long after some fifty pages, and what its log does."""

    def __init__(self, path: Path) -> None:
        self.path, self.scribe = path, Scribe()
        self.storage = SqliteStorage.open(path)

    @property
    def checkpoints(self) -> Checkpoints:
        return self.storage._checkpoints

    def write(self, commits: int) -> int:
        """The longest the log was meanwhile, in pages."""
        longest = 0
        for _ in range(commits):
            self.storage.append([self.scribe.record({n: {"a": self.scribe.ts, "pad": "x" * 3000} for n in range(10)})])
            longest = max(longest, self.checkpoints.pages)
        return longest

    def wait(self) -> None:
        """Until nothing is being copied."""
        thread = self.checkpoints._thread
        if thread is not None:
            thread.join(10)


def write_until_refused(stand: Stand) -> None:
    for _ in range(20):
        stand.write(1)
        stand.wait()


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stand]:
    monkeypatch.setattr(checkpoint, "PAGES", 50)
    made = Stand(tmp_path / "store.db")
    yield made
    made.storage.close()


def test_the_log_begins_again_beside_a_writer_that_never_rests(stand: Stand) -> None:
    begun_again, deadline = 0, time.monotonic() + 60
    while begun_again <= 3 and time.monotonic() < deadline:
        before = stand.checkpoints.pages
        stand.write(1)
        begun_again += stand.checkpoints.pages < before
    assert begun_again > 3
    assert list(stand.storage.check(keys_of)) == []


def test_commits_do_not_wait_while_the_log_is_copied(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    copying, go_on, copy = threading.Event(), threading.Event(), Checkpoints._keep_up

    def slowly(self: Checkpoints, connection: apsw.Connection) -> None:
        copying.set()
        assert go_on.wait(10)
        copy(self, connection)

    monkeypatch.setattr(Checkpoints, "_keep_up", slowly)
    stand.write(10)
    assert copying.wait(10)
    assert stand.write(20) > 200, "they went on, and the log grew"
    go_on.set()
    stand.wait()
    stand.write(1)
    assert stand.checkpoints.pages < 50, "it began again"


def test_commits_do_not_wait_while_what_was_copied_is_synced(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    syncing, go_on, sync = threading.Event(), threading.Event(), Checkpoints._sync

    def slowly(self: Checkpoints) -> None:
        syncing.set()
        assert go_on.wait(10)
        sync(self)

    monkeypatch.setattr(Checkpoints, "_sync", slowly)
    stand.write(10)
    assert syncing.wait(10)
    assert stand.write(20) > 200, "they went on, and the log grew"
    go_on.set()
    stand.wait()
    to_another_mode = (
        "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('PRAGMA journal_mode=DELETE')"
    )
    other = subprocess.run([sys.executable, "-c", to_another_mode, stand.path], capture_output=True, text=True)
    assert "database is locked" in other.stderr, "the store's locks on its file are still there"


def test_what_cannot_be_synced_stops_the_store(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(file: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("cellstore.storage.checkpoint.os.fsync", fail)
    with pytest.raises(FatalError, match="was acknowledged is in the log"):
        write_until_refused(stand)


def test_a_writer_that_gets_too_far_ahead_copies_itself(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Any:
        raise apsw.CantOpenError("no more files")

    monkeypatch.setattr(stand.checkpoints, "_connect", refuse)
    monkeypatch.setattr(checkpoint, "PAGES_AGAIN", 20)
    monkeypatch.setattr(checkpoint, "PAGES_AT_ONCE", 200)
    assert 200 <= stand.write(100) < 300
    assert list(stand.storage.check(keys_of)) == []


def test_a_file_that_cannot_be_synced_stops_the_store_and_the_log_has_everything(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Checkpoints, connection: apsw.Connection) -> None:
        error = apsw.IOError("disk I/O error")
        error.extendedresult = apsw.SQLITE_IOERR_FSYNC  # type: ignore[attr-defined]
        self._note(error)

    monkeypatch.setattr(Checkpoints, "_copy", fail)
    with pytest.raises(FatalError, match="was acknowledged is in the log"):
        write_until_refused(stand)
    stand.storage.close()
    again = SqliteStorage.open(stand.path)
    reader = again.reader()
    reader.refresh()
    assert again.last_ts == stand.scribe.ts - 10
    assert_same_as_scribe(reader, stand.scribe, [again.last_ts])
    reader.close()
    again.close()


def test_closing_lets_copying_end_first(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    copying, copied, copy = threading.Event(), [], Checkpoints._keep_up

    def slowly(self: Checkpoints, connection: apsw.Connection) -> None:
        copying.set()
        copy(self, connection)
        copied.append(True)

    monkeypatch.setattr(Checkpoints, "_keep_up", slowly)
    stand.write(10)
    assert copying.wait(10)
    stand.storage.close()
    assert copied
    assert not stand.path.with_name("store.db-wal").exists(), "SQLite takes the log away when the last one leaves"


def test_the_log_of_a_long_backfill_begins_again_too(stand: Stand) -> None:
    stand.write(1)
    longest = 0
    for batch in range(60):
        stand.storage.put_entries(77, [(b"%03d%05d" % (batch, n), stand.scribe.ts) for n in range(500)])
        stand.wait()
        longest = max(longest, stand.checkpoints.pages)
    assert longest < 150, "sixty batches are some four hundred pages"


def test_where_no_thread_is_to_be_had_the_writer_copies_itself(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        assert stand.write(100) < 150
    stand.write(10)
    assert list(stand.storage.check(keys_of)) == []


def test_a_log_that_cannot_be_synced_stops_the_store_when_it_is_emptied_too(stand: Stand) -> None:
    class Failing:
        def wal_checkpoint(self, **_mode: int) -> None:
            error = apsw.IOError("disk I/O error")
            error.extendedresult = apsw.SQLITE_IOERR_FSYNC  # type: ignore[attr-defined]
            raise error

    stand.write(1)
    stand.checkpoints._writer = Failing()  # type: ignore[assignment]
    with pytest.raises(apsw.IOError):
        stand.checkpoints.begin_again()
    with pytest.raises(FatalError, match="was acknowledged is in the log"):
        stand.write(1)
