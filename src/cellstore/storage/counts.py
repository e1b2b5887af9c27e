"""How many entries an index holds between two keys, without walking them: a counted B+ tree beside each index.

Each index is cut into *buckets* of some hundred entries; buckets are gathered by the dozen into wider ones, and those
again, until one is left. A bucket begins at its key and ends where the next of its level begins; the first begins at the
empty key. A row per bucket says how much each bucket inside it holds, and is changed in the transaction that changes the
entries. A count adds up the widest buckets that fit and walks only the two ragged ends.

    level 2   ├─ [40210, 38977] ─────────────────────────────────────────────────────┤
    level 1   ├─ [310, 402, …, 288, …] ──────────┼─ [377, 295, …, 301] ──────────────┤
    level 0   ├───────┼───────┼─ … ─┼───────┼─ … ┼───────┼───────┼─ … ───────┼───────┤
    entries     · · ·   · ·[· ·  ·  ·   · ·   ·    ·  · ·  ·)· · ·   · ·       · · ·

Rows       (level, index, key, n): `n` holds the counts of the buckets inside, 4 bytes little-endian each, in key order.
           Level 0 holds entries and no buckets: its rows only say where a bucket begins, and change when one is cut or
           joined. So a write changes a short row on each level above, and few pages hold them all.
Uncounted  what came and went most recently waits in a short table and is counted in many at a time: a commit that inserts
           one document then costs a few appended rows instead of a path through each of its indexes' trees
Writer     `Ledger`, in the one process that writes, keeps the trees it has touched in memory: a bisection per entry
Reader     `Counter`, statements over the rows; any process
Cost       of a count: two paths through the levels, two buckets of entries, and what is uncounted: O(log n)
Invariant  the buckets of a level cut the whole index without gaps; a bucket begins where its first one inside does; counts
           and uncounted are exact together; none holds more than LEAF_MAX entries or FANOUT buckets (`check` proves all of it)
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import apsw

from cellstore.errors import InvariantError
from cellstore.storage import sql
from cellstore.storage.contract import by_id_index, table_of_by_id
from cellstore.storage.plan import Plan

LEAF_MAX = 512  # entries of a bucket: the ragged ends of a count are walked, 50 ns each
FANOUT = 128  # buckets of the bucket above, four at least
WAITING_MAX = 512  # entries uncounted: every count looks through them, in 20 µs at most
LEVELS_MAX = 6  # enough for more entries than a file can hold
_WHOLE = b"\xff" * 17  # above every key

Row = tuple[int, int, bytes, bytes | None]  # level, index, key, n
Change = tuple[int, bytes, int]  # index, key, +1 or -1


@dataclass(slots=True)
class _Level:
    """The buckets of one level: where each begins and what it holds."""

    keys: list[bytes]
    n: array[int]

    def holding(self, key: bytes) -> int:
        """The position of the bucket a key is in."""
        return bisect_right(self.keys, key) - 1


@dataclass(slots=True)
class _Tree:
    """The buckets of one index. The highest level has one."""

    index: int
    levels: list[_Level]
    changed: set[tuple[int, bytes]] = field(default_factory=set)  # (level, key) of rows to write
    gone: set[tuple[int, bytes]] = field(default_factory=set)

    @property
    def total(self) -> int:
        """How many entries the index has."""
        return self.levels[-1].n[0]

    def add(self, changes: Iterable[Change]) -> list[int]:
        """Count entries in and out, on every level; the positions of the leaves that are too large or small now."""
        leaves = self.levels[0]
        keys, moved = leaves.keys, dict[int, int]()
        for _, key, by in changes:
            at = bisect_right(keys, key) - 1
            moved[at] = moved.get(at, 0) + by
        unfit = []
        moved = {at: by for at, by in moved.items() if by}
        for at, by in moved.items():
            n = leaves.n[at] + by
            if n < 0:
                raise InvariantError(f"more entries leave index {self.index} than were counted in it: run the check")
            leaves.n[at] = n
            if n > LEAF_MAX or n <= LEAF_MAX >> 2:
                unfit.append(at)
        for number in range(1, len(self.levels)):
            moved = self._carry(number, moved)
        return unfit

    def _carry(self, number: int, moved: dict[int, int]) -> dict[int, int]:
        """Tell a level what has `moved` in the buckets of the level below; what moved in its own."""
        level, below, carried = self.levels[number], self.levels[number - 1].keys, dict[int, int]()
        for at, by in moved.items():
            holding = bisect_right(level.keys, below[at]) - 1
            carried[holding] = carried.get(holding, 0) + by
        for at, by in carried.items():
            level.n[at] += by
            self.changed.add((number, level.keys[at]))
        return carried

    def settle(self, unfit: list[int], cursor: apsw.Cursor) -> None:
        """Cut leaves that are too large, join those that are too small, then the buckets above them."""
        number = 0
        while unfit:
            level = self.levels[number]
            keys = [level.keys[at] for at in unfit]
            for at in sorted(unfit, reverse=True):  # from the right, so that positions to the left stay
                if self._weight(number, at) > _largest(number):
                    self._cut(number, at, cursor)
                else:
                    self._join(number, at)
            number += 1
            if number == len(self.levels):
                if len(level.keys) == 1:
                    break
                self.levels.append(_Level([b""], array("I", [sum(level.n)])))
                self._mark(number, b"")
            parents = {self.levels[number].holding(key) for key in keys}
            unfit = [at for at in parents if not FANOUT >> 2 < self._weight(number, at) <= FANOUT]
        while len(self.levels) > 2 and len(self.levels[-2].keys) == 1:
            self.levels.pop()
            self._lose(len(self.levels), b"")

    def _weight(self, number: int, at: int) -> int:
        """How full a bucket is: entries on the lowest level, buckets above it."""
        return self.levels[0].n[at] if number == 0 else len(self._inside(number, at))

    def _inside(self, number: int, at: int) -> range:
        """The positions, a level down, of the buckets in this one."""
        keys, below = self.levels[number].keys, self.levels[number - 1].keys
        stop = bisect_left(below, keys[at + 1]) if at + 1 < len(keys) else len(below)
        return range(bisect_left(below, keys[at]), stop)

    def _cut(self, number: int, at: int, cursor: apsw.Cursor) -> None:
        """Replace a bucket by several of about two thirds of the largest size."""
        level, weight = self.levels[number], self._weight(number, at)
        pieces = max(2, weight // (_largest(number) * 2 // 3))
        ends = [weight * piece // pieces for piece in range(pieces + 1)]
        if number == 0:
            keys = [level.keys[at]]
            for start, end in pairwise(ends[:-1]):
                keys.append(_key_after(cursor, self.index, keys[-1], end - start))
            counts = [end - start for start, end in pairwise(ends)]
        else:
            first, below = self._inside(number, at).start, self.levels[number - 1]
            keys = [below.keys[first + start] for start in ends[:-1]]
            counts = [sum(below.n[first + a : first + b]) for a, b in pairwise(ends)]
        level.keys[at : at + 1] = keys
        level.n[at : at + 1] = array("I", counts)
        for key in keys:
            self._mark(number, key)

    def _join(self, number: int, at: int) -> None:
        """Add a bucket to a neighbour inside the same wider bucket, if the two are not too large together."""
        level = self.levels[number]
        for left in (at - 1, at):
            right = left + 1
            if left < 0 or right >= len(level.keys) or self._begins_above(number, level.keys[right]):
                continue
            if self._weight(number, left) + self._weight(number, right) <= _largest(number) * 3 // 4:
                self._lose(number, level.keys.pop(right))
                level.n[left] += level.n.pop(right)
                self._mark(number, level.keys[left])
                return

    def _begins_above(self, number: int, key: bytes) -> bool:
        """Whether the bucket above begins at this key too."""
        above = self.levels[number + 1]
        return above.keys[above.holding(key)] == key

    def _mark(self, number: int, key: bytes) -> None:
        """A bucket's row, and the one above that counts it, are to be written."""
        self.changed.add((number, key))
        self.gone.discard((number, key))
        if number + 1 < len(self.levels):
            above = self.levels[number + 1]
            self.changed.add((number + 1, above.keys[above.holding(key)]))

    def _lose(self, number: int, key: bytes) -> None:
        self.gone.add((number, key))
        self.changed.discard((number, key))

    def rows(self) -> Iterator[Row]:
        """The rows to write."""
        for number, key in self.changed:
            n = None
            if number:
                inside = self._inside(number, self.levels[number].holding(key))
                n = _packed(self.levels[number - 1].n[inside.start : inside.stop])
            yield number, self.index, key, n

    def all_rows(self) -> Iterator[tuple[int, int, bytes]]:
        """(level, index, key) of every row there is."""
        return ((number, self.index, key) for number, level in enumerate(self.levels) for key in level.keys)


class Ledger:
    """The writer's side: what a group of commits does to the counts.

    Order   inside the transaction that writes the entries, after they are written. When that is rolled back, `forget`
    """

    def __init__(self) -> None:
        self._trees: dict[int, _Tree] = {}
        self._waiting: list[Change] | None = None  # what is uncounted; None: look

    def forget(self) -> None:
        """Believe only what is stored: the transaction came to nothing."""
        self._trees.clear()
        self._waiting = None

    def apply(self, cursor: apsw.Cursor, rows: Plan, missing: set[tuple[int, bytes]]) -> None:
        """Note what a group of commits adds and takes. `missing`: entries it took away that had not been there."""
        changes = [(index, key, 1) for index, key, _ in rows.entries_new]
        changes += [(by_id_index(table), id, 1) for table, id, _, _ in rows.docs_new]
        changes += [(index, key, -1) for index, key in rows.entries_gone if (index, key) not in missing]
        changes += [(by_id_index(table), id, -1) for table, id in rows.docs_gone]
        self.note(cursor, changes)

    def note(self, cursor: apsw.Cursor, changes: list[Change]) -> None:
        """Entries came and went. They wait until there are enough to count."""
        if self._waiting is None:
            self._waiting = list(cursor.execute(sql.UNCOUNTED))
        if len(self._waiting) + len(changes) <= WAITING_MAX:
            cursor.executemany(sql.UNCOUNTED_NEW, changes)
            self._waiting += changes
            return
        by_index: dict[int, list[Change]] = {}
        for change in (*self._waiting, *changes):
            by_index.setdefault(change[0], []).append(change)
        for index, each in by_index.items():
            self._count(cursor, index, each)
        if self._waiting:
            cursor.execute(sql.UNCOUNTED_GONE)
            self._waiting = []

    def _count(self, cursor: apsw.Cursor, index: int, changes: list[Change]) -> None:
        tree = self._trees.get(index)
        if tree is None:
            tree = self._trees[index] = _load(cursor, index)
        unfit = tree.add(changes)
        if tree.total == 0:  # an empty index leaves nothing behind
            cursor.executemany(sql.COUNT_GONE, list(tree.all_rows()))
            del self._trees[index]
            return
        if unfit:
            tree.settle(unfit, cursor)
        if tree.gone:
            cursor.executemany(sql.COUNT_GONE, [(number, index, key) for number, key in tree.gone])
            tree.gone.clear()
        cursor.executemany(sql.COUNT_SET, list(tree.rows()))
        tree.changed.clear()


def rebuild(cursor: apsw.Cursor) -> None:
    """Count everything: for a store that was written before there were counts."""
    ledger = Ledger()
    for index in _integers(cursor, sql.COUNTED_INDEXES):
        table = table_of_by_id(index)
        what = (sql.ALL_ENTRIES, (index,)) if table is None else (sql.ALL_IDS, (table,))
        ledger.note(cursor, [(index, key, 1) for key in _first_column(cursor.execute(*what))])


def verify(cursor: apsw.Cursor) -> Iterator[str]:
    """A sentence for each invariant of the counts that is broken."""
    for index in sorted({*_integers(cursor, sql.COUNT_INDEXES), *_integers(cursor, sql.COUNTED_INDEXES)}):
        try:
            tree = _load(cursor, index)
        except ValueError as error:
            yield f"index {index}: its counts do not fit together: {error}"
            continue
        yield from _verify(cursor, tree)


def _verify(cursor: apsw.Cursor, tree: _Tree) -> Iterator[str]:
    of_index, leaves = f"index {tree.index}", tree.levels[0]
    for number, level in enumerate(tree.levels):
        if level.keys[0] != b"":
            yield f"{of_index}, level {number}: the first count begins at {level.keys[0].hex()}, not at the beginning"
        for at, key in enumerate(level.keys):
            if number and key not in tree.levels[number - 1].keys:
                yield f"{of_index}, level {number}: the count from {key.hex()} on begins where none below it does"
            if tree._weight(number, at) > _largest(number):
                yield f"{of_index}, level {number}: the count from {key.hex()} on covers more than it may"
            if number and sum(tree.levels[number - 1].n[i] for i in tree._inside(number, at)) != level.n[at]:
                yield f"{of_index}, level {number}: the counts below {key.hex()} do not add up to {level.n[at]}"
    counter = Counter(cursor)
    for at, (key, n) in enumerate(zip(leaves.keys, leaves.n, strict=True)):
        stop = leaves.keys[at + 1] if at + 1 < len(leaves.keys) else _WHOLE
        told, there = n + counter.uncounted(tree.index, key, stop), counter.walk(tree.index, key, stop)
        if there != told:
            yield f"{of_index}: {told} entries were counted from {key.hex()} on, and {there} are there"


def _integers(cursor: apsw.Cursor, statement: str) -> list[int]:
    return _first_column(cursor.execute(statement))


def _first_column(rows: Iterable[Any]) -> list[Any]:
    return [value for (value, *_) in rows]


def _largest(number: int) -> int:
    return FANOUT if number else LEAF_MAX


def _load(cursor: apsw.Cursor, index: int) -> _Tree:
    """The tree as it is stored; a new one if there is none. Errors: ValueError where rows are missing."""
    levels: list[_Level] = []
    for number in range(LEVELS_MAX + 1):
        rows: list[Any] = cursor.execute(sql.COUNT_LEVEL, (number, index)).fetchall()
        if not rows:
            break
        if number:
            n = _unpacked(b"".join(packed or b"" for _, packed in rows))
            if len(n) != len(levels[-1].keys):
                raise ValueError(f"level {number} counts {len(n)} buckets, there are {len(levels[-1].keys)}")
            levels[-1].n = n
        levels.append(_Level([key for key, _ in rows], array("I")))
    if not levels:
        tree = _Tree(index, [_Level([b""], array("I", [0])), _Level([b""], array("I", [0]))])
        tree._mark(0, b"")
        return tree
    if len(levels) == 1 or len(levels[-1].keys) != 1:
        raise ValueError(f"level {len(levels) - 1} is the highest and has {len(levels[-1].keys)} buckets")
    levels[-1].n = array("I", [sum(levels[-2].n)])
    return _Tree(index, levels)


def _packed(n: array[int]) -> bytes:
    if sys.byteorder == "big":
        n = array("I", n)
        n.byteswap()
    return n.tobytes()


def _unpacked(packed: bytes) -> array[int]:
    n = array("I", packed)
    if sys.byteorder == "big":
        n.byteswap()
    return n


def _key_after(cursor: apsw.Cursor, index: int, key: bytes, count: int) -> bytes:
    """The key `count` entries after the first one at or after `key`."""
    table = table_of_by_id(index)
    statement, of = (sql.NTH_ENTRY, index) if table is None else (sql.NTH_ID, table)
    found = cursor.execute(statement, (of, key, count)).get
    if not isinstance(found, bytes):
        raise InvariantError(f"index {index} has fewer entries after {key.hex()} than were counted: run the check")
    return found


# ── the reader's side ─────────────────────────────────────────────────────────────────────────────────────────────────


class Counter:
    """Counts within one view of a connection."""

    __slots__ = ("_cursor",)

    def __init__(self, cursor: apsw.Cursor) -> None:
        self._cursor = cursor

    def count(self, index: int, lo: bytes, hi: bytes) -> int:
        """How many entries lie in [lo, hi)."""
        if lo or hi < _WHOLE:
            walked = self.walk(index, lo, hi, LEAF_MAX)
            if walked < LEAF_MAX:
                return walked
        root = self._cursor.execute(sql.COUNT_ROOT, (LEVELS_MAX, index)).get
        if root is None:
            return self.uncounted(index, b"", _WHOLE) if lo == b"" and hi >= _WHOLE else self.walk(index, lo, hi)
        upto, stop = (sum(_unpacked(root[1])), _WHOLE) if hi >= _WHOLE else self._leaf(index, hi, *root)
        before, start = self._leaf(index, lo, *root) if lo else (0, b"")
        counted = upto - before + self.uncounted(index, start, stop)
        return counted + self.walk(index, stop, hi) - self.walk(index, start, lo)

    def walk(self, index: int, lo: bytes, hi: bytes, limit: int = -1) -> int:
        """The same, one by one, and no further than `limit`."""
        table = table_of_by_id(index)
        statement, of = (sql.COUNT, index) if table is None else (sql.COUNT_IDS, table)
        return int(self._cursor.execute(statement, (of, lo, hi, limit)).get)

    def uncounted(self, index: int, lo: bytes, hi: bytes) -> int:
        """By how much the counts have to be corrected."""
        return int(self._cursor.execute(sql.UNCOUNTED_SUM, (index, lo, hi)).get)

    def _leaf(self, index: int, key: bytes, level: int, packed: bytes) -> tuple[int, bytes]:
        """From the root down to the leaf a key is in: how many entries were counted before it, and where it begins."""
        below, begin = 0, b""
        while level:
            level -= 1
            ahead, begin = self._cursor.execute(sql.COUNT_BEGIN, (level, index, begin, key)).get
            below += sum(_unpacked(packed)[: ahead - 1])
            if level:
                packed = self._cursor.execute(sql.COUNT_OF, (level, index, begin)).get
        return below, begin
