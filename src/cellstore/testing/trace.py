"""A database that writes down what a function did with it: every read with its answer, every write.

    with recorded(ctx) as db:                     in a function, also in a worker process
        task = db.query("tasks").with_index("by_rank", rank=1).first()
        db.patch(task["_id"], {"done": True})
        return {"trace": db.trace, "changed": db.changed}

The trace is plain data, so it crosses processes and prints. `testing.model` replays it on a dict.

    ["get", id, document or None]
    ["range", table, fields, conditions, descending, documents consumed, whether the range was exhausted]
    ["count", table, fields, conditions, how many]
    ["page", table, fields, conditions, descending, after, upto, documents]     positions are keys in hexadecimal, or ends
    ["insert", table, document]   ["patch", id, changes, names removed]   ["replace", id, fields]   ["delete", id]
    ["taken", table, fields of a unique index, id or None, document]            a write that a unique index refused
    ["savepoint"]   ["release"]   ["rollback"]                                  nested mutations

`fields` are those of the index, None for by_id; a condition is [operator, field, value], "missing" for an absent field.
What a `filter` passed over was read too, so it is among the documents. A loop must not write to what it walks over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import replace
from typing import Any

from cellstore.errors import ValidationError
from cellstore.transaction.access import DatabaseReader, DatabaseWriter, Predicate, QueryBuilder
from cellstore.transaction.catalog import BY_ID
from cellstore.transaction.pages import position_of
from cellstore.transaction.ranges import Range
from cellstore.transaction.transaction import Transaction
from cellstore.values.document import Document
from cellstore.values.ids import decode_id
from cellstore.values.json import loads
from cellstore.values.value import UNSET

Operation = list[Any]
Trace = list[Operation]
Conditions = list[list[Any]]


class RecordedDatabase:
    """`ctx.db`, recorded. `pause` is called before each operation: that is where a test may let others run."""

    def __init__(self, transaction: Transaction, pause: Callable[[], None] = lambda: None) -> None:
        self.trace: Trace = []
        self.transaction = transaction
        self.pause = pause
        self._db = DatabaseWriter(transaction)

    def get(self, id: str) -> Document | None:
        """As `ctx.db.get`."""
        self.pause()
        found = self._db.get(id)
        self.trace.append(["get", str(id), plain(found)])
        return found

    def query(self, table: str) -> RecordedQuery:
        """As `ctx.db.query`."""
        return RecordedQuery(self, self._db.query(table))

    def insert(self, table: str, fields: Mapping[str, Any]) -> str:
        """As `ctx.db.insert`."""
        self.pause()
        with self._taken(table, None, lambda: fields):
            id = self._db.insert(table, fields)
        self.trace.append(["insert", table, self._written(id)])
        return id

    def restore(self, table: str, id: str, fields: Mapping[str, Any]) -> None:
        """Insert with an id of before, as an import does."""
        self.pause()
        with self._taken(table, id, lambda: fields):
            self.transaction.insert(table, fields, id=id)
        self.trace.append(["get", id, None])  # a restore looks whether the document is there
        self.trace.append(["insert", table, self._written(id)])

    def patch(self, id: str, changes: Mapping[str, Any]) -> None:
        """As `ctx.db.patch`."""
        self.pause()
        with self._taken(self._table(id), id, lambda: {**self._held(id), **changes}):
            self._db.patch(id, changes)
        kept = {name: value for name, value in changes.items() if value is not UNSET}
        self.trace.append(["patch", str(id), deepcopy(kept), [name for name in changes if name not in kept]])

    def replace(self, id: str, fields: Mapping[str, Any]) -> None:
        """As `ctx.db.replace`."""
        self.pause()
        with self._taken(self._table(id), id, lambda: fields):
            self._db.replace(id, fields)
        self.trace.append(["replace", str(id), deepcopy(dict(fields))])

    def delete(self, id: str) -> None:
        """As `ctx.db.delete`."""
        self.pause()
        self._db.delete(id)
        self.trace.append(["delete", str(id)])

    @property
    def changed(self) -> bool:
        """Whether there is anything to commit: a document that would be other than it was."""
        return bool(self.transaction._writes.freeze())

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """What the block writes is gone if it raises."""
        point = self.transaction.savepoint()
        with self.nested():
            try:
                yield
            except BaseException:
                self.transaction.rollback(point)
                raise

    @contextmanager
    def nested(self) -> Iterator[None]:
        """Record a savepoint that somebody else takes, as `ctx.run_mutation` does."""
        self.trace.append(["savepoint"])
        try:
            yield
        except BaseException:
            self.trace.append(["rollback"])
            raise
        self.trace.append(["release"])

    def _written(self, id: str) -> dict[str, Any]:
        """A document of our own as it is about to be stored. Looks without reading."""
        pending = self.transaction._writes.get(*decode_id(id))
        assert pending is not None
        assert pending.body is not None
        return {"_id": str(id), **loads(pending.body)}

    def _table(self, id: str) -> str:
        meta = self.transaction.catalog.by_number(decode_id(id)[0])
        return "" if meta is None else meta.name

    def _held(self, id: str) -> dict[str, Any]:
        """A document as this transaction has it. Looks without recording: the write that needs it has read it."""
        place = decode_id(id)
        transaction = self.transaction
        held = transaction._writes.get(*place) or transaction._snapshot.pending(*place)
        found = transaction._snapshot.row(*place) if held is None else held
        return {} if found is None or found.body is None else dict(loads(found.body))

    @contextmanager
    def _taken(self, table: str, id: str | None, fields: Callable[[], Mapping[str, Any]]) -> Iterator[None]:
        """Record that a unique index refused a write which would have made `fields`."""
        try:
            yield
        except ValidationError as error:
            if error.code == "NotUnique":
                meta = self.transaction.catalog.table(table)
                assert meta is not None
                name = error.message.partition(f"{table}.")[2].partition(" ")[0]
                document = {name: value for name, value in fields().items() if value is not UNSET}
                self.trace.append(["taken", table, list(meta.indexes[name].fields), id, document])
            raise


class RecordedQuery:
    """`ctx.db.query(…)`, recorded."""

    def __init__(self, db: RecordedDatabase, builder: QueryBuilder) -> None:
        self._db = db
        self._builder = builder

    def with_index(self, name: str, range: Callable[[Range], object] | None = None, /, **equal: Any) -> RecordedQuery:
        """As `QueryBuilder.with_index`."""
        return RecordedQuery(self._db, self._builder.with_index(name, range, **equal))

    def order(self, direction: Any) -> RecordedQuery:
        """As `QueryBuilder.order`."""
        return RecordedQuery(self._db, self._builder.order(direction))

    def filter(self, predicate: Predicate) -> RecordedQuery:
        """As `QueryBuilder.filter`."""
        return RecordedQuery(self._db, self._builder.filter(predicate))

    def collect(self) -> list[Document]:
        """As `QueryBuilder.collect`."""
        return list(self)

    def __iter__(self) -> Iterator[Document]:
        self._db.pause()
        builder, read = self._begun()
        for document in builder:
            if builder is self._builder:
                read[5].append(plain(document))
            yield document
        read[6] = True

    def take(self, count: int) -> list[Document]:
        """As `QueryBuilder.take`."""
        self._db.pause()
        builder, read = self._begun()
        found = builder.take(count)
        if builder is self._builder:
            read[5].extend(map(plain, found))
        read[6] = len(found) < count
        return found

    def first(self) -> Document | None:
        """As `QueryBuilder.first`."""
        self._db.pause()
        builder, read = self._begun()
        found = builder.first()
        if builder is self._builder and found is not None:
            read[5].append(plain(found))
        read[6] = found is None
        return found

    def unique(self) -> Document | None:
        """As `QueryBuilder.unique`."""
        self._db.pause()
        builder, read = self._begun()
        try:
            found = builder.unique()
        except ValidationError:
            read[5][:] = map(plain, self._builder.take(2))
            raise
        if builder is self._builder and found is not None:
            read[5].append(plain(found))
        read[6] = True
        return found

    def count(self) -> int:
        """As `QueryBuilder.count`."""
        self._db.pause()
        if self._builder._filters:
            return len(self.collect())
        found = self._builder.count()
        self._db.trace.append(["count", *self._place(), found])
        return found

    def paginate(self, num_items: int, cursor: str | None = None, end_cursor: str | None = None) -> Document:
        """As `QueryBuilder.paginate`."""
        self._db.pause()
        scanned: list[Any] = []
        builder = self._watched(scanned)
        page = builder.paginate(num_items=num_items, cursor=cursor, end_cursor=end_cursor)
        if builder is self._builder:
            scanned = list(map(plain, page["page"]))
        after, upto = self._position(cursor), self._position(page["continueCursor"])
        self._db.trace.append(["page", *self._place(), bool(self._builder._descending), after, upto, scanned])
        return page

    def _position(self, cursor: str | None) -> str | None:
        """A key in hexadecimal, or "end"."""
        span = self._builder._span()
        return cursor if span is None else position_of(self._db.transaction, span, cursor)

    def _begun(self) -> tuple[QueryBuilder, Operation]:
        """The query to run, and its record, which grows with what is consumed."""
        scanned: list[Any] = []
        builder = self._watched(scanned)
        read = ["range", *self._place(), bool(self._builder._descending), scanned, False]
        self._db.trace.append(read)
        return builder, read

    def _watched(self, scanned: list[Any]) -> QueryBuilder:
        """The query itself; with a filter, one that notes what the filter is asked about."""
        builder = self._builder
        if not builder._filters:
            return builder

        def note(document: Document) -> bool:
            scanned.append(plain(document))
            return True

        return replace(builder, _filters=(note, *builder._filters))

    def _place(self) -> tuple[str, list[str] | None, Conditions]:
        builder = self._builder
        meta = self._db.transaction.catalog.table(builder._table)
        index = None if meta is None else meta.indexes.get(builder._index)
        fields = None if builder._index == BY_ID else [] if index is None else list(index.fields)
        return builder._table, fields, _conditions(builder._range)


@contextmanager
def recorded(ctx: Any) -> Iterator[RecordedDatabase]:
    """`ctx.db`, recorded. Inside a nested call it is the caller's, with a savepoint around it."""
    outer = _current.get()
    if outer is not None:
        with outer.nested():
            yield outer
        return
    db = RecordedDatabase(_transaction_of(ctx.db))
    token = _current.set(db)
    try:
        yield db
    finally:
        _current.reset(token)


_current: ContextVar[RecordedDatabase | None] = ContextVar("recorded", default=None)


def _transaction_of(db: DatabaseReader) -> Transaction:
    return db._transaction


def plain(document: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A copy nobody else changes."""
    return None if document is None else deepcopy(dict(document))


def _conditions(asked: Range | None) -> Conditions:
    if asked is None:
        return []
    found: Conditions = [
        ["missing", name, None] if value is UNSET else ["eq", name, value] for name, value in asked.equal.items()
    ]
    for bound, verb in ((asked.lower, "gt"), (asked.upper, "lt")):
        if bound is not None:
            found.append([verb + "e" * bound.inclusive, bound.field, bound.value])
    return found
