"""What a finished transaction asks of the committer, and what it is told.

A `CommitRequest` is complete: the committer needs neither the transaction nor the storage to judge it. It crosses from a
worker to the host as one JSON-able list, its keys in hexadecimal; an unchanged key is written once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast

from cellstore.errors import CellstoreError
from cellstore.storage.contract import DocWrite
from cellstore.transaction.catalog import membership
from cellstore.transaction.packed import packable, packed, unpacked
from cellstore.values.interval import ReadIntervals


class Lane(NamedTuple):
    """Where a transaction stands in its lane.

    position   of this request; each that writes has its own, rising
    seen       it began when the overlay held every position up to this one
    cleared    it began after the overlay had dropped every refused request up to this position
    """

    id: str
    position: int
    seen: int
    cleared: int = 0


@dataclass(slots=True)
class CommitRequest:
    """One transaction, frozen.

    Units      begin_ts and catalog_ts in ns: the snapshot it read, the newest definition it knew
    Shape      `result` is what a replay of `request` (session, number) is answered with
    """

    begin_ts: int
    reads: ReadIntervals
    writes: list[DocWrite]
    catalog_ts: int = 0
    lane: Lane | None = None
    request: tuple[str, int] | None = None
    source: str = ""
    result: bytes = b"null"

    def to_wire(self) -> list[Any]:
        """JSON-able. Numbers up to 2^63 occur, so use a codec that keeps integers. Many inserts travel `packed`."""
        inserts = packed(self.writes) if packable(self.writes) else None
        return [
            self.begin_ts,
            [[index, *(key.hex() for span in spans for key in span)] for index, spans in self.reads.items()],
            [] if inserts else [_write_to_wire(write) for write in self.writes],
            self.catalog_ts,
            None if self.lane is None else list(self.lane),  # orjson takes no named tuples
            self.request,
            self.source,
            self.result.decode(),
            inserts,
        ]

    @classmethod
    def from_wire(cls, wire: list[Any]) -> CommitRequest:
        """The request that `to_wire` wrote."""
        begin_ts, reads, writes, catalog_ts, lane, request, source, result, inserts = wire
        unhex = bytes.fromhex
        return cls(
            begin_ts,
            {
                index: [(unhex(keys[at]), unhex(keys[at + 1])) for at in range(0, len(keys), 2)]
                for index, *keys in reads
            },
            [_write_from_wire(write) for write in writes] if inserts is None else unpacked(inserts),
            catalog_ts,
            None if lane is None else Lane(*lane),
            None if request is None else (request[0], request[1]),
            source,
            result.encode(),
        )


def _write_to_wire(write: DocWrite) -> list[Any]:
    """[table, id, body, op, index, key, index, old, new, …]: a single key where it did not change or only one exists."""
    wire: list[Any] = [write.table, write.id.hex(), None if write.body is None else write.body.decode(), write.op]
    if write.op == "update":
        wire.append(
            [
                [index, new.hex()] if old == new else [index, "" if old is None else old.hex(), new.hex()]
                for index, old, new in cast("list[tuple[int, bytes | None, bytes]]", write.keys)
            ]
        )
    else:
        wire.append([[index, cast("bytes", old or new).hex()] for index, old, new in write.keys])
    return wire


def _write_from_wire(wire: list[Any]) -> DocWrite:
    table, id, body, op, entries = wire
    unhex = bytes.fromhex
    keys: list[tuple[int, bytes | None, bytes | None]] = []
    for index, *texts in entries:
        if len(texts) == 2:
            keys.append((index, unhex(texts[0]) or None, unhex(texts[1])))
            continue
        key = unhex(texts[0])
        keys.append((index, None if op == "insert" else key, None if op == "delete" else key))
    return DocWrite(table, unhex(id), None if body is None else body.encode(), cast("Literal['insert']", op), keys)


class Committed(NamedTuple):
    """It happened, at `ts`, and is durable. A request without writes gets the timestamp it is valid at."""

    ts: int


class Replayed(NamedTuple):
    """This (session, request) committed before, at `ts`; `result` is what it returned then. Nothing was done now."""

    ts: int
    result: bytes


CommitResult = Committed | Replayed | CellstoreError
"""An error is ConflictError or OutOfRetention: run the transaction again from its beginning."""


@dataclass(slots=True)
class Commit:
    """A commit as conflicts and live queries see it: which keys it touched, old and new, by_id included.

    Under `membership(index)` stand those of them that came or went.
    """

    ts: int
    keys: dict[int, list[bytes]]
    source: str = ""
    lane: str | None = None
    position: int = 0
    request: tuple[str, int] | None = None  # of a client: (session, number)
    ordered: bool = field(default=False, repr=False)  # whether the lists in `keys` are sorted

    def sort(self) -> None:
        """Put the keys in order, once, when somebody bisects."""
        if not self.ordered:
            for keys in self.keys.values():
                keys.sort()
            self.ordered = True


def touched_keys(writes: list[DocWrite]) -> dict[int, list[bytes]]:
    """Every key the writes leave, arrive at or stay at, by index; those left and arrived at by its `membership` too.

    Mostly all keys of an index moved, or none did: then nothing is listed twice.
    """
    found: dict[int, list[bytes]] = {}
    moved: set[int] = set()
    stayed: set[int] = set()
    for write in writes:
        by_id = 2 * write.table
        if by_id in found:
            found[by_id].append(write.id)
        else:
            found[by_id] = [write.id]
        (stayed if write.op == "update" else moved).add(by_id)
        for index, old, new in write.keys:
            keys = found.get(index)
            if keys is None:
                keys = found[index] = []
            if old is not None:
                keys.append(old)
            if new == old:
                stayed.add(index)
                continue
            moved.add(index)
            if new is not None:
                keys.append(new)
    for index in moved:
        found[membership(index)] = found[index] if index not in stayed else _moved_keys(writes, index)
    return found


def _moved_keys(writes: list[DocWrite], index: int) -> list[bytes]:
    """The keys left and arrived at in an index in which others stayed."""
    if index in {2 * write.table for write in writes}:
        return [write.id for write in writes if index == 2 * write.table and write.op != "update"]
    pairs = [(old, new) for write in writes for number, old, new in write.keys if number == index and old != new]
    return [key for pair in pairs for key in pair if key is not None]
