"""Ids in Convex's format; the vectors are the reference's."""

import pickle
import random

import cloudpickle
import pytest

from cellstore.errors import ValidationError
from cellstore.values import ids
from cellstore.values.ids import Id, Minter, decode_id, encode_id, mint

VECTORS = [
    (1, bytes(16), "0400000000000000000000000000248"),
    (10001, bytes(range(16)), "j57000820c20a1g7104gm2rc1m70ynr8"),
    (10130, bytes.fromhex("00112233445566778899aabbccdd4d58"), "j97g04926d25askqh2ctneycvn6nh4e2"),
]


@pytest.mark.parametrize(("number", "internal", "text"), VECTORS)
def test_the_reference_agrees(number, internal, text):
    assert encode_id(number, internal) == text
    assert decode_id(text) == (number, internal)


@pytest.mark.parametrize("number", [1, 127, 128, 16383, 16384, 10001, (1 << 21) - 1, 1 << 21, (1 << 32) - 1])
def test_every_table_number_comes_back(number):
    text = encode_id(number, b"\xff" * 16)
    assert 31 <= len(text) <= 37
    assert decode_id(text) == (number, b"\xff" * 16)


@pytest.mark.parametrize("size", range(19, 24))
def test_base32_is_the_same_by_the_short_way_and_the_long(size):
    for seed in range(50):
        data = random.Random(seed).randbytes(size)
        number = int.from_bytes(data, "big") << -8 * size % 5
        text = ids._to_base32(data)
        assert int(text.translate(ids._TO_PYTHON_DIGITS), 32) == number
        assert len(text) == -(-8 * size // 5)
        assert ids._from_base32(text) == data


def test_one_changed_character_is_always_noticed():
    text = VECTORS[1][2]
    for position in range(len(text)):
        for char in "0123456789abcdefghjkmnpqrstvwxyz":
            if char != text[position]:
                with pytest.raises(ValidationError):
                    decode_id(text[:position] + char + text[position + 1 :])


@pytest.mark.parametrize(
    "text", ["", "x", "J57000820c20a1g7104gm2rc1m70ynr8", "i" * 32, "é" * 32, "0" * 31, "z" * 37, "j5 " * 11]
)
def test_what_is_no_id_is_refused_and_named(text):
    with pytest.raises(ValidationError, match="is not a document id"):
        decode_id(text)


@pytest.mark.parametrize("text", [None, 7, b"j57000820c20a1g7104gm2rc1m70ynr8"])
def test_only_strings_are_ids(text):
    with pytest.raises(ValidationError, match="expected a document id"):
        decode_id(text)


def test_a_padded_varint_names_no_table():
    data = bytes([0x81, 0x00]) + bytes(16)
    with pytest.raises(ValidationError):
        decode_id(ids._to_base32(data + ids._footer(data)))


def test_minted_bytes_end_with_the_day():
    assert mint(lambda n: b"\xab" * n, 20000) == b"\xab" * 14 + (20000).to_bytes(2, "big")


def test_ids_of_one_transaction_rise_and_differ():
    dice = random.Random(1).randbytes
    minter = Minter(dice, 20000)
    made = [minter.mint() for _ in range(1000)]
    assert made == sorted(made)
    assert len(set(made)) == 1000
    assert {len(id) for id in made} == {16}
    assert {id[-2:] for id in made} == {(20000).to_bytes(2, "big")}


def test_a_count_that_runs_over_begins_a_new_run():
    minter = Minter(lambda n: b"\xff" * n if n == 3 else random.Random(n).randbytes(n), 1)
    assert len({minter.mint() for _ in range(3)}) == 3


def test_an_id_class_knows_its_table_and_is_made_once():
    assert Id["users"] is Id["users"]
    assert Id["users"] is not Id["tasks"]
    assert Id["users"].table == "users"
    assert Id.table is None
    assert issubclass(Id["users"], Id)
    assert isinstance(Id["users"]("x"), str)
    assert Id["users"]("x") == "x"
    assert Id["users"] | None
    with pytest.raises(TypeError, match="table name"):
        Id[3]  # type: ignore[index]


@pytest.mark.parametrize("pickler", [pickle, cloudpickle])
def test_id_classes_travel_by_name(pickler):
    assert pickle.loads(pickler.dumps(Id["users"])) is Id["users"]
    assert type(pickle.loads(pickler.dumps(Id["users"]("x")))) is Id["users"]


def test_many_ids_minted_at_once_rise_like_those_minted_one_by_one() -> None:
    minter = Minter(random.Random(7).randbytes, 20000)
    ids = [minter.mint(), *minter.mint_many(1000), minter.mint()]
    assert ids == sorted(ids)
    assert len(set(ids)) == 1002
    assert all(len(id) == 16 and id.endswith((20000).to_bytes(2, "big")) for id in ids)


def test_many_ids_begin_a_new_run_where_the_count_runs_over() -> None:
    minter = Minter(lambda n: b"\xff" * n if n == 3 else random.Random(n).randbytes(n), 1)
    assert len(set(minter.mint_many(10))) == 10
