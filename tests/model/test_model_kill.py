"""Killed with -9, opened again, killed again: what was acknowledged is in the history, and the history is serial."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from soak import seeds

from cellstore.testing.history import History, Recorded, Violation
from cellstore.testing.threads import log_of
from cellstore.testing.workloads import WORKLOADS
from cellstore.transaction.database import Engine

WRITER = Path(__file__).with_name("killed_writer.py")


def run_and_kill(path: Path, workload: str, seed: int, after_s: float, **environment: str) -> None:
    """Start the writer; kill it `after_s` after it has opened the store, unless it has killed itself by then."""
    command = [sys.executable, str(WRITER), str(path / "store.db"), str(path / "history"), workload, str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, **environment}) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"open\n"
        try:
            ended = writer.wait(after_s)
            assert ended == -9 or "CELLSTORE_BROKEN" in environment, "it ends by being killed"
        except subprocess.TimeoutExpired:
            writer.kill()


def told(path: Path, seed: int) -> History:
    """The history as the killed process wrote it down: of each attempt its last line. The very last may be torn."""
    attempts: dict[tuple[str, int], Recorded] = {}
    for line in (path / "history").read_bytes().split(b"\n")[:-1]:
        record = Recorded.from_json(line)
        attempts[record.label, record.began] = record
    return History(seed, list(attempts.values()))


def judge(path: Path, workload: str, seed: int) -> History:
    """Open the store again and compare all of it with what was told. Nothing is repaired: opening is all there is."""
    history = told(path, seed)
    with Engine.open(path / "store.db") as engine:
        assert list(engine.storage.check(engine.catalog.keys_of)) == []
        history.check(WORKLOADS[workload].rule, log_of(engine))
    return history


@pytest.mark.parametrize("workload", WORKLOADS)
def test_three_kills_in_a_row_lose_nothing_that_was_acknowledged(workload: str, tmp_path: Path) -> None:
    """In every life the clock jumps, so each begins before or after the one before ended."""
    for life in seeds(3):
        run_and_kill(tmp_path, workload, life, random.uniform(0.1, 0.4))
        committed = judge(tmp_path, workload, life).committed("")
    while committed <= 20:  # on a busy machine lives end early
        life += 1
        run_and_kill(tmp_path, workload, life, random.uniform(0.1, 0.4))
        committed = judge(tmp_path, workload, life).committed("")


@pytest.mark.parametrize(
    "point", ["commit.validated", "storage.visible", "storage.committed", "commit.persisted", "commit.published"]
)
def test_a_kill_at_each_point_of_a_commit_leaves_all_of_it_or_nothing(point: str, tmp_path: Path) -> None:
    for life, count in enumerate((7, 23)):
        run_and_kill(tmp_path, "bank", life, 30, CELLSTORE_FAULT=f"{point}=kill@{count}")
        judge(tmp_path, "bank", life)


def test_an_engine_that_acknowledges_before_it_stores_is_noticed(tmp_path: Path) -> None:
    """A test of this test: the last fsync is lost."""
    broken = "commits_are_acknowledged_before_they_are_stored"
    run_and_kill(tmp_path, "bank", 1, 30, CELLSTORE_BROKEN=broken, CELLSTORE_FAULT="commit.published=kill@40")
    with pytest.raises(Violation, match="is not in the log"):
        judge(tmp_path, "bank", 1)


def written(path: Path, seed: int, since_ns: int) -> list[int]:
    """The timestamps a life gave out. On a busy machine it takes several to get to the first."""
    found: list[int] = []
    while not found:
        run_and_kill(path, "append", seed, 0.2)
        found = [one.ts or 0 for one in judge(path, "append", seed).order() if one.began > since_ns and one.changed]
    return found


def test_a_store_opened_again_goes_on_with_rising_timestamps(tmp_path: Path) -> None:
    before = written(tmp_path, 1, 0)
    assert min(written(tmp_path, 2, time.monotonic_ns())) > max(before)
