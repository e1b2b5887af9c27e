"""Convex's JSON: what foreign clients speak, and the clean form for people.

    Python                         Convex JSON                                   back
    int within ±2^53               7.0, always with a point                      float
    int beyond                     {"$integer": base64 of 8 bytes, LE}           int
    float                          7.0; NaN, ±inf, -0.0 as {"$float": base64}    float
    bytes                          {"$bytes": base64}                            bytes
    the rest                       as in JSON                                    the same

A plain number is always a float on this wire, in both directions; an `int` annotation turns integral floats into ints
where arguments are validated. The point is written out because one official client refuses integer tokens.
Source: Convex, `values/value.ts`; vectors in tests/unit/test_values_convex.py.
"""

from __future__ import annotations

import struct
from base64 import b64encode
from math import copysign, isfinite
from typing import Any

from cellstore.errors import ValidationError
from cellstore.values.json import read_base64
from cellstore.values.value import INT_MAX, INT_MIN, kind_of

_EXACT = 1 << 53
_DEPTH_MAX = 200
_FLOAT = struct.Struct("<d")


def to_convex(value: Any) -> Any:
    """A checked value as JSON-able objects of Convex's encoding. Never changes `value`."""
    kind = kind_of(value)
    if kind is str or kind is bool or value is None:
        return value
    if kind is int:
        if -_EXACT <= value <= _EXACT:
            return float(value)
        return {"$integer": b64encode(value.to_bytes(8, "little", signed=True)).decode()}
    if kind is float:
        if isfinite(value) and (value != 0.0 or copysign(1.0, value) > 0):
            return value
        return {"$float": b64encode(_FLOAT.pack(value)).decode()}
    if kind is dict:
        return {name: to_convex(inner) for name, inner in value.items()}
    if kind is list:
        return [to_convex(inner) for inner in value]
    if kind is bytes:
        return {"$bytes": b64encode(value).decode()}
    raise ValidationError(expected="a value", got=f"{type(value).__name__} {value!r:.60}")


def from_convex(parsed: Any) -> Any:
    """The value of parsed Convex JSON. Changes lists and dicts in place.

    Errors: ValidationError for an unknown or malformed marked object, a name beginning with $, too deep nesting.
    """
    return _from_convex(parsed, _DEPTH_MAX)


def _from_convex(parsed: Any, depth_left: int) -> Any:
    kind = type(parsed)
    if kind is int:
        return float(parsed)
    if kind is dict:
        if depth_left == 0:
            raise ValidationError(expected="shallower nesting", got="an object inside too many others")
        if len(parsed) == 1:
            [(name, inner)] = parsed.items()
            if name.startswith("$"):
                return _unmark(name, inner)
        for name, inner in parsed.items():
            if name.startswith("$"):
                raise ValidationError(expected="a name that does not begin with $", got=repr(name))
            parsed[name] = _from_convex(inner, depth_left - 1)
    elif kind is list:
        if depth_left == 0:
            raise ValidationError(expected="shallower nesting", got="an array inside too many others")
        for position, inner in enumerate(parsed):
            parsed[position] = _from_convex(inner, depth_left - 1)
    return parsed


def _unmark(name: str, inner: object) -> Any:
    if name == "$integer":
        number = int.from_bytes(read_base64(inner, name, 8), "little", signed=True)
        assert INT_MIN <= number <= INT_MAX
        return number
    if name == "$float":
        return float(_FLOAT.unpack(read_base64(inner, name, 8))[0])
    if name == "$bytes":
        return read_base64(inner, name)
    raise ValidationError(f"an object with the one name {name!r} is not Convex JSON", expected="a value", got=name)


def to_clean(value: Any) -> Any:
    """The "json" format: readable and lossy. Large ints and bytes become strings, non-finite floats their names."""
    kind = kind_of(value)
    if kind is dict:
        return {name: to_clean(inner) for name, inner in value.items()}
    if kind is list:
        return [to_clean(inner) for inner in value]
    if kind is int:
        return float(value) if -_EXACT <= value <= _EXACT else str(value)
    if kind is float and not isfinite(value):
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    if kind is bytes:
        return b64encode(value).decode()
    return value
