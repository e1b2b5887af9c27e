"""The one total order over all values.

    missing < None < numbers < False < True < str < bytes < list < dict

    numbers   int and float by exact value: 1 = 1.0, 2^53 < 2^53 + 1; -0.0 = 0.0; NaN above all, equal to itself
    str       by code point, which is the order of the UTF-8 bytes
    list      item by item, a prefix before what it begins
    dict      as the list of its (name, value) pairs, sorted by name

Equal in this order is coarser than `values.value.same`: 1 and 1.0 tie here and are two stored values.
Indexes, range bounds, filters and sorting all follow it; `values.index_key` writes it down in bytes.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

from cellstore.errors import ValidationError
from cellstore.values.index_key import encode_value
from cellstore.values.value import MISSING, kind_of

_RANKS: dict[type | None, int] = {type(None): 1, int: 2, float: 2, bool: 3, str: 4, bytes: 5, list: 6, dict: 7}
_END = object()


def compare(a: Any, b: Any) -> int:
    """-1, 0 or 1. Exact, and independent of the key encoding (each is the other's test)."""
    rank_a, rank_b = _rank(a), _rank(b)
    if rank_a != rank_b:
        return -1 if rank_a < rank_b else 1
    if rank_a <= 1:
        return 0
    if rank_a == 6:
        return _compare_sequences(a, b)
    if rank_a == 7:
        return _compare_sequences(_flat(a), _flat(b))
    if rank_a == 2 and (a != a or b != b):
        return int(a != a) - int(b != b)
    return int(a > b) - int(a < b)


def sort_key(value: Any) -> bytes:
    """A key for `sorted`: the bytes an index would use."""
    return encode_value(value)


def _rank(value: object) -> int:
    if value is MISSING:
        return 0
    rank = _RANKS.get(kind_of(value))
    if rank is None:
        raise ValidationError(expected="a value", got=f"{type(value).__name__} {value!r:.60}")
    return rank


def _flat(fields: dict[str, Any]) -> list[Any]:
    return [part for name in sorted(fields) for part in (name, fields[name])]


def _compare_sequences(a: list[Any], b: list[Any]) -> int:
    for left, right in zip_longest(a, b, fillvalue=_END):
        if left is _END or right is _END:
            return -1 if left is _END else 1
        found = compare(left, right)
        if found:
            return found
    return 0
