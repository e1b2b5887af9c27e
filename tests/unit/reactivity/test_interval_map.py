"""Which subscribers cover a key: against the obvious scan, and at sizes where a naive tree would give up."""

import random
import time

from hypothesis import given
from hypothesis import strategies as st

from cellstore.reactivity.interval_map import IntervalMap

keys = st.binary(max_size=3)
spans = st.lists(st.tuples(keys, keys), max_size=4)


@given(st.lists(st.tuples(spans, st.integers(0, 5)), max_size=12), st.lists(keys, max_size=40), st.data())
def test_it_finds_what_a_scan_finds(added: list, looked_up: list[bytes], data: st.DataObject) -> None:
    held: IntervalMap[int] = IntervalMap()
    for intervals, subscriber in added:
        held.add(intervals, subscriber)
    gone = data.draw(st.sampled_from([subscriber for _, subscriber in added])) if added else None
    for intervals, subscriber in added:
        if subscriber == gone:
            held.discard(intervals, subscriber)
    left = [(lo, hi, who) for intervals, who in added for lo, hi in intervals if who != gone]
    assert held.hits(looked_up) == {who for lo, hi, who in left for key in looked_up if lo <= key < hi}


def test_points_and_ranges_of_one_subscriber_are_told_apart() -> None:
    held: IntervalMap[str] = IntervalMap()
    held.add([(b"a", b"a\0"), (b"m", b"p")], "s")
    held.discard([(b"a", b"a\0")], "s")
    assert held.hits([b"a"]) == set()
    assert held.hits([b"n"]) == {"s"}
    assert held


def test_an_empty_map_is_false_again_after_everything_left() -> None:
    held: IntervalMap[str] = IntervalMap()
    held.add([(b"a", b"c"), (b"x", b"x\0")], "s")
    held.discard([(b"a", b"c"), (b"x", b"x\0")], "s")
    assert not held


def test_a_large_commit_is_matched_by_bisection_with_the_same_result() -> None:
    held: IntervalMap[int] = IntervalMap()
    for number in range(20):
        held.add([(b"%04d" % (number * 50), b"%04d" % (number * 50 + 25))], number)
    touched = [b"%04d" % key for key in random.Random(7).sample(range(1000), 400)]
    assert held.hits(touched) == {owner for key in touched for owner in held.hits([key])}


def test_ten_thousand_subscribers_of_one_range_cost_one_interval() -> None:
    held: IntervalMap[int] = IntervalMap()
    began = time.perf_counter()
    for subscriber in range(10_000):
        held.add([(b"a", b"z")], subscriber)
    assert len(held.hits([b"m"])) == 10_000
    for subscriber in range(10_000):
        held.discard([(b"a", b"z")], subscriber)
    assert time.perf_counter() - began < 1.0  # in a bare tree: minutes
