"""A commit can be seen by workers before the disk has it: what it touches runs meanwhile, and nobody is told."""

import asyncio
import select
import shutil
import sys
import textwrap
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import apsw
import orjson
import pytest
from tornado.httpclient import HTTPClientError

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))
from runtime_harness import unit_of

from cellstore.errors import FatalError
from cellstore.protocol.version import decode_ts
from cellstore.reactivity.connection import STOPPED
from cellstore.server import deployment as deployments
from cellstore.server.deployment import Deployment

SOURCE = """
    @cs.query
    def total(ctx):
        return sum(row.n for row in ctx.db.query("t").collect())

    @cs.mutation
    def add(ctx, n: int):
        ctx.db.insert("t", {"n": n})

    @cs.mutation
    def add_soon(ctx, n: int):
        ctx.scheduler.run_after(0.5, add, n=n)

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
        self.closed: tuple[int, str] | None = None
        self._changed = asyncio.Event()
        self._connection = deployment.connect(self._take, self._end)
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

    def _end(self, code: int, reason: str) -> None:
        self.closed = (code, reason)
        self._changed.set()

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


def fail_to_sync(deployment: Deployment) -> None:
    """The disk has it, or has not, and says that it failed."""
    storage: Any = deployment._engine.storage  # type: ignore[union-attr]

    class Log:
        xClose = storage._log.xClose

        def xSync(self, _flags: int) -> None:
            raise apsw.IOError("disk I/O error")

    storage._log = Log()


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
        await watcher.until(lambda: watcher.closed is not None)
        await deployment.stop()
        assert (watcher.shown, watcher.answered) == ([0, 1], [True])

    watched(tmp_path, test)


def test_nobody_is_moved_to_a_moment_of_which_the_disk_knows_nothing(tmp_path):
    async def test(deployment: Deployment, watcher: Watcher) -> None:
        engine: Any = deployment._engine
        fail_to_sync(deployment)
        watcher.say("Mutation", requestId=2, udfPath="m:note", args=[{}])
        await watcher.until(lambda: watcher.closed is not None)
        await deployment.stop()
        assert watcher.moment <= engine.published_ts

    watched(tmp_path, test)


def test_when_the_disk_fails_nothing_is_answered_and_everybody_is_closed_with_a_reason(tmp_path):
    async def test(deployment: Deployment, watcher: Watcher) -> None:
        idle = Watcher(deployment)
        fail_to_sync(deployment)
        for n in (2, 3, 4):
            watcher.add(n)
        await watcher.until(lambda: watcher.closed is not None)
        assert watcher.answered == [True]
        assert watcher.closed == idle.closed == (1011, STOPPED)
        assert "unknown" in STOPPED
        assert len(STOPPED.encode()) <= 123  # what a close frame holds

    watched(tmp_path, test)


def test_also_when_it_fails_a_mutation_that_nobody_waits_for(tmp_path):
    async def test(deployment: Deployment, watcher: Watcher) -> None:
        fail_to_sync(deployment)
        runner: Any = deployment._runner
        with pytest.raises(FatalError, match="unknown"):  # as the scheduler runs it
            await runner.mutation("m:add", {"n": 5}, internal=True)
        assert watcher.closed == (1011, STOPPED)
        await deployment.stop()
        with pytest.raises(FatalError, match="unknown"):
            await deployment.query("m:total", {})

    watched(tmp_path, test)


@pytest.mark.parametrize("happened", [True, False])
def test_what_was_not_answered_is_sent_again_and_has_happened_once(tmp_path, happened):
    before = tmp_path / "before"

    async def fail(deployment: Deployment, watcher: Watcher) -> None:
        shutil.copytree(tmp_path / "store", before)
        fail_to_sync(deployment)
        watcher.add(2)
        await watcher.until(lambda: watcher.closed is not None)

    async def ask_again() -> None:
        deployment = Deployment(tmp_path / "store" / "store.db")
        await deployment.start()
        try:
            watcher = Watcher(deployment)
            watcher.add(2)
            await watcher.until(lambda: watcher.shown[-1:] == [3] and bool(watcher.answered))
            assert watcher.answered == [True]
        finally:
            await deployment.stop()

    watched(tmp_path / "store", fail)
    if not happened:  # the disk has lost what it did not confirm
        shutil.rmtree(tmp_path / "store")
        before.rename(tmp_path / "store")
    asyncio.run(ask_again())


async def test_a_server_opens_a_store_again_whose_disk_had_failed(served, tmp_path, monkeypatch):
    monkeypatch.setattr(deployments, "REOPEN_AFTER_S", 0.05)
    (tmp_path / "m.py").write_text("import cellstore as cs\n" + textwrap.dedent(SOURCE))
    await served.deploy(tmp_path / "m.py")
    client = {"sessionId": "3f2e1d00-0000-4000-8000-000000000000", "lastCloseReason": None}
    wire = await served.socket(headers=served.token_header)
    await wire.say("Connect", connectionCount=0, **client)
    fail_to_sync(await served.app.deployment("default"))
    await wire.say("Mutation", requestId=0, udfPath="m:add", args=[{"n": 1}])
    assert await wire.closed() == (1011, STOPPED)
    again = await until_open(served)
    await again.say("Connect", connectionCount=1, **client)
    assert (await again.call("Mutation", "m:add", {"n": 1}))["success"], "the same request"
    total = await served.fetch("api/query", {"path": "m:total", "args": {}, "format": "json"}, served.token_header)
    assert total.json["value"] == 1


async def test_it_is_opened_again_for_its_jobs_though_nobody_asks(served, tmp_path, monkeypatch):
    monkeypatch.setattr(deployments, "REOPEN_AFTER_S", 0.05)
    (tmp_path / "m.py").write_text("import cellstore as cs\n" + textwrap.dedent(SOURCE))
    await served.deploy(tmp_path / "m.py")
    failing = await served.app.deployment("default")
    await failing.mutation("m:add_soon", {"n": 1})
    fail_to_sync(failing)
    await failing.mutation("m:add", {"n": 2})
    async with asyncio.timeout(20):
        while (again := served.app._deployments["default"]) is failing:
            await asyncio.sleep(0.01)
        while (await again.query("m:total", {})).value not in (b"1", b"3"):
            await asyncio.sleep(0.01)


async def until_open(served):
    async with asyncio.timeout(20):
        while True:
            try:
                return await served.socket(headers=served.token_header)
            except HTTPClientError as closed:
                if closed.code != 503:
                    raise
                await asyncio.sleep(0.01)


async def test_over_http_nobody_is_told_that_it_failed_when_it_may_have_happened(served, tmp_path):
    (tmp_path / "m.py").write_text("import cellstore as cs\n" + textwrap.dedent(SOURCE))
    await served.deploy(tmp_path / "m.py")
    body = {"path": "m:add", "args": {"n": 1}, "format": "json"}
    assert (await served.fetch("api/mutation", body, served.token_header)).status == 200
    fail_to_sync(await served.app.deployment("default"))
    unknown = await served.fetch("api/mutation", body, served.token_header)
    assert (unknown.status, unknown.json["code"]) == (503, "OutcomeUnknown")
    assert "whether it happened is unknown" in unknown.json["message"]
    later = await served.fetch("api/mutation", body, served.token_header)
    assert (later.status, later.json["class"]) == (503, "FatalError")
    assert "Open the store again" in later.json["message"]
    with pytest.raises(HTTPClientError, match="503"):
        await served.socket(headers=served.token_header)
    served.app.allow_anonymous = True
    stranger = await served.fetch("api/mutation", body)
    assert (stranger.status, stranger.json["code"]) == (503, "Overloaded")
    assert "store.db" not in stranger.json["message"]
