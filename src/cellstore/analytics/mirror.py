"""DuckDB tables that follow the document log.

A *copy* is one store table in DuckDB: a row per revision, with the span [_from, _to) it was true in. It is made when
its table is first read, at the moment that was asked for, and follows the log from there, in batches, whenever it is
read again. So it answers at any moment from `since` to `upto`:

                 since ─────────────── upto
    older: a still copy, from              newer: the log first
    the storage, kept for a while

Order      every method under the owner's lock; a copy in use is pinned, and dropped when nobody uses it any more
Invariant  at any ts in [since, upto], select(copy, ts) is what the storage's readers show of the table at ts
Cost       a load is about three µs per document of twenty fields where the schema is declared, six where it is not;
           following costs a few ms per batch of ten thousand log entries, whatever the table's size
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellstore.analytics.feed import (
    BATCH,
    FOREVER,
    Revision,
    Rewrite,
    Spool,
    documents,
    lines,
    longest_of,
    parsed,
    rewritten,
)
from cellstore.analytics.shape import OF_ALL_SORTS, Shape, Survey, lines_of, promised_by, wide_ints
from cellstore.errors import OutOfRetention
from cellstore.values.ids import encode_id

if TYPE_CHECKING:
    import duckdb

    from cellstore.storage.contract import LogEntry, Reader
    from cellstore.transaction.catalog import TableMeta

RECENT_NS = 60 * 10**9  # a moment this close to the newest is worth a copy that follows
STILL_COPIES_MAX = 8
DEAD_ROWS_MAX = 50_000  # as many may be kept in any case; beyond it, no more than live ones

Check = Callable[[], None]
"""Raises when the call this is for was given up; asked between batches."""


def never(*_: object) -> None:
    """The check of a call that is not given up."""


@dataclass(eq=False)
class Copy:
    """One table in DuckDB."""

    table: TableMeta  # its schema as of `since`
    name: str  # in DuckDB
    shape: Shape
    since: int
    upto: int
    dead: int = 0  # rows whose span has ended, about
    live: int = 0
    pins: int = 0  # statements that read it now

    def select(self, ts: int) -> str:
        """The documents at `ts`, as SQL."""
        return self.shape.select(self.name, ts)


class Mirror:
    """The copies of one store. `duck` is a connection nobody else uses; `scratch` a directory it may read."""

    def __init__(self, duck: duckdb.DuckDBPyConnection, reader: Reader, scratch: Path, *, retention_s: float) -> None:
        self._duck = duck
        self._reader = reader
        self._scratch = scratch
        self._retention_ns = int(retention_s * 1e9)
        self._numbers = itertools.count(1)
        self._copies: dict[int, Copy] = {}
        self._still: dict[tuple[int, int], Copy] = {}  # oldest use first
        self._dropped: list[Copy] = []  # as soon as nobody reads them

    def copy(self, then: TableMeta, now: TableMeta, ts: int, check: Check = never) -> Copy:
        """A copy of a table that answers at `ts`, which the reader's view knows.

        `then`, `now`: the table's definition at `ts` and as of the view. Errors: OutOfRetention; what `check` raises.
        """
        self._sweep()
        known = self._copies.get(then.number)
        if known is not None:
            known = self._followed(known, now, check)
        if known is None and _alike(then, now) and self._reader.ts - ts <= RECENT_NS:
            made = self._loaded(then, ts, check)
            self._copies[then.number] = made
            known = self._followed(made, now, check)
        if known is not None and known.since <= ts <= known.upto and known.table.stored_as == then.stored_as:
            return known
        return self._still_copy(then, ts, check)

    def close(self) -> None:
        """Forget everything."""
        self._copies.clear()
        self._still.clear()

    # ── following ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _followed(self, copy: Copy, now: TableMeta, check: Check) -> Copy | None:
        """The copy, moved on to the reader's view; None when it cannot be and has to be made again."""
        try:
            if _alike(copy.table, now) and self._follow(copy, check):
                self._prune(copy)
                return copy
        except OutOfRetention:
            pass  # nobody read the table for so long that the log has forgotten what came next
        except BaseException:
            self._forget(copy)  # it may hold half a batch
            raise
        self._forget(copy)
        return None

    def _follow(self, copy: Copy, check: Check) -> bool:
        """Apply the log up to the view. False when a document came that the columns cannot hold."""
        reader, number = self._reader, copy.table.number
        if copy.upto < reader.ts:
            reader.check_retention(copy.upto)
        while copy.upto < reader.ts:
            check()
            entries = reader.log(copy.upto, reader.ts, BATCH)
            if not self._apply(copy, [entry for entry in entries if entry.table == number]):
                return False
            copy.upto = entries[-1].ts if len(entries) >= BATCH else reader.ts
        return True

    def _apply(self, copy: Copy, entries: Sequence[LogEntry]) -> bool:
        """Take some whole commits in. False: what came does not fit the columns."""
        ended, fresh = spans(entries, copy.table.text)
        shape = copy.shape.merged(parsed(fresh))
        if not shape.fits_into(copy.shape):
            return False
        for statement in shape.added(copy.name, copy.shape):
            self._duck.execute(statement)
        copy.shape = shape
        if ended:
            self._end(copy, ended)
        if fresh and not self._add(copy, fresh):
            return False
        still_true = sum(revision.until == FOREVER for revision in fresh)
        copy.dead += len(ended) + len(fresh) - still_true
        copy.live += still_true - len(ended)
        return True

    def _end(self, copy: Copy, ended: dict[bytes, int]) -> None:
        """End the spans of the rows that are true now."""
        number = copy.table.number
        text = b"".join(b'{"_id":"%b","_to":%d}\n' % (encode_id(number, id).encode(), ts) for id, ts in ended.items())
        path = self._scratch / f"{copy.name}-ended.jsonl"
        path.write_bytes(text)
        ends = lines_of(str(path), {"_id": "VARCHAR", "_to": "BIGINT"})
        self._duck.execute(
            f"UPDATE {copy.name} SET _to = ended._to FROM {ends} ended "
            f"WHERE {copy.name}._id = ended._id AND {copy.name}._to = {FOREVER}"
        )
        path.unlink()

    def _add(self, copy: Copy, fresh: list[Revision]) -> bool:
        import duckdb

        path = self._scratch / f"{copy.name}-fresh.jsonl"
        path.write_bytes(Rewrite(copy.shape.columns, copy.shape.names)(lines(copy.table.number, fresh)))
        try:
            self._duck.execute(copy.shape.insert(copy.name, str(path), longest_of(fresh)))
        except (duckdb.ConversionException, duckdb.InvalidInputException):
            return False
        finally:
            path.unlink()
        return True

    def _prune(self, copy: Copy) -> None:
        """Give up rows that ended before the retention window, when they are many and nobody reads them."""
        if copy.pins or copy.dead <= max(copy.live, DEAD_ROWS_MAX):
            return
        before = copy.upto - self._retention_ns
        copy.since = max(copy.since, before)
        self._duck.execute(f"DELETE FROM {copy.name} WHERE _to <= {copy.since}")
        counted = self._duck.execute(f"SELECT count(*) FROM {copy.name} WHERE _to < {FOREVER}").fetchone()
        copy.dead = counted[0] if counted else 0

    # ── loading ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _still_copy(self, table: TableMeta, ts: int, check: Check) -> Copy:
        """A copy at one moment only."""
        found = self._still.pop((table.number, ts), None)
        if found is None:
            found = self._loaded(table, ts, check)
        self._still[table.number, ts] = found
        while len(self._still) > STILL_COPIES_MAX:
            self._dropped.append(self._still.pop(next(iter(self._still))))
        return found

    def _loaded(self, table: TableMeta, ts: int, check: Check) -> Copy:
        """A new copy of the table at `ts`."""
        import duckdb

        promised = promised_by(table.schema)
        if promised is not None:
            try:
                return self._loaded_as(promised, table, ts, check)
            except (duckdb.ConversionException, duckdb.InvalidInputException):
                pass  # a document older than its schema: look at them all
        try:
            return self._loaded_as(Survey(table.schema, own=OF_ALL_SORTS.get(table.name)), table, ts, check)
        except (duckdb.ConversionException, duckdb.InvalidInputException):
            return self._loaded_as(Survey(table.schema, believe=False), table, ts, check)

    def _loaded_as(self, shape: Shape | Survey, table: TableMeta, ts: int, check: Check) -> Copy:
        name = f"copy_{next(self._numbers)}"
        with closing(_Load(self._duck, Spool(self._scratch, name), name)) as load:
            if isinstance(shape, Shape):
                load.begin(shape)
            for batch in documents(self._reader, table, ts):
                check()
                load.add(lines(table.number, batch), longest_of(batch))
                if isinstance(shape, Survey):
                    shape.look(parsed(batch))
            if isinstance(shape, Survey):
                load.begin(shape.shape(wide_ints(load.spooled(), shape.unsure) if shape.unsure else ()))
            count = load.finish()
        return Copy(table, name, load.shape, since=ts, upto=ts, live=count)

    # ── dropping ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _forget(self, copy: Copy) -> None:
        self._copies.pop(copy.table.number, None)
        self._dropped.append(copy)

    def _sweep(self) -> None:
        free = [copy for copy in self._dropped if not copy.pins]
        self._dropped = [copy for copy in self._dropped if copy.pins]
        for copy in free:
            self._duck.execute(f"DROP TABLE IF EXISTS {copy.name}")


class _Load:
    """One table on its way in: lines are spooled, and read by DuckDB as soon as their shape is known.

    Order      `begin` once the shape is known, `add` before or after it, `finish`; `close` undoes what is unfinished
    """

    def __init__(self, duck: duckdb.DuckDBPyConnection, spool: Spool, name: str) -> None:
        self.shape = Shape({})
        self._duck, self._spool, self._name = duck, spool, name
        self._rewrite: Rewrite | None = None
        self._waiting: list[Path] = []
        self._longest = 0
        self._finished = False

    def begin(self, shape: Shape) -> None:
        """Make the table."""
        self.shape = shape
        self._rewrite = Rewrite(shape.columns, shape.names)
        self._duck.execute(shape.create(self._name))

    def add(self, text: bytes, longest: int) -> None:
        """More lines, the longest of which has about `longest` bytes."""
        self._longest = max(self._longest, longest)
        if self._spool.add(text) and self._rewrite is not None:
            self._read_in()

    def spooled(self) -> Iterator[dict[str, Any]]:
        """The documents so far, parsed again."""
        import orjson

        self._waiting += self._spool.take()
        for path in self._waiting:
            with path.open("rb") as file:
                yield from map(orjson.loads, file)

    def finish(self) -> int:
        """Read in what is left; how many rows there are."""
        self._read_in()
        counted = self._duck.execute(f"SELECT count(*) FROM {self._name}").fetchone()
        self._finished = True
        return int(counted[0]) if counted else 0

    def close(self) -> None:
        """Clear up."""
        self._waiting += self._spool.take()
        for path in self._waiting:
            path.unlink(missing_ok=True)
        if not self._finished:
            self._duck.execute(f"DROP TABLE IF EXISTS {self._name}")

    def _read_in(self) -> None:
        assert self._rewrite is not None
        self._waiting += self._spool.take()
        while self._waiting:
            path = self._waiting[0]
            rewritten(path, self._rewrite)
            self._duck.execute(self.shape.insert(self._name, str(path), self._longest))
            path.unlink()
            del self._waiting[0]


def _alike(then: TableMeta, now: TableMeta) -> bool:
    """Whether documents are read by the same names, and the columns may be the same."""
    return then.schema == now.schema and then.stored_as == now.stored_as


def spans(entries: Iterable[LogEntry], text: Callable[[bytes], bytes]) -> tuple[dict[bytes, int], list[Revision]]:
    """What log entries of one table do to its rows. `text`: from a stored body to the document's native JSON.

    (ids of rows that were true before, with when they ended · new revisions with their spans)
    """
    ended: dict[bytes, int] = {}
    open_at: dict[bytes, int] = {}  # id → place in `fresh` of the revision that is true now
    fresh: list[Revision] = []
    for entry in entries:
        place = open_at.pop(entry.id, None)
        if place is not None:
            fresh[place] = fresh[place]._replace(until=entry.ts)
        elif entry.prev_ts is not None:
            ended.setdefault(entry.id, entry.ts)
        if entry.body is not None:
            open_at[entry.id] = len(fresh)
            fresh.append(Revision(entry.id, entry.ts, FOREVER, text(entry.body)))
    return ended, fresh
