"""Frames as documents: what is missing stays missing, nothing is lost on the way, what cannot travel is named."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from cellstore.client.rows import Batch, batches, length_of
from cellstore.errors import ValidationError
from cellstore.values import json as native

INT, TEXT, NULL = {"type": "int"}, {"type": "string"}, {"type": "null"}


def optional(expr: dict[str, Any]) -> dict[str, Any]:
    return {"type": "union", "members": [expr, NULL]}


def required(expr: dict[str, Any]) -> dict[str, Any]:
    return {"type": expr, "optional": False}


def rows(frame: Any, fields: dict[str, Any] | None = None, rows_max: int = 1000) -> list[dict[str, Any]]:
    made = batches(frame, fields or {}, rows_max, 1 << 20)
    return [native.loads(line) for batch in made for line in batch.lines.split(b"\n")]


def test_a_missing_value_of_any_kind_becomes_no_field() -> None:
    frame = pd.DataFrame(
        {
            "float": [1.5, np.nan],
            "text": ["a", None],
            "int": pd.array([1, None], dtype="Int64"),
            "flag": pd.array([True, None], dtype="boolean"),
            "moment": pd.to_datetime(["2026-01-01T10:00Z", None]),
            "category": pd.Categorical(["x", None]),
        }
    )
    first, second = rows(frame)
    assert first == {
        "float": 1.5, "text": "a", "int": 1, "flag": True, "moment": "2026-01-01T10:00:00.000000Z", "category": "x"
    }  # fmt: skip
    assert second == {}


def test_a_missing_value_becomes_none_where_the_table_demands_the_field() -> None:
    frame = pd.DataFrame({"a": [1.0, np.nan], "b": ["x", None], "c": ["y", None]})
    fields = {"a": required(optional(INT)), "b": {**required(optional(TEXT)), "default": None}, "c": required(TEXT)}
    assert rows(frame, fields)[1] == {"a": None}


def test_integral_floats_become_ints_only_where_an_int_is_declared() -> None:
    frame = pd.DataFrame({"n": [517.0, np.nan, -3.0], "x": [1.0, 2.0, 3.0]})
    made = rows(frame, {"n": required(optional(INT)), "x": required({"type": "float"})})
    assert [repr(row["n"]) for row in made] == ["517", "None", "-3"]
    assert repr(made[0]["x"]) == "1.0"


def test_floats_that_are_no_ints_are_left_for_the_store_to_refuse() -> None:
    assert rows(pd.DataFrame({"n": [1.0, 2.5]}), {"n": required(INT)}) == [{"n": 1.0}, {"n": 2.5}]


def test_ints_stay_exact_and_infinities_stay_infinite() -> None:
    frame = pd.DataFrame({"n": [2**53 + 1, -(2**63)], "x": [np.inf, -np.inf]})
    assert rows(frame) == [{"n": 2**53 + 1, "x": float("inf")}, {"n": -(2**63), "x": float("-inf")}]


def test_moments_are_text_with_their_zone_or_without_one() -> None:
    aware = pd.to_datetime(["2026-01-01T10:00:00.25+02:00"])
    frame = pd.DataFrame({"aware": aware, "naive": pd.to_datetime(["2026-01-01T10:00"])})
    assert rows(frame) == [{"aware": "2026-01-01T08:00:00.250000Z", "naive": "2026-01-01T10:00:00.000000"}]


def test_midnights_are_days_where_a_day_is_declared() -> None:
    frame = pd.DataFrame({"day": pd.to_datetime(["2026-01-01", None])})
    assert rows(frame, {"day": required({"type": "date"})}) == [{"day": "2026-01-01"}, {}]


def test_objects_in_columns_become_plain_values() -> None:
    cells = [np.array([1, 2]), {"k": np.float64(0.5)}, (dt.date(2026, 1, 2), b"\0"), np.int64(7)]
    frame = pd.DataFrame({"any": pd.Series(cells, dtype=object)})
    assert [row["any"] for row in rows(frame)] == [[1, 2], {"k": 0.5}, ["2026-01-02", b"\0"], 7]


def test_a_named_index_is_stored_and_an_unnamed_one_is_not() -> None:
    frame = pd.DataFrame({"n": [1, 2]}, index=pd.Index(["a", "b"], name="key"))
    assert rows(frame) == [{"key": "a", "n": 1}, {"key": "b", "n": 2}]
    assert rows(frame.rename_axis(None)) == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (pd.DataFrame({"wait": pd.to_timedelta([1], unit="s")}), r"'wait'.*dt\.total_seconds"),
        (pd.DataFrame({"price": [Decimal("1.5")]}), "'price' holds decimal.Decimal"),
        (pd.DataFrame({"at": pd.to_datetime([1], unit="ns").astype("datetime64[ns]")}), r"'at'.*dt\.floor"),
        (pd.DataFrame({7: [1]}), "column 7 is named by a int"),
        (pd.DataFrame({"_id": ["x"]}), "column _id, which the store gives itself"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "'a' more than once"),
        (pd.DataFrame({"p": pd.period_range("2026-01", periods=1, freq="M")}), r"'p'.*astype\(str\)"),
        ("text", "expected a pandas, polars or Arrow frame, or dicts, got a str"),
        ([{"a": 1}, 5], "row 1: expected a dict of fields, got a int"),
    ],
)
def test_what_cannot_be_stored_is_refused_by_name(frame: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        rows(frame)


def test_polars_arrow_and_dicts_make_the_same_documents() -> None:
    data = {"n": [1, None], "text": ["a", "ü"], "list": [[1, 2], []]}
    expected = [{"n": 1, "text": "a", "list": [1, 2]}, {"text": "ü", "list": []}]
    table = pa.table(data)
    dicts = [dict(zip(data, row, strict=True)) for row in zip(*data.values(), strict=True)]
    for frame in (pl.DataFrame(data), table, table.to_reader(), dicts, iter(dicts)):
        assert rows(frame) == expected


def test_batches_keep_the_order_and_both_bounds() -> None:
    made = list(batches(pd.DataFrame({"text": ["x" * 100] * 95}), {}, 40, 2000))
    assert sum(batch.size for batch in made) == 95
    assert max(batch.size for batch in made) <= 20
    assert all(len(batch.lines) <= 2000 and batch.lines.count(b"\n") == batch.size - 1 for batch in made)


def test_a_row_above_the_byte_bound_travels_alone() -> None:
    assert [batch.size for batch in batches([{"t": "x" * 50}] * 3, {}, 10, 20)] == [1, 1, 1]


def test_one_slice_at_a_time_is_made() -> None:
    taken = 0

    def source() -> Iterator[dict[str, int]]:
        nonlocal taken
        for taken in range(1, 1001):
            yield {"n": taken}

    made = batches(source(), {}, 10, 1 << 20)
    assert isinstance(next(made), Batch)
    assert taken == 10


def test_the_length_is_known_for_frames_and_not_for_streams() -> None:
    frame = pd.DataFrame({"n": [1, 2]})
    assert [length_of(frame), length_of(pa.table({"n": [1]})), length_of(iter([]))] == [2, 1, None]
