"""Whatever comes in, over the socket or over HTTP: an answer or a close with a reason, and the next caller is served."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import struct
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from served_harness import Served

from cellstore.knobs import Knobs
from cellstore.reactivity.principal import ANONYMOUS, EMBEDDED
from cellstore.server.deployment import Deployment

SMALL = st.one_of(st.none(), st.booleans(), st.integers(-3, 2**33), st.floats(), st.text(max_size=5))
JSON = st.recursive(
    SMALL, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)
PATHS = st.sampled_from(["m:f", "m", "", "m.js:f", "_system/cli/tables", "a/b:c", ":", "x" * 600, "m:f\0"])
COUNTS = st.integers(-1, 4) | SMALL
ARGS = st.just([{}]) | st.just([]) | JSON
ADD = st.fixed_dictionaries(
    {"type": st.just("Add"), "queryId": COUNTS, "udfPath": PATHS, "args": ARGS},
    optional={"journal": JSON, "componentPath": JSON, "holds": JSON | st.just("00" * 16)},
)
REMOVE = st.fixed_dictionaries({"type": st.just("Remove"), "queryId": COUNTS})
MESSAGES = st.one_of(
    st.fixed_dictionaries(
        {"type": st.just("Connect"), "sessionId": st.text(max_size=5) | SMALL},
        optional={
            "exact": st.just(True) | JSON, "deltas": st.just(True) | JSON, "clientTs": JSON,
            "lastCloseReason": st.just("InactiveServer") | JSON,
            "maxObservedTimestamp": st.sampled_from(["AAAAAAAAAAA=", "", 3, "//8="]),
        },
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("ModifyQuerySet"),
            "baseVersion": COUNTS,
            "newVersion": COUNTS,
            "modifications": st.lists(ADD | REMOVE | JSON, max_size=3),
        }
    ),
    st.fixed_dictionaries({"type": st.sampled_from(["Mutation", "Action"]), "requestId": COUNTS, "udfPath": PATHS, "args": ARGS}),
    st.fixed_dictionaries(
        {"type": st.just("Authenticate"), "baseVersion": COUNTS, "tokenType": st.sampled_from(["User", "Admin", "None", "x"])},
        optional={"value": st.text(max_size=5) | SMALL, "impersonating": JSON},
    ),
    st.fixed_dictionaries({"type": st.just("CancelAction"), "requestId": COUNTS}),
    st.fixed_dictionaries({"type": st.text(max_size=8)}),
    JSON,
)  # fmt: skip
FRAMES = st.lists(MESSAGES.map(lambda m: json.dumps(m)) | st.text(max_size=30), max_size=8)


@settings(deadline=None, max_examples=150)
@given(FRAMES, st.sampled_from([EMBEDDED, ANONYMOUS]))
def test_no_frames_break_the_socket_or_leave_anything_behind(frames: list[str], who: Any) -> None:
    async def talk() -> None:
        deployment = Deployment(":memory:", runner="inline", knobs=Knobs(queued_mutations_max=5))
        await deployment.start()
        sent: list[dict[str, Any]] = []
        closes: list[tuple[int, str]] = []
        connection = deployment.connect(
            lambda frame: sent.append(orjson.loads(frame)), lambda code, reason: closes.append((code, reason)), who
        )
        for frame in frames:
            connection.receive(frame)
        async with asyncio.timeout(20):
            while deployment.activity().get("calls"):
                await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert all(message["type"] != "FatalError" for message in sent)  # npm's client would be dead for ever
        assert all(1000 <= code < 1014 and 0 < len(reason.encode()) <= 123 for code, reason in closes)
        follows_the_rules(sent)
        connection.closed()
        hub = deployment._serving()
        assert not hub.connections
        assert not hub._mutating
        assert all(not entry.watchers for entry in hub.cache._entries.values())
        await served(deployment)
        await deployment.stop()

    asyncio.run(talk())


def follows_the_rules(sent: list[dict[str, Any]]) -> None:
    """Every transition starts where the last one ended."""
    at = {"querySet": 0, "identity": 0, "ts": "AAAAAAAAAAA="}
    for message in sent:
        if message["type"] == "Transition":
            assert message["startVersion"] == at
            at = message["endVersion"]


async def served(deployment: Deployment) -> None:
    """A well-behaved client is answered."""
    sent: list[dict[str, Any]] = []
    connection = deployment.connect(lambda frame: sent.append(orjson.loads(frame)), lambda *_: None)
    connection.receive('{"type":"ModifyQuerySet","baseVersion":0,"newVersion":1,"modifications":[]}')
    async with asyncio.timeout(20):
        while not sent:
            await asyncio.sleep(0)
    connection.closed()


ROUTES = [
    "/api/query", "/api/mutation", "/api/action", "/api/function", "/api/query_at_ts", "/api/query_ts", "/api/query_batch",
    "/api/run/m/f", "/api/list_snapshot", "/api/document_deltas", "/api/json_schemas", "x/hello", "x/sql", "x/nothing",
    "x/query", "/api/export/zip/1", "/api/debug_event", "/echo", "/api/import",
]  # fmt: skip
FIELDS = st.sampled_from(
    ["path", "args", "format", "ts", "queries", "cursor", "snapshot", "tableName", "componentPath"]
)
BODIES = (
    st.dictionaries(FIELDS, JSON | PATHS, max_size=4).map(lambda body: json.dumps(body).encode())
    | JSON.map(lambda body: json.dumps(body).encode())
    | st.binary(max_size=20)
)
CREDENTIALS = st.sampled_from(
    [
        "",
        "Bearer x",
        "Convex default|00:e30=",
        "token x",
        "Convex \xff",
        "Basic Og==",
        "Convex a:b|c:d",
        "Bearer eyJ.e.x",
    ]
)


async def test_no_request_is_a_crash(served: Any) -> None:
    """Known statuses, JSON that names code and message; never a 500."""
    examples: list[tuple[str, str, bytes, str]] = []

    @settings(deadline=None, max_examples=250, database=None)
    @given(st.sampled_from(ROUTES), st.sampled_from(["POST", "POST", "GET", "OPTIONS", "PUT"]), BODIES, CREDENTIALS)
    def collect(path: str, method: str, body: bytes, credential: str) -> None:
        examples.append((path, method, body, credential))

    collect()
    for path, method, body, credential in examples:
        headers = {"Authorization": credential} if credential else served.token_header
        octets = body if method in ("POST", "PUT") else None
        answer = await served.fetch(path, octets, headers, method=method, request_timeout=20)
        assert answer.status in (200, 204, 400, 401, 403, 404, 405, 410, 413, 501), (path, method, body, answer.body)
        if answer.status >= 400:
            assert {"code", "message"} <= answer.json.keys(), (path, answer.body)


@pytest.mark.parametrize("depth", [50, 5_000, 200_000])
async def test_deep_nesting_is_refused_and_nothing_else_happens(served: Any, depth: int) -> None:
    deep = b'{"path":"m:f","args":' + b"[" * depth + b"]" * depth + b"}"
    answer = await served.fetch("/api/query", deep, served.token_header)
    assert answer.status in (200, 400)
    wire = await served.socket(headers=served.token_header)
    await wire.socket.write_message(
        b'{"type":"Mutation","requestId":0,"udfPath":"m:f","args":'.decode() + "[" * depth + "]" * depth + "}"
    )
    code, reason = await wire.closed()
    assert (code, bool(reason)) == (1008, True)
    assert (await served.fetch("x/hello", {}, served.token_header)).status == 200


async def test_clients_that_leave_during_the_upgrade_leave_nothing_behind(
    chat: Served, jp_http_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Reset at once after asking: the server notices before, while or after it answers."""
    upgrade = (
        f"GET {chat.base_url}cellstore/api/sync HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nAuthorization: token {chat.token}\r\n\r\n"
    ).encode()
    for number in range(60):
        with socket.create_connection(("localhost", jp_http_port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not a farewell
            client.sendall(upgrade)
            await asyncio.sleep(0.001 * (number % 6))
    wire = await chat.socket(headers=chat.token_header)
    await wire.subscribe(0, "chat:count")
    assert (await wire.result(0))["value"] == 0.0
    while chat.app.current_activity() != {"default": {"connections": 1, "calls": 0}}:
        await asyncio.sleep(0.01)
    assert "Uncaught" not in caplog.text
    assert "exception" not in caplog.text.lower()


async def test_half_open_connections_cost_nothing_and_hurt_nobody(served: Any, jp_http_port: int) -> None:
    """Sockets that say half a handshake, or half a frame, and then nothing."""
    halves = [
        b"",
        b"GET /api/sync HTT",
        b"POST /api/query HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{",
    ]
    opened = []
    for number in range(60):
        _, writer = await asyncio.open_connection("localhost", jp_http_port)
        writer.write(halves[number % len(halves)])
        opened.append(writer)
    wire = await served.socket(headers=served.token_header)
    wire.socket.stream.write(b"\x81\xfe")  # the beginning of a frame
    assert (await served.fetch("x/hello", {}, served.token_header)).status == 200
    for writer in opened:
        writer.close()
    wire.socket.stream.close()
    deployment = await served.app.deployment("default")
    async with asyncio.timeout(20):
        while deployment.activity()["connections"]:
            await asyncio.sleep(0.01)
    gc.collect()
