"""`insert_df`: a dataframe becomes documents, in batches, each one durable commit.

    slice ──▶ lines ──▶ POST x/insert ──▶ worker: parse, check, key ──▶ a commit for each thousand rows
      └── the next slice is made into lines while this one is under way; likewise the next thousand rows are prepared
          while these are written

Order:     one request is under way at a time, so documents are created in the order of the frame.
Errors:    ValidationError naming the row of the frame, its field, what was expected and what came. Commits before it
           stay, and the error says how many rows that is, and how to go on from there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from cellstore.client.loop import wait
from cellstore.client.progress import Progress
from cellstore.client.rows import Batch, Fields, batches, length_of, moments_undeclared
from cellstore.errors import CellstoreError

if TYPE_CHECKING:
    from cellstore.client.database import Database

BATCH_ROWS = 8_000  # enough to keep a worker and the committer busy together, few enough to hold two in memory
BATCH_BYTES = 8 << 20
_ROW = re.compile(r"row (\d+): ")


class Inserted(int):
    """How many documents were inserted; also `.table`, `.ts` (of the last commit, ns), `.seconds`, and `.as_text`: columns of
    moments that became text, because the table does not declare them."""

    table: str
    ts: int
    seconds: float
    as_text: list[str]

    def __repr__(self) -> str:
        rate = f", {int(self) / self.seconds:,.0f}/s" if self.seconds > 0 else ""
        report = f"{int(self):,} documents into {self.table!r} in {self.seconds:.1f} s{rate}"
        if not self.as_text:
            return report
        names = ", ".join(self.as_text)
        return f"{report}\nmoments were stored as text: a cs.Table that declares {names} as datetime gives them back as moments"

    __str__ = __repr__


def insert_df(
    database: Database, table: str, df: Any, *, batch_rows: int = BATCH_ROWS, progress: bool = True
) -> Inserted:
    """Insert every row of `df`; see `Database.insert_df`."""
    began = time.monotonic()
    inserted, ts = 0, 0
    fields = _declared_fields(database, table)
    with Progress(table, length_of(df), progress) as bar:
        for batch in _made_ahead(batches(df, fields, batch_rows, BATCH_BYTES)):
            try:
                answer, _ = database._control("insert", {"table": table}, batch.lines)
            except CellstoreError as error:
                raise _placed(error, table, inserted) from None
            inserted, ts = inserted + batch.size, answer["ts"]
            bar.advance(batch.size)
    report = Inserted(inserted)
    report.table, report.ts, report.seconds = table, ts, time.monotonic() - began
    report.as_text = moments_undeclared(df, fields)
    return report


def _made_ahead(made: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches; each is made while the one before it is being used."""
    with ThreadPoolExecutor(1, thread_name_prefix="cellstore-rows") as thread:
        coming = thread.submit(next, made, None)
        while (batch := wait(coming)) is not None:
            coming = thread.submit(next, made, None)
            yield batch


def _declared_fields(database: Database, table: str) -> Fields:
    """What the table declares, so that missing values and integral floats find their form."""
    for known in database.tables():
        if known["name"] == table:
            return known.get("fields") or {}
    return {}


def _placed(error: CellstoreError, table: str, inserted: int) -> CellstoreError:
    """The error with the row's number in the frame instead of in its batch, and what stands in the store."""
    match = _ROW.match(error.message)
    before, inserted = inserted, inserted + error.inserted
    text = error.message if match is None else f"row {int(match[1]) + before}: {error.message[match.end() :]}"
    if inserted:
        text += f" (the {inserted:,} rows before are in {table!r}: go on with df.iloc[{inserted}:])"
    error.message, error.args, error.inserted = text, (text,), inserted
    return error
