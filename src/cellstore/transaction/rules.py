"""A table's schema, compiled: checks a document as it would be stored, fills in defaults, looks at ids.

A table without a schema takes any document. An id must be of the table its field names, as of the transaction's own
catalog, so a table created a moment ago counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cellstore.knobs import Knobs
from cellstore.schema.expr import children
from cellstore.values.value import check_document

if TYPE_CHECKING:
    from cellstore.schema.types import TypeExpr
    from cellstore.transaction.catalog import Catalog

SMALL_BYTES = 16_384  # JSON of this size cannot hold 8,192 array elements or reach 1 MiB by the accounting rule


class Rules:
    """What a document of one table must be.

    `closed`: every type and name is known down to the leaves, so that names, kinds and depth are right once the types are,
    and only a large document need be measured.
    """

    __slots__ = ("_defaults", "_table", "_validator", "closed")

    def __init__(self, table: str, schema: TypeExpr | None) -> None:
        fields = {} if schema is None else schema.get("fields", {})
        self._table = table
        self._validator = None if schema is None else _compiled(schema)
        self._defaults = {name: field["default"] for name, field in fields.items() if "default" in field}
        self.closed = schema is not None and _is_closed(schema)

    def admit(self, fields: dict[str, Any], catalog: Catalog) -> dict[str, Any]:
        """`fields` (no system fields) as they are stored. Errors: ValidationError naming table and path."""
        if self._validator is None:
            return fields
        admitted: dict[str, Any] = self._validator.check(
            fields, self._table, lambda number: _table_name(catalog, number)
        )
        return admitted

    @property
    def has_defaults(self) -> bool:
        """Whether `with_defaults` may have something to fill in."""
        return bool(self._defaults)

    def with_defaults(self, fields: dict[str, Any]) -> dict[str, Any]:
        """`fields` and the defaults of those that are missing."""
        if not self._defaults:
            return fields
        missing = {name: value for name, value in self._defaults.items() if name not in fields}
        return {**fields, **missing} if missing else fields

    def measure(self, document: dict[str, Any], body_bytes: int, knobs: Knobs) -> None:
        """Refuse what is too large; for a document (with its creation time) whose types are right."""
        if body_bytes >= SMALL_BYTES or body_bytes > knobs.document_size_bytes >> 4:
            fields = {name: value for name, value in document.items() if name != "_creationTime"}
            check_document(fields, knobs, self._table)


def _compiled(schema: TypeExpr) -> Any:
    from cellstore.schema.types import validator  # pydantic's core, which a store without schemas need not load

    return validator(schema)


def _table_name(catalog: Catalog, number: int) -> str | None:
    table = catalog.by_number(number)
    return None if table is None else table.known_as


def _is_closed(expr: TypeExpr) -> bool:
    """Whether the type leaves no value and no field name open."""
    return expr["type"] not in ("any", "record") and "extra" not in expr and all(map(_is_closed, children(expr)))
