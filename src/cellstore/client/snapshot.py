"""The whole database at one moment.

    snap = cs.snapshot()                          now; or at=ts | datetime | timedelta (a span before now)
    snap.df("tasks")                              one table: .df .arrow .polars
    snap.sql("select count(*) from tasks").df()   DuckDB over all of them
    snap.diff(earlier)                            what is different
    snap.to_parquet("backup/")                    a file per table

A snapshot is a timestamp and a door: nothing is copied until it is asked for, and what is asked for later shows the same
moment, as long as the store keeps it (knob retention_s, a day).
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellstore.client.difference import Difference
from cellstore.client.errors_render import doorway
from cellstore.client.frames import Result
from cellstore.client.listing import Tables
from cellstore.errors import CallerError, CellstoreError

if TYPE_CHECKING:
    from cellstore.client.database import Database, Moment

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Snapshot:
    """All tables as of `ts`."""

    def __init__(self, database: Database, ts: int) -> None:
        self.ts = ts  # ns since 1970
        self._database = database
        self._tables: Tables | None = None

    @property
    def time(self) -> datetime:
        """The moment in UTC, to the µs."""
        return moment_of(self.ts)

    def tables(self) -> Tables:
        """The tables there were: name, fields, indexes, number of documents (`count`)."""
        with doorway():
            if self._tables is None:
                self._tables = Tables(self._database._control("tables", {"ts": self.ts})[0]["tables"])
            return self._tables

    def df(self, table: str) -> Any:
        """A table as a pandas DataFrame, in order of creation; dtypes as in `frames`. Errors: NotFound."""
        return self._table(table).df()

    def arrow(self, table: str) -> Any:
        """A table as a pyarrow Table. Errors: NotFound; CallerError when pyarrow is not installed."""
        return self._table(table).arrow()

    def polars(self, table: str) -> Any:
        """A table as a polars DataFrame. Errors: NotFound; CallerError when polars is not installed."""
        return self._table(table).polars()

    def sql(self, statement: str) -> Result:
        """The result of one SELECT-like statement in DuckDB's SQL; the tables are named as in the store.

        `_id` and `_creationTime` are columns. Errors: ValidationError pointing at the mistake; NotFound for a table.
        """
        with doorway():
            _, octets = self._database._control("sql", {"ts": self.ts, "format": "parquet"}, statement.encode())
            return Result(octets, {"sql": statement.strip()}, self.ts)

    def to_parquet(self, directory: str | os.PathLike[str]) -> list[Path]:
        """Write every table to `directory`/table.parquet; the files. A file is there whole or not at all."""
        with doorway():
            target = Path(directory)
            target.mkdir(parents=True, exist_ok=True)
            return [
                _written(target / f"{table['name']}.parquet", self._octets(table["name"])) for table in self.tables()
            ]

    def diff(self, other: Snapshot) -> Difference:
        """What is different between two snapshots: from the earlier to the later, whichever is asked."""
        with doorway():
            if not isinstance(other, Snapshot):
                raise CallerError(
                    f"diff compares two snapshots; {type(other).__name__} is none: take one by cs.snapshot()"
                )
            early, late = sorted((self.ts, other.ts))
            _, lines = self._database._control("diff", {"ts0": early, "ts1": late})
            return Difference(lines, early, late)

    def _table(self, table: str) -> Result:
        with doorway():
            return Result(self._octets(table), {"table": table}, self.ts)

    def _octets(self, table: str) -> bytes:
        return self._database._control("table_parquet", {"table": table, "ts": self.ts})[1]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Snapshot) and (other._database, other.ts) == (self._database, self.ts)

    def __hash__(self) -> int:
        return hash(self.ts)

    def __repr__(self) -> str:
        return f"<Snapshot of {self._database.where} at {shown(self.ts)} (ts {self.ts})>"

    def _repr_html_(self) -> str:
        head = f"Snapshot of {escape(self._database.where)} at {shown(self.ts)} (ts {self.ts})"
        try:
            tables = self.tables()
        except CellstoreError as error:  # away, or past retention: showing must not fail
            return f"<p>{head}</p><p>{escape(error.message)}</p>"
        rows = "".join(
            f'<tr><td style="text-align:left">{escape(table["name"])}</td><td>{table["count"]:,}</td></tr>'
            for table in tables
        )
        return (
            f"<p>{head}</p><table><thead><tr><th>table</th><th>documents</th></tr></thead><tbody>{rows}</tbody></table>"
        )


def take_snapshot(database: Database, at: Moment = None) -> Snapshot:
    """The database at a moment: now, a timestamp in ns, a datetime (without a zone: local time), a span before now.

    Errors: OutOfRetention for a moment the store does not keep any more, that is still to come, or was before the store's
    first commit; CallerError for anything that is no moment.
    """
    answer, _ = database._control("snapshot_ts", _asked(at))
    return Snapshot(database, int(answer["ts"]))


def _asked(at: Any) -> dict[str, int]:
    if at is None:
        return {}
    if isinstance(at, timedelta):
        if at < timedelta(0):
            raise CallerError(f"a span is counted back from now, and {at} would lie in the future", code="BadMoment")
        return {"ago": at // _MICROSECOND * 1000}
    if isinstance(at, datetime):
        return {"at": timestamp_of(at)}
    if isinstance(at, int) and not isinstance(at, bool):
        return {"at": at}
    raise CallerError(
        f"{at!r} is no moment: give a timestamp in ns (an int), a datetime, or a timedelta before now", code="BadMoment"
    )


def timestamp_of(moment: datetime) -> int:
    """ns since 1970, exactly. Without a zone it is local time."""
    aware = moment if moment.utcoffset() is not None else moment.astimezone()
    return (aware - _EPOCH) // _MICROSECOND * 1000


def moment_of(ts: int) -> datetime:
    """The moment of a timestamp, in UTC, to the µs below."""
    return _EPOCH + timedelta(microseconds=ts // 1000)


def shown(ts: int) -> str:
    """A timestamp for people."""
    return f"{moment_of(ts):%Y-%m-%d %H:%M:%S.%f} UTC"


def _written(path: Path, octets: bytes) -> Path:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(octets)
    return partial.replace(path)
