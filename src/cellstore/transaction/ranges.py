"""What a query asks of an index, and the interval of keys that is.

    q.eq(f, v) on a prefix of the index's fields, then at most one lower (gt, gte) and one upper (lt, lte) bound, both on
    the next field

`_creationTime` may be named after the last field: every index has it there. `eq(f, UNSET)` finds documents without the
field; a lone upper bound includes them and None, because both sort first. Contradictory bounds are an empty range.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, NamedTuple, Self

from cellstore.errors import ValidationError
from cellstore.schema.moments import date_text, datetime_text
from cellstore.transaction.catalog import BY_ID, IndexMeta
from cellstore.values.ids import decode_id
from cellstore.values.index_key import END, encode_value
from cellstore.values.value import MISSING, UNSET, check_value


class Bound(NamedTuple):
    """One end of a range."""

    field: str
    value: Any
    inclusive: bool


class Range:
    """Collects the conditions of `with_index(name, lambda q: …)`. Each method returns the builder."""

    __slots__ = ("equal", "lower", "upper")

    def __init__(self, equal: dict[str, Any] | None = None) -> None:
        self.equal: dict[str, Any] = dict(equal or {})
        self.lower: Bound | None = None
        self.upper: Bound | None = None

    def eq(self, field: str, value: Any) -> Self:
        """The field equals `value`; UNSET for "has no such field"."""
        if field in self.equal:
            raise _wrong(f"two conditions eq({field!r}, …)", "AlreadyDefinedBound")
        self.equal[field] = value
        return self

    def gt(self, field: str, value: Any) -> Self:
        """The field sorts after `value`."""
        return self._bound_below(Bound(field, value, False))

    def gte(self, field: str, value: Any) -> Self:
        """The field equals `value` or sorts after it."""
        return self._bound_below(Bound(field, value, True))

    def lt(self, field: str, value: Any) -> Self:
        """The field sorts before `value`; a missing field and None do so too."""
        return self._bound_above(Bound(field, value, False))

    def lte(self, field: str, value: Any) -> Self:
        """The field equals `value` or sorts before it."""
        return self._bound_above(Bound(field, value, True))

    def _bound_below(self, bound: Bound) -> Self:
        if self.lower is not None:
            raise _wrong("two lower bounds (gt, gte)", "AlreadyDefinedBound")
        self.lower = bound
        return self

    def _bound_above(self, bound: Bound) -> Self:
        if self.upper is not None:
            raise _wrong("two upper bounds (lt, lte)", "AlreadyDefinedBound")
        self.upper = bound
        return self


def interval(table: str, index: IndexMeta, asked: Range) -> tuple[bytes, bytes]:
    """The keys [lo, hi) that `asked` selects in `index`. Errors: ValidationError naming the index and its fields."""
    name = f"{table}.{index.name}"
    fields = index.fields if index.name == BY_ID else (*index.fields, "_creationTime")
    for field in (*asked.equal, *(bound.field for bound in (asked.lower, asked.upper) if bound)):
        if field not in fields:
            raise _wrong(
                f"{field!r}, which {name} does not have; its fields are {', '.join(fields)}", "FieldNotInIndex"
            )
    prefix_fields = fields[: len(asked.equal)]
    missing = [field for field in prefix_fields if field not in asked.equal]
    if missing:
        raise _wrong(
            f"{', '.join(asked.equal)} by eq on {name} but not {missing[0]!r}, which comes before: conditions go from "
            f"left to right through {', '.join(fields)}",
            "InvalidIndexRange",
        )
    _check_bounds(name, fields, asked)
    if index.name == BY_ID:
        return _by_id(asked)
    prefix = b"".join(_encoded(field, asked.equal[field]) for field in prefix_fields)
    lower, upper = asked.lower, asked.upper
    lo, hi = prefix, prefix + END
    if lower is not None:
        lo = prefix + _encoded(lower.field, lower.value) + (b"" if lower.inclusive else END)
    if upper is not None:
        hi = prefix + _encoded(upper.field, upper.value) + (END if upper.inclusive else b"")
    return lo, hi


def _check_bounds(name: str, fields: tuple[str, ...], asked: Range) -> None:
    lower, upper = asked.lower, asked.upper
    if lower is not None and upper is not None and lower.field != upper.field:
        raise _wrong(f"bounds on two fields, {lower.field!r} and {upper.field!r}", "BoundsOnMultipleFields")
    bound = lower or upper
    if bound is None:
        return
    if bound.field in asked.equal:
        raise _wrong(f"both eq and a bound on {bound.field!r}", "AlreadyDefinedBound")
    expected = fields[len(asked.equal)]
    if bound.field != expected:
        raise _wrong(
            f"a bound on {bound.field!r} of {name} but no eq on {expected!r}, which comes before: conditions go from left "
            f"to right through {', '.join(fields)}",
            "InvalidIndexRange",
        )


def _by_id(asked: Range) -> tuple[bytes, bytes]:
    if "_id" in asked.equal:
        id = decode_id(asked.equal["_id"])[1]
        return id, id + b"\0"
    lo, hi = b"", END
    if asked.lower is not None:
        lo = decode_id(asked.lower.value)[1] + (b"" if asked.lower.inclusive else b"\0")
    if asked.upper is not None:
        hi = decode_id(asked.upper.value)[1] + (b"\0" if asked.upper.inclusive else b"")
    return lo, hi


def _encoded(field: str, value: Any) -> bytes:
    if value is UNSET:
        value = MISSING
    try:
        return encode_value(_stored(value))
    except ValidationError as error:
        raise ValidationError(path=field, expected=error.expected, got=error.got) from None
    except UnicodeEncodeError:
        check_value(value, field)  # says where
        raise
    except ValueError as error:
        raise ValidationError(path=field, expected="a datetime with a time zone", got=f"{value!r}: {error}") from None


def _stored(value: Any) -> Any:
    """A moment or day as the text it is stored as; anything else as it is."""
    if isinstance(value, dt.datetime):
        return datetime_text(value)
    return date_text(value) if isinstance(value, dt.date) else value


def _wrong(what: str, code: str) -> ValidationError:
    return ValidationError(f"this index range has {what}", code=code)
