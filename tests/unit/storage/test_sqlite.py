"""What only the SQLite storage can get wrong: leases, disks, forks, files that are no stores."""

import errno
import json
import os
import re
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time

import apsw
import pytest

from cellstore import errors, faults
from cellstore.storage import checkpoint, counts, lease, sql, sqlite
from cellstore.storage.check import check
from cellstore.storage.contract import by_id_index
from cellstore.storage.sqlite import SqliteReader, SqliteStorage
from cellstore.testing.revisions import BY_A, TABLE, Scribe, assert_same_as_scribe, doc_id, keys_of, work_of
from cellstore.values.index_key import END
from cellstore.values.json import loads


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "store.db"


@pytest.fixture
def storage(path):
    made = SqliteStorage.open(path)
    yield made
    made.close()
    faults.clear()


@pytest.fixture
def scribe():
    return Scribe()


def run_python(script, *arguments, **more):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        **more,
    )


# ── opening ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_store_is_there_again_after_it_was_closed(path, scribe):
    for round_ in range(3):
        storage = SqliteStorage.open(path)
        assert storage.last_ts == scribe.ts
        storage.append([scribe.record({round_: {"a": round_}, 9: {"a": -round_}})])
        storage.close()
    storage = SqliteStorage.open(path)
    reader = storage.reader()
    reader.refresh()
    assert_same_as_scribe(reader, scribe, range(0, scribe.ts + 5, 5))
    reader.close()
    storage.close()


def test_a_second_opening_in_this_process_is_refused(storage, path):
    with pytest.raises(errors.StoreLocked, match=f"this very process .pid {os.getpid()}"):
        SqliteStorage.open(path)
    storage.append([Scribe().record({1: {}})])


def test_a_second_process_is_told_who_has_the_store(storage, path):
    told = run_python(
        """
        import sys
        from cellstore.storage.sqlite import SqliteStorage
        from cellstore.errors import StoreLocked
        try:
            SqliteStorage.open(sys.argv[1])
        except StoreLocked as error:
            print(error)
        """,
        path,
    )
    assert re.search(rf"process {os.getpid()} on \S+ has it open since \d{{4}}-", told.stdout), told
    storage.append([Scribe().record({1: {}})])


def test_a_disk_without_room_for_the_holders_name_has_room_for_the_lock(path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lease.os, "pwrite", full)
    storage = SqliteStorage.open(path)
    told = run_python(
        "import sys; from cellstore.storage.sqlite import SqliteStorage; SqliteStorage.open(sys.argv[1])", path
    )
    assert "another process has it open" in told.stderr
    storage.close()


def test_a_lease_ends_with_its_process(path):
    script = """
        import os, signal, sys
        from cellstore.storage.sqlite import SqliteStorage
        storage = SqliteStorage.open(sys.argv[1])
        if os.fork() == 0:  # a forked child lives on; it must not keep the lease
            os.close(1), os.close(2)
            import time
            time.sleep(3)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)
        """
    assert run_python(script, path).returncode == -9
    SqliteStorage.open(path).close()


def test_a_holder_whose_lock_file_was_deleted_is_fenced(storage, path, scribe, monkeypatch):
    storage.append([scribe.record({1: {"a": 1}})])
    path.with_name("store.db.lock").unlink()
    monkeypatch.setattr(lease, "_open_here", {})
    usurper = SqliteStorage.open(path)
    with pytest.raises(errors.LeaseLost, match="another process has opened"):
        storage.append([scribe.record({2: {"a": 2}})])
    with pytest.raises(errors.LeaseLost):
        storage.trim(5, 10)
    assert usurper.last_ts == 10
    usurper.close()


def test_a_forked_child_may_not_write(storage, scribe):
    storage.append([scribe.record({1: {}})])
    record = scribe.record({2: {}})
    pid = os.fork()
    if pid == 0:
        try:
            storage.append([record])
        except errors.LeaseLost:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    storage.append([record])


def test_the_lock_file_names_its_holder_while_held(path):
    storage = SqliteStorage.open(path)
    holder = json.loads(path.with_name("store.db.lock").read_text())
    assert holder["pid"] == os.getpid()
    storage.close()
    storage.close()
    assert path.with_name("store.db.lock").read_text() == ""


@pytest.mark.parametrize("content", [b"not a database, but long enough to look at" * 50, None])
def test_a_file_that_is_no_store_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "other.db"
    if content is None:
        with sqlite3.connect(path) as other:
            other.execute("CREATE TABLE mine (x)")
        other.close()
        content = path.read_bytes()
    else:
        path.write_bytes(content)
    with pytest.raises(errors.Corruption, match=r"other\.db"):
        SqliteStorage.open(path)
    assert path.read_bytes() == content
    path.unlink()
    SqliteStorage.open(path).close()  # the lease was given back


def test_a_newer_store_is_refused(path):
    SqliteStorage.open(path).close()
    connection = apsw.Connection(str(path))
    connection.pragma("user_version", sql.SCHEMA_VERSION + 1)
    connection.close()
    with pytest.raises(errors.Corruption, match="upgrade cellstore"):
        SqliteStorage.open(path)


def test_an_old_sqlite_is_refused(path, monkeypatch):
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.50.4")
    with pytest.raises(errors.StorageError, match=r"SQLite 3\.50\.4.*pip install"):
        SqliteStorage.open(path)


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.StorageError, match="cannot create the directory"):
        SqliteStorage.open(tmp_path / "file" / "store.db")


def test_a_disk_without_locks_is_named(path, monkeypatch):
    def refuse(_descriptor):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(lease, "_lock_or_fail", refuse)
    with pytest.raises(errors.StorageError, match="network share"):
        SqliteStorage.open(path)


def test_a_read_only_disk_is_named(path, monkeypatch):
    def refuse(*_args):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(lease.os, "open", refuse)
    with pytest.raises(
        errors.StorageError, match=r"Read-only file system.*store\.db\.lock.*must exist and be writable"
    ):
        SqliteStorage.open(path)


def test_a_file_one_may_only_read_is_named(path, scribe, monkeypatch):
    SqliteStorage.open(path).close()
    opened = apsw.Connection
    monkeypatch.setattr(sqlite.apsw, "Connection", lambda name, flags: opened(name, flags=apsw.SQLITE_OPEN_READONLY))
    with pytest.raises(errors.StorageError, match=r"for writing.*permissions of file and directory"):
        SqliteStorage.open(path)
    monkeypatch.undo()
    SqliteStorage.open(path).close()  # and the lease was given back


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_one_may_not_write_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(errors.StorageError, match="writable"):
        SqliteStorage.open(tmp_path / "store.db")


def test_a_reader_of_nothing_says_so(path):
    with pytest.raises(errors.NotFound, match=r"store\.db"):
        SqliteReader(path)


# ── readers ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_reader_cannot_write(storage):
    reader = storage.reader()
    with pytest.raises(apsw.ReadOnlyError):
        reader._connection.execute("DELETE FROM log")
    reader.close()


def test_a_reader_that_let_go_holds_nothing_back(storage, path, scribe):
    reader = storage.reader()
    storage.append([scribe.record({1: {"a": 0}, 2: {"a": 0}})])
    reader.refresh()
    reader.get(TABLE, doc_id(1))
    scan = reader.scan(by_id_index(TABLE), TABLE, b"", END)
    next(scan)  # and it stays where it is, half read
    reader.release()
    for n in range(20):
        storage.append([scribe.record({1: {"a": n, "pad": "x" * 5000}})])
    busy, frames, done = storage._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").get
    assert (busy, frames, done) == (0, 0, 0), "a held view would have kept frames"
    with pytest.raises(apsw.CursorClosedError):
        next(scan)
    reader.close()


def test_readers_that_always_overlap_do_not_make_the_log_grow_for_ever(storage, path, scribe, monkeypatch):
    monkeypatch.setattr(sqlite, "_WAL_MAX_BYTES", 1 << 20)
    monkeypatch.setattr(checkpoint, "PAGES", 50)
    monkeypatch.setattr(checkpoint, "PAGES_AGAIN", 50)
    readers, sizes = [storage.reader() for _ in range(3)], []
    done = threading.Event()

    def look(reader):
        while not done.is_set():
            reader.refresh()
            reader.get(TABLE, doc_id(1))
            done.wait(0.03)
        reader.close()

    threads = [threading.Thread(target=look, args=(reader,)) for reader in readers]
    for thread in threads:
        thread.start()
    try:
        for n in range(120):
            storage.append([scribe.record({k: {"a": n, "pad": "x" * 3000} for k in range(20)})])
            storage.trim(0, 10)
            sizes.append(path.with_name("store.db-wal").stat().st_size)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert sum(size < 1 << 20 for size in sizes[60:]) > 5, "it was begun again"
    assert max(sizes) < 6 << 20, f"without that it would be {120 * 20 * 4000 >> 20} MB"
    assert list(storage.check(keys_of)) == []


def test_a_log_that_someone_holds_open_is_left_for_later(storage, path, scribe, monkeypatch):
    monkeypatch.setattr(sqlite, "_WAL_MAX_BYTES", 1000)
    storage.append([scribe.record({1: {"a": 1}})])
    reader = storage.reader()
    reader.refresh()
    storage.append([scribe.record({1: {"a": 2}})])
    begun = time.perf_counter()
    storage.trim(0, 10)
    assert time.perf_counter() - begun < 2, "it does not wait for ever"
    assert path.with_name("store.db-wal").stat().st_size > 0
    assert loads(reader.get(TABLE, doc_id(1)).body)["a"] == 1
    reader.close()
    storage.trim(0, 10)
    assert path.with_name("store.db-wal").stat().st_size == 0


def test_a_reader_in_another_process_sees_what_was_acknowledged(storage, path, scribe):
    storage.append([scribe.record({1: {"a": 41}})])
    told = run_python(
        """
        import sys
        from cellstore.storage.sqlite import SqliteReader
        reader = SqliteReader(sys.argv[1])
        print(reader.refresh(), reader.get(10001, (1).to_bytes(2, "big") * 8).body.decode())
        """,
        path,
    )
    assert told.stdout == '10 {"a":41,"_creationTime":10.0}\n', told


def test_ranges_never_sort_and_never_walk(storage):
    connection = storage._connection
    statements = [
        s for name in ("SCAN", "SCAN_IDS", "SCAN_AT", "SCAN_IDS_AT") for s in sql.both_ways(getattr(sql, name))
    ]
    statements += [
        sql.GET,
        sql.GET_AT,
        sql.COUNT,
        sql.COUNT_IDS,
        sql.LOG_AFTER,
        sql.TRIM_LOG,
        sql.TRIM_COMMITS,
        sql.CURRENT,
    ]
    for statement in statements:
        numbered = re.findall(r"\?(\d)", statement)
        count = max(map(int, numbered)) if numbered else statement.count("?")
        steps = [row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + statement, (1,) * count)]
        assert not [step for step in steps if "TEMP B-TREE" in step or (step.startswith("SCAN ") and step[5] != "(")], (
            statement,
            steps,
        )


def test_many_dead_revisions_do_not_slow_the_newest_read(storage, scribe):
    storage.append([scribe.record({n: {"a": n} for n in range(60)})])
    reader = storage.reader()

    def steps_of(read):
        reader.refresh()
        return work_of(reader, read)

    def one():
        reader.get(TABLE, doc_id(1))

    def fifty():
        list(reader.scan(BY_A, TABLE, b"", END, limit=50))

    fresh = steps_of(one), steps_of(fifty)
    for n in range(40):
        storage.append([scribe.record({k: {"a": k + n / 100} for k in range(60)}) for _ in range(5)])
    worn = steps_of(one), steps_of(fifty)
    assert worn[0] <= fresh[0] + 4, "a tree may have grown a level"
    assert worn[1] <= fresh[1] * 2 + 50
    reader.close()


def test_looking_for_history_to_give_up_does_not_look_at_what_is_kept(storage, scribe):
    def look():
        return work_of(storage, lambda: storage.trim(5, 100))

    storage.append([scribe.record({1: {"a": 1}})])
    few = look()
    for n in range(40):
        storage.append([scribe.record({k: {"a": k + n / 100} for k in range(60)})])
    assert look() <= few + 20, "a tree may have grown a level"


# ── disks ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_full_disk_writes_nothing_and_heals(storage, path, scribe):
    storage.append([scribe.record({1: {"a": 1}})])
    pages = storage._connection.pragma("page_count")
    storage._connection.pragma("max_page_count", pages)
    lost = Scribe(dict(scribe.now), scribe.ts)
    with pytest.raises(errors.StorageError, match="is full; nothing was written"):
        storage.append([lost.record({n: {"a": n, "pad": "x" * 3000} for n in range(2, 40)})])
    assert storage.last_ts == 10
    storage._connection.pragma("max_page_count", 1 << 30)
    storage.append([scribe.record({2: {"a": 2}})])
    assert list(storage.check(keys_of)) == []


def test_a_disk_that_refuses_to_write_loses_nothing_acknowledged(path):
    told = run_python(
        """
        import resource, signal, sys
        from cellstore.errors import StorageError
        from cellstore.storage.sqlite import SqliteStorage
        from cellstore.testing.revisions import Scribe
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        storage, scribe = SqliteStorage.open(sys.argv[1]), Scribe()
        resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))
        try:
            while True:
                storage.append([scribe.record({n: {"a": scribe.ts, "pad": "x" * 2000} for n in range(20)})])
        except StorageError as error:
            print(storage.last_ts, "nothing was written" in str(error))
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        record = Scribe(ts=storage.last_ts).record({500: {"a": 1}})
        storage.append([record])
        print(storage.last_ts, list(storage.check()))
        """,
        path,
    )
    first, second = told.stdout.splitlines()
    acknowledged, clear = first.split()
    assert (int(acknowledged) >= 10, clear) == (True, "True"), told
    assert second == f"{int(acknowledged) + 10} []", told
    assert list(check(path, keys_of)) == []


class FailingCursor:
    """Stands between the storage and its cursor; fails one statement as a disk would."""

    def __init__(self, cursor, statement, error):
        self._cursor, self._statement, self._error = cursor, statement, error

    def execute(self, statement, *parameters):
        if statement == self._statement:
            raise self._error
        return self._cursor.execute(statement, *parameters)

    def __getattr__(self, name):
        return getattr(self._cursor, name)


class FailingLog:
    """Stands before the log; fails to sync it as a disk would."""

    def __init__(self, log, error):
        self._error, self.xClose = error, log.xClose

    def xSync(self, _flags):
        raise self._error


def disk_error(code):
    error = apsw.IOError("disk I/O error")
    error.extendedresult = code
    return error


def test_a_failed_fsync_leaves_the_outcome_unknown_and_stops_the_store(storage, scribe):
    storage.append([scribe.record({1: {"a": 1}})])
    storage._log = FailingLog(storage._log, disk_error(apsw.SQLITE_IOERR_FSYNC))
    for _ in range(2):
        with pytest.raises(errors.FatalError, match="is unknown") as told:
            storage.append([scribe.record({2: {"a": 2}})])
        assert not isinstance(told.value, errors.StorageError)
    with pytest.raises(errors.FatalError):
        storage.trim(1, 1)


def test_a_failed_fsync_of_a_log_that_begins_anew_stops_the_store_too(storage, scribe):
    storage._cursor = FailingCursor(storage._cursor, "COMMIT", disk_error(apsw.SQLITE_IOERR_FSYNC))
    for _ in range(2):
        with pytest.raises(errors.FatalError, match="is unknown"):
            storage.append([scribe.record({2: {"a": 2}})])


def test_a_frame_that_could_not_be_written_is_known_not_to_be_there(storage, scribe):
    cursor = storage._cursor
    storage._cursor = FailingCursor(cursor, "COMMIT", disk_error(apsw.SQLITE_IOERR_WRITE))
    record = scribe.record({1: {"a": 1}})
    with pytest.raises(errors.StorageError, match="nothing was written"):
        storage.append([record])
    storage._cursor = cursor
    storage.append([record])
    assert list(storage.check(keys_of)) == []


def test_an_error_at_a_fault_point_rolls_back(storage, scribe):
    def fail():
        raise RuntimeError("pulled the plug")

    faults.install("storage.written", fail)
    record = scribe.record({1: {"a": 1}})
    with pytest.raises(RuntimeError):
        storage.append([record])
    faults.clear()
    assert storage.last_ts == 0
    storage.append([record])


def test_a_group_is_synced_once_after_it_can_be_seen_and_upkeep_never(storage, scribe, monkeypatch):
    events, log, reader = [], storage._log, storage.reader()

    class Watched:
        xClose = log.xClose

        def xSync(self, flags):
            log.xSync(flags)
            events.append("synced")

    monkeypatch.setattr(storage, "_log", Watched())
    storage.append(
        [scribe.record({1: {"a": 1}}), scribe.record({2: {"a": 2}})],
        lambda: events.append(("visible", reader.refresh())),
    )
    storage.trim(1, 1)
    storage.put_entries(BY_A, [])
    reader.close()
    assert events == [("visible", scribe.ts), "synced"]
    assert storage._connection.pragma("synchronous") == 1, "SQLite itself syncs the log before it is copied back"
    assert storage._connection.pragma("journal_mode") == "wal"


# ── the check ─────────────────────────────────────────────────────────────────────────────────────────────────────────

DAMAGE = {
    "UPDATE log SET ts = 5 WHERE seq = 4": "earlier row",
    "UPDATE docs SET seq = 1": "not its revision",
    "DELETE FROM docs WHERE id = (SELECT min(id) FROM docs)": "neither live nor dead",
    "DELETE FROM dead_docs": "neither live nor dead",
    "UPDATE dead_docs SET to_ts = to_ts + 1": "log says nothing of it|live since",
    "UPDATE dead_docs SET from_ts = from_ts - 1": "another's",
    "DELETE FROM entries WHERE idx = 1048576": "is missing",
    "UPDATE entries SET key = X'05' || substr(key, 2) WHERE idx = 1048577": "not what its document says|is missing",
    "INSERT INTO entries VALUES (7, X'00112233445566778899aabbccddeeff', 10)": "no live document",
    "UPDATE entries SET ts = 99": "later than its document",
    "UPDATE dead_entries SET to_ts = to_ts + 70": "yet a dead one|overlaps",
    "UPDATE log SET body = X'7b' WHERE seq = (SELECT max(seq) FROM log)": "cannot be read",
    "UPDATE dead_entries SET from_ts = to_ts": "overlaps",
    "DELETE FROM commits WHERE ts = 20": "belongs to no commit",
    "UPDATE commits SET seq = (SELECT max(seq) FROM log) WHERE ts = 20": "which was written at 40",
    "UPDATE dead_docs SET seq = (SELECT max(seq) FROM docs)": "is used by . documents or dead revisions",
    "UPDATE commits SET seq = 0 WHERE ts = 40": "newest commit knows|before the commit",
    "DELETE FROM commits WHERE ts = 30": "nothing committed for it",
    "UPDATE globals SET value = 999 WHERE key = 'catalog_ts'": "later than the newest commit",
    "UPDATE log SET body = NULL WHERE seq = (SELECT max(seq) FROM log)": "not its revision",
    "UPDATE log SET prev = NULL": "log says nothing of it",
    "UPDATE counts SET n = X'07000000' WHERE idx = 1048576 AND level = 1": "7 entries were counted .* and 2 are there",
    "UPDATE counts SET n = X'00000000' WHERE idx = 20002 AND level = 1": "0 entries were counted .* and 2 are there",
    "DELETE FROM counts WHERE idx = 20002": "0 entries were counted .* and 2 are there",
    "DELETE FROM counts WHERE idx = 20002 AND level = 1": "level 0 is the highest and has 1 buckets|do not fit together",
    "UPDATE counts SET key = X'05' WHERE idx = 1048577 AND level = 0": "begins at 05, not at the beginning",
    "INSERT INTO counts VALUES (0, 1048576, X'06', NULL)": "level 1 counts 1 buckets, there are 2",
    "UPDATE counts SET n = X'e8030000' WHERE idx = 20003 AND level = 1": "covers more than it may",
    "INSERT INTO uncounted VALUES (1048576, X'05', 1)": "3 entries were counted .* and 2 are there",
    "INSERT INTO uncounted VALUES (1048579, X'05', 1)": "1 entries were counted .* and 0 are there",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_check_sees(damage, storage, path, scribe, monkeypatch):
    from cellstore.storage.contract import RequestRecord

    monkeypatch.setattr(counts, "WAITING_MAX", 0)
    storage.append([scribe.record({1: {"a": 1}, 2: {"a": 2, "b": 1}})])
    storage.append([scribe.record({1: {"a": 3}})])
    storage.append([scribe.record({3: {"a": 1}, 1: {"a": 1}}, request=RequestRecord("s", 1, b""))])
    storage.append([scribe.record({2: None, 1: {"a": 3}})])
    assert list(storage.check(keys_of)) == []
    storage._connection.execute(damage)
    told = "\n".join(storage.check(keys_of))
    assert re.search(DAMAGE[damage], told), told


def test_the_check_survives_a_torn_file(path, scribe):
    storage = SqliteStorage.open(path)
    storage.append([scribe.record({n: {"a": n, "pad": "x" * 500} for n in range(200)})])
    storage.close()
    data = bytearray(path.read_bytes())
    data[4096 * 5 : 4096 * 9] = os.urandom(4096 * 4)
    path.write_bytes(data)
    assert any("damaged" in line or "ended early" in line for line in check(path))


def test_sqlite_is_named_where_it_refuses(path):
    told = sqlite._translated(apsw.SQLError("no such table: log"), path)
    assert "no such table" in str(told)
