"""Row deltas: whatever two results are, the second comes out of the first."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from cellstore.protocol.delta import encoded, next_rows, rows_of, spliced, splices
from cellstore.reactivity.result import Result
from cellstore.runtime.outcome import Outcome
from cellstore.values import json as native

ROW = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([1.0, "a,b", "]", '"', "ü", None, True, [], [1, [2]], {}]),
    st.fixed_dictionaries({"_id": st.integers(0, 9).map(str), "n": st.integers(0, 2)}),
)
LISTS = st.lists(ROW, max_size=12)


def text(rows: list[Any]) -> bytes:
    return native.dumps(rows)


def result(rows: object) -> Result:
    return Result(Outcome(True, native.dumps(rows)), 1)


@given(LISTS, LISTS)
def test_splices_lead_from_the_first_to_the_second(old: list[Any], new: list[Any]) -> None:
    before, after = rows_of(text(old)), rows_of(text(new))
    assert before is not None
    assert after is not None
    changes = splices(before, after)
    assert spliced(before, changes) == after
    assert spliced(old, orjson.loads(encoded(changes))) == new
    assert [place for place, _, _ in changes] == sorted({place for place, _, _ in changes})


@given(LISTS, LISTS)
def test_rows_taken_over_are_the_rows_cut_out(old: list[Any], new: list[Any]) -> None:
    before = rows_of(text(old))
    assert before is not None
    assert next_rows(before, text(old), text(new)) == rows_of(text(new))


@given(LISTS, st.integers(0, 12), st.lists(ROW, max_size=2))
def test_rows_around_a_small_change_are_taken_over(old: list[Any], place: int, rows: list[Any]) -> None:
    new = old[:place] + rows + old[place + 1 :]
    before = rows_of(text(old))
    assert before is not None
    assert next_rows(before, text(old), text(new)) == rows_of(text(new))


def test_a_row_that_moves_is_taken_out_and_put_in() -> None:
    assert splices("abcdef", "fabcde") == [(0, 0, "f"), (5, 1, "")]
    assert splices("abcdef", "bcdefa") == [(0, 1, ""), (6, 0, "a")]


def test_what_is_no_list_has_no_rows() -> None:
    assert rows_of(b'{"a":1}') is None
    assert rows_of(b"[1, 2]") is None  # white space: not ours
    assert next_rows([b"1"], b"[1]", b"null") is None


def test_one_changed_row_of_ten_thousand_costs_a_few_hundred_bytes() -> None:
    rows = [{"_id": f"id{number}", "text": "x" * 80, "done": False} for number in range(10_000)]
    changed = [*rows[:5000], {**rows[5000], "done": True}, *rows[5001:]]
    patch = result(changed).patch_from(result(rows))
    assert patch is not None
    assert len(patch) < 300
    assert spliced(rows, orjson.loads(patch)) == changed


def test_a_patch_no_smaller_than_the_result_is_not_made() -> None:
    rows = [{"_id": str(number), "text": "x" * 80} for number in range(100)]
    others = [{"_id": str(number), "text": "y" * 80} for number in range(100)]
    assert result(others).patch_from(result(rows)) is None
    assert result(rows[:2]).patch_from(result(rows[:1])) is None  # small anyway
