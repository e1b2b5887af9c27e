"""The store as its owner holds it: begin, commit, run with retries, define, close.

    with Engine.open("store.db") as engine:
        engine.run(lambda tx: tx.insert("tasks", {"text": "write it down"}))
        with engine.begin() as tx:
            print(tx.count("tasks"))

One engine owns a store. Worker processes read it through `worker_store.WorkerStore` and send their commit requests here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cellstore.clock import Clock, SystemClock, system_random
from cellstore.errors import CellstoreError, InvariantError, TransientError
from cellstore.knobs import DEFAULTS, Knobs
from cellstore.transaction.backfill import Definitions, Progress
from cellstore.transaction.bulk import Rows, prepare_bulk
from cellstore.transaction.catalog import Catalog
from cellstore.transaction.committer import Committer, Listener
from cellstore.transaction.overlay import Overlay
from cellstore.transaction.requests import CommitRequest, CommitResult, Committed, Replayed
from cellstore.transaction.retention import Retention
from cellstore.transaction.transaction import Transaction
from cellstore.transaction.worker_store import Catalogs, begin
from cellstore.transaction.write_log import WriteLog

if TYPE_CHECKING:
    from cellstore.schema.definition import TableDefinition
    from cellstore.storage.contract import Reader, Storage

T = TypeVar("T")
_IDLE_READERS_MAX = 8


class Engine:
    """A storage, its committer, and the door to both.

    Order      any thread; commits happen one group at a time
    Errors     StoreLocked when another process has the store; FatalError when the store had to stop: open it again
    """

    def __init__(
        self, storage: Storage, *, clock: Clock | None = None, knobs: Knobs = DEFAULTS, path: str = ""
    ) -> None:
        self.path = path  # of the store file; empty when it is in memory
        self.storage = storage
        self.clock = clock or SystemClock()
        self.knobs = knobs
        self.committer = Committer(storage, self.clock, knobs)
        self._catalogs = Catalogs()
        self._idle: list[Reader] = []
        self._closed = False
        self._lock = threading.Lock()
        self.retention = Retention(storage, self.clock, knobs, lambda: self.published_ts)
        self._definitions = Definitions(self.committer, storage, self.begin)
        self._definitions.clean_up()

    @classmethod
    def open(cls, path: str | Path, *, clock: Clock | None = None, knobs: Knobs = DEFAULTS) -> Engine:
        """The store in the file at `path`, created if there is none."""
        from cellstore.storage.sqlite import SqliteStorage

        storage = SqliteStorage.open(path)
        try:
            return cls(storage, clock=clock, knobs=knobs, path=str(path))
        except BaseException:
            storage.close()
            raise

    @classmethod
    def memory(cls, *, clock: Clock | None = None, knobs: Knobs = DEFAULTS) -> Engine:
        """A store that lives as long as this object."""
        from cellstore.storage.memory import MemoryStorage

        return cls(MemoryStorage(), clock=clock, knobs=knobs)

    @property
    def catalog(self) -> Catalog:
        """Tables and indexes as of the newest commit."""
        return self.committer.catalog

    @property
    def published_ts(self) -> int:
        """The newest commit that is durable and whose listeners have been told."""
        return self.committer.published_ts

    @property
    def first_ts(self) -> int:
        """The oldest commit of which something is kept; 0 in an empty store."""
        with closing(self.storage.reader()) as reader:
            entries = reader.log(0, reader.refresh(), 1)
        return entries[0].ts if entries else 0

    @property
    def write_log(self) -> WriteLog:
        """Recent commits."""
        return self.committer.write_log

    def begin(
        self,
        ts: int | None = None,
        overlay: Overlay | None = None,
        *,
        now_ms: float | None = None,
        random: Callable[[int], bytes] = system_random,
        told_by_commit: bool = False,
    ) -> Transaction:
        """A transaction at the newest state that lasts, or at `ts`. Close it, or use it as a context manager.

        While another thread's commit becomes durable readers can see it, but may tell nobody: the power may fail. What
        `told_by_commit` reads goes nowhere before its own commit has come to an end, which is after all it has seen.
        """
        with self._lock:
            reader = self._idle.pop() if self._idle else self.storage.reader()
        reader.refresh()
        try:
            if ts is None and overlay is None and not told_by_commit and self.published_ts < reader.ts:
                ts = self.published_ts
            return begin(
                reader,
                self._catalogs,
                now_ms=self.clock.now_ns() / 1e6 if now_ms is None else now_ms,
                random=random,
                ts=ts,
                overlay=overlay,
                knobs=self.knobs,
                on_close=lambda: self._give_back(reader),
            )
        except BaseException:
            self._give_back(reader)
            raise

    def run(self, function: Callable[[Transaction], T], source: str = "") -> tuple[T, int]:
        """Run `function` in a transaction and commit it: (what it returned, commit timestamp).

        Runs again after a conflict, so the function must have no other effects; the last time alone, so that nobody can
        come between. Errors: what it raised; ConflictError if it commits something itself that it has read
        """
        for _ in range(self.knobs.commit_retries_max):
            value, answer = self._attempt(function, source)
            if isinstance(answer, Committed | Replayed):
                return value, answer.ts
            if not isinstance(answer, TransientError):
                raise answer
        with self.committer.exclusive():
            value, answer = self._attempt(function, source)
        if isinstance(answer, Committed | Replayed):
            return value, answer.ts
        raise answer

    def _attempt(self, function: Callable[[Transaction], T], source: str) -> tuple[T, CommitResult]:
        with self._begin_ahead() as transaction:
            value = function(transaction)
            request = transaction.freeze(source)
        (answer,) = self.commit([request])
        return value, answer

    @contextmanager
    def _begin_ahead(self) -> Iterator[Transaction]:
        """A transaction that is told by its commit. An error, too, may tell what it saw: it is raised when that lasts."""
        try:
            with self.begin(told_by_commit=True) as transaction:
                yield transaction
        except BaseException:
            self.commit([])
            raise

    def commit(self, requests: Sequence[CommitRequest], on_visible: Listener | None = None) -> list[CommitResult]:
        """One group commit; see `Committer.commit`."""
        return self.committer.commit(requests, on_visible)

    def request(self, session: str, request: int) -> bytes | None:
        """The stored result of a client's request, if it committed."""
        replayed = self.committer.replay(session, request)
        return None if replayed is None else replayed.result

    def apply_definitions(
        self, definitions: Iterable[TableDefinition]
    ) -> Generator[dict[str, Any], None, dict[str, Any]]:
        """Bring tables and indexes in line with `definitions`, behind live traffic; see `backfill.Definitions.apply`."""
        return self._definitions.apply(list(definitions))

    @property
    def backfills(self) -> Mapping[int, Progress]:
        """How far each index is that is being built, by its number."""
        return self._definitions.progress

    def define(self, *definitions: TableDefinition) -> dict[str, Any]:
        """`apply_definitions`, in one go; its report."""
        steps = self.apply_definitions(definitions)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                report: dict[str, Any] = end.value
                return report

    def bulk_insert(
        self, table: str, rows: Rows, first_row: int = 0, *, keep_system_fields: bool = False
    ) -> tuple[int, int]:
        """Insert many documents in one commit: (how many, timestamp). Errors count rows from `first_row`."""
        kept = rows if isinstance(rows, bytes) else list(rows)
        for alone in (False, True):
            with self.committer.exclusive() if alone else nullcontext():
                with self._begin_ahead() as transaction:
                    request = prepare_bulk(
                        transaction, table, kept, keep_system_fields=keep_system_fields, first_row=first_row
                    )
                (answer,) = self.commit([request])
            if isinstance(answer, Committed):
                return int(request.result), answer.ts
            if isinstance(answer, CellstoreError) and not isinstance(answer, TransientError):
                raise answer
        raise InvariantError(f"a bulk insert that ran alone was answered with {answer!r}")

    def check(self) -> Iterator[str]:
        """A sentence for each broken invariant of the store: its file and index entries, definitions and unique claims,
        `ctx.storage`; nothing if it is sound.

        Live traffic goes on. A store in memory has no file and nothing to say. Cost: a few passes over everything.
        """
        from cellstore.transaction import files, soundness

        if self.path:
            yield from self._check_entries()
            yield from soundness.broken(self.storage)
            yield from files.broken(self)

    def _check_entries(self) -> list[str]:
        """What the storage finds, with the catalog of its view: once more if definitions changed before it was opened."""
        from cellstore.storage import check

        while True:
            catalog = self.catalog
            problems = list(check.check(self.path, catalog.keys_of))
            if not problems or self.catalog is catalog:
                return problems

    def close(self) -> None:
        """Let go of the store."""
        with self._lock:
            readers, self._idle, self._closed = self._idle, [], True
        for reader in readers:
            reader.close()
        self.committer.close()
        self.storage.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _give_back(self, reader: Reader) -> None:
        reader.release()
        with self._lock:
            if len(self._idle) < _IDLE_READERS_MAX and not self._closed:
                self._idle.append(reader)
                return
        reader.close()
