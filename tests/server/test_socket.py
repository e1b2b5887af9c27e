"""The sync protocol over a real WebSocket, a real store and real workers."""

import asyncio
import datetime as dt
import json
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from served_harness import Served, Wire
from tornado.httpclient import HTTPRequest
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.websocket import websocket_connect

from cellstore.server import framing
from cellstore.server.deployment import Deployment


async def test_a_live_query_follows_a_mutation_of_another_client(chat: Served) -> None:
    reader, writer = await chat.socket(headers=chat.token_header), await chat.socket(headers=chat.token_header)
    await reader.say("Connect", sessionId="r", connectionCount=0)
    await reader.subscribe(0, "chat:list")
    assert (await reader.result(0))["value"] == []
    response = await writer.call("Mutation", "chat:send", {"author": "ann", "body": "hello"})
    assert response["success"] is True
    assert response["logLines"] == ["[LOG] sending hello"]
    assert (await reader.result(0))["value"] == [{"author": "ann", "body": "hello"}]


@pytest.mark.parametrize("path", ["api/sync", "/api/sync", "/api/1.48.0/sync", "//api/sync", "api/1.48.0/sync"])
async def test_every_address_clients_derive_is_served(chat: Served, path: str) -> None:
    wire = await chat.socket(path, headers=chat.token_header)
    await wire.subscribe(0, "chat:count")
    assert (await wire.result(0))["value"] == 0.0


async def test_exact_connections_see_ints_and_structured_errors(chat: Served) -> None:
    wire = await chat.socket(headers=chat.kernel_header)
    await wire.say("Connect", sessionId="s", exact=True)
    await wire.subscribe(0, "chat:count")
    await wire.subscribe(1, "chat:broken_query")
    await wire.subscribe(2, "chat:echo", {"value": [1, 1.0, {"$bytes": "AQI="}]})
    value = (await wire.result(0))["value"]
    assert (value, type(value)) == (0, int)
    error = (await wire.result(1))["error"]
    assert "KeyError" in error["traceback"]
    assert 'return {}["missing"]' in error["traceback"]
    echoed = (await wire.result(2))["value"]
    assert [type(item) for item in echoed] == [int, float, dict]
    refusal = await wire.call("Mutation", "chat:refuse", {"data": {"code": 7}})
    assert refusal["error"]["data"] == {"code": 7}


@pytest.mark.parametrize(
    "frame",
    [
        "{nonsense",
        "[]",
        '{"type":"Mutation","requestId":"x","udfPath":"a:b","args":[{}]}',
        '{"type":"ModifyQuerySet","baseVersion":7,"newVersion":8,"modifications":[]}',
        "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
        '{"type":"Connect","sessionId":"s","maxObservedTimestamp":"/////////38="}',
        "[" * 100_000,
    ],
    ids=["no JSON", "no object", "wrong type", "wrong version", "no UTF-8", "the far future", "deep"],
)
async def test_a_malformed_frame_closes_with_a_reason_and_harms_nobody(chat: Served, frame: str) -> None:
    good, bad = await chat.socket(headers=chat.token_header), await chat.socket(headers=chat.token_header)
    await bad.socket.write_message(frame)
    code, reason = await bad.closed()
    assert code == 1008
    assert reason
    await good.subscribe(0, "chat:count")
    assert (await good.result(0))["value"] == 0.0


async def test_a_binary_frame_is_refused(chat: Served) -> None:
    wire = await chat.socket(headers=chat.token_header)
    await wire.socket.write_message(b"\x00\x01", binary=True)
    assert (await wire.closed())[0] == 1003


async def test_a_repeated_request_of_a_session_runs_once(chat: Served) -> None:
    first = await chat.socket(headers=chat.token_header)
    await first.say("Connect", sessionId="the-session")
    answer = await first.call("Mutation", "chat:send", {"author": "a", "body": "once"})
    first.close()
    again = await chat.socket(headers=chat.token_header)
    await again.say("Connect", sessionId="the-session", connectionCount=1)
    repeated = await again.call("Mutation", "chat:send", {"author": "a", "body": "once"})
    assert repeated["result"] == answer["result"]
    await again.subscribe(0, "chat:count")
    assert (await again.result(0))["value"] == 1.0


async def test_a_client_that_comes_back_is_told_only_what_it_does_not_hold(chat: Served) -> None:
    holds: dict[str, str] = {}
    for expected in ({0, 1}, set(), {1}):
        wire = await chat.socket(headers=chat.kernel_header)
        await wire.say("Connect", sessionId="s", exact=True, deltas=True)
        queries = enumerate(({"author": "ann"}, {}))
        adds: list[dict[str, object]] = [
            {"type": "Add", "queryId": n, "udfPath": "chat:list", "args": [args], "holds": holds.get(str(n))}
            for n, args in queries
        ]
        await wire.say("ModifyQuerySet", baseVersion=0, newVersion=1, modifications=adds)
        first = await wire.until(lambda message: message["type"] == "Transition")
        assert {change["queryId"] for change in first["modifications"]} == expected
        holds |= {str(change["queryId"]): change["digest"] for change in first["modifications"]}
        wire.close()
        if not expected:
            body = {"path": "chat:send", "args": {"author": "bo", "body": "b"}}
            await chat.fetch("/api/mutation", body, chat.token_header)


async def test_a_client_that_comes_back_is_told_what_has_changed_in_a_long_result(chat: Served) -> None:
    writer, holds = await chat.socket(headers=chat.token_header), None
    for _ in range(100):
        await writer.call("Mutation", "chat:send", {"author": "ann", "body": "x" * 100})
    for expected in ("QueryUpdated", "QueryPatched"):
        wire = await chat.socket(headers=chat.kernel_header)
        await wire.say("Connect", sessionId="s", exact=True, deltas=True)
        add = {"type": "Add", "queryId": 0, "udfPath": "chat:list", "args": [{}], "holds": holds}
        await wire.say("ModifyQuerySet", baseVersion=0, newVersion=1, modifications=[add])
        told = await wire.result(0)
        assert told["type"] == expected
        holds = told["digest"]
        wire.close()
        await wire.closed()
        await writer.call("Mutation", "chat:send", {"author": "bo", "body": "new"})
    assert told["splices"] == [[100, 0, [{"author": "bo", "body": "new"}]]]


async def test_a_client_stops_its_action_and_is_answered(chat: Served, tmp_path: Path) -> None:
    file = tmp_path / "long_actions.py"
    file.write_text(
        "import asyncio\nimport cellstore as cs\n\n"
        "@cs.action\nasync def long(ctx):\n    ctx.progress(1, 10, 'begun')\n    await asyncio.sleep(60)\n"
    )
    await chat.deploy(file)
    wire = await chat.socket(headers=chat.kernel_header)
    await wire.say("Connect", sessionId="s", exact=True)
    await wire.say("CancelAction", requestId=5)  # nothing runs under that number
    await wire.say("Action", requestId=5, udfPath="long_actions:long", args=[{}])
    far = await wire.until(lambda m: m["type"] == "ActionProgress")
    assert (far["done"], far["total"], far["note"]) == (1, 10, "begun")
    await wire.say("CancelAction", requestId=5)
    answer = await wire.until(lambda m: m["type"] == "ActionResponse")
    assert (answer["requestId"], answer["success"], answer["error"]["code"]) == (5, False, "Cancelled")
    assert (await wire.call("Action", "chat:act", {"author": "ann"}))["result"] == "acted"


async def test_redeploying_a_function_reruns_its_live_queries(chat: Served, tmp_path: Path) -> None:
    wire = await chat.socket(headers=chat.token_header)
    await wire.subscribe(0, "late:answer")
    assert "late:answer" in (await wire.result(0))["errorMessage"]
    source = "import cellstore as cs\n\n@cs.query\ndef answer(ctx):\n    return {}\n"
    path = tmp_path / "late.py"
    for value in (41.0, 42.0):
        path.write_text(source.format(value))
        await chat.deploy(path)
        assert (await wire.result(0))["value"] == value


async def test_hundreds_of_clients_on_one_query_all_hear_of_a_commit(chat: Served) -> None:
    wires = await asyncio.gather(*(chat.socket(headers=chat.token_header) for _ in range(200)))
    for wire in wires:
        await wire.subscribe(0, "chat:count")
    await asyncio.gather(*(wire.result(0) for wire in wires))
    await wires[0].call("Mutation", "chat:send", {"author": "a", "body": "b"})
    updates = await asyncio.gather(*(wire.result(0) for wire in wires))
    assert {update["value"] for update in updates} == {1.0}


async def test_activity_is_reported_while_somebody_is_connected(chat: Served) -> None:
    assert chat.app.current_activity() is None
    wire = await chat.socket(headers=chat.token_header)
    await wire.subscribe(0, "chat:count")
    await wire.result(0)
    assert chat.app.current_activity() == {"default": {"connections": 1, "calls": 0}}


async def test_stopping_the_server_closes_sockets_so_that_clients_come_back(chat: Served) -> None:
    wire = await chat.socket(headers=chat.token_header)
    await wire.subscribe(0, "chat:count")
    await wire.result(0)
    await chat.app.stop_extension()
    assert await wire.closed() == (1012, "ServerRestart")


async def test_a_server_that_stops_opens_no_store_again_for_clients_that_come_back(chat: Served) -> None:
    await chat.app.stop_extension()
    for name in ("default", "fresh"):
        answer = await chat.fetch("x/hello", b"", {**chat.token_header, "X-Cellstore-Deployment": name})
        assert (answer.status, "stopping" in answer.json["message"]) == (503, True)
    again = Deployment(chat.app.directory("default") / "store.db", runner="inline")  # nobody holds it
    await again.start()
    await again.stop()


async def test_a_second_server_on_the_same_store_says_who_has_it(chat: Served) -> None:
    from cellstore.errors import StoreLocked
    from cellstore.server.deployment import Deployment

    second = Deployment(chat.app.directory("default") / "store.db")
    with pytest.raises(StoreLocked):
        await second.start()
    assert not second.running


async def test_a_large_transition_comes_in_parts_each_client_can_take(chat: Served) -> None:
    """npm's client gets TransitionChunk messages, of which none is interrupted; others one message."""
    large = {"value": "ü" * 6_000_000}
    npm = await chat.socket("api/1.48.0/sync", headers=chat.token_header)
    await npm.subscribe(0, "chat:echo", large)
    parts = [await npm.until(lambda message: True) for _ in range(2)]
    assert [(part["type"], part["partNumber"], part["totalParts"]) for part in parts] == [
        ("TransitionChunk", 0, 2),
        ("TransitionChunk", 1, 2),
    ]
    transition = json.loads("".join(part["chunk"] for part in parts))
    assert transition["modifications"][0]["value"] == large["value"]
    for path in ("api/sync", "api/1.27.0/sync"):
        other = await chat.socket(path, headers=chat.token_header)
        await other.subscribe(0, "chat:echo", large)
        assert (await other.result(0))["value"] == large["value"]


@given(st.binary(max_size=200), st.integers(1, 50))
def test_fragments_put_together_are_the_message(text: bytes, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(framing, "FRAGMENT_BYTES", size)
        wire, got, opcodes, final = framing.fragmented(text), b"", [], False
    while wire:
        assert not final
        final, opcode, length = bool(wire[0] & 0x80), wire[0] & 0x0F, wire[1]
        wire = wire[2:]
        if length == 126:
            length, wire = int.from_bytes(wire[:2], "big"), wire[2:]
        assert length <= size
        got, wire = got + wire[:length], wire[length:]
        opcodes.append(opcode)
    assert (final, got) == (True, text)
    assert opcodes == [1] + [0] * (len(opcodes) - 1)


def certificate(directory: Path) -> Path:
    """A key and a certificate for this machine alone, in one file."""
    now, key = dt.datetime.now(dt.UTC), ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    signed = builder.not_valid_before(now).not_valid_after(now + dt.timedelta(days=1)).sign(key, hashes.SHA256())
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    path = directory / "both.pem"
    path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return path


async def test_a_socket_under_tls_is_served_as_well(chat: Served, tmp_path: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate(tmp_path))
    server, [listening] = HTTPServer(chat.serverapp.web_app, ssl_options=context), bind_sockets(0, "127.0.0.1")
    server.add_socket(listening)
    address = f"wss://127.0.0.1:{listening.getsockname()[1]}{chat.base_url}cellstore/api/sync"
    wire = Wire(await websocket_connect(HTTPRequest(address, headers=chat.token_header, validate_cert=False)))
    chat.wires.append(wire)
    await wire.subscribe(0, "chat:count")
    assert (await wire.result(0))["value"] == 0.0
    await wire.call("Mutation", "chat:send", {"author": "ann", "body": "x" * 100_000})
    assert (await wire.result(0))["value"] == 1.0
    await wire.say("Authenticate", tokenType="User", value="nonsense", baseVersion=0)
    assert (await wire.until(lambda message: message["type"] == "AuthError"))["authUpdateAttempted"] is True
    assert (await wire.closed())[0] == 1000
    server.stop()
