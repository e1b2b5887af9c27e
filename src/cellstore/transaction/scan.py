"""Walking an index through the layers: stored documents, the lane's pending ones, the transaction's own.

Which documents a walk meets and in which order is settled at its first pull; what they contain is current at each pull,
and a document deleted meanwhile is skipped. So a loop may write what it walks over without meeting a document twice.

Stored documents are fetched in chunks that grow, exactly as many as wanted where that is known. Fetching ahead is not
reading: whoever consumes the walk records what was handed out.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any, NamedTuple

from cellstore.storage.contract import Row
from cellstore.transaction.catalog import IndexMeta
from cellstore.transaction.snapshot import Snapshot
from cellstore.transaction.write_set import WriteSet

FIRST_CHUNK, NEXT_CHUNK = 64, 512
Load = Callable[[bytes], dict[str, Any]]
"""From a stored body to the document: `TableMeta.load`."""
WALKED_PER_LOOK = 400  # entries walked while one document is looked up and decoded twice


class Found(NamedTuple):
    """One document met on a walk; `key` is where it stood when the walk began."""

    key: bytes
    id: bytes
    body: bytes


class Span(NamedTuple):
    """A piece of one index of a table: its keys in [lo, hi), in one direction."""

    meta: IndexMeta
    table: int
    lo: bytes
    hi: bytes
    descending: bool = False


def walk(snapshot: Snapshot, own: WriteSet, span: Span, want: int | None = None) -> Iterator[Found]:
    """The documents of a span. `want` tells how many will be pulled at most, if that is known."""
    start = own.writes
    layered = _layered(snapshot, own, span)
    stored: Iterator[Found] = _stored(snapshot, own, span, start, want)
    merged = heapq.merge(layered, stored, key=itemgetter(0), reverse=span.descending) if layered else stored
    for found in merged:
        if own.writes == start:
            yield found
            continue
        pending = own.get(span.table, found.id)
        if pending is None:
            yield found
        elif pending.body is not None:
            yield Found(found.key, found.id, pending.body)


def _layered(snapshot: Snapshot, own: WriteSet, span: Span) -> list[Found]:
    """Pending documents of the span in walking order, the upper layer hiding the lower."""
    meta, table, lo, hi, descending = span
    found = []
    for key, id in own.span(meta.number, table, lo, hi):
        pending = own.get(table, id)
        assert pending is not None
        assert pending.body is not None
        found.append(Found(key, id, pending.body))
    overlay = snapshot.overlay
    if overlay is not None:
        for key, id in overlay.span(meta.number, table, lo, hi):
            if own.get(table, id) is None:
                pending = overlay.get(table, id)
                assert pending is not None
                body = pending.body
                assert body is not None
                found.append(Found(key, id, body))
    found.sort(reverse=descending)
    return found


def _stored(snapshot: Snapshot, own: WriteSet, span: Span, start: int, want: int | None) -> Iterator[Found]:
    """Stored documents of the span that no layer hid when the walk began."""
    meta, table, lo, hi, descending = span
    chunk = FIRST_CHUNK if want is None else min(want, NEXT_CHUNK)
    while True:
        rows = snapshot.rows(meta.number, table, lo, hi, descending, chunk)
        for row in rows:
            if not _hidden(snapshot, own, table, row.id, start):
                yield Found(row.key, row.id, row.body)
        if len(rows) < chunk:
            return
        if descending:
            hi = rows[-1].key
        else:
            lo = rows[-1].key + b"\0"
        chunk = min(chunk * 8, NEXT_CHUNK) if want is None else min(max(want, FIRST_CHUNK), NEXT_CHUNK)


def _hidden(snapshot: Snapshot, own: WriteSet, table: int, id: bytes, start: int) -> bool:
    if snapshot.pending(table, id) is not None:
        return True
    pending = own.get(table, id)
    return pending is not None and pending.since <= start


def count(snapshot: Snapshot, own: WriteSet, span: Span, load: Load) -> int:
    """How many documents a span holds; the storage counts, the lane's pending ones are looked up, read with `load`."""
    meta, table, lo, hi, _ = span
    total = _stored_count(snapshot, span, load) + own.gain(meta.number, table, lo, hi)
    overlay = snapshot.overlay
    if overlay is None or table not in overlay.tables:
        return total
    hidden = sum(_stands_in(snapshot, span, id, load) for id in overlay.tables[table])
    return total + len(overlay.span(meta.number, table, lo, hi)) - hidden


def _stored_count(snapshot: Snapshot, span: Span, load: Load) -> int:
    """How many stored documents a span holds. A moment ago it was what it is now, but for what was written since."""
    reader, at, (meta, table, lo, hi, _) = snapshot.reader, snapshot.at, span
    if at is None:
        return reader.count(meta.number, lo, hi)
    now, written = reader.count(meta.number, lo, hi), reader.written_since(table, at)
    if written is None or len(written) * WALKED_PER_LOOK > now:
        return reader.count(meta.number, lo, hi, at)
    stand_now = sum(_inside(span, reader.get(table, id), load) for id in written)
    return now - stand_now + sum(_stands_in(snapshot, span, id, load) for id in written)


def _stands_in(snapshot: Snapshot, span: Span, id: bytes, load: Load) -> bool:
    """Whether the stored state of a document is inside the span."""
    return _inside(span, snapshot.row(span.table, id), load)


def _inside(span: Span, row: Row | None, load: Load) -> bool:
    return row is not None and span.lo <= span.meta.key(load(row.body), row.id) < span.hi
