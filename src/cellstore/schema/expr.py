"""Type expressions: a type as a plain tree that can be stored, compared and sent.

    {"type": "null" | "boolean" | "int" | "float" | "string" | "bytes" | "any" | "datetime" | "date"}
    {"type": "literal", "value": v}
    {"type": "id", "table": name}
    {"type": "array", "items": T}
    {"type": "record", "values": T}
    {"type": "object", "fields": {name: {"type": T, "optional": bool, "default": v}}, "extra": T}
    {"type": "union", "members": [T, …]}

`default` and `extra` are there when they say something: a field with a default may be absent and is then filled in by
whoever stores it; `extra` is the type of fields not listed, which are refused without it. Numbers, strings, bytes and
arrays may carry limits: ge, gt, le, lt · min_length, max_length · pattern (strings).

Moments    a `datetime` is stored as text, `2026-01-02T03:04:05.000006Z`: UTC, always six decimals, so that texts sort as
           moments do. A `date` is stored as `2026-01-02`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

TypeExpr: TypeAlias = dict[str, Any]

ANY: TypeExpr = {"type": "any"}
NULL: TypeExpr = {"type": "null"}
LIMITS = ("ge", "gt", "le", "lt", "min_length", "max_length", "pattern")

_WORDS = {
    "null": "None",
    "boolean": "bool",
    "int": "int",
    "float": "float",
    "string": "str",
    "bytes": "bytes",
    "any": "any value",
    "datetime": "datetime",
    "date": "date",
}
_CONVEX = {
    "null": "null",
    "boolean": "boolean",
    "int": "number",  # a Python int within 2^53 travels as a number there
    "float": "number",
    "string": "string",
    "bytes": "bytes",
    "any": "any",
    "datetime": "string",
    "date": "string",
}
_LIMIT_WORDS = {"ge": ">= {}", "gt": "> {}", "le": "<= {}", "lt": "< {}"}


def union(members: list[TypeExpr]) -> TypeExpr:
    """The union of `members`, flat and without repetition; a single member is itself."""
    flat: list[TypeExpr] = []
    for member in members:
        for each in member["members"] if member["type"] == "union" else [member]:
            if not any(_identical(each, known) for known in flat):
                flat.append(each)
    return flat[0] if len(flat) == 1 else {"type": "union", "members": flat}


def _identical(a: TypeExpr, b: TypeExpr) -> bool:
    # Literal[1] and Literal[True] are two types although their values are equal.
    return a == b and type(a.get("value")) is type(b.get("value"))


def object_of(fields: dict[str, TypeExpr]) -> TypeExpr:
    """An object whose fields are all required."""
    return {"type": "object", "fields": {name: {"type": expr, "optional": False} for name, expr in fields.items()}}


def children(expr: TypeExpr) -> Iterator[TypeExpr]:
    """The expressions directly inside."""
    kind = expr["type"]
    if kind == "array":
        yield expr["items"]
    elif kind == "record":
        yield expr["values"]
    elif kind == "union":
        yield from expr["members"]
    elif kind == "object":
        for field in expr["fields"].values():
            yield field["type"]
        if "extra" in expr:
            yield expr["extra"]


def mentions(expr: TypeExpr, *kinds: str) -> bool:
    """Whether a type of one of these kinds occurs anywhere."""
    return expr["type"] in kinds or any(mentions(child, *kinds) for child in children(expr))


def includes(wide: TypeExpr, narrow: TypeExpr) -> bool:
    """Whether every stored value of the type `narrow` is one of `wide`, for certain; False where that is not plain."""
    if wide["type"] == "any":
        return True
    if narrow["type"] == "union":
        return all(includes(wide, member) for member in narrow["members"])
    if wide["type"] == "union":
        return any(includes(member, narrow) for member in wide["members"])
    if narrow["type"] == "literal":
        return _includes_literal(wide, narrow["value"])
    if wide["type"] != narrow["type"] or any(narrow.get(limit) != wide[limit] for limit in LIMITS if limit in wide):
        return False
    if wide["type"] == "object":
        return _includes_object(wide, narrow)
    return wide.get("table") == narrow.get("table") and all(map(includes, children(wide), children(narrow)))


def _includes_literal(wide: TypeExpr, value: Any) -> bool:
    if wide["type"] == "literal":
        return type(wide["value"]) is type(value) and bool(wide["value"] == value)
    plain = {bool: "boolean", int: "int", float: "float", str: "string"}.get(type(value))
    return wide["type"] == plain and not any(limit in wide for limit in LIMITS)


def _includes_object(wide: TypeExpr, narrow: TypeExpr) -> bool:
    """Fields of both may not become required, nor others that are required come; fields that go need a place."""
    nothing: dict[str, Any] = {"optional": True}
    for name in {**wide["fields"], **narrow["fields"]}:
        new, old = wide["fields"].get(name), narrow["fields"].get(name, nothing)
        if new is None and "extra" not in wide:
            return False
        if new is not None and old["optional"] and not new["optional"]:
            return False
        kind = wide["extra"] if new is None else new["type"]
        # a field that was not listed is of the type of all that were not, or was not there
        if (found := old.get("type", narrow.get("extra"))) is not None and not includes(kind, found):
            return False
    return "extra" not in narrow or ("extra" in wide and includes(wide["extra"], narrow["extra"]))


def with_table_renamed(expr: TypeExpr, old: str, new: str) -> TypeExpr:
    """The same type where the table `old` is called `new`; the very same object when it is not mentioned."""
    if expr["type"] == "id":
        return {**expr, "table": new} if expr["table"] == old else expr
    changed = dict(expr)
    for part in ("items", "values", "extra"):
        if part in expr:
            changed[part] = with_table_renamed(expr[part], old, new)
    if "members" in expr:
        changed["members"] = [with_table_renamed(member, old, new) for member in expr["members"]]
    if "fields" in expr:
        changed["fields"] = {
            name: {**field, "type": with_table_renamed(field["type"], old, new)}
            for name, field in expr["fields"].items()
        }
    return expr if changed == expr else changed


def describe(expr: TypeExpr) -> str:
    """The type in words, as in `expected …`: `int`, `list of str`, `an id of table 'users' or None`."""
    kind = expr["type"]
    if kind == "literal":
        return repr(expr["value"])
    if kind == "id":
        return f"an id of table {expr['table']!r}"
    if kind == "array":
        return f"list of {_inner(expr['items'])}{_limits(expr)}"
    if kind == "record":
        return f"dict of str to {_inner(expr['values'])}"
    if kind == "object":
        return f"an object {{{', '.join(_field_word(*item) for item in expr['fields'].items())}}}"
    if kind == "union":
        return _either([describe(member) for member in _null_last(expr["members"])])
    return _WORDS[kind] + _limits(expr)


def _inner(expr: TypeExpr) -> str:
    text = describe(expr)
    return f"({text})" if expr["type"] == "union" else text


def _field_word(name: str, field: dict[str, Any]) -> str:
    return f"{name}?" if field["optional"] else name


def _null_last(members: list[TypeExpr]) -> list[TypeExpr]:
    return sorted(members, key=lambda member: member["type"] == "null")


def _either(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]


def _limits(expr: TypeExpr) -> str:
    parts = [template.format(expr[name]) for name, template in _LIMIT_WORDS.items() if name in expr]
    low, high = expr.get("min_length"), expr.get("max_length")
    if low is not None or high is not None:
        parts.append(f"of length {low or 0} to {high}" if high is not None else f"of length {low} or more")
    if "pattern" in expr:
        parts.append(f"matching {expr['pattern']!r}")
    return f" {' and '.join(parts)}" if parts else ""


def signature(expr: TypeExpr) -> str:
    """The type as one would annotate it, short: `int`, `list[str]`, `Id["users"] | None`."""
    kind = expr["type"]
    if kind == "literal":
        return f"Literal[{expr['value']!r}]"
    if kind == "id":
        return f'Id["{expr["table"]}"]'
    if kind == "array":
        return f"list[{signature(expr['items'])}]"
    if kind == "record":
        return f"dict[str, {signature(expr['values'])}]"
    if kind == "object":
        return f"{{{', '.join(_field_word(*item) for item in expr['fields'].items())}}}"
    if kind == "union":
        return " | ".join(signature(member) for member in _null_last(expr["members"]))
    return "Any" if kind == "any" else _WORDS[kind]


def to_convex_validator(expr: TypeExpr) -> dict[str, Any]:
    """The validator as Convex's clients and command line know it."""
    kind = expr["type"]
    if kind == "literal":
        return {"type": "literal", "value": expr["value"]}
    if kind == "id":
        return {"type": "id", "tableName": expr["table"]}
    if kind == "array":
        return {"type": "array", "value": to_convex_validator(expr["items"])}
    if kind == "record" or "extra" in expr:
        return _convex_record(expr["values"]) if kind == "record" else {"type": "any"}
    if kind == "object":
        return {"type": "object", "value": {name: _convex_field(field) for name, field in expr["fields"].items()}}
    if kind == "union":
        return {"type": "union", "value": [to_convex_validator(member) for member in expr["members"]]}
    return {"type": _CONVEX[kind]}


def _convex_field(field: dict[str, Any]) -> dict[str, Any]:
    return {"fieldType": to_convex_validator(field["type"]), "optional": field["optional"]}


def _convex_record(values: TypeExpr) -> dict[str, Any]:
    field = {"fieldType": to_convex_validator(values), "optional": False}
    return {"type": "record", "keys": {"type": "string"}, "values": field}
