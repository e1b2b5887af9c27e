"""`insert_df` end to end, on the embedded engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import cellstore as cs
from cellstore.client.database import Database
from cellstore.client.progress import Progress
from cellstore.errors import ValidationError


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    with cs.open(tmp_path / "store.db") as database:
        yield database


class Reading(cs.Table, name="bulk_readings"):
    station: str
    celsius: int | None = None

    by_station = cs.Index("station")


@cs.query(module="bulk_test")
def readings(ctx, table: str):
    return list(ctx.db.query(table))


def documents(db: Database, table: str) -> list[dict[str, object]]:
    return [{k: v for k, v in d.items() if not k.startswith("_")} for d in db.query(readings, table=table)]


def test_rows_arrive_in_order_in_several_commits(db: Database) -> None:
    frame = pd.DataFrame({"n": range(2500), "text": [f"row {n}" for n in range(2500)]})
    report = db.insert_df("things", frame, batch_rows=1000)
    assert (report, report.table, report.ts > 0) == (2500, "things", True)
    assert documents(db, "things") == frame.to_dict("records")


def test_a_declared_table_applies_before_the_first_row(db: Database) -> None:
    frame = pd.DataFrame({"station": ["a", "b"], "celsius": [21.0, np.nan]})
    db.insert_df(Reading, frame)
    assert documents(db, "bulk_readings") == [{"station": "a", "celsius": 21}, {"station": "b", "celsius": None}]
    (table,) = [table for table in db.tables() if table["name"] == "bulk_readings"]
    assert "by_station" in table["indexes"]


def test_a_row_that_does_not_fit_is_named_and_says_what_is_in_already(db: Database) -> None:
    frame = pd.DataFrame({"station": ["a"] * 30, "celsius": [20.0] * 25 + [20.5] + [20.0] * 4})
    with pytest.raises(ValidationError, match=r"row 25: bulk_readings\.celsius: expected .*, got") as refused:
        db.insert_df(Reading, frame, batch_rows=10)
    assert "20 rows before are in 'bulk_readings': go on with df.iloc[20:]" in refused.value.message
    assert len(documents(db, "bulk_readings")) == 20


def test_nothing_is_inserted_when_the_first_batch_does_not_fit(db: Database) -> None:
    with pytest.raises(ValidationError, match=r"row 1: bulk_readings\.station"):
        db.insert_df(Reading, [{"station": "a"}, {"station": 5}])
    assert documents(db, "bulk_readings") == []


def test_an_empty_frame_inserts_nothing(db: Database) -> None:
    assert db.insert_df("nothing", pd.DataFrame({"a": []})) == 0


def test_a_bad_table_name_is_refused(db: Database) -> None:
    with pytest.raises(ValidationError, match="cannot name a table"):
        db.insert_df("two words", [{"a": 1}])


def test_the_report_reads_as_a_sentence(db: Database) -> None:
    assert repr(db.insert_df("things", [{"a": 1}] * 1200)).startswith("1,200 documents into 'things' in ")


def test_the_bar_counts_and_says_what_was_done() -> None:
    with Progress("flights", 2000, shown=False) as bar:
        bar.advance(500)
        assert bar.text.startswith("flights: 500 of 2,000 in ")
        bar.advance(1500)
    assert bar.text.startswith("flights: 2,000 in ")


def test_moments_that_became_text_are_named_and_how_to_get_them_back(db: Database) -> None:
    frame = pd.DataFrame({"at": pd.to_datetime(["2026-01-01T10:00Z"]), "n": [1]})
    report = db.insert_df("visits", frame)
    assert report.as_text == ["at"]
    assert "a cs.Table that declares at as datetime gives them back" in repr(report)
    assert db.insert_df("visits", frame[["n"]]).as_text == []


def test_a_frame_in_an_error_is_told_by_its_shape(db: Database) -> None:
    frame = pd.DataFrame({"a": [1, 2]})
    with pytest.raises(ValidationError, match=r"readings\.table: expected .*got pandas\.DataFrame of shape \(2, 1\)$"):
        readings(table=frame)
    with pytest.raises(ValidationError, match=r"holds pandas.*DataFrame of shape \(2, 1\), which cannot be stored"):
        db.insert_df("things", pd.DataFrame({"x": [frame, 1]}))


def test_a_load_that_fails_at_once_leaves_no_bar(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []

    class Screen:
        def draw(self, shown: Progress) -> None:
            drawn.append(shown.text)

        close = draw

    monkeypatch.setattr("cellstore.client.progress._notebook", Screen)
    with pytest.raises(ValidationError):
        db.insert_df(Reading, [{"station": 5}])
    assert drawn == []
    db.insert_df(Reading, [{"station": "a"}])
    assert len(drawn) == 1
