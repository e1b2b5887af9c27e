"""One transaction: reads at one moment through its own writes, which it holds back until it is frozen.

    reads    storage view, over it the lane's overlay, over it the transaction's own writes, merged in index order
    writes   checked against the schema at once, kept as bytes; nothing reaches the storage before the committer agrees
    freeze   one `CommitRequest`: what was read, what is to be written

Every document handed out is decoded for the caller alone; changing it changes nothing here.

Order      one thread; savepoints nest
Errors     ValidationError, NotFound, LimitExceeded at the call that caused them; conflicts only at commit
Invariant  what a caller learned, also that nothing was there, is in the read set
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from cellstore.errors import LimitExceeded, NotFound, ValidationError
from cellstore.knobs import DEFAULTS, Knobs
from cellstore.transaction import catalog as names
from cellstore.transaction.catalog import Catalog, TableMeta
from cellstore.transaction.overlay import Overlay
from cellstore.transaction.read_set import ReadSet
from cellstore.transaction.requests import CommitRequest
from cellstore.transaction.scan import Span, count, walk
from cellstore.transaction.snapshot import Snapshot
from cellstore.transaction.write_set import Pending, WriteSet, doc_write
from cellstore.values.document import Document
from cellstore.values.ids import Id, decode_id, encode_id, mint
from cellstore.values.index_key import END, encode_prefix
from cellstore.values.interval import ReadIntervals
from cellstore.values.json import dumps, loads
from cellstore.values.value import MISSING, UNSET, check_document, check_value, same

if TYPE_CHECKING:
    from cellstore.storage.contract import Reader

_DAY_MS = 86_400_000


class Savepoint(NamedTuple):
    """Where a nested mutation began."""

    mark: int
    catalog: Catalog


class Transaction:
    """Reads and writes documents at one moment.

    Shape    `at` None reads the newest state of the reader's view; otherwise the state at that timestamp
    Units    begin_ts in ns; now_ms in ms since the epoch, the creation time of what is inserted
    Use      as a context manager, or call `close` when done: it gives the storage view back
    """

    __slots__ = (
        "_creation_time",
        "_deployed",
        "_names_seen",
        "_on_close",
        "_reads",
        "_snapshot",
        "_standing",
        "_writes",
        "_written_bytes",
        "begin_ts",
        "catalog",
        "catalog_ts",
        "journal",
        "knobs",
        "now_ms",
        "pages",
        "random",
    )

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
        self.begin_ts = begin_ts
        self.catalog = catalog
        self.catalog_ts = catalog.ts
        self.now_ms = now_ms
        self.random = random
        self.knobs = knobs
        self.journal: str | None = None  # page ends of an earlier run of this query, set by whoever runs it again
        self.pages: list[tuple[str, str, str]] = []  # (fingerprint, start, end) of each page read: the next journal
        self._snapshot = Snapshot(reader, at, overlay)
        self._standing = None if overlay is None else overlay.standing()
        self._reads = ReadSet(knobs)
        self._writes = WriteSet()
        self._written_bytes = 0
        self._creation_time = max(now_ms, begin_ts / 1e6)
        self._names_seen: set[str] = set()
        self._on_close = on_close

    # ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────

    def table(self, name: str) -> TableMeta | None:
        """A table by name. Depends on that name only: on its creation, its end, its definition."""
        if name not in self._names_seen:
            self._names_seen.add(name)
            self._reads.imply(names.TABLES_BY_NAME, names.name_interval(name))
        return self.catalog.table(name)

    def get(self, id: str, table: str | None = None) -> Document | None:
        """A document by id, or None. With `table`, the id must be one of that table."""
        number, internal = self._place(id, table)
        body = self._read(number, internal)
        if body is None:
            return None
        meta = self.catalog.by_number(number)
        return _document(id_class(meta.name)(id) if meta is not None else Id(id), body)

    def scan(
        self,
        table: str,
        index: str = names.BY_CREATION_TIME,
        lo: bytes = b"",
        hi: bytes = END,
        *,
        descending: bool = False,
        want: int | None = None,
    ) -> Iterator[tuple[bytes, Document]]:
        """(key, document) in index order, with keys in [lo, hi). Stop pulling and the rest was never read.

        `want`: how many will be pulled at most, if known; that many are fetched. A missing table is an empty one.
        """
        span = self.span(table, index, lo, hi, descending=descending)
        return iter(()) if span is None else self.scan_span(span, want)

    def count(self, table: str, index: str = names.BY_CREATION_TIME, lo: bytes = b"", hi: bytes = END) -> int:
        """How many documents have their key in [lo, hi). Depends on all of that interval."""
        span = self.span(table, index, lo, hi)
        return 0 if span is None else self.count_span(span)

    def span(
        self, table: str, index: str, lo: bytes = b"", hi: bytes = END, *, descending: bool = False
    ) -> Span | None:
        """The piece of an index a scan would walk; None without the table. Errors: NotFound for the index."""
        meta = self.table(table)
        if meta is None:
            return None
        if index not in (names.BY_ID, names.BY_CREATION_TIME) and not meta.is_system:
            self._reads.imply(names.INDEXES_BY_TABLE, names.index_interval(meta.number, index))
        return Span(meta.index(index), meta.number, lo, hi, descending)

    def count_span(self, span: Span) -> int:
        """As `count`, of a span got before."""
        if span.lo >= span.hi:
            return 0
        self._reads.open(span.meta.number, span.lo, span.hi).done = True
        return count(self._snapshot, self._writes, span)

    def scan_span(self, span: Span, want: int | None = None) -> Iterator[tuple[bytes, Document]]:
        """As `scan`, of a span got before."""
        if span.lo >= span.hi:
            return
        kind = self._id_class(span.table)
        reads, number = self._reads, span.table
        read = reads.open(span.meta.number, span.lo, span.hi, span.descending)
        left = want
        for key, internal, body in walk(self._snapshot, self._writes, span, want):
            read.reach = key
            reads.consumed(len(body))
            yield key, _document(kind(encode_id(number, internal)), body)
            if left is not None:
                left -= 1
                if left == 0:
                    return
        read.done = True

    def _place(self, id: str, table: str | None) -> tuple[int, bytes]:
        number, internal = decode_id(id)
        if table is not None:
            meta = self.table(table)
            if meta is None or meta.number != number:
                other = self.catalog.by_number(number)
                raise ValidationError(
                    path="id",
                    expected=f"an id of table {table!r}",
                    got=f"an id of {'no table here' if other is None else f'table {other.name!r}'} ({id!r})",
                    code="InvalidTable",
                )
        return number, internal

    def _read(self, number: int, internal: bytes) -> bytes | None:
        self._reads.point(2 * number, internal)
        body = self._body(number, internal)
        self._reads.consumed(0 if body is None else len(body))
        return body

    def _body(self, number: int, internal: bytes) -> bytes | None:
        pending = self._writes.get(number, internal)
        return self._snapshot.body(number, internal) if pending is None else pending.body

    def _id_class(self, number: int) -> type[Id]:
        meta = self.catalog.by_number(number)
        return Id if meta is None else id_class(meta.name)

    # ── writing ───────────────────────────────────────────────────────────────────────────────────────────────────

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
        self._put(meta, internal, document, meta.keys(document, internal), None)
        return id_class(meta.name)(encode_id(meta.number, internal))

    def table_for_insert(self, name: str) -> TableMeta:
        """A table by name, created if there is none. Depends on nothing when there is one."""
        return self.catalog.table(name) or self._create_table(name)

    def patch(self, id: str, changes: Mapping[str, Any], table: str | None = None) -> None:
        """Set some fields, remove those that are UNSET. Nested objects are replaced whole.

        A patch that changes nothing writes nothing. Errors: NotFound, ValidationError, LimitExceeded
        """
        meta, internal, body = self._existing(id, table)
        old = loads(body)
        creation_time = old.pop("_creationTime")
        changes = _user_fields(_fields_of(changes, meta.name), id, creation_time)
        new = {**old, **changes}
        for name, value in changes.items():
            if value is UNSET:
                del new[name]
        self._replace(meta, internal, body, old, new, creation_time)

    def replace(self, id: str, fields: Mapping[str, Any], table: str | None = None) -> None:
        """Set all fields. Errors: NotFound, ValidationError, LimitExceeded"""
        meta, internal, body = self._existing(id, table)
        old = loads(body)
        creation_time = old.pop("_creationTime")
        new = _user_fields(_fields_of(fields, meta.name), id, creation_time)
        self._replace(meta, internal, body, old, meta.rules.with_defaults(new), creation_time)

    def delete(self, id: str, table: str | None = None) -> None:
        """Remove a document. Errors: NotFound"""
        meta, internal, body = self._existing(id, table)
        self._write(meta, internal, None, {}, body, None)

    def savepoint(self) -> Savepoint:
        """A nested mutation begins."""
        return Savepoint(self._writes.mark, self.catalog)

    def release(self, savepoint: Savepoint) -> None:
        """The nested mutation succeeded: its writes are part of this transaction."""

    def rollback(self, savepoint: Savepoint) -> None:
        """The nested mutation failed: its writes vanish. What it read stays read, the failure depended on it."""
        self._writes.roll_back(savepoint.mark)
        self.catalog = savepoint.catalog

    def _existing(self, id: str, table: str | None) -> tuple[TableMeta, bytes, bytes]:
        number, internal = self._place(id, table)
        body = self._read(number, internal)
        meta = self.catalog.by_number(number)
        if body is None or meta is None:
            where = "of a table that does not exist" if meta is None else f"in table {meta.name!r}"
            raise NotFound(
                f"there is no document {id!r} {where}; it may have been deleted",
                kind="document",
                name=str(id),
                code="NonexistentDocument",
            )
        return meta, internal, body

    def _admitted(self, meta: TableMeta, fields: dict[str, Any]) -> dict[str, Any]:
        """A copy of `fields` that may be stored."""
        rules = meta.rules
        admitted = rules.admit(fields, self.catalog)
        if meta.is_system:
            check_value(admitted, meta.name)
        elif not rules.closed:
            check_document(admitted, self.knobs, meta.name)
        return {**admitted}

    def _replace(
        self,
        meta: TableMeta,
        internal: bytes,
        body: bytes,
        old: dict[str, Any],
        new: dict[str, Any],
        creation_time: float,
    ) -> None:
        document = self._admitted(meta, new)
        changed = {
            name
            for name in old.keys() | document.keys()
            if not same(old.get(name, MISSING), document.get(name, MISSING))
        }
        if not changed:
            return
        document["_creationTime"] = old["_creationTime"] = creation_time
        old_keys = self._keys_now(meta, internal, old)
        keys = {
            index.number: index.key(document, internal)
            if index.roots & changed or index.number not in old_keys
            else old_keys[index.number]
            for index in meta.written
        }
        self._put(meta, internal, document, keys, body, old_keys)

    def _keys_now(self, meta: TableMeta, internal: bytes, fields: dict[str, Any]) -> Mapping[int, bytes]:
        """Where a document stands before this write; known if a layer has it."""
        pending = self._writes.get(meta.number, internal) or self._snapshot.pending(meta.number, internal)
        return meta.keys(fields, internal) if pending is None else pending.keys

    def _put(
        self,
        meta: TableMeta,
        internal: bytes,
        document: dict[str, Any],
        keys: dict[int, bytes],
        base: bytes | None,
        base_keys: Mapping[int, bytes] | None = None,
    ) -> None:
        if meta.unique:
            self._check_unique(meta, internal, document)
        body = dumps(document)
        if meta.rules.closed:
            meta.rules.measure(document, len(body), self.knobs)
        self._write(meta, internal, body, keys, base, base_keys)

    def _write(
        self,
        meta: TableMeta,
        internal: bytes,
        body: bytes | None,
        keys: dict[int, bytes],
        base: bytes | None,
        base_keys: Mapping[int, bytes] | None,
    ) -> None:
        """Hold back one write. `base` is the state before it, in whatever layer."""
        self._count_write(0 if body is None else len(body))
        earlier = self._writes.get(meta.number, internal)
        if earlier is not None:
            since, base, base_keys = earlier.since, earlier.base_body, earlier.base_keys
        else:
            since = self._writes.writes + 1
            if base is not None and base_keys is None:
                base_keys = self._keys_now(meta, internal, loads(base))
        self._writes.record(Pending(meta.number, internal, body, keys, since, base, base_keys or {}))

    def _check_unique(self, meta: TableMeta, internal: bytes, document: dict[str, Any]) -> None:
        """No other document may have equal fields. Absent and None fields are equal to nothing."""
        for index in meta.unique:
            values = [names.value_at(document, tuple(path.split("."))) for path in index.fields]
            if any(value is None or value is MISSING for value in values):
                continue
            prefix = encode_prefix(values)
            span = self.span(meta.name, index.name, prefix, prefix + END)
            assert span is not None
            self._reads.open(index.number, span.lo, span.hi).done = True
            for found in walk(self._snapshot, self._writes, span, 2):
                if found.id != internal:
                    raise ValidationError(
                        f"{meta.name}.{index.name} is unique and document {encode_id(meta.number, found.id)!r} has "
                        f"{', '.join(f'{path}={value!r}' for path, value in zip(index.fields, values, strict=True))} already",
                        path=index.fields[0],
                        code="NotUnique",
                    )

    def _count_write(self, size_bytes: int) -> None:
        self._written_bytes += size_bytes
        for knob, used, what in (
            ("write_documents_max", self._writes.writes + 1, "documents"),
            ("write_size_bytes", self._written_bytes, "bytes"),
        ):
            limit = getattr(self.knobs, knob)
            if used > limit:
                raise LimitExceeded(
                    f"this call wrote {used:,} {what} and the limit {knob} is {limit:,}: write in several calls, or use "
                    "insert_df for bulk data",
                    knob=knob,
                    limit=limit,
                    used=used,
                )

    def _new_id(self, meta: TableMeta, id: str | None) -> bytes:
        if id is None:
            return mint(self.random, int(self.now_ms // _DAY_MS))
        _, internal = self._place(id, meta.name)
        if self._read(meta.number, internal) is not None:
            raise ValidationError(
                f"there is a document {id!r} in table {meta.name!r} already", path="_id", code="DocumentExists"
            )
        return internal

    def next_creation_time(self) -> float:
        """A creation time above all earlier ones of this transaction, in ms."""
        now = self._creation_time
        self._creation_time = math.nextafter(now, math.inf)
        return now

    def _create_table(self, name: str) -> TableMeta:
        """A new table without schema. Its number is free only if no other table is created meanwhile."""
        names.check_name("table", name)
        self.define_table(name, self.catalog.next_table, None)
        created = self.catalog.table(name)
        assert created is not None
        return created

    def define_table(self, name: str, number: int, schema: Any) -> None:
        """Write the row of a new table, or a new schema of one that exists."""
        self._reads.imply(names.TABLES_BY_NAME, (b"", END))
        existing = self.catalog.table(name)
        row = {"name": name, "number": number, "schema": schema}
        self.write_definition("_tables", None if existing is None else existing.row, row)

    def define_index(self, id: bytes | None, row: Mapping[str, Any] | None) -> None:
        """Write a row of `_indexes`, or remove it."""
        self._reads.imply(names.INDEXES_BY_TABLE, (b"", END))
        self.write_definition("_indexes", id, row)

    def write_definition(self, table: str, id: bytes | None, row: Mapping[str, Any] | None) -> None:
        """Insert, replace or delete a row of `_tables` or `_indexes`; this transaction's catalog follows."""
        meta = self.catalog.table(table)
        assert meta is not None
        internal = mint(self.random, int(self.now_ms // _DAY_MS)) if id is None else id
        before = None if id is None else self._read(meta.number, id)
        if row is None:
            self._write(meta, internal, None, {}, before, None)
        else:
            creation_time = self.next_creation_time() if before is None else loads(before)["_creationTime"]
            document = {**row, "_creationTime": creation_time}
            self._write(meta, internal, dumps(document), meta.keys(document, internal), before, None)
        pending = self._writes.get(meta.number, internal)
        assert pending is not None
        self.catalog = self.catalog.with_writes([doc_write(pending)])

    # ── ending ────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def reads(self) -> ReadIntervals:
        """What this transaction depends on so far."""
        return self._reads.intervals()

    @property
    def has_writes(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self._writes.tables)

    @property
    def next_journal(self) -> str | None:
        """What to set as `journal` when this query runs again, so that its pages keep their ends."""
        return dumps([list(page) for page in self.pages]).decode() if self.pages else None

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

    def close(self) -> None:
        """Give the storage view back. Reading is over."""
        if self._on_close is not None:
            on_close, self._on_close = self._on_close, None
            on_close()

    def __enter__(self) -> Transaction:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def id_class(table: str) -> type[Id]:
    """The class of a table's ids: `Id["users"]`."""
    return Id.__class_getitem__(table)


def _document(id: Id, body: bytes) -> Document:
    document = Document(_id=id)
    document.update(loads(body))
    return document


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
