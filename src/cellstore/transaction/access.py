"""`ctx.db`: the database as a function sees it.

    ctx.db.get(id)                                                       a document, or None
    ctx.db.query("flights").with_index("by_origin", origin="JFK").order("desc").take(10)
    ctx.db.query("flights").with_index("by_hour", lambda q: q.eq("origin", "JFK").gte("hour", 8)).filter(late).collect()
    ctx.db.insert(table, fields) · patch(id, changes) · replace(id, fields) · delete(id)
    ctx.db.upsert("users", {"email": "ann@example.org"}, {"name": "Ann"})  by a unique index

A query is a description until something pulls: `collect`, `take`, `first`, `unique`, `paginate`, `count` or a `for` loop.
It reads just what it hands out; documents a `filter` passed over count as read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, overload

from cellstore.errors import CallerError, Forbidden, ValidationError
from cellstore.transaction.catalog import BY_CREATION_TIME, FILES, FIRST_TABLE, JOBS
from cellstore.transaction.pages import PageOptions, empty_page, page_options, read_page
from cellstore.transaction.ranges import Range, interval
from cellstore.transaction.scan import Span
from cellstore.transaction.transaction import Transaction
from cellstore.transaction.upsert import upsert
from cellstore.values.document import Document
from cellstore.values.ids import Id, decode_id

Direction = Literal["asc", "desc"]
Predicate = Callable[[Document], object]

_READABLE_SYSTEM_TABLES = {"_scheduled_functions": JOBS, "_storage": FILES}


@dataclass(frozen=True, slots=True)
class QueryBuilder:
    """A query under construction; every step returns a new one, so a half-built query can be kept and used twice."""

    _transaction: Transaction
    _table: str
    _index: str = BY_CREATION_TIME
    _range: Range | None = None
    _descending: bool | None = None
    _filters: tuple[Predicate, ...] = ()

    # ── describing ────────────────────────────────────────────────────────────────────────────────────────────────

    def with_index(self, name: str, range: Callable[[Range], object] | None = None, /, **equal: Any) -> QueryBuilder:
        """Read through an index: fields equal to the values given, and what `range` asks of the next one.

        Errors, when the query is run: NotFound, ValidationError naming the index and its fields
        """
        if self._range is not None:
            raise CallerError("this query has an index already; with_index can be used once")
        asked = Range(equal)
        if range is not None:
            if not callable(range):
                raise CallerError(
                    f"the second argument of with_index is a function, as in lambda q: q.eq(…), not {range!r}; give "
                    "fields to be equal by name"
                )
            range(asked)
        return replace(self, _index=name, _range=asked)

    def order(self, direction: Direction) -> QueryBuilder:
        """ "asc" (as without) or "desc", for the whole key: fields, then creation time, then id."""
        if direction not in ("asc", "desc"):
            raise CallerError(f'order takes "asc" or "desc", not {direction!r}')
        if self._descending is not None:
            raise CallerError("this query has an order already; order can be used once")
        return replace(self, _descending=direction == "desc")

    def filter(self, predicate: Predicate) -> QueryBuilder:
        """Keep documents for which `predicate(document)` is true. Several filters must all be."""
        if not callable(predicate):
            raise CallerError(f"filter takes a function of a document, as in lambda d: d.n > 3, not {predicate!r}")
        return replace(self, _filters=(*self._filters, predicate))

    def __repr__(self) -> str:
        parts = [f"query({self._table!r})"]
        if self._range is not None:
            given = "".join(f", {name}={value!r}" for name, value in self._range.equal.items())
            bounded = ", …" if self._range.lower or self._range.upper else ""
            parts.append(f"with_index({self._index!r}{given}{bounded})")
        parts += [f'order("{"desc" if self._descending else "asc"}")'] * (self._descending is not None)
        parts += ["filter(…)"] * len(self._filters)
        return f"<{'.'.join(parts)}, which nobody has pulled: .collect(), .take(n), .first() …>"

    # ── running ───────────────────────────────────────────────────────────────────────────────────────────────────

    def __iter__(self) -> Iterator[Document]:
        """Document by document; leave the loop and the rest was not read."""
        return self._documents(None)

    def collect(self) -> list[Document]:
        """All documents."""
        return list(self._documents(None))

    def take(self, count: int) -> list[Document]:
        """The first `count` documents."""
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise CallerError(f"take needs a number of documents, 0 or more, not {count!r}")
        return _pulled(self._documents(count), count)

    def first(self) -> Document | None:
        """The first document, or None."""
        return next(self._documents(1), None)

    def unique(self) -> Document | None:
        """The only document, or None. Errors: ValidationError naming both when there are two."""
        found = _pulled(self._documents(2), 2)
        if len(found) == 2:
            raise ValidationError(
                f"unique() found two documents in {self._table!r}, {found[0]['_id']!r} and {found[1]['_id']!r}: narrow "
                "the range, or use first()",
                code="NotUnique",
            )
        return found[0] if found else None

    def count(self) -> int:
        """How many documents. Without a filter none is read, only the index."""
        if self._filters:
            return sum(1 for _ in self._documents(None))
        span = self._span()
        if span is None:
            return 0
        return self._transaction.count_span(span)

    def paginate(
        self,
        opts: Mapping[str, Any] | PageOptions | None = None,
        *,
        num_items: int | None = None,
        cursor: str | None = None,
        end_cursor: str | None = None,
    ) -> Document:
        """One page: `{"page": […], "isDone": bool, "continueCursor": str}`, and where it can be read as two pages also
        `splitCursor` and `pageStatus` ("SplitRecommended", "SplitRequired").

        `opts` is Convex's `{"numItems", "cursor", "endCursor"?, "maximumRowsRead"?, "maximumBytesRead"?}`, or give the
        keywords. A page keeps its right edge when the query is run again (by the journal), so adjoining pages show every
        document once while documents move. It may be empty though not the last: its filter passed over all it may read.
        Errors: ValidationError with the code InvalidCursor for a cursor of another query: begin again without one
        """
        options = page_options(opts, num_items, cursor, end_cursor)
        span = self._span()
        passes = self._passes if self._filters else None
        return empty_page() if span is None else read_page(self._transaction, span, options, passes)

    def _passes(self, document: Document) -> bool:
        return all(predicate(document) for predicate in self._filters)

    def _span(self) -> Span | None:
        found = self._transaction.span(self._table, self._index, descending=bool(self._descending))
        if found is None or self._range is None:
            return found
        lo, hi = interval(self._table, found.meta, self._range)
        return found._replace(lo=lo, hi=hi)

    def _documents(self, want: int | None) -> Iterator[Document]:
        span = self._span()
        if span is None:
            return
        if not self._filters:
            for _, document in self._transaction.scan_span(span, want):
                yield document
            return
        for _, document in self._transaction.scan_span(span, None):
            if self._passes(document):
                yield document


def _pulled(documents: Iterator[Document], count: int) -> list[Document]:
    """At most `count`, pulling no further than that."""
    found: list[Document] = []
    if count:
        for document in documents:
            found.append(document)
            if len(found) == count:
                break
    return found


# ── ctx.db ────────────────────────────────────────────────────────────────────────────────────────────────────────


_WRITES = ("insert", "patch", "replace", "delete", "upsert")


class DatabaseReader:
    """`ctx.db` of a query."""

    __slots__ = ("_transaction",)

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def __repr__(self) -> str:
        return f"<ctx.db, to {'read and write' if isinstance(self, DatabaseWriter) else 'read'}>"

    @overload
    def get(self, id: str, /) -> Document | None: ...
    @overload
    def get(self, table: str, id: str, /) -> Document | None: ...
    def get(self, first: str, second: str | None = None, /) -> Document | None:
        """`get(id)` or `get(table, id)`: the document, or None. Errors: ValidationError when it is no id."""
        table, id = (None, first) if second is None else (table_name(first), second)
        _check_readable(decode_id(id)[0])
        return self._transaction.get(id, table)

    def query(self, table: str) -> QueryBuilder:
        """The documents of a table, by creation time until an index says otherwise. A missing table is empty."""
        name = table_name(table)
        if name.startswith("_") and name not in _READABLE_SYSTEM_TABLES:
            raise _closed(name)
        return QueryBuilder(self._transaction, name)

    @property
    def system(self) -> DatabaseReader:
        """As Convex has it: `ctx.db.system.get(id)`, `ctx.db.system.query("_storage")`; only to read."""
        return DatabaseReader(self._transaction)

    def normalize_id(self, table: str, text: str) -> Id | None:
        """`text` as an id of `table`, or None when it is none. Says nothing about the document's existence."""
        try:
            number, _ = decode_id(text)
        except ValidationError:
            return None
        meta = self._transaction.table(table_name(table))
        return meta.id_class(text) if meta is not None and meta.number == number else None

    def __getattr__(self, name: str) -> Any:
        """Errors: AttributeError, saying what a query cannot and what there is."""
        if name in _WRITES:
            raise AttributeError(f"ctx.db.{name} writes, and a query only reads: make the function a mutation")
        raise AttributeError(
            f"ctx.db has no {name!r}; it has get, query, normalize_id, in a mutation also {', '.join(_WRITES)}"
        )


class DatabaseWriter(DatabaseReader):
    """`ctx.db` of a mutation."""

    __slots__ = ()

    def insert(self, table: str, fields: Mapping[str, Any], /) -> Id:
        """A new document; its id. Errors: ValidationError naming table and path; LimitExceeded"""
        name = table_name(table)
        if name.startswith("_"):
            raise _read_only(name)
        return self._transaction.insert(name, fields)

    def upsert(self, table: str, equal: Mapping[str, Any], fields: Mapping[str, Any] | None = None, /) -> Id:
        """Patch the document whose fields are `equal`, or insert one with them and `fields`; its id.

        `equal` names the fields of one of the table's unique indexes (dotted paths too) and gives each a value.
        Errors: NotFound naming the unique indexes there are; ValidationError, for None among `equal` too; LimitExceeded
        """
        name = table_name(table)
        if name.startswith("_"):
            raise _read_only(name)
        return upsert(self._transaction, name, equal, {} if fields is None else fields)

    @overload
    def patch(self, id: str, changes: Mapping[str, Any], /) -> None: ...
    @overload
    def patch(self, table: str, id: str, changes: Mapping[str, Any], /) -> None: ...
    def patch(self, *args: Any) -> None:
        """Set some fields; `cs.UNSET` removes one. Nested objects are replaced whole. Errors: NotFound, ValidationError"""
        table, id, changes = self._target("patch", args, 2)
        self._transaction.patch(id, changes, table)

    @overload
    def replace(self, id: str, fields: Mapping[str, Any], /) -> None: ...
    @overload
    def replace(self, table: str, id: str, fields: Mapping[str, Any], /) -> None: ...
    def replace(self, *args: Any) -> None:
        """Set all fields. Errors: NotFound, ValidationError"""
        table, id, fields = self._target("replace", args, 2)
        self._transaction.replace(id, fields, table)

    @overload
    def delete(self, id: str, /) -> None: ...
    @overload
    def delete(self, table: str, id: str, /) -> None: ...
    def delete(self, *args: Any) -> None:
        """Remove a document. Errors: NotFound"""
        table, id, _ = self._target("delete", (*args, None), 2)
        self._transaction.delete(id, table)

    def _target(self, verb: str, args: tuple[Any, ...], count: int) -> tuple[str | None, str, Any]:
        """(table or None, id, the rest) of a call with or without its table first."""
        if len(args) not in (count, count + 1):
            rest = "" if verb == "delete" else ", fields"
            raise CallerError(f"call it as {verb}(id{rest}) or {verb}(table, id{rest})")
        table = None if len(args) == count else table_name(args[0])
        id, rest = args[-2], args[-1]
        number = decode_id(id)[0]
        if number < FIRST_TABLE:
            meta = self._transaction.catalog.by_number(number)
            raise _read_only(meta.name if meta is not None else f"number {number}")
        return table, id, rest


def table_name(table: object) -> str:
    """The name in `query("tasks")`; also of a `cs.Table` class. Errors: CallerError"""
    if isinstance(table, str):
        return table
    name = getattr(getattr(table, "__cellstore__", None), "name", None)
    if isinstance(name, str):
        return name
    raise CallerError(f"a table is named by a string, not by {table!r}")


def _check_readable(number: int) -> None:
    if number < FIRST_TABLE and number not in _READABLE_SYSTEM_TABLES.values():
        raise _closed(f"number {number}")


def _closed(table: str) -> Forbidden:
    readable = " and ".join(sorted(_READABLE_SYSTEM_TABLES))
    return Forbidden(f"the system table {table} is not for functions; {readable} can be read")


def _read_only(table: str) -> Forbidden:
    return Forbidden(f"the system table {table} cannot be written by functions", code="ReadOnlyTable")
