"""Which column a field becomes: the type that every value of it fits into without loss.

    kind                     DuckDB                    where it comes from
    null                     (no column; reads NULL)   only None has been seen
    boolean                  BOOLEAN
    small, int, wide         BIGINT                    ints: all within ±2^53, not known, some beyond
    mix                      DOUBLE or JSON            ints and floats; JSON if a wide int is among them
    float                    DOUBLE
    string                   VARCHAR                   ids and literals too
    bytes                    BLOB
    datetime, date           TIMESTAMPTZ, DATE         declared ones only: in JSON both are text
    ("list", T)              T[]
    ("struct", {name: T})    STRUCT(…)                 a field that is missing reads NULL
    ("map", T)               MAP(VARCHAR, T)           declared records
    json                     JSON                      anything else: mixed types, bytes inside, more than 64 names

A column of kind json holds each value's native JSON, exact, so nothing is lost and nothing fails; clients decode it.
Names that differ in case only cannot both be SQL columns: later ones get a number (`a`, `A_1`).

Everything here is pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

Kind: TypeAlias = str | tuple[str, Any]

SAFE_INT = 1 << 53  # below it every int is a float, exactly
STRUCT_NAMES_MAX = 64
_INTS = frozenset({"small", "int", "wide"})
_SCALARS = {
    "boolean": "BOOLEAN",
    "small": "BIGINT",
    "int": "BIGINT",
    "wide": "BIGINT",
    "float": "DOUBLE",
    "string": "VARCHAR",
    "bytes": "BLOB",
    "datetime": "TIMESTAMPTZ",
    "date": "DATE",
    "json": "JSON",
}
_OF_TYPE: dict[type, Kind] = {bool: "boolean", int: "int", float: "float", str: "string", type(None): "null"}


def kind_of(value: Any) -> Kind:
    """The kind of one value, parsed from native JSON by orjson (marked objects not replaced)."""
    if type(value) is int:
        return "small" if -SAFE_INT <= value <= SAFE_INT else "wide"
    if type(value) is dict:
        return _kind_of_dict(value)
    if type(value) is list:
        inner: Kind = "null"
        for item in value:
            inner = merged(inner, kind_of(item))
        return ("list", inner)
    return _OF_TYPE[type(value)]


def _kind_of_dict(value: dict[str, Any]) -> Kind:
    if len(value) == 1:
        (name,) = value
        if name == "$float":
            return "float"
        if name == "$bytes":
            return "bytes"
    if len(value) > STRUCT_NAMES_MAX:
        return "json"
    return ("struct", {name: kind_of(inner) for name, inner in value.items()})


def merged(a: Kind, b: Kind) -> Kind:
    """The kind that holds both."""
    if a == b or b == "null":
        return a
    if a == "null":
        return b
    if isinstance(a, str) and isinstance(b, str):
        return _merged_scalars({a, b})
    if isinstance(a, tuple) and isinstance(b, tuple) and a[0] == b[0]:
        if a[0] in ("list", "map"):
            return (a[0], merged(a[1], b[1]))
        names = {**a[1], **{name: merged(a[1].get(name, "null"), kind) for name, kind in b[1].items()}}
        return ("struct", names) if len(names) <= STRUCT_NAMES_MAX else "json"
    return "json"


def _merged_scalars(both: set[str]) -> Kind:
    if both <= _INTS:
        return "wide" if "wide" in both else "int"
    if both <= {"small", "float"}:
        return "float"
    if both <= {"small", "int", "float", "mix"}:
        return "mix"
    return "json"


def settled(kind: Kind, *, has_wide: bool = False) -> Kind:
    """The kind a column is made with. `has_wide` tells of a mix whether a wide int is in it."""
    if kind == "mix":
        return "json" if has_wide else "float"
    if isinstance(kind, tuple) and not _is_plain(kind):
        return "json"
    return kind


def _is_plain(kind: Kind) -> bool:
    """Whether a nested kind has a DuckDB type of its own, down to the leaves."""
    if isinstance(kind, str):
        return kind in _SCALARS and kind not in ("bytes", "json")
    if kind[0] == "struct":
        names: dict[str, Kind] = kind[1]
        distinct = len({name.lower() for name in names}) == len(names)
        return bool(names) and "" not in names and distinct and all(map(_is_plain, names.values()))
    return _is_plain(kind[1])


def has_float(kind: Kind) -> bool:
    """Whether a float stands somewhere in a settled kind."""
    if isinstance(kind, str):
        return kind == "float"
    return any(map(has_float, kind[1].values())) if kind[0] == "struct" else has_float(kind[1])


def duckdb_type(kind: Kind) -> str:
    """The DuckDB type of a settled kind that is not null."""
    if isinstance(kind, str):
        return _SCALARS[kind]
    if kind[0] == "list":
        return duckdb_type(kind[1]) + "[]"
    if kind[0] == "map":
        return f"MAP(VARCHAR, {duckdb_type(kind[1])})"
    return "STRUCT(" + ", ".join(f"{quoted(name)} {duckdb_type(inner)}" for name, inner in kind[1].items()) + ")"


def quoted(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def text_of(value: str) -> str:
    """An SQL string literal."""
    return "'" + value.replace("'", "''") + "'"


# ── declared ───────────────────────────────────────────────────────────────────────────────────────────────────────


def declared(schema: Mapping[str, Any] | None) -> dict[str, Kind | None] | None:
    """The kinds a table's schema promises, by field; None for a field that has to be looked at. None: no closed schema."""
    if schema is None or schema.get("type") != "object" or "extra" in schema:
        return None
    return {name: _declared_kind(field["type"]) for name, field in schema["fields"].items()}


def _declared_kind(expr: Mapping[str, Any]) -> Kind | None:
    kind = _of_expr(expr)
    if kind is None or kind == "null" or settled(kind) != kind:
        return None
    return kind


def _of_expr(expr: Mapping[str, Any]) -> Kind | None:
    match expr["type"]:
        case "null" | "boolean" | "int" | "float" | "string" | "bytes" | "datetime" | "date" as simple:
            return str(simple)
        case "id":
            return "string"
        case "literal":
            return kind_of(expr["value"])
        case "array":
            return _around("list", _of_expr(expr["items"]))
        case "record":
            return _around("map", _of_expr(expr["values"]))
        case "object" if "extra" not in expr and len(expr["fields"]) <= STRUCT_NAMES_MAX:
            inner = {name: _of_expr(field["type"]) for name, field in expr["fields"].items()}
            return None if None in inner.values() else ("struct", inner)
        case "union":
            return _of_union(expr["members"])
        case _:
            return None


def _around(shape: str, inner: Kind | None) -> Kind | None:
    return None if inner is None else (shape, inner)


def _of_union(members: Iterable[Mapping[str, Any]]) -> Kind | None:
    """One kind and perhaps null; a union of several is looked at."""
    kinds = [_of_expr(member) for member in members]
    found: Kind = "null"
    for kind in kinds:
        if kind is None or (found != "null" and kind != "null" and kind != found):
            return None
        found = merged(found, kind)
    return found


# ── looking at documents ───────────────────────────────────────────────────────────────────────────────────────────


class Looker:
    """Finds the kinds of fields by looking at parsed documents.

    Cost: about one µs per document whose fields are scalars, because documents of one shape are looked at once.
    """

    def __init__(self) -> None:
        self.kinds: dict[str, Kind] = {}
        self._seen: set[tuple[tuple[str, ...], tuple[type, ...]]] = set()

    def look(self, documents: Iterable[dict[str, Any]]) -> None:
        """Take these into account."""
        seen = self._seen
        for document in documents:
            shape = (tuple(document), tuple(map(type, document.values())))
            if shape not in seen:
                self._look_at(document)
                if dict not in shape[1] and list not in shape[1]:
                    seen.add(shape)

    def _look_at(self, document: dict[str, Any]) -> None:
        kinds = self.kinds
        for name, value in document.items():
            # the type alone, because this one document stands for all of its shape
            kind = _OF_TYPE.get(type(value)) or kind_of(value)
            known = kinds.get(name)
            kinds[name] = kind if known is None else merged(known, kind)


def sql_names(fields: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """Field to column name. SQL does not tell `a` from `A`, so the second gets a number."""
    used = {name.lower() for name in taken}
    names: dict[str, str] = {}
    for field in fields:
        name, number = field or "_", 0
        while name.lower() in used:
            number += 1
            name = f"{field}_{number}"
        used.add(name.lower())
        names[field] = name
    return names
