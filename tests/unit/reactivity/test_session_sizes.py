"""No message is longer than clients take: what does not fit is told as an error, and the rest goes on."""

from __future__ import annotations

import json
from typing import Any

from cellstore.knobs import Knobs
from cellstore.protocol import messages as wire
from cellstore.protocol.codec import encode_frame
from cellstore.reactivity.principal import EMBEDDED
from cellstore.reactivity.result import Result
from cellstore.reactivity.session import Send, Session
from cellstore.runtime.outcome import Outcome
from cellstore.values import json as native

MOST = 4000


def session(queries: int = 0) -> Session:
    session = Session(EMBEDDED, Knobs(frame_size_bytes=MOST))
    adds = [{"type": "Add", "queryId": n, "udfPath": f"m:q{n}", "args": [{}]} for n in range(queries)]
    session.received(
        wire.parse({"type": "ModifyQuerySet", "baseVersion": 0, "newVersion": 1, "modifications": adds}, False)
    )
    return session


def told(effects: Any) -> list[dict[str, Any]]:
    frames = [encode_frame(effect.message) for effect in effects if isinstance(effect, Send)]
    assert all(len(frame) <= MOST for frame in frames)
    return [json.loads(frame) for frame in frames]


def shown(session: Session, ts: int, *lengths: int) -> list[dict[str, Any]]:
    """The queries come to texts of these lengths; what the client is told of them."""
    session.mark(range(len(lengths)))
    session.advance()
    results = {n: Result(Outcome(True, native.dumps("x" * length)), ts) for n, length in enumerate(lengths)}
    transitions = told(session.refreshed(ts, results))
    session.flushed()
    return [change for transition in transitions for change in transition["modifications"]]


def test_a_result_that_fits_into_no_message_is_an_error_until_it_fits() -> None:
    a = session(queries=1)
    [failed] = shown(a, 1, MOST)
    assert failed["type"] == "QueryFailed"
    assert "m:q0 takes 4,202 bytes" in failed["errorMessage"]
    assert "4,000 at most (knob frame_size_bytes)" in failed["errorMessage"]
    assert shown(a, 2, MOST) == []
    assert shown(a, 3, 5)[0]["value"] == "xxxxx"


def test_of_results_that_do_not_fit_together_those_that_do_are_told() -> None:
    both = shown(session(queries=2), 1, 2500, 2500)
    assert [change["type"] for change in both] == ["QueryUpdated", "QueryFailed"]


def test_an_answer_that_fits_into_no_message_says_that_the_call_has_happened() -> None:
    for kind in ("Mutation", "Action"):
        a = session()
        a.refreshed(1, {})
        a.flushed()
        a.received(wire.parse({"type": kind, "requestId": 3, "udfPath": "m:f", "args": [{}]}, False))
        done = a.mutation_done if kind == "Mutation" else a.action_done
        effects = done(3, Outcome(True, native.dumps("x" * MOST), ts=7))
        [answer] = told(effects)
        assert (answer["type"], answer["requestId"], answer["success"]) == (f"{kind}Response", 3, False)
        assert "has happened, but" in answer["result"] or "has ended well, but" in answer["result"]
        [transition] = told(a.refreshed(7, {}))  # it is followed by what it changed, as any other
        assert transition["type"] == "Transition"
