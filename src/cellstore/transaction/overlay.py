"""The lane's memory: writes that are validated in all likelihood but not durable yet, kept in the lane's worker.

Short mutations run one after another on one worker. Each reads the storage through the overlay, so it sees what the ones
before it wrote although no fsync has happened: a chain of dependents rides on one group commit, and a hot document
costs no conflicts.

    mutation 7 ──▶ request 7 ──▶ apply(7) ─────────────────┐ on its way: committer, fsync
    mutation 8 reads through the overlay, sees 7 ──▶ request 8 ──▶ apply(8)
                                       acknowledge(7, ts) ◀┘ durable: storage has it, the overlay forgets it

What the worker tells the committer with each request (`requests.Lane`) lets it skip exactly the commits the mutation saw
in its overlay, and refuse a request that saw one which came to nothing. Three rules keep that exact:

- positions are handed out when a request is applied, in the order requests are sent;
- while anything is pending the transaction claims to have begun at `known_ts`, the newest commit whose fate the worker
  has heard of, even if its storage view is newer: what a stranger wrote in between is then checked, so the overlay can
  never hide it;
- a refused request takes every later pending one with it (they may have read it); the committer refuses those too.

A mutation that fails while something is pending may have failed on a state that will never be: freeze it without
writes and have it validated before believing its error.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from cellstore.storage.contract import DocWrite
from cellstore.transaction.catalog import INDEXES, TABLES
from cellstore.transaction.requests import CommitRequest, Lane
from cellstore.transaction.write_set import Layer, Pending


class Overlay(Layer):
    """Pending writes of one lane, newest state per document.

    Order   one thread; `acknowledge` and `refuse` only between transactions
    """

    __slots__ = ("_cleared", "_pending", "_position", "generation", "known_ts", "lane")

    def __init__(self, lane: str) -> None:
        super().__init__()
        self.lane = lane
        self.known_ts = 0
        self.generation = 0  # moves when pending definitions change
        self._position = 0
        self._cleared = 0
        self._pending: deque[tuple[int, list[DocWrite]]] = deque()

    @property
    def empty(self) -> bool:
        """Whether everything this lane wrote is in the storage."""
        return not self._pending

    @property
    def position(self) -> int:
        """The position handed out last."""
        return self._position

    def begin(self, view_ts: int) -> int:
        """A transaction begins with a storage view of `view_ts`; returns the timestamp it may claim to begin at."""
        if not self._pending:
            self.known_ts = view_ts
        return self.known_ts

    def standing(self) -> Lane:
        """Where a transaction that begins now stands. Its position is set by `apply`."""
        return Lane(self.lane, self._position + 1, self._position, self._cleared)

    def apply(self, request: CommitRequest) -> int:
        """`request` is being sent: later transactions see its writes. Sets and returns its position."""
        self._position += 1
        position = self._position
        if request.lane is not None:
            id, _, seen, cleared = request.lane
            request.lane = Lane(id, position, seen, cleared)
        if request.writes:
            self._pending.append((position, request.writes))
            self._show(position, request.writes)
        return position

    def acknowledge(self, position: int, ts: int) -> None:
        """Everything up to `position` is durable, the last of it at `ts`. The storage view must be moved on before
        the next transaction begins."""
        while self._pending and self._pending[0][0] <= position:
            _, writes = self._pending.popleft()
            self._forget(writes, position)
        self.known_ts = max(self.known_ts, ts)

    def refuse(self, position: int) -> None:
        """`position` was refused: it and all that came after it vanish. Those will be refused as well."""
        if not any(pending == position for pending, _ in self._pending):
            return
        kept = [entry for entry in self._pending if entry[0] < position]
        for _, writes in self._pending:
            self._forget(writes, self._position)
        self._pending = deque(kept)
        for at, writes in kept:
            self._show(at, writes)
        self._cleared = self._position

    def definitions(self) -> Iterator[DocWrite]:
        """Pending writes of tables and indexes, oldest first."""
        for _, writes in self._pending:
            for write in writes:
                if write.table in (TABLES, INDEXES):
                    yield write

    def _show(self, position: int, writes: list[DocWrite]) -> None:
        for write in writes:
            keys = {index: new for index, _, new in write.keys if new is not None}
            self.put(Pending(write.table, write.id, write.body, keys, position))
            if write.table in (TABLES, INDEXES):
                self.generation += 1

    def _forget(self, writes: list[DocWrite], position: int) -> None:
        for write in writes:
            shown = self.get(write.table, write.id)
            if shown is not None and shown.since <= position:
                self.discard(write.table, write.id)
            if write.table in (TABLES, INDEXES):
                self.generation += 1
