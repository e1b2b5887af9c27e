"""The server is killed in the middle of mutations and started again: nothing acknowledged is lost, everything goes on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server_process import TOKEN, ServerProcess
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from cellstore.client import pending as client_pending
from cellstore.client.connect import connect as connect_database
from cellstore.client.database import Database

CHAT = Path(__file__).parents[1] / "interop" / "chat.py"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path / "root").start()
    try:
        server.deploy(CHAT)
        yield server
    finally:
        server.stop()


class Writer:
    """A client with a session: sends numbered mutations, and after a reconnect again those without an answer."""

    def __init__(self, server: ServerProcess, name: str) -> None:
        self._server, self._name = server, name
        self.acknowledged: dict[int, str] = {}
        self.connections = 0
        self._next = 0

    async def run(self, until: asyncio.Event) -> None:
        while not (until.is_set() and len(self.acknowledged) == self._next):
            try:
                await self._connection(until)
            except (OSError, ConnectionClosed, InvalidHandshake, TimeoutError):
                await asyncio.sleep(0.05)

    async def _connection(self, until: asyncio.Event) -> None:
        address = self._server.url.replace("http", "ws") + "/cellstore/api/sync"
        headers = {"Authorization": f"token {TOKEN}"}
        async with connect(address, additional_headers=headers, proxy=None, open_timeout=5) as socket:
            hello = {"type": "Connect", "sessionId": f"session-{self._name}", "connectionCount": self.connections}
            await socket.send(json.dumps(hello))
            self.connections += 1
            for request in range(self._next):
                if request not in self.acknowledged:
                    await self._send(socket, request)
            while not until.is_set() or len(self.acknowledged) < self._next:
                if not until.is_set() and self._next - len(self.acknowledged) < 8:
                    await self._send(socket, self._next)
                    self._next += 1
                else:
                    self._take(json.loads(await asyncio.wait_for(socket.recv(), 20)))

    async def _send(self, socket: Any, request: int) -> None:
        args = {"author": self._name, "body": str(request)}
        call = {"type": "Mutation", "requestId": request, "udfPath": "chat:send", "args": [args]}
        await socket.send(json.dumps(call))

    def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "MutationResponse":
            assert message["success"], message
            earlier = self.acknowledged.setdefault(message["requestId"], message["result"])
            assert earlier == message["result"]


async def test_kill_in_the_middle_of_mutations(server: ServerProcess) -> None:
    writers = [Writer(server, name) for name in ("ann", "bo", "cy")]
    done = asyncio.Event()
    tasks = [asyncio.ensure_future(writer.run(done)) for writer in writers]
    for _ in range(3):
        await asyncio.sleep(0.7)
        acknowledged = [(writer, dict(writer.acknowledged)) for writer in writers]
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        stored = await asyncio.to_thread(server.call, "query", "chat:list")
        bodies = {(message["author"], message["body"]) for message in stored}
        for writer, known in acknowledged:
            assert {(writer._name, str(request)) for request in known} <= bodies
    done.set()
    await asyncio.wait_for(asyncio.gather(*tasks), 60)
    stored = await asyncio.to_thread(server.call, "query", "chat:list")
    for writer in writers:
        mine = [int(message["body"]) for message in stored if message["author"] == writer._name]
        assert mine == sorted(mine)  # in the order they were asked for
        assert mine == list(range(len(writer.acknowledged)))  # each exactly once
        assert writer.connections >= 4
        assert len(mine) > 20


def test_functions_and_data_survive_a_good_stop(server: ServerProcess) -> None:
    server.call("mutation", "chat:send", {"author": "a", "body": "kept"})
    server.stop()
    assert not any("Traceback" in line for line in server.log.read_text().splitlines())
    server.start()
    assert [message["body"] for message in server.call("query", "chat:list")] == ["kept"]
    assert server.call("mutation", "chat:send", {"author": "a", "body": "more"})


@pytest.mark.parametrize(("point", "is_there"), [("commit.validated", False), ("commit.persisted", True)])
def test_a_server_dies_at_the_fault_point_its_environment_names(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch, point: str, is_there: bool
) -> None:
    server.stop()
    monkeypatch.setenv("CELLSTORE_FAULT", f"{point}=kill@20")
    server.start()
    acknowledged: list[Any] = []
    with contextlib.suppress(OSError):  # it hangs up
        while len(acknowledged) < 20:
            acknowledged.append(server.call("mutation", "chat:send", {"author": "a", "body": "one more"}))
    assert server.process is not None
    assert server.process.wait(10) == -signal.SIGKILL
    monkeypatch.delenv("CELLSTORE_FAULT")
    server.start()
    assert len(server.call("query", "chat:list")) == len(acknowledged) + is_there


class Stream(threading.Thread):
    """Sends numbered mutations through a database, one after the other, until it is told to end."""

    def __init__(self, db: Database, author: str) -> None:
        super().__init__(daemon=True)
        self._db, self._author = db, author
        self.acknowledged: list[int] = []
        self.ending = threading.Event()
        self.problem: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.ending.is_set():
                number = len(self.acknowledged)
                self._db.mutation("chat:send", author=self._author, body=str(number))
                self.acknowledged.append(number)
        except BaseException as problem:  # noqa: BLE001 - the thread ends here; the test looks at it
            self.problem = problem

    def wait_for(self, count: int) -> None:
        """Until so many are acknowledged."""
        deadline = time.monotonic() + 60
        while len(self.acknowledged) < count:
            assert self.problem is None, self.problem
            assert time.monotonic() < deadline, f"{len(self.acknowledged)} of {count}"
            time.sleep(0.005)

    def end(self) -> None:
        self.ending.set()
        self.join(60)
        assert not self.is_alive()
        assert self.problem is None, self.problem


def test_a_client_notices_nothing_of_a_kill_but_a_pause(server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process's view: a stream of mutations and a live query ride out a kill -9; nothing is lost or doubled."""
    monkeypatch.setattr(client_pending, "PATIENCE_S", 60.0)  # a busy machine starts servers slowly
    with connect_database(server.url, TOKEN) as writing, connect_database(server.url, TOKEN) as watching:
        counts: list[int] = []
        count = watching.subscribe("chat:count", counts.append)
        stream = Stream(writing, "ann")
        stream.start()
        for round_ in range(1, 3):
            stream.wait_for(20 * round_)
            server.kill()  # while one is on its way
            known = len(stream.acknowledged)
            server.start()
            stored = server.call("query", "chat:list")
            assert [int(each["body"]) for each in stored][:known] == list(range(known))
            stream.wait_for(known + 10)
        stream.end()
        sent = len(stream.acknowledged)
        assert count.wait(lambda value: value == sent, 30) == sent
        assert count.status == "live"
        assert counts == sorted(counts)
        assert [int(each["body"]) for each in writing.query("chat:list")] == list(range(sent))
        assert writing.action("chat:act", author="bo") == "acted"
        count.close()
