"""Who asked for deltas gets a long list that changed a little as a patch of the one it holds; everybody else whole."""

from __future__ import annotations

import json
from typing import Any

from cellstore.errors import CellstoreError, FunctionError
from cellstore.protocol import messages as wire
from cellstore.protocol.codec import encode_frame
from cellstore.protocol.delta import spliced
from cellstore.reactivity.principal import ANONYMOUS, EMBEDDED, Principal
from cellstore.reactivity.result import Result
from cellstore.reactivity.session import Send, Session
from cellstore.runtime.outcome import Outcome
from cellstore.values import json as native

ROWS = [{"_id": str(number), "n": number} for number in range(600)]
CHANGED = [*ROWS[:50], {"_id": "50", "n": -1}, *ROWS[51:]]


def subscribed(who: Principal = EMBEDDED, **said: Any) -> Session:
    session = Session(who)
    session.received(wire.parse({"type": "Connect", "sessionId": "s", **said}))
    add = {"type": "Add", "queryId": 0, "udfPath": "m:f", "args": [{}]}
    session.received(
        wire.parse({"type": "ModifyQuerySet", "baseVersion": 0, "newVersion": 1, "modifications": [add]}, session.exact)
    )
    return session


def shown(session: Session, ts: int, outcome: Outcome) -> dict[str, Any]:
    """The query comes to `outcome`; how the client is told."""
    session.mark([0])
    session.advance()
    sent = session.refreshed(ts, {0: Result(outcome, ts)})
    session.flushed()
    [send] = [effect for effect in sent if isinstance(effect, Send)]
    modification: dict[str, Any] = json.loads(encode_frame(send.message))["modifications"][0]
    return modification


def good(rows: list[Any]) -> Outcome:
    return Outcome(True, native.dumps(rows))


def test_a_small_change_is_a_patch() -> None:
    session = subscribed(exact=True, deltas=True)
    assert shown(session, 1, good(ROWS))["value"] == ROWS
    patched = shown(session, 2, good(CHANGED))
    assert patched["type"] == "QueryPatched"
    assert spliced(ROWS, patched["splices"]) == CHANGED


def test_who_did_not_ask_gets_the_whole_list() -> None:
    for said in ({}, {"exact": True}, {"deltas": True}):
        session = subscribed(**said)
        shown(session, 1, good(ROWS))
        assert len(shown(session, 2, good(CHANGED))["value"]) == 600


def test_after_a_failure_the_whole_list_is_told() -> None:
    session = subscribed(exact=True, deltas=True)
    shown(session, 1, good(ROWS))
    assert shown(session, 2, Outcome.failed(FunctionError("no")))["type"] == "QueryFailed"
    assert shown(session, 3, good(CHANGED))["value"] == CHANGED


def test_of_a_short_list_the_whole_is_told() -> None:
    session = subscribed(exact=True, deltas=True)
    shown(session, 1, good(ROWS[:20]))
    assert shown(session, 2, good(ROWS[1:21]))["value"] == ROWS[1:21]


def resumed(holds: Any, who: Principal = EMBEDDED, **said: Any) -> Session:
    """A session whose client comes back with a result it was told on an earlier connection."""
    session = Session(who)
    session.received(wire.parse({"type": "Connect", "sessionId": "s", "exact": True, "deltas": True, **said}))
    add = {"type": "Add", "queryId": 0, "udfPath": "m:f", "args": [{}], "holds": holds}
    modify = {"type": "ModifyQuerySet", "baseVersion": 0, "newVersion": 1, "modifications": [add]}
    session.received(wire.parse(modify, session.exact))
    return session


def first(session: Session, result: Result) -> list[Any]:
    """What the first transition changes."""
    [send] = [effect for effect in session.refreshed(result.ts, {0: result}) if isinstance(effect, Send)]
    session.flushed()
    changes: list[Any] = json.loads(encode_frame(send.message))["modifications"]
    return changes


def test_who_comes_back_with_the_same_result_is_told_nothing_and_patches_from_then_on() -> None:
    told = shown(subscribed(exact=True, deltas=True), 1, good(ROWS))
    session = resumed(told["digest"])
    assert first(session, Result(good(ROWS), 2)) == []
    patched = shown(session, 3, good(CHANGED))
    assert spliced(ROWS, patched["splices"]) == CHANGED


def test_who_comes_back_with_the_result_before_is_told_the_patch_others_were() -> None:
    other = subscribed(exact=True, deltas=True)
    told, result = shown(other, 1, good(ROWS)), Result(good(CHANGED), 2)
    other.mark([0])
    other.advance()
    other.refreshed(2, {0: result})
    [patched] = first(resumed(told["digest"]), result)
    assert spliced(ROWS, patched["splices"]) == CHANGED
    assert first(resumed("00" * 16), result)[0]["value"] == CHANGED


def test_what_a_client_says_it_holds_counts_only_where_deltas_were_agreed() -> None:
    digest = Result(good(ROWS)).digest.hex()
    for said in ({"exact": False}, {"deltas": False}):
        [update] = first(resumed(digest, **said), Result(good(ROWS), 1))
        assert len(update["value"]) == 600
        assert "digest" not in update
    for nonsense in (7, "x", "g" * 32, None, "0" * 31):
        assert first(resumed(nonsense), Result(good(ROWS), 1))[0]["value"] == ROWS


def test_by_no_digest_can_be_tried_what_a_client_is_not_shown() -> None:
    """A pin in the logs has ten thousand possibilities: whoever has a digest of it, or is told that one is right, has it."""
    said = Outcome(True, native.dumps(ROWS), logs=["the pin is 4711"])
    told = shown(subscribed(ANONYMOUS, exact=True, deltas=True), 1, said)
    assert (told["logLines"], told["digest"]) == ([], Result(good(ROWS)).digest.hex())
    assert first(resumed(told["digest"], ANONYMOUS), Result(said, 2)) == []
    assert first(resumed(Result(said).digest.hex(), ANONYMOUS), Result(said, 2)) != []
    changed = Result(good(CHANGED), 3)
    assert changed.patch_from(Result(said, 2)) is not None
    assert first(resumed(Result(said).digest.hex(), ANONYMOUS), changed)[0]["type"] == "QueryUpdated"
    bug = Outcome.failed(CellstoreError("the pin is 4711"))
    assert first(resumed(Result(bug).digest.hex(), ANONYMOUS), Result(bug, 4)) != []


def test_an_owner_hears_of_logs_that_changed_and_nobody_else_of_the_same_value_again() -> None:
    loud = Outcome(True, native.dumps(ROWS), logs=["changed"])
    owner, guest = (subscribed(who, exact=True, deltas=True) for who in (EMBEDDED, ANONYMOUS))
    for session in (owner, guest):
        shown(session, 1, good(ROWS))
    assert first(owner, Result(loud, 2))[0]["logLines"] == ["changed"]
    assert [effect for effect in guest.refreshed(2, {0: Result(loud, 2)}) if isinstance(effect, Send)] == []
