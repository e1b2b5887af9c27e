"""Drives a storage as the transaction layer would, beside a plain dict that knows what every moment held.

A `Scribe` keeps the documents of one table in a dict, derives each commit's index keys from them, and remembers a copy
of the dict per commit. What a storage answers at any timestamp can then be compared with what the dict said then; and
the same records drive several storages alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cellstore.storage.contract import CommitRecord, DocWrite, Op, Reader, RequestRecord, Row, by_id_index
from cellstore.values.index_key import END, encode_key
from cellstore.values.json import dumps, loads
from cellstore.values.value import MISSING

TABLE = 10_001
BY_A, BY_B = 1_048_576, 1_048_577
INDEXES: dict[int, tuple[str, ...]] = {2 * TABLE + 1: (), BY_A: ("a",), BY_B: ("b", "a")}

Fields = dict[str, Any]
State = dict[bytes, Fields]


def doc_id(number: int) -> bytes:
    """The id of test document `number`: they sort as their numbers do."""
    return number.to_bytes(2, "big") * 8


def key_of(index: int, id: bytes, fields: Mapping[str, Any]) -> bytes:
    """The key a document has in one of the test indexes."""
    return encode_key([fields.get(name, MISSING) for name in INDEXES[index]], fields["_creationTime"], id)


def keys_of(table: int, id: bytes, body: bytes) -> list[tuple[int, bytes]]:
    """The `KeysOf` of the test table, for `Storage.check`."""
    assert table == TABLE
    return [(index, key_of(index, id, loads(body))) for index in INDEXES]


@dataclass
class Scribe:
    """What one table holds, held and shall hold."""

    now: State = field(default_factory=dict)
    ts: int = 0
    past: list[tuple[int, State]] = field(default_factory=lambda: [(0, {})])

    def record(
        self,
        changes: Mapping[int, Fields | None],
        *,
        step: int = 10,
        request: RequestRecord | None = None,
        catalog: bool = False,
    ) -> CommitRecord:
        """One commit: document number to its new fields, or None to delete. Deleting what is not there does nothing."""
        self.ts += step
        writes = [self._write(doc_id(number), fields) for number, fields in changes.items()]
        self.past.append((self.ts, dict(self.now)))
        return CommitRecord(self.ts, "test:fn", [write for write in writes if write is not None], request, catalog)

    def at(self, ts: int) -> State:
        """What the table held at `ts`."""
        return next(state for stamp, state in reversed(self.past) if stamp <= ts)

    def expected(
        self, index: int, ts: int, lo: bytes, hi: bytes, *, descending: bool = False, limit: int | None = None
    ) -> list[tuple[bytes, bytes, Fields]]:
        """(key, id, fields) a scan must find."""
        state = self.at(ts)
        by_id = index == by_id_index(TABLE)
        found = [(id if by_id else key_of(index, id, fields), id, fields) for id, fields in state.items()]
        found = sorted((row for row in found if lo <= row[0] < hi), key=lambda row: row[0])
        return (found[::-1] if descending else found)[:limit]

    def _write(self, id: bytes, fields: Fields | None) -> DocWrite | None:
        before = self.now.get(id)
        if fields is None and before is None:
            return None
        after: Fields | None = None
        if fields is None:
            del self.now[id]
        else:
            after = {**fields, "_creationTime": before["_creationTime"] if before else float(self.ts)}
            self.now[id] = after
        keys = [
            (i, key_of(i, id, before) if before else None, key_of(i, id, after) if after else None) for i in INDEXES
        ]
        op: Op = "delete" if after is None else "update" if before else "insert"
        return DocWrite(TABLE, id, dumps(after) if after is not None else None, op, keys)


def seen(rows: Sequence[Row]) -> list[tuple[bytes, bytes, Fields]]:
    """What a scan found, in the form of `Scribe.expected`."""
    return [(row.key, row.id, loads(row.body)) for row in rows]


def assert_same_as_scribe(reader: Reader, scribe: Scribe, stamps: Sequence[int]) -> None:
    """Every document, index and count at every one of `stamps`, both ways, against the dict."""
    for ts in stamps:
        state = scribe.at(ts)
        for id in {id for _, past in scribe.past for id in past}:
            row = reader.get(TABLE, id, ts)
            assert (loads(row.body) if row else None) == state.get(id), (ts, id)
            assert row is None or row.ts <= ts
        for index in (by_id_index(TABLE), *INDEXES):
            wanted = scribe.expected(index, ts, b"", END)
            assert seen(list(reader.scan(index, TABLE, b"", END, ts=ts))) == wanted, (index, ts)
            backwards = list(reader.scan(index, TABLE, b"", END, ts=ts, descending=True))
            assert seen(backwards) == wanted[::-1], (index, ts)
            assert reader.count(index, b"", END, ts) == len(wanted), (index, ts)


def work_of(reader: Any, read: Callable[[], object]) -> int:
    """How many steps SQLite's machine takes for `read()` through an SQLite reader: its cost, without a clock."""
    taken = 0

    def step() -> bool:
        nonlocal taken
        taken += 1
        return False

    reader._connection.set_progress_handler(step, 1)
    try:
        read()
    finally:
        reader._connection.set_progress_handler(None)
    return taken
