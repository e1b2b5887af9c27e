"""A commit can be seen by workers before the disk has it: what it touches runs meanwhile, and nobody is told."""

import asyncio
import select
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import apsw
import orjson

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))
from runtime_harness import unit_of

from cellstore.protocol.version import decode_ts
from cellstore.server.deployment import Deployment

SOURCE = """
    @cs.query
    def total(ctx):
        return sum(row.n for row in ctx.db.query("t").collect())

    @cs.mutation
    def add(ctx, n: int):
        ctx.db.insert("t", {"n": n})

    @cs.mutation
    def note(ctx):
        ctx.db.insert("notes", {})
"""


class Watcher:
    """A client with one live query; every value it was shown, and how each of its mutations was answered."""

    def __init__(self, deployment: Deployment) -> None:
        self.shown: list[Any] = []
        self.moment = 0
        self.answered: list[bool] = []
        self._changed = asyncio.Event()
        self._connection = deployment.connect(self._take, lambda code, reason: None)
        add = {"type": "Add", "queryId": 0, "udfPath": "m:total", "args": [{}]}
        self.say("Connect", sessionId="3f2e1d00-0000-4000-8000-000000000000", connectionCount=0, lastCloseReason=None)
        self.say("ModifyQuerySet", baseVersion=0, newVersion=1, modifications=[add])

    def say(self, kind: str, **fields: Any) -> None:
        self._connection.receive(orjson.dumps({"type": kind, **fields}).decode())

    def add(self, n: int) -> None:
        self.say("Mutation", requestId=n, udfPath="m:add", args=[{"n": n}])

    def _take(self, frame: bytes) -> bool:
        message = orjson.loads(frame)
        if message["type"] == "Transition":
            self.shown += [change.get("value") for change in message["modifications"]]
            self.moment = decode_ts(message["endVersion"]["ts"])
        elif message["type"] == "MutationResponse":
            self.answered.append(message["success"])
        self._changed.set()
        return True

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


def watched(path: Path, test: Callable[[Deployment, Watcher], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        deployment = Deployment(path / "store.db")
        await deployment.start()
        try:
            runner: Any = deployment._runner
            await runner.deploy(unit_of(SOURCE))
            watcher = Watcher(deployment)
            watcher.add(1)
            await watcher.until(lambda: watcher.shown[-1:] == [1])
            await test(deployment, watcher)
        finally:
            await deployment.stop()

    asyncio.run(run())


def slow_disk(deployment: Deployment, finish: Callable[[], None]) -> None:
    """The disk is done only when a worker has run the query; the loop stands still, as it does in every commit."""
    runner: Any = deployment._runner
    links = [worker.link for team in runner._teams.values() for worker in team.workers]
    storage: Any = runner._engine.storage

    def sync() -> None:
        answered, _, _ = select.select([link._socket for link in links], [], [], 20)
        assert answered, "no worker ran the query while the disk was at work"
        finish()

    storage._sync = sync


def test_a_live_query_runs_while_the_commit_becomes_durable(tmp_path):
    async def test(deployment: Deployment, watcher: Watcher) -> None:
        storage: Any = deployment._engine.storage  # type: ignore[union-attr]
        real, told = storage._sync, []

        def finish() -> None:
            real()
            told.append((watcher.shown[-1], len(watcher.answered)))

        slow_disk(deployment, finish)
        watcher.add(2)
        await watcher.until(lambda: watcher.shown[-1:] == [3])
        assert told == [(1, 1)], "nothing was told before the disk was done"
        assert watcher.answered == [True, True]

    watched(tmp_path, test)


def test_what_a_commit_led_to_is_never_shown_when_the_disk_fails(tmp_path):
    async def test(deployment: Deployment, watcher: Watcher) -> None:
        def finish() -> None:
            raise deployment._engine.storage._unknown(apsw.IOError("disk I/O error"))  # type: ignore[union-attr]

        slow_disk(deployment, finish)
        watcher.add(2)
        await watcher.until(lambda: len(watcher.answered) > 1 or deployment.failure is not None)
        for _ in range(50):
            await asyncio.sleep(0.002)
        assert 3 not in watcher.shown
        assert watcher.answered in ([True], [True, False])

    watched(tmp_path, test)


def test_nobody_is_moved_to_a_moment_of_which_the_disk_knows_nothing(tmp_path):
    async def test(deployment: Deployment, watcher: Watcher) -> None:
        engine: Any = deployment._engine

        def fail() -> None:
            raise engine.storage._unknown(apsw.IOError("disk I/O error"))

        engine.storage._sync = fail
        watcher.say("Mutation", requestId=2, udfPath="m:note", args=[{}])
        await watcher.until(lambda: len(watcher.answered) > 1)
        for _ in range(50):
            await asyncio.sleep(0.002)
        assert watcher.moment <= engine.published_ts

    watched(tmp_path, test)
