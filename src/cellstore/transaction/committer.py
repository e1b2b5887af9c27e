"""Puts all writes into one order."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from cellstore import faults
from cellstore.clock import Clock
from cellstore.errors import CellstoreError, ConflictError, FatalError, InvariantError, OutOfRetention, StorageError
from cellstore.knobs import DEFAULTS, Knobs
from cellstore.storage.contract import CommitRecord, DocWrite, RequestRecord
from cellstore.transaction.catalog import INDEXES, TABLES, load_catalog
from cellstore.transaction.requests import (
    Commit,
    CommitRequest,
    CommitResult,
    Committed,
    Lane,
    Replayed,
    touched_keys,
)
from cellstore.transaction.write_log import WriteLog
from cellstore.values.ids import encode_id
from cellstore.values.json import loads

if TYPE_CHECKING:
    from cellstore.storage.contract import Storage

_SESSIONS_KNOWN_MAX = 20_000  # whose newest request is remembered; of others it is looked up
_LANES_KNOWN_MAX = 1000  # that something was refused in; a lane ends soon after that

Listener = Callable[[Sequence[Commit]], None]


@dataclass(slots=True)
class _Group:
    """What one call of `commit` has accepted so far."""

    records: list[CommitRecord] = field(default_factory=list)
    commits: list[Commit] = field(default_factory=list)
    answered: dict[tuple[str, int], Replayed] = field(default_factory=dict)
    viewing: bool = False  # whether the reader's view has been moved to before this group


class Committer:
    """The only writer of a storage and the only source of timestamps.

    A request either gets a place in history or is refused; it never waits for another transaction to make up its mind.

        begin_ts                 commit_ts
        ───●─────●────────●─────────●────▶
                 └── none of these may touch the read set

        replay     the same (session, request) again: the stored result, nothing else
        validate   no commit in (begin_ts, now] touches the reads, nor changed a table written to
        assign     ts = max(newest + 1, clock)
        persist    the whole group in one durable write; past this point the commits have happened. While the disk is
                   at work, `on_visible` may begin with what they lead to
        publish    in order: catalog, write log, published_ts, listeners

    Requests are validated against those before them in the same group. A refused request of a lane takes along every
    later one that may have seen its writes in the overlay.

    Order      one group at a time, under a lock; listeners are called inside it and must be quick
    Cost       a few µs per request and one durable write per group
    Errors     per request: ConflictError and OutOfRetention (run again), StorageError (nothing was written). Raised:
               FatalError when nobody knows whether the group was written; every later call raises it too
    Invariant  published_ts <= last_ts, neither ever falls, and every commit in the write log above its floor is there
    Source     Kung and Robinson 1981; Convex `Committer`
    """

    def __init__(self, storage: Storage, clock: Clock, knobs: Knobs = DEFAULTS) -> None:
        self._storage = storage
        self._clock = clock
        self._lock = threading.RLock()
        self._reader = storage.reader()
        self._reader.refresh()
        self.catalog = load_catalog(self._reader)
        self._reader.release()
        self.published_ts = self._last_ts = storage.last_ts
        self.write_log = WriteLog(self._last_ts, knobs, lambda index: self.catalog.describe(index))
        self.listeners: list[Listener] = []
        self._definitions: dict[int, Commit] = {}  # table number to the newest change of its definition
        self._refused: dict[str, int] = {}  # lane to the highest position refused, the latest last
        self._newest_request: OrderedDict[str, int] = OrderedDict()  # of the sessions heard of last; never too low
        self._stopped: FatalError | None = None

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """No commit happens while the block runs, except those it makes itself. Keep it to a few milliseconds."""
        with self._lock:
            yield

    def commit(self, requests: Sequence[CommitRequest], on_visible: Listener | None = None) -> list[CommitResult]:
        """Judge each request, write the accepted ones as one group, publish them. One answer per request, in order.

        Commits of other threads that readers could see before the call are durable when it returns, also without requests.

        `on_visible` hears of the accepted ones when readers see them and the disk has not confirmed them: nothing it
        begins may be told to anybody before this returns.
        """
        with self._lock:
            if self._stopped is not None:
                raise self._stopped
            group = _Group()
            before_ts, definitions = self._last_ts, self._definitions
            try:
                results = [self._judge(request, group) for request in requests]
            finally:
                if group.viewing:
                    self._reader.release()
            if group.records:
                faults.reach("commit.validated")
                failure = self._persist(group, on_visible)
                if failure is not None:
                    self.write_log.truncate(before_ts)
                    self._definitions = definitions
                    for request in requests:
                        self._refuse(request)
                    return [failure] * len(requests)
                faults.reach("commit.persisted")
                self._publish(group)
            return results

    def replay(self, session: str, request: int) -> Replayed | None:
        """What this request was answered with, if it committed before."""
        with self._lock:
            self._reader.refresh()
            try:
                result = self._reader.request(session, request)
            finally:
                self._reader.release()
        return None if result is None else Replayed(self.published_ts, result)

    def close(self) -> None:
        """Commit nothing any more."""
        with self._lock:
            if self._stopped is None:
                self._stopped = FatalError("the store is closed")
            self._reader.close()

    # ── judging ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _judge(self, request: CommitRequest, group: _Group) -> CommitResult:
        replayed = None if request.request is None else self._replayed(request.request, group)
        if replayed is not None:
            self._refuse(request)
            return replayed
        refusal = self._refusal(request)
        if refusal is not None:
            self._refuse(request)
            return refusal
        if not request.writes:
            return Committed(group.records[-1].ts if group.records else self.published_ts)
        return Committed(self._accept(request, group))

    def _replayed(self, request: tuple[str, int], group: _Group) -> Replayed | None:
        known = group.answered.get(request)
        if known is not None:
            return known
        session, number = request
        newest = self._newest_request.get(session)
        if newest is not None and number > newest:  # clients count upwards: hardly ever is anything looked up
            return None
        if not group.viewing:
            self._reader.refresh()
            group.viewing = True
        if newest is None:
            self._remember_request(session, self._reader.newest_request(session))
        result = self._reader.request(session, number)
        return None if result is None else Replayed(self.published_ts, result)

    def _remember_request(self, session: str, number: int) -> None:
        newest = self._newest_request
        newest[session] = max(number, newest.get(session, -1))
        newest.move_to_end(session)
        if len(newest) > _SESSIONS_KNOWN_MAX:
            newest.popitem(last=False)

    def _refusal(self, request: CommitRequest) -> CellstoreError | None:
        lane = request.lane
        if lane is not None and lane.cleared < self._refused.get(lane.id, 0):
            return ConflictError("a mutation this one built on was refused: run it again")
        changed = self._definition_changed(request)
        if changed is not None:
            return changed
        try:
            return self.write_log.conflict(request.reads, request.begin_ts, lane)
        except OutOfRetention as error:
            return error

    def _definition_changed(self, request: CommitRequest) -> ConflictError | None:
        """Whether a table written to was redefined since the transaction loaded its catalog."""
        if not self._definitions:
            return None
        for write in request.writes:
            commit = self._definitions.get(write.table)
            if commit is None or commit.ts <= request.catalog_ts or _seen(commit, request.lane):
                continue
            table = self.catalog.by_number(write.table)
            name = f"number {write.table}" if table is None else repr(table.name)
            return ConflictError(
                f"the table {name} was redefined while this transaction ran: run it again",
                index=2 * write.table,
                write_ts=commit.ts,
                writer=commit.source,
            )
        return None

    def _refuse(self, request: CommitRequest) -> None:
        lane = request.lane
        if lane is not None and request.writes:
            self._refused[lane.id] = max(lane.position, self._refused.pop(lane.id, 0))
            if len(self._refused) > _LANES_KNOWN_MAX:
                del self._refused[next(iter(self._refused))]

    def _accept(self, request: CommitRequest, group: _Group) -> int:
        """Give a request its place. From here on later requests are validated against it."""
        ts = self._last_ts = max(self._last_ts + 1, self._clock.now_ns())
        record = None
        if request.request is not None:
            record = RequestRecord(*request.request, request.result)
            group.answered[request.request] = Replayed(ts, request.result)
            self._remember_request(*request.request)
        catalog = any(write.table in (TABLES, INDEXES) for write in request.writes)
        group.records.append(CommitRecord(ts, request.source, request.writes, record, catalog))
        lane, position = (None, 0) if request.lane is None else request.lane[:2]
        commit = Commit(ts, touched_keys(request.writes), request.source, lane, position, request.request)
        group.commits.append(commit)
        self.write_log.append(commit)
        if catalog:
            self._note_definitions(request.writes, commit)
        return ts

    def _note_definitions(self, writes: list[DocWrite], commit: Commit) -> None:
        """Remember which existing tables a commit redefines. Nobody can have written to a table before it was created."""
        for write in writes:
            if write.table == INDEXES or (write.table == TABLES and write.op != "insert"):
                # the catalog has not been moved on yet, so it still knows a definition that goes away
                row = self.catalog.row(write.id) if write.body is None else loads(write.body)
                if row is None:
                    raise InvariantError("a definition is removed that the catalog does not know")
                number = row["table" if write.table == INDEXES else "number"]
                self._definitions = {**self._definitions, number: commit}  # a failed group goes back to the old one

    # ── persisting and publishing ─────────────────────────────────────────────────────────────────────────────────

    def _persist(self, group: _Group, on_visible: Listener | None) -> StorageError | ConflictError | None:
        """One durable write. Returns the storage's refusal if nothing was written."""
        try:
            self._storage.append(
                group.records, None if on_visible is None else partial(_tell, on_visible, group.commits)
            )
        except StorageError as error:
            return error
        except FatalError as error:
            taken = self._taken(group) if isinstance(error, InvariantError) else None
            if taken is not None:
                return taken
            self._stopped = error
            raise
        except BaseException as error:
            self._stopped = FatalError(
                f"the store stopped because a commit was interrupted and nobody knows whether it was written ({error!r}): "
                "open the store again"
            )
            raise self._stopped from error
        return None

    def _taken(self, group: _Group) -> ConflictError | None:
        """Whether the storage refused a group because an import had brought an id that an open transaction drew as well.

        Inserts with drawn ids record no read, so that they conflict with nobody; only here can it be noticed.
        """
        there: dict[tuple[int, bytes], bool] = {}
        self._reader.refresh()
        try:
            for write in chain.from_iterable(record.writes for record in group.records):
                document = (write.table, write.id)
                if document not in there:
                    there[document] = self._reader.get(*document) is not None
                if write.op == "insert" and there[document]:
                    id = encode_id(*document)
                    return ConflictError(f"a document {id!r} was inserted meanwhile: run it again, for another id")
                there[document] = write.body is not None
        finally:
            self._reader.release()
        return None

    def _publish(self, group: _Group) -> None:
        for record in group.records:
            if record.catalog:
                self.catalog = self.catalog.with_writes(record.writes, record.ts)
        self.published_ts = group.records[-1].ts
        if self.write_log.needs_trim():
            self.write_log.trim()
        for listener in self.listeners:
            listener(group.commits)
        faults.reach("commit.published")


def _tell(on_visible: Listener, commits: Sequence[Commit]) -> None:
    """What a listener raises must not pass for the storage's refusal: the group is written. Errors: FatalError."""
    try:
        on_visible(commits)
    except CellstoreError as error:
        raise FatalError(
            f"the store stopped because what follows a commit could not begin ({error.message})"
        ) from error


def _seen(commit: Commit, lane: Lane | None) -> bool:
    """Whether a transaction saw this commit in its lane's overlay."""
    return lane is not None and commit.lane == lane.id and commit.position <= lane.seen
