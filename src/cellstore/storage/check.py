"""Walks a whole store file and says in sentences what is wrong with it.

    file       SQLite's own integrity check
    log        timestamps rise with the sequence; every row is a live revision, a dead one or a tombstone, exactly once
    commits    each ends at a log row of its own timestamp, or wrote nothing
    docs       each points at the log row of its document and timestamp
    spans      dead revisions of a document, and dead entries of a key, follow each other without overlap; each dead
               revision was replaced by a revision or a tombstone that says so
    entries    each belongs to a live document; with `keys_of`, exactly the keys its body has, and none is missing
    requests   each was committed
    counts     the buckets of every level cut each index without gaps, within their largest size; each holds as many
               entries as it says

Reads through one view of a read-only connection: a running store may be checked. Memory stays flat; SQLite sorts
on disk where it must. Cost: a few passes over everything.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import apsw

from cellstore.errors import CellstoreError
from cellstore.storage.contract import KeysOf
from cellstore.storage.counts import verify

_SHOWN_MAX = 20  # of one kind; a broken tree breaks everything above it

# Each statement finds offenders; `{…}` in the sentence are its columns in order.
_RULES: Final[tuple[tuple[str, str], ...]] = (
    (
        "log row {0} has timestamp {1}, but an earlier row has {2}",
        "SELECT * FROM (SELECT seq, ts, lag(ts) OVER (ORDER BY seq) AS before FROM log) WHERE before > ts",
    ),
    (
        "log row {0} of document {1} at {2} belongs to no commit",
        """SELECT seq, hex(id), ts FROM log WHERE ts > (SELECT value FROM globals WHERE key = 'min_snapshot_ts')
           AND NOT EXISTS (SELECT 1 FROM commits c WHERE c.ts = log.ts AND c.seq >= log.seq)""",
    ),
    (
        "commit {0} ends at log row {1}, before the commit ahead of it ({2})",
        "SELECT * FROM (SELECT ts, seq, lag(seq) OVER (ORDER BY ts) AS before FROM commits) WHERE before > seq",
    ),
    (
        "commit {0} ends at log row {1}, which was written at {2}",
        "SELECT c.ts, c.seq, l.ts FROM commits c JOIN log l ON l.seq = c.seq WHERE l.ts > c.ts",
    ),
    (
        "the log has row {0}, the newest commit knows only {1}",
        """SELECT (SELECT max(seq) FROM log) AS a, (SELECT seq FROM commits ORDER BY ts DESC LIMIT 1) AS b
           WHERE a > ifnull(b, 0)""",
    ),
    (
        "document {1} of table {0} points at log row {2}, which is not its revision of {3}",
        """SELECT d.tbl, hex(d.id), d.seq, d.ts FROM docs d LEFT JOIN log l ON l.seq = d.seq
           WHERE l.seq IS NULL OR l.tbl != d.tbl OR l.id != d.id OR l.ts != d.ts OR l.body IS NULL""",
    ),
    (
        "the dead revision {3} of document {1} of table {0} points at log row {2}, which is another's",
        """SELECT d.tbl, hex(d.id), d.seq, d.from_ts FROM dead_docs d LEFT JOIN log l ON l.seq = d.seq
           WHERE l.seq IS NULL OR l.tbl != d.tbl OR l.id != d.id OR l.ts != d.from_ts OR l.body IS NULL""",
    ),
    (
        "log row {0} of document {1} at {2} is neither live nor dead nor a tombstone",
        """SELECT seq, hex(id), ts FROM log WHERE body IS NOT NULL AND NOT EXISTS
           (SELECT 1 FROM docs d WHERE d.tbl = log.tbl AND d.id = log.id AND d.seq = log.seq) AND NOT EXISTS
           (SELECT 1 FROM dead_docs d WHERE d.tbl = log.tbl AND d.id = log.id AND d.seq = log.seq)""",
    ),
    (
        "log row {0} is used by {1} documents or dead revisions",
        """SELECT seq, count(*) FROM (SELECT seq FROM docs UNION ALL SELECT seq FROM dead_docs)
           GROUP BY seq HAVING count(*) > 1""",
    ),
    (
        "document {1} of table {0}: its dead revision from {2} to {3} overlaps one that lasted until {4}",
        """SELECT tbl, hex(id), from_ts, to_ts, before FROM (SELECT *, lag(to_ts) OVER
           (PARTITION BY tbl, id ORDER BY to_ts) AS before FROM dead_docs)
           WHERE from_ts >= to_ts OR from_ts < before""",
    ),
    (
        "document {1} of table {0} is live since {2}, yet a dead revision lasted until {3}",
        """SELECT d.tbl, hex(d.id), d.ts, max(o.to_ts) FROM docs d JOIN dead_docs o ON o.tbl = d.tbl AND o.id = d.id
           GROUP BY d.tbl, d.id HAVING max(o.to_ts) > d.ts""",
    ),
    (
        "the dead revision {2} of document {1} of table {0} ended at {3}, where the log says nothing of it",
        """SELECT d.tbl, hex(d.id), d.from_ts, d.to_ts FROM dead_docs d WHERE NOT EXISTS
           (SELECT 1 FROM ends e WHERE e.tbl = d.tbl AND e.id = d.id AND e.ts = d.to_ts AND e.prev = d.from_ts)""",
    ),
    (
        "index {0}: the dead entry {1} from {2} to {3} overlaps one that lasted until {4}",
        """SELECT idx, hex(key), from_ts, to_ts, before FROM (SELECT *, lag(to_ts) OVER
           (PARTITION BY idx, key ORDER BY to_ts) AS before FROM dead_entries)
           WHERE from_ts >= to_ts OR from_ts < before""",
    ),
    (
        "index {0}: the entry {1} holds since {2}, yet a dead one lasted until {3}",
        """SELECT e.idx, hex(e.key), e.ts, max(d.to_ts) FROM entries e JOIN dead_entries d
           ON d.idx = e.idx AND d.key = e.key GROUP BY e.idx, e.key HAVING max(d.to_ts) > e.ts""",
    ),
    (
        "index {0}: the entry {1} belongs to no live document",
        "SELECT idx, hex(key) FROM entries WHERE NOT EXISTS (SELECT 1 FROM live WHERE live.id = substr(key, -16))",
    ),
    (
        "index {0}: the entry {1} holds since {2}, later than its document was last written",
        """SELECT idx, hex(key), ts FROM entries WHERE EXISTS (SELECT 1 FROM live WHERE live.id = substr(key, -16))
           AND ts > (SELECT max(ts) FROM live WHERE live.id = substr(key, -16))""",
    ),
    (
        "request {1} of session {0} was answered at {2}, where nothing committed for it",
        """SELECT session, request, ts FROM requests r WHERE NOT EXISTS
           (SELECT 1 FROM commits c WHERE c.ts = r.ts AND c.session = r.session AND c.request = r.request)""",
    ),
    (
        "{0} is {1}, later than the newest commit {2}",
        """SELECT key, value, newest FROM globals, (SELECT ifnull(max(ts), 0) AS newest FROM commits)
           WHERE key = 'catalog_ts' AND value > newest""",
    ),
)

_HELPERS: Final = """
CREATE TEMP TABLE live (id BLOB NOT NULL, tbl INTEGER NOT NULL, ts INTEGER NOT NULL, PRIMARY KEY (id, tbl))
    WITHOUT ROWID;
INSERT INTO live SELECT id, tbl, ts FROM docs ORDER BY id, tbl;
CREATE TEMP TABLE ends (tbl INTEGER NOT NULL, id BLOB NOT NULL, ts INTEGER NOT NULL, prev INTEGER NOT NULL,
    PRIMARY KEY (tbl, id, ts)) WITHOUT ROWID;
INSERT INTO ends SELECT tbl, id, ts, prev FROM log WHERE prev IS NOT NULL ORDER BY tbl, id, ts;
"""

_LIVE: Final = """SELECT d.tbl, d.id, l.body FROM docs d CROSS JOIN log l ON l.seq = d.seq
    WHERE l.body IS NOT NULL ORDER BY d.seq"""
_EXPECT: Final = "INSERT OR IGNORE INTO expected (idx, key) VALUES (?, ?)"
_MISSING: Final = """SELECT idx, hex(key) FROM expected x WHERE NOT EXISTS
    (SELECT 1 FROM entries e WHERE e.idx = x.idx AND e.key = x.key)"""
_SURPLUS: Final = """SELECT idx, hex(key) FROM entries e WHERE idx IN (SELECT idx FROM expected_indexes) AND NOT EXISTS
    (SELECT 1 FROM expected x WHERE e.idx = x.idx AND e.key = x.key)"""


def check(path: str | Path, keys_of: KeysOf | None = None) -> Iterator[str]:
    """A sentence for each broken invariant of the store at `path`; nothing if it is sound.

    `keys_of(table, id, body)` gives the entries (index, key) a document must have, by_id left out; without it entries
    are only checked to belong to a live document. Indexes it never names are left alone: they may be under backfill.
    """
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        connection.set_busy_timeout(10_000)
        connection.execute("PRAGMA temp_store = FILE; PRAGMA cache_size = -65536")
        connection.execute("BEGIN")
        damage = [str(line) for (line,) in connection.execute("PRAGMA integrity_check")]
        if damage != ["ok"]:
            yield from (f"the file is damaged: {line}" for line in damage[:_SHOWN_MAX])
        connection.execute(_HELPERS)
        for sentence, statement in _RULES:
            yield from _offenders(connection, sentence, statement)
        yield from verify(connection.cursor())
        if keys_of is not None:
            yield from _check_keys(connection, keys_of)
        connection.execute("COMMIT")
    except apsw.Error as error:
        yield f"the walk ended early: {type(error).__name__}: {error}"
    finally:
        connection.close(True)


def _offenders(connection: apsw.Connection, sentence: str, statement: str) -> Iterator[str]:
    for shown, row in enumerate(connection.execute(statement)):
        if shown == _SHOWN_MAX:
            yield f"… and more of the same: {sentence}"
            return
        yield sentence.format(*row)


def _check_keys(connection: apsw.Connection, keys_of: KeysOf) -> Iterator[str]:
    connection.execute(
        "CREATE TEMP TABLE expected (idx INTEGER NOT NULL, key BLOB NOT NULL, PRIMARY KEY (idx, key)) WITHOUT ROWID;"
        "CREATE TEMP TABLE expected_indexes (idx INTEGER PRIMARY KEY)"
    )
    indexes: set[int] = set()
    rows: list[tuple[int, bytes]] = []
    writer = connection.cursor()
    for found in connection.execute(_LIVE):
        table, id, body = _typed(found)
        try:
            keys = keys_of(table, id, body)
        except CellstoreError as error:
            yield f"document {id.hex()} of table {table} cannot be read: {error}"
            continue
        indexes.update(index for index, _ in keys)
        rows += keys
        if len(rows) > 5000:
            writer.executemany(_EXPECT, rows)
            rows.clear()
    writer.executemany(_EXPECT, rows)
    writer.executemany("INSERT INTO expected_indexes VALUES (?)", [(index,) for index in indexes])
    yield from _offenders(connection, "index {0}: the entry {1} is missing", _MISSING)
    yield from _offenders(connection, "index {0}: the entry {1} is not what its document says", _SURPLUS)


def _typed(row: Any) -> tuple[int, bytes, bytes]:
    table, id, body = row
    return table, id, body
