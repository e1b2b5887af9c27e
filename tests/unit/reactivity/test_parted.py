"""Who comes back holding a result that has changed a little is told the difference, if nobody else can have it so."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from fakes import FakeStore, settle
from test_connection import Client
from test_query_cache import with_hub

from cellstore.protocol.delta import spliced
from cellstore.protocol.messages import Authenticate
from cellstore.reactivity.connection import Hub
from cellstore.reactivity.parted import Parted
from cellstore.reactivity.principal import ANONYMOUS, EMBEDDED, Principal
from cellstore.reactivity.result import Result
from cellstore.runtime.outcome import Outcome

ROWS = [{"_id": str(number), "n": number} for number in range(600)]
CHANGED = [*ROWS[:50], {"_id": "50", "n": -1}, *ROWS[51:]]


def result(size: int) -> Result:
    return Result(Outcome(True, b'"%b"' % (b"x" * (size - 2))))


SOMEBODY = replace(EMBEDDED, identity={"subject": "somebody else"})


async def becomes_somebody(_request: Authenticate) -> Principal:
    return SOMEBODY


async def follow(hub: Hub, holds: str | None = None, session: str = "s", who: Principal = EMBEDDED) -> Client:
    """A client that follows the rows, perhaps not for the first time."""
    client = Client(hub, who=who, verify=becomes_somebody)
    client.say("Connect", sessionId=session, exact=True, deltas=True)
    add = {"type": "Add", "queryId": 0, "udfPath": "m:get", "args": [{"key": "rows"}], "holds": holds}
    client.say("ModifyQuerySet", baseVersion=0, newVersion=1, modifications=[add])
    await settle()
    return client


def told(client: Client) -> dict[str, Any]:
    """The latest that it heard of the rows."""
    change: dict[str, Any] = client.frames[-1]["modifications"][0]
    return change


@with_hub
async def test_a_session_that_comes_back_is_told_the_difference(store: FakeStore, hub: Hub) -> None:
    store.set("rows", ROWS)
    before = await follow(hub)
    before.connection.closed()
    store.set("rows", CHANGED)
    again = await follow(hub, told(before)["digest"])
    assert spliced(ROWS, told(again)["splices"]) == CHANGED
    assert hub.parted.size_bytes == 0
    store.set("rows", ROWS)
    await settle()
    assert spliced(CHANGED, told(again)["splices"]) == ROWS


@with_hub
async def test_it_is_so_before_the_end_of_the_earlier_connection_is_noticed(store: FakeStore, hub: Hub) -> None:
    store.set("rows", ROWS)
    before = await follow(hub)
    held = told(before)["digest"]
    store.set("rows", CHANGED)
    await settle()  # the earlier one is told, and nobody hears it
    again = await follow(hub, held)
    assert spliced(ROWS, told(again)["splices"]) == CHANGED


@with_hub
async def test_nobody_else_is_told_a_difference(store: FakeStore, hub: Hub) -> None:
    store.set("rows", ROWS)
    before = await follow(hub)
    held = told(before)["digest"]
    before.connection.closed()
    store.set("rows", CHANGED)
    for session, who in (("another", EMBEDDED), ("s", ANONYMOUS), ("s", SOMEBODY)):
        other = await follow(hub, held, session, who)
        assert told(other)["value"] == CHANGED
        other.connection.closed()
    assert "splices" in told(await follow(hub, held))


@with_hub
async def test_nor_is_who_it_becomes_before_they_are_shown_anything(store: FakeStore, hub: Hub) -> None:
    store.set("rows", ROWS)
    before = await follow(hub)
    store.gate = asyncio.Event()
    store.set("rows", CHANGED)
    before.say("Authenticate", tokenType="User", value="a token", baseVersion=0)
    await settle()
    assert before.connection.who is SOMEBODY
    before.connection.closed()
    store.gate.set()
    assert told(await follow(hub, told(before)["digest"], who=SOMEBODY))["value"] == CHANGED


@with_hub
async def test_what_a_client_says_it_holds_and_does_not_is_told_whole(store: FakeStore, hub: Hub) -> None:
    store.set("rows", ROWS)
    (await follow(hub)).connection.closed()
    store.set("rows", CHANGED)
    assert told(await follow(hub, "00" * 16))["value"] == CHANGED


def test_no_more_is_kept_than_may_be_and_the_first_to_go_are_forgotten_first() -> None:
    parted = Parted(bytes_max=100_000)
    for session in "abcd":
        parted.keep(session, EMBEDDED, {b"d": result(15_000)})
    assert parted.size_bytes == 90_000
    assert [bool(parted.take(session, EMBEDDED)) for session in "abcd"] == [False, True, True, True]
    assert parted.size_bytes == 0


def test_short_results_and_what_is_larger_than_all_there_may_be_are_not_kept() -> None:
    parted = Parted(bytes_max=100_000)
    parted.keep("a", EMBEDDED, {b"d": result(100)})
    parted.keep("b", EMBEDDED, {b"d": result(60_000)})
    assert (parted.size_bytes, parted.take("a", EMBEDDED), parted.take("b", EMBEDDED)) == (0, {}, {})
