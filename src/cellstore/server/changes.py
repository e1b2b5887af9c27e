"""The store as a stream: all of it at one moment, then everything that changes, in the order it was committed.

    list_snapshot      every document as of one timestamp, some a page
    document_deltas    every revision after a timestamp, whole commits only; deletions too
    json_schemas       what the documents of each table look like

What is wanted of it is one table, or a selection: component ("" is the only one) → table → field, each "included",
"excluded" or a further level, `_other` standing for what is not named:

    {"": {"_other": "excluded", "posts": {"_other": "included", "secret": "excluded"}}}

A reader begins with `list_snapshot` until it has no more, and goes on with `document_deltas` from that snapshot's
timestamp; it then has every revision once, in commit order. That holds as far back as history is kept, and until a table
comes or goes as a whole (an import that replaces, a drop) or it or a field is renamed: then it is told to begin again.

Source:  Convex streaming export, as its connectors read it
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import orjson

from cellstore.errors import OutOfRetention, ValidationError
from cellstore.transaction.catalog import by_id
from cellstore.values.convex import to_clean, to_convex
from cellstore.values.ids import encode_id
from cellstore.values.index_key import END

if TYPE_CHECKING:
    from cellstore.storage.contract import Reader
    from cellstore.transaction.catalog import Catalog, TableMeta
    from cellstore.transaction.database import Engine

SNAPSHOT_ROWS, DELTA_ROWS = 1024, 128
FORMATS = {"json": to_clean, "convex_clean_json": to_clean, "convex_encoded_json": to_convex, "convex_json": to_convex}

SIMPLE = {
    "string": {"type": "string"}, "boolean": {"type": "boolean"}, "null": {"type": "null"}, "bytes": {"type": "string"},
    "int": {"type": "integer"}, "float": {"type": "number"}, "id": {"type": "string"}, "datetime": {"type": "string"},
    "date": {"type": "string"},
}  # fmt: skip
META = {
    "_table": {"type": "string"}, "_component": {"type": "string"}, "_ts": {"type": "integer"}, "_deleted": {"type": "boolean"},
}  # fmt: skip


Wanted = Callable[[str], "Callable[[str], bool] | None"]
"""A table's name to which of its fields are wanted; None: nothing of it."""


class Changes:
    """Reads one store; every method on any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def snapshot(self, ts: int | None, cursor: str | None, wanted: Wanted, encoding: str) -> dict[str, Any]:
        """A page of everything wanted at `ts`. Errors: OutOfRetention; ValidationError for a cursor of another stream."""
        encode = _encoder(encoding)
        with self._engine.begin(ts) as transaction, self._reader() as reader:
            ts = transaction.begin_ts
            tables = [each for each in _sorted(transaction.catalog) if wanted(each.name)]
            rows = _rows_after(reader, tables, ts, _read_cursor(cursor))
            values: list[dict[str, Any]] = []
            last: tuple[str, bytes] | None = None
            for meta, row in rows:
                if len(values) == SNAPSHOT_ROWS:
                    return {"values": values, "snapshot": ts, "cursor": _cursor(last), "hasMore": True}
                values.append(_document(meta, row.ts, row.id, row.body, encode, wanted))
                last = (meta.name, row.key)
        return {"values": values, "snapshot": ts, "cursor": _cursor(last), "hasMore": False}

    def deltas(self, after_ts: int, wanted: Wanted, encoding: str) -> dict[str, Any]:
        """What of it was committed after `after_ts`, about a page of it. Errors: OutOfRetention, also of replaced tables."""
        encode = _encoder(encoding)
        with self._engine.begin() as transaction, self._reader() as reader:
            newest = transaction.begin_ts
            reader.check_retention(after_ts)
            if 0 < after_ts < transaction.catalog_ts:
                with self._engine.begin(after_ts) as then:
                    _check_whole(then.catalog, transaction.catalog, wanted)
            entries = reader.log(after_ts, newest, DELTA_ROWS) if after_ts < newest else []
            tables = {meta.number: meta for meta in transaction.catalog.user_tables()}
            values = [
                _delta(tables[entry.table], entry.ts, entry.id, entry.body, encode, wanted)
                for entry in entries
                if entry.table in tables and wanted(tables[entry.table].name)
            ]
            upto = entries[-1].ts if entries else max(after_ts, newest)
            return {"values": values, "cursor": upto, "hasMore": upto < newest}

    @contextmanager
    def _reader(self) -> Iterator[Reader]:
        """A view no older than any transaction begun before."""
        reader = self._engine.storage.reader()
        reader.refresh()
        try:
            yield reader
        finally:
            reader.close()

    def schemas(self, with_meta: bool) -> dict[str, Any]:
        """A JSON schema of each table's documents."""
        return {meta.name: schema_of(meta, with_meta) for meta in _sorted(self._engine.catalog)}

    def columns(self) -> list[dict[str, Any]]:
        """The names of each table's fields, as far as they are declared."""
        return [{"name": name, "columns": list(found["properties"])} for name, found in self.schemas(False).items()]


def _check_whole(then: Catalog, now: Catalog, wanted: Wanted) -> None:
    """Whether the log tells all that happened between two moments: documents of a table that comes or goes as a whole, or
    is renamed with them or its fields, stay where they are, and only names are given or taken. A number may have been given
    up by a dropped table and be another's now; that looks like a rename."""
    for table in then.tables():
        later = now.by_number(table.number)
        known_as = table.known_as if later is None else later.known_as
        moved = bool(table.stands_for) != (later is None or bool(later.stands_for))
        moved = moved or (known_as != table.known_as and not table.stands_for)
        renamed = later is not None and later.stored_as != table.stored_as
        if (moved or renamed) and (wanted(table.known_as) or wanted(known_as)):
            what = "imported, replaced, renamed or dropped since" if moved else "given other field names since"
            raise OutOfRetention(f"the table {table.known_as!r} was {what}; begin again with list_snapshot")


def schema_of(table: TableMeta, with_meta: bool) -> dict[str, Any]:
    """The JSON schema of a table; of one that declares nothing, only what every document has."""
    declared = table.schema.get("fields") if isinstance(table.schema, dict) else None
    fields: dict[str, Any] = {"_id": {"type": "string"}, "_creationTime": {"type": "number"}}
    required = ["_id", "_creationTime"]
    for name, entry in (declared or {}).items():
        if name not in fields:
            fields[name] = json_schema(entry["type"])
            required += [] if entry.get("optional") else [name]
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {**fields, **(META if with_meta else {})},
        "required": required,
        "additionalProperties": declared is None,
    }


def json_schema(expr: dict[str, Any]) -> dict[str, Any]:
    """One of our type expressions as JSON schema; what it cannot say allows everything."""
    match expr["type"]:
        case "array":
            return {"type": "array", "items": json_schema(expr["items"])}
        case "record":
            return {"type": "object", "additionalProperties": json_schema(expr["values"])}
        case "object":
            inner = {name: json_schema(entry["type"]) for name, entry in expr["fields"].items()}
            return {"type": "object", "properties": inner}
        case "union":
            return {"anyOf": [json_schema(member) for member in expr["members"]]}
        case "literal":
            return {"const": expr["value"]}
        case simple:
            return dict(SIMPLE.get(simple, {}))


def _rows_after(
    reader: Reader, tables: list[TableMeta], ts: int, after: tuple[str, bytes] | None
) -> Iterator[tuple[TableMeta, Any]]:
    """The rows of all tables, by name of table and id, behind a place."""
    for meta in tables:
        if after is not None and meta.name < after[0]:
            continue
        lo = after[1] + b"\0" if after is not None and meta.name == after[0] else b""
        for row in reader.scan(by_id(meta.number), meta.number, lo, END, ts=ts):
            yield meta, row


def _document(meta: TableMeta, ts: int, id: bytes, body: bytes, encode: Any, wanted: Wanted) -> dict[str, Any]:
    has = wanted(meta.name) or _everything
    fields = {name: value for name, value in encode(meta.load(body)).items() if has(name)}
    return {"_id": encode_id(meta.number, id), **fields, "_component": "", "_table": meta.name, "_ts": ts}


def _delta(meta: TableMeta, ts: int, id: bytes, body: bytes | None, encode: Any, wanted: Wanted) -> dict[str, Any]:
    if body is not None:
        return {**_document(meta, ts, id, body, encode, wanted), "_deleted": False}
    gone = {"_id": encode_id(meta.number, id), "_component": "", "_table": meta.name, "_ts": ts}
    return {**gone, "_deleted": True}


def selected(table: str | None, selection: Any) -> Wanted:
    """One table, a selection, or for None of both everything. Errors: ValidationError."""
    if selection is None:
        return lambda name: _everything if table in (None, name) else None
    tables = _node(selection, "", "selection")

    def wanted(name: str) -> Callable[[str], bool] | None:
        fields = _node(tables, name, "selection")
        return None if fields is False else lambda field: _node(fields, field, "selection") is not False

    wanted("")  # to have it refused before anything is read
    return wanted


def _everything(_name: str) -> bool:
    return True


def _node(tree: Any, name: str, where: str) -> Any:
    """What a selection says of a name: a further level, True or False."""
    found = tree.get(name, tree.get("_other", "included")) if isinstance(tree, dict) else tree
    if found in ("included", "excluded"):
        return found == "included"
    if not isinstance(found, dict | bool):
        raise ValidationError(path=where, expected='"included", "excluded" or a further level', got=repr(found)[:60])
    return found


def _sorted(catalog: Catalog) -> list[TableMeta]:
    return sorted(catalog.user_tables(), key=lambda table: table.name)


def _encoder(encoding: str) -> Any:
    found = FORMATS.get(encoding)
    if found is None:
        raise ValidationError(path="format", expected=", ".join(FORMATS), got=repr(encoding)[:60], code="BadFormat")
    return found


def _cursor(place: tuple[str, bytes] | None) -> str | None:
    return None if place is None else base64.b64encode(orjson.dumps([place[0], place[1].hex()])).decode()


def _read_cursor(cursor: str | None) -> tuple[str, bytes] | None:
    if cursor is None:
        return None
    try:
        table, key = orjson.loads(base64.b64decode(cursor, validate=True))
        return str(table), bytes.fromhex(key)
    except (ValueError, TypeError) as wrong:
        raise ValidationError(path="cursor", expected="a cursor of this stream", got=repr(cursor)[:60]) from wrong
