"""The default storage: one SQLite file in WAL mode.

One connection writes, another copies the log back (`checkpoint.py`); any number of readers, in this process and in
workers, hold read-only connections. A group of commits is one SQLite transaction and one fsync of the log, which is ours
(`synchronous=NORMAL`), so that what a commit leads to can begin while the disk is still at work; a reader's view is one
SQLite read transaction. SQLite recovers by itself after a kill: reopening needs no repair step.

    append     begin · check the epoch · look up what is overwritten · plan (pure) · one executemany per table ·
               settle the counts · commit: readers see it · fsync: it is durable

Outcome:    an error before COMMIT, or a write error in it, rolls everything back: nothing has happened. An fsync that
            fails leaves pages that may or may not survive: nobody knows, so the storage stops (FatalError) and the
            next opening finds out.
Invariant:  what a reader sees is what `append` returned for, plus at most groups whose fsync is under way: a worker
            may read a commit microseconds before its caller is told. The committer publishes only after `append`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from weakref import ref

import apsw

from cellstore import faults
from cellstore.errors import (
    CellstoreError,
    Corruption,
    FatalError,
    InvariantError,
    LeaseLost,
    NotFound,
    StorageError,
)
from cellstore.storage import sql
from cellstore.storage.checkpoint import Checkpoints
from cellstore.storage.contract import CommitRecord, KeysOf, LogEntry, Row, out_of_retention, table_of_by_id
from cellstore.storage.counts import Counter, Ledger, rebuild
from cellstore.storage.lease import Lease
from cellstore.storage.plan import Doc, Plan, Revision, must_exist, plan
from cellstore.storage.room import Room
from cellstore.storage.trim import Trim

T = TypeVar("T")

SQLITE_MIN = (3, 51, 3)  # older ones can lose committed pages when a reader and a checkpoint race
_WAL_KEPT_BYTES = 64 << 20  # what is left of the log file after a large import
_WAL_MAX_BYTES = 256 << 20  # beyond this the log is begun again although readers always look at some of it
_READERS_WAIT_MS = (50, 1000)  # how long writers are held up for that, at first and at most
# the upper levels of every tree, and what one group touches; a larger one costs every commit a quarter more
_WRITER_CACHE_KIB = _READER_CACHE_KIB = 16 << 10
_CHECKPOINT_CACHE_KIB = 64  # it reads the log, not pages
_BUSY_MS = 10_000
_PIECE_BYTES = 64 << 10  # of a log that is written anew; SQLite's files take no more than 128 KiB at once
_ALL = -1  # SQL's "no limit"
_SOON_ROWS = 2000  # a moment is not long ago while the log has no more rows since

_as_row = partial(tuple.__new__, Row)  # tuple to Row without a Python call
_SCAN = sql.both_ways(sql.SCAN)
_SCAN_AT = sql.both_ways(sql.SCAN_AT)
_SCAN_IDS = sql.both_ways(sql.SCAN_IDS)
_SCAN_AT_SOON = sql.both_ways(sql.SCAN_AT_SOON)
_SCAN_IDS_AT = sql.both_ways(sql.SCAN_IDS_AT)
_SCAN_IDS_AT_SOON = sql.both_ways(sql.SCAN_IDS_AT_SOON)


class SqliteReader:
    """A view of a store through a read-only connection of its own; what worker processes open.

    Order:  one thread at a time. `refresh` begins a read transaction, which is the view; `release` ends it.
    Cost:   a point read is two look-ups, a range read two more per row; neither meets a dead revision. A count costs the
            logarithm of what it counts. At a moment since which little was written, the same and what was written.
    Errors: NotFound when there is no store at `path`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise NotFound(kind="store", name=str(self.path))
        self.ts = 0
        self.catalog_ts = 0
        self._connection = _connect(self.path, apsw.SQLITE_OPEN_READONLY, _READER_CACHE_KIB)
        self._cursor = self._connection.cursor()
        self._counter = Counter(self._cursor)
        self._soon: tuple[int, int | None] = (-1, None)  # a moment, and the last log row then if it is not long ago
        self._viewing = False
        self._scans: list[ref[apsw.Cursor]] = []

    def refresh(self) -> int:
        """Move the view to the newest committed state; its timestamp."""
        if self._viewing:
            self.release()
        cursor = self._cursor
        self._soon = (-1, None)
        try:
            cursor.execute("BEGIN")
            self._viewing = True
            [(ts, catalog_ts)] = cursor.execute(sql.REFRESH)
        except apsw.Error as error:
            raise _translated(error, self.path) from error
        self.ts, self.catalog_ts = ts or 0, catalog_ts
        return self.ts

    def shrink(self) -> None:
        """Give back the memory of pages kept at hand. For a reader that is idle for long."""
        self.release()
        self._connection.execute("PRAGMA shrink_memory")

    def release(self) -> None:
        """End the view, and every scan over it."""
        if self._scans:
            for scan in self._scans:
                cursor = scan()
                if cursor is not None:
                    cursor.close(True)
            self._scans.clear()
        if self._viewing:
            self._viewing = False
            self._cursor.execute("COMMIT")

    def close(self) -> None:
        """Release, and close the connection."""
        self.release()
        self._connection.close(True)

    def get(self, table: int, id: bytes, ts: int | None = None) -> Row | None:
        """The document, at `ts` if that is before the view."""
        if ts is None or ts >= self.ts:
            found = self._cursor.execute(sql.GET, (table, id)).get
        else:
            found = self._cursor.execute(sql.GET_AT, (table, id, ts)).get
        return None if found is None else _as_row(found)

    def scan(
        self,
        index: int,
        table: int,
        lo: bytes,
        hi: bytes,
        *,
        ts: int | None = None,
        descending: bool = False,
        limit: int | None = None,
    ) -> Iterator[Row]:
        """Documents of `table` by their key in `index` within [lo, hi); rows are fetched as they are asked for."""
        cursor = self._connection.cursor()
        if len(self._scans) > 64:
            self._scans = [scan for scan in self._scans if scan() is not None]
        self._scans.append(ref(cursor))
        most = _ALL if limit is None else limit
        if ts is None or ts >= self.ts:
            if index == table << 1:
                cursor.execute(_SCAN_IDS[descending], (table, lo, hi, most))
            else:
                cursor.execute(_SCAN[descending], (index, lo, hi, most, table))
            return map(_as_row, cursor)
        since = self._seq_soon(ts)
        if index != table << 1:
            statement = (_SCAN_AT if since is None else _SCAN_AT_SOON)[descending]
            cursor.execute(statement, (index, lo, hi, most, table, ts))
        elif since is None:
            cursor.execute(_SCAN_IDS_AT[descending], (table, lo, hi, most, ts))
        else:
            cursor.execute(_SCAN_IDS_AT_SOON[descending], (table, lo, hi, most, ts, since))
        return map(_as_row, cursor)

    def count(self, index: int, lo: bytes, hi: bytes, ts: int | None = None) -> int:
        """How many entries lie in [lo, hi)."""
        if lo >= hi:
            return 0
        if ts is None or ts >= self.ts:
            return self._counter.count(index, lo, hi)
        table, since = table_of_by_id(index), self._seq_soon(ts)
        if table is None:
            statement = sql.COUNT_AT if since is None else sql.COUNT_AT_SOON
            return int(self._cursor.execute(statement, (index, lo, hi, ts)).get)
        if since is None:
            return int(self._cursor.execute(sql.COUNT_IDS_AT, (table, lo, hi, ts)).get)
        return int(self._cursor.execute(sql.COUNT_IDS_AT_SOON, (table, lo, hi, ts, since)).get)

    def written_since(self, table: int, ts: int) -> set[bytes] | None:
        """The documents of a table written after `ts`; None if that was too long ago to look it up."""
        since = self._seq_soon(ts)
        if since is None:
            return None
        return {id for (id,) in self._cursor.execute(sql.WRITTEN_SINCE, (since, table))}

    def tables(self) -> list[int]:
        """The tables that hold documents."""
        return [table for (table,) in self._cursor.execute(sql.TABLES)]

    def _seq_soon(self, ts: int) -> int | None:
        """The last log row at `ts`, if few were written since; None for a moment long ago."""
        if self._soon[0] != ts:
            seq = int(self._cursor.execute(sql.SEQ_AT, (ts,)).get)
            newest = int(self._cursor.execute(sql.LAST_SEQ).get)
            self._soon = ts, seq if newest - seq <= _SOON_ROWS else None
        return self._soon[1]

    def log(self, after_ts: int, upto_ts: int, limit: int) -> list[LogEntry]:
        """The log in (after_ts, upto_ts], whole commits, about `limit` entries."""
        entries: list[LogEntry] = []
        cursor = self._connection.cursor()
        for found in cursor.execute(sql.LOG_AFTER, (after_ts, upto_ts)):
            if len(entries) >= limit and found[0] != entries[-1].ts:
                break
            entries.append(LogEntry(*found))
        cursor.close(True)
        return entries

    def request(self, session: str, request: int) -> bytes | None:
        """The stored outcome of a request, if it has committed."""
        result: bytes | None = self._cursor.execute(sql.REQUEST, (session, request)).get
        return result

    def newest_request(self, session: str) -> int:
        """The highest number of a session's requests whose outcome is stored; -1 without one."""
        return int(self._cursor.execute(sql.NEWEST_REQUEST, (session,)).get)

    def check_retention(self, ts: int) -> None:
        """Raise OutOfRetention if revisions needed to read at `ts` may be gone."""
        oldest = int(self._cursor.execute(sql.GLOBAL, ("min_snapshot_ts",)).get)
        if ts < oldest:
            raise out_of_retention(ts, oldest)


class SqliteStorage:
    """A store file, owned by this process from `open` to `close`."""

    def __init__(self, path: Path, lease: Lease, connection: apsw.Connection) -> None:
        """Use `open`."""
        self.path = path
        self._lease = lease
        self._connection = connection
        self._cursor = connection.cursor()
        self._ledger = Ledger()
        self._readers_wait_ms = _READERS_WAIT_MS[0]
        self._guard = threading.Lock()
        self._checkpoints = Checkpoints(
            connection, partial(_connect, path, apsw.SQLITE_OPEN_READWRITE, _CHECKPOINT_CACHE_KIB), self._guard
        )
        self._room = Room(Path(f"{path}-wal"), self._guard)
        self._log = _open_log(connection, path)
        self._stopped: CellstoreError | None = None
        self._epoch = int(self._cursor.execute(sql.RAISE_EPOCH).get)
        newest: Any = self._cursor.execute(sql.LAST_COMMIT).get
        self._last_ts: int = newest[0] if newest else 0
        self._seq: int = newest[1] if newest else 0
        self._cursor.execute("PRAGMA synchronous = NORMAL")  # from now on `append` syncs by itself

    @classmethod
    def open(cls, path: str | Path) -> SqliteStorage:
        """Open the store at `path`, creating it if there is none.

        Errors: StoreLocked, naming the holder; StorageError when the disk does not allow it; Corruption when the file
        is not a store, or of a newer version.
        """
        path = Path(path)
        _check_sqlite_version()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot create the directory of the store {path}: {error.strerror}") from error
        lease = Lease.acquire(path)
        try:
            connection = _connect(path, apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE, _WRITER_CACHE_KIB)
            try:
                _prepare(connection, path)
                return cls(path, lease, connection)
            except apsw.Error as error:
                connection.close(True)
                raise _translated(error, path) from error
            except BaseException:
                connection.close(True)
                raise
        except BaseException:
            lease.release()
            raise

    @property
    def last_ts(self) -> int:
        """The timestamp of the newest commit; 0 in an empty store."""
        return self._last_ts

    def reader(self) -> SqliteReader:
        """A new reader with a connection of its own."""
        return SqliteReader(self.path)

    def append(self, records: Sequence[CommitRecord], on_visible: Callable[[], None] | None = None) -> None:
        """Write a group of commits, durably, all or none: one transaction, one fsync."""
        if not records:
            return
        self._write(records)
        faults.reach("storage.visible")
        if on_visible is not None:
            on_visible()
        self._sync()
        faults.reach("storage.committed")

    def _write(self, records: Sequence[CommitRecord]) -> None:
        with self._guard:
            last_ts = self._last_ts
            for record in records:
                if record.ts <= last_ts:
                    raise InvariantError(f"commit timestamp {record.ts} does not rise above {last_ts}")
                last_ts = record.ts
            self._seq = self._transact(lambda cursor: self._put_group(cursor, records))
            self._last_ts = last_ts
            self._checkpoints.noticed()
            self._room.noticed(self._checkpoints.pages)

    def _sync(self) -> None:
        """Have the disk take the log up to here."""
        try:
            self._log.xSync(apsw.SQLITE_SYNC_NORMAL)
        except apsw.Error as error:
            self._stopped = self._unknown(error)
            raise self._stopped from error

    def put_entries(self, index: int, entries: Sequence[tuple[bytes, int]]) -> None:
        """Backfill entries (key, ts); those already there stay."""
        rows = [(index, key, ts) for key, ts in entries]

        def work(cursor: apsw.Cursor) -> None:
            self._ledger.note(cursor, [(index, key, 1) for (key,) in cursor.executemany(sql.PUT_ENTRY, rows)])

        with self._guard:
            self._transact_unsynced(work)

    def drop_index(self, index: int, budget: int | None = None) -> int:
        """Remove up to `budget` entries of an index; how many were."""
        most = _ALL if budget is None else budget

        def work(cursor: apsw.Cursor) -> int:
            keys = [key for (key,) in cursor.execute(sql.DROP_ENTRIES, (index, most))]
            self._ledger.note(cursor, [(index, key, -1) for key in keys])
            before = self._connection.total_changes()
            cursor.execute(sql.DROP_DEAD_ENTRIES, (index, most if most < 0 else most - len(keys)))
            return len(keys) + self._connection.total_changes() - before

        with self._guard:
            return self._transact_unsynced(work)

    def trim(
        self, before_ts: int, budget: int, *, requests_before_ts: int | None = None, requests_kept: int = 0
    ) -> int:
        """Give up history before `before_ts`, looking at no more than `budget` rows; at how many it looked.

        A slice lost with the power is trimmed again.
        """
        with self._guard:
            # an idle store is never trimmed past its newest commit, which must stay readable at its own timestamp
            floor = min(before_ts, self._last_ts)
            requests = floor if requests_before_ts is None else min(floor, requests_before_ts)
            trim = Trim(floor, budget, requests, requests_kept)
            looked = self._transact_unsynced(trim.run)
            self._bound_log()
            return looked

    def check(self, keys_of: KeysOf | None = None) -> Iterator[str]:
        """Walk everything; a sentence for each broken invariant."""
        from cellstore.storage.check import check

        return check(self.path, keys_of)

    def close(self) -> None:
        """Copy back what is left of the log, close the file, give the lease back."""
        self._checkpoints.close()
        self._room.close()
        with self._guard:
            if self._stopped is None:
                self._stopped = StorageError(f"the store {self.path} is closed")
            try:
                self._log.xClose()
                self._connection.close(True)
                self._checkpoints.let_go()
            finally:
                self._lease.release()

    def _transact_unsynced(self, work: Callable[[apsw.Cursor], T]) -> T:
        """For what may be lost with the power because it would just be done again: it waits for no disk, but where it
        made the log very long; the next commit's fsync covers it, or the one before the log is copied."""
        result = self._transact(work)
        self._checkpoints.noticed()
        return result

    def _transact(self, work: Callable[[apsw.Cursor], T]) -> T:
        """Run `work` in one transaction, or leave no trace of it."""
        self._may_write()
        cursor = self._cursor
        faults.reach("storage.begin")
        try:
            cursor.execute("BEGIN IMMEDIATE")
            if cursor.execute(sql.EPOCH).get != self._epoch:
                raise LeaseLost(
                    f"another process has opened {self.path} for writing; nothing more is written from here"
                )
            result = work(cursor)
            faults.reach("storage.written")
        except BaseException as error:
            self._roll_back()
            if isinstance(error, apsw.Error):
                raise _translated(error, self.path) from error
            if isinstance(error, FatalError) and not isinstance(error, InvariantError):
                self._stopped = error
            raise
        try:
            cursor.execute("COMMIT")
        except apsw.Error as error:
            self._roll_back()
            if _surely_not_written(error):
                raise _translated(error, self.path) from error
            self._stopped = self._unknown(error)
            raise self._stopped from error
        return result

    def _unknown(self, error: apsw.Error) -> FatalError:
        return FatalError(
            f"the disk failed while committing to {self.path} ({error}); whether the last commits were written is "
            "unknown. Open the store again to find out"
        )

    def _bound_log(self) -> None:
        """Begin the write-ahead log again if it has grown too large.

        Usually it begins again by itself, at a moment when nobody reads. Where readers overlap all the time there is
        none, and the log would grow for ever; then new commits wait for the readers of old ones, each time we fail a little
        longer.
        """
        wal = Path(f"{self.path}-wal")
        if not wal.exists() or wal.stat().st_size <= _WAL_MAX_BYTES:
            return
        self._connection.set_busy_timeout(self._readers_wait_ms)
        try:
            if self._checkpoints.begin_again():
                self._readers_wait_ms = _READERS_WAIT_MS[0]
            else:
                self._readers_wait_ms = min(2 * self._readers_wait_ms, _READERS_WAIT_MS[1])
        except apsw.Error as error:
            raise _translated(error, self.path) from error
        finally:
            self._connection.set_busy_timeout(_BUSY_MS)

    def _may_write(self) -> None:
        if self._stopped is None and self._checkpoints.failure is not None:
            self._stopped = FatalError(
                f"the disk failed while the log of {self.path} was copied back ({self._checkpoints.failure}). What was "
                "acknowledged is in the log: check the disk and open the store again"
            )
        if self._stopped is not None:
            raise self._stopped
        if self._lease.pid != os.getpid():
            raise LeaseLost(f"{self.path} was opened by process {self._lease.pid}; its forked child may not write")

    def _roll_back(self) -> None:
        self._ledger.forget()
        try:
            if self._connection.in_transaction:  # a full disk may have rolled back already
                self._connection.execute("ROLLBACK")
        except apsw.Error as error:
            self._stopped = FatalError(f"{self.path} could not be rolled back ({error}); open the store again")

    def _put_group(self, cursor: apsw.Cursor, records: Sequence[CommitRecord]) -> int:
        rows = plan(records, self._seq, _current(cursor, must_exist(records)))

        def many(statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
            if rows:
                cursor.executemany(statement, rows)

        many(sql.LOG, rows.log)
        many(sql.DOC_DEAD, rows.docs_dead)
        many(sql.DOC_GONE, rows.docs_gone)
        many(sql.DOC_MOVED, rows.docs_moved)
        many(sql.DOC_NEW, rows.docs_new)
        missing = self._take_entries(cursor, rows) if rows.entries_gone else set()
        many(sql.ENTRY_DEAD, rows.entries_dead)
        many(sql.ENTRY_NEW, rows.entries_new)
        if rows.docs_new or rows.docs_gone or rows.entries_new or rows.entries_gone:
            self._ledger.apply(cursor, rows, missing)
        many(sql.COMMIT_NEW, rows.commits)
        many(sql.REQUEST_NEW, rows.requests)
        if rows.catalog_ts is not None:
            cursor.execute(sql.SET_GLOBAL, (rows.catalog_ts, "catalog_ts"))
        return rows.seq

    def _take_entries(self, cursor: apsw.Cursor, rows: Plan) -> set[tuple[int, bytes]]:
        """Move entries among the dead; those that were not there, because backfill had not come to them yet."""
        cursor.executemany(sql.ENTRY_DIES, rows.entries_die)
        before = self._connection.total_changes()
        cursor.executemany(sql.ENTRY_GONE, rows.entries_gone)
        if self._connection.total_changes() - before == len(rows.entries_gone):
            return set()
        return set(rows.entries_gone).difference(cursor.executemany(sql.ENTRY_ENDED, rows.entries_die))


def _current(cursor: apsw.Cursor, docs: list[Doc]) -> dict[Doc, Revision]:
    """The live revisions of `docs`; a document that is not there is not in the answer."""
    return {(table, id): (seq, ts) for table, id, seq, ts in cursor.executemany(sql.CURRENT, docs)}


# ── connections ────────────────────────────────────────────────────────────────────────────────────────────────────


def _check_sqlite_version() -> None:
    version = tuple(int(part) for part in apsw.sqlite_lib_version().split(".")[:3])
    if version < SQLITE_MIN:
        wanted = ".".join(map(str, SQLITE_MIN))
        raise StorageError(
            f"this apsw brings SQLite {apsw.sqlite_lib_version()}, which can lose committed data; "
            f"{wanted} or newer is needed: pip install --upgrade 'apsw>={wanted}.0'"
        )


def _connect(path: Path, flags: int, cache_kib: int) -> apsw.Connection:
    try:
        connection = apsw.Connection(str(path), flags=flags)
        connection.set_busy_timeout(_BUSY_MS)
        # without this SQLite plans joins anew for every new parameter, which triples the price of a point read
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
        # checkpoints are `checkpoint.py`'s business; memory maps are not for several processes
        connection.execute(f"PRAGMA cache_size = -{cache_kib}; PRAGMA mmap_size = 0; PRAGMA temp_store = MEMORY")
        connection.wal_autocheckpoint(0)
    except apsw.Error as error:
        raise _translated(error, path) from error
    return connection


def _prepare(connection: apsw.Connection, path: Path) -> None:
    """Make sure the file is a store of this version, in WAL mode; create the tables of a new one."""
    application, version = connection.pragma("application_id"), connection.pragma("user_version")
    fresh = not connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").get
    if not fresh and application != sql.APPLICATION_ID:
        raise Corruption(f"{path} is an SQLite file, but not a cellstore store; open another path")
    if version > sql.SCHEMA_VERSION:
        raise Corruption(f"{path} was written by a newer cellstore (store version {version}); upgrade cellstore")
    mode = connection.pragma("journal_mode", "wal")
    if mode != "wal":
        raise StorageError(f"{path} is on a disk that cannot hold a write-ahead log; put the store on a local disk")
    connection.execute(f"PRAGMA synchronous = FULL; PRAGMA journal_size_limit = {_WAL_KEPT_BYTES}")
    if fresh:
        with connection:
            connection.execute(sql.CREATE)
            connection.pragma("application_id", sql.APPLICATION_ID)
            connection.pragma("user_version", sql.SCHEMA_VERSION)
        return
    _write_log_anew(connection, path)
    if version < sql.SCHEMA_VERSION:
        with connection:
            connection.execute(sql.UPGRADE_1)
            rebuild(connection.cursor())
            connection.pragma("user_version", sql.SCHEMA_VERSION)


def _write_log_anew(connection: apsw.Connection, path: Path) -> None:
    """Write what an earlier life left in the log again, where it is, and sync it; nobody else writes meanwhile.

    Where an fsync of the log has failed its pages may be in memory only, and no later fsync writes them. What is told from
    now on was there before. Copying it into the file is not enough: a reader may keep some of it, or the log from beginning
    again, and after a power failure pages in the file would meet older ones in the log.
    """
    log = _open_log(connection, path)
    try:
        connection.execute("BEGIN IMMEDIATE")
        size = log.xFileSize()
        for at in range(0, size, _PIECE_BYTES):
            log.xWrite(log.xRead(min(_PIECE_BYTES, size - at), at), at)
        log.xSync(apsw.SQLITE_SYNC_NORMAL)
    finally:
        log.xClose()
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _open_log(connection: apsw.Connection, path: Path) -> apsw.VFSFile:
    """The log as SQLite's own file system sees it, to be synced."""
    return apsw.VFSFile(connection.open_vfs, f"{path}-wal", [apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_READWRITE, 0])


def _surely_not_written(error: apsw.Error) -> bool:
    """Did COMMIT fail before the record that makes it count was on its way to the disk?

    That record is the last frame of the write-ahead log. Where a frame could not be written it is not there; only the
    fsync after it, and what we do not know, leave doubt.
    """
    if isinstance(error, apsw.FullError | apsw.BusyError):
        return True
    return isinstance(error, apsw.IOError) and getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_WRITE


def _translated(error: apsw.Error, path: Path) -> CellstoreError:
    """What an SQLite error means for the caller. Everything has been rolled back."""
    if isinstance(error, apsw.FullError):
        return StorageError(f"the disk of {path} is full; nothing was written. Free some space and try again")
    if isinstance(error, apsw.ReadOnlyError | apsw.CantOpenError | apsw.PermissionsError):
        return StorageError(f"cannot open {path} for writing ({error}); check the permissions of file and directory")
    if isinstance(error, apsw.BusyError | apsw.LockedError):
        return StorageError(f"another program holds {path} locked ({error}); close it and try again")
    if isinstance(error, apsw.NotADBError):
        return Corruption(f"{path} is not a store: it is not even an SQLite file; open another path")
    if isinstance(error, apsw.CorruptError):
        return Corruption(f"{path} is damaged ({error}); restore a backup, or export what `cellstore check` can read")
    if isinstance(error, apsw.ConstraintError):
        return InvariantError(f"a document or index entry of {path} was there already ({error}); nothing was written")
    if isinstance(error, apsw.IOError):
        return StorageError(f"the disk of {path} refused ({error}); nothing was written. Check the disk and try again")
    return StorageError(f"SQLite refused on {path}: {type(error).__name__}: {error}; nothing was written")
