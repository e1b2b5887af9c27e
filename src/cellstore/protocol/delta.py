"""Two lists of rows, one after the other: what to tell somebody who holds the first.

    [A, B, C, D]  ──▶  [A, C, X, D]        splices  [[1, 1, []], [3, 0, [X]]]     places are those of the first list

A result is JSON text that nobody on the host decodes. Its rows are cut out once, and from then on only the part between
the common beginning and the common end of two texts is looked at, so a row that changed among ten thousand costs a
comparison of bytes. What stayed in order is found as the longest common rising subsequence, exact where rows differ
from each other, as documents do.

Invariant: `spliced(old, splices(old, new)) == new`; a text whose rows cannot be told apart with certainty has none
Cost:      linear in the bytes of the texts, with memcmp's constant; O(n log n) in the rows of the part that differs
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import orjson

from cellstore.values.json import snug

Rows = list[bytes]
Splice = tuple[int, int, Sequence[Any]]
"""From this place of the old list on, so many rows give way to these."""

_STRIDE = 1 << 16


def rows_of(text: bytes) -> Rows | None:
    """The elements of a JSON array, each as its text; None when `text` is no array written without white space."""
    if not text.startswith(b"["):
        return None
    rows = [snug(orjson.dumps(row)) for row in orjson.loads(text)]
    return rows if b"[%b]" % b",".join(rows) == text else None


def next_rows(rows: Rows, old: bytes, new: bytes) -> Rows | None:
    """`rows_of(new)`, where `rows` are those of `old`: the rows at the common beginning and end are taken over."""
    if not new.startswith(b"["):
        return None
    starts = list(accumulate((len(row) + 1 for row in rows), initial=1))  # of each row, and of one behind the last
    head = _common_head(old, new)
    tail = _common_tail(old, new, min(len(old), len(new)) - head)
    first = bisect_right(starts, head) - 1  # rows before it are there with the sign behind them
    last = max(first, bisect_left(starts, len(old) - tail + 1))  # rows from it on, with the sign before them
    if last >= len(rows):
        last, behind = len(rows), 1
    else:
        behind = len(old) - (starts[last] - 1)
    middle = rows_of(b"[%b]" % new[starts[first] : len(new) - behind])
    if middle is None:
        return None
    found = [*rows[:first], *middle, *rows[last:]]
    return found if sum(map(len, found)) + max(len(found), 1) + 1 == len(new) else rows_of(new)


def splices(old: Sequence[Any], new: Sequence[Any]) -> list[Splice]:
    """How to come from `old` to `new`, by rising places."""
    head = 0
    shorter = min(len(old), len(new))
    while head < shorter and old[head] == new[head]:
        head += 1
    tail = 0
    while tail < shorter - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    found: list[Splice] = []
    i = j = head
    ends = (len(old) - tail, len(new) - tail)
    for kept_i, kept_j in [*_kept(old, new, head, ends), ends]:
        if kept_i > i or kept_j > j:
            found.append((i, kept_i - i, new[j:kept_j]))
        i, j = kept_i + 1, kept_j + 1
    return found


def spliced(old: Sequence[Any], changes: Sequence[Splice]) -> list[Any]:
    """`old` with the changes made. Errors: ValueError when they do not fit."""
    made: list[Any] = []
    at = 0
    for place, removed, rows in changes:
        if not at <= place <= place + removed <= len(old):
            raise ValueError(f"a change at row {place} does not fit a list of {len(old)} rows")
        made += old[at:place]
        made += rows
        at = place + removed
    made += old[at:]
    return made


def encoded(changes: Sequence[Splice]) -> bytes:
    """The changes of texts, as JSON."""
    parts = (b"[%d,%d,[%b]]" % (place, removed, b",".join(rows)) for place, removed, rows in changes)
    return b"[%b]" % b",".join(parts)


def _kept(old: Sequence[Any], new: Sequence[Any], head: int, ends: tuple[int, int]) -> list[tuple[int, int]]:
    """Which rows of the differing parts stay: pairs of places, rising in both, as many as there can be."""
    places = {old[i]: i for i in range(head, ends[0])}
    pairs = [(places[new[j]], j) for j in range(head, ends[1]) if new[j] in places]
    tops: list[int] = []  # the lowest old place that ends a rising run of each length
    links: list[tuple[int, int]] = []  # of each pair: its position in a run, and the pair before it
    holders: list[int] = []  # which pair holds each top
    for number, (i, _) in enumerate(pairs):
        length = bisect_left(tops, i)
        links.append((length, holders[length - 1] if length else -1))
        tops[length : length + 1] = [i]
        holders[length : length + 1] = [number]
    chain: list[tuple[int, int]] = []
    number = holders[-1] if holders else -1
    while number >= 0:
        chain.append(pairs[number])
        number = links[number][1]
    return chain[::-1]


def _common_head(a: bytes, b: bytes) -> int:
    """How many bytes both begin with."""
    at, end = 0, min(len(a), len(b))
    while at < end and a[at : at + _STRIDE] == b[at : at + _STRIDE]:
        at += _STRIDE
    if at >= end:
        return end
    low, high = at, min(at + _STRIDE, end)  # they agree before low, and differ before high or end there
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _common_tail(a: bytes, b: bytes, most: int) -> int:
    """How many bytes both end with, `most` at most."""
    length = 0
    while length < most:
        step = min(_STRIDE, most - length)
        if not _same_tail(a, b, length, length + step):
            break
        length += step
    low, high = length, min(length + _STRIDE, most)
    while low < high:
        middle = (low + high + 1) // 2
        if _same_tail(a, b, low, middle):
            low = middle
        else:
            high = middle - 1
    return low


def _same_tail(a: bytes, b: bytes, near: int, far: int) -> bool:
    return a[len(a) - far : len(a) - near] == b[len(b) - far : len(b) - near]
