"""Hypothesis strategies for what may be stored. Imported by tests only; hypothesis is an extra."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

INTS = st.one_of(
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.integers(-3, 3),
    # where doubles begin to skip integers, and the ends
    st.builds(
        lambda sign, power, off: sign * (1 << power) + off,
        st.sampled_from((1, -1)),
        st.integers(52, 62),
        st.integers(-3, 3),
    ),
    st.sampled_from(((1 << 63) - 1, -(1 << 63))),
)
FLOATS = st.one_of(
    st.floats(),
    st.sampled_from((0.0, -0.0, 1.0, 2.0**53, 2.0**62, 2.0**63, -(2.0**63), float("inf"), float("-inf"), float("nan"))),
    INTS.map(float),
)
NUMBERS = st.one_of(INTS, FLOATS)
TEXTS = st.one_of(st.text(max_size=6), st.text(alphabet="\0\x01a\xff\u07ff", max_size=4))
BYTES = st.one_of(st.binary(max_size=6), st.lists(st.sampled_from((0, 1, 255)), max_size=4).map(bytes))
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS, BYTES)
NAMES = st.text(alphabet=[chr(c) for c in range(32, 127)], max_size=5).filter(lambda name: not name.startswith("$"))
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=8,
)
KEY_BYTES = st.lists(st.sampled_from((0, 1, 5, 254, 255)), max_size=4).map(bytes)
"""Short keys from few bytes, so that intervals meet."""
