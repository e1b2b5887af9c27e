"""Live queries over the sync protocol while everything moves: only what was so at some moment, and up to date at the end."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import orjson
import pytest
from soak import seconds

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))
from runtime_harness import unit_of

from cellstore.protocol.version import StateVersion
from cellstore.reactivity.subscriptions import Subscriptions
from cellstore.server.deployment import Deployment
from cellstore.storage.contract import table_of_by_id
from cellstore.testing.history import History, Violation
from cellstore.testing.threads import log_of, perform
from cellstore.testing.trace import Trace
from cellstore.testing.workloads import WORKLOADS, Workload
from cellstore.transaction.write_log import WriteLog
from cellstore.values.json import loads

# a trace travels as text, so that ints and floats stay apart on any wire
SOURCE = """
    from cellstore.testing.trace import recorded
    from cellstore.testing.workloads import WORKLOADS
    from cellstore.values.json import dumps

    @cs.query
    def look(ctx, workload, step, arguments):
        with recorded(ctx) as db:
            WORKLOADS[workload].perform(db, (step, arguments))
            return dumps(db.trace).decode()
"""
WATCHED: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "bank": [("audit", {})],
    "set": [("members", {"size": 2, "descending": False}), ("members", {"size": 3, "descending": True}), ("odd", {})],
    "append": [("read_lists", {"names": [0, 1]}), ("read_lists", {"names": [2]})],
    "register": [("read", {"name": name}) for name in range(3)],
    "ranges": [("tally", {})],
}


class Watcher:
    """A client with live queries; after every transition everything it holds goes into the history."""

    def __init__(self, deployment: Deployment, workload: Workload, history: History, name: str) -> None:
        self.history, self.name = history, name
        self.held: dict[int, Trace] = {}
        self.ts = 0
        self._connection = deployment.connect(self._take, lambda code, reason: None)
        adds = [
            {
                "type": "Add",
                "queryId": number,
                "udfPath": "m:look",
                "args": [{"workload": workload.name, "step": step, "arguments": arguments}],
            }
            for number, (step, arguments) in enumerate(WATCHED[workload.name])
        ]
        self._say("Connect", sessionId=name, connectionCount=0, lastCloseReason=None)
        self._say("ModifyQuerySet", baseVersion=0, newVersion=1, modifications=adds)

    def _say(self, kind: str, **fields: Any) -> None:
        self._connection.receive(orjson.dumps({"type": kind, **fields}).decode())

    def _take(self, frame: bytes) -> bool:
        message = orjson.loads(frame)
        if message["type"] == "Transition":
            for change in message["modifications"]:
                assert change["type"] == "QueryUpdated", change
                self.held[change["queryId"]] = loads(change["value"])
            self.ts = StateVersion.from_wire(message["endVersion"]).ts
            for number, trace in self.held.items():
                self.history.show(f"{self.name} query {number}", trace, self.ts)
        return True


async def watch(path: Path, workload: Workload, how_long_s: float) -> History:
    """Writers in threads, watchers that come one after another; the history once everybody is up to date."""
    deployment = Deployment(path / "store.db", runner="inline")
    await deployment.start()
    try:
        engine, history = deployment._engine, History(workload.name)
        assert engine is not None
        assert deployment._runner is not None
        engine.define(*workload.tables)
        await deployment._runner.deploy(unit_of(SOURCE))
        perform(engine, workload, history, "setup", ("setup", {}), lambda _: None)
        deadline = time.monotonic() + how_long_s

        def write(number: int) -> None:
            dice = Random(number)
            while time.monotonic() < deadline:
                perform(engine, workload, history, f"writer{number}", workload.plan(dice), lambda _: None)

        writers = [asyncio.to_thread(write, number) for number in range(3)]
        working = asyncio.gather(*writers)
        watchers = []
        while not working.done():
            watchers.append(Watcher(deployment, workload, history, f"watcher{len(watchers)}"))
            await asyncio.wait([working], timeout=how_long_s / 4)
        await working
        await settled(watchers, deployment)
        history.check(workload.rule, log_of(engine))
        return history
    finally:
        await deployment.stop()


async def settled(watchers: list[Watcher], deployment: Deployment) -> None:
    """Until every watcher has heard of the newest moment, or nothing has come for a while."""
    for _ in range(200):
        if all(watcher.ts >= deployment.newest_ts() for watcher in watchers):
            return
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("name", WATCHED)
def test_live_queries_show_moments_in_order_and_end_up_to_date(name: str, tmp_path: Path) -> None:
    history = asyncio.run(watch(tmp_path, WORKLOADS[name], seconds(0.8)))
    assert len(history.shown) > 20


# ── a test of the tests ───────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def commits_are_published_in_reverse() -> Iterator[None]:
    """Every other commit is told only after the next: what comes late is taken for old."""
    real, late = Subscriptions.on_commit, []

    def on_commit(self: Any, commits: Any) -> None:
        late[:0] = commits
        if len(late) > 1:
            real(self, list(late))
            late.clear()

    with patch.object(Subscriptions, "on_commit", on_commit):
        yield


@contextmanager
def a_result_is_never_checked_against_what_came_meanwhile() -> Iterator[None]:
    """Between the run of a query and its subscription, commits are lost."""
    with patch.object(WriteLog, "first_hit", lambda self, reads, after_ts: None):
        yield


@contextmanager
def only_looks_by_id_are_followed() -> Iterator[None]:
    """Whoever scanned hears of nothing."""
    real = Subscriptions.touched

    def touched(self: Any, commit: Any) -> Any:
        keys = {index: found for index, found in commit.keys.items() if table_of_by_id(index) is not None}
        return real(self, type(commit)(commit.ts, keys))

    with patch.object(Subscriptions, "touched", touched):
        yield


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("append", commits_are_published_in_reverse),
        ("append", a_result_is_never_checked_against_what_came_meanwhile),
        ("ranges", only_looks_by_id_are_followed),
    ],
    ids=lambda one: getattr(one, "__name__", one),
)
def test_live_queries_that_miss_a_commit_are_noticed(name: str, fault: Any, tmp_path: Path) -> None:
    with fault(), pytest.raises(Violation, match=r"showed as of|stands still|went back"):
        _ = [asyncio.run(watch(tmp_path / str(attempt), WORKLOADS[name], 0.6)) for attempt in range(8)]
