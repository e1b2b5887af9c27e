"""The shortest storage that keeps every promise, but one: nothing outlives the process.

It is the reference the SQLite storage is compared with, and what `Engine.memory()` runs on. Everything hangs off one
idea: a key of an index *holds* from one timestamp to another, and a document has a list of revisions.

    index       live keys since when; dead keys with their spans. by_id is an index like the others: a document's id
                holds while the document exists
    document    its revisions, oldest first, tombstones among them

A view is a timestamp. Scans read in chunks under the lock and go on from the last key, so writers need not wait for a
slow reader, and a view stays exact because what it can see is never changed, only added to or, once no view can see it
any more, trimmed.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import merge
from itertools import islice, takewhile
from typing import Any
from weakref import WeakKeyDictionary

from sortedcontainers import SortedDict

from cellstore.errors import InvariantError, StorageError
from cellstore.storage.contract import (
    CommitRecord,
    DocWrite,
    KeysOf,
    LogEntry,
    Row,
    by_id_index,
    out_of_retention,
    table_of_by_id,
)
from cellstore.values.index_key import END

_CHUNK = 256
_SOON_ROWS = 2000
_FOREVER = 1 << 63

Doc = tuple[int, bytes]


@dataclass(slots=True)
class _Index:
    """When each key held."""

    live: Any = field(default_factory=SortedDict)  # key to the timestamp since when
    dead: Any = field(default_factory=SortedDict)  # key to its spans [from, to), oldest first

    def begin(self, key: bytes, ts: int) -> None:
        self.live.setdefault(key, ts)

    def end(self, key: bytes, ts: int) -> None:
        since = self.live.pop(key, None)  # None: backfill had not come to it yet
        if since is not None:
            self.dead.setdefault(key, []).append((since, ts))

    def keys_at(self, lo: bytes, hi: bytes, ts: int, descending: bool, newest: bool) -> Iterator[bytes]:
        bounds = {"minimum": lo, "maximum": hi, "inclusive": (True, False), "reverse": descending}
        live = self.live.irange(**bounds)
        if newest:  # every live key held then: no need to look at dead ones, nor at the spans
            return iter(live)
        then_live = (key for key in live if self.live[key] <= ts)
        then_dead = (key for key in self.dead.irange(**bounds) if any(a <= ts < b for a, b in self.dead[key]))
        return merge(then_live, then_dead, reverse=descending)


class MemoryReader:
    """A view of a memory storage: everything at or before its timestamp."""

    def __init__(self, storage: MemoryStorage) -> None:
        self._storage = storage
        self.ts = 0
        self.catalog_ts = 0

    def refresh(self) -> int:
        """Move the view to the newest commit; its timestamp."""
        with self._storage._lock:
            self._storage._fail_if_closed()
            self.ts, self.catalog_ts = self._storage._last_ts, self._storage._catalog_ts
            self._storage._views[self] = self.ts
        return self.ts

    def release(self) -> None:
        """End the view."""
        self._storage._views.pop(self, None)

    def close(self) -> None:
        """End the view."""
        self.release()

    def get(self, table: int, id: bytes, ts: int | None = None) -> Row | None:
        """The document, at `ts` if that is before the view."""
        with self._storage._lock:
            return self._storage._revision(table, id, id, self._at(ts))

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
        """Documents of `table` by their key in `index` within [lo, hi)."""
        return islice(self._chunks(index, table, lo, hi, self._at(ts), descending), limit)

    def _chunks(self, index: int, table: int, lo: bytes, hi: bytes, at: int, descending: bool) -> Iterator[Row]:
        while True:
            with self._storage._lock:
                rows = self._storage._rows(index, table, lo, hi, at, descending)
            yield from rows
            if len(rows) < _CHUNK:
                return
            lo, hi = (lo, rows[-1].key) if descending else (rows[-1].key + b"\0", hi)

    def count(self, index: int, lo: bytes, hi: bytes, ts: int | None = None) -> int:
        """How many entries lie in [lo, hi)."""
        at = self._at(ts)
        with self._storage._lock:
            if at < self._storage._last_ts:
                return sum(1 for _ in self._storage._keys(index, lo, hi, at, False))
            live = self._storage._index(index).live
            return max(0, int(live.bisect_left(hi) - live.bisect_left(lo)))

    def written_since(self, table: int, ts: int) -> set[bytes] | None:
        """The documents of a table written after `ts`."""
        with self._storage._lock:
            newest_first = reversed(self._storage._log.values())
            since = list(islice(takewhile(lambda entry: entry.ts > ts, newest_first), _SOON_ROWS + 1))
        if len(since) > _SOON_ROWS:
            return None
        return {entry.id for entry in since if entry.table == table and entry.ts <= self.ts}

    def tables(self) -> list[int]:
        """The tables that hold documents."""
        with self._storage._lock:
            held = sorted({table for table, _ in self._storage._docs})
        return [table for table in held if self.count(by_id_index(table), b"", END)]

    def log(self, after_ts: int, upto_ts: int, limit: int) -> list[LogEntry]:
        """The log in (after_ts, upto_ts], whole commits, about `limit` entries."""
        found: list[LogEntry] = []
        with self._storage._lock:
            for entry in self._storage._log.values():
                if after_ts < entry.ts <= min(upto_ts, self.ts):
                    if len(found) >= limit and entry.ts != found[-1].ts:
                        break
                    found.append(entry)
        return found

    def request(self, session: str, request: int) -> bytes | None:
        """The stored outcome of a request, if it has committed."""
        ts, result = self._storage._requests.get((session, request), (_FOREVER, None))
        return result if ts <= self.ts else None

    def newest_request(self, session: str) -> int:
        """The highest number of a session's requests whose outcome is stored; -1 without one."""
        known = self._storage._requests.items()
        return max((number for (whose, number), (ts, _) in known if whose == session and ts <= self.ts), default=-1)

    def check_retention(self, ts: int) -> None:
        """Raise OutOfRetention if revisions needed to read at `ts` may be gone."""
        oldest = self._storage._min_snapshot_ts
        if ts < oldest:
            raise out_of_retention(ts, oldest)

    def _at(self, ts: int | None) -> int:
        return self.ts if ts is None else min(ts, self.ts)


class MemoryStorage:
    """A store in this process's memory."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._indexes: dict[int, _Index] = {}
        self._docs: dict[Doc, list[tuple[int, int, bytes | None]]] = {}  # revisions: ts, seq, body
        self._log: dict[int, LogEntry] = {}  # by seq, in order
        self._requests: dict[tuple[str, int], tuple[int, bytes]] = {}
        self._views: WeakKeyDictionary[MemoryReader, int] = WeakKeyDictionary()
        self._first_ts = _FOREVER  # of the first commit
        self._seq = self._last_ts = self._catalog_ts = self._min_snapshot_ts = self._trimmed_seq = 0
        self._closed = False

    @property
    def last_ts(self) -> int:
        """The timestamp of the newest commit; 0 in an empty store."""
        return self._last_ts

    def reader(self) -> MemoryReader:
        """A new reader."""
        return MemoryReader(self)

    def append(self, records: Sequence[CommitRecord], on_visible: Callable[[], None] | None = None) -> None:
        """Write a group of commits, all or none."""
        self._write(records)
        if records and on_visible is not None:
            on_visible()

    def _write(self, records: Sequence[CommitRecord]) -> None:
        with self._lock:
            self._fail_if_closed()
            self._validate(records)
            for record in records:
                for write in record.writes:
                    self._apply(record.ts, write)
                if record.request is not None:
                    self._requests[record.request.session, record.request.request] = record.ts, record.request.result
                if record.catalog:
                    self._catalog_ts = record.ts
                self._first_ts = min(self._first_ts, record.ts)
                self._last_ts = record.ts

    def put_entries(self, index: int, entries: Sequence[tuple[bytes, int]]) -> None:
        """Backfill entries (key, ts); those already there stay."""
        with self._lock:
            for key, ts in entries:
                self._index(index).begin(key, ts)

    def drop_index(self, index: int, budget: int | None = None) -> int:
        """Remove up to `budget` entries of an index; how many were."""
        with self._lock:
            found = self._index(index)
            keys = [(held, key) for held in (found.live, found.dead) for key in islice(held, budget)][:budget]
            gone = 0
            for held, key in keys:
                gone += len(held.pop(key)) if held is found.dead else 1
                found.live.pop(key, None)
            return gone

    def trim(
        self, before_ts: int, budget: int, *, requests_before_ts: int | None = None, requests_kept: int = 0
    ) -> int:
        """Give up history before `before_ts`, or before the oldest view; how many rows were looked at."""
        with self._lock:
            before_ts = min(before_ts, *self._views.values(), self._last_ts)
            self._trim_requests(
                before_ts, before_ts if requests_before_ts is None else requests_before_ts, requests_kept
            )
            if self._first_ts <= before_ts:
                self._min_snapshot_ts = max(self._min_snapshot_ts, before_ts)
            looked = 0
            while looked < budget and self._trimmed_seq < self._seq:
                seq = self._trimmed_seq + 1
                if seq in self._log and self._log[seq].ts > before_ts:
                    break
                self._trimmed_seq, looked = seq, looked + 1
                if seq in self._log:
                    self._trim_at(self._log[seq])
            if looked < budget:
                looked += self._trim_entries(before_ts, budget - looked)
            return looked

    def check(self, keys_of: KeysOf | None = None) -> Iterator[str]:
        """Walk everything; a sentence for each broken invariant."""
        expected: set[tuple[int, bytes]] = set()
        for (table, id), revisions in self._docs.items():
            stamps = [ts for ts, _, _ in revisions]
            if stamps != sorted(set(stamps)):
                yield f"document {id.hex()} of table {table} has revisions out of order"
            body = revisions[-1][2]
            if (id in self._index(by_id_index(table)).live) != (body is not None):
                yield f"document {id.hex()} of table {table} is live in one place and dead in another"
            if body is not None and keys_of is not None:
                expected.update(keys_of(table, id, body))
        for number, index in self._indexes.items():
            for key, spans in index.dead.items():
                times = [time for span in spans for time in span] + [index.live.get(key, _FOREVER)]
                if times != sorted(times):
                    yield f"index {number}: the spans of {key.hex()} overlap"
        named = {index for index, _ in expected}
        held = {(index, key) for index in named for key in self._index(index).live}
        yield from (f"index {index}: the entry {key.hex()} is missing" for index, key in expected - held)
        yield from (f"index {index}: the entry {key.hex()} is not wanted" for index, key in held - expected)

    def close(self) -> None:
        """Forget everything."""
        self._closed = True

    # ── under the lock ────────────────────────────────────────────────────────────────────────────────────────────

    def _index(self, index: int) -> _Index:
        return self._indexes.setdefault(index, _Index())

    def _fail_if_closed(self) -> None:
        if self._closed:
            raise StorageError("this store is closed")

    def _validate(self, records: Sequence[CommitRecord]) -> None:
        last_ts, alive = self._last_ts, dict[Doc, bool]()
        for record in records:
            if record.ts <= last_ts:
                raise InvariantError(f"commit timestamp {record.ts} does not rise above {last_ts}")
            last_ts = record.ts
            for write in record.writes:
                doc = write.table, write.id
                if alive.get(doc, self._live(doc) is not None) == (write.op == "insert"):
                    raise InvariantError(f"cannot {write.op} document {write.id.hex()} of table {write.table}")
                alive[doc] = write.body is not None

    def _live(self, doc: Doc) -> tuple[int, int, bytes | None] | None:
        revisions = self._docs.get(doc)
        return revisions[-1] if revisions and revisions[-1][2] is not None else None

    def _apply(self, ts: int, write: DocWrite) -> None:
        doc = write.table, write.id
        before = self._live(doc)
        self._seq += 1
        self._log[self._seq] = LogEntry(ts, write.table, write.id, write.body, before[0] if before else None)
        self._docs.setdefault(doc, []).append((ts, self._seq, write.body))
        ids = self._index(by_id_index(write.table))
        if write.body is None:
            ids.end(write.id, ts)
        else:
            ids.begin(write.id, ts)
        for number, old, new in write.keys:
            if old != new:
                if old is not None:
                    self._index(number).end(old, ts)
                if new is not None:
                    self._index(number).begin(new, ts)

    def _revision(self, table: int, id: bytes, key: bytes, at: int) -> Row | None:
        revisions = self._docs.get((table, id), ())
        place = bisect_right(revisions, at, key=lambda revision: revision[0])
        if place == 0:
            return None
        ts, _, body = revisions[place - 1]
        return None if body is None else Row(key, id, ts, body)

    def _keys(self, index: int, lo: bytes, hi: bytes, at: int, descending: bool) -> Iterator[bytes]:
        return self._index(index).keys_at(lo, hi, at, descending, at >= self._last_ts)

    def _rows(self, index: int, table: int, lo: bytes, hi: bytes, at: int, descending: bool) -> list[Row]:
        keys: Iterable[bytes] = islice(self._keys(index, lo, hi, at, descending), _CHUNK)
        by_id = table_of_by_id(index) == table
        found = (self._revision(table, key if by_id else key[-16:], key, at) for key in keys)
        return [row for row in found if row is not None]

    def _trim_at(self, entry: LogEntry) -> None:
        """Whatever `entry` replaced died at it; a tombstone has then done its work."""
        revisions = self._docs[entry.table, entry.id]
        while revisions and (revisions[0][0] < entry.ts or (entry.body is None and revisions[0][0] == entry.ts)):
            self._log.pop(revisions.pop(0)[1], None)
        if not revisions:
            del self._docs[entry.table, entry.id]

    def _trim_requests(self, before_ts: int, requests_before_ts: int, kept: int) -> None:
        newest: dict[str, int] = {}
        for session, number in self._requests:
            newest[session] = max(number, newest.get(session, 0))
        self._requests = {
            (session, number): (ts, result)
            for (session, number), (ts, result) in self._requests.items()
            if ts >= before_ts or (ts >= requests_before_ts and number > newest[session] - kept)
        }

    def _trim_entries(self, before_ts: int, budget: int) -> int:
        looked = 0
        for index in self._indexes.values():
            for key in list(index.dead):
                kept = [span for span in index.dead[key] if span[1] > before_ts]
                looked += len(index.dead[key]) - len(kept)
                index.dead[key] = kept
                if not kept:
                    del index.dead[key]
                if looked >= budget:
                    return looked
        return looked
