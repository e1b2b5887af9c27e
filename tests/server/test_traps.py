"""What official clients look for and nothing else shows: one test for each."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from served_harness import Served
from tornado.websocket import WebSocketClosedError

from cellstore.protocol.version import decode_ts, encode_ts
from cellstore.reactivity.principal import ANONYMOUS, EMBEDDED
from cellstore.server.deployment import DAY_NS, RisingClock

FEED = Path(__file__).parents[1] / "interop" / "feed.py"


class StoppedClock:
    """A clock that shows what it is told."""

    now = 1_000 * DAY_NS

    def now_ns(self) -> int:
        return self.now


async def test_a_cursor_of_another_query_makes_hooks_begin_again(served: Served) -> None:
    await served.deploy(FEED)
    key = {"Authorization": f"Convex {served.app.admin_key('default')}"}
    args = {"paginationOpts": {"numItems": 2.0, "cursor": "0123456789ab.end"}}
    body = {"path": "feed:page", "args": args, "format": "convex_encoded_json"}
    await served.fetch("/api/mutation", {"path": "feed:post", "args": {"n": 1.0}}, key)
    answer = (await served.fetch("/api/query", body, key)).json
    assert answer["errorData"] == {"isConvexSystemError": True, "paginationError": "InvalidCursor"}
    wire = await served.socket(headers=key)
    await wire.subscribe(0, "feed:page", args)
    failed = await wire.result(0)
    assert "InvalidCursor" in failed["errorMessage"]
    assert failed["errorData"]["paginationError"] == "InvalidCursor"


async def test_the_journal_of_a_page_keeps_its_edge_over_a_reconnect(served: Served) -> None:
    await served.deploy(FEED)
    for n in (0.0, 10.0, 20.0):
        await served.fetch("/api/mutation", {"path": "feed:post", "args": {"n": n}}, served.token_header)
    args = {"paginationOpts": {"numItems": 2.0, "cursor": None}}
    wire = await served.socket(headers=served.token_header)
    await wire.subscribe(0, "feed:page", args)
    journal = (await wire.result(0))["journal"]
    wire.close()
    await served.fetch("/api/mutation", {"path": "feed:post", "args": {"n": 5.0}}, served.token_header)
    again = await served.socket(headers=served.token_header)
    add = {"type": "Add", "queryId": 0, "udfPath": "feed:page", "args": [args], "journal": journal}
    await again.say("ModifyQuerySet", baseVersion=0, newVersion=1, modifications=[add])
    assert [row["n"] for row in (await again.result(0))["value"]["page"]] == [0, 5, 10]


async def test_a_client_that_has_seen_more_than_the_store_is_never_answered_from_before(chat: Served) -> None:
    seen = time.time_ns() + 60 * 10**9
    wire = await chat.socket(headers=chat.token_header)
    await wire.say("Connect", sessionId="s", maxObservedTimestamp=encode_ts(seen))
    sent: dict[str, Any] = await wire.call("Mutation", "chat:send", {"author": "a", "body": "b"})
    assert decode_ts(sent["ts"]) > seen


def test_the_clock_follows_clients_within_reason_and_never_strangers() -> None:
    wall = StoppedClock()
    clock = RisingClock(wall)
    assert clock.observe(wall.now + 5, ANONYMOUS) is None
    assert clock.now_ns() == wall.now
    assert clock.observe(wall.now + 5, EMBEDDED) is None
    assert clock.now_ns() == wall.now + 6
    assert "ClockAhead" in str(clock.observe(wall.now + 2 * DAY_NS, EMBEDDED))
    assert clock.now_ns() == wall.now + 6


async def test_every_timestamp_is_below_what_rust_can_read(chat: Served) -> None:
    answer = (await chat.fetch("/api/query_ts", {}, chat.token_header)).json
    assert 0 < decode_ts(answer["ts"]) < 2**63


async def test_a_request_that_failed_is_run_again_when_it_is_repeated(chat: Served) -> None:
    """Only successes are remembered: the client will want another try."""
    await chat.socket(headers=chat.token_header)
    for expected in (False, True):
        wire = await chat.socket(headers=chat.token_header)
        await wire.say("Connect", sessionId="one-session")
        args = {"author": "ann", "body": "x" if expected else 5}
        assert (await wire.call("Mutation", "chat:send", args))["success"] is expected
        wire.close()


async def test_clock_skew_and_server_time_are_left_out_together(chat: Served) -> None:
    """As null, or one without the other, npm's client complains of slow networks at each transition."""
    wire = await chat.socket(headers=chat.token_header)
    await wire.say("Connect", sessionId="s", clientTs=0)
    await wire.subscribe(0, "chat:count")
    transition = await wire.until(lambda message: message["type"] == "Transition")
    assert transition.keys() == {"type", "startVersion", "endVersion", "modifications"}
    assert transition["modifications"][0].keys() == {"type", "queryId", "value", "logLines", "journal"}


async def test_a_default_export_is_called_by_its_module(chat: Served, tmp_path: Path) -> None:
    (tmp_path / "single.py").write_text(
        "import cellstore as cs\n@cs.mutation(name='default')\ndef f(ctx): return 'yes'\n"
    )
    await chat.deploy(tmp_path / "single.py")
    wire = await chat.socket(headers=chat.token_header)
    for path in ("single", "single:default", "single.js:default"):
        assert (await wire.call("Mutation", path))["result"] == "yes"
        answer = await chat.fetch("/api/mutation", {"path": path, "args": {}}, chat.token_header)
        assert answer.json["value"] == "yes"


async def test_telemetry_is_taken_and_forgotten(chat: Served) -> None:
    assert (await chat.fetch("/api/debug_event", {"event": 1})).status == 200
    wire = await chat.socket(headers=chat.token_header)
    await wire.say("Event", eventType="ClientConnect", event={"marks": []})
    await wire.subscribe(0, "chat:count")
    assert (await wire.result(0))["value"] == 0.0


async def test_an_unknown_client_and_version_are_served(chat: Served) -> None:
    body = {"path": "chat:count", "args": {}}
    for client in ("npm-0.1.0", "swift-9.9.9-beta.1", "x"):
        assert (await chat.fetch("/api/query", body, {**chat.token_header, "Convex-Client": client})).status == 200


async def test_a_component_is_said_not_to_be_there(chat: Served) -> None:
    body = {"path": "chat:count", "args": {}, "componentPath": "billing"}
    answer = (await chat.fetch("/api/function", body, chat.token_header)).json
    assert "no component 'billing'" in answer["errorMessage"]
    assert (await chat.fetch("/api/function", {**body, "componentPath": ""}, chat.token_header)).json[
        "status"
    ] == "success"


async def test_arguments_as_large_as_clients_may_send_are_taken(chat: Served) -> None:
    """16 MiB, in one frame."""
    wire = await chat.socket(headers=chat.token_header)
    await wire.subscribe(0, "chat:echo", {"value": "x" * (15 << 20)})
    assert len((await wire.result(0))["value"]) == 15 << 20


class TestLimits:
    """Knobs of size and depth: what is beyond them is said, and ends nothing else."""

    @pytest.fixture
    def extension_config(self) -> dict[str, Any]:
        return {"knobs": {"frame_size_bytes": 200_000, "arguments_size_bytes": 50_000}}

    async def test_arguments_beyond_the_knob_are_an_answer(self, chat: Served) -> None:
        args = {"value": "x" * 60_000}
        wire = await chat.socket(headers=chat.token_header)
        await wire.subscribe(0, "chat:echo", args)
        assert "arguments_size_bytes" in (await wire.result(0))["errorMessage"]
        answer = await chat.fetch("/api/query", {"path": "chat:echo", "args": args}, chat.token_header)
        assert "arguments_size_bytes" in answer.json["errorMessage"]

    async def test_a_frame_beyond_the_knob_ends_its_socket(self, chat: Served) -> None:
        wire, other = [await chat.socket(headers=chat.token_header) for _ in range(2)]
        with contextlib.suppress(WebSocketClosedError):  # it hangs up as soon as it knows
            await wire.socket.write_message("x" * 250_000)
        assert (await wire.closed())[0] in (1009, None)
        await other.subscribe(0, "chat:count")
        assert (await other.result(0))["value"] == 0.0

    async def test_values_nested_too_deeply_are_an_answer(self, chat: Served) -> None:
        deep: Any = 1.0
        for _ in range(70):
            deep = [deep]
        answer = await chat.fetch("/api/query", {"path": "chat:echo", "args": {"value": deep}}, chat.token_header)
        assert "shallower nesting" in str(answer.json)


async def test_an_admin_key_may_name_the_kind_of_its_deployment(chat: Served) -> None:
    key = chat.app.admin_key("default")
    body = {"path": "chat:secret", "args": {}}
    for shape in (key, f"prod:{key}", f"self-hosted:{key}"):
        answer = await chat.fetch("/api/query", body, {"Authorization": f"CONVEX {shape}"})
        assert answer.json["value"] == "secret"


async def test_who_may_not_is_told_in_the_words_the_command_line_knows(chat: Served) -> None:
    chat.app.allow_anonymous = True
    for path in ("/api/list_snapshot", "/api/stream_function_logs"):
        answer = await chat.fetch(path)
        assert answer.status == 403  # which ends `convex logs`; anything else it would try again
        assert answer.json["message"].startswith("You do not have permission to perform this operation")


async def test_an_admin_key_may_stand_in_the_url(chat: Served) -> None:
    """For tools that can set no header. Every answer that is not public needs it to be right."""
    key = quote(chat.app.admin_key("default"))
    body = {"path": "chat:secret", "args": {}}
    assert (await chat.fetch(f"/api/query?adminKey={key}", body)).json["value"] == "secret"
    assert (await chat.fetch(f"/api/json_schemas?adminKey={key}")).status == 200
    assert (await chat.fetch("/api/query?adminKey=default%7Cwrong", body)).status == 401
    wire = await chat.socket(f"/api/sync?adminKey={key}")
    await wire.subscribe(0, "chat:secret")
    assert (await wire.result(0))["value"] == "secret"


@pytest.mark.parametrize(
    ("client", "value"),
    [("npm-1.3.1", "$bytes"), ("npm-1.4.0-alpha.1", "$bytes"), ("python-0.4.0", "$bytes"),
     ("python-convex-0.4.0", "$bytes"), ("npm-1.4.1", "AQI="),
     ("python-0.5.0", "AQI="), ("npm-cli-1.2.1", "AQI="), ("NPM-0.19.0", "$bytes"), ("npm-x", "AQI=")],
)  # fmt: skip
async def test_old_clients_mean_convexs_encoding_when_they_name_none(chat: Served, client: str, value: str) -> None:
    body = {"path": "chat:echo", "args": {"value": {"$bytes": "AQI="}}}
    answer = await chat.fetch("/api/query", body, {**chat.token_header, "Convex-Client": client})
    assert answer.json["value"] == ({"$bytes": "AQI="} if value == "$bytes" else value)


async def test_no_client_is_ever_told_of_a_fatal_error(chat: Served) -> None:
    """npm's client would be dead for ever, its promises never settled; after a plain close it comes back."""
    modify = {"type": "ModifyQuerySet", "baseVersion": 5, "newVersion": 6, "modifications": []}
    bad: list[Any] = [7, {"type": "Mutation"}, modify, {"type": "Authenticate", "baseVersion": 3, "tokenType": "None"}]
    for frame in bad:
        wire = await chat.socket(headers=chat.token_header)
        await wire.socket.write_message(json.dumps(frame))
        assert await wire.socket.read_message() is None  # closed, and nothing was said before
        assert wire.socket.close_code in (1008, 1011)


async def test_a_reason_for_closing_fits_into_a_frame(chat: Served) -> None:
    wire = await chat.socket(headers=chat.token_header)
    await wire.say("Authenticate", baseVersion=0, tokenType="ü" * 300)
    code, reason = await wire.closed()
    assert code == 1008
    assert 0 < len(str(reason).encode()) <= 123


async def test_no_subprotocol_is_agreed_and_a_query_in_the_url_does_no_harm(chat: Served) -> None:
    """Rust leaves the query string of its URL where it was."""
    wire = await chat.socket("/api/sync?x=1", headers=chat.token_header)
    assert wire.socket.selected_subprotocol is None
    await wire.subscribe(0, "chat.js:count")  # as it spells paths after a reconnect
    assert (await wire.result(0))["value"] == 0.0


async def test_what_comes_over_http_is_shown_on_sockets(chat: Served) -> None:
    wire = await chat.socket(headers=chat.token_header)
    await wire.subscribe(0, "chat:count")
    await wire.result(0)
    body = {"path": "chat:send", "args": {"author": "a", "body": "b"}}
    await chat.fetch("/api/mutation", body, chat.token_header)
    assert (await wire.result(0))["value"] == 1.0


async def test_a_repeat_that_meets_the_first_still_running_gets_its_answer(chat: Served) -> None:
    wires = [await chat.socket(headers=chat.token_header) for _ in range(4)]
    for wire in wires:
        await wire.say("Connect", sessionId="the-same")
    args = {"author": "a", "body": "b"}
    answers = await asyncio.gather(*(wire.call("Mutation", "chat:send", args) for wire in wires))
    assert len({(answer["result"], answer["ts"]) for answer in answers}) == 1
    body = {"path": "chat:count", "args": {}}
    assert (await chat.fetch("/api/query", body, chat.token_header)).json["value"] == 1


async def test_a_mutation_goes_on_when_its_socket_is_gone(chat: Served) -> None:
    reader, writer = [await chat.socket(headers=chat.token_header) for _ in range(2)]
    await reader.subscribe(0, "chat:count")
    await reader.result(0)
    await writer.say("Mutation", requestId=0, udfPath="chat:send", args=[{"author": "a", "body": "b"}])
    writer.close()
    assert (await reader.result(0))["value"] == 1.0


async def test_log_lines_have_the_shape_npms_client_takes_apart(chat: Served, tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text(
        "import logging, warnings\nimport cellstore as cs\n@cs.query\ndef f(ctx):\n    print('a\\nb', 1)\n"
        "    logging.getLogger('x').error('e')\n    warnings.warn('w')\n    logging.debug('d')\n    print()\n"
    )
    await chat.deploy(tmp_path / "loud.py")
    wire = await chat.socket(headers=chat.token_header)
    await wire.subscribe(0, "loud:f")
    lines = (await wire.result(0))["logLines"]
    assert len(lines) >= 3
    assert all(re.match(r"\[(DEBUG|LOG|INFO|WARN|ERROR)\] ", line) for line in lines), lines


async def test_the_time_to_pin_queries_to_is_told_without_credentials(chat: Served) -> None:
    """`consistentQuery` asks for it with none."""
    answer = await chat.fetch("/api/query_ts", b"")
    assert (answer.status, set(answer.json)) == (200, {"ts"})


async def test_probes_answer_whoever_asks(chat: Served) -> None:
    for probe in ("/instance_name", "/instance_version"):
        answer = await chat.fetch(probe)
        assert (answer.status, answer.headers["Content-Type"].partition(";")[0]) == (200, "text/plain")
    large = bytes(4 << 20)
    assert (await chat.fetch("/echo", large)).body == large


async def test_a_page_of_no_rows_is_refused_and_one_that_is_full_is_not_the_last(served: Served) -> None:
    await served.deploy(FEED)
    for n in (1.0, 2.0):
        await served.fetch("/api/mutation", {"path": "feed:post", "args": {"n": n}}, served.token_header)

    async def page(**opts: Any) -> Any:
        body = {"path": "feed:page", "args": {"paginationOpts": {"cursor": None, **opts}}}
        return (await served.fetch("/api/query", body, served.token_header)).json

    assert (await page(numItems=0.0))["status"] == "error"
    full = (await page(numItems=2.0, id=7.0))["value"]  # `id` is the hook's own business
    assert (len(full["page"]), full["isDone"]) == (2, False)
    last = (await page(numItems=2.0, cursor=full["continueCursor"]))["value"]
    assert (last["page"], last["isDone"]) == ([], True)
    assert isinstance(last["continueCursor"], str)  # npm's client checks, also when it is done
    again = (await page(numItems=1.0, endCursor=last["continueCursor"]))["value"]
    assert len(again["page"]) == 2  # an end that is given counts, the number does not
