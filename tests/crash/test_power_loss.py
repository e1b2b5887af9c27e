"""Power lost at any moment: only what was synced to the disk is there, perhaps with a torn end. Acknowledged is kept.

A file system in between remembers each file as of its last fsync. What a power failure would leave is built from that in
another directory, after every commit, and opened there.
"""

import random
from pathlib import Path

import apsw
import pytest

from cellstore.errors import FatalError
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


class Forgetful(Disk):
    """Pages that a sync could not write are taken for written, and no later sync writes them: so does Linux."""

    def __init__(self):
        super().__init__()
        self.dirty: dict[str, list[tuple[int, bytes]]] = {}
        self.fails = False
        self.on_sync = lambda: None

    def xOpen(self, name, flags):
        return ForgetfulFile(self, name, flags)

    def xDelete(self, name, sync):
        super().xDelete(name, sync)
        self.synced.pop(name, None)
        self.dirty.pop(name, None)


class ForgetfulFile(DiskFile):
    def xWrite(self, data, offset):
        super().xWrite(data, offset)
        self.disk.dirty.setdefault(self.path, []).append((offset, bytes(data)))

    def xSync(self, flags):
        written, content = self.disk.dirty.pop(self.path, []), bytearray(self.disk.synced.get(self.path, b""))
        if self.disk.fails:
            raise apsw.IOError("disk I/O error")
        super().xSync(flags)
        for offset, data in written:
            content.extend(bytes(max(0, offset - len(content))))
            content[offset : offset + len(data)] = data
        self.disk.synced[self.path] = bytes(content)
        self.disk.on_sync()


@pytest.fixture
def forgetful(monkeypatch):
    """As `disk`, of one that may fail."""
    made = Forgetful()
    monkeypatch.setattr(sqlite.apsw, "Connection", made.connection)
    yield made
    made.unregister()


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


@pytest.mark.parametrize("seed", range(3))
def test_what_a_sync_that_failed_left_in_memory_is_on_the_disk_before_it_is_told(forgetful, tmp_path, seed):
    dice, scribe, path = random.Random(seed), Scribe(), tmp_path / "disk" / "store.db"
    storage = SqliteStorage.open(path)
    for _ in range(10):
        storage.append([scribe.record(changes(dice))])
    storage.close()
    storage = SqliteStorage.open(path)  # with an empty log
    storage.append([scribe.record({1: {"a": 1}})])
    acknowledged, forgetful.fails = scribe.ts, True
    with pytest.raises(FatalError, match="unknown"):
        storage.append([scribe.record(changes(dice))])
    with pytest.raises(apsw.IOError):
        storage.close()
    forgetful.fails, meanwhile = False, []
    forgetful.on_sync = lambda: meanwhile.append(forgetful.left_over(tmp_path / f"meanwhile{len(meanwhile)}"))
    storage = SqliteStorage.open(path)
    forgetful.on_sync = lambda: None
    assert storage.last_ts == scribe.ts
    assert_found(forgetful.left_over(tmp_path / "opened"), scribe, scribe.ts, 0)
    for left_over in meanwhile:
        assert_found(left_over, scribe, acknowledged, 0)
    storage.append([scribe.record(changes(dice))])
    assert_found(forgetful.left_over(tmp_path / "after"), scribe, scribe.ts, 0)
    storage.close()
