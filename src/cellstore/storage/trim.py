"""Giving up history, a slice at a time.

    log         in order: whatever a row replaced died at that row, and a tombstone has then done its work
    entries     dead ones, by when they died
    commits     by time, and with each the outcome of the request it answered, if its client cannot ask again

How far the log and the commits have been looked through is stored, so no slice looks twice. The floor under which nobody
may read is raised before anything goes; of a store that is younger than it everything can be read, its beginning too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import apsw

from cellstore.storage import sql

_Commit = tuple[int, str | None, int | None]  # ts, session, request


@dataclass(frozen=True, slots=True)
class Trim:
    """One slice, to be run in a transaction.

    Units   timestamps in ns; `budget` in rows looked at
    """

    before_ts: int
    budget: int
    requests_before_ts: int  # outcomes older than it go in any case
    requests_kept: int  # newer ones stay if they are among the newest of their session

    def run(self, cursor: apsw.Cursor) -> int:
        """At how many rows it looked. Fewer than the budget: nothing is left to do."""
        began = cursor.execute(sql.NEWEST_COMMIT_AT, (self.before_ts,)).get is not None
        if began and self.before_ts > _global(cursor, "min_snapshot_ts"):
            cursor.execute(sql.SET_GLOBAL, (self.before_ts, "min_snapshot_ts"))
        looked = self._log(cursor)
        if looked < self.budget:
            looked += self._entries(cursor, self.budget - looked)
        if looked < self.budget:
            looked += self._commits(cursor, self.budget - looked)
        if looked < self.budget:
            looked += self._old_commits(cursor, self.budget - looked)
        return looked

    def _log(self, cursor: apsw.Cursor) -> int:
        start = _global(cursor, "trimmed_seq")
        rows: list[Any] = cursor.execute(sql.TRIM_LOG, (start, self.before_ts, self.budget)).fetchall()
        if not rows:
            return 0
        replaced = [(table, id, ts) for _, ts, table, id, prev, _ in rows if prev is not None]
        dead: list[Any] = list(cursor.executemany(sql.TRIM_DOC, replaced))
        dead += [(seq,) for seq, _, _, _, _, tombstone in rows if tombstone]
        dead.sort()  # the log is visited from left to right
        cursor.executemany(sql.TRIM_REVISION, dead)
        cursor.execute(sql.SET_GLOBAL, (rows[-1][0], "trimmed_seq"))
        return len(rows)

    def _entries(self, cursor: apsw.Cursor, budget: int) -> int:
        before = cursor.connection.total_changes()
        cursor.execute(sql.TRIM_ENTRIES, (self.before_ts, budget))
        return cursor.connection.total_changes() - before

    def _commits(self, cursor: apsw.Cursor, budget: int) -> int:
        """Commits nobody may read at, except the newest, which says where the log stood, and those kept for a client."""
        newest: Any = cursor.execute(sql.NEWEST_COMMIT_AT, (self.before_ts,)).get
        span = _global(cursor, "trimmed_ts"), newest or 0, budget
        commits: list[Any] = cursor.execute(sql.TRIM_COMMITS, span).fetchall()
        if commits:
            self._forget(cursor, [each for each in commits if not self._may_be_asked_again(cursor, each)])
            cursor.execute(sql.SET_GLOBAL, (commits[-1][0], "trimmed_ts"))
        return len(commits)

    def _old_commits(self, cursor: apsw.Cursor, budget: int) -> int:
        """Those that were kept for a client who has not been heard of for too long."""
        before_ts = min(self.requests_before_ts, _global(cursor, "trimmed_ts"))
        commits: list[Any] = cursor.execute(sql.TRIM_COMMITS, (-1, before_ts, budget)).fetchall()
        self._forget(cursor, commits)
        return len(commits)

    def _may_be_asked_again(self, cursor: apsw.Cursor, commit: _Commit) -> bool:
        ts, session, request = commit
        if session is None or request is None or ts < self.requests_before_ts:
            return False
        newest: Any = cursor.execute(sql.NEWEST_REQUEST, (session,)).get
        return bool(request > newest - self.requests_kept)

    def _forget(self, cursor: apsw.Cursor, commits: list[_Commit]) -> None:
        cursor.executemany(sql.TRIM_COMMIT, [(ts,) for ts, _, _ in commits])
        cursor.executemany(sql.TRIM_REQUEST, [(session, n) for _, session, n in commits if session is not None])


def _global(cursor: apsw.Cursor, key: str) -> int:
    value: Any = cursor.execute(sql.GLOBAL, (key,)).get
    return int(value)
