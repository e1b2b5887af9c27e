"""Key bytes: the layout is a promise to stores already written."""

import itertools
import random

import pytest

from cellstore.errors import ValidationError
from cellstore.values.document import Document
from cellstore.values.ids import Id
from cellstore.values.index_key import END, after, encode_key, encode_prefix, encode_value
from cellstore.values.order import compare, sort_key
from cellstore.values.value import MISSING, UNSET


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (MISSING, "01"),
        (None, "02"),
        (0, "058000000000000000"),
        (-0.0, "058000000000000000"),
        (1, "05bff0000000000000"),
        (1.0, "05bff0000000000000"),
        (-1, "05400fffffffffffff"),
        (1 << 53, "05c3400000000000000000"),
        ((1 << 53) + 1, "05c3400000000000000001"),
        ((1 << 63) - 1, "05c3dfffffffffffff03ff"),
        (-(1 << 63), "053c1fffffffffffff0000"),
        (float("inf"), "05fff00000000000000000"),
        (float("nan"), "06"),
        (False, "08"),
        (True, "09"),
        ("a\0b", "0b6100ff620001"),
        (b"\0", "0c00ff0001"),
        ([None, 1], "0e0205bff000000000000000"),
        ({"b": None, "a": True}, "0f0b610001090b6200010200"),
    ],
)
def test_the_layout(value, key):
    assert encode_value(value).hex() == key


def test_a_key_ends_with_creation_time_and_id():
    key = encode_key(["x", MISSING], 1.0, b"i" * 16)
    assert key == encode_value("x") + encode_value(MISSING) + encode_value(1.0) + b"i" * 16


def test_a_prefix_bounds_its_keys_even_before_ids_of_all_ones():
    key = encode_key([5], 1.0, b"\xff" * 16)
    for prefix in (encode_prefix([5]), encode_prefix([5, 1.0]), b""):
        assert prefix <= key < after(prefix)
    assert key < END
    assert after(encode_prefix(["a"])) < encode_key(["a\0"], 0.0, bytes(16))


def test_ids_and_documents_are_keyed_as_what_they_are():
    assert encode_value(Id["t"]("x")) == encode_value("x")
    assert encode_value(Document(a=1)) == encode_value({"a": 1})


@pytest.mark.parametrize("value", [UNSET, (1,), {1}, 1 << 63, object(), 1j])
def test_what_is_no_value_has_no_key_and_no_place(value):
    with pytest.raises(ValidationError):
        encode_value(value)
    if value != 1 << 63:
        with pytest.raises(ValidationError):
            compare(value, 1)


def test_everything_sorts():
    ordered = [MISSING, None, float("-inf"), -2, -1.5, 0, 1, 1.5, 1 << 53, (1 << 53) + 1, float("inf"), float("nan")]
    ordered += [
        False,
        True,
        "",
        "a",
        "a\0",
        "aa",
        "b",
        "é",
        "😀",
        b"",
        b"\0",
        b"a",
        [],
        [None],
        [1],
        [1, 2],
        [2],
        ["a"],
    ]
    ordered += [{}, {"a": 1}, {"a": 1, "b": 0}, {"a": 2}, {"b": 0}]
    shuffled = random.Random(1).sample(ordered, len(ordered))
    assert sorted(shuffled, key=sort_key) == ordered
    assert all(compare(a, b) == -1 and compare(b, a) == 1 for a, b in itertools.pairwise(ordered))
    assert compare(1, 1.0) == compare(0.0, -0.0) == compare(float("nan"), float("nan")) == 0
