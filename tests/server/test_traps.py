"""What official clients look for and nothing else shows: one test for each."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from served_harness import Served

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
