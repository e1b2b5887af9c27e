"""Native JSON and Convex's."""

import math
import tracemalloc

import pytest

from cellstore.errors import ValidationError
from cellstore.values.convex import from_convex, to_clean, to_convex
from cellstore.values.json import decode, dumps, loads
from cellstore.values.value import same


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7, b"7"),
        (7.0, b"7.0"),
        (-0.0, b"-0.0"),
        ((1 << 63) - 1, b"9223372036854775807"),
        (b"hi", b'{"$bytes":"aGk="}'),
        (math.inf, b'{"$float":"AAAAAAAA8H8="}'),
        ([None, math.nan], b'[null,{"$float":"AAAAAAAA+H8="}]'),
        ({"a": {"b": [None, b""]}}, b'{"a":{"b":[null,{"$bytes":""}]}}'),
        ('costs "$100"', b'"costs \\"$100\\""'),
    ],
)
def test_native_json_is_exact(value, text):
    assert dumps(value) == text
    assert same(loads(text), value)
    assert same(loads(text.decode()), value)


def test_spaces_do_not_hide_a_marked_object():
    assert loads(b'[ { "$bytes" : "aGk=" } ]') == [b"hi"]


@pytest.mark.parametrize(
    "text",
    [
        b'{"$bytes":7}',
        b'{"$bytes":"a"}',
        b'{"$bytes":"\xc3\xa9"}',
        b'{"$float":"AAAA"}',
        b'{"$integer":"AAAAAAAAAAA="}',
        b"{",
        b"",
        b"\xff",
    ],
)
def test_broken_native_json_is_refused(text):
    with pytest.raises(ValidationError):
        loads(text)


@pytest.mark.parametrize("opening", [b'[{"$a":1},' + b"[" * 500, b'{"a":' * 300 + b'{"$bytes":""}'])
def test_nesting_without_end_is_an_error_not_a_crash(opening):
    closing = b"]" * 501 if opening.startswith(b"[") else b"}" * 300
    with pytest.raises(ValidationError):
        loads(opening + closing)


def test_what_json_cannot_say_is_refused():
    for value in ({1, 2}, "\ud800", 1 << 70):
        with pytest.raises(ValidationError):
            dumps(value)


def test_decode_takes_what_is_parsed_already():
    assert decode({"a": [{"$bytes": "aGk="}]}) == {"a": [b"hi"]}


VECTORS = [
    (1, 1.0),
    (-(1 << 53), -9007199254740992.0),
    ((1 << 53) + 1, {"$integer": "AQAAAAAAIAA="}),
    ((1 << 63) - 1, {"$integer": "/////////38="}),
    (2.5, 2.5),
    (math.nan, {"$float": "AAAAAAAA+H8="}),
    (-0.0, {"$float": "AAAAAAAAAIA="}),
    (math.inf, {"$float": "AAAAAAAA8H8="}),
    (-math.inf, {"$float": "AAAAAAAA8P8="}),
    (b"hi", {"$bytes": "aGk="}),
    (None, None),
    (True, True),
    ({"a": [1, "x"]}, {"a": [1.0, "x"]}),
]


@pytest.mark.parametrize(("value", "wire"), VECTORS)
def test_convex_json_has_the_reference_vectors(value, wire):
    assert same(to_convex(value), wire)


@pytest.mark.parametrize(
    ("wire", "value"),
    [
        (1, 1.0),
        (1.5, 1.5),
        (True, True),
        ({"$integer": "//////////8="}, -1),
        ({"$integer": "BQAAAAAAAAA="}, 5),
        ({"$float": "AAAAAAAAAIA="}, -0.0),
        ({"a": [{"$bytes": "aGk="}, 3]}, {"a": [b"hi", 3.0]}),
        ({}, {}),
    ],
)
def test_convex_json_comes_in_with_numbers_as_floats(wire, value):
    assert same(from_convex(wire), value)


@pytest.mark.parametrize(
    "wire",
    [
        {"$integer": "AAA="},
        {"$integer": 5},
        {"$set": []},
        {"$undefined": None},
        {"$a": 1, "b": 2},
        {"$float": None},
        {"$bytes": "?"},
    ],
)
def test_broken_convex_json_is_refused(wire):
    with pytest.raises(ValidationError):
        from_convex({"args": [wire]})


def test_convex_json_nested_without_end_is_an_error_not_a_crash():
    wire: object = 1
    for _ in range(900):
        wire = [wire]
    with pytest.raises(ValidationError, match="shallower"):
        from_convex(wire)


def test_what_is_no_value_does_not_reach_the_wire():
    with pytest.raises(ValidationError):
        to_convex([(1, 2)])


def test_the_clean_form_is_for_people():
    value = {
        "big": 1 << 60,
        "small": 3,
        "bytes": b"hi",
        "no": [math.nan, math.inf, -math.inf],
        "zero": -0.0,
        "s": "x",
        "n": None,
    }
    clean = {"big": str(1 << 60), "small": 3.0, "bytes": "aGk=", "no": ["NaN", "Infinity", "-Infinity"]}
    assert to_clean(value) == {**clean, "zero": -0.0, "s": "x", "n": None}


def test_what_is_kept_takes_as_much_memory_as_it_is_long():
    """What orjson returns holds four kilobytes, however short it is."""
    tracemalloc.start()
    try:
        kept = [dumps({"n": n}) for n in range(1000)]
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 200 * len(kept)
