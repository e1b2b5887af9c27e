"""Threads on one engine, as many as wanted, as fast as they can: what the simulation cannot show.

    history = run_threads(engine, WORKLOADS["bank"], seed=7, clients=8, seconds=1.5)
    history.check(WORKLOADS["bank"].rule, log_of(engine))

`tell` hears of every request before it is sent (its fate is unknown then) and of its answer: a process that is going to
be killed writes both to a file, and whoever reads the file knows what may have happened and what must have.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from random import Random

from cellstore.errors import CellstoreError, TransientError
from cellstore.storage.contract import LogEntry
from cellstore.testing.history import FOREVER, History, Recorded, clock, iterate_log
from cellstore.testing.trace import RecordedDatabase
from cellstore.testing.workloads import Step, Workload
from cellstore.transaction.database import Engine
from cellstore.transaction.requests import Committed

Tell = Callable[[Recorded], None]


def run_threads(
    engine: Engine,
    workload: Workload,
    seed: int,
    *,
    clients: int = 8,
    seconds: float = 1.0,
    enough: int = 0,
    tell: Tell = lambda _record: None,
    setup: bool = True,
) -> History:
    """Set the workload up, let `clients` threads work for `seconds`, and until `enough` has been committed; the history."""
    history = History(seed)
    if setup:
        engine.define(*workload.tables)
        perform(engine, workload, history, "setup", ("setup", {}), tell)
    deadline = time.monotonic() + seconds
    failures: list[BaseException] = []

    def client(number: int) -> None:
        dice, count = Random(f"{seed}.{number}"), 0
        try:
            while (time.monotonic() < deadline or history.committed("") <= enough) and not failures:
                count += 1
                perform(engine, workload, history, f"client{number}.{count}", workload.plan(dice), tell)
        except BaseException as error:  # noqa: BLE001  a thread ends here; it is raised below
            failures.append(error)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return history


def perform(engine: Engine, workload: Workload, history: History, label: str, step: Step, tell: Tell) -> None:
    """One step, run again until it is committed."""
    while True:
        record = _attempt(engine, workload, f"{step[0]} {label}", step, tell)
        history.add(record)
        tell(record)
        if record.fate == "committed":
            return


def _attempt(engine: Engine, workload: Workload, label: str, step: Step, tell: Tell) -> Recorded:
    began = clock()
    ahead = bool(began & 1)  # every other one sees what the disk does not have yet, as in `Engine.run`
    with engine.begin(told_by_commit=ahead) as transaction:
        db = RecordedDatabase(transaction)
        value = workload.perform(db, step)
        request = transaction.freeze(label)
    record = Recorded(label, db.trace, began, FOREVER, "unknown", request.begin_ts, bool(request.writes), value)
    if not request.writes:  # as a query: it needs nobody's leave
        if ahead:
            engine.commit([])
        record.fate, record.ended = "committed", clock()
        return record
    tell(record)
    (answer,) = engine.commit([request])
    record.ended = clock()
    if isinstance(answer, Committed):
        record.fate, record.ts = "committed", answer.ts
    elif isinstance(answer, TransientError):
        record.fate = "refused"
    else:
        assert isinstance(answer, CellstoreError)
        raise answer
    return record


def log_of(engine: Engine) -> list[LogEntry]:
    """The whole document log of a store."""
    reader = engine.storage.reader()
    try:
        return list(iterate_log(reader.log, reader.refresh()))
    finally:
        reader.close()
