"""The client machine, as dialogues: what happens, and what it asks to be done."""

from __future__ import annotations

import pytest
from conversation import committed, machine, patch, refused, said, transition

from cellstore.client.machine import Send
from cellstore.client.wire import encode_frame


def test_a_connection_opens_with_everything_the_server_must_know():
    m = machine()
    m.subscribe("tasks:open", {"limit": 5})
    m.request("mutation", "tasks:add", {"text": "milk"})
    assert said(m.opened()) == [
        "Connect #0 InitialConnect",
        "ModifyQuerySet 0→1 +0 tasks:open{'limit': 5}",
        "Mutation 0 tasks:add{'text': 'milk'}",
    ]


def test_connect_asks_for_exact_values():
    m = machine()
    send = m.opened()[0]
    assert isinstance(send, Send)
    assert send.frame["exact"] is True
    assert send.frame["sessionId"] == "session"


def test_equal_questions_are_asked_once():
    m = machine()
    m.opened()
    first, asked = m.subscribe("tasks:open", {"a": 1, "b": 2})
    again, nothing = m.subscribe("tasks:open", {"b": 2, "a": 1})
    other, asked_too = m.subscribe("tasks:open", {"a": 1.0, "b": 2})
    assert (first, nothing, other) == (again, [], 1)
    assert said(asked + asked_too) == [
        "ModifyQuerySet 1→2 +0 tasks:open{'a': 1, 'b': 2}",
        "ModifyQuerySet 2→3 +1 tasks:open{'a': 1.0, 'b': 2}",
    ]


def test_the_last_watcher_ends_a_query_and_its_id_is_not_used_again():
    m = machine()
    m.opened()
    query, _ = m.subscribe("tasks:open", {})
    m.subscribe("tasks:open", {})
    assert m.unsubscribe(query) == []
    assert said(m.unsubscribe(query)) == ["ModifyQuerySet 2→3 -0"]
    assert m.subscribe("tasks:open", {})[0] == 1
    m.check()


def test_results_move_together_and_equal_ones_are_not_told_again():
    m = machine()
    m.subscribe("a", {})
    m.subscribe("b", {})
    m.opened()
    assert said(m.received(transition((0, 0), (1, 10), q0=[1], q1={"x": 2}))) == ["step @10 0=[1] 1={'x': 2}"]
    assert said(m.received(transition((1, 10), (1, 11), q0=[1], q1={"x": 3}))) == ["step @11 1={'x': 3}"]
    assert said(m.received(transition((1, 11), (1, 12), q0=[1.0]))) == ["step @12 0=[1.0]"]


def test_a_failed_query_is_told_and_recovers():
    m = machine()
    m.subscribe("a", {})
    m.opened()
    assert said(m.received(transition((0, 0), (1, 10), q0=ValueError("boom")))) == ["step @10 0=FunctionError"]
    assert said(m.received(transition((1, 10), (1, 11), q0=1))) == ["step @11 0=1"]


def test_a_transition_out_of_step_is_refused_whole():
    m = machine()
    m.subscribe("a", {})
    m.opened()
    m.received(transition((0, 0), (1, 10), q0=1))
    assert said(m.received(transition((1, 11), (1, 12), q0=2)))[0].startswith("restart: a transition from")
    assert m.results.get(0).value == 1
    assert m.results.ts == 10


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"type": "Transition"}', '{"type": "MutationResponse"}', "nonsense"])
def test_what_makes_no_sense_restarts_the_connection(text):
    m = machine()
    m.opened()
    assert said(m.received(text))[0].startswith("restart: ")


def test_what_a_newer_server_adds_is_ignored():
    m = machine()
    m.opened()
    assert m.received('{"type": "Applause"}') == []
    assert m.received('{"type": "Ping"}') == []


def test_a_mutation_is_over_when_its_effects_are_on_screen():
    m = machine()
    m.subscribe("a", {})
    m.opened()
    m.received(transition((0, 0), (1, 10), q0=0))
    m.request("mutation", "add", {})
    assert said(m.received(committed(0, 12, "id"))) == []
    assert said(m.received(transition((1, 10), (1, 11)))) == ["step @11"]
    assert said(m.received(transition((1, 11), (1, 12), q0=1))) == ["step @12 0=1", "settled 0: 'id'"]


def test_a_mutation_whose_effects_are_on_screen_already_is_over_when_it_is_answered():
    m = machine()
    m.opened()
    m.received(transition((0, 0), (1, 20)))
    m.request("mutation", "add", {})
    assert said(m.received(committed(0, 15))) == ["settled 0: None"]


def test_a_failed_mutation_is_over_at_once():
    m = machine()
    m.opened()
    m.request("mutation", "add", {})
    assert said(m.received(refused(0, "ValidationError"))) == ["settled 0: ValidationError"]


def test_a_lost_connection_sends_mutations_again_under_the_same_ids():
    m = machine()
    m.opened()
    for text in "abc":
        m.request("mutation", "add", {"text": text})
    m.received(refused(0, "ValidationError"))
    assert said(m.lost("power cut")) == []
    assert said(m.opened()) == [
        "Connect #1 power cut",
        "ModifyQuerySet 0→1",
        "Mutation 1 add{'text': 'b'}",
        "Mutation 2 add{'text': 'c'}",
    ]


def test_a_durable_mutation_is_not_sent_again_and_ends_with_the_first_transition():
    m = machine()
    m.opened()
    m.request("mutation", "add", {})
    m.received(committed(0, 12))
    m.lost("power cut")
    connect, *rest = m.opened()
    assert connect.frame["maxObservedTimestamp"] == "DAAAAAAAAAA="
    assert said(rest) == ["ModifyQuerySet 0→1"]
    assert said(m.received(transition((0, 0), (1, 12)))) == ["step @12", "settled 0: None"]


def test_an_action_in_flight_ends_in_doubt_and_one_not_sent_goes_out_later():
    m = machine()
    m.request("action", "first", {})
    m.opened()
    assert said(m.lost("power cut")) == ["settled 0: Disconnected"]
    m.request("action", "second", {})
    assert said(m.opened())[2:] == ["Action 1 second{}"]


def test_live_queries_are_asked_again_with_their_journals_and_keep_their_values():
    m = machine()
    m.subscribe("pages", {})
    m.opened()
    m.received(transition((0, 0), (1, 10), q0=["x"]))
    m.lost("power cut")
    assert m.results.get(0).value == ["x"]
    modify = m.opened()[1]
    assert modify.frame["modifications"][0]["journal"] == "journal of 0"
    assert said(m.received(transition((0, 0), (1, 15), q0=["x"]))) == ["step @15"]


def test_a_result_that_is_held_is_named_after_a_lost_connection_and_stays_when_nothing_is_said_of_it():
    m = machine()
    m.subscribe("a", {})
    m.subscribe("b", {})
    m.opened()
    told = {"type": "QueryUpdated", "queryId": 0, "value": [1, 2], "logLines": [], "journal": None, "digest": "ab"}
    m.received(patch((0, 0), (1, 10), told))
    patched = {"type": "QueryPatched", "queryId": 0, "splices": [[0, 1, []]], "logLines": [], "digest": "cd"}
    m.received(patch((1, 10), (1, 20), patched))
    m.lost("power cut")
    held, other = m.opened()[1].frame["modifications"]
    assert held["holds"] == "cd"
    assert "holds" not in other
    assert said(m.received(transition((0, 0), (1, 30), q1=5))) == ["step @30 1=5"]
    assert m.results.get(0).value == [2]
    m.received(patch((1, 30), (1, 40), {**patched, "splices": [[1, 0, [3]]]}))
    assert m.results.get(0).value == [2, 3]


def test_a_result_for_a_query_released_meanwhile_is_dropped():
    m = machine()
    m.subscribe("a", {})
    m.opened()
    m.unsubscribe(0)
    assert said(m.received(transition((0, 0), (1, 10), q0=1))) == ["step @10"]
    assert m.results.get(0) is None


def test_no_more_requests_are_on_the_wire_than_the_server_queues():
    m = machine()
    m.requests.window = 2
    m.opened()
    for _ in range(4):
        m.request("mutation", "add", {})
    assert m.requests.send_ready() == []
    assert said(m.received(refused(0, "ValidationError"))) == ["settled 0: ValidationError", "Mutation 2 add{}"]
    m.check()
    m.lost("power cut")
    assert said(m.opened())[2:] == ["Mutation 1 add{}", "Mutation 2 add{}"]
    m.check()


def test_an_abandoned_request_is_not_sent_and_says_whether_it_may_have_happened():
    m = machine()
    never, _ = m.request("mutation", "add", {})
    assert m.abandon(never) is False
    m.opened()
    doubtful, _ = m.request("mutation", "add", {})
    m.lost("power cut")
    assert m.abandon(doubtful) is True
    assert said(m.opened())[2:] == []
    m.check()


def test_a_large_transition_may_come_in_chunks():
    m = machine()
    m.subscribe("a", {})
    m.opened()
    text = transition((0, 0), (1, 10), q0="é" * 10)
    parts = [text[i : i + 40] for i in range(0, len(text), 40)]
    effects = []
    for number, part in enumerate(parts):
        frame = {"type": "TransitionChunk", "chunk": part, "partNumber": number, "totalParts": len(parts)}
        effects += m.received(encode_frame(frame))
    assert said(effects) == ["step @10 0='éééééééééé'"]


def test_a_chunk_out_of_order_restarts():
    m = machine()
    m.opened()
    frame = {"type": "TransitionChunk", "chunk": "{", "partNumber": 1, "totalParts": 2}
    assert said(m.received(encode_frame(frame)))[0].startswith("restart: chunk 1 of 2")


def test_refused_credentials_and_fatal_errors_stop_the_client():
    m = machine()
    m.opened()
    assert said(m.received('{"type":"AuthError","error":"expired","baseVersion":0}')) == [
        "stop: Unauthenticated: expired"
    ]
    assert said(m.received('{"type":"FatalError","error":"broken"}')) == ["stop: FatalError: broken"]


def test_a_patch_changes_the_list_it_is_for_and_nothing_else() -> None:
    client = machine()
    client.opened()
    query_id, _ = client.subscribe("tasks:open", {})
    client.received(transition((0, 0), (2, 10), q0=[1, 2, 3, 4]))
    patched = {"type": "QueryPatched", "queryId": query_id, "splices": [[1, 1, []], [4, 0, [5]]], "logLines": []}
    assert said(client.received(patch((2, 10), (2, 20), patched))) == ["step @20 0=[1, 3, 4, 5]"]
    wrong = client.received(patch((2, 20), (2, 30), {**patched, "splices": [[9, 1, []]]}))
    assert said(wrong)[0].startswith("restart: ")


def test_a_patch_for_a_query_given_up_meanwhile_is_dropped() -> None:
    client = machine()
    client.opened()
    query_id, _ = client.subscribe("tasks:open", {})
    client.received(transition((0, 0), (2, 10), q0=[1]))
    client.unsubscribe(query_id)
    late = {"type": "QueryPatched", "queryId": query_id, "splices": [[0, 1, []]], "logLines": []}
    assert said(client.received(patch((2, 10), (2, 20), late))) == ["step @20"]
