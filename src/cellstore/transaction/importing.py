"""Documents that come back with their ids: into tables that are there, or in place of them.

    insert     into the visible table, batch by batch; each batch is a durable commit
    switch     into a hidden table of another number; one small commit gives it the name, and hides the old one
    merge      into a hidden table, to be compared in order of ids; one commit makes the visible table the same

A table's number is part of every id in it, so documents that keep their ids need the number they had. Into a table that
is empty, or to replace one of another number, a table of that number is made (`switch`). To replace a table by documents
of its own number, the number is taken until the last moment, so what differs is written in one commit (`merge`): atomic
as well, what is the same is not touched and wakes nobody, but one commit has to hold all that differs.

The number may be another table's here, or the table may have documents under another that are to stay. Then the ids are
renumbered: they name the same documents in the table as it is numbered here, also where other documents of the import
refer to them, or of a later one (`references`). A table that was dropped gives its number up, unless something could still
mean it.

Invariant  until `finish` returns a replaced table shows its old documents, from then on the new ones, to every reader
Errors     CallerError before anything is written, saying which table is in the way; ValidationError naming the row;
           of a `switch` or `merge` nothing has become visible then. What is left behind is removed by `hidden.purge`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cellstore.errors import CallerError, CellstoreError, InvariantError, LimitExceeded, ValidationError
from cellstore.storage.contract import DocWrite, Row
from cellstore.transaction.bulk import prepare_bulk
from cellstore.transaction.catalog import (
    FIRST_INDEX,
    FIRST_TABLE,
    TABLES,
    TABLES_END,
    Catalog,
    TableMeta,
    by_id,
    check_name,
)
from cellstore.transaction.hidden import committed, filled, hidden_row, hide, is_unneeded, purge
from cellstore.transaction.references import References
from cellstore.transaction.requests import CommitRequest
from cellstore.values.ids import decode_id, encode_id
from cellstore.values.index_key import END
from cellstore.values.json import dumps, loads

if TYPE_CHECKING:
    from cellstore.storage.contract import Reader
    from cellstore.transaction.database import Engine
    from cellstore.transaction.transaction import Transaction

Mode = Literal["fail", "append", "replace"]
MODES: tuple[Mode, ...] = ("fail", "append", "replace")
SOURCE = "import"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A table to fill. `number` is the one its ids carry; None when they are to be new."""

    table: str
    number: int | None = None


@dataclass(slots=True)
class _Job:
    """How one table gets its documents."""

    table: str
    number: int | None  # in the ids that come
    method: Literal["insert", "switch", "merge"]
    target: int  # the table written to
    becomes: int  # the number of the table in the end
    documents: int = 0
    changed: int = 0
    nowhere: int = 0  # ids in its documents of others that are not here,
    nowhere_first: str = ""  # and one of them

    @property
    def label(self) -> str:
        """The name of the target in the catalog that batches are checked with."""
        return f"{self.table} (import)" if self.method == "merge" else self.table

    @property
    def renumbered(self) -> bool:
        """Whether the ids that come are not those the documents get."""
        return self.number not in (None, self.becomes)

    def report(self) -> dict[str, Any]:
        """What became of the table."""
        told: dict[str, Any] = {"documents": self.documents, "number": self.becomes}
        if self.renumbered:
            told["renumbered_from"] = self.number
        if self.method == "merge":
            told["changed"] = self.changed
        if self.nowhere:
            told["dangling"] = {"count": self.nowhere, "first": self.nowhere_first}
        return told


class Import:
    """One import: `load` any number of times, then `finish` or `give_up`.

    Order      one call at a time, from any thread
    """

    def __init__(self, engine: Engine, mode: str, wanted: Sequence[Wanted]) -> None:
        if mode not in MODES:
            raise ValidationError(path="mode", expected=" or ".join(map(repr, MODES)), got=repr(mode)[:60])
        self._engine = engine
        self.mode = mode
        self.ts = engine.published_ts  # of the newest commit of this import
        self._validating: tuple[int, Catalog] | None = None
        self._jobs: dict[str, _Job] = {}
        self._references = References({}, engine.catalog)
        self._nowhere: list[str] = []  # ids in the batch under way of documents that are not here
        self._begin(sorted(wanted, key=lambda each: each.number is None))  # numbers that are given come first

    @property
    def tables(self) -> list[str]:
        """The tables it fills."""
        return list(self._jobs)

    @property
    def hidden(self) -> list[int]:
        """The numbers of the tables nobody is to see yet."""
        return [job.target for job in self._jobs.values() if job.method != "insert"]

    def load(self, table: str, lines: bytes, first_row: int = 0) -> int:
        """Take some documents in, native JSON, one a line, perhaps with `_id` and `_creationTime`; how many.

        One durable commit. Errors: ValidationError naming the row, counted from `first_row`; nothing of the batch is in
        """
        job = self._jobs.get(table)
        if job is None:
            raise ValidationError(path="table", expected=f"one of {', '.join(self._jobs)}", got=repr(table)[:60])
        try:
            request, self.ts = committed(
                self._engine, lambda transaction: self._batch(transaction, job, lines, first_row)
            )
        except CellstoreError as error:
            raise _renamed(error, job) from None
        count = int(request.result)
        job.documents += count
        job.nowhere += len(self._nowhere)
        job.nowhere_first = job.nowhere_first or "".join(self._nowhere[:1])
        return count

    def finish(self) -> dict[str, Any]:
        """Make it visible: what became of each table, and when. Errors: CallerError, LimitExceeded; nothing is replaced."""
        if self.hidden:
            _, self.ts = committed(self._engine, self._switched)
        return {"ts": self.ts, "tables": {job.table: job.report() for job in self._jobs.values()}}

    # ── the beginning ─────────────────────────────────────────────────────────────────────────────────────────────

    def _begin(self, wanted: Sequence[Wanted]) -> None:
        names = [each.table for each in wanted]
        numbers = [each.number for each in wanted if each.number is not None]
        twice = [repr(name) for name in names if names.count(name) > 1]
        twice += [f"number {number}" for number in numbers if numbers.count(number) > 1]
        if twice:
            raise ValidationError(f"the table {twice[0]} occurs twice in one import")
        for each in wanted:
            if each.number is not None:
                self._make_room(each.table, each.number)

        def prepare(transaction: Transaction) -> CommitRequest:
            jobs = [self._plan(transaction, each, numbers) for each in wanted]
            self._jobs = {job.table: job for job in jobs}
            for job in jobs:
                _remember_number(transaction, job)
            coming = {job.number or job.target: job.becomes for job in jobs}
            self._references = References(coming, transaction.catalog)
            return transaction.freeze(SOURCE)

        committed(self._engine, prepare)

    def _make_room(self, name: str, number: int) -> None:
        """Remove what an earlier table of this number has left, if it was of this name or is no longer needed."""
        if not FIRST_TABLE <= number < TABLES_END:
            raise ValidationError(
                path="_tables",
                expected=f"table numbers of {FIRST_TABLE} to {TABLES_END - 1}",
                got=str(number),
            )
        catalog = self._engine.catalog
        owner = catalog.by_number(number)
        if owner is not None and (owner.stands_for == name or is_unneeded(catalog, owner)):
            purge(self._engine, number)

    def _plan(self, transaction: Transaction, wanted: Wanted, coming: list[int]) -> _Job:
        """How one table is filled; what that needs is defined. `coming`: the numbers in the file."""
        name = wanted.table
        known = transaction.catalog.table(check_name("table", name))
        has_documents = known is not None and filled(transaction, name)
        self._check_possible(wanted, known, has_documents)
        number = self._number_here(transaction, wanted, known, has_documents)
        free = transaction.catalog.free_table(coming)
        if self.mode != "replace":
            if known is None:
                _define(transaction, number or free, name)
            elif number not in (None, known.number):
                hide(transaction, known)
                _define(transaction, number or free, name, known)
            target = transaction.catalog.table(name)
            assert target is not None
            return _Job(name, wanted.number, "insert", target.number, target.number)
        if known is not None and number == known.number:
            if has_documents:
                _define(transaction, free, f"_import_{free}", known, stands_for=name, unique_only=True)
                return _Job(name, wanted.number, "merge", free, known.number)
            hide(transaction, known)  # it is empty: an empty one of another number takes its place meanwhile
            _define(transaction, free, name, known)
            return _Job(name, wanted.number, "switch", known.number, known.number)
        target_number = number or free
        _define(transaction, target_number, f"_import_{target_number}", known, stands_for=name)
        return _Job(name, wanted.number, "switch", target_number, target_number)

    def _number_here(
        self, transaction: Transaction, wanted: Wanted, known: TableMeta | None, has_documents: bool
    ) -> int | None:
        """The number a table gets: that of its ids, or else the one it has; None for any that is free."""
        if wanted.number is None:
            return None
        catalog, present = transaction.catalog, None if known is None else known.number
        if self.mode == "append" and has_documents:
            return present
        owner = catalog.by_number(wanted.number)
        if owner is None or owner.known_as == wanted.table:
            return wanted.number
        return wanted.number if is_unneeded(catalog, owner) and not filled(transaction, owner.name) else present

    def _check_possible(self, wanted: Wanted, known: TableMeta | None, has_documents: bool) -> None:
        name = wanted.table
        if self.mode == "fail" and has_documents:
            raise CallerError(
                f"the table {name!r} has documents already, nothing was imported: import with mode='append' to add to "
                "them, or with mode='replace' to put the new ones in their place",
                code="TableNotEmpty",
            )
        building = [] if known is None else [index.name for index in known.indexes.values() if index.state != "enabled"]
        if building and self.mode == "replace":
            raise CallerError(f"the index {name}.{building[0]} is being built: replace the table when that is done")

    # ── batches ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _batch(self, transaction: Transaction, job: _Job, lines: bytes, first_row: int) -> CommitRequest:
        transaction.catalog = self._seen_as(transaction.catalog)
        self._nowhere = self._references.nowhere(lines, transaction)
        plain = not self._references.may_move and b'"_id"' not in lines and b'"_creationTime"' not in lines
        if plain and job.method != "merge":
            return prepare_bulk(transaction, job.table, lines, source=SOURCE, first_row=first_row)
        row = first_row
        for line in lines.split(b"\n"):
            if line:
                try:
                    self._insert(transaction, job, loads(line))
                except CellstoreError as error:
                    error.message = f"row {row}: {error.message}"
                    error.args = (error.message,)
                    raise
                row += 1
        return transaction.freeze(SOURCE, result=dumps(row - first_row))

    def _insert(self, transaction: Transaction, job: _Job, document: Any) -> None:
        if type(document) is not dict:
            raise ValidationError(path=job.table, expected="a document (an object)", got=type(document).__name__)
        id, creation_time = document.pop("_id", None), document.pop("_creationTime", None)
        if id is not None:
            number, internal = decode_id(id)
            if number != (job.number or job.target):
                raise ValidationError(
                    path=f"{job.table}._id",
                    expected=f"an id of the table number {job.number or job.target}, as those before it",
                    got=f"{id!r} of the table number {number}",
                )
            id = id if number == job.target else encode_id(job.target, internal)
        if creation_time is not None and (type(creation_time) not in (int, float) or not math.isfinite(creation_time)):
            raise ValidationError(
                path=f"{job.table}._creationTime", expected="milliseconds, a number", got=repr(creation_time)[:60]
            )
        if self._references.may_move:
            document = self._references.followed(document, transaction)
        transaction.insert(job.label, document, id=id, creation_time=creation_time)

    def _seen_as(self, catalog: Catalog) -> Catalog:
        """The catalog as the new documents are to be checked with: as it will be, hidden tables under their names."""
        known = self._validating
        if known is not None and known[0] == catalog.ts:
            return known[1]
        rows: dict[bytes, Mapping[str, Any]] = {}
        for job in self._jobs.values():
            hidden = None if job.method == "insert" else catalog.by_number(job.target)
            if hidden is None:
                continue
            old = catalog.table(job.table)
            if old is not None and job.method == "switch":
                rows[old.row] = hidden_row(old)
            rows[hidden.row] = hidden.row_with(name=job.label, stands_for="")
        made = catalog.with_writes(
            DocWrite(TABLES, id, dumps({**row, "_creationTime": 0.0}), "update", []) for id, row in rows.items()
        )
        self._validating = catalog.ts, made
        return made

    # ── the end ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _switched(self, transaction: Transaction) -> CommitRequest:
        """One commit that puts the new documents in the place of the old ones, in all tables at once."""
        catalog = transaction.catalog
        merged: list[_Job] = []
        for job in self._jobs.values():
            if job.method == "insert":
                continue
            old, hidden = catalog.table(job.table), catalog.by_number(job.target)
            if hidden is None or hidden.stands_for != job.table:
                raise InvariantError(f"the hidden table {job.target} of an import is gone")
            _check_unchanged(job, old, hidden)
            if job.method == "merge":
                merged.append(job)
                continue
            if old is not None:
                hide(transaction, old)
            transaction.place_table(hidden.row, hidden.row_with(name=job.table, stands_for=""))
        request = transaction.freeze(SOURCE)
        if merged:
            with closing(self._engine.storage.reader()) as reader:
                request.begin_ts = min(request.begin_ts, reader.refresh())
                for job in merged:
                    self._merge(reader, catalog, job, request)
        return request

    def _merge(self, reader: Reader, catalog: Catalog, job: _Job, request: CommitRequest) -> None:
        """Add the writes that make the visible table the same as the hidden one, and depend on all of it."""
        table = catalog.table(job.table)
        assert table is not None
        most, before = self._engine.knobs.import_changes_max, len(request.writes)
        request.reads.setdefault(by_id(table.number), []).append((b"", END))
        for write in _differences(reader, table, job.target):
            request.writes.append(write)
            if len(request.writes) > most:
                raise LimitExceeded(
                    f"the documents for {job.table!r} have the ids of those that are there, and more than {most:,} differ: "
                    "that is more than one commit can hold, nothing was replaced. Import into a new store, leave the ids "
                    "out to get new ones (there is no limit then), or raise the knob import_changes_max",
                    knob="import_changes_max",
                    limit=most,
                    used=most + 1,
                )
        job.changed = len(request.writes) - before


# ── definitions ────────────────────────────────────────────────────────────────────────────────────────────────────


def _define(
    transaction: Transaction,
    number: int,
    name: str,
    like: TableMeta | None = None,
    *,
    stands_for: str = "",
    unique_only: bool = False,
) -> None:
    """A new, empty table of this number, with the schema and the indexes of another."""
    earlier = transaction.catalog.by_number(number)  # hidden and empty
    if earlier is not None:
        for id, row in list(transaction.catalog.index_rows()):
            if row["table"] == number and row["state"] != "dropped":
                transaction.define_index(id, {**{k: v for k, v in row.items() if k[0] != "_"}, "state": "dropped"})
    row = (like or TableMeta(name, number, {})).row_with(name=name, number=number, stands_for=stands_for)
    transaction.place_table(None if earlier is None else earlier.row, row)
    for index in () if like is None else like.indexes.values():
        if index.number >= FIRST_INDEX and (index.unique or not unique_only):
            transaction.define_index(
                None,
                {
                    "table": number,
                    "name": index.name,
                    "number": transaction.catalog.next_index,
                    "fields": list(index.fields),
                    "unique": index.unique,
                    "state": "enabled",
                },
            )


def _remember_number(transaction: Transaction, job: _Job) -> None:
    """Have a table that is renumbered know the number its ids come with: what is imported later may have them."""
    table = transaction.catalog.by_number(job.becomes)
    if job.number is not None and job.renumbered and table is not None and job.number not in table.came_as:
        transaction.place_table(table.row, table.row_with(came_as=[*table.came_as, job.number]))


def _check_unchanged(job: _Job, old: TableMeta | None, hidden: TableMeta) -> None:
    """The new documents were checked against, and indexed by, the table's definition when the import began."""
    only_unique = job.method == "merge"
    now = (None, {}, {}) if old is None else (old.schema, old.stored_as, _indexes(old, only_unique))
    if (old is None and only_unique) or now != (hidden.schema, hidden.stored_as, _indexes(hidden, only_unique)):
        raise CallerError(
            f"the table {job.table!r} was redefined while its documents came in, nothing was replaced: import again",
            code="TableChanged",
        )


def _indexes(table: TableMeta, only_unique: bool) -> dict[str, tuple[tuple[str, ...], bool, str]]:
    return {
        name: (index.fields, index.unique, index.state)
        for name, index in table.indexes.items()
        if index.number >= FIRST_INDEX and (index.unique or not only_unique)
    }


# ── comparing ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _differences(reader: Reader, table: TableMeta, wanted: int) -> Iterator[DocWrite]:
    """The writes that make `table` the same as the table `wanted`, in order of ids. Memory stays flat."""
    theirs = reader.scan(by_id(wanted), wanted, b"", END)
    ours = reader.scan(by_id(table.number), table.number, b"", END)
    new, old = next(theirs, None), next(ours, None)
    while new is not None or old is not None:
        if old is None or (new is not None and new.id < old.id):
            yield _write(table, None, new)
            new = next(theirs, None)
        elif new is None or old.id < new.id:
            yield _write(table, old, None)
            old = next(ours, None)
        else:
            if new.body != old.body:
                yield _write(table, old, new)
            new, old = next(theirs, None), next(ours, None)


def _write(table: TableMeta, old: Row | None, new: Row | None) -> DocWrite:
    before = {} if old is None else table.keys(table.load(old.body), old.id)
    after = {} if new is None else table.keys(table.load(new.body), new.id)
    id = new.id if new is not None else old.id if old is not None else b""
    op: Literal["insert", "update", "delete"] = "insert" if old is None else "delete" if new is None else "update"
    keys = [(index.number, before.get(index.number), after.get(index.number)) for index in table.written]
    return DocWrite(table.number, id, None if new is None else new.body, op, keys)


def _renamed(error: CellstoreError, job: _Job) -> CellstoreError:
    """The error, with the table's own name."""
    if job.label != job.table:
        error.message = error.message.replace(job.label, job.table)
        error.args = (error.message,)
    return error
