"""Checking values against type expressions.

    check = validator(from_hint(list[int])).check
    check([1, 2.0], "args.counts")     → [1, 2]
    check([1, True], "args.counts")    ValidationError: args.counts[1]: expected int, got bool True

Nothing is coerced but numbers: an integral float becomes an int where an int is declared, an int becomes a float where a
float is. bool is no number. What is returned is plain: exact Python types, moments as text, fields in declared order.

The work is done by pydantic's compiled core, from schemas made here; pydantic itself is not needed. When the core refuses,
`explain` looks again, in Python, and words the one error.

Cost       a document of 19 fields 3-4 µs; a call of three arguments 1 µs; a refusal some 50 µs
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cellstore.errors import ValidationError as NotAnId
from cellstore.schema.explain import Misfit, TableOf, fit
from cellstore.schema.expr import TypeExpr, describe, mentions, to_convex_validator
from cellstore.schema.hints import from_hint
from cellstore.schema.moments import date_text, datetime_text
from cellstore.values.ids import decode_id
from cellstore.values.value import INT_MAX, INT_MIN

if TYPE_CHECKING:
    from pydantic_core import CoreSchema

__all__ = ["TypeExpr", "Validator", "describe", "from_hint", "to_convex_validator", "validator"]

_NUMBERS = ("int", "float", "literal")


class Validator:
    """A compiled type.

    The compiled core knows no tables. Where ids are plain fields (an id, or an id or None) their tables are looked up here
    after it; where they are nested, or one of several things, `explain` looks at the whole value.
    """

    __slots__ = ("_core", "_has_nested_ids", "_ids", "_part", "_refusal", "expr")

    def __init__(self, expr: TypeExpr, part: str = "field") -> None:
        from pydantic_core import SchemaValidator, ValidationError

        self.expr = expr
        self._part = part
        self._core = SchemaValidator(_compiled(expr)).validate_python
        self._refusal: type[Exception] = ValidationError
        self._ids = _id_fields(expr)
        self._has_nested_ids = _others_mention_ids(expr, self._ids)

    def check(self, value: Any, where: str = "", table_of: TableOf | None = None) -> Any:
        """`value` in its stored form. `where` is what the error's path starts with.

        With `table_of` (table number to name) an id must also be of the table its type names.
        Errors: ValidationError with path, expected and got.
        """
        if table_of is None or not self._has_nested_ids:
            try:
                admitted = self._core(value)
            except self._refusal:
                pass  # look again, slowly, below
            else:
                if table_of is None or not self._ids or self._are_of_their_tables(admitted, table_of):
                    return admitted
        try:
            return fit(self.expr, value, table_of)
        except Misfit as misfit:
            raise misfit.error(where, self._part) from None

    def _are_of_their_tables(self, admitted: dict[str, Any], table_of: TableOf) -> bool:
        for name, table in self._ids.items():
            id = admitted.get(name)
            if id is not None and table_of(decode_id(id)[0]) != table:
                return False
        return True


def _id_fields(expr: TypeExpr) -> dict[str, str]:
    """The fields of an object that are an id, or an id or None, and its table."""
    fields = expr["fields"].items() if expr["type"] == "object" else ()
    return {name: table for name, field in fields if (table := _table_of_id(field["type"])) is not None}


def _table_of_id(expr: TypeExpr) -> str | None:
    """The table of a type that is an id, or an id or None; None for every other type."""
    members = [member for member in expr["members"] if member["type"] != "null"] if expr["type"] == "union" else [expr]
    if len(members) == 1 and members[0]["type"] == "id":
        table: str = members[0]["table"]
        return table
    return None


def _others_mention_ids(expr: TypeExpr, simple: dict[str, str]) -> bool:
    """Whether ids occur elsewhere than in the fields named."""
    if expr["type"] != "object":
        return mentions(expr, "id")
    others = [field["type"] for name, field in expr["fields"].items() if name not in simple]
    return any(mentions(other, "id") for other in others) or ("extra" in expr and mentions(expr["extra"], "id"))


def validator(expr: TypeExpr, part: str = "field") -> Validator:
    """The compiled form of a type expression. Some 100 µs: keep it. `part`: what errors call its outermost fields."""
    return Validator(expr, part)


def check_plain(expr: TypeExpr, value: Any, where: str = "", part: str = "field") -> Any:
    """As `validator(expr, part).check(value, where)`, without compiling: for a value or two."""
    try:
        return fit(expr, value)
    except Misfit as misfit:
        raise misfit.error(where, part) from None


def _compiled(expr: TypeExpr) -> CoreSchema:
    """The core schema of an expression."""
    from pydantic_core import core_schema as core

    kind = expr["type"]
    if kind == "int":
        return _compiled_int(expr)
    if kind == "float":
        return core.float_schema(strict=True, **_limits(expr, "ge", "gt", "le", "lt"))
    if kind == "string":
        # Any limit makes the core look at the text, and so refuse lone surrogates, which cannot be stored.
        limits = {"min_length": 0, **_limits(expr, "min_length", "max_length", "pattern")}
        return core.str_schema(strict=True, regex_engine="python-re", **limits)
    if kind == "bytes":
        return core.bytes_schema(strict=True, **_limits(expr, "min_length", "max_length"))
    if kind == "array":
        return core.list_schema(_compiled(expr["items"]), strict=True, **_limits(expr, "min_length", "max_length"))
    if kind == "record":
        return core.dict_schema(core.str_schema(strict=True, min_length=0), _compiled(expr["values"]), strict=True)
    if kind == "object":
        return _compiled_object(expr)
    if kind == "union":
        return _compiled_union(expr)
    if kind == "null":
        return core.none_schema()
    if kind == "boolean":
        return core.bool_schema(strict=True)
    if kind == "any":
        return core.any_schema()
    return core.no_info_plain_validator_function(_PLAIN[kind](expr))


def _compiled_int(expr: TypeExpr) -> CoreSchema:
    from pydantic_core import core_schema as core

    limits = _limits(expr, "gt", "lt")
    limits["ge"] = max(expr.get("ge", INT_MIN), INT_MIN)
    limits["le"] = min(expr.get("le", INT_MAX), INT_MAX)
    integral = core.chain_schema([core.float_schema(strict=True), core.int_schema(strict=False, **limits)])
    return core.union_schema([core.int_schema(strict=True, **limits), integral], mode="left_to_right")


def _compiled_object(expr: TypeExpr) -> CoreSchema:
    from pydantic_core import core_schema as core

    fields = {
        name: core.typed_dict_field(_compiled(field["type"]), required=not field["optional"])
        for name, field in expr["fields"].items()
    }
    if "extra" in expr:
        extras = _compiled(expr["extra"])
        return core.typed_dict_schema(fields, strict=True, extra_behavior="allow", extras_schema=extras)
    return core.typed_dict_schema(fields, strict=True, extra_behavior="forbid")


def _compiled_union(expr: TypeExpr) -> CoreSchema:
    from pydantic_core import core_schema as core

    members = [member for member in expr["members"] if member["type"] != "null"]
    if all(member["type"] == "literal" and isinstance(member["value"], str) for member in members):
        schema: CoreSchema = core.literal_schema([member["value"] for member in members])
    elif len(members) == 1:
        schema = _compiled(members[0])
    elif sum(mentions(member, *_NUMBERS) for member in members) > 1:
        # Which member takes a number depends on all of them: 1.0 belongs to the float of `int | float`.
        schema = core.no_info_plain_validator_function(_fitting(expr))
    else:
        schema = core.union_schema([_compiled(member) for member in members], mode="left_to_right")
    return core.nullable_schema(schema) if len(members) < len(expr["members"]) else schema


def _limits(expr: TypeExpr, *names: str) -> dict[str, Any]:
    return {name: expr[name] for name in names if name in expr}


def _fitting(expr: TypeExpr) -> Any:
    def check(value: Any) -> Any:
        try:
            return fit(expr, value)
        except Misfit:
            raise ValueError from None

    return check


def _checked_id(_expr: TypeExpr) -> Any:
    def check(value: Any) -> str:
        if type(value) is not str:  # an Id that knows its table is looked at more closely
            raise ValueError
        try:
            decode_id(value)
        except NotAnId:
            raise ValueError from None
        return value

    return check


_PLAIN: dict[str, Callable[[TypeExpr], Callable[[Any], Any]]] = {
    "id": _checked_id,
    "literal": _fitting,
    "datetime": lambda _expr: datetime_text,
    "date": lambda _expr: date_text,
}
