"""Insert a document, or change the one that is there: decided by a unique index.

    ctx.db.upsert("users", {"email": "ann@example.org"}, {"name": "Ann"})

The equal fields must be those of one of the table's unique indexes, in any order; dotted paths reach inside objects. Which
document stands there is read as a count is: two upserts of one new key cannot both insert, and somebody who changes
another field of the document found disturbs nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cellstore.errors import CallerError, NotFound, ValidationError
from cellstore.transaction.catalog import IndexMeta, TableMeta
from cellstore.transaction.ranges import Range, interval
from cellstore.transaction.transaction import Transaction
from cellstore.values.ids import Id
from cellstore.values.value import UNSET

Fields = Mapping[str, Any]


def upsert(transaction: Transaction, table: str, equal: Fields, fields: Fields) -> Id:
    """The id of the document with these `equal` fields, which has `fields` now. Errors: see `DatabaseWriter.upsert`"""
    if not isinstance(equal, dict) or not isinstance(fields, dict):
        raise CallerError('call it as upsert(table, {"email": …}, {"name": …}): fields to be equal, then the others')
    meta = transaction.table(table)
    if meta is None:
        raise NotFound(
            f"there is no table {table!r}, and upsert needs a unique index on {', '.join(equal)}; define both with a "
            "cs.Table",
            kind="table",
            name=table,
        )
    index = _unique_index(meta, equal)
    span = transaction.span(table, index.name)
    assert span is not None
    lo, hi = interval(table, index, Range(dict(equal)))
    there = transaction.holder(span._replace(lo=lo, hi=hi))
    if there is None:
        return transaction.insert(table, _merged(fields, equal, new=True))
    transaction.patch(there, _merged(fields, equal, new=False))
    return there


def _unique_index(meta: TableMeta, equal: Fields) -> IndexMeta:
    nothing = [path for path, value in equal.items() if value is None or value is UNSET]
    if nothing:
        raise ValidationError(
            path=nothing[0], expected="a value, because None is equal to nothing in a unique index", got="None"
        )
    for index in meta.unique:
        if set(index.fields) == equal.keys():
            return index
    there = ", ".join(f"{index.name} ({', '.join(index.fields)})" for index in meta.unique) or "none that is complete"
    raise NotFound(
        f"upsert needs a unique index on {', '.join(equal) or 'some fields'}, and the unique indexes of {meta.name!r} are: "
        f"{there}. Define one with cs.Index(…, unique=True)",
        kind="index",
        name=meta.name,
        code="IndexNotFound",
    )


def _merged(fields: Fields, equal: Fields, *, new: bool) -> dict[str, Any]:
    """`fields` with the equal ones put where they belong. A document that is there has them already."""
    merged = dict(fields)
    for path, value in equal.items():
        root, *steps = path.split(".")
        if not steps and root in fields:
            raise CallerError(f"upsert was given {root!r} twice, among the fields to be equal and among the others")
        if new or root in merged:
            merged[root] = _with(merged.get(root), steps, value) if steps else value
    return merged


def _with(outer: Any, steps: list[str], value: Any) -> Any:
    if not steps:
        return value
    inner = dict(outer) if isinstance(outer, dict) else {}
    inner[steps[0]] = _with(inner.get(steps[0]), steps[1:], value)
    return inner
