"""Index keys: bytes that sort as the values do.

Shape:  for each indexed field a tag byte and a body; then the creation time, encoded as a number; then 16 id bytes

    tag    value     body
    0x01   missing   —
    0x02   None      —
    0x05   number    8 bytes: the largest double not above it, big-endian, made to sort (negative: every bit flipped;
                     else the sign bit set); and where that double's magnitude is 2^53 or more, 2 bytes: what is left
    0x06   NaN       —
    0x08   False     —
    0x09   True      —
    0x0B   str       UTF-8 with 00 written 00 FF, closed by 00 01
    0x0C   bytes     the same escape and close
    0x0E   list      the items' encodings, closed by 00
    0x0F   dict      (name as str, value) by name, closed by 00

Every double below 2^53 in magnitude is the only number with its first eight bytes, so the two bytes are needed, and
present, exactly above it, for ints and floats alike. Ints of 64 bits lie less than 1,024 above their double.

Invariant: encode_value(a) < encode_value(b) exactly when compare(a, b) < 0; equal exactly when it is 0
           no encoding is a prefix of another; the byte after a complete encoding is below 0xF0, or an id's
           (tests/property/test_values_order.py)
Use:       all keys that begin with the encodings p lie in [p, after(p)); END is above every key of an index
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any, Final

from cellstore.errors import ValidationError
from cellstore.values.value import INT_MAX, INT_MIN, KINDS, MISSING, Sentinel

END: Final = b"\xff" * 17
"""Above every key of every index: longer than an id of all ones, and no tag begins with 0xFF."""

_TAGGED = struct.Struct(">Bd")
_PLAIN = struct.Struct(">d")
_EXACT = 1 << 53
_EXACT_FLOAT = float(_EXACT)
_NUMBER, _NAN = 0x05, 0x06
_NUMBER_TAG = bytes([_NUMBER])
_FLIPPED = bytes(range(255, -1, -1))
_NOTHING_LEFT = b"\0\0"

Encoder = Callable[[Any], bytes]


def encode_value(value: Any) -> bytes:
    """The bytes of one value (or MISSING). Errors: ValidationError for what is not a value."""
    return _encoders[type(value)](value)


def encode_key(values: Iterable[Any], creation_time: float, internal: bytes) -> bytes:
    """The key of a document in an index: its field values (MISSING where absent), creation time in ms, 16 id bytes."""
    encoders = _encoders
    return b"".join([*[encoders[type(v)](v) for v in values], _encode_float(creation_time), internal])


def encode_prefix(values: Iterable[Any]) -> bytes:
    """The bytes every key whose first fields equal `values` begins with."""
    return b"".join([_encoders[type(v)](v) for v in values])


def after(prefix: bytes) -> bytes:
    """Above every key that begins with the encodings `prefix`, below every other key that is above them."""
    return prefix + END


def _encode_float(value: float) -> bytes:
    if -_EXACT_FLOAT < value < _EXACT_FLOAT:
        if value >= 0.0:
            # the sign bit of -x is set and the rest is that of x: just the form wanted, -0.0 included
            return _TAGGED.pack(_NUMBER, -(value + 0.0))
        return _NUMBER_TAG + _PLAIN.pack(value).translate(_FLIPPED)
    if value != value:
        return b"\x06"
    return _encode_large(value, 0)


def _encode_int(value: int) -> bytes:
    if -_EXACT < value < _EXACT:
        return _encode_float(float(value))
    if not INT_MIN <= value <= INT_MAX:
        raise ValidationError(expected="an integer of 64 bits", got=f"{value:.3e}")
    below = float(value)
    if below > value:
        below = _double_below(below)
    return _encode_large(below, value - int(below))


def _encode_large(double: float, left: int) -> bytes:
    body = _PLAIN.pack(-double) if double > 0 else _PLAIN.pack(double).translate(_FLIPPED)
    return _NUMBER_TAG + body + (left.to_bytes(2, "big") if left else _NOTHING_LEFT)


def _double_below(double: float) -> float:
    bits = int.from_bytes(_PLAIN.pack(double), "big")
    return float(_PLAIN.unpack((bits - 1 if double > 0 else bits + 1).to_bytes(8, "big"))[0])


def _encode_str(value: str) -> bytes:
    body = value.encode()
    if b"\0" in body:
        body = body.replace(b"\0", b"\0\xff")
    return b"\x0b" + body + b"\0\x01"


def _encode_bytes(value: bytes) -> bytes:
    return b"\x0c" + value.replace(b"\0", b"\0\xff") + b"\0\x01"


def _encode_list(value: list[Any]) -> bytes:
    return b"".join([b"\x0e", *[_encoders[type(item)](item) for item in value], b"\0"])


def _encode_dict(value: dict[str, Any]) -> bytes:
    parts = [part for name in sorted(value) for part in (_encode_str(name), encode_value(value[name]))]
    return b"".join([b"\x0f", *parts, b"\0"])


def _encode_sentinel(value: Sentinel) -> bytes:
    if value is MISSING:
        return b"\x01"
    raise ValidationError(expected="a value", got=repr(value))


class _Encoders(dict[type, Encoder]):
    """Python type to its encoder; learns subclasses (ids, documents) as they come."""

    def __missing__(self, kind: type) -> Encoder:
        stored = KINDS[kind]
        if stored is None:
            raise ValidationError(expected="a value", got=f"a {kind.__name__}")
        encoder = self[kind] = self[stored]
        return encoder


_encoders = _Encoders(
    {
        Sentinel: _encode_sentinel,
        type(None): lambda _: b"\x02",
        bool: lambda value: b"\x09" if value else b"\x08",
        int: _encode_int,
        float: _encode_float,
        str: _encode_str,
        bytes: _encode_bytes,
        list: _encode_list,
        dict: _encode_dict,
    }
)
