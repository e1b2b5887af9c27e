"""Every workload, interleaved step by step with the lane, on both storages and under clocks that jump."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from soak import seeds

from cellstore.testing.clock import FakeClock
from cellstore.testing.history import History
from cellstore.testing.simulation import simulate
from cellstore.testing.workloads import WORKLOADS
from cellstore.transaction.database import Engine

HOUR_NS = 3_600 * 10**9


@pytest.mark.parametrize("name", WORKLOADS)
def test_interleaved_clients_and_the_lane_are_serializable(name: str) -> None:
    for seed in seeds(15):
        simulate(WORKLOADS[name], seed)


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_busy_lane_with_one_stranger_is_serializable(name: str) -> None:
    for seed in seeds(8):
        simulate(WORKLOADS[name], seed, clients=1, lane=4)


@pytest.mark.parametrize("name", WORKLOADS)
def test_they_are_on_sqlite_too(name: str, tmp_path: Path) -> None:
    stores = iter(range(10**6))

    def open_engine(clock: FakeClock) -> Engine:
        return Engine.open(tmp_path / f"{next(stores)}.db", clock=clock)

    for seed in seeds(2):
        simulate(WORKLOADS[name], seed, steps=25, open_engine=open_engine)


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_clock_that_jumps_back_and_forth_changes_nothing(name: str) -> None:
    def jump(dice: Random) -> int:
        return dice.choice((0, 1, -1, -1000, HOUR_NS, -HOUR_NS))

    for seed in seeds(10):
        simulate(WORKLOADS[name], seed, clock_step=jump)


def test_the_same_seed_gives_the_same_history() -> None:
    def story(history: History) -> list[object]:
        return [(one.label, one.fate, one.ts, one.trace, one.value) for one in history.transactions]

    first, second = (simulate(WORKLOADS["bank"], 11) for _ in range(2))
    assert story(first) == story(second)


def test_contention_and_all_ways_of_running_do_occur() -> None:
    """A simulation in which nothing ever meets would prove nothing."""
    histories = [simulate(WORKLOADS["queue"], seed) for seed in range(5)]
    all_of_them = [one for history in histories for one in history.transactions]
    assert sum(one.fate == "refused" for one in all_of_them) > 50
    assert sum("lane" in one.label and one.fate == "committed" for one in all_of_them) > 20
    assert any(["rollback"] in one.trace for one in all_of_them)
    assert {one.label.partition(" ")[0] for one in all_of_them} == {"setup", "push", "claim"}
