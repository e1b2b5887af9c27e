"""Native JSON: every value exactly, as text. What is stored, and what our own parts say to each other.

    None bool str list dict     as in JSON
    int                         a number without point or exponent      7
    float                       a number with one of them               7.0   -0.0   1e300
    NaN, inf, -inf              {"$float": base64 of 8 bytes, little-endian}
    bytes                       {"$bytes": base64}

Names beginning with $ are refused in stored values (`values.value`), so the marked objects cannot be mistaken.

Cost:      orjson's, plus a walk only where the text could hold a marked object: parsing twenty fields takes two
           microseconds, walking them in Python as long again.
Invariant: same(loads(dumps(v)), v) for every v that passed `check_value`
"""

from __future__ import annotations

import struct
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from math import isfinite
from typing import Any

import orjson

from cellstore.errors import ValidationError
from cellstore.values.value import Value, kind_of

_DEPTH_MAX = 200  # beyond any knob; keeps the walk clear of Python's own recursion limit
_FLOAT = struct.Struct("<d")
_PAGE = 4096


def dumps(value: object) -> bytes:
    """The native JSON of a checked value.

    Errors: ValidationError for what `check_value` would have refused and JSON cannot say.
    """
    try:
        text = orjson.dumps(value, default=_mark_bytes)
        # orjson writes NaN and inf as null: whoever holds no null holds neither, the rest is searched
        if b"null" in text and _holds_nonfinite(value):
            text = orjson.dumps(_mark_nonfinite(value), default=_mark_bytes)
        return bytes(memoryview(text)) if len(text) < _PAGE else text  # as `snug`, without a call
    except (TypeError, RecursionError) as error:  # orjson's own error is a TypeError
        raise ValidationError(f"this value cannot be stored: {error}", expected="a value", got=str(error)) from None


def snug(text: bytes) -> bytes:
    """A copy that takes as much memory as it is long, for what is kept: what orjson returns holds a page, however short."""
    return bytes(memoryview(text)) if len(text) < _PAGE else text


def loads(text: bytes | str) -> Any:
    """The value of native JSON.

    Errors: ValidationError for broken JSON, nesting beyond all limits, or an unknown marked object.
    """
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ValidationError(f"this is not JSON: {error}", expected="JSON", got=_excerpt(text)) from None
    return decode(value) if (b'"$' in text if isinstance(text, bytes) else '"$' in text) else value


def decode(parsed: Any) -> Any:
    """What `orjson.loads` gave, with the marked objects replaced. Changes lists and dicts in place."""
    return _decode(parsed, _DEPTH_MAX)


def _decode(parsed: Any, depth_left: int) -> Any:
    kind = type(parsed)
    if kind is dict:
        if depth_left == 0:
            raise ValidationError(expected="shallower nesting", got="a dict inside too many others")
        if len(parsed) == 1:
            [(name, inner)] = parsed.items()
            if name.startswith("$"):
                return _unmark(name, inner)
        for name, inner in parsed.items():
            if type(inner) is dict or type(inner) is list:
                parsed[name] = _decode(inner, depth_left - 1)
    elif kind is list:
        if depth_left == 0:
            raise ValidationError(expected="shallower nesting", got="a list inside too many others")
        for position, inner in enumerate(parsed):
            if type(inner) is dict or type(inner) is list:
                parsed[position] = _decode(inner, depth_left - 1)
    return parsed


def _unmark(name: str, inner: object) -> Value:
    if name == "$bytes":
        return read_base64(inner, "$bytes")
    if name == "$float":
        return float(_FLOAT.unpack(read_base64(inner, "$float", 8))[0])
    raise ValidationError(f"an object with the one name {name!r} means nothing here", expected="a value", got=name)


def read_base64(text: object, name: str, size_bytes: int | None = None) -> bytes:
    """The bytes of a marked object's base64. Errors: ValidationError for anything but exactly that."""
    try:
        data = b64decode(text, validate=True) if isinstance(text, str) else None
    except (Base64Error, ValueError):
        data = None
    if data is None or (size_bytes is not None and len(data) != size_bytes):
        wanted = "base64 text" if size_bytes is None else f"base64 text of {size_bytes} bytes"
        raise ValidationError(path=name, expected=wanted, got=f"{text!r:.60}")
    return data


def _mark_bytes(value: object) -> dict[str, str]:
    if type(value) is bytes:
        return {"$bytes": b64encode(value).decode()}
    raise TypeError(f"{type(value).__name__} is not a type of value")


def _holds_nonfinite(value: Any) -> bool:
    kind = kind_of(value)
    if kind is float:
        return not isfinite(value)
    if kind is dict:
        return any(_holds_nonfinite(inner) for inner in value.values() if type(inner) not in _CANNOT_HOLD)
    if kind is list:
        return any(_holds_nonfinite(inner) for inner in value if type(inner) not in _CANNOT_HOLD)
    return False


_CANNOT_HOLD = frozenset({str, int, bool, type(None), bytes})


def _mark_nonfinite(value: Any) -> Any:
    kind = kind_of(value)
    if kind is float and not isfinite(value):
        return {"$float": b64encode(_FLOAT.pack(value)).decode()}
    if kind is dict:
        return {name: _mark_nonfinite(inner) for name, inner in value.items()}
    if kind is list:
        return [_mark_nonfinite(inner) for inner in value]
    return value


def _excerpt(text: bytes | str) -> str:
    return repr(text[:60])
