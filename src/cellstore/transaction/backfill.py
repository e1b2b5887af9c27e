"""Tables, schemas and indexes brought in line with their definitions, behind live traffic.

    check       existing documents against the new schemas, in small slices           refused: nothing has changed. A
                schema that only allows more than the present one needs none
    build       new indexes: from now on every write keeps them up, slices of old documents are added; nobody reads them
    finish      what was written meanwhile is checked too; then one commit switches everything over at once

    rename      a table keeps its number, so its ids and indexes stay as they are; fields keep the names they are stored by
                (`catalog.TableMeta.stored_as`). So no document is rewritten: the commit that switches is as small for a
                million of them, nobody ever sees some of each, and earlier moments show the names of then

A write that fits the present schema but not the coming one succeeds, and the change is refused at its end. An index on an
empty table needs no building. An interrupted change leaves half-built indexes, which the next opening clears away.

Order      one change at a time; every slice holds the committer for a few milliseconds, and between slices, at each
           `yield`, anything may happen
Errors     ValidationError naming table, document and field of the first offender, by creation time; then tables and indexes
           are as before
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from cellstore.errors import CellstoreError, FatalError, InvariantError, StorageError, ValidationError
from cellstore.schema.expr import includes, with_table_renamed
from cellstore.transaction.catalog import (
    FIRST_INDEX,
    FIRST_TABLE,
    INDEXES_PER_TABLE_MAX,
    Catalog,
    IndexMeta,
    TableMeta,
    by_creation_time,
    by_id,
    check_index_fields,
    check_name,
)
from cellstore.transaction.committer import Committer
from cellstore.transaction.hidden import follow
from cellstore.transaction.pace import Pace
from cellstore.transaction.requests import Committed
from cellstore.transaction.rules import Rules
from cellstore.transaction.transaction import Transaction
from cellstore.values.ids import encode_id
from cellstore.values.index_key import END, encode_value
from cellstore.values.value import MISSING, same

if TYPE_CHECKING:
    from cellstore.schema.definition import IndexDefinition, TableDefinition
    from cellstore.storage.contract import LogEntry, Reader, Row, Storage

SLICE_S = 0.003  # how long others wait at a time
SLICE_DOCUMENTS_MAX = 1024
DROP_MAX = 2048  # entries
_LOG_LIMIT = 1024

Step = dict[str, Any]
Steps = Generator[Step, None, None]


class Progress(NamedTuple):
    """How far the backfill of an index is, in documents."""

    done: int
    of: int


@dataclass(slots=True)
class Change:
    """What one definition asks for that is not so yet."""

    definition: TableDefinition
    table: TableMeta | None
    schema: Any = None  # the new one; None when it stays
    added: dict[str, IndexDefinition] = field(default_factory=dict)
    dropped: list[IndexMeta] = field(default_factory=list)
    building: dict[int, IndexMeta] = field(default_factory=dict)  # of the added ones, those that need building
    checked: int = 0
    renamed_from: str | None = None  # the table's name until now, if it is to change
    fields: dict[str, str] = field(default_factory=dict)  # old to new name of those to be renamed
    refielded: dict[int, tuple[str, ...]] = field(default_factory=dict)  # indexes over renamed fields, which stay

    @property
    def name(self) -> str:
        """The table's name."""
        name: str = self.definition.name
        return name

    @property
    def empty(self) -> bool:
        """Whether everything is as defined already."""
        if self.table is None or self.renamed_from is not None:
            return False
        return self.schema is None and not self.added and not self.dropped

    def report(self) -> dict[str, Any]:
        """The change as plain data."""
        renames: dict[str, Any] = {} if self.renamed_from is None else {"renamed_from": self.renamed_from}
        if self.fields:
            renames["fields_renamed"] = dict(self.fields)
        return {
            **renames,
            "created": self.table is None,
            "schema_changed": self.schema is not None and self.table is not None,
            "documents_checked": self.checked,
            "indexes_added": sorted(self.added),
            "indexes_dropped": sorted(index.name for index in self.dropped),
        }


def plan(definition: TableDefinition, catalog: Catalog) -> Change:
    """What `definition` asks to change. Errors: ValidationError for a definition that cannot be."""
    check_name("table", definition.name)
    if len(definition.indexes) > INDEXES_PER_TABLE_MAX:
        raise ValidationError(
            f"the table {definition.name!r} has {len(definition.indexes)} indexes; {INDEXES_PER_TABLE_MAX} are possible"
        )
    for name, index in definition.indexes.items():
        check_name("index", name)
        check_index_fields(name, index.fields)
    table, renamed_from = _table_meant(definition, catalog)
    fields = _fields_to_rename(definition, table)
    there = {} if table is None else {i.name: i for i in table.indexes.values() if i.number >= FIRST_INDEX}
    kept = {
        name: there[name]
        for name, index in definition.indexes.items()
        if name in there
        and _renamed_paths(there[name].fields, fields) == tuple(index.fields)
        and there[name].unique == index.unique
    }
    change = Change(
        definition,
        table,
        schema=definition.fields if table is None or not same(table.schema, definition.fields) else None,
        added={name: index for name, index in definition.indexes.items() if name not in kept},
        dropped=[index for name, index in there.items() if name not in kept],
        renamed_from=renamed_from,
        fields=fields,
        refielded={
            index.number: paths
            for index in kept.values()
            if (paths := _renamed_paths(index.fields, fields)) != index.fields
        },
    )
    _check_added(change)
    return change


def _only_allows_more(table: TableMeta, change: Change) -> bool:
    """Whether what fits the present schema fits the new one, so that no document need be looked at."""
    return table.schema is not None and not change.fields and includes(change.schema, table.schema)


def _table_meant(definition: TableDefinition, catalog: Catalog) -> tuple[TableMeta | None, str | None]:
    """(the table a definition is of, its present name if that is another one). Errors: ValidationError"""
    table, old = catalog.table(definition.name), definition.renamed_from
    before = None if old is None else catalog.table(old)
    if before is None:
        return table, None
    if table is not None:
        raise ValidationError(
            f"the table {old!r} cannot be renamed to {definition.name!r}, nothing was changed: both exist. If the rename "
            f"is done, something still writes to {old!r}: take renamed_from out, and find it",
            code="TableConflict",
        )
    return before, old


def _fields_to_rename(definition: TableDefinition, table: TableMeta | None) -> dict[str, str]:
    """The renames of fields that are still to be done: not those whose new name the table declares already."""
    declared = {} if table is None or table.schema is None else table.schema.get("fields", {})
    return {
        old: new
        for old, new in definition.renamed_fields.items()
        if table is not None and (new not in declared or old in declared)
    }


def _renamed_paths(paths: tuple[str, ...], fields: dict[str, str]) -> tuple[str, ...]:
    """What an index is over once fields are renamed. One over a new name has nobody's values: that name changes, too."""
    swapped = {**fields, **{new: old for old, new in fields.items()}}
    split = (path.partition(".") for path in paths)
    return tuple(swapped.get(root, root) + dot + rest for root, dot, rest in split)


def _check_added(change: Change) -> None:
    """A new index is built from documents as they are, so it cannot be over a field that is being renamed."""
    for name, index in change.added.items():
        both = {path.partition(".")[0] for path in index.fields} & set(change.fields.values())
        if both:
            raise ValidationError(
                f"the index {change.name}.{name} is new or different and over {min(both)!r}, a field that is being renamed; "
                "deploy the rename first and then the index",
                code="InvalidIndex",
            )


class Definitions:
    """Changes tables and indexes of one store."""

    def __init__(self, committer: Committer, storage: Storage, begin: Callable[[], Transaction]) -> None:
        self._committer = committer
        self._storage = storage
        self._begin = begin
        self._running = False
        self.progress: dict[int, Progress] = {}  # index being built, by number; for whoever watches

    def apply(self, definitions: list[TableDefinition]) -> Generator[Step, None, dict[str, Any]]:
        """Steps of the change, each a dict that tells how far it is; its return value is a report by table.

        Errors: ValidationError; CellstoreError when another change is running
        """
        changes = self._changes(definitions)
        report = {"tables": {change.name: change.report() for change in changes}, "ts": self._committer.published_ts}
        if all(change.empty for change in changes):
            return report
        if self._running:
            raise CellstoreError(
                "another change of tables and indexes is running; wait for its end", code="DeployRunning"
            )
        self._running = True
        try:
            while not (yield from self._attempt(changes)):
                changes = self._changes(definitions)
        except ValidationError:
            self._committer.commit([])  # the document that it names lasts
            raise
        finally:
            self._running = False
            self.progress.clear()
        yield from self._drop([index.number for change in changes for index in change.dropped])
        report = {"tables": {change.name: change.report() for change in changes}, "ts": self._committer.published_ts}
        return report

    def clean_up(self) -> None:
        """Clear away what an interrupted change left. Before anything else uses the store."""
        left = {row["number"]: id for id, row in self._committer.catalog.index_rows() if row["state"] != "enabled"}
        self._set_state([n for n in left if self._state(left[n]) == "backfilling"], "dropped")
        for number in left:
            self._storage.drop_index(number)

    def _changes(self, definitions: Iterable[TableDefinition]) -> list[Change]:
        catalog = self._committer.catalog
        return [plan(definition, catalog) for definition in definitions]

    def _attempt(self, changes: list[Change]) -> Generator[Step, None, bool]:
        """Check, build, finish. False when a table got its first documents or was dropped meanwhile: once more."""
        watched = _Watch(self._reader, self._committer, changes)
        yield from watched.walk()
        numbers = self._begin_building(changes)
        try:
            for change in changes:
                yield from self._build(change)
                yield from watched.walk_unique(change)
            yield from watched.catch_up()
            done = self._finish(changes, watched)
        except GeneratorExit:  # nobody goes on pulling steps
            self._give_up(numbers)
            raise
        except BaseException:
            yield from self._take_away(numbers)
            raise
        if not done:
            yield from self._take_away(numbers)
        return done

    # ── building indexes ──────────────────────────────────────────────────────────────────────────────────────────

    def _begin_building(self, changes: list[Change]) -> list[int]:
        """Have every write keep up the new indexes of tables that hold documents; their numbers."""
        with self._reader() as reader:
            filled = [change for change in changes if change.added and change.table and _filled(reader, change.table)]
        if not filled:
            return []

        def define(transaction: Transaction) -> list[int]:
            number = transaction.catalog.next_index
            self._forget_dropped(transaction)
            for change in filled:
                assert change.table is not None
                for name, index in change.added.items():
                    transaction.define_index(None, _index_row(change.table.number, name, index, number, "backfilling"))
                    meta = IndexMeta.of(number, name, index.fields, index.unique, "backfilling")
                    change.building[number] = meta
                    number += 1
            return [number for change in filled for number in change.building]

        numbers: list[int] = self._commit(define)
        return numbers

    def _build(self, change: Change) -> Steps:
        """Give old documents their entries, a slice at a time."""
        if not change.building or change.table is None:
            return
        done, indexes, load = 0, list(change.building.values()), change.table.load
        names = [index.name for index in indexes]
        with self._reader() as reader:
            total = reader.count(by_id(change.table.number), b"", END)
            slices = _Slices(reader, by_id(change.table.number), change.table.number)
            while not slices.over:
                # No commit can come between reading a slice and entering it, so no entry can be stale.
                with self._committer.exclusive(), slices.next() as rows:
                    documents = [(load(row.body), row) for row in rows]
                    for index in indexes:
                        entries = [(index.key(document, row.id), row.ts) for document, row in documents]
                        self._storage.put_entries(index.number, entries)
                done += len(rows)
                of = max(done, total)
                self.progress.update((index.number, Progress(done, of)) for index in indexes)
                yield {"step": "backfill", "table": change.name, "indexes": names, "documents": done, "of": of}

    def _take_away(self, numbers: list[int]) -> Steps:
        """Remove half-built indexes again, a slice at a time."""
        try:
            self._set_state(numbers, "dropped")
            yield from self._drop(numbers)
        except (FatalError, StorageError):
            pass  # the store cannot be written, or is closed; the next opening clears them away

    def _give_up(self, numbers: list[int]) -> None:
        """The same in one slice: what is left of a large index is for the next opening."""
        next(self._take_away(numbers), None)

    def _drop(self, numbers: list[int]) -> Steps:
        pace = Pace(SLICE_S, DROP_MAX)
        for number in numbers:
            while True:
                begun, size = time.perf_counter(), pace.size
                gone = self._storage.drop_index(number, size)
                pace.learn(gone, time.perf_counter() - begun)
                if gone < size:
                    break
                yield {"step": "drop", "index": number}

    # ── the switch ────────────────────────────────────────────────────────────────────────────────────────────────

    def _finish(self, changes: list[Change], watched: _Watch) -> bool:
        """One commit that makes everything true; False when it has to be built first after all."""
        with self._committer.exclusive():
            with self._reader() as reader:
                watched.check_newest(reader)
                for change in changes:
                    if change.added and not change.building and change.table and _filled(reader, change.table):
                        return False
                catalog = self._committer.catalog
                if any(catalog.table(change.name) is not None for change in changes if _makes_name(change)):
                    return False
                if any(_gone(catalog, change) for change in changes):
                    return False
            self._commit(lambda transaction: self._switch(transaction, changes))
        return True

    def _switch(self, transaction: Transaction, changes: list[Change]) -> None:
        dropped = {index.number for change in changes for index in change.dropped}
        built = {number for change in changes for number in change.building}
        refielded = {number: paths for change in changes for number, paths in change.refielded.items()}
        for id, row in list(transaction.catalog.index_rows()):
            if row["number"] in dropped:
                transaction.define_index(id, {**_user(row), "state": "dropped"})
            elif row["number"] in built:
                transaction.define_index(id, {**_user(row), "state": "enabled"})
            elif row["number"] in refielded:
                transaction.define_index(id, {**_user(row), "fields": list(refielded[row["number"]])})
        self._forget_dropped(transaction)
        for change in changes:
            number = transaction.catalog.free_table() if change.table is None else change.table.number
            if change.renamed_from is not None:
                self._rename_mentions(transaction, change.renamed_from, change.name)
            if change.schema is not None or change.renamed_from is not None:
                schema = change.definition.fields
                transaction.define_table(change.name, number, schema, change.renamed_from, change.fields)
            if not change.building:
                for name, index in change.added.items():
                    row = _index_row(number, name, index, transaction.catalog.next_index, "enabled")
                    transaction.define_index(None, row)

    def _rename_mentions(self, transaction: Transaction, old: str, new: str) -> None:
        """Schemas of other tables whose ids are of a renamed one go on meaning it, ids it had before it was replaced too."""
        follow(transaction, old, new)
        for table in transaction.catalog.user_tables():
            if table.schema is not None and table.name != old:
                schema = with_table_renamed(table.schema, old, new)
                if schema is not table.schema:
                    transaction.define_table(table.name, table.number, schema)

    def _forget_dropped(self, transaction: Transaction) -> None:
        """Remove rows of dropped indexes; the highest number stays, so that it is not given again."""
        newest = transaction.catalog.next_index - 1
        for id, row in list(transaction.catalog.index_rows()):
            if row["state"] == "dropped" and row["number"] != newest and self._is_dropped(row["number"]):
                transaction.define_index(id, None)

    def _is_dropped(self, number: int) -> bool:
        """Whether the storage has no entries of an index left."""
        return self._storage.drop_index(number, 1) == 0

    def _set_state(self, numbers: list[int], state: str) -> None:
        if not numbers:
            return

        def change(transaction: Transaction) -> None:
            for id, row in list(transaction.catalog.index_rows()):
                if row["number"] in numbers:
                    transaction.define_index(id, {**_user(row), "state": state})

        self._commit(change)

    def _state(self, id: bytes) -> str:
        row = self._committer.catalog.row(id)
        return "dropped" if row is None else str(row["state"])

    def _commit(self, function: Callable[[Transaction], Any]) -> Any:
        """A transaction nobody can conflict with, because nobody else commits meanwhile."""
        with self._committer.exclusive():
            with self._begin() as transaction:
                value = function(transaction)
                request = transaction.freeze("definitions")
            (answer,) = self._committer.commit([request])
            if isinstance(answer, Committed):
                return value
            if isinstance(answer, CellstoreError):
                raise answer
        raise InvariantError(f"a change of definitions was answered with {answer!r}")

    def _reader(self) -> _View:
        return _View(self._storage.reader())


class _View:
    """A reader for the length of a block, at the newest state."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def __enter__(self) -> Reader:
        self._reader.refresh()
        return self._reader

    def __exit__(self, *_: object) -> None:
        self._reader.close()


class _Slices:
    """The documents of a table in the order of an index, a few milliseconds' work at a time, each slice at its own moment."""

    def __init__(self, reader: Reader, index: int, table: int) -> None:
        self._reader, self._index, self._table = reader, index, table
        self._pace, self._after = Pace(SLICE_S, SLICE_DOCUMENTS_MAX), b""
        self.over = False

    @contextmanager
    def next(self) -> Iterator[list[Row]]:
        """The next ones, for the length of the block that does something with them."""
        begun, size = time.perf_counter(), self._pace.size
        self._reader.refresh()
        try:
            rows = list(self._reader.scan(self._index, self._table, self._after, END, limit=size))
            yield rows
        finally:
            self._reader.release()
        self.over = len(rows) < size
        if not self.over:
            self._after = rows[-1].key + b"\0"
        self._pace.learn(len(rows), time.perf_counter() - begun)


class _Watch:
    """Checks the documents of changing schemas and of unique indexes: those there at first, then those written since.

    Invariant  every document state up to `upto_ts` that is still current has been checked
    """

    def __init__(self, view: Callable[[], _View], committer: Committer, changes: list[Change]) -> None:
        self._view = view
        self._committer = committer
        self._changes = {
            change.table.number: (change, Rules(change.name, change.schema))
            for change in changes
            if change.table is not None and change.schema is not None and not _only_allows_more(change.table, change)
        }
        self._unique: dict[int, tuple[Change, list[IndexMeta]]] = {}
        self._names = {change.renamed_from: change.name for change in changes if change.renamed_from is not None}
        self._as_renamed: tuple[Catalog, Catalog] | None = None
        self.upto_ts = committer.published_ts

    def _catalog(self) -> Catalog:
        """The tables by the names they are going to have."""
        newest = self._committer.catalog
        if not self._names:
            return newest
        if self._as_renamed is None or self._as_renamed[0] is not newest:
            self._as_renamed = newest, newest.with_names(self._names)
        return self._as_renamed[1]

    def walk(self) -> Steps:
        """The documents there are, oldest first, each slice at its own moment; what moves meanwhile is met in the log."""
        for number, (change, rules) in self._changes.items():
            with self._view() as reader:
                slices = _Slices(reader, by_creation_time(number), number)
                while not slices.over:
                    with slices.next() as rows:
                        for row in rows:
                            self._check(change, rules, row)
                    yield {"step": "check", "table": change.name, "documents": change.checked}

    def walk_unique(self, change: Change) -> Steps:
        """The new unique indexes, in order: equal fields are neighbours. What moves meanwhile is met in the log."""
        indexes = [index for index in change.building.values() if index.unique]
        if not indexes or change.table is None:
            return
        self._unique[change.table.number] = change, indexes
        for index in indexes:
            before = b""
            with self._view() as reader:
                slices = _Slices(reader, index.number, change.table.number)
                while not slices.over:
                    with slices.next() as rows:
                        for row in rows:
                            fields = change.table.load(row.body)
                            alike, before = before, _prefix(index, fields)
                            if alike == before:
                                _check_alone(reader, change, index, fields)
                    yield {"step": "check", "table": change.name, "index": index.name}

    def catch_up(self) -> Steps:
        """What was written since, until little is left."""
        while self._changes or self._unique:
            with self._view() as reader:
                entries = reader.log(self.upto_ts, reader.ts, _LOG_LIMIT)
                self._check_entries(reader, entries)
            if len(entries) < _LOG_LIMIT // 2:
                return
            yield {"step": "check", "documents": len(entries)}

    def check_newest(self, reader: Reader) -> None:
        """The rest, while nobody commits."""
        while (self._changes or self._unique) and self.upto_ts < reader.ts:
            entries = reader.log(self.upto_ts, reader.ts, _LOG_LIMIT)
            if not entries:
                return
            self._check_entries(reader, entries)

    def _check_entries(self, reader: Reader, entries: list[LogEntry]) -> None:
        for entry in _last_states(entries):
            if entry.body is not None and entry.table in self._changes:
                self._check(*self._changes[entry.table], entry)
            if entry.body is not None and entry.table in self._unique:
                change, indexes = self._unique[entry.table]
                assert change.table is not None
                for index in indexes:
                    _check_alone(reader, change, index, change.table.load(entry.body))
        if entries:
            self.upto_ts = entries[-1].ts

    def _check(self, change: Change, rules: Rules, document: Row | LogEntry) -> None:
        change.checked += 1
        assert change.table is not None
        fields = change.table.load(document.body or b"{}")
        del fields["_creationTime"]
        try:
            rules.admit(_renamed(fields, change), self._catalog())
        except ValidationError as error:
            id = encode_id(change.table.number, document.id)
            raise ValidationError(
                f"the table {change.name!r} cannot take the new schema, nothing was changed: document {id!r}, "
                f"{error.message}. Change that document, or allow such values in the schema",
                path=error.path,
                expected=error.expected,
                got=error.got,
                code="SchemaMismatch",
            ) from None


def _gone(catalog: Catalog, change: Change) -> bool:
    """Whether the table of a change was dropped or replaced meanwhile."""
    if change.table is None:
        return False
    table = catalog.table(change.renamed_from or change.name)
    return table is None or table.number != change.table.number


def _makes_name(change: Change) -> bool:
    return change.table is None or change.renamed_from is not None


def _renamed(fields: dict[str, Any], change: Change) -> dict[str, Any]:
    """A document's fields by their new names. Errors: ValidationError where one has the new name already"""
    for new in change.fields.values():
        if new in fields:
            raise ValidationError(path=f"{change.name}.{new}", expected="no such field before the rename", got="one")
    return {change.fields.get(name, name): value for name, value in fields.items()} if change.fields else fields


def _last_states(entries: list[LogEntry]) -> Iterator[LogEntry]:
    """Only the newest state of each document: an earlier one that did not fit is gone again."""
    yield from {(entry.table, entry.id): entry for entry in entries}.values()


def _prefix(index: IndexMeta, fields: dict[str, Any]) -> bytes:
    """What the keys of documents with these values of the indexed fields begin with."""
    return b"".join(encode_value(value) for value in index.values(fields))


def _check_alone(reader: Reader, change: Change, index: IndexMeta, fields: dict[str, Any]) -> None:
    """No two documents may have the same fields in a unique index. One without a field is equal to nothing."""
    assert change.table is not None
    if any(value is None or value is MISSING for value in index.values(fields)):
        return
    prefix = _prefix(index, fields)
    rows = list(reader.scan(index.number, change.table.number, prefix, prefix + END, limit=2))
    if len(rows) > 1:
        ids = " and ".join(repr(encode_id(change.table.number, row.id)) for row in rows)
        raise ValidationError(
            f"the index {change.name}.{index.name} cannot be unique, nothing was changed: the documents {ids} have "
            f"equal {', '.join(index.fields)}",
            path=index.fields[0],
            code="NotUnique",
        )


def _filled(reader: Reader, table: TableMeta) -> bool:
    return any(True for _ in reader.scan(by_id(table.number), table.number, b"", END, limit=1))


def _index_row(table: int, name: str, index: IndexDefinition, number: int, state: str) -> dict[str, Any]:
    assert table >= FIRST_TABLE
    return {
        "table": table,
        "name": name,
        "number": number,
        "fields": list(index.fields),
        "unique": index.unique,
        "state": state,
    }


def _user(row: Any) -> dict[str, Any]:
    """A row without its creation time."""
    return {name: value for name, value in row.items() if name != "_creationTime"}
