"""A process to be killed: threads on a store, every request written down before it is sent and when it is answered.

python killed_writer.py STORE HISTORY WORKLOAD SEED       CELLSTORE_FAULT kills it at a point, CELLSTORE_BROKEN breaks it
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import nullcontext

from faults_by_name import FAULTS

from cellstore import faults
from cellstore.testing.clock import JumpingClock
from cellstore.testing.history import Recorded
from cellstore.testing.threads import run_threads
from cellstore.testing.workloads import WORKLOADS
from cellstore.transaction.database import Engine


def main(store: str, history: str, workload: str, seed: str) -> None:
    """Write until killed."""
    lines, lock = os.open(history, os.O_WRONLY | os.O_CREAT | os.O_APPEND), threading.Lock()

    def tell(record: Recorded) -> None:
        with lock:
            os.write(lines, record.to_json() + b"\n")

    engine = Engine.open(store, clock=JumpingClock(int(seed)))
    chosen = WORKLOADS[workload]
    with engine.begin() as transaction:  # an earlier life may have ended before its first documents were there
        setup = transaction.count(chosen.tables[0].name) == 0
    broken = os.environ.get("CELLSTORE_BROKEN")
    faults.arm_from_environment()
    print("open", flush=True)
    with FAULTS[broken]() if broken else nullcontext():
        run_threads(engine, chosen, int(seed), clients=4, seconds=60, tell=tell, setup=setup)


if __name__ == "__main__":
    main(*sys.argv[1:])
