"""Writes held back: documents as they would be, over the documents as they are.

A `Layer` maps ids to pending documents and can be read in the order of any index. A transaction's own writes are one
(`WriteSet`), the lane's not yet durable writes are another (`overlay.Overlay`). A read looks through the layers from the
top; a document in a layer hides the one below it.

Several writes to one document are one write at commit. A document that ends where it began is no write at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from sortedcontainers import SortedDict

from cellstore.storage.contract import DocWrite


@dataclass(slots=True)
class Pending:
    """A document in a layer. `body` is native JSON without `_id`, None once deleted; `keys` is then empty."""

    table: int
    id: bytes
    body: bytes | None
    keys: Mapping[int, bytes]  # every index but by_id
    since: int  # when this document entered the layer, by the layer's own count of writes or commits
    base_body: bytes | None = None  # what the layers below hold
    base_keys: Mapping[int, bytes] = field(default_factory=dict)


KeyOf = Callable[[int, int, Pending], bytes | None]
"""(index, table, pending document) to a key of it."""


class Layer:
    """Pending documents by table and id, and by key in the indexes somebody scanned.

    Cost       an ordered view of an index is built at its first scan, then kept up with each change: O(log n). So is one of
               where the documents below stand that this layer hides, at the first count
    Invariant  an id is in an index's view exactly when its pending document is not deleted
    """

    __slots__ = ("_views", "tables")

    def __init__(self) -> None:
        self.tables: dict[int, dict[bytes, Pending]] = {}
        self._views: dict[tuple[int, KeyOf], tuple[int, SortedDict]] = {}

    def get(self, table: int, id: bytes) -> Pending | None:
        """The pending state of a document; None when this layer says nothing about it."""
        documents = self.tables.get(table)
        return None if documents is None else documents.get(id)

    def put(self, pending: Pending) -> Pending | None:
        """Set a document's pending state; the one before."""
        documents = self.tables.setdefault(pending.table, {})
        before = documents.get(pending.id)
        documents[pending.id] = pending
        if self._views:
            self._move(pending.table, pending.id, before, pending)
        return before

    def discard(self, table: int, id: bytes) -> None:
        """Say nothing about a document any more."""
        before = self.tables[table].pop(id, None)
        if not self.tables[table]:
            del self.tables[table]
        if self._views and before is not None:
            self._move(table, id, before, None)

    def span(self, index: int, table: int, lo: bytes, hi: bytes) -> list[tuple[bytes, bytes]]:
        """(key, id) of the pending documents in [lo, hi), ascending."""
        documents = self.tables.get(table)
        if not documents:
            return []
        view = self._view(index, table, documents, _key)
        return [(key, view[key]) for key in view.irange(lo, hi, inclusive=(True, False))]

    def gain(self, index: int, table: int, lo: bytes, hi: bytes) -> int:
        """By how many more documents [lo, hi) has through this layer than what is below it has there.

        Of a transaction's own writes only: the lane's do not know what is below them.
        """
        documents = self.tables.get(table)
        if not documents:
            return 0
        mine, below = (self._view(index, table, documents, key_of) for key_of in (_key, _key_below))
        return sum(sign * (view.bisect_left(hi) - view.bisect_left(lo)) for sign, view in ((1, mine), (-1, below)))

    def __iter__(self) -> Iterator[Pending]:
        for documents in self.tables.values():
            yield from documents.values()

    def _view(self, index: int, table: int, documents: dict[bytes, Pending], key_of: KeyOf) -> SortedDict:
        found = self._views.get((index, key_of))
        if found is None:
            keyed = ((key_of(index, table, pending), id) for id, pending in documents.items())
            view = SortedDict((key, id) for key, id in keyed if key is not None)
            found = self._views[index, key_of] = table, view
        return found[1]

    def _move(self, table: int, id: bytes, before: Pending | None, after: Pending | None) -> None:
        for (index, key_of), (of_table, view) in self._views.items():
            if of_table != table:
                continue
            left = None if before is None else key_of(index, table, before)
            entered = None if after is None else key_of(index, table, after)
            if left != entered:
                if left is not None:
                    view.pop(left, None)
                if entered is not None:
                    view[entered] = id


def _key(index: int, table: int, pending: Pending) -> bytes | None:
    """Where a pending document stands in an index; None once deleted, or if it was written before the index was."""
    if index == 2 * table:
        return None if pending.body is None else pending.id
    return pending.keys.get(index)


def _key_below(index: int, table: int, pending: Pending) -> bytes | None:
    """Where the document below a pending one stands; None where there is none."""
    if index == 2 * table:
        return None if pending.base_body is None else pending.id
    return pending.base_keys.get(index)


class WriteSet(Layer):
    """One transaction's own writes, with savepoints.

    Order   savepoints nest: release or roll back the newest first
    """

    __slots__ = ("_undo", "writes")

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0  # counts every write, also to one document twice, also those rolled back
        self._undo: list[tuple[int, bytes, Pending | None]] = []

    def record(self, pending: Pending) -> None:
        """One write."""
        self.writes += 1
        before = self.put(pending)
        self._undo.append((pending.table, pending.id, before))

    @property
    def mark(self) -> int:
        """A point to roll back to."""
        return len(self._undo)

    def roll_back(self, mark: int) -> None:
        """Undo every write since `mark`."""
        while len(self._undo) > mark:
            table, id, before = self._undo.pop()
            if before is None:
                self.discard(table, id)
            else:
                self.put(before)

    def freeze(self) -> list[DocWrite]:
        """The writes as they are to be committed: definitions first, then in the order of first writes."""
        changed = [pending for pending in self if pending.body != pending.base_body]
        if len(changed) > 1:
            changed.sort(key=_definitions_first)
        return [doc_write(pending) for pending in changed]


def _definitions_first(pending: Pending) -> tuple[bool, int]:
    return pending.table not in (512, 513), pending.since


def doc_write(pending: Pending) -> DocWrite:
    """A pending document as one write, with its old and new key in every index."""
    old, new = pending.base_keys, pending.keys
    if pending.base_body is None:
        keys: list[tuple[int, bytes | None, bytes | None]] = [(index, None, key) for index, key in new.items()]
        return DocWrite(pending.table, pending.id, pending.body, "insert", keys)
    if pending.body is None:
        keys = [(index, key, None) for index, key in old.items()]
        return DocWrite(pending.table, pending.id, None, "delete", keys)
    keys = [(index, old.get(index), key) for index, key in new.items()]
    return DocWrite(pending.table, pending.id, pending.body, "update", keys)
