"""A disk with no room left at any write: what was asked for is refused with a clear reason, and everything before is there.

A file system in between lets the files of a store grow to a quota and then says what a full disk says. The quota is moved
through a commit byte by byte, in steps; wherever it ends, the store is opened as it lies, and goes on once there is room.
"""

import shutil
from pathlib import Path

import apsw
import pytest

from cellstore.errors import StorageError
from cellstore.storage import room, sqlite
from cellstore.storage.check import check
from cellstore.storage.sqlite import SqliteStorage
from cellstore.testing.revisions import Scribe, assert_same_as_scribe, keys_of

CONNECTION = apsw.Connection
STEP_BYTES = 3001


class SmallDisk(apsw.VFS):
    """The machine's own file system, with a quota."""

    def __init__(self):
        self.quota_bytes, self.refused = 1 << 30, 0
        super().__init__("small-disk", base="")

    def connection(self, path, **options):
        if Path(path).parent.name != "disk":
            return CONNECTION(path, **options)
        opened = CONNECTION(path, vfs="small-disk", **options)
        opened.execute("PRAGMA locking_mode = EXCLUSIVE")
        return opened

    def xOpen(self, name, flags):
        return SmallFile(self, name, flags)


class SmallFile(apsw.VFSFile):
    def __init__(self, disk, name, flags):
        self.disk = disk
        super().__init__("", name, flags)

    def xWrite(self, data, offset):
        if offset + len(data) > max(self.disk.quota_bytes, self.xFileSize()):
            self.disk.refused += 1
            raise apsw.FullError("database or disk is full")
        super().xWrite(data, offset)


@pytest.fixture
def disk(monkeypatch):
    made = SmallDisk()
    monkeypatch.setattr(sqlite.apsw, "Connection", made.connection)
    monkeypatch.setattr(room, "FROM_BYTES", 1 << 40)  # no room ahead of the log
    yield made
    made.unregister()


def many(n):
    return {at: {"a": n, "pad": "x" * 900} for at in range(20)}


def refusal(storage, record):
    try:
        storage.append([record])
    except StorageError as error:
        return str(error)
    return None


def assert_whole(path, scribe):
    assert list(check(path, keys_of)) == []
    storage = SqliteStorage.open(path)
    try:
        assert storage.last_ts == scribe.ts
        reader = storage.reader()
        reader.refresh()
        assert_same_as_scribe(reader, scribe, [scribe.ts])
        reader.close()
    finally:
        storage.close()


def test_wherever_the_disk_is_full_the_commit_is_refused_whole_and_the_store_goes_on(disk, tmp_path):
    scribe, storage = Scribe(), SqliteStorage.open(tmp_path / "disk" / "store.db")
    storage.append([scribe.record(many(0))])
    log = tmp_path / "disk" / "store.db-wal"
    told = []
    for left in range(0, 90_000, STEP_BYTES):
        used = storage._checkpoints.pages * 4120  # the log is written from here on
        disk.quota_bytes = used + left
        said = refusal(storage, Scribe(dict(scribe.now), scribe.ts).record(many(left)))
        if said is None:
            scribe.record(many(left))
        else:
            told.append("full; nothing was written" in said)
            assert_whole(shutil.copytree(log.parent, tmp_path / f"at{left}") / "store.db", scribe)
        disk.quota_bytes = 1 << 30
        storage.append([scribe.record({99: {"a": left}})])
    storage.close()
    assert all(told)
    assert 5 < len(told) < 90_000 // STEP_BYTES, "the quota went through the commit"
    assert_whole(shutil.copytree(log.parent, tmp_path / "end") / "store.db", scribe)
