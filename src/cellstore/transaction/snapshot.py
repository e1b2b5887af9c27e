"""The database below a transaction's own writes: a storage view at one moment, and the lane's overlay on it."""

from __future__ import annotations

from dataclasses import dataclass, field

from cellstore.storage.contract import Reader, Row
from cellstore.transaction.overlay import Overlay
from cellstore.transaction.write_set import Pending

_ROWS_KEPT = 4096


@dataclass(slots=True)
class Snapshot:
    """One moment, immutable while a transaction runs.

    Shape   `at` is None for the newest state the reader's view holds, else an earlier timestamp
    Cost    a document read once is not read again (up to a few thousand are kept as bytes)
    """

    reader: Reader
    at: int | None = None
    overlay: Overlay | None = None
    _rows: dict[tuple[int, bytes], Row | None] = field(default_factory=dict)

    def pending(self, table: int, id: bytes) -> Pending | None:
        """What the overlay says about a document, if anything."""
        return None if self.overlay is None else self.overlay.get(table, id)

    def body(self, table: int, id: bytes) -> bytes | None:
        """A document's bytes, or None when there is none."""
        pending = self.pending(table, id)
        if pending is not None:
            return pending.body
        row = self.row(table, id)
        return None if row is None else row.body

    def row(self, table: int, id: bytes) -> Row | None:
        """A document as the storage has it."""
        place = (table, id)
        if place in self._rows:
            return self._rows[place]
        row = self.reader.get(table, id, self.at)
        if len(self._rows) < _ROWS_KEPT:
            self._rows[place] = row
        return row

    def rows(self, index: int, table: int, lo: bytes, hi: bytes, descending: bool, limit: int) -> list[Row]:
        """Up to `limit` stored documents in index order."""
        found = list(self.reader.scan(index, table, lo, hi, ts=self.at, descending=descending, limit=limit))
        rows = self._rows
        if len(rows) < _ROWS_KEPT:
            for row in found:
                rows[table, row.id] = row
        return found
