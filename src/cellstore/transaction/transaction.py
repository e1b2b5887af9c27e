"""One transaction: reads at one moment through its own writes, which it holds back until it is frozen.

    reads    see `reading`
    writes   checked against the schema at once, kept as bytes; nothing reaches the storage before the committer agrees
    freeze   one `CommitRequest`: what was read, what is to be written

Order      one thread; savepoints nest
Errors     ValidationError, NotFound, LimitExceeded at the call that caused them; conflicts only at commit
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from cellstore.errors import LimitExceeded, NotFound, ValidationError
from cellstore.knobs import DEFAULTS, Knobs
from cellstore.transaction import catalog as names
from cellstore.transaction.catalog import Catalog, TableMeta
from cellstore.transaction.overlay import Overlay
from cellstore.transaction.reading import Reading
from cellstore.transaction.requests import CommitRequest
from cellstore.transaction.scan import walk
from cellstore.transaction.write_set import Pending, doc_write
from cellstore.values.ids import Id, encode_id, mint
from cellstore.values.index_key import END, encode_prefix
from cellstore.values.json import dumps, loads
from cellstore.values.value import MISSING, UNSET, check_document, check_value, same

if TYPE_CHECKING:
    from cellstore.storage.contract import Reader

_DAY_MS = 86_400_000
_NO_KEYS: Mapping[int, bytes] = {}
_NO_NAMES: Mapping[str, str] = {}


class Savepoint(NamedTuple):
    """Where a nested mutation began."""

    mark: int
    catalog: Catalog


class Existing(NamedTuple):
    """A document about to be changed: where it is, its bytes, its pending state if a layer holds it."""

    table: TableMeta
    id: bytes
    body: bytes
    pending: Pending | None

    def keys(self, fields: Mapping[str, Any]) -> Mapping[int, bytes]:
        """Where it stands in each index."""
        return self.table.keys(fields, self.id) if self.pending is None else self.pending.keys


class Transaction(Reading):
    """Reads and writes documents at one moment."""

    __slots__ = ("_creation_time", "_standing", "_written_bytes", "now_ms", "random")

    def __init__(
        self,
        reader: Reader,
        catalog: Catalog,
        *,
        begin_ts: int,
        now_ms: float,
        random: Callable[[int], bytes],
        at: int | None = None,
        overlay: Overlay | None = None,
        knobs: Knobs = DEFAULTS,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(reader, catalog, begin_ts=begin_ts, at=at, overlay=overlay, knobs=knobs, on_close=on_close)
        self.now_ms = now_ms
        self.random = random
        self._standing = None if overlay is None else overlay.standing()
        self._written_bytes = 0
        self._creation_time = max(now_ms, begin_ts / 1e6)

    # ── documents ─────────────────────────────────────────────────────────────────────────────────────────────────

    def insert(
        self,
        table: str,
        fields: Mapping[str, Any],
        *,
        id: str | None = None,
        creation_time: float | None = None,
    ) -> Id:
        """A new document; its id. The table is created if there is none. `id` and `creation_time` are for imports.

        Errors: ValidationError naming table and path; LimitExceeded
        """
        meta = self.table_for_insert(table)
        internal = self._new_id(meta, id)
        document = self._admitted(meta, meta.rules.with_defaults(_fields_of(fields, meta.name)))
        document["_creationTime"] = self.next_creation_time() if creation_time is None else float(creation_time)
        if meta.unique:
            self._check_unique(meta, internal, document)
        body = self._encoded(meta, document)
        pending = self._writes.get(meta.number, internal)
        self._write(meta, internal, body, meta.keys(document, internal), pending, None, _NO_KEYS)
        return meta.id_class(encode_id(meta.number, internal))

    def patch(self, id: str, changes: Mapping[str, Any], table: str | None = None) -> None:
        """Set some fields, remove those that are UNSET. Nested objects are replaced whole.

        A patch that changes nothing writes nothing. Errors: NotFound, ValidationError, LimitExceeded
        """
        existing = self._existing(id, table)
        old = existing.table.load(existing.body)
        creation_time = old.pop("_creationTime")
        changes = _user_fields(_fields_of(changes, existing.table.name), id, creation_time)
        new = {**old, **changes}
        for name, value in changes.items():
            if value is UNSET:
                del new[name]
        self._replace(existing, old, new, creation_time)

    def replace(self, id: str, fields: Mapping[str, Any], table: str | None = None) -> None:
        """Set all fields. Errors: NotFound, ValidationError, LimitExceeded"""
        existing = self._existing(id, table)
        old = existing.table.load(existing.body)
        creation_time = old.pop("_creationTime")
        new = _user_fields(_fields_of(fields, existing.table.name), id, creation_time)
        self._replace(existing, old, existing.table.rules.with_defaults(new), creation_time)

    def delete(self, id: str, table: str | None = None) -> None:
        """Remove a document. Errors: NotFound"""
        meta, internal, body, pending = existing = self._existing(id, table)
        self._write(meta, internal, None, _NO_KEYS, pending, body, existing.keys(meta.load(body)))

    def _existing(self, id: str, table: str | None) -> Existing:
        number, internal = self._place(id, table)
        body, pending = self._read(number, internal)
        meta = self._table_of(number)
        if body is None or meta is None:
            where = "of a table that does not exist" if meta is None else f"in table {meta.name!r}"
            raise NotFound(
                f"there is no document {id!r} {where}; it may have been deleted",
                kind="document",
                name=str(id),
                code="NonexistentDocument",
            )
        return Existing(meta, internal, body, pending)

    def _replace(self, existing: Existing, old: dict[str, Any], new: dict[str, Any], creation_time: float) -> None:
        """From `old` to `new`, unless they are the same."""
        meta, internal, body, pending = existing
        document = self._admitted(meta, new)
        old["_creationTime"] = document["_creationTime"] = creation_time
        written = self._encoded(meta, document)
        if written == body or (len(written) == len(body) and old == document and same(old, document)):
            return  # the same, perhaps with its fields in another order
        if meta.unique:
            self._check_unique(meta, internal, document)
        before = existing.keys(old)
        keys = {
            index.number: before[index.number]
            if index.number in before and _agree(old, document, index.roots)
            else index.key(document, internal)
            for index in meta.written
        }
        self._write(meta, internal, written, keys, pending, body, before)

    def _admitted(self, meta: TableMeta, fields: dict[str, Any]) -> dict[str, Any]:
        """A copy of `fields` that may be stored."""
        rules = meta.rules
        admitted = rules.admit(fields, self.catalog)
        if meta.is_system:
            check_value(admitted, meta.name)
        elif not rules.closed:
            check_document(admitted, self.knobs, meta.name)
        return {**admitted}

    def _encoded(self, meta: TableMeta, document: dict[str, Any]) -> bytes:
        body = meta.dump(document)
        if meta.rules.closed:
            meta.rules.measure(document, len(body), self.knobs)
        return body

    def _write(
        self,
        meta: TableMeta,
        internal: bytes,
        body: bytes | None,
        keys: Mapping[int, bytes],
        pending: Pending | None,
        before: bytes | None,
        keys_before: Mapping[int, bytes],
    ) -> None:
        """Hold back one write. `pending` is the document in its topmost layer, `before` what it holds."""
        writes = self._writes
        self._written_bytes += 0 if body is None else len(body)
        if writes.writes >= self.knobs.write_documents_max or self._written_bytes > self.knobs.write_size_bytes:
            raise self._too_much()
        since = writes.writes + 1
        if pending is not None:
            own = writes.get(meta.number, internal)
            if own is not None:  # one write at commit, whatever came in between
                since, before, keys_before = own.since, own.base_body, own.base_keys
        writes.record(Pending(meta.number, internal, body, keys, since, before, keys_before))

    def _check_unique(self, meta: TableMeta, internal: bytes, document: dict[str, Any]) -> None:
        """No other document may have equal fields. Absent and None fields are equal to nothing."""
        for index in meta.unique:
            values = index.values(document)
            if any(value is None or value is MISSING for value in values):
                continue
            prefix = encode_prefix(values)
            span = self.span(meta.name, index.name, prefix, prefix + END)
            assert span is not None
            self._reads.open(names.membership(index.number), span.lo, span.hi).done = True
            for found in walk(self._snapshot, self._writes, span, 2):
                if found.id != internal:
                    have = ", ".join(f"{path}={value!r}" for path, value in zip(index.fields, values, strict=True))
                    raise ValidationError(
                        f"the index {meta.name}.{index.name} is unique, and document "
                        f"{encode_id(meta.number, found.id)!r} has {have} already",
                        path=index.fields[0],
                        code="NotUnique",
                    )

    def _too_much(self) -> LimitExceeded:
        knob, used, what = "write_documents_max", self._writes.writes + 1, "documents"
        if used <= self.knobs.write_documents_max:
            knob, used, what = "write_size_bytes", self._written_bytes, "bytes"
        limit = getattr(self.knobs, knob)
        return LimitExceeded(
            f"this call wrote {used:,} {what} and the limit {knob} is {limit:,}: write in several calls, or use insert_df "
            "for bulk data",
            knob=knob,
            limit=limit,
            used=used,
        )

    def _new_id(self, meta: TableMeta, id: str | None) -> bytes:
        if id is None:
            return mint(self.random, int(self.now_ms // _DAY_MS))
        _, internal = self._place(id, meta.name)
        if self._read(meta.number, internal)[0] is not None:
            raise ValidationError(
                f"there is a document {id!r} in table {meta.name!r} already", path="_id", code="DocumentExists"
            )
        return internal

    def next_creation_time(self) -> float:
        """A creation time above all earlier ones of this transaction, in ms."""
        now = self._creation_time
        self._creation_time = math.nextafter(now, math.inf)
        return now

    # ── definitions ───────────────────────────────────────────────────────────────────────────────────────────────

    def table_for_insert(self, name: str) -> TableMeta:
        """A table by name, created if there is none. Depends on nothing when there is one."""
        known = self.catalog.table(name)
        if known is not None:
            return known
        names.check_name("table", name)
        self.define_table(name, self.catalog.free_table(), None)
        created = self.catalog.table(name)
        assert created is not None
        return created

    def define_table(
        self,
        name: str,
        number: int,
        schema: Any,
        renamed_from: str | None = None,
        renamed_fields: Mapping[str, str] = _NO_NAMES,
    ) -> None:
        """Write the row of a new table, or a new schema or names of one that exists. Conflicts with every definition."""
        existing = self.catalog.table(renamed_from or name)
        if existing is None:
            self.place_table(None, {"name": name, "number": number, "schema": schema})
        else:
            stored_as = existing.stored_as_after(renamed_fields)
            self.place_table(existing.row, existing.row_with(name=name, schema=schema, stored_as=stored_as))

    def place_table(self, id: bytes | None, row: Mapping[str, Any]) -> None:
        """Write a row of `_tables` as it is: how an import hides, swaps and retires tables. Errors: LimitExceeded"""
        if row["number"] >= names.TABLES_END:
            raise LimitExceeded(
                f"the table {row['name']!r} was not made: the store has given out all its table numbers, up to "
                f"{names.TABLES_END - 1}; import its documents into a new store without their ids"
            )
        self._reads.imply(names.TABLES_BY_NAME, (b"", END))
        self._define("_tables", id, row)

    def define_index(self, id: bytes | None, row: Mapping[str, Any] | None) -> None:
        """Write a row of `_indexes`, or remove it. Conflicts with every other definition of an index."""
        self._reads.imply(names.INDEXES_BY_TABLE, (b"", END))
        self._define("_indexes", id, row)

    def _define(self, table: str, id: bytes | None, row: Mapping[str, Any] | None) -> None:
        """Insert, replace or delete a definition; this transaction's catalog follows."""
        meta = self.catalog.table(table)
        assert meta is not None
        if id is None:
            internal, pending, before, old = mint(self.random, int(self.now_ms // _DAY_MS)), None, None, None
        else:
            _, internal, before, pending = self._existing(encode_id(meta.number, id), None)
            old = loads(before)
        body, keys, keys_before = None, _NO_KEYS, _NO_KEYS if old is None else meta.keys(old, internal)
        if row is not None:
            creation_time = self.next_creation_time() if old is None else old["_creationTime"]
            document = {**row, "_creationTime": creation_time}
            body, keys = dumps(document), meta.keys(document, internal)
        self._write(meta, internal, body, keys, pending, before, keys_before)
        written = self._writes.get(meta.number, internal)
        assert written is not None
        self.catalog = self.catalog.with_writes([doc_write(written)])

    # ── savepoints, and the end ───────────────────────────────────────────────────────────────────────────────────

    def savepoint(self) -> Savepoint:
        """A nested mutation begins."""
        return Savepoint(self._writes.mark, self.catalog)

    def release(self, savepoint: Savepoint) -> None:
        """The nested mutation succeeded: its writes are part of this transaction."""

    def rollback(self, savepoint: Savepoint) -> None:
        """The nested mutation failed: its writes vanish. What it read stays read, the failure depended on it."""
        self._writes.roll_back(savepoint.mark)
        self.catalog = savepoint.catalog

    @property
    def has_writes(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self._writes.tables)

    def freeze(
        self,
        source: str = "",
        *,
        request: tuple[str, int] | None = None,
        result: bytes = b"null",
        writes: bool = True,
    ) -> CommitRequest:
        """What this transaction asks of the committer. `writes=False` asks only whether its reads still hold."""
        return CommitRequest(
            begin_ts=self.begin_ts,
            reads=self._reads.intervals(),
            writes=self._writes.freeze() if writes else [],
            catalog_ts=self.catalog_ts,
            lane=self._standing,
            request=request,
            source=source,
            result=result,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _agree(a: Mapping[str, Any], b: Mapping[str, Any], fields: frozenset[str]) -> bool:
    """Whether two documents have the same values in these fields."""
    return all(same(a.get(name, MISSING), b.get(name, MISSING)) for name in fields)


def _fields_of(fields: Mapping[str, Any], table: str) -> dict[str, Any]:
    if not isinstance(fields, dict):
        raise ValidationError(path=table, expected="a document (a dict of fields)", got=f"a {type(fields).__name__}")
    return fields


def _user_fields(fields: dict[str, Any], id: str, creation_time: float) -> dict[str, Any]:
    """`fields` without system fields, which may be repeated but not changed."""
    if "_id" not in fields and "_creationTime" not in fields:
        return fields
    for name, value in (("_id", id), ("_creationTime", creation_time)):
        if name in fields and fields[name] != value:
            raise ValidationError(path=name, expected=f"{value!r}, which never changes", got=repr(fields[name]))
    return {name: value for name, value in fields.items() if name not in ("_id", "_creationTime")}
