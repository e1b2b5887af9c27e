"""What happened between two moments: documents inserted, changed, removed, as JSON lines.

    {"table": "tasks", "_id": "j57…", "change": "inserted", "before": null, "after": {…}}

The difference of the two moments, not the history between them: a document that came and went is not in it, nor one that
was changed and changed back. Native JSON; `before` and `after` carry `_id` and `_creationTime`. Tables by name, within one
the documents in the order they were first touched. Tables and fields bear the names of the later moment, so a rename is no
change; a table that is dropped or replaced takes all its documents along, also where an import has given its number to
another table since.

Cost       a look at the log between the moments, and two point reads per document touched in it
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cellstore.analytics.feed import BATCH
from cellstore.analytics.mirror import Check, never
from cellstore.transaction.catalog import FIRST_TABLE, TABLES, by_creation_time, load_catalog
from cellstore.values.ids import encode_id
from cellstore.values.index_key import END
from cellstore.values.json import dumps, loads
from cellstore.values.value import same

if TYPE_CHECKING:
    from cellstore.storage.contract import Reader
    from cellstore.transaction.catalog import TableMeta

Pair = tuple[bytes, bytes | None, bytes | None]
"""A document's id, and its body at the earlier and at the later moment."""


def write_changes(reader: Reader, ts0: int, ts1: int, path: Path, check: Check = never) -> None:
    """The differences from `ts0` to `ts1`, which is not before it, into a file."""
    then, now = (_tables(reader, ts) for ts in (ts0, ts1))
    touched, hidden = _touched(reader, ts0, ts1, check)
    stayed = {n for n in now if n in then and (n not in hidden or now[n].name == then[n].name)}
    told: list[tuple[TableMeta, Iterable[Pair]]] = [
        *((now[number], _both(reader, number, touched.get(number, ()), ts0, ts1)) for number in stayed),
        *((table, _all(reader, table, ts0, gone=True)) for number, table in then.items() if number not in stayed),
        *((table, _all(reader, table, ts1, gone=False)) for number, table in now.items() if number not in stayed),
    ]
    with path.open("wb") as file:
        for table, pairs in sorted(told, key=lambda pair: (pair[0].name, pair[0].number)):
            file.writelines(_lines(table, pairs, check))


def _tables(reader: Reader, ts: int) -> dict[int, TableMeta]:
    return {table.number: table for table in load_catalog(reader, ts).user_tables()}


def _touched(reader: Reader, ts0: int, ts1: int, check: Check) -> tuple[dict[int, dict[bytes, None]], set[int]]:
    """Of the log of (ts0, ts1]: the documents of user tables by table, in order; the tables that were hidden meanwhile,
    whose number may mean another table since."""
    touched: dict[int, dict[bytes, None]] = {}
    hidden: set[int] = set()
    at = ts0
    while at < ts1:
        check()
        entries = reader.log(at, ts1, BATCH)
        for entry in entries:
            if entry.table >= FIRST_TABLE:
                touched.setdefault(entry.table, {})[entry.id] = None
            elif entry.table == TABLES and entry.body is not None:
                row = loads(entry.body)
                if row.get("stands_for"):
                    hidden.add(row["number"])
        at = entries[-1].ts if len(entries) >= BATCH else ts1
    return touched, hidden


def _all(reader: Reader, table: TableMeta, ts: int, gone: bool) -> Iterator[Pair]:
    """The documents of a table that came or went as a whole, of which the log does not speak."""
    for row in reader.scan(by_creation_time(table.number), table.number, b"", END, ts=ts):
        yield (row.id, row.body, None) if gone else (row.id, None, row.body)


def _both(reader: Reader, number: int, ids: Iterable[bytes], ts0: int, ts1: int) -> Iterator[Pair]:
    for id in ids:
        before, after = reader.get(number, id, ts0), reader.get(number, id, ts1)
        yield id, None if before is None else before.body, None if after is None else after.body


def _lines(table: TableMeta, pairs: Iterable[Pair], check: Check) -> Iterator[bytes]:
    for place, (id, *bodies) in enumerate(pairs):
        if place % BATCH == 0:
            check()
        old, new = (None if body is None else table.text(body) for body in bodies)
        kind = _change(old, new)
        if kind is None:
            continue
        text = encode_id(table.number, id)
        head = dumps({"table": table.name, "_id": text, "change": kind})
        yield b'%b,"before":%b,"after":%b}\n' % (head[:-1], _with_id(old, text), _with_id(new, text))


def _change(old: bytes | None, new: bytes | None) -> str | None:
    if old is None:
        return None if new is None else "inserted"
    if new is None:
        return "removed"
    return None if old == new or same(loads(old), loads(new)) else "changed"


def _with_id(body: bytes | None, id: str) -> bytes:
    return b"null" if body is None else b'{"_id":"%b",%b' % (id.encode(), body[1:])
