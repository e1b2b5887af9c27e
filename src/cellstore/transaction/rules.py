"""A table's schema, compiled: checks a document as it would be stored, fills in defaults, looks at ids.

A table without a schema takes any document. Ids are checked for their table: the number inside an id must belong to the
table its field names, as of the transaction's own catalog, so a table created a moment ago counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from cellstore.errors import ValidationError
from cellstore.knobs import Knobs
from cellstore.values.ids import decode_id
from cellstore.values.value import check_document

if TYPE_CHECKING:
    from cellstore.schema.types import TypeExpr

_SMALL_BYTES = 16_384  # JSON of this size cannot hold 8,192 array elements or reach 1 MiB by the accounting rule


class _Tables(Protocol):
    def by_number(self, number: int) -> Any: ...


class Rules:
    """What a document of one table must be.

    `closed`: every type is known down to the leaves, so that names, kinds and depth are right once the types are, and only
    a large document need be measured.
    """

    __slots__ = ("_defaults", "_fields", "_ids", "_table", "_validator", "closed")

    def __init__(self, table: str, schema: TypeExpr | None) -> None:
        self._table = table
        self._validator = None if schema is None else _compiled(schema)
        self._fields = {} if schema is None else schema.get("fields", {})
        self._defaults = {name: field["default"] for name, field in self._fields.items() if "default" in field}
        self._ids = schema is not None and _mentions(schema, "id")
        self.closed = schema is not None and not _mentions(schema, "any") and not _mentions(schema, "record")

    def admit(self, fields: dict[str, Any], tables: _Tables) -> dict[str, Any]:
        """`fields` (no system fields) as they are stored. Errors: ValidationError naming table and path."""
        if self._validator is not None:
            fields = self._validator.check(fields, self._table)
            if self._ids:
                self._check_ids(fields, tables)
        return fields

    def with_defaults(self, fields: dict[str, Any]) -> dict[str, Any]:
        """`fields` and the defaults of those that are missing."""
        if not self._defaults:
            return fields
        missing = {name: value for name, value in self._defaults.items() if name not in fields}
        return {**fields, **missing} if missing else fields

    def measure(self, document: dict[str, Any], body_bytes: int, knobs: Knobs) -> None:
        """Refuse what is too large; for a document (with its creation time) whose types are right."""
        if body_bytes >= _SMALL_BYTES or body_bytes > knobs.document_size_bytes >> 4:
            fields = {name: value for name, value in document.items() if name != "_creationTime"}
            check_document(fields, knobs, self._table)

    def _check_ids(self, fields: dict[str, Any], tables: _Tables) -> None:
        for name, field in self._fields.items():
            value = fields.get(name)
            if value is not None:
                for path, tables_allowed, id in _ids_in(field["type"], value, name):
                    _check_id(f"{self._table}.{path}", tables_allowed, id, tables)


def _compiled(schema: TypeExpr) -> Any:
    from cellstore.schema.types import validator  # pydantic, which a store without schemas need not load

    return validator(schema)


def _check_id(path: str, expected: tuple[str, ...], id: str, tables: _Tables) -> None:
    number, _ = decode_id(id)
    table = tables.by_number(number)
    if table is None or table.name not in expected:
        got = "an id of a table that does not exist" if table is None else f"an id of table {table.name!r}"
        wanted = " or ".join(repr(name) for name in expected)
        raise ValidationError(path=path, expected=f"an id of table {wanted}", got=f"{got} ({id!r})")


def _ids_in(expr: TypeExpr, value: Any, path: str) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """(path, possible tables, id) for each id that `expr` finds in `value`."""
    kind = expr["type"]
    if kind == "id" and isinstance(value, str):
        yield path, (expr["table"],), value
    elif kind == "array" and isinstance(value, list):
        for at, item in enumerate(value):
            yield from _ids_in(expr["items"], item, f"{path}[{at}]")
    elif kind == "record" and isinstance(value, dict):
        for key, item in value.items():
            yield from _ids_in(expr["values"], item, f"{path}.{key}")
    elif kind == "object" and isinstance(value, dict):
        for key, field in expr["fields"].items():
            if key in value:
                yield from _ids_in(field["type"], value[key], f"{path}.{key}")
    elif kind == "union":
        yield from _ids_in_union(expr["members"], value, path)


def _ids_in_union(members: list[TypeExpr], value: Any, path: str) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Ids of any of several tables are checked against all of them; where a plain string fits too, anything goes."""
    fitting = [member for member in members if _could_be(member, value)]
    if fitting and all(member["type"] == "id" for member in fitting):
        yield path, tuple(member["table"] for member in fitting), value
    elif len(fitting) == 1:
        yield from _ids_in(fitting[0], value, path)


_PYTHON: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "float": lambda value: isinstance(value, float),
    "bytes": lambda value: isinstance(value, bytes),
    "array": lambda value: isinstance(value, list),
    "record": lambda value: isinstance(value, dict),
    "object": lambda value: isinstance(value, dict),
}


def _could_be(expr: TypeExpr, value: Any) -> bool:
    kind = expr["type"]
    if kind == "literal":
        return bool(expr["value"] == value)
    if kind == "union":
        return any(_could_be(member, value) for member in expr["members"])
    test = _PYTHON.get(kind)
    return isinstance(value, str) if test is None else test(value)


def _mentions(expr: TypeExpr, kind: str) -> bool:
    """Whether a type of this kind occurs anywhere in the expression."""
    return expr["type"] == kind or any(_mentions(child, kind) for child in _children(expr))


def _children(expr: TypeExpr) -> list[TypeExpr]:
    kind = expr["type"]
    if kind == "array":
        return [expr["items"]]
    if kind == "record":
        return [expr["values"]]
    if kind == "object":
        return [field["type"] for field in expr["fields"].values()]
    return list(expr["members"]) if kind == "union" else []
