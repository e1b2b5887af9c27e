"""Who does the work: one DuckDB database over one store, and the questions it answers.

    table_parquet     one table at a timestamp
    sql               one statement at a timestamp
    sql_tables        the tables a statement names
    diff              what changed between two timestamps

Each answer is a file in the scratch directory, which the asker takes away. Any number of threads may ask: bringing the
mirror up to date happens one at a time, statements run side by side, each on a connection and with views of its own.

Invariant  DuckDB reaches no file outside the scratch directory, no network and no extension, and nothing can change that
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from cellstore.analytics.changes import write_changes
from cellstore.analytics.columns import quoted, text_of
from cellstore.analytics.mirror import Copy, Mirror
from cellstore.analytics.shape import CREATION_TIME, ID
from cellstore.analytics.sql import FORMATS, read_statement, sql_error, write_result
from cellstore.errors import LimitExceeded, NotFound, OutOfRetention, TransientError, ValidationError
from cellstore.knobs import DEFAULTS, Knobs
from cellstore.transaction.worker_store import Catalogs

if TYPE_CHECKING:
    import duckdb

    from cellstore.storage.contract import Reader
    from cellstore.transaction.catalog import Catalog, TableMeta

READABLE_SYSTEM_TABLES = frozenset({"_scheduled_functions", "_storage"})
INTERRUPT_AGAIN_S = 0.05
LOCK_WAIT_S = 0.2  # how soon a call that waits for the mirror notices that it was given up


class GivenUp(TransientError):
    """The caller does not want the answer any more."""


class Call:
    """One question under way. `cancel` may come from any thread."""

    def __init__(self, duck: duckdb.DuckDBPyConnection) -> None:
        self.duck = duck
        self._is_cancelled = False
        self._is_over = threading.Event()

    def check(self) -> None:
        """Raise if the call was given up."""
        if self._is_cancelled:
            raise GivenUp

    def cancel(self) -> None:
        """Give it up: what runs on its connection is interrupted."""
        self._is_cancelled = True
        threading.Thread(target=self._interrupt, name="cellstore interrupt", daemon=True).start()

    def _interrupt(self) -> None:
        """Until it is over: DuckDB forgets an interrupt that comes a moment before the statement it was meant for."""
        import duckdb

        while not self._is_over.is_set():
            with suppress(duckdb.Error):  # it may be over by now
                self.duck.interrupt()
            self._is_over.wait(INTERRUPT_AGAIN_S)

    def close(self) -> None:
        """It is over."""
        self._is_over.set()
        self.duck.close()


class Analyst:
    """Answers questions about a store. `open_reader` opens views of it; `scratch` is an empty directory of its own."""

    def __init__(self, open_reader: Callable[[], Reader], scratch: Path, knobs: Knobs = DEFAULTS) -> None:
        self._open_reader = open_reader
        self._reader = reader = open_reader()
        self._scratch = scratch
        self._knobs = knobs
        self._duck = open_duckdb(scratch, knobs)
        self._mirror = Mirror(self._duck.cursor(), reader, scratch, retention_s=knobs.retention_s)
        self._catalogs = Catalogs()
        self._lock = threading.Lock()
        self._begins = threading.Lock()
        self._calls: dict[int, Call] = {}
        self._given_up: set[int] = set()  # before they began
        self._files = itertools.count(1)
        self._operations: dict[str, Callable[..., Path]] = {
            "table_parquet": self.table_parquet,
            "sql": self.sql,
            "sql_tables": self.sql_tables,
            "diff": self.diff,
        }

    def run(self, op: str, params: dict[str, Any], number: int) -> Path:
        """Answer one question; `number` is what `cancel` calls it. Errors: GivenUp, the operation's own."""
        import duckdb

        call = Call(self._duck.cursor())
        with self._begins:
            self._calls[number] = call
            if number in self._given_up:
                call.cancel()
        try:
            call.check()
            path = self._operations[op](call, **params)
            self._check_size(path)
            return path
        except duckdb.Error as error:
            raise sql_error(error, ours=True) from error
        finally:
            with self._begins:
                del self._calls[number]
                self._given_up.discard(number)
            call.close()

    def cancel(self, number: int) -> None:
        """Give up a question, if it is still under way."""
        with self._begins:
            call = self._calls.get(number)
            if call is None:  # it has not begun yet
                self._given_up.add(number)
            else:
                call.cancel()

    def close(self) -> None:
        """Let go of the store and of DuckDB. No question may be under way."""
        with self._lock:
            self._mirror.close()
            self._duck.close()
            self._reader.close()

    # ── operations ────────────────────────────────────────────────────────────────────────────────────────────────────

    def table_parquet(self, call: Call, table: str, ts: int) -> Path:
        """The documents of a table at `ts`, in order of creation. Errors: NotFound, OutOfRetention."""
        with self._copies(call, [table], ts) as copies:
            ordered = f"{copies[table].select(ts)} ORDER BY {quoted(CREATION_TIME)}, {quoted(ID)}"
            return self._result(call, ordered, "parquet")

    def sql(self, call: Call, statement: str, ts: int, format: str) -> Path:
        """The result of one statement at `ts`. Errors: ValidationError, NotFound naming the tables there are."""
        if format not in FORMATS:
            known = " or ".join(map(repr, FORMATS))
            raise ValidationError(path="format", expected=known, got=repr(format)[:60])
        read = read_statement(call.duck, statement)
        with self._copies(call, read.tables, ts, read.own) as copies:
            for name, copy in copies.items():
                call.duck.execute(f"CREATE OR REPLACE TEMP VIEW {quoted(name)} AS {copy.select(ts)}")
            call.check()
            return self._result(call, read.text, format)

    def sql_tables(self, call: Call, statement: str) -> Path:
        """The tables that a statement names, those of its WITH too, as a JSON list. Errors: ValidationError."""
        read = read_statement(call.duck, statement)
        path = self._file("tables", "json")
        path.write_bytes(orjson.dumps(read.tables))
        return path

    def diff(self, call: Call, ts0: int, ts1: int) -> Path:
        """What changed from the earlier of two timestamps to the later, as JSON lines."""
        early, late = sorted((ts0, ts1))
        path = self._file("diff", "jsonl")
        with closing(self._open_reader()) as reader:
            reader.refresh()
            for ts in (early, late):
                check_known(reader, ts)
            write_changes(reader, early, late, path, call.check)
        return path

    # ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def _copies(
        self, call: Call, names: Sequence[str], ts: int, own: frozenset[str] = frozenset()
    ) -> Iterator[dict[str, Copy]]:
        """The copies of the named tables, by the name used, each able to answer at `ts` while the context lasts."""
        with self._viewing(call, ts):
            catalog = self._catalog_at(ts)
            wanted = tables_named(names, catalog, own)
            copies: dict[str, Copy] = {}
            try:
                for name, table in wanted.items():
                    copies[name] = copy = self._mirror.copy(table, self._now(table), ts, call.check)
                    copy.pins += 1
            except BaseException:
                _unpin(copies)
                raise
        try:
            yield copies
        finally:
            with self._lock:
                _unpin(copies)

    @contextmanager
    def _viewing(self, call: Call, ts: int) -> Iterator[None]:
        """Hold the lock and a view of the store that knows `ts`."""
        while not self._lock.acquire(timeout=LOCK_WAIT_S):
            call.check()
        try:
            self._reader.refresh()
            try:
                check_known(self._reader, ts)
                yield
            finally:
                self._reader.release()
        finally:
            self._lock.release()

    def _catalog_at(self, ts: int) -> Catalog:
        return self._catalogs.at(self._reader, ts)

    def _now(self, table: TableMeta) -> TableMeta:
        return self._catalogs.newest(self._reader).by_number(table.number) or table

    # ── answers ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _result(self, call: Call, query: str, format: str) -> Path:
        path = self._file("result", format)
        write_result(call.duck, query, path, FORMATS[format])
        call.check()
        return path

    def _file(self, what: str, suffix: str) -> Path:
        return self._scratch / f"{what}-{next(self._files)}.{suffix}"

    def _check_size(self, path: Path) -> None:
        size, most = path.stat().st_size, self._knobs.analytics_result_bytes
        if size > most:
            path.unlink()
            raise LimitExceeded(
                f"the result has {size:,} bytes, {most:,} are possible: read fewer rows or columns, or raise the knob "
                "analytics_result_bytes",
                knob="analytics_result_bytes",
                limit=most,
                used=size,
            )


def open_duckdb(scratch: Path, knobs: Knobs) -> duckdb.DuckDBPyConnection:
    """A DuckDB database in the scratch directory, which is all it can reach."""
    import duckdb

    duck = duckdb.connect(str(scratch / "mirror.duckdb"))
    for setting in (
        f"allowed_directories = [{text_of(str(scratch))}]",
        f"temp_directory = {text_of(str(scratch / 'spill'))}",
        f"memory_limit = '{knobs.analytics_memory_bytes} bytes'",
        "TimeZone = 'UTC'",
        "autoinstall_known_extensions = false",
        "autoload_known_extensions = false",
        "enable_external_access = false",
        "lock_configuration = true",
    ):
        duck.execute(f"SET {setting}")
    return duck


def check_known(reader: Reader, ts: int) -> None:
    """Errors: OutOfRetention when the reader's view does not know `ts`, no longer or not yet."""
    if ts > reader.ts:
        raise OutOfRetention(f"the timestamp {ts} is in the future; the newest is {reader.ts}", ts=ts)
    if ts < reader.ts:
        reader.check_retention(ts)


def tables_named(names: Sequence[str], catalog: Catalog, own: frozenset[str] = frozenset()) -> dict[str, TableMeta]:
    """The store's tables for the names in a statement; SQL does not tell upper case from lower.

    `own` names are the statement's own and need not exist. Errors: NotFound with the names there are.
    """
    found: dict[str, TableMeta] = {}
    for name in names:
        table = _table_named(name, catalog)
        if table is not None:
            found[name] = table
        elif name.lower() not in {each.lower() for each in own}:
            raise _no_table(name, catalog)
    numbers: dict[str, int] = {}
    for name, table in found.items():
        if numbers.setdefault(name.lower(), table.number) != table.number:
            raise ValidationError(
                f"SQL: the tables named {name!r} differ in case only; one statement can read one of them"
            )
    return found


def _table_named(name: str, catalog: Catalog) -> TableMeta | None:
    exact = catalog.table(name)
    if exact is not None and (not exact.is_system or name in READABLE_SYSTEM_TABLES):
        return exact
    alike = [table for table in catalog.user_tables() if table.name.lower() == name.lower()]
    return alike[0] if len(alike) == 1 else None


def _no_table(name: str, catalog: Catalog) -> NotFound:
    known = [table.name for table in catalog.user_tables()]
    there = f"there are: {', '.join(known[:20])}{' …' if len(known) > 20 else ''}" if known else "it has no tables yet"
    return NotFound(f"the store has no table {name!r} at this moment; {there}", kind="table", name=name)


def _unpin(copies: dict[str, Copy]) -> None:
    for copy in copies.values():
        copy.pins -= 1
