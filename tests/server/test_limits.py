"""Each limit at the door says what was too much, and by which knob; whoever stays within it is served on."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from served_harness import Served, Wire

FUNCTIONS = """
import asyncio
import cellstore as cs

@cs.query
def echo(ctx, value: cs.Any):
    return value

@cs.query
def nest(ctx, depth: int):
    value = 0
    for _ in range(depth):
        value = [value]
    return value

@cs.query
def text(ctx, size: int):
    return "x" * size

@cs.mutation
def put(ctx, value: cs.Any):
    ctx.db.insert("things", {"value": value})

@cs.mutation
def later(ctx, count: int):
    for _ in range(count):
        ctx.scheduler.run_after(3600, put, value=0)

@cs.action
async def wait(ctx):
    await asyncio.sleep(20)
"""
KNOBS = {
    "frame_size_bytes": 100_000,
    "frames_per_s_max": 60,
    "live_queries_max": 3,
    "queued_mutations_max": 3,
    "running_actions_max": 2,
    "unsent_bytes_max": 1_000_000,
    "connections_max": 3,
    "actions_running_max": 1,
    "arguments_size_bytes": 50_000,
    "result_size_bytes": 60_000,
    "value_depth_max": 10,
    "array_length_max": 20,
    "document_depth_max": 5,
    "document_fields_max": 4,
    "scheduled_per_call_max": 2,
}


@pytest.fixture
def extension_config() -> dict[str, Any]:
    return {"knobs": KNOBS, "allow_anonymous": True}


@pytest.fixture
def limited(served: Served, jp_asyncio_loop: Any, tmp_path: Path) -> Served:
    file = tmp_path / "limited.py"
    file.write_text(FUNCTIONS)
    jp_asyncio_loop.run_until_complete(served.deploy(file))
    return served


async def mutations(wire: Wire) -> None:
    for number in range(12):
        await wire.say("Mutation", requestId=number, udfPath="limited:put", args=[{"value": number}])


async def actions(wire: Wire) -> None:
    for number in range(3):
        await wire.say("Action", requestId=number, udfPath="limited:wait", args=[{}])


async def queries(wire: Wire) -> None:
    for number in range(4):
        await wire.subscribe(number, "limited:echo", {"value": number})


async def frames(wire: Wire) -> None:
    for _ in range(100):
        await wire.say("Event", eventType="ClientConnect", event=None)


async def a_long_frame(wire: Wire) -> None:
    await wire.subscribe(0, "limited:echo", {"value": "x" * 100_000})


@pytest.mark.parametrize(
    ("flood", "code", "reason"),
    [
        (mutations, 1013, "queued_mutations_max"),
        (actions, 1013, "running_actions_max"),
        (queries, 1013, "live_queries_max"),
        (frames, 1013, "frames_per_s_max"),
        (a_long_frame, 1009, "exceeds limit of 100000 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_too_much_on_a_socket_closes_it_and_says_by_which_knob(
    limited: Served, flood: Any, code: int, reason: str
) -> None:
    wire, other = await limited.socket(), await limited.socket()
    await flood(wire)
    assert (await wire.closed())[0] == code
    assert reason in (wire.socket.close_reason or "")
    await other.subscribe(0, "limited:echo", {"value": 1.0})
    assert (await other.result(0))["value"] == 1.0


async def test_one_connection_too_many_is_told_to_come_back(limited: Served) -> None:
    held = [await limited.socket() for _ in range(3)]
    code, reason = await (await limited.socket()).closed()
    assert (code, "connections_max" in (reason or "")) == (1013, True)
    held[0].close()
    await held[0].closed()
    again = await limited.socket()
    await again.subscribe(0, "limited:echo", {"value": 1.0})
    assert (await again.result(0))["value"] == 1.0


CALLS = {
    "arguments_size_bytes": ("query", "echo", {"value": "x" * 60_000}),
    "result_size_bytes": ("query", "text", {"size": 70_000}),
    "too many others, in what is said": ("query", "echo", {"value": json.loads("[" * 12 + "]" * 12)}),
    "too many others, in what is answered": ("query", "nest", {"depth": 12}),
    "too many others, in what is stored": ("mutation", "put", {"value": json.loads("[" * 8 + "]" * 8)}),
    "at most 20": ("mutation", "put", {"value": [0] * 21}),
    "at most 4": ("mutation", "put", {"value": dict.fromkeys("abcde", 0)}),
    "scheduled_per_call_max": ("mutation", "later", {"count": 3}),
}


@pytest.mark.parametrize("what", CALLS)
async def test_a_call_beyond_a_limit_is_answered_in_the_same_words_on_sockets_and_over_http(
    limited: Served, what: str
) -> None:
    kind, name, args = CALLS[what]
    body = {"path": f"limited:{name}", "args": args}
    answer = await limited.fetch(f"/api/{kind}", body, limited.token_header)
    wire = await limited.socket(headers=limited.token_header)
    if kind == "query":
        await wire.subscribe(0, f"limited:{name}", args)
        told = (await wire.result(0))["errorMessage"]
    else:
        told = (await wire.call("Mutation", f"limited:{name}", args))["result"]
    for said in (answer.json["errorMessage"], told):
        assert what.partition(",")[0] in said


async def test_bodies_beyond_a_frame_are_refused_to_strangers(limited: Served) -> None:
    answer = await limited.fetch("/api/query", {"path": "limited:echo", "args": {"value": "x" * 200_000}})
    assert (answer.status, answer.json["code"]) == (413, "LimitExceeded")
    assert "100,000 bytes (knob frame_size_bytes)" in answer.json["message"]


async def test_one_action_too_many_is_told_by_which_knob(limited: Served) -> None:
    body = {"path": "limited:wait", "args": {}}
    first = asyncio.ensure_future(limited.fetch("/api/action", body, limited.token_header))
    wire = await limited.socket(headers=limited.token_header)
    told = ""
    while "actions_running_max" not in told:  # until the first one has begun
        call = asyncio.ensure_future(wire.call("Action", "limited:wait"))
        done, _ = await asyncio.wait([call], timeout=1.0)
        told = call.result()["result"] if done else ""
        if not done:
            await wire.say("CancelAction", requestId=wire._requests - 1)
            await call
    first.cancel()
