"""Which tables and indexes exist, as of one moment.

The truth is two system tables, read like any other:

    _tables   name, number, schema (a type expression, or null)                         index by_name  (name)
              stands_for: the name of the table this one will be or was, while it is being imported or after it was
              replaced; only hidden tables have it (see `importing`)
              stored_as: the names that renamed fields have in stored bodies, by the names they have now
              came_as: the numbers that ids of it had where it was imported from, if they could not keep them
    _indexes  table (number), name, number, fields, unique, state                       index by_table (table, name)

A `Catalog` is their decoded form. It is immutable: a transaction that creates a table holds a changed copy of its own
(`with_writes`), and so does a lane whose newest tables are not durable yet.

Numbers    user tables from 10001, indexes from 1,048,576; neither is given again, though an import may bring a table's back.
           Two indexes of a table need no row, their numbers follow from the table's: by_id is 2n, by_creation_time 2n + 1.
Fields     stored bodies keep the names their fields had at first, and no rename rewrites one. `TableMeta.load` and `dump`
           stand between bodies and documents, and nothing else reads or writes the body of a user's document. The catalog
           of a moment knows the names of that moment.
States     backfilling: kept up by every write, not readable yet · enabled · dropped: gone, its row keeps the number taken
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import orjson

from cellstore.errors import NotFound, OutOfRetention, ValidationError
from cellstore.storage.contract import NUMBERED_INDEXES
from cellstore.values.ids import Id
from cellstore.values.index_key import END, encode_key, encode_value
from cellstore.values.json import dumps, loads, snug
from cellstore.values.value import MISSING, same

if TYPE_CHECKING:
    from cellstore.schema.types import TypeExpr
    from cellstore.storage.contract import DocWrite, Reader

TABLES, INDEXES, MODULES, VARIABLES, IMPORTS, EXPORTS = 512, 513, 514, 515, 516, 517
JOBS, FILES, FILE_NAMES, DEPLOYMENT = 539, 540, 541, 542
FIRST_TABLE, FIRST_INDEX = 10_001, 1 << 20
TABLES_END = NUMBERED_INDEXES // 2
TABLES_BY_NAME, INDEXES_BY_TABLE, MODULES_BY_PATH, JOBS_BY_STATE = (FIRST_INDEX - n for n in (1, 2, 3, 4))
VARIABLES_BY_NAME, FILES_BY_NAME, FILES_BY_STORAGE = (FIRST_INDEX - n for n in (5, 6, 7))

BY_ID, BY_CREATION_TIME = "by_id", "by_creation_time"
NAME_CHARS_MAX = 64
INDEX_FIELDS_MAX = 16  # the creation time after them not counted
INDEXES_PER_TABLE_MAX = 64

# "gone" only in the catalog that an earlier moment is read with
IndexState = Literal["backfilling", "enabled", "dropped", "gone"]
Fields = Mapping[str, Any]
"""A document without its `_id`."""


def by_id(table: int) -> int:
    """The number of the index `by_id`; its keys are the raw 16 bytes of the id."""
    return 2 * table


def by_creation_time(table: int) -> int:
    """The number of the index `by_creation_time`."""
    return 2 * table + 1


def membership(index: int) -> int:
    """The number under which reads and commits speak of an index's keys alone.

    Whoever counts reads this: it matters which keys there are, and not what the documents behind them hold. A commit
    touches it with the keys that came or went, and not with those that stayed.
    """
    return ~index


@dataclass(frozen=True, slots=True)
class IndexMeta:
    """One index. `key(fields, id)` is where a document stands in it."""

    number: int
    name: str
    fields: tuple[str, ...]
    unique: bool = False
    state: IndexState = "enabled"
    roots: frozenset[str] = field(default=frozenset(), compare=False)  # top-level fields a key depends on
    key: Callable[[Fields, bytes], bytes] = field(default=lambda _fields, id: id, compare=False, repr=False)

    @classmethod
    def of(
        cls, number: int, name: str, fields: Iterable[str], unique: bool = False, state: IndexState = "enabled"
    ) -> IndexMeta:
        """An index over `fields` (dotted paths), then creation time, then id."""
        paths = tuple(fields)
        roots = frozenset(path.partition(".")[0] for path in paths)
        return cls(number, name, paths, unique, state, roots, _key_maker(paths))

    def values(self, fields: Fields) -> list[Any]:
        """The values of the indexed fields; MISSING where a document has none."""
        return [value_at(fields, tuple(path.split("."))) for path in self.fields]


def _key_maker(paths: tuple[str, ...]) -> Callable[[Fields, bytes], bytes]:
    """The function from a document to its key. Separate shapes because this runs for each index of each write."""
    if not paths:
        return lambda fields, id: encode_key((), fields["_creationTime"], id)
    if any("." in path for path in paths):
        split = tuple(tuple(path.split(".")) for path in paths)
        return lambda fields, id: encode_key([value_at(fields, path) for path in split], fields["_creationTime"], id)
    if len(paths) == 1:
        (only,) = paths
        return lambda fields, id: encode_key((fields.get(only, MISSING),), fields["_creationTime"], id)
    return lambda fields, id: encode_key([fields.get(path, MISSING) for path in paths], fields["_creationTime"], id)


def value_at(fields: Fields, path: tuple[str, ...]) -> Any:
    """The value at a path of nested field names; MISSING when some step is absent or is not an object."""
    value: Any = fields
    for name in path:
        if not isinstance(value, dict) or name not in value:
            return MISSING
        value = value[name]
    return value


@dataclass(frozen=True)
class TableMeta:
    """One table: its number, its indexes by name (the two built-in ones too) and its schema.

    An index that is being built to replace one of the same name is in `indexes` under that name and " (new)".
    """

    name: str
    number: int
    indexes: Mapping[str, IndexMeta]
    schema: TypeExpr | None = None
    row: bytes = b""  # id of its row in _tables; empty for system tables
    stands_for: str = ""  # of a hidden table: the name it will have or had
    stored_as: Mapping[str, str] = field(default_factory=dict)  # renamed fields: the name now to the name in bodies
    came_as: tuple[int, ...] = ()  # numbers of ids that were renumbered as it was imported

    @cached_property
    def load(self) -> Callable[[bytes], dict[str, Any]]:
        """The document in a stored body, by the names its fields have now."""
        if not self.stored_as:
            return loads
        names = self._names_now
        return lambda body: {names.get(name, name): value for name, value in loads(body).items()}

    @cached_property
    def dump(self) -> Callable[[dict[str, Any]], bytes]:
        """A document as it is stored."""
        if not self.stored_as:
            return dumps
        names = self.stored_as
        return lambda document: dumps({names.get(name, name): value for name, value in document.items()})

    @cached_property
    def text(self) -> Callable[[bytes], bytes]:
        """The native JSON of the document in a stored body, for who hands it on unread."""
        if not self.stored_as:
            return lambda body: body
        names = self._names_now
        return lambda body: snug(orjson.dumps({names.get(each, each): v for each, v in orjson.loads(body).items()}))

    @property
    def _names_now(self) -> dict[str, str]:
        return {stored: name for name, stored in self.stored_as.items()}

    def stored_as_after(self, renames: Mapping[str, str]) -> dict[str, str]:
        """`stored_as` once fields are renamed, old names to new ones that no document has.

        Each pair changes places, so that two names never mean one stored field: a new field of the old name is stored
        by the new one.
        """
        after = dict(self.stored_as)
        for old, new in renames.items():
            after[new], after[old] = after.get(old, old), after.get(new, new)
        return {name: stored for name, stored in after.items() if name != stored}

    def row_with(self, **changes: Any) -> dict[str, Any]:
        """Its row of `_tables` with some columns changed; one that is empty is left out."""
        row = {"name": self.name, "number": self.number, "schema": self.schema}
        row |= {"stands_for": self.stands_for, "stored_as": dict(self.stored_as), "came_as": list(self.came_as)}
        row |= changes
        return {name: value for name, value in row.items() if value or name in ("name", "number", "schema")}

    @cached_property
    def written(self) -> tuple[IndexMeta, ...]:
        """The indexes a write of a document must keep up: all but by_id."""
        return tuple(index for index in self.indexes.values() if index.name != BY_ID)

    @cached_property
    def unique(self) -> tuple[IndexMeta, ...]:
        """The readable indexes in which no two documents may have equal fields. One being built is checked at its end."""
        return tuple(index for index in self.indexes.values() if index.unique and index.state == "enabled")

    @cached_property
    def rules(self) -> Any:
        """The compiled schema (`transaction.rules.Rules`)."""
        from cellstore.transaction.rules import Rules

        return Rules(self.name, self.schema)

    @cached_property
    def is_system(self) -> bool:
        """Whether users may not write it."""
        return self.name.startswith("_")

    @property
    def known_as(self) -> str:
        """The table's name to people who hold one of its ids."""
        return self.stands_for or self.name

    @cached_property
    def id_class(self) -> type[Id]:
        """The class of its ids: `Id["users"]`."""
        return Id.__class_getitem__(self.name)

    def keys(self, fields: Fields, id: bytes) -> dict[int, bytes]:
        """Where a document stands in each index but by_id."""
        return {index.number: index.key(fields, id) for index in self.written}

    def index(self, name: str) -> IndexMeta:
        """A readable index. Errors: NotFound naming the ones there are, or while it is being built; OutOfRetention when
        this is an earlier moment, and the index is gone since."""
        found = self.indexes.get(name)
        if found is None:
            raise NotFound(
                f"table {self.name!r} has no index {name!r}; it has {', '.join(sorted(self.indexes))}",
                kind="index",
                name=f"{self.name}.{name}",
                code="IndexNotFound",
            )
        if found.state == "gone":
            raise OutOfRetention(
                f"the index {self.name}.{name} of that moment is gone since, dropped or replaced by another: read by "
                "another index, or a newer moment"
            )
        if found.state != "enabled":
            raise NotFound(
                f"the index {self.name}.{name} is still being built; it becomes readable when its backfill is complete",
                kind="index",
                name=f"{self.name}.{name}",
                code="IndexBackfilling",
            )
        return found


def _built_in(number: int) -> dict[str, IndexMeta]:
    return {
        BY_ID: IndexMeta(by_id(number), BY_ID, ("_id",)),
        BY_CREATION_TIME: IndexMeta.of(by_creation_time(number), BY_CREATION_TIME, ()),
    }


def _system(name: str, number: int, *indexes: IndexMeta) -> TableMeta:
    return TableMeta(name, number, {**_built_in(number), **{index.name: index for index in indexes}})


SYSTEM_TABLES = (
    _system("_tables", TABLES, IndexMeta.of(TABLES_BY_NAME, "by_name", ("name",))),
    _system("_indexes", INDEXES, IndexMeta.of(INDEXES_BY_TABLE, "by_table", ("table", "name"))),
    _system("_modules", MODULES, IndexMeta.of(MODULES_BY_PATH, "by_path", ("path",))),
    _system("_scheduled_functions", JOBS, IndexMeta.of(JOBS_BY_STATE, "by_state", ("state.kind", "scheduledTime"))),
    _system("_environment_variables", VARIABLES, IndexMeta.of(VARIABLES_BY_NAME, "by_name", ("name",))),
    _system("_snapshot_imports", IMPORTS),
    _system("_exports", EXPORTS),
    _system("_storage", FILES),
    _system(
        "_file_storage",
        FILE_NAMES,
        IndexMeta.of(FILES_BY_NAME, "by_file", ("file",)),
        IndexMeta.of(FILES_BY_STORAGE, "by_storage", ("storageId",)),
    ),
    _system("_deployment", DEPLOYMENT),
)


class Catalog:
    """All tables at one moment; immutable.

    Shape    built from the rows of `_tables` and `_indexes`, each a dict by document id
    Cost     a change copies the outer dictionaries and rebuilds only the tables it touches
    """

    __slots__ = ("_by_name", "_by_number", "_indexes", "_tables", "ts")

    def __init__(
        self,
        tables: Mapping[bytes, Fields] | None = None,
        indexes: Mapping[bytes, Fields] | None = None,
        *,
        ts: int = 0,
        previous: Catalog | None = None,
    ) -> None:
        self.ts = ts  # of the newest durable change it knows
        self._tables: dict[bytes, Fields] = dict(tables or {})
        self._indexes: dict[bytes, Fields] = dict(indexes or {})
        self._by_name = {table.name: table for table in SYSTEM_TABLES}
        of_table: dict[int, list[Fields]] = {}
        for row in self._indexes.values():
            of_table.setdefault(row["table"], []).append(row)
        for id, row in self._tables.items():
            built = _table(id, row, of_table.get(row["number"], []))
            kept = None if previous is None else previous._by_name.get(built.name)
            if kept is not None and kept == built and same(kept.schema, built.schema):  # to Python 1 is True
                built = kept
            self._by_name[built.name] = built
        self._by_number = {table.number: table for table in self._by_name.values()}

    def table(self, name: str) -> TableMeta | None:
        """The table of that name."""
        return self._by_name.get(name)

    def by_number(self, number: int) -> TableMeta | None:
        """The table of that number."""
        return self._by_number.get(number)

    def tables(self) -> Iterator[TableMeta]:
        """Every table, also the system's and hidden ones."""
        return iter(self._by_name.values())

    def user_tables(self) -> list[TableMeta]:
        """The tables users made, by name."""
        return sorted((table for table in self._by_name.values() if not table.is_system), key=lambda table: table.name)

    def rows(self) -> Iterator[Fields]:
        """Every row of `_tables`, also those that a name or number given twice keeps from being seen."""
        return iter(self._tables.values())

    def row(self, id: bytes) -> Fields | None:
        """A row of `_tables` or `_indexes`."""
        return self._tables.get(id) or self._indexes.get(id)

    def index_rows(self) -> Iterator[tuple[bytes, Fields]]:
        """Every row of `_indexes` with its id, dropped ones too."""
        return iter(self._indexes.items())

    def free_table(self, besides: Iterable[int] = ()) -> int:
        """A table number nobody ever had, nor is in `besides`. Whoever takes it must depend on every other creation.

        The one after the highest; once an import has brought the highest there can be, the lowest that is left.
        """
        taken = {*(row["number"] for row in self._tables.values()), *besides}
        after = max(taken, default=FIRST_TABLE - 1) + 1
        left = range(FIRST_TABLE, after) if after >= TABLES_END else ()
        return next((number for number in left if number not in taken), after)

    @property
    def next_index(self) -> int:
        """An index number nobody ever had."""
        return max((row["number"] + 1 for row in self._indexes.values()), default=FIRST_INDEX)

    def with_writes(self, writes: Iterable[DocWrite], ts: int | None = None) -> Catalog:
        """The catalog after these document writes; itself when none of them concerns it."""
        tables, indexes, changed = self._tables, self._indexes, False
        for write in writes:
            if write.table == TABLES:
                tables = _changed(tables, self._tables, write)
            elif write.table == INDEXES:
                indexes = _changed(indexes, self._indexes, write)
            else:
                continue
            changed = True
        if not changed:
            return self
        return Catalog(tables, indexes, ts=self.ts if ts is None else ts, previous=self)

    def with_names(self, names: Mapping[str, str]) -> Catalog:
        """This catalog where tables bear the new names that `names` gives for old ones."""
        tables = {id: {**row, "name": names.get(row["name"], row["name"])} for id, row in self._tables.items()}
        return Catalog(tables, self._indexes, ts=self.ts)

    def restricted(self, newest: Catalog) -> Catalog:
        """This older catalog, in which indexes are `gone` whose entries may be by now, as `newest` tells."""
        live = {row["number"] for row in newest._indexes.values() if row["state"] == "enabled"}
        rows = {
            id: {**row, "state": "gone"} if row["state"] == "enabled" and row["number"] not in live else row
            for id, row in self._indexes.items()
        }
        return Catalog(self._tables, rows, ts=self.ts, previous=self)

    def keys_of(self, table: int, id: bytes, body: bytes) -> list[tuple[int, bytes]]:
        """The entries a stored document must have, in indexes that are built; for `Storage.check`."""
        meta = self._by_number.get(table)
        if meta is None:
            return []
        fields = meta.load(body)
        return [(index.number, index.key(fields, id)) for index in meta.written if index.state == "enabled"]

    def describe(self, index: int) -> str:
        """`table.index` for people."""
        index = max(index, ~index)  # of either number
        table = self.by_number(index // 2)
        if table is not None:
            return f"{table.name}.{BY_CREATION_TIME if index % 2 else BY_ID}"
        for table in self._by_name.values():
            for meta in table.indexes.values():
                if meta.number == index:
                    return f"{table.name}.{meta.name}"
        return f"index {index}"


def _changed(rows: dict[bytes, Fields], original: dict[bytes, Fields], write: DocWrite) -> dict[bytes, Fields]:
    if rows is original:
        rows = dict(rows)
    if write.body is None:
        rows.pop(write.id, None)
    else:
        rows[write.id] = loads(write.body)
    return rows


def _table(id: bytes, row: Fields, index_rows: list[Fields]) -> TableMeta:
    indexes = _built_in(row["number"])
    for index in sorted(index_rows, key=lambda row: row["number"]):
        if index["state"] != "dropped":
            # one that is to replace another of its name is built beside it: the old one stays readable
            label = f"{index['name']} (new)" if index["name"] in indexes else index["name"]
            indexes[label] = IndexMeta.of(
                index["number"], index["name"], index["fields"], index["unique"], index["state"]
            )
    stands_for, stored_as, came_as = row.get("stands_for", ""), row.get("stored_as", {}), row.get("came_as", ())
    return TableMeta(row["name"], row["number"], indexes, row["schema"], id, stands_for, stored_as, tuple(came_as))


def load_catalog(reader: Reader, ts: int | None = None, previous: Catalog | None = None) -> Catalog:
    """The catalog as `reader` sees it, or as it was at `ts`."""
    tables = {row.id: loads(row.body) for row in reader.scan(by_id(TABLES), TABLES, b"", END, ts=ts)}
    indexes = {row.id: loads(row.body) for row in reader.scan(by_id(INDEXES), INDEXES, b"", END, ts=ts)}
    known_ts = reader.catalog_ts if ts is None else min(ts, reader.catalog_ts)
    return Catalog(tables, indexes, ts=known_ts, previous=previous)


def name_interval(name: str) -> tuple[bytes, bytes]:
    """The span of `_tables.by_name` that a table of this name is in or would be in."""
    prefix = encode_value(name)
    return prefix, prefix + END


def index_interval(table: int, name: str) -> tuple[bytes, bytes]:
    """The span of `_indexes.by_table` that an index of this name is in or would be in."""
    prefix = encode_value(table) + encode_value(name)
    return prefix, prefix + END


def check_name(kind: str, name: object) -> str:
    """`name` if it may name a new table or index. Errors: ValidationError telling the rule."""
    if not isinstance(name, str):
        raise ValidationError(path=kind, expected="a name", got=type(name).__name__)
    good = name.isascii() and name.isidentifier() and len(name) <= NAME_CHARS_MAX and name.strip("_") != ""
    if not good:
        raise ValidationError(
            f"{name!r} cannot name {'an' if kind == 'index' else 'a'} {kind}: use up to {NAME_CHARS_MAX} ASCII letters, "
            "digits and underscores, beginning with a letter",
            code=f"Invalid{kind.capitalize()}Name",
        )
    if name.startswith("_") or (kind == "index" and name in (BY_ID, BY_CREATION_TIME)):
        raise ValidationError(
            f"the {kind} name {name!r} is reserved: choose one that does not begin with an underscore"
            + (" and is not built in" if kind == "index" else ""),
            code=f"Invalid{kind.capitalize()}Name",
        )
    return name


def check_index_fields(name: str, fields: Iterable[str]) -> tuple[str, ...]:
    """`fields` if they may be indexed. Errors: ValidationError telling the rule."""
    paths = tuple(fields)
    problem = ""
    if not paths:
        problem = "has no fields; by_creation_time exists already"
    elif len(paths) > INDEX_FIELDS_MAX:
        problem = f"has {len(paths)} fields; at most {INDEX_FIELDS_MAX} are possible"
    elif len(set(paths)) < len(paths):
        problem = "names a field twice"
    elif "_creationTime" in paths:
        problem = "names _creationTime, which every index has at its end anyway"
    elif "_id" in paths:
        problem = "names _id, which every index has at its end anyway"
    elif bad := [path for path in paths if path.startswith("_") or not all(map(_is_step, path.split(".")))]:
        problem = f"names {bad[0]!r}, which is no field path"
    if problem:
        raise ValidationError(f"the index {name!r} {problem}", code="InvalidIndex")
    return paths


def _is_step(name: str) -> bool:
    return name != "" and not name.startswith("$")
