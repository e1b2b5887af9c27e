"""What happened between two moments: documents inserted, changed, removed, as JSON lines.

    {"table": "tasks", "_id": "j57…", "change": "inserted", "before": null, "after": {…}}

The difference of the two moments, not the history between them: a document that came and went is not in it, nor one that
was changed and changed back. Native JSON; `before` and `after` carry `_id` and `_creationTime`. Tables by name, within one
the documents in the order they were first touched. Tables and fields bear the names they have now, so a rename is no change.

Cost       a look at the log between the moments, and two point reads per document touched in it
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cellstore.analytics.feed import BATCH
from cellstore.analytics.mirror import Check, never
from cellstore.transaction.catalog import FIRST_TABLE
from cellstore.values.ids import encode_id
from cellstore.values.json import dumps, loads
from cellstore.values.value import same

if TYPE_CHECKING:
    from cellstore.storage.contract import Reader
    from cellstore.transaction.catalog import Catalog, TableMeta


def write_changes(reader: Reader, catalog: Catalog, ts0: int, ts1: int, path: Path, check: Check = never) -> None:
    """The differences from `ts0` to `ts1`, which is not before it, into a file. `catalog`: as of `ts1` or later."""
    touched = _touched(reader, ts0, ts1, check)
    tables = sorted(
        (table for table in map(catalog.by_number, touched) if table is not None), key=lambda table: table.name
    )
    with path.open("wb") as file:
        for table in tables:
            file.writelines(_lines(reader, table, list(touched[table.number]), ts0, ts1, check))


def _touched(reader: Reader, ts0: int, ts1: int, check: Check) -> dict[int, dict[bytes, None]]:
    """The documents of user tables in the log of (ts0, ts1], by table, in order."""
    touched: dict[int, dict[bytes, None]] = {}
    at = ts0
    while at < ts1:
        check()
        entries = reader.log(at, ts1, BATCH)
        for entry in entries:
            if entry.table >= FIRST_TABLE:
                touched.setdefault(entry.table, {})[entry.id] = None
        at = entries[-1].ts if len(entries) >= BATCH else ts1
    return touched


def _lines(reader: Reader, table: TableMeta, ids: list[bytes], ts0: int, ts1: int, check: Check) -> Iterator[bytes]:
    for place, id in enumerate(ids):
        if place % BATCH == 0:
            check()
        before, after = reader.get(table.number, id, ts0), reader.get(table.number, id, ts1)
        old, new = (None if row is None else table.text(row.body) for row in (before, after))
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
