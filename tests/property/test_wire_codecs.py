"""Everything that crosses a process or a socket comes back as it was, and nothing that arrives can do harm."""

import math
import struct
from contextlib import suppress

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cellstore.errors import ValidationError
from cellstore.protocol.version import decode_ts, encode_ts
from cellstore.runtime import calls
from cellstore.runtime.outcome import ErrorInfo, Outcome
from cellstore.storage.contract import DocWrite
from cellstore.testing.strategies import BYTES, FLOATS, INTS, KEY_BYTES, TEXTS, VALUES
from cellstore.transaction.requests import CommitRequest, Lane
from cellstore.values.convex import from_convex, to_convex
from cellstore.values.ids import Minter, decode_id, encode_id
from cellstore.values.json import dumps, loads
from cellstore.values.value import INT_MAX, INT_MIN, same

IDS = st.binary(min_size=16, max_size=16)
STAMPS = st.integers(0, INT_MAX)
NAMES = st.text(alphabet="abc:_", max_size=6)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["a", "$float", "$integer", "$bytes", "$b", "$", ""]), inner, max_size=2),
    ),
    max_leaves=6,
)


def over_the_wire(value):
    return orjson.loads(orjson.dumps(value))


# ── values ────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(INTS)
def test_an_int_stays_an_int_in_native_json_and_only_large_ones_in_convexs(number):
    assert type(loads(dumps(number))) is int
    assert loads(dumps(number)) == number
    back = from_convex(over_the_wire(to_convex(number)))
    assert back == number
    assert type(back) is (float if abs(number) <= 1 << 53 else int)


@given(FLOATS)
@example(-0.0)
@example(float("inf"))
@example(float("nan"))
def test_a_float_stays_itself_on_both_wires_to_the_last_bit(number):
    for back in (loads(dumps(number)), from_convex(over_the_wire(to_convex(number)))):
        assert type(back) is float
        assert (math.isnan(back) and math.isnan(number)) or struct.pack("<d", back) == struct.pack("<d", number)


@given(BYTES)
def test_bytes_stay_bytes(value):
    assert loads(dumps([value])) == [value]
    assert from_convex(over_the_wire(to_convex({"x": value}))) == {"x": value}


@given(JSON)
def test_arbitrary_json_is_a_value_or_refused(parsed):
    text = orjson.dumps(parsed, option=0) if _fits(parsed) else b"null"
    for read in (lambda: loads(text), lambda: from_convex(orjson.loads(text))):
        try:
            value = read()
        except ValidationError:
            continue
        assert same(loads(dumps(value)), value)


def _fits(parsed):
    if isinstance(parsed, dict):
        return all(map(_fits, parsed.values()))
    if isinstance(parsed, list):
        return all(map(_fits, parsed))
    return not (isinstance(parsed, int) and not INT_MIN <= parsed <= INT_MAX)


@given(st.binary(max_size=20))
def test_garbage_is_refused_as_such(garbage):
    with suppress(ValidationError):  # anything else it raises fails this test
        assert same(loads(dumps(loads(garbage))), loads(garbage))


# ── ids ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.integers(1, (1 << 32) - 1), IDS, st.data())
def test_a_changed_id_is_never_taken_for_another(number, internal, data):
    text = encode_id(number, internal)
    at = data.draw(st.integers(0, len(text) - 1))
    letter = data.draw(st.sampled_from("0123456789abcdefghjkmnpqrstvwxyzilouA-"))
    changed = text[:at] + letter + text[at + 1 :]
    if changed != text:
        with pytest.raises(ValidationError):
            decode_id(changed)
    for cut in (text[:-1], text[1:], text + "0", text.upper()):
        if cut != text:
            with pytest.raises(ValidationError):
                decode_id(cut)


@given(st.integers(1, (1 << 32) - 1), st.lists(IDS, max_size=6))
def test_ids_of_one_table_sort_as_their_bytes_do(number, internals):
    texts = [encode_id(number, internal) for internal in internals]
    assert [decode_id(text)[1] for text in sorted(texts)] == sorted(internals)


@given(st.integers(0, (1 << 24) - 1), st.integers(0, 100_000))
def test_ids_of_one_bulk_load_differ_and_keep_their_day(first, day):
    dice = iter([bytes(5), first.to_bytes(3, "big")])
    minter = Minter(lambda size: next(dice, bytes(size)), day)
    made = [minter.mint() for _ in range(5)]
    assert len(set(made)) == 5
    assert {len(one) for one in made} == {16}
    assert {one[-2:] for one in made} == {(day & 0xFFFF).to_bytes(2, "big")}


# ── messages ──────────────────────────────────────────────────────────────────────────────────────────────────────


@st.composite
def doc_writes(draw):
    op = draw(st.sampled_from(["insert", "update", "delete"]))
    key = KEY_BYTES.filter(bool)
    indexes = draw(st.lists(st.integers(1, 1 << 21), max_size=3, unique=True))
    keys = []
    for index in indexes:
        old, new = draw(key), draw(key)
        old = None if op == "insert" else draw(st.sampled_from([old, new, None])) if op == "update" else old
        keys.append((index, old, None if op == "delete" else new))
    body = None if op == "delete" else dumps(draw(st.dictionaries(st.sampled_from("abc"), VALUES, max_size=2)))
    return DocWrite(draw(st.integers(1, 1 << 20)), draw(IDS), body, op, keys)


SPANS = st.lists(st.tuples(KEY_BYTES, KEY_BYTES), min_size=1, max_size=3)
LANES = st.builds(Lane, NAMES, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))


@given(
    st.builds(
        CommitRequest,
        STAMPS,
        st.dictionaries(st.integers(1, 1 << 21), SPANS, max_size=3),
        st.lists(doc_writes(), max_size=3),
        STAMPS,
        st.one_of(st.none(), LANES),
        st.one_of(st.none(), st.tuples(NAMES, st.integers(0, 1 << 40))),
        NAMES,
        VALUES.map(dumps),
    )
)
def test_a_commit_request_crosses_a_process_unchanged(request):
    assert CommitRequest.from_wire(over_the_wire(request.to_wire())) == request


ERRORS = st.builds(ErrorInfo, NAMES, TEXTS, VALUES, st.just(True), TEXTS, NAMES, NAMES)


@given(
    st.builds(
        Outcome,
        st.booleans(),
        VALUES.map(dumps),
        st.one_of(st.none(), ERRORS),
        st.lists(TEXTS, max_size=2),
        STAMPS,
        st.dictionaries(st.integers(1, 1 << 21), SPANS, max_size=2),
        st.one_of(st.none(), NAMES),
        st.booleans(),
        st.floats(0, 1e6),
    )
)
def test_an_outcome_crosses_a_process_unchanged(outcome):
    back = calls.outcome_from_wire(over_the_wire(calls.outcome_to_wire(outcome)))
    if outcome.error is not None:
        assert same(back.error.data, outcome.error.data)
        back.error.data = outcome.error.data  # NaN is not equal to itself
    assert back == outcome


@given(st.lists(st.lists(JSON.filter(_fits), max_size=2), min_size=1, max_size=5), st.data())
def test_frames_are_put_together_again_however_they_are_cut(messages, data):
    sent = b"".join(calls.frame([message, ["next"]]) for message in messages)
    reader, heard = calls.FrameReader(), []
    while sent:
        size = data.draw(st.integers(1, len(sent)))
        heard += reader.feed(sent[:size])
        sent = sent[size:]
    assert heard == [part for message in messages for part in (over_the_wire(message), ["next"])]


@given(STAMPS)
def test_a_timestamp_crosses_the_sync_protocol_unchanged(ts):
    assert decode_ts(encode_ts(ts)) == ts
