"""Power lost at any moment: only what was synced to the disk is there, perhaps with a torn end. Acknowledged is kept.

A file system in between remembers each file as of its last fsync. What a power failure would leave is built from that in
another directory, after every commit, and opened there.
"""

import random
from pathlib import Path

import apsw
import pytest

from cellstore.storage import checkpoint, sqlite
from cellstore.storage.check import check
from cellstore.storage.sqlite import SqliteStorage
from cellstore.testing.revisions import BY_A, Scribe, assert_same_as_scribe, keys_of

CONNECTION = apsw.Connection


class Disk(apsw.VFS):
    """The machine's own file system, and what of it would outlive a power failure."""

    def __init__(self):
        self.synced: dict[str, bytes] = {}
        self.watched = {"disk"}
        super().__init__("power-loss", base="")

    def connection(self, path, **options):
        if Path(path).parent.name not in self.watched:
            return CONNECTION(path, **options)
        opened = CONNECTION(path, vfs="power-loss", **options)
        opened.execute("PRAGMA locking_mode = EXCLUSIVE")
        return opened

    def xOpen(self, name, flags):
        return DiskFile(self, name, flags)

    def left_over(self, directory: Path, torn: random.Random | None = None) -> Path:
        """A directory as it would be found. `torn`: with a part of what was written after the last sync of the log."""
        directory.mkdir()
        for path, content in self.synced.items():
            if not Path(path).exists():
                continue  # a journal of the time before there was a log
            now = Path(path).read_bytes()
            if torn is not None and path.endswith("-wal") and len(now) > len(content):
                content = content + now[len(content) : torn.randrange(len(content), len(now))]
            (directory / Path(path).name).write_bytes(content)
        return directory / "store.db"


class DiskFile(apsw.VFSFile):
    def __init__(self, disk, name, flags):
        self.disk, self.path = disk, name.filename() if isinstance(name, apsw.URIFilename) else name
        super().__init__("", name, flags)

    def xSync(self, flags):
        super().xSync(flags)
        if self.path is not None:
            self.disk.synced[self.path] = Path(self.path).read_bytes()


@pytest.fixture
def disk(monkeypatch):
    """Stores are opened on it, until `left_over` is looked at. (No other process could share such a store.)"""
    made = Disk()
    monkeypatch.setattr(sqlite.apsw, "Connection", made.connection)
    yield made
    made.unregister()


def changes(dice):
    return {
        n: None if dice.random() < 0.3 else {"a": dice.randrange(9), "pad": "x" * dice.randrange(2000)}
        for n in dice.sample(range(40), dice.randrange(1, 9))
    }


def assert_found(path, scribe, acknowledged, floor):
    assert list(check(path, keys_of)) == []
    storage = SqliteStorage.open(path)
    try:
        assert storage.last_ts >= acknowledged
        reader = storage.reader()
        reader.refresh()
        assert_same_as_scribe(reader, scribe, [max(floor, acknowledged - 30), acknowledged, storage.last_ts])
        reader.close()
    finally:
        storage.close()


@pytest.mark.parametrize("seed", range(3))
def test_what_was_acknowledged_outlives_the_power(disk, tmp_path, monkeypatch, seed):
    for bound in ("PAGES_AT_ONCE", "PAGES_AGAIN"):
        monkeypatch.setattr(checkpoint, bound, 40)  # so that the log is copied back and begun again many times
    dice, scribe, floor = random.Random(seed), Scribe(), 0
    storage = SqliteStorage.open(tmp_path / "disk" / "store.db")
    for n in range(60):
        storage.append([scribe.record(changes(dice)) for _ in range(dice.randrange(1, 4))])
        assert_found(disk.left_over(tmp_path / f"after{n}"), scribe, scribe.ts, floor)
        if n % 4 == 3:
            floor = scribe.ts - 60
            storage.trim(floor, 50)  # waits for no disk
        if n % 10 == 9:
            rows = storage._connection.execute("SELECT key, ts FROM entries WHERE idx = ?", (BY_A,)).fetchall()
            storage.put_entries(BY_A, rows)
        if n % 4 == 3:
            assert_found(disk.left_over(tmp_path / f"between{n}", dice), scribe, scribe.ts, floor)
    storage.close()


@pytest.mark.parametrize("seed", range(3))
def test_a_torn_end_of_the_log_is_no_commit(disk, tmp_path, monkeypatch, seed):
    dice, scribe = random.Random(seed), Scribe()
    storage = SqliteStorage.open(tmp_path / "disk" / "store.db")
    for _ in range(5):
        storage.append([scribe.record(changes(dice))])
    acknowledged = scribe.ts
    monkeypatch.setattr(storage, "_sync", lambda: None)  # the next commit reaches the log, and not the disk
    storage.append([scribe.record({n: {"a": n, "pad": "y" * 3000} for n in range(30)})])
    for n in range(12):
        assert_found(disk.left_over(tmp_path / f"torn{n}", dice), scribe, acknowledged, 0)
    storage.close()


def test_a_commit_that_can_be_seen_and_is_not_synced_would_be_lost(disk, tmp_path):
    """The instrument can tell: without its fsync a commit is not there."""
    scribe, storage = Scribe(), SqliteStorage.open(tmp_path / "disk" / "store.db")
    storage.append([scribe.record({1: {"a": 1}})])
    storage.append([scribe.record({1: {"a": 2}})], lambda: disk.left_over(tmp_path / "between"))
    found = SqliteStorage.open(tmp_path / "between" / "store.db")
    assert found.last_ts == scribe.ts - 10
    found.close()
    storage.close()


def test_a_store_that_loses_its_last_fsync_is_noticed(disk, tmp_path, monkeypatch):
    """A test of these tests."""
    scribe, storage = Scribe(), SqliteStorage.open(tmp_path / "disk" / "store.db")
    storage.append([scribe.record({1: {"a": 1}})])
    assert_found(disk.left_over(tmp_path / "kept"), scribe, scribe.ts, 0)
    monkeypatch.setattr(storage, "_sync", lambda: None)
    storage.append([scribe.record({1: {"a": 2}})])
    with pytest.raises(AssertionError):
        assert_found(disk.left_over(tmp_path / "lost"), scribe, scribe.ts, 0)
    storage.close()
