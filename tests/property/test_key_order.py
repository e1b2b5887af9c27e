"""The order of index keys beside Python's own, which is written down nowhere in this package."""

from fractions import Fraction

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from cellstore.errors import ValidationError
from cellstore.testing.strategies import INTS, NUMBERS, TEXTS, VALUES
from cellstore.values.index_key import encode_value
from cellstore.values.value import INT_MAX, INT_MIN, MISSING, check_value

NOT_NAN = NUMBERS.filter(lambda number: number == number)
INFINITE = (float("inf"), float("-inf"))


def exact(number):
    """A number with nothing rounded; infinity beyond all fractions."""
    return (1 if number > 0 else -1, 0) if number in INFINITE else (0, Fraction(number))


@given(st.lists(NOT_NAN, max_size=8))
def test_numbers_sort_as_exact_fractions_do(numbers):
    assert [exact(n) for n in sorted(numbers, key=encode_value)] == sorted(map(exact, numbers))


@given(NOT_NAN, NOT_NAN)
@example(0.0, -0.0)
@example(1, 1.0)
@example(1 << 53, float(1 << 53))
@example((1 << 53) + 1, float(1 << 53))
@example(INT_MAX, float(1 << 63))
def test_numbers_have_one_key_exactly_when_python_says_they_are_equal(a, b):
    assert (encode_value(a) == encode_value(b)) == (a == b)


@given(NOT_NAN)
def test_nan_sorts_above_every_number_and_equals_itself(number):
    nan, other = float("nan"), -float("nan")
    assert encode_value(number) < encode_value(nan) == encode_value(other) < encode_value(False)


@given(INTS)
def test_beyond_53_bits_neighbours_stay_apart(number):
    assume(number < INT_MAX)
    assert encode_value(number) < encode_value(number + 1)


@given(st.lists(st.text(max_size=5), max_size=6))
def test_texts_sort_by_code_point_as_python_sorts_them(texts):
    assert sorted(texts, key=encode_value) == sorted(texts)


@given(st.lists(st.binary(max_size=5), max_size=6))
def test_bytes_sort_as_python_sorts_them(values):
    assert sorted(values, key=encode_value) == sorted(values)


@given(st.lists(st.lists(NOT_NAN, max_size=3), max_size=6))
def test_lists_of_numbers_sort_as_pythons_lists_do(lists):
    assert [list(map(exact, one)) for one in sorted(lists, key=encode_value)] == sorted(
        [list(map(exact, one)) for one in lists]
    )


@given(st.lists(st.dictionaries(st.sampled_from("abc"), NOT_NAN, max_size=3), max_size=6))
def test_dicts_sort_as_their_sorted_pairs_do(dicts):
    def pairs(fields):
        return [(name, exact(fields[name])) for name in sorted(fields)]

    assert list(map(pairs, sorted(dicts, key=encode_value))) == sorted(map(pairs, dicts))


def rank(value):
    kinds = [type(None), (int, float), bool, str, bytes, list, dict]
    return 3 if isinstance(value, bool) else 1 + [isinstance(value, kind) for kind in kinds].index(True)


@given(VALUES, VALUES)
def test_kinds_sort_in_the_documented_order(a, b):
    assume(rank(a) != rank(b))
    assert (encode_value(a) < encode_value(b)) == (rank(a) < rank(b))
    assert encode_value(MISSING) < min(encode_value(a), encode_value(b))


@given(TEXTS, st.integers(0xD800, 0xDFFF), TEXTS)
def test_a_lone_surrogate_is_refused_wherever_it_stands(before, surrogate, after):
    text = before + chr(surrogate) + after
    for value in (text, [text], {"field": text}, [{"x": [text]}]):
        with pytest.raises(ValidationError, match="surrogate"):
            check_value(value)


@given(st.one_of(st.integers(min_value=INT_MAX + 1), st.integers(max_value=INT_MIN - 1)))
def test_what_has_no_64_bits_has_no_key(number):
    with pytest.raises(ValidationError):
        check_value(number)
    with pytest.raises(ValidationError):
        encode_value(number)
