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
    _rows: dict[int, dict[bytes, Row | None]] = field(default_factory=dict)  # by table, by id

    def pending(self, table: int, id: bytes) -> Pending | None:
        """What the overlay says about a document, if anything."""
        overlay = self.overlay
        if overlay is None or table not in overlay.tables:
            return None
        return overlay.tables[table].get(id)

    def row(self, table: int, id: bytes) -> Row | None:
        """A document as the storage has it."""
        rows = self._rows.get(table)
        if rows is None:
            rows = self._rows[table] = {}
        elif id in rows:
            return rows[id]
        row = self.reader.get(table, id, self.at)
        if len(rows) < _ROWS_KEPT:
            rows[id] = row
        return row

    def rows(self, index: int, table: int, lo: bytes, hi: bytes, descending: bool, limit: int) -> list[Row]:
        """Up to `limit` stored documents in index order."""
        found = list(self.reader.scan(index, table, lo, hi, ts=self.at, descending=descending, limit=limit))
        kept = self._rows.setdefault(table, {})
        if len(kept) < _ROWS_KEPT:
            kept.update((row.id, row) for row in found)
        return found
