"""The tables of an SQLite store and every statement over them, by name.

    log           every revision in commit order; a NULL body is a tombstone. The truth; the rest is derived from it
    docs          document to its live revision
    entries       index key to the moment it became true; unchanged by updates that keep the key
    dead_docs     superseded revisions by document, each with its span of validity [from_ts, to_ts)
    dead_entries  index keys that no longer hold, with their span
    commits       one row per commit: the last log row it wrote, who made it, which request it answered
    requests      outcomes by client session and request number
    counts, uncounted   how many entries lie between two keys of an index: see `counts.py`
    globals       epoch, catalog_ts, min_snapshot_ts, trimmed_seq, trimmed_ts (of commits)

Live and dead revisions are kept apart so that a read at the newest timestamp never meets a dead one.
"""

from __future__ import annotations

from typing import Final

APPLICATION_ID: Final = 0x43454C4C  # "CELL", so that a store is recognised as one
SCHEMA_VERSION: Final = 2

CREATE_COUNTS: Final = """
CREATE TABLE counts (level INTEGER NOT NULL, idx INTEGER NOT NULL, key BLOB NOT NULL, n BLOB,
                     PRIMARY KEY (level, idx, key)) WITHOUT ROWID;
CREATE TABLE uncounted (idx INTEGER NOT NULL, key BLOB NOT NULL, by INTEGER NOT NULL);
"""
UPGRADE_1: Final = f"{CREATE_COUNTS} INSERT INTO globals VALUES ('trimmed_ts', 0);"
CREATE: Final = f"""{CREATE_COUNTS}
CREATE TABLE log (seq INTEGER PRIMARY KEY, ts INTEGER NOT NULL, tbl INTEGER NOT NULL, id BLOB NOT NULL, prev INTEGER,
                  body BLOB);
CREATE TABLE docs (tbl INTEGER NOT NULL, id BLOB NOT NULL, seq INTEGER NOT NULL, ts INTEGER NOT NULL,
                   PRIMARY KEY (tbl, id)) WITHOUT ROWID;
CREATE TABLE entries (idx INTEGER NOT NULL, key BLOB NOT NULL, ts INTEGER NOT NULL,
                      PRIMARY KEY (idx, key)) WITHOUT ROWID;
CREATE TABLE dead_docs (tbl INTEGER NOT NULL, id BLOB NOT NULL, to_ts INTEGER NOT NULL, from_ts INTEGER NOT NULL,
                        seq INTEGER NOT NULL, PRIMARY KEY (tbl, id, to_ts)) WITHOUT ROWID;
CREATE TABLE dead_entries (idx INTEGER NOT NULL, key BLOB NOT NULL, to_ts INTEGER NOT NULL, from_ts INTEGER NOT NULL,
                           PRIMARY KEY (idx, key, to_ts)) WITHOUT ROWID;
CREATE INDEX dead_entries_by_time ON dead_entries (to_ts);
CREATE TABLE commits (ts INTEGER PRIMARY KEY, seq INTEGER NOT NULL, source TEXT NOT NULL, session TEXT,
                      request INTEGER);
CREATE TABLE requests (session TEXT NOT NULL, request INTEGER NOT NULL, ts INTEGER NOT NULL, result BLOB NOT NULL,
                       PRIMARY KEY (session, request)) WITHOUT ROWID;
CREATE TABLE globals (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO globals VALUES ('epoch', 0), ('catalog_ts', 0), ('min_snapshot_ts', 0), ('trimmed_seq', 0),
    ('trimmed_ts', 0);
"""

# ── opening ────────────────────────────────────────────────────────────────────────────────────────────────────────

RAISE_EPOCH: Final = "UPDATE globals SET value = value + 1 WHERE key = 'epoch' RETURNING value"
EPOCH: Final = "SELECT value FROM globals WHERE key = 'epoch'"
GLOBAL: Final = "SELECT value FROM globals WHERE key = ?"
SET_GLOBAL: Final = "UPDATE globals SET value = ? WHERE key = ?"
LAST_COMMIT: Final = "SELECT ts, seq FROM commits ORDER BY ts DESC LIMIT 1"

# ── appending: each runs once per group, over all its rows ─────────────────────────────────────────────────────────

CURRENT: Final = "SELECT tbl, id, seq, ts FROM docs WHERE tbl = ? AND id = ?"
LOG: Final = "INSERT INTO log (seq, ts, tbl, id, prev, body) VALUES (?, ?, ?, ?, ?, ?)"
DOC_NEW: Final = "INSERT INTO docs (tbl, id, seq, ts) VALUES (?, ?, ?, ?)"
DOC_MOVED: Final = "UPDATE docs SET seq = ?, ts = ? WHERE tbl = ? AND id = ?"
DOC_GONE: Final = "DELETE FROM docs WHERE tbl = ? AND id = ?"
DOC_DEAD: Final = "INSERT INTO dead_docs (tbl, id, to_ts, from_ts, seq) VALUES (?, ?, ?, ?, ?)"
# the live entry knows since when it holds; one not there was never backfilled and has no past either
ENTRY_DIES: Final = """INSERT INTO dead_entries (idx, key, to_ts, from_ts)
    SELECT idx, key, ?, ts FROM entries WHERE idx = ? AND key = ?"""
ENTRY_DEAD: Final = "INSERT INTO dead_entries (idx, key, to_ts, from_ts) VALUES (?, ?, ?, ?)"
ENTRY_GONE: Final = "DELETE FROM entries WHERE idx = ? AND key = ?"
ENTRY_NEW: Final = "INSERT INTO entries (idx, key, ts) VALUES (?, ?, ?)"
COMMIT_NEW: Final = "INSERT INTO commits (ts, seq, source, session, request) VALUES (?, ?, ?, ?, ?)"
REQUEST_NEW: Final = "INSERT INTO requests (session, request, ts, result) VALUES (?, ?, ?, ?)"

# ── counting: the writer's side ────────────────────────────────────────────────────────────────────────────────────

ENTRY_ENDED: Final = "SELECT idx, key FROM dead_entries WHERE to_ts = ? AND idx = ? AND key = ?"
COUNT_LEVEL: Final = "SELECT key, n FROM counts WHERE level = ? AND idx = ? ORDER BY key"
COUNT_SET: Final = """INSERT INTO counts (level, idx, key, n) VALUES (?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET n = excluded.n"""
COUNT_GONE: Final = "DELETE FROM counts WHERE level = ? AND idx = ? AND key = ?"
NTH_ENTRY: Final = "SELECT key FROM entries WHERE idx = ? AND key >= ? ORDER BY key LIMIT 1 OFFSET ?"
NTH_ID: Final = "SELECT id FROM docs WHERE tbl = ? AND id >= ? ORDER BY id LIMIT 1 OFFSET ?"
COUNTED_INDEXES: Final = "SELECT DISTINCT idx FROM entries UNION ALL SELECT DISTINCT 2 * tbl FROM docs"
UNCOUNTED: Final = "SELECT idx, key, by FROM uncounted"
UNCOUNTED_NEW: Final = "INSERT INTO uncounted (idx, key, by) VALUES (?, ?, ?)"
UNCOUNTED_GONE: Final = "DELETE FROM uncounted"
COUNT_INDEXES: Final = "SELECT DISTINCT idx FROM counts UNION SELECT DISTINCT idx FROM uncounted"
ALL_ENTRIES: Final = "SELECT key FROM entries WHERE idx = ?"
ALL_IDS: Final = "SELECT id FROM docs WHERE tbl = ?"

# ── backfill and dropping ──────────────────────────────────────────────────────────────────────────────────────────

PUT_ENTRY: Final = "INSERT OR IGNORE INTO entries (idx, key, ts) VALUES (?, ?, ?) RETURNING key"
DROP_ENTRIES: Final = """DELETE FROM entries WHERE (idx, key) IN
    (SELECT idx, key FROM entries WHERE idx = ? ORDER BY key LIMIT ?) RETURNING key"""
DROP_DEAD_ENTRIES: Final = """DELETE FROM dead_entries WHERE (idx, key, to_ts) IN
    (SELECT idx, key, to_ts FROM dead_entries WHERE idx = ? LIMIT ?)"""

# ── trimming: the log in order says which revisions died when; dead entries and commits are ordered by time ────────

# up to the last row of the newest commit that is old enough: what is younger must not even be looked at
TRIM_LOG: Final = """SELECT seq, ts, tbl, id, prev, body IS NULL FROM log WHERE seq > ?1
    AND seq <= (SELECT seq FROM commits WHERE ts <= ?2 ORDER BY ts DESC LIMIT 1) ORDER BY seq LIMIT ?3"""
TRIM_DOC: Final = "DELETE FROM dead_docs WHERE tbl = ? AND id = ? AND to_ts = ? RETURNING seq"
TRIM_REVISION: Final = "DELETE FROM log WHERE seq = ?"
TRIM_ENTRIES: Final = """DELETE FROM dead_entries WHERE (idx, key, to_ts) IN
    (SELECT idx, key, to_ts FROM dead_entries WHERE to_ts <= ? ORDER BY to_ts LIMIT ?)"""
TRIM_COMMITS: Final = "SELECT ts, session, request FROM commits WHERE ts > ? AND ts < ? ORDER BY ts LIMIT ?"
NEWEST_REQUEST: Final = "SELECT ifnull(max(request), -1) FROM requests WHERE session = ?"
# the newest commit not newer than the moment stays: it says where the log stood then
NEWEST_COMMIT_AT: Final = "SELECT ts FROM commits WHERE ts <= ? ORDER BY ts DESC LIMIT 1"
TRIM_COMMIT: Final = "DELETE FROM commits WHERE ts = ?"
TRIM_REQUEST: Final = "DELETE FROM requests WHERE session = ? AND request = ?"

# ── reading ────────────────────────────────────────────────────────────────────────────────────────────────────────

REFRESH: Final = "SELECT (SELECT max(ts) FROM commits), (SELECT value FROM globals WHERE key = 'catalog_ts')"

GET: Final = (
    "SELECT d.id, d.id, d.ts, l.body FROM docs d CROSS JOIN log l ON l.seq = d.seq WHERE d.tbl = ? AND d.id = ?"
)
# its live revision if that is old enough, else the one dead revision whose span holds the moment
GET_AT: Final = """SELECT l.id, l.id, l.ts, l.body FROM log l WHERE l.seq = coalesce(
    (SELECT seq FROM docs WHERE tbl = ?1 AND id = ?2 AND ts <= ?3),
    (SELECT CASE WHEN from_ts <= ?3 THEN seq END FROM dead_docs
     WHERE tbl = ?1 AND id = ?2 AND to_ts > ?3 ORDER BY to_ts LIMIT 1))"""

# {order} is ASC or DESC; CROSS JOIN fixes the order of the loops: entries first, each row looked up as it is asked for
SCAN_IDS: Final = """SELECT d.id, d.id, d.ts, l.body FROM docs d CROSS JOIN log l ON l.seq = d.seq
    WHERE d.tbl = ?1 AND d.id >= ?2 AND d.id < ?3 ORDER BY d.id {order} LIMIT ?4"""
SCAN: Final = """SELECT e.key, d.id, d.ts, l.body FROM entries e
    CROSS JOIN docs d ON d.tbl = ?5 AND d.id = substr(e.key, -16) CROSS JOIN log l ON l.seq = d.seq
    WHERE e.idx = ?1 AND e.key >= ?2 AND e.key < ?3 ORDER BY e.key {order} LIMIT ?4"""

# A compound with its ORDER BY outside runs both halves as coroutines, in key order, and merges them: nothing is sorted
# and the limit stops both. (An ORDER BY inside a subquery promises nothing to the query around it.) What died before the
# moment lies in the way of the second half; for a moment not long ago the …_SOON forms find by time the few that have
# died since, and sort those; by their keys, so that no more documents than wanted are looked up.
_MERGED = "ORDER BY 1 {order} LIMIT ?4"
_LIVE_IDS_AT = """SELECT d.id, d.id, d.ts, l.body FROM docs d CROSS JOIN log l ON l.seq = d.seq
    WHERE d.tbl = ?1 AND d.id >= ?2 AND d.id < ?3 AND d.ts <= ?5"""
SCAN_IDS_AT: Final = f"""{_LIVE_IDS_AT} UNION ALL
    SELECT d.id, d.id, d.from_ts, l.body FROM dead_docs d CROSS JOIN log l ON l.seq = d.seq
    WHERE d.tbl = ?1 AND d.id >= ?2 AND d.id < ?3 AND d.from_ts <= ?5 AND d.to_ts > ?5 {_MERGED}"""
SCAN_IDS_AT_SOON: Final = f"""{_LIVE_IDS_AT} UNION ALL
    SELECT d.id, d.id, d.from_ts, l.body FROM log s
    CROSS JOIN dead_docs d ON d.tbl = s.tbl AND d.id = s.id AND d.to_ts = s.ts CROSS JOIN log l ON l.seq = d.seq
    WHERE s.seq > ?6 AND s.tbl = ?1 AND s.id >= ?2 AND s.id < ?3 AND s.prev <= ?5 {_MERGED}"""
_SEQ_AT = """coalesce(
        (SELECT seq FROM docs WHERE tbl = ?5 AND id = substr(e.key, -16) AND ts <= ?6),
        (SELECT CASE WHEN from_ts <= ?6 THEN seq END FROM dead_docs
         WHERE tbl = ?5 AND id = substr(e.key, -16) AND to_ts > ?6 ORDER BY to_ts LIMIT 1))"""
_LIVE_AT = f"""SELECT e.key, l.id, l.ts, l.body FROM entries e CROSS JOIN log l ON l.seq = {_SEQ_AT}
    WHERE e.idx = ?1 AND e.key >= ?2 AND e.key < ?3 AND e.ts <= ?6"""
SCAN_AT: Final = f"""{_LIVE_AT} UNION ALL
    SELECT e.key, l.id, l.ts, l.body FROM dead_entries e CROSS JOIN log l ON l.seq = {_SEQ_AT}
    WHERE e.idx = ?1 AND e.key >= ?2 AND e.key < ?3 AND e.from_ts <= ?6 AND e.to_ts > ?6 {_MERGED}"""
SCAN_AT_SOON: Final = f"""{_LIVE_AT} UNION ALL
    SELECT e.key, l.id, l.ts, l.body FROM (SELECT key FROM dead_entries INDEXED BY dead_entries_by_time
        WHERE idx = ?1 AND key >= ?2 AND key < ?3 AND from_ts <= ?6 AND to_ts > ?6 ORDER BY key {{order}} LIMIT ?4) e
    CROSS JOIN log l ON l.seq = {_SEQ_AT} {_MERGED}"""

# counting: whole buckets by their rows, ragged ends entry by entry up to a limit
COUNT_IDS: Final = "SELECT count(*) FROM (SELECT 1 FROM docs WHERE tbl = ?1 AND id >= ?2 AND id < ?3 LIMIT ?4)"
COUNT: Final = "SELECT count(*) FROM (SELECT 1 FROM entries WHERE idx = ?1 AND key >= ?2 AND key < ?3 LIMIT ?4)"
COUNT_ROOT: Final = """WITH RECURSIVE level (n) AS (SELECT ?1 UNION ALL SELECT n - 1 FROM level WHERE n > 1)
    SELECT c.level, c.n FROM level CROSS JOIN counts c ON c.level = level.n AND c.idx = ?2 AND c.key = x'' LIMIT 1"""
COUNT_BEGIN: Final = "SELECT count(*), max(key) FROM counts WHERE level = ? AND idx = ? AND key >= ? AND key <= ?"
COUNT_OF: Final = "SELECT n FROM counts WHERE level = ? AND idx = ? AND key = ?"
UNCOUNTED_SUM: Final = "SELECT ifnull(sum(by), 0) FROM uncounted WHERE idx = ? AND key >= ? AND key < ?"
COUNT_AT: Final = """SELECT
    (SELECT count(*) FROM entries WHERE idx = ?1 AND key >= ?2 AND key < ?3 AND ts <= ?4) +
    (SELECT count(*) FROM dead_entries WHERE idx = ?1 AND key >= ?2 AND key < ?3 AND from_ts <= ?4 AND to_ts > ?4)"""
COUNT_IDS_AT: Final = """SELECT
    (SELECT count(*) FROM docs WHERE tbl = ?1 AND id >= ?2 AND id < ?3 AND ts <= ?4) +
    (SELECT count(*) FROM dead_docs WHERE tbl = ?1 AND id >= ?2 AND id < ?3 AND from_ts <= ?4 AND to_ts > ?4)"""
COUNT_AT_SOON: Final = """SELECT
    (SELECT count(*) FROM entries WHERE idx = ?1 AND key >= ?2 AND key < ?3 AND ts <= ?4) +
    (SELECT count(*) FROM dead_entries INDEXED BY dead_entries_by_time
     WHERE idx = ?1 AND key >= ?2 AND key < ?3 AND from_ts <= ?4 AND to_ts > ?4)"""
COUNT_IDS_AT_SOON: Final = """SELECT
    (SELECT count(*) FROM docs WHERE tbl = ?1 AND id >= ?2 AND id < ?3 AND ts <= ?4) +
    (SELECT count(*) FROM log WHERE seq > ?5 AND tbl = ?1 AND id >= ?2 AND id < ?3 AND prev <= ?4)"""

# which moments are not long ago, and what was written since
SEQ_AT: Final = "SELECT coalesce((SELECT seq FROM commits WHERE ts <= ? ORDER BY ts DESC LIMIT 1), 0)"
LAST_SEQ: Final = "SELECT coalesce((SELECT seq FROM commits ORDER BY ts DESC LIMIT 1), 0)"
WRITTEN_SINCE: Final = "SELECT DISTINCT id FROM log WHERE seq > ? AND tbl = ?"
# DISTINCT would walk every document; this leaps from table to table
TABLES: Final = """WITH RECURSIVE tables (tbl) AS (SELECT min(tbl) FROM docs UNION ALL
    SELECT (SELECT min(tbl) FROM docs WHERE tbl > tables.tbl) FROM tables WHERE tbl IS NOT NULL)
    SELECT tbl FROM tables WHERE tbl IS NOT NULL"""
LOG_AFTER: Final = """SELECT ts, tbl, id, body, prev FROM log
    WHERE seq > coalesce((SELECT seq FROM commits WHERE ts <= ?1 ORDER BY ts DESC LIMIT 1), 0)
      AND seq <= (SELECT seq FROM commits WHERE ts <= ?2 ORDER BY ts DESC LIMIT 1) AND ts > ?1
    ORDER BY seq"""
REQUEST: Final = "SELECT result FROM requests WHERE session = ? AND request = ?"


def both_ways(statement: str) -> tuple[str, str]:
    """(ascending, descending)"""
    return statement.format(order="ASC"), statement.format(order="DESC")
