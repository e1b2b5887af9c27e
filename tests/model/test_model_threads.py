"""Every workload with real threads, on both storages: retries, read-only transactions, savepoints, real time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from soak import seconds

from cellstore.testing.clock import NOON_NS
from cellstore.testing.threads import log_of, run_threads
from cellstore.testing.workloads import WORKLOADS
from cellstore.transaction.database import Engine


@pytest.fixture(autouse=True)
def _switch_often() -> Iterator[None]:
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.parametrize("storage", ["memory", "sqlite"])
@pytest.mark.parametrize("name", WORKLOADS)
def test_threads_on_one_engine_are_serializable(name: str, storage: str, tmp_path: Path) -> None:
    workload = WORKLOADS[name]
    with Engine.memory() if storage == "memory" else Engine.open(tmp_path / "store.db") as engine:
        history = run_threads(engine, workload, seed=1, seconds=seconds(0.5), enough=20)
        history.check(workload.rule, log_of(engine))
        assert list(engine.storage.check(engine.catalog.keys_of)) == []


class TurningClock:
    """Five seconds forward, nine back, and so on, at every look."""

    def __init__(self) -> None:
        self._looks = 0

    def now_ns(self) -> int:
        self._looks += 1
        return NOON_NS + (5 if self._looks % 2 else -9) * 10**9 * self._looks


@pytest.mark.parametrize("storage", ["memory", "sqlite"])
@pytest.mark.parametrize("name", WORKLOADS)
def test_timestamps_rise_although_the_clock_does_not(name: str, storage: str, tmp_path: Path) -> None:
    workload = WORKLOADS[name]
    clock = TurningClock()
    path = tmp_path / "store.db"
    with Engine.memory(clock=clock) if storage == "memory" else Engine.open(path, clock=clock) as engine:
        history = run_threads(engine, workload, seed=2, seconds=seconds(0.3))
        history.check(workload.rule, log_of(engine))
