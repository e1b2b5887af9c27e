"""One order, written down twice: by comparison and in bytes. And the text forms lose nothing."""

from hypothesis import example, given
from hypothesis import strategies as st

from cellstore.testing.strategies import INTS, KEY_BYTES, NAMES, NUMBERS, VALUES
from cellstore.values.convex import from_convex, to_convex
from cellstore.values.ids import decode_id, encode_id
from cellstore.values.index_key import END, after, encode_key, encode_prefix, encode_value
from cellstore.values.interval import IntervalSet
from cellstore.values.json import dumps, loads
from cellstore.values.order import compare
from cellstore.values.value import MISSING, check_value, same

COMPONENTS = st.one_of(st.just(MISSING), VALUES)
IDS = st.one_of(st.binary(min_size=16, max_size=16), st.sampled_from((bytes(16), b"\xff" * 16)))


def sign(a, b):
    return (a > b) - (a < b)


@given(COMPONENTS, COMPONENTS)
def test_key_bytes_order_as_values_do(a, b):
    assert sign(encode_value(a), encode_value(b)) == compare(a, b)


@given(NUMBERS, NUMBERS)
@example((1 << 53) + 1, float(1 << 53))
@example((1 << 63) - 1, float(1 << 63))
@example(-(1 << 63), -float(1 << 63))
def test_numbers_order_exactly_as_python_orders_them(a, b):
    if a == a and b == b:
        assert sign(encode_value(a), encode_value(b)) == sign(a, b)


@given(
    st.lists(COMPONENTS, max_size=3), st.lists(COMPONENTS, max_size=3), IDS, IDS, st.floats(0, 1e13), st.floats(0, 1e13)
)
def test_whole_keys_order_by_fields_then_time_then_id(a, b, id_a, id_b, time_a, time_b):
    b = (b + a)[: len(a)] if len(b) < len(a) else b[: len(a)]
    wanted = next((found for found in map(compare, a, b) if found), 0) or sign((time_a, id_a), (time_b, id_b))
    assert sign(encode_key(a, time_a, id_a), encode_key(b, time_b, id_b)) == wanted


@given(st.lists(COMPONENTS, max_size=3), st.integers(0, 3), st.lists(COMPONENTS, max_size=3), IDS, st.floats(0, 1e13))
def test_a_prefix_holds_its_keys_and_no_others(fields, length, other, id, time):
    prefix = encode_prefix(fields[:length])
    assert prefix <= encode_key(fields, time, id) < after(prefix) <= END + END
    other = (other + fields)[: len(fields)]
    key = encode_key(other, time, id)
    begins = all(compare(x, y) == 0 for x, y in zip(fields[:length], other, strict=False))
    assert (prefix <= key < after(prefix)) == begins


@given(VALUES)
def test_native_json_loses_nothing(value):
    check_value(value)
    assert same(loads(dumps(value)), value)


@given(VALUES)
def test_convex_json_loses_only_the_difference_between_small_ints_and_floats(value):
    back = from_convex(loads_plain(to_convex(value)))
    assert compare(back, value) == 0
    assert same(from_convex(to_convex(back)), back)


def loads_plain(wire):
    import orjson

    return orjson.loads(orjson.dumps(wire))


@given(st.integers(1, (1 << 32) - 1), IDS)
def test_ids_round_trip(number, internal):
    assert decode_id(encode_id(number, internal)) == (number, internal)


@given(INTS, NAMES)
def test_sizes_do_not_depend_on_the_value_of_a_number(value, name):
    assert check_value({name: value}) == 2 + len(name) + 1 + 9


@given(st.lists(st.tuples(KEY_BYTES, KEY_BYTES), max_size=12), st.lists(KEY_BYTES, max_size=8), KEY_BYTES, KEY_BYTES)
def test_an_interval_set_is_the_union_of_what_was_added(intervals, probes, lo, hi):
    found = IntervalSet()
    for one in intervals:
        found.add(*one)
        found.check()
    probes = [*probes, lo, hi, *[bound for one in intervals for bound in one]]
    for key in [*probes, *[key + b"\0" for key in probes]]:
        assert (key in found) == any(a <= key < b for a, b in intervals)
    # where bounds are all that can change an answer, the bounds and what lies just above them decide it
    inside = [key for key in {lo, *probes, *[key + b"\0" for key in probes]} if lo <= key < hi]
    assert found.overlaps(lo, hi) == any(key in found for key in inside)
    assert found.covers(lo, hi) == all(key in found for key in inside)
    assert IntervalSet(reversed(intervals)) == found
