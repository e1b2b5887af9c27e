"""Engines broken on purpose, one fault at a time. Each is a context manager; `FAULTS` has them by name.

They replace one function of the engine by one that forgets something. What must notice is the checker; see
test_broken_engines.py. A process started by a test arms itself with `install(name)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from cellstore.storage.memory import MemoryStorage
from cellstore.transaction import committer, overlay, read_set, reading, scan, write_log, write_set
from cellstore.transaction.requests import Committed
from cellstore.transaction.transaction import Transaction

Fault = Callable[[], Any]
FAULTS: dict[str, Fault] = {}


def fault(make: Callable[[], Iterator[None]]) -> Fault:
    """Register a fault under its function's name."""
    FAULTS[make.__name__] = contextmanager(make)
    return FAULTS[make.__name__]


@fault
def a_miss_by_id_is_not_recorded() -> Iterator[None]:
    real = reading.Reading._read

    def read(self: Any, number: int, internal: bytes) -> Any:
        pending = self._writes.get(number, internal) or self._snapshot.pending(number, internal)
        row = self._snapshot.row(number, internal) if pending is None else pending
        return (None, None) if row is None else real(self, number, internal)

    with patch.object(reading.Reading, "_read", read):
        yield


@fault
def an_empty_scan_is_not_recorded() -> Iterator[None]:
    real = read_set.RangeRead.interval.fget  # type: ignore[attr-defined]
    nothing_found = property(lambda self: None if self.reach is None else real(self))
    with patch.object(read_set.RangeRead, "interval", nothing_found):
        yield


@fault
def phantom_ranges_are_ignored() -> Iterator[None]:
    def only_the_last(self: Any) -> Any:
        return None if self.reach is None else (self.reach, self.reach + b"\0")

    with patch.object(read_set.RangeRead, "interval", property(only_the_last)):
        yield


@fault
def the_tail_of_a_scan_is_not_recorded() -> Iterator[None]:
    real = read_set.RangeRead.interval.fget  # type: ignore[attr-defined]

    def up_to_the_last(self: Any) -> Any:
        done, self.done = self.done, self.done and self.reach is None
        try:
            return real(self)
        finally:
            self.done = done

    with patch.object(read_set.RangeRead, "interval", property(up_to_the_last)):
        yield


@fault
def a_descending_scan_is_recorded_as_ascending() -> Iterator[None]:
    real = read_set.ReadSet.open
    with patch.object(
        read_set.ReadSet, "open", lambda self, index, lo, hi, descending=False: real(self, index, lo, hi)
    ):
        yield


@fault
def counts_are_not_recorded() -> Iterator[None]:
    def count_span(self: Any, span: Any) -> int:
        load = self.catalog.by_number(span.table).load
        return 0 if span.lo >= span.hi else scan.count(self._snapshot, self._writes, span, load)

    with patch.object(reading.Reading, "count_span", count_span):
        yield


@fault
def reads_of_a_rolled_back_savepoint_are_forgotten() -> Iterator[None]:
    save, back = Transaction.savepoint, Transaction.rollback
    kept: dict[int, tuple[Any, ...]] = {}

    def savepoint(self: Any) -> Any:
        reads = self._reads
        kept[id(self)] = {k: set(v) for k, v in reads._points.items()}, list(reads._ranges)
        return save(self)

    def rollback(self: Any, point: Any) -> None:
        back(self, point)
        self._reads._points, self._reads._ranges = kept[id(self)]

    with patch.object(Transaction, "savepoint", savepoint), patch.object(Transaction, "rollback", rollback):
        yield


@fault
def a_rollback_keeps_the_writes() -> Iterator[None]:
    with patch.object(write_set.WriteSet, "roll_back", lambda self, mark: None):
        yield


@fault
def validation_begins_one_too_late() -> Iterator[None]:
    real = write_log.WriteLog.conflict
    with patch.object(
        write_log.WriteLog, "conflict", lambda self, reads, begin_ts, lane=None: real(self, reads, begin_ts + 1, lane)
    ):
        yield


@fault
def a_group_is_not_judged_against_itself() -> Iterator[None]:
    real = committer.Committer.commit

    def commit(self: Any, requests: Any, *rest: Any) -> Any:
        late: list[Any] = []
        append = self.write_log.append
        with patch.object(write_log.WriteLog, "append", lambda log, one: late.append(one)):
            results = real(self, requests, *rest)
        for one in late:
            append(one)
        return results

    with patch.object(committer.Committer, "commit", commit):
        yield


@fault
def old_keys_do_not_conflict() -> Iterator[None]:
    def only_new(writes: Any) -> dict[int, list[bytes]]:
        found: dict[int, list[bytes]] = {}
        for write in writes:
            found.setdefault(2 * write.table, []).append(write.id)
            for index, _, new in write.keys:
                if new is not None:
                    found.setdefault(index, []).append(new)
        return found

    with patch.object(committer, "touched_keys", only_new):
        yield


@fault
def a_group_is_published_in_reverse() -> Iterator[None]:
    """The answers, and with them the timestamps, of a group in the wrong order."""
    real = committer.Committer.commit

    def commit(self: Any, requests: Any, *rest: Any) -> Any:
        results = real(self, requests, *rest)
        places = [at for at, one in enumerate(results) if isinstance(one, Committed) and requests[at].writes]
        for at, other in zip(places, reversed([results[at] for at in places]), strict=True):
            results[at] = other
        return results

    with patch.object(committer.Committer, "commit", commit):
        yield


@fault
def commits_are_acknowledged_before_they_are_stored() -> Iterator[None]:
    """A group reaches the storage three groups later; the last ones are lost."""
    waiting: list[Any] = []

    def persist(self: Any, group: Any, *_: Any) -> None:
        waiting.append(group.records)
        keep = 0 if any(record.catalog for record in group.records) else 3
        while len(waiting) > keep:
            self._storage.append(waiting.pop(0))

    with patch.object(committer.Committer, "_persist", persist):
        yield


@fault
def refused_writes_stay_in_the_lane() -> Iterator[None]:
    """What was refused stays in the overlay, and the committer does not refuse those who saw it."""
    with (
        patch.object(overlay.Overlay, "refuse", lambda self, position: None),
        patch.object(committer.Committer, "_refuse", lambda self, request: None),
    ):
        yield


@fault
def followers_of_a_refused_request_are_accepted() -> Iterator[None]:
    """The worker forgets what was refused, but what had already seen it is let through."""
    with patch.object(committer.Committer, "_refuse", lambda self, request: None):
        yield


@fault
def the_lane_claims_to_begin_at_its_view() -> Iterator[None]:
    """A stranger's commit between the lane's last answer and its view is hidden by the overlay and never checked."""
    with patch.object(overlay.Overlay, "begin", lambda self, view_ts: view_ts):
        yield


@fault
def the_lane_commits_out_of_order() -> Iterator[None]:
    real = committer.Committer.commit

    def commit(self: Any, requests: Any, *rest: Any) -> Any:
        order = sorted(range(len(requests)), key=lambda at: (requests[at].lane is not None, -at))
        results = dict(zip(order, real(self, [requests[at] for at in order], *rest), strict=True))
        return [results[at] for at in range(len(requests))]

    with patch.object(committer.Committer, "commit", commit):
        yield


@fault
def own_writes_are_not_seen_by_scans() -> Iterator[None]:
    with patch.object(scan, "_layered", lambda snapshot, own, span: []):
        yield


@fault
def the_unique_index_looks_without_recording() -> Iterator[None]:
    real = Transaction._check_unique

    def check(self: Any, *args: Any) -> None:
        before = list(self._reads._ranges)
        real(self, *args)
        self._reads._ranges = before

    with patch.object(Transaction, "_check_unique", check):
        yield


@fault
def the_last_write_of_a_commit_is_lost() -> Iterator[None]:
    real = MemoryStorage.append

    def append(self: Any, records: Any, on_visible: Any = None) -> None:
        for record in records:
            if len(record.writes) > 1 and not record.catalog:
                record.writes.pop()
        real(self, records, on_visible)

    with patch.object(MemoryStorage, "append", append):
        yield


@fault
def timestamps_follow_the_clock_back() -> Iterator[None]:
    """commit_ts = the clock, whatever came before: the storage refuses, or history runs backward."""
    real = committer.Committer._accept

    def accept(self: Any, request: Any, group: Any) -> int:
        ts = real(self, request, group)
        self._last_ts = min(self._last_ts, self._clock.now_ns())
        return ts

    with patch.object(committer.Committer, "_accept", accept):
        yield
