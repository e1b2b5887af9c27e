"""Interval sets."""

from cellstore.values.interval import IntervalSet, point


def test_touching_intervals_become_one():
    found = IntervalSet([(b"a", b"b"), (b"c", b"d")])
    assert found.intervals() == [(b"a", b"b"), (b"c", b"d")]
    found.add(b"b", b"c")
    assert found.intervals() == [(b"a", b"d")]


def test_an_empty_interval_changes_nothing():
    found = IntervalSet([(b"b", b"b"), (b"c", b"a")])
    assert not found
    assert list(found) == []


def test_a_point_holds_its_key_alone():
    found = IntervalSet([point(b"k")])
    assert b"k" in found
    assert b"k\0" not in found
    assert found.covers(*point(b"k"))
    assert not found.overlaps(b"k\0", b"l")


def test_a_copy_is_its_own():
    first = IntervalSet([(b"a", b"b")])
    second = first.copy()
    second.add(b"c", b"d")
    assert first != second
    assert len(first) == 1
