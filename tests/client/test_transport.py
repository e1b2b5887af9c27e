"""A link over a real socket, against a server that follows a script."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import pytest
from conversation import committed, transition

from cellstore.client.loop import LoopThread, wait
from cellstore.client.transport import Address, SocketLink, backoff
from cellstore.client.wire import decode_frame
from cellstore.errors import Disconnected, NotFound, Unauthenticated, ValidationError
from cellstore.protocol.version import encode_ts


class ScriptedServer:
    """Runs `script(server, socket, n)` for connection number n."""

    def __init__(self, script: Callable[..., object], status: int | None = None) -> None:
        self.script, self.status = script, status
        self.headers: list[Mapping[str, str]] = []
        self.heard: list[dict] = []
        self.is_up = threading.Event()
        self.loop = LoopThread("scripted-server")
        self.server = self.loop.run(self._start())
        self.port = self.server.sockets[0].getsockname()[1]

    async def _start(self):
        from websockets.asyncio.server import serve

        return await serve(self._serve, "127.0.0.1", 0, process_request=self._refuse)

    def _refuse(self, connection, request):
        self.headers.append(request.headers)
        return connection.respond(self.status, "no") if self.status else None

    async def _serve(self, socket):
        await self.script(self, socket, len(self.headers))

    async def hear(self, socket) -> dict:
        frame = decode_frame(await socket.recv())
        self.heard.append(frame)
        return frame

    async def hear_hello(self, socket) -> list[dict]:
        return [await self.hear(socket), await self.hear(socket)]

    def resolve(self) -> Address:
        """As a client finds it; not before `is_up`."""
        if not self.is_up.is_set():
            raise Disconnected("no server runs here yet")
        return self.address

    @property
    def address(self) -> Address:
        return Address(f"http://127.0.0.1:{self.port}/a%40b/", {"Authorization": "token t"})

    def stop(self) -> None:
        self.loop.run(self._stop())
        self.loop.stop()

    async def _stop(self) -> None:
        self.server.close()
        await self.server.wait_closed()


@contextmanager
def served(
    script: Callable[..., object], status: int | None = None, is_up: bool = True
) -> Iterator[tuple[ScriptedServer, SocketLink]]:
    server, client = ScriptedServer(script, status), LoopThread("client")
    if is_up:
        server.is_up.set()
    link = SocketLink(client, server.resolve)
    try:
        yield server, link
    finally:
        link.close()
        client.stop()
        server.stop()


def reached(link: SocketLink, predicate: Callable[[], bool]) -> threading.Event:
    """An event that is set when the predicate holds at some change of state."""
    event = threading.Event()

    def look(_: object = None) -> None:
        if predicate():
            event.set()

    link.thread.call_soon(link.on_state.append, look)
    link.thread.call_soon(look)
    return event


async def idle(_server, socket, _n):
    await socket.wait_closed()


def test_a_link_shows_its_token_and_says_hello():
    async def script(server, socket, _n):
        await server.hear_hello(socket)
        await socket.wait_closed()

    with served(script) as (server, link):
        assert reached(link, lambda: link.state == "connected").wait(5)
        assert server.headers[0]["Authorization"] == "token t"
        assert _poll(lambda: len(server.heard) == 2)
    assert [frame["type"] for frame in server.heard] == ["Connect", "ModifyQuerySet"]
    assert link.state == "closed"


def test_a_mutation_cut_off_is_sent_again_and_ends_once():
    async def script(server, socket, n):
        await server.hear_hello(socket)
        await server.hear(socket)
        if n == 1:
            socket.transport.abort()
            return
        await socket.send(committed(0, 12, "done"))
        await socket.send(transition((0, 0), (1, 12)))
        await socket.wait_closed()

    with served(script) as (server, link):
        outcome = wait(link.request("mutation", "add", {"n": 1}), 10)
    assert outcome.value == "done"
    first, again = (f for f in server.heard if f["type"] == "Mutation")
    assert first == again
    sessions = {f["sessionId"] for f in server.heard if f["type"] == "Connect"}
    assert len(sessions) == 1


def test_mutations_called_before_there_was_a_server_wait_and_go_out_in_order():
    async def script(server, socket, _n):
        await server.hear_hello(socket)
        for request in range(3):
            await server.hear(socket)
            await socket.send(committed(request, 10 + request, request))
        await socket.send(transition((0, 0), (1, 12)))
        await socket.wait_closed()

    with served(script, is_up=False) as (server, link):
        calls = [link.enqueue("add", {"n": n})[0] for n in range(3)]
        assert _poll(lambda: link.problem is not None)
        assert (link.state, [link.progress(call) for call in calls]) == ("connecting", ["waiting"] * 3)
        server.is_up.set()
        assert [wait(call, 10).value for call in calls] == [0, 1, 2]
        assert (link.state, [link.progress(call) for call in calls]) == ("connected", ["done"] * 3)
    assert [frame["args"] for frame in server.heard if frame["type"] == "Mutation"] == [[{"n": n}] for n in range(3)]


def test_one_given_up_before_there_was_a_server_is_never_sent():
    async def script(server, socket, _n):
        await server.hear_hello(socket)
        await server.hear(socket)
        await socket.send(committed(1, 10, "second"))
        await socket.send(transition((0, 0), (1, 10)))
        await socket.wait_closed()

    with served(script, is_up=False) as (server, link):
        first, second = (link.enqueue("add", {"n": n})[0] for n in range(2))
        assert wait(link.abandon(first), 5) is False
        server.is_up.set()
        assert wait(second, 10).value == "second"
    assert [frame["requestId"] for frame in server.heard if frame["type"] == "Mutation"] == [1]


def test_what_is_no_stored_value_is_refused_where_it_was_said_and_holds_up_nothing():
    async def script(server, socket, _n):
        await server.hear_hello(socket)
        await server.hear(socket)
        await socket.send(committed(0, 10, "fine"))
        await socket.send(transition((0, 0), (1, 10)))
        await socket.wait_closed()

    with served(script) as (server, link):
        for ask in (link.watch, link.enqueue, lambda path, args, _: link.request("mutation", path, args)):
            with pytest.raises(ValidationError, match="cannot be stored"):
                ask("add", {"n": {1, 2}}, None)
        assert wait(link.request("mutation", "add", {"n": 1}), 10).value == "fine"
    assert [frame.get("requestId") for frame in server.heard] == [None, None, 0]


def test_a_call_says_what_its_arguments_were_when_it_was_made():
    async def script(server, socket, n):
        await server.hear_hello(socket)
        await server.hear(socket)
        if n == 2:
            await socket.send(committed(0, 10))
            await socket.send(transition((0, 0), (1, 10), q0=None))
            await socket.wait_closed()

    given: dict[str, object] = {"rows": [1]}
    with served(script, is_up=False) as (server, link):
        link.watch("list", given, lambda _result: None)
        call, _ = link.enqueue("add", given)
        given["rows"] = object()
        server.is_up.set()
        wait(call, 10)
    said = [frame.get("args") or frame["modifications"][0]["args"] for frame in server.heard if "udfPath" in str(frame)]
    assert said == [[{"rows": [1]}]] * 4


def test_whoever_watches_sees_the_connection_come_and_go():
    states: list[str] = []

    async def script(server, socket, n):
        await server.hear_hello(socket)
        if n == 1:
            await socket.close(1012, "ServerRestart")
        await socket.wait_closed()

    with served(script, is_up=False) as (server, link):
        back = reached(link, lambda: states.count("connected") == 2)
        link.thread.call_soon(lambda: link.on_state.insert(0, states.append))
        server.is_up.set()
        assert back.wait(10)
    assert states == ["connected", "reconnecting", "connected", "closed"]


def test_a_watched_query_follows_over_a_reconnect():
    seen: list[object] = []
    done = threading.Event()

    async def script(server, socket, n):
        await server.hear(socket)
        while not (await server.hear(socket))["modifications"]:
            pass
        version = 1 if n > 1 else server.heard[-1]["newVersion"]
        await socket.send(transition((0, 0), (version, 10 * n), q0=n))
        if n == 1:
            await asyncio.sleep(0.05)
            await socket.close(1011, "InternalServerError")
        await socket.wait_closed()

    def deliver(result):
        seen.append(result.value)
        if result.value == 2:
            done.set()

    with served(script) as (server, link):
        link.watch("q", {}, deliver)
        assert done.wait(10)
        assert link.ts == 20
    assert seen == [1, 2]
    connects = [f for f in server.heard if f["type"] == "Connect"]
    assert connects[1]["lastCloseReason"] == "InternalServerError"
    assert connects[1]["maxObservedTimestamp"] == encode_ts(10)


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [(403, Unauthenticated, "refused our credentials"), (404, NotFound, "without cellstore")],
)
def test_a_refused_door_says_what_to_do(status, error, words):
    with served(idle, status=status) as (_, link):
        assert reached(link, lambda: link.problem is not None).wait(0.1) or _poll(lambda: link.problem is not None)
        assert isinstance(link.problem, error)
        assert words in link.problem.message
        assert link.state == "connecting"


def test_closing_ends_whoever_waits():
    with served(idle) as (_, link):
        future = link.request("mutation", "add", {})
    with pytest.raises(Disconnected, match="closed"):
        wait(future, 5)


def test_a_server_that_is_away_is_named():
    client = LoopThread("client")
    link = SocketLink(client, lambda: Address("http://127.0.0.1:9/"))
    try:
        assert _poll(lambda: link.problem is not None)
        assert "http://127.0.0.1:9/" in link.problem.message
        assert "cellstore serve" in link.problem.message
    finally:
        link.close()
        client.stop()


def test_attempts_spread_out_and_never_wait_long():
    assert [round(backoff(n, 0.999), 1) for n in range(4)] == [0.1, 0.2, 0.4, 0.8]
    assert 5 <= backoff(100, 0.0) <= backoff(100, 0.999) <= 10


def _poll(predicate: Callable[[], bool], timeout_s: float = 5.0) -> bool:
    event = threading.Event()
    for _ in range(int(timeout_s / 0.02)):
        if predicate():
            return True
        event.wait(0.02)
    return False
