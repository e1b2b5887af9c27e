"""Client messages are taken strictly, and nothing a client sends raises anything but ValidationError."""

import contextlib
import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellstore.errors import ValidationError
from cellstore.protocol import messages as wire
from cellstore.protocol.codec import chunks, decode_frame, encode_frame
from cellstore.protocol.path import canonical
from cellstore.protocol.version import StateVersion, decode_ts, encode_ts

ADD = {"type": "Add", "queryId": 0, "udfPath": "m:f", "args": [{"n": 1, "big": {"$integer": "BQAAAAAAAAA="}}]}


@pytest.mark.parametrize(
    ("ts", "text"), [(0, "AAAAAAAAAAA="), (1, "AQAAAAAAAAA="), (1735689600000000000, "AABXwH5oFhg=")]
)
def test_timestamps_are_spelt_as_convex_spells_them(ts: int, text: str) -> None:
    assert (encode_ts(ts), decode_ts(text)) == (text, ts)


@pytest.mark.parametrize("text", ["", "AAAA", "not base64!!", 7, None, "//////////8="])
def test_what_is_no_timestamp_is_refused(text: Any) -> None:
    with pytest.raises(ValidationError):
        decode_ts(text)


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("messages:list", "messages:list"),
        ("messages.js:list", "messages:list"),
        ("messages", "messages:default"),
        ("a/b.js", "a/b:default"),
    ],
)
def test_paths_have_one_spelling(given: str, path: str) -> None:
    assert canonical(given) == path


def test_official_clients_numbers_are_floats_and_ours_are_what_they_are() -> None:
    frame = json.dumps({"type": "ModifyQuerySet", "baseVersion": 0, "newVersion": 1, "modifications": [ADD]})
    official = decode_frame(frame)
    assert isinstance(official, wire.ModifyQuerySet)
    assert isinstance(official.modifications[0], wire.Add)
    assert official.modifications[0].args == {"n": 1.0, "big": 5}
    assert isinstance(official.modifications[0].args["n"], float)
    ours = decode_frame(frame.replace('{"$integer": "BQAAAAAAAAA="}', "5"), exact=True)
    assert isinstance(ours, wire.ModifyQuerySet)
    assert isinstance(ours.modifications[0], wire.Add)
    assert isinstance(ours.modifications[0].args["n"], int)


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ([], "message"),
        ({}, "type"),
        ({"type": 7}, "type"),
        ({"type": "Connect"}, "sessionId"),
        ({"type": "Connect", "sessionId": "x" * 201}, "sessionId"),
        ({"type": "Connect", "sessionId": "x", "maxObservedTimestamp": "?"}, "maxObservedTimestamp"),
        ({"type": "Mutation", "requestId": -1, "udfPath": "a:b", "args": [{}]}, "requestId"),
        ({"type": "Mutation", "requestId": True, "udfPath": "a:b", "args": [{}]}, "requestId"),
        ({"type": "Mutation", "requestId": 1 << 32, "udfPath": "a:b", "args": [{}]}, "requestId"),
        ({"type": "Mutation", "requestId": 1, "udfPath": None, "args": [{}]}, "udfPath"),
        ({"type": "Mutation", "requestId": 1, "udfPath": "a:b", "args": [{}, {}]}, "args"),
        ({"type": "Mutation", "requestId": 1, "udfPath": "a:b", "args": "x"}, "args"),
        ({"type": "Action", "requestId": 1, "udfPath": "a:b", "args": [{"x": {"$integer": "?"}}]}, ""),
        ({"type": "ModifyQuerySet", "baseVersion": 1, "newVersion": 1, "modifications": []}, "newVersion"),
        ({"type": "ModifyQuerySet", "baseVersion": 0, "newVersion": 1, "modifications": {}}, "modifications"),
        ({"type": "ModifyQuerySet", "baseVersion": 0, "newVersion": 1, "modifications": [7]}, "modifications"),
        ({"type": "Authenticate", "baseVersion": 0, "tokenType": "Root"}, "tokenType"),
        ({"type": "Authenticate", "baseVersion": 0, "tokenType": "User"}, "value"),
    ],
)
def test_a_message_that_does_not_fit_is_refused_by_the_name_of_the_field(message: Any, named: str) -> None:
    with pytest.raises(ValidationError) as refused:
        wire.parse(message)
    assert named in refused.value.message


def test_unknown_fields_and_types_are_let_pass() -> None:
    assert wire.parse({"type": "Event", "eventType": "x"}) == wire.Ignored("Event")
    connect = wire.parse({"type": "Connect", "sessionId": "s", "connectionCount": 0.0, "clientTs": 1, "new": {}})
    assert connect == wire.Connect("s")


def test_acting_as_is_another_spelling_of_impersonating() -> None:
    message = wire.parse(
        {"type": "Authenticate", "baseVersion": 0, "tokenType": "Admin", "value": "k", "acting_as": {"subject": "s"}}
    )
    assert isinstance(message, wire.Authenticate)
    assert message.impersonating == {"subject": "s"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=20,
)
FIELDS = """type sessionId baseVersion newVersion modifications queryId udfPath args requestId tokenType value
    journal componentPath maxObservedTimestamp connectionCount"""
fields = st.sampled_from(FIELDS.split())
names = st.sampled_from(["Connect", "Authenticate", "ModifyQuerySet", "Mutation", "Action", "Add", "Remove"])
near_misses = st.dictionaries(fields, json_values | names | st.lists(st.dictionaries(fields, json_values | names)))


@given(json_values | near_misses, st.booleans())
def test_no_json_raises_anything_but_a_validation_error(message: Any, exact: bool) -> None:
    with contextlib.suppress(ValidationError):
        wire.parse(message, exact)


@given(st.text() | st.binary())
def test_no_text_raises_anything_but_a_validation_error(frame: str | bytes) -> None:
    with contextlib.suppress(ValidationError):
        decode_frame(frame)


@pytest.mark.parametrize("depth", [900, 100_000])
def test_deep_nesting_is_refused(depth: int) -> None:
    frame = '{"type":"Mutation","requestId":1,"udfPath":"a:b","args":[{"x":' + "[" * depth + "]" * depth + "}]}"
    with pytest.raises(ValidationError):
        decode_frame(frame)


def test_values_are_spliced_in_as_they_are() -> None:
    update = wire.query_updated(3, b'{"n":1.0}', ["[LOG] x"], None)
    frame = encode_frame(wire.transition(StateVersion(), StateVersion(1, 0, 10), [update]))
    assert b'"value":{"n":1.0}' in frame
    assert json.loads(frame)["startVersion"] == {"querySet": 0, "identity": 0, "ts": "AAAAAAAAAAA="}


def test_error_data_is_present_only_when_the_function_gave_some() -> None:
    bug = encode_frame(wire.call_failed("MutationResponse", 1, wire.Failure("boom"), []))
    refusal = encode_frame(wire.call_failed("MutationResponse", 1, wire.Failure("no", data=b"null"), []))
    assert "errorData" not in json.loads(bug)
    assert json.loads(refusal)["errorData"] is None


@given(st.text(min_size=1), st.integers(1, 7))
def test_chunks_put_together_are_the_text(text: str, size: int) -> None:
    parts = [orjson.loads(encode_frame(part)) for part in chunks(text.encode("utf-8", "replace").decode(), "t", size)]
    assert "".join(part["chunk"] for part in parts) == text.encode("utf-8", "replace").decode()
    assert [part["partNumber"] for part in parts] == list(range(parts[0]["totalParts"]))
