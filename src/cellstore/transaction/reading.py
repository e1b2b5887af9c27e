"""The reading half of a transaction: documents at one moment, through the layers, every look recorded.

    storage view  ◂ under ◂  the lane's overlay  ◂ under ◂  the transaction's own writes

Every document handed out is decoded for the caller alone; changing it changes nothing here.

Invariant  what a caller learned, also that nothing was there, is in the read set
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from cellstore.errors import ValidationError
from cellstore.knobs import DEFAULTS, Knobs
from cellstore.schema.explain import near
from cellstore.transaction import catalog as names
from cellstore.transaction.catalog import Catalog, TableMeta
from cellstore.transaction.overlay import Overlay
from cellstore.transaction.read_set import ReadSet
from cellstore.transaction.scan import Span, count, walk
from cellstore.transaction.snapshot import Snapshot
from cellstore.transaction.write_set import Pending, WriteSet
from cellstore.values.document import Document
from cellstore.values.ids import Id, decode_id, encode_id
from cellstore.values.index_key import END
from cellstore.values.interval import ReadIntervals
from cellstore.values.json import dumps, loads

if TYPE_CHECKING:
    from cellstore.storage.contract import Reader

log = logging.getLogger("cellstore.functions")  # of a running function: its own log lines


class Reading:
    """Reads documents at one moment.

    Shape    `at` None reads the newest state of the reader's view; otherwise the state at that timestamp
    Units    begin_ts in ns; now_ms in ms since the epoch, the creation time of what is inserted
    Use      as a context manager, or call `close` when done: it gives the storage view back
    """

    __slots__ = (
        "_doubted",
        "_names_seen",
        "_on_close",
        "_reads",
        "_snapshot",
        "_tables_seen",
        "_writes",
        "begin_ts",
        "catalog",
        "catalog_ts",
        "journal",
        "knobs",
        "pages",
    )

    def __init__(
        self,
        reader: Reader,
        catalog: Catalog,
        *,
        begin_ts: int,
        at: int | None = None,
        overlay: Overlay | None = None,
        knobs: Knobs = DEFAULTS,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self.begin_ts = begin_ts
        self.catalog = catalog
        self.catalog_ts = catalog.ts
        self.knobs = knobs
        self.journal: str | None = None  # page ends of an earlier run of this query, set by whoever runs it again
        self.pages: list[tuple[str, str, str]] = []  # (fingerprint, start, end) of each page read: the next journal
        self._snapshot = Snapshot(reader, at, overlay)
        self._reads = ReadSet(knobs)
        self._writes = WriteSet()
        self._names_seen: set[str] = set()
        self._tables_seen: set[int] = set()  # by number
        self._doubted: set[str] = set()
        self._on_close = on_close

    def table(self, name: str) -> TableMeta | None:
        """A table by name. Depends on that name only: on its creation, its end, its definition."""
        if name not in self._names_seen:
            self._names_seen.add(name)
            self._reads.imply(names.TABLES_BY_NAME, names.name_interval(name))
        return self.catalog.table(name)

    def get(self, id: str, table: str | None = None) -> Document | None:
        """A document by id, or None. With `table`, the id must be one of that table."""
        number, internal = self._place(id, table)
        body, _ = self._read(number, internal)
        meta = self._table_of(number)
        return None if body is None or meta is None else _document(meta.id_class(id), meta.load(body))

    def holds(self, number: int, internal: bytes) -> bool:
        """Whether the store has a document. Depends on nothing: for those to whom a guess is of use."""
        return self._snapshot.row(number, internal) is not None

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
        Errors: NotFound for the index
        """
        span = self.span(table, index, lo, hi, descending=descending)
        return iter(()) if span is None else self.scan_span(span, want)

    def changed_since(self, table: str, ts: int) -> bool:
        """Whether a table may have been written or defined anew after `ts`. Depends on all of it and reads none of it."""
        reader = self._snapshot.reader
        defined = reader.written_since(names.TABLES, ts)
        span = self.span(table, names.BY_CREATION_TIME)
        if span is None:
            return False
        self._reads.open(span.meta.number, span.lo, span.hi).done = True
        written = reader.written_since(span.table, ts)
        return written is None or defined is None or bool(written or defined)

    def count(self, table: str, index: str = names.BY_CREATION_TIME, lo: bytes = b"", hi: bytes = END) -> int:
        """How many documents have their key in [lo, hi). Depends on which do, and not on what they hold."""
        span = self.span(table, index, lo, hi)
        return 0 if span is None else self.count_span(span)

    def span(
        self, table: str, index: str, lo: bytes = b"", hi: bytes = END, *, descending: bool = False
    ) -> Span | None:
        """The piece of an index a scan would walk; None without the table. Errors: NotFound for the index."""
        meta = self.table(table)
        if meta is None:
            self._doubt(table)
            return None
        if index not in (names.BY_ID, names.BY_CREATION_TIME) and not meta.is_system:
            self._reads.imply(names.INDEXES_BY_TABLE, names.index_interval(meta.number, index))
        return Span(meta.index(index), meta.number, lo, hi, descending)

    def _doubt(self, table: str) -> None:
        """A table that is not there yet is empty; one that is nearly named like another is probably mistyped: say so, once."""
        if table not in self._doubted:
            self._doubted.add(table)
            if hint := near(table, [each.name for each in self.catalog.user_tables()]):
                log.warning("there is no table %r, so there is nothing to find in it%s", table, hint)

    def count_span(self, span: Span) -> int:
        """As `count`, of a span got before."""
        if span.lo >= span.hi:
            return 0
        self._reads.open(names.membership(span.meta.number), span.lo, span.hi).done = True
        meta = self.catalog.by_number(span.table)
        assert meta is not None
        return count(self._snapshot, self._writes, span, meta.load)

    def holder(self, span: Span) -> Id | None:
        """The first document in a span, by its id. Depends on which stand there, and not on what they hold."""
        self._reads.open(names.membership(span.meta.number), span.lo, span.hi).done = True
        found = next(walk(self._snapshot, self._writes, span, 1), None)
        meta = self.catalog.by_number(span.table)
        return None if found is None or meta is None else meta.id_class(encode_id(span.table, found.id))

    def scan_span(self, span: Span, want: int | None = None) -> Iterator[tuple[bytes, Document]]:
        """As `scan`, of a span got before."""
        if span.lo >= span.hi:
            return
        reads, number, left = self._reads, span.table, want
        meta = self.catalog.by_number(number)
        kind, load = (Id, loads) if meta is None else (meta.id_class, meta.load)
        read = reads.open(span.meta.number, span.lo, span.hi, span.descending)
        for key, internal, body in walk(self._snapshot, self._writes, span, want):
            read.reach = key
            reads.consumed(len(body))
            yield key, _document(kind(encode_id(number, internal)), load(body))
            if left is not None:
                left -= 1
                if left == 0:
                    return
        read.done = True

    @property
    def reads(self) -> ReadIntervals:
        """What this transaction depends on so far."""
        return self._reads.intervals()

    @property
    def read_size_bytes(self) -> int:
        """The documents handed out so far, in bytes."""
        return self._reads.size_bytes

    @property
    def secret(self) -> bytes:
        """What this store alone knows; nothing while it has no server. It never changes, so nothing depends on it."""
        index = names.by_creation_time(names.DEPLOYMENT)
        for row in self._snapshot.reader.scan(index, names.DEPLOYMENT, b"", END, limit=1):
            return str(loads(row.body)["secret"]).encode()
        return b""

    @property
    def next_journal(self) -> str | None:
        """What to set as `journal` when this query runs again, so that its pages keep their ends."""
        return dumps([list(page) for page in self.pages]).decode() if self.pages else None

    def close(self) -> None:
        """Give the storage view back. Reading is over."""
        if self._on_close is not None:
            on_close, self._on_close = self._on_close, None
            on_close()

    def _place(self, id: str, table: str | None) -> tuple[int, bytes]:
        """(table number, internal id). Errors: ValidationError for no id, or one of another table."""
        place = decode_id(id)
        if table is not None:
            meta = self.table(table)
            if meta is None or meta.number != place[0]:
                other = self.catalog.by_number(place[0])
                raise ValidationError(
                    path="id",
                    expected=f"an id of table {table!r}",
                    got=f"an id of {'no table here' if other is None else f'table {other.name!r}'} ({id!r})",
                    code="InvalidTable",
                )
        return place

    def _table_of(self, number: int) -> TableMeta | None:
        """The table of an id; None if it is hidden. Depends on its name: whoever replaces a table replaces its documents."""
        meta = self.catalog.by_number(number)
        if meta is None:
            return None
        if number not in self._tables_seen:
            self._tables_seen.add(number)
            self.table(meta.known_as)
        return None if meta.stands_for else meta

    def _read(self, number: int, internal: bytes) -> tuple[bytes | None, Pending | None]:
        """A document's bytes, recorded as read, and its pending state if some layer holds it."""
        pending = self._writes.get(number, internal) or self._snapshot.pending(number, internal)
        if pending is not None:
            body = pending.body
        else:
            row = self._snapshot.row(number, internal)
            body = None if row is None else row.body
        self._reads.point(2 * number, internal, 0 if body is None else len(body))
        return body, pending


def _document(id: Id, fields: dict[str, Any]) -> Document:
    document = Document(_id=id)
    document.update(fields)
    return document
