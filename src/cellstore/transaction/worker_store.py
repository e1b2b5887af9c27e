"""How a transaction begins: a storage view, the catalog as of it, perhaps a lane's overlay on it.

`WorkerStore` is what a worker process opens: it reads the store file by itself and begins one transaction after another on
one view. The host begins transactions through `database.Engine`, by the same function.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cellstore.clock import Clock, SystemClock, system_random
from cellstore.errors import OutOfRetention
from cellstore.knobs import DEFAULTS, Knobs
from cellstore.transaction.catalog import Catalog, load_catalog
from cellstore.transaction.overlay import Overlay
from cellstore.transaction.transaction import Transaction

if TYPE_CHECKING:
    from cellstore.storage.contract import Reader


class Catalogs:
    """The catalog of the newest view, and the lane's changed copy of it. Loaded again only when definitions changed."""

    __slots__ = ("_lane", "_newest")

    def __init__(self) -> None:
        self._newest: Catalog | None = None
        self._lane: tuple[Catalog, Overlay, int, Catalog] | None = None

    def newest(self, reader: Reader) -> Catalog:
        """As of the reader's view."""
        known = self._newest
        if known is None or known.ts != reader.catalog_ts:
            known = self._newest = load_catalog(reader, previous=known)
        return known

    def at(self, reader: Reader, ts: int) -> Catalog:
        """As of an earlier moment. Indexes that are gone by now cannot be read at it any more."""
        newest = self.newest(reader)
        if newest.ts <= ts:
            return newest
        return load_catalog(reader, ts).restricted(newest)

    def under(self, overlay: Overlay, reader: Reader) -> Catalog:
        """As the next transaction of a lane has to see it: with the tables that are not durable yet."""
        newest = self.newest(reader)
        if overlay.generation == 0:
            return newest
        if self._lane is None or self._lane[0] is not newest or self._lane[1:3] != (overlay, overlay.generation):
            self._lane = newest, overlay, overlay.generation, newest.with_writes(overlay.definitions())
        return self._lane[3]


def begin(
    reader: Reader,
    catalogs: Catalogs,
    *,
    now_ms: float,
    random: Callable[[int], bytes],
    ts: int | None = None,
    overlay: Overlay | None = None,
    knobs: Knobs = DEFAULTS,
    on_close: Callable[[], None] | None = None,
) -> Transaction:
    """A transaction on the reader's view, or at `ts`, which must not be newer than the view.

    Errors: OutOfRetention when the store no longer knows `ts`, or does not know it yet
    """
    at = None
    if ts is not None and ts != reader.ts:
        if ts > reader.ts:
            raise OutOfRetention(f"the store has not reached the timestamp {ts} yet; its newest is {reader.ts}", ts=ts)
        reader.check_retention(ts)
        at = ts
    if overlay is not None:
        begin_ts, catalog = overlay.begin(reader.ts), catalogs.under(overlay, reader)
    elif at is not None:
        begin_ts, catalog = at, catalogs.at(reader, at)
    else:
        begin_ts, catalog = reader.ts, catalogs.newest(reader)
    return Transaction(
        reader,
        catalog,
        begin_ts=begin_ts,
        now_ms=now_ms,
        random=random,
        at=at,
        overlay=overlay,
        knobs=knobs,
        on_close=on_close,
    )


class WorkerStore:
    """A store as one worker process sees it: one reader, one view at a time.

        refresh      move the view to the newest committed state; whoever was told of a commit sees it after this
        begin        a transaction on the view; the one before it is over
        release      hold no view while idle, so that the store can reclaim space

    Order      one thread
    Errors     NotFound when there is no store at `path`
    """

    __slots__ = ("_catalogs", "_clock", "_knobs", "_random", "_reader", "_viewing")

    def __init__(
        self,
        path: str | Path,
        *,
        clock: Clock | None = None,
        random: Callable[[int], bytes] = system_random,
        knobs: Knobs = DEFAULTS,
    ) -> None:
        from cellstore.storage.sqlite import SqliteReader

        self._reader = SqliteReader(path)
        self._catalogs = Catalogs()
        self._clock = clock or SystemClock()
        self._random = random
        self._knobs = knobs
        self._viewing = False

    @property
    def catalog(self) -> Catalog:
        """The catalog of the view."""
        self._view()
        return self._catalogs.newest(self._reader)

    def refresh(self) -> int:
        """Move the view on; its timestamp."""
        self._viewing = True
        return self._reader.refresh()

    def release(self) -> None:
        """End the view until the next call."""
        if self._viewing:
            self._viewing = False
            self._reader.release()

    def shrink(self) -> None:
        """Hold neither a view nor memory for speed: nobody has asked for a while."""
        self._viewing = False
        self._reader.shrink()

    def begin(
        self,
        ts: int | None = None,
        overlay: Overlay | None = None,
        *,
        now_ms: float | None = None,
        random: Callable[[int], bytes] | None = None,
    ) -> Transaction:
        """A transaction on the current view (a new one if none is held), or at the earlier moment `ts`."""
        self._view()
        if (ts is not None and ts > self._reader.ts) or (overlay is not None and overlay.known_ts > self._reader.ts):
            self.refresh()
        return begin(
            self._reader,
            self._catalogs,
            now_ms=self._clock.now_ns() / 1e6 if now_ms is None else now_ms,
            random=random or self._random,
            ts=ts,
            overlay=overlay,
            knobs=self._knobs,
        )

    def request(self, session: str, request: int) -> bytes | None:
        """The stored result of a client's request, if it committed as of the view."""
        self._view()
        return self._reader.request(session, request)

    def close(self) -> None:
        """Let go of the store."""
        self._reader.close()

    def _view(self) -> None:
        if not self._viewing:
            self.refresh()
