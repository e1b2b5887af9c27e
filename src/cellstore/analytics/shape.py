"""The columns of one table: from its schema where that says all, from looking at its documents where not.

    field ──▶ kind, as seen or declared ──▶ settled kind ──▶ column (a name SQL can tell from the others, a DuckDB type)

A field that only None was seen in has no column of its own in the mirror and reads NULL. `_id` comes first, then the
fields in the order they were declared or first seen, then `_creationTime`, milliseconds as a float, as stored.

A shape is immutable. `merged` gives the shape that holds more documents; `fits_into` tells whether a table made for
the old one can take them, with new columns at most.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from cellstore.analytics.columns import (
    SAFE_INT,
    Kind,
    Looker,
    declared,
    duckdb_type,
    kind_of,
    merged,
    quoted,
    settled,
    sql_names,
    text_of,
)

ID, CREATION_TIME = "_id", "_creationTime"
_SPAN = {"_from": "BIGINT", "_to": "BIGINT"}
OF_ALL_SORTS: dict[str, dict[str, Kind]] = {
    "_scheduled_functions": {"args": "json", "result": "json", "errorData": "json"}
}
"""Fields by table in which every document has its own: one struct for all of them would have names no document has."""

_LINE_BYTES = 4 << 20  # DuckDB takes twice as much per thread for its buffers


@dataclass(frozen=True)
class Shape:
    """Fields and their kinds."""

    kinds: Mapping[str, Kind]  # by field; settled ones are derived
    looked: bool = True  # kinds come from documents, at least some: more documents may change them
    wide_mixes: frozenset[str] = frozenset()  # fields of ints and floats with an int among them no float can hold
    promised: Mapping[str, Kind] = field(default_factory=dict)  # the kinds a schema vouches for

    @cached_property
    def columns(self) -> dict[str, Kind]:
        """The settled kind of each field that has a column in the mirror."""
        kinds = {name: settled(kind, has_wide=name in self.wide_mixes) for name, kind in self.kinds.items()}
        return {name: kind for name, kind in kinds.items() if kind != "null"}

    @cached_property
    def names(self) -> dict[str, str]:
        """The column of each field, those without a column in the mirror too."""
        return sql_names(self.kinds, taken=(ID, CREATION_TIME))

    def merged(self, documents: Iterable[dict[str, Any]]) -> Shape:
        """The shape of the table with these (parsed) documents too. Looks at every value."""
        if not self.looked:
            return self
        kinds = dict(self.kinds)
        for document in documents:
            for name, value in document.items():
                if name not in self.promised and name != CREATION_TIME:
                    kinds[name] = merged(kinds.get(name, "null"), kind_of(value))
        return self if kinds == self.kinds else Shape(kinds, True, self.wide_mixes, self.promised)

    def fits_into(self, table: Shape) -> bool:
        """Whether a table made for `table` can take documents of this shape once it has the columns it lacks."""
        return all(self.columns.get(name) == kind for name, kind in table.columns.items())

    # ── as SQL ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def create(self, table: str) -> str:
        """The statement that makes the mirror's table."""
        typed = {ID: "VARCHAR", **self._types(), CREATION_TIME: "DOUBLE", **_SPAN}
        return f"CREATE TABLE {table} ({', '.join(f'{quoted(name)} {kind}' for name, kind in typed.items())})"

    def insert(self, table: str, path: str, longest: int) -> str:
        """The statement that reads a file of lines into it, the longest of which has about `longest` bytes."""
        columns = [ID, *(self.names[name] for name in self.columns), CREATION_TIME, *_SPAN]
        into = ", ".join(map(quoted, columns))
        values = [quoted(ID), *map(self._value, self.columns), *map(quoted, (CREATION_TIME, *_SPAN))]
        types = {ID: "VARCHAR", **self._types(as_text=True), CREATION_TIME: "DOUBLE", **_SPAN}
        return f"INSERT INTO {table} ({into}) SELECT {', '.join(values)} FROM {lines_of(path, types, longest)}"

    def added(self, table: str, old: Shape) -> list[str]:
        """The statements that give it the columns `old` lacks."""
        return [
            f"ALTER TABLE {table} ADD COLUMN {quoted(self.names[name])} {duckdb_type(kind)}"
            for name, kind in self.columns.items()
            if name not in old.columns
        ]

    def select(self, table: str, ts: int) -> str:
        """The documents at `ts`."""
        fields = [
            quoted(self.names[name]) if name in self.columns else f"CAST(NULL AS JSON) AS {quoted(self.names[name])}"
            for name in self.kinds
        ]
        shown = ", ".join([quoted(ID), *fields, quoted(CREATION_TIME)])
        return f"SELECT {shown} FROM {table} WHERE _from <= {ts} AND _to > {ts}"

    def _types(self, *, as_text: bool = False) -> dict[str, str]:
        """Column to DuckDB type; `as_text`: the type it is read as."""
        marked = 'STRUCT("$bytes" VARCHAR)'
        return {
            self.names[name]: marked if as_text and kind == "bytes" else duckdb_type(kind)
            for name, kind in self.columns.items()
        }

    def _value(self, name: str) -> str:
        column = quoted(self.names[name])
        return f'from_base64({column}."$bytes")' if self.columns[name] == "bytes" else column


def lines_of(path: str, types: Mapping[str, str], longest: int = 0) -> str:
    """The table function that reads a file of JSON lines."""
    columns = ", ".join(f"{quoted(name)}: {text_of(kind)}" for name, kind in types.items())
    return (
        f"read_json({text_of(path)}, format = 'newline_delimited', columns = {{{columns}}}, "
        f"maximum_object_size = {max(_LINE_BYTES, 2 * longest)})"
    )


def promised_by(schema: Mapping[str, Any] | None) -> Shape | None:
    """The shape a schema promises in full; None when documents have to be looked at."""
    kinds = declared(schema)
    if kinds is None or any(kind is None for kind in kinds.values()):
        return None
    return Shape({name: kind for name, kind in kinds.items() if kind is not None}, looked=False)


class Survey:
    """Finds the shape of a table by looking at all its documents; what its schema promises is believed.

    `own`: the kinds of fields that are known without looking.
    """

    def __init__(
        self, schema: Mapping[str, Any] | None, *, believe: bool = True, own: Mapping[str, Kind] | None = None
    ) -> None:
        known = (declared(schema) or {}) if believe else {}
        self._order = list(known)
        self._promised = {**{name: kind for name, kind in known.items() if kind is not None}, **(own or {})}
        self._looker = Looker()

    def look(self, documents: Iterable[dict[str, Any]]) -> None:
        """Take these into account."""
        self._looker.look(documents)

    @property
    def unsure(self) -> set[str]:
        """Fields of ints and floats: whether a wide int is among them decides their column."""
        return {name for name, kind in self._looker.kinds.items() if kind == "mix" and name not in self._promised}

    def shape(self, wide_mixes: Iterable[str] = ()) -> Shape:
        """What was found."""
        seen = {name: kind for name, kind in self._looker.kinds.items() if name not in (ID, CREATION_TIME)}
        kinds: dict[str, Kind] = {name: self._promised.get(name) or seen.get(name, "null") for name in self._order}
        for name, kind in seen.items():
            kinds.setdefault(name, self._promised.get(name) or kind)
        return Shape(kinds, True, frozenset(wide_mixes), self._promised)


def wide_ints(documents: Iterable[dict[str, Any]], fields: set[str]) -> set[str]:
    """Those of `fields` that hold an int beyond ±2^53 in one of the documents."""
    found: set[str] = set()
    for document in documents:
        for name in fields - found:
            value = document.get(name)
            if type(value) is int and not -SAFE_INT <= value <= SAFE_INT:
                found.add(name)
    return found
