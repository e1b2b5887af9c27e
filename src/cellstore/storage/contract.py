"""What every storage promises.

A storage keeps *revisions*: what one document was from one commit to the next. Timestamps are nanoseconds, one per
commit, strictly increasing, across restarts too. In the numbers of `LogEntry` and `Row`, a document is (table, id).

    latest    a point read or range read at the newest timestamp costs the same however many dead revisions exist, and
              stops at its limit inside the engine; descending is as good as ascending
    counting  how many entries a range has, now, is told in the logarithm of that many steps
    past      a read at any timestamp in the retention window sees exactly that moment
    durable   when `append` returns, the commits survive power failure; it is all of them or none
    one       one process owns a store; a second is refused and told who has it
    trim      dead revisions leave in small slices; a reader too far back is told, never lied to

Indexes are numbers. `by_id` of table t is 2t and its keys are the raw ids; every other index holds explicit entries
whose keys end with the sixteen id bytes.

Proof: tests/contract runs one suite against every storage; tests/property/test_storage_mirror.py runs two side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from cellstore.errors import OutOfRetention

Op = Literal["insert", "update", "delete"]

ID_BYTES = 16
NUMBERED_INDEXES = 1_000_000
"""Below this an even index number is `by_id` of the table of half that number; system and user indexes lie above."""


def by_id_index(table: int) -> int:
    """The number of a table's by_id index."""
    return 2 * table


def table_of_by_id(index: int) -> int | None:
    """The table whose by_id index this is; None for every other index."""
    return index >> 1 if index < NUMBERED_INDEXES and not index & 1 else None


@dataclass(frozen=True, slots=True)
class DocWrite:
    """One document before and after one commit.

    `keys` names every index of the table except by_id, as (index, key before, key after); None where there was or is
    no document. A key that stays is given twice and costs nothing.
    """

    table: int
    id: bytes  # 16
    body: bytes | None  # native JSON with _creationTime, without _id; None deletes
    op: Op
    keys: list[tuple[int, bytes | None, bytes | None]]


class RequestRecord(NamedTuple):
    """The outcome of a client's request, stored with its commit so that a repeat gets the same answer."""

    session: str
    request: int
    result: bytes


class CommitRecord(NamedTuple):
    """One commit: at most one write per document."""

    ts: int
    source: str  # the function's path, or ""
    writes: list[DocWrite]
    request: RequestRecord | None = None
    catalog: bool = False  # touches tables or indexes: readers must load their catalog again


class Row(NamedTuple):
    """A document as a read found it."""

    key: bytes  # in the index scanned; the id itself for by_id
    id: bytes
    ts: int  # of the commit that wrote this revision
    body: bytes


class LogEntry(NamedTuple):
    """One revision in the document log."""

    ts: int
    table: int
    id: bytes
    body: bytes | None  # None: deleted
    prev_ts: int | None  # of the live revision it replaced


KeysOf = Callable[[int, bytes, bytes], list[tuple[int, bytes]]]
"""(table, id, body) to the entries (index, key) the document must have. `check` verifies entries exactly with it."""


def out_of_retention(ts: int, oldest: int) -> OutOfRetention:
    """The error for a read at `ts` when the store keeps history from `oldest` on."""
    ago_s = (oldest - ts) / 1e9
    return OutOfRetention(
        f"the moment {ts} is {ago_s:,.1f} s older than the history kept (from {oldest} on); read a newer one, or raise "
        "the knob retention_s",
        ts=ts,
        min_snapshot_ts=oldest,
    )


class Reader(Protocol):
    """One consistent view. Not thread-safe; any number of readers may exist.

    Order:     `refresh`, reads, `release`. Iterators of `scan` end with the view.
    Invariant: everything read between two calls of `refresh` is as of one moment, `ts`.
    """

    ts: int
    catalog_ts: int  # of the newest commit that touched tables or indexes

    def refresh(self) -> int:
        """Move the view to the newest committed state; its timestamp (0: an empty store)."""
        ...

    def release(self) -> None:
        """End the view. An idle reader must hold none: a held view keeps the store from reclaiming space."""
        ...

    def close(self) -> None:
        """Release, and give up what the reader holds."""
        ...

    def get(self, table: int, id: bytes, ts: int | None = None) -> Row | None:
        """The document, at `ts` if that is before the view."""
        ...

    def scan(
        self,
        index: int,
        table: int,
        lo: bytes,
        hi: bytes,
        *,
        ts: int | None = None,
        descending: bool = False,
        limit: int | None = None,
    ) -> Iterator[Row]:
        """The documents of `table` whose key in `index` lies in [lo, hi), in key order. Streams; memory stays flat."""
        ...

    def count(self, index: int, lo: bytes, hi: bytes, ts: int | None = None) -> int:
        """How many entries lie in [lo, hi). Cost: O(log n); at an earlier moment the whole range is walked."""
        ...

    def written_since(self, table: int, ts: int) -> set[bytes] | None:
        """The documents of a table that were written after `ts`; None if too much was, and looking would not pay."""
        ...

    def tables(self) -> list[int]:
        """The tables that hold documents, by number. Cost: a look-up each."""
        ...

    def log(self, after_ts: int, upto_ts: int, limit: int) -> list[LogEntry]:
        """The log in (after_ts, upto_ts], oldest first.

        Whole commits only: about `limit` entries, more where the last commit has more, so the timestamp of the last
        entry is where to go on. Revisions already trimmed are not in it: call `check_retention(after_ts)` first.
        """
        ...

    def request(self, session: str, request: int) -> bytes | None:
        """The stored outcome of a request, if it has committed."""
        ...

    def newest_request(self, session: str) -> int:
        """The highest number of a session's requests whose outcome is stored; -1 without one."""
        ...

    def check_retention(self, ts: int) -> None:
        """Raise OutOfRetention if revisions needed to read at `ts` may be gone."""
        ...


class Storage(Protocol):
    """A store of revisions, owned by this process. Writing calls may come from any thread, one at a time happens."""

    @property
    def last_ts(self) -> int:
        """The timestamp of the newest commit; 0 in an empty store."""
        ...

    def reader(self) -> Reader:
        """A new reader, holding no view yet."""
        ...

    def append(self, records: Sequence[CommitRecord], on_visible: Callable[[], None] | None = None) -> None:
        """Write a group of commits, durably, all or none.

        `on_visible` is called, once, between two moments: readers see the group, and the disk has it. What begins then
        may not be told to anybody before `append` returns.

        Order:  timestamps rise within the group and above `last_ts`.
        Errors: StorageError (nothing was written; the disk said why), LeaseLost (stop), InvariantError (a write does
                not fit what is stored; nothing was written), FatalError (whether it was written is unknown; stop).
        """
        ...

    def put_entries(self, index: int, entries: Sequence[tuple[bytes, int]]) -> None:
        """Backfill: entries (key, ts of the revision) of an index that commits already maintain.

        The caller makes sure that no commit came between reading the documents and this call. Entries already there
        stay as they are.
        """
        ...

    def drop_index(self, index: int, budget: int | None = None) -> int:
        """Remove up to `budget` entries of an index (all without one); how many were. Fewer than asked: it is gone."""
        ...

    def trim(
        self, before_ts: int, budget: int, *, requests_before_ts: int | None = None, requests_kept: int = 0
    ) -> int:
        """Give up history before `before_ts`: revisions whose successor is not newer than it.

        The outcome of a request made before it goes too, unless it is one of the `requests_kept` newest of its session:
        those stay until `requests_before_ts` (as long as history, without one), because their client may ask again.

        The newest commit stays readable at its own timestamp whatever `before_ts` says, and a storage may keep history
        for as long as a view that can see it is held.

        Looks at no more than `budget` rows; returns at how many it looked. 0: nothing is left to do.
        """
        ...

    def check(self, keys_of: KeysOf | None = None) -> Iterator[str]:
        """Walk everything; a sentence for each broken invariant."""
        ...

    def close(self) -> None:
        """Let go of the store. Readers become unusable."""
        ...
