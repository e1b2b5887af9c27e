"""Snapshots: dataframes, SQL and differences of one moment, with a store in memory and in a file."""

from __future__ import annotations

import datetime as dt
import math
import sys
import time

import duckdb
import pandas as pd
import pytest

import cellstore as cs
from cellstore.client.frames import frame_of
from cellstore.client.snapshot import moment_of, timestamp_of


class Task(cs.Table, name="tasks"):
    text: str
    n: int | None = None
    done: bool | None = None
    due: dt.datetime | None = None
    day: dt.date | None = None
    score: float | None = None
    tags: list[str] = []  # noqa: RUF012  a default, copied into each document
    raw: bytes = b""


@cs.mutation
def put(ctx, table: str, docs: list) -> list[str]:
    return [ctx.db.insert(table, doc) for doc in docs]


@cs.mutation
def change(ctx, id: str, fields: dict):
    ctx.db.patch(id, fields)


@cs.mutation
def drop(ctx, id: str):
    ctx.db.delete(id)


@cs.query
def tasks_with(ctx, text: str):
    return [task for task in ctx.db.query("tasks") if task["text"] == text]


@cs.query
def newest(ctx):
    return ctx.db.query("tasks").order("desc").first()


@cs.query
def how_many(ctx):
    return ctx.db.query("tasks").count()


WIDE = 2**62 + 1
FULL = {
    "text": "milk",
    "n": WIDE,
    "done": True,
    "due": "2026-01-02T03:04:05.000006Z",
    "day": "2026-01-02",
    "score": 0.5,
    "tags": ["a", "b"],
    "raw": b"\x00\xff",
}


@pytest.fixture(params=[":memory:", "file"])
def db(request, tmp_path):
    path = request.param if request.param == ":memory:" else tmp_path / "store.db"
    with cs.open(path) as database:
        database.deploy([put, change, drop, tasks_with, newest, how_many])
        yield database


# ── frames ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_dtypes_keep_what_is_stored_when_nothing_is_missing(db):
    put(table="tasks", docs=[FULL])
    frame = cs.snapshot().df("tasks")
    assert list(frame) == ["_id", *FULL, "_creationTime"]
    found = {name: str(dtype) for name, dtype in frame.dtypes.items()}
    assert found["n"] == "int64"
    assert found["done"] == "bool"
    assert found["score"] == found["_creationTime"] == "float64"
    assert found["due"] == "datetime64[us, UTC]"
    assert found["day"] == "datetime64[us]"
    assert found["tags"] == found["raw"] == "object"
    assert found["text"] == found["_id"] == ("str" if pd.__version__ >= "3" else "object")
    row = frame.iloc[0]
    assert (row.n, row.raw, row.tags) == (WIDE, b"\x00\xff", ["a", "b"])
    assert row.due == pd.Timestamp("2026-01-02T03:04:05.000006Z")


def test_what_is_missing_stays_missing_and_ints_stay_ints(db):
    put(table="tasks", docs=[FULL, {"text": "bread"}])
    frame = cs.snapshot().df("tasks")
    assert str(frame.n.dtype) == "Int64"
    assert str(frame.done.dtype) == "boolean"
    assert frame.n[0] == WIDE
    assert frame.iloc[1][["n", "done", "due", "day", "score"]].isna().all()
    assert frame.raw[1] == b""


def test_loose_documents_come_out_honestly(db):
    docs = [
        {"mixed": 1, "deep": {"x": 1}, "f": math.nan, "none": None},
        {"mixed": "one", "deep": {"x": 2, "y": [1, None]}, "f": 1},
        {"mixed": 2**60, "only": 0.1},
        {"mixed": [b"x", {"k": math.inf}]},
    ]
    put(table="loose", docs=docs)
    frame = cs.snapshot().df("loose")
    assert list(frame.mixed) == [1, "one", 2**60, [b"x", {"k": math.inf}]]
    assert frame.deep[1] == {"x": 2, "y": [1, None]}
    assert str(frame.f.dtype) == "float64"
    assert frame.none.isna().all()
    assert frame.only[2] == 0.1


def test_creation_times_are_the_stored_milliseconds(db):
    put(table="tasks", docs=[{"text": "a"}, {"text": "b"}])
    (document,) = tasks_with(text="b")
    frame = cs.snapshot().df("tasks")
    assert frame._creationTime[1] == document._creationTime
    assert frame._creationTime.is_monotonic_increasing


def test_a_frame_remembers_its_query_and_its_moment(db):
    put(table="tasks", docs=[{"text": "a"}])
    snap = cs.snapshot()
    assert snap.df("tasks").attrs == {"query": {"table": "tasks"}, "ts": snap.ts}
    assert snap.sql("select 1 as one").df().attrs == {"query": {"sql": "select 1 as one"}, "ts": snap.ts}
    assert tasks_with.df(text="a").attrs == {
        "query": {"path": tasks_with.path, "args": {"text": "a"}},
        "ts": snap.ts,
    }


def test_a_query_gives_a_frame_with_the_same_dtypes(db):
    put(table="tasks", docs=[{"text": "a", "n": 1, "done": True}, {"text": "a", "n": WIDE, "score": 1.0}])
    frame = tasks_with.df(text="a")
    assert list(frame.columns[[0, -1]]) == ["_id", "_creationTime"]
    assert (str(frame.n.dtype), str(frame.done.dtype), str(frame.score.dtype)) == ("int64", "boolean", "float64")
    assert list(frame.n) == [1, WIDE]
    assert how_many.df().to_dict("records") == [{"value": 2}]
    assert len(newest.df()) == 1


def test_a_query_without_a_result_gives_an_empty_frame(db):
    assert len(newest.df()) == 0
    assert len(tasks_with.df(text="nothing")) == 0


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1, 2], "int64"),
        ([1, None], "Int64"),
        ([True, False], "bool"),
        ([True, None], "boolean"),
        ([1, 2.5], "float64"),
        ([WIDE, 2.5], "object"),
        ([1, "a"], "object"),
        ([1, True], "object"),
        ([[1], None], "object"),
        ([None, None], "object"),
    ],
)
def test_rows_become_the_column_that_keeps_them_all(values, dtype):
    frame = frame_of([{"v": value} for value in values], query={})
    assert str(frame.v.dtype) == dtype
    kept = [None if value is pd.NA else value for value in frame.v]
    assert kept == values


def test_a_column_with_nothing_in_it_is_alike_in_a_querys_frame_and_a_snapshots(db):
    put(table="tasks", docs=[{"text": "milk", "n": None, "score": None}, {"text": "milk", "done": None}])
    of_query, of_snapshot = tasks_with.df(text="milk"), cs.snapshot().df("tasks")
    for name in ("n", "score", "done"):
        pd.testing.assert_series_equal(of_query[name], of_snapshot[name])
    put(table="free", docs=[{"x": None}])
    assert of_query.n.dtype == "Int64"
    assert cs.snapshot().df("free").x.dtype == object


def test_a_page_is_a_frame_of_its_documents():
    page = {"page": [{"_id": "x", "a": 1}], "isDone": True, "continueCursor": "c"}
    assert frame_of(page, query={}).to_dict("records") == [{"_id": "x", "a": 1}]


def test_arrow_and_polars_frames_hold_the_same(db):
    put(table="tasks", docs=[FULL, {"text": "bread"}])
    snap = cs.snapshot()
    table, frame = snap.arrow("tasks"), snap.polars("tasks")
    assert table.column("n").to_pylist() == frame["n"].to_list() == [WIDE, None]
    assert table.column("tags").to_pylist() == frame["tags"].to_list() == [["a", "b"], []]
    assert str(snap.ts).encode() in table.schema.metadata[b"cellstore"]


@pytest.mark.parametrize(("library", "method"), [("pyarrow", "arrow"), ("polars", "polars")])
def test_an_extra_that_is_not_installed_is_named(db, monkeypatch, library, method):
    put(table="tasks", docs=[FULL])
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(cs.CallerError, match=rf"pip install 'cellstore\[{method}\]'"):
        getattr(cs.snapshot(), method)("tasks")


# ── moments ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_snapshot_does_not_move(db):
    (id,) = put(table="tasks", docs=[{"text": "a", "n": 1}])
    snap = cs.snapshot()
    change(id=id, fields={"n": 2})
    put(table="others", docs=[{"x": 1}])
    assert list(snap.df("tasks").n) == [1]
    assert snap.sql("select n from tasks").rows() == [{"n": 1}]
    assert [table["name"] for table in snap.tables()] == ["tasks"]
    with pytest.raises(cs.NotFound, match="no table 'others' at this moment; there are: tasks"):
        snap.df("others")
    assert list(cs.snapshot().df("tasks").n) == [2]


def test_a_snapshot_of_an_earlier_moment(db):
    (id,) = put(table="tasks", docs=[{"text": "a", "n": 1}])
    ts, between = cs.snapshot().ts, dt.datetime.now(dt.UTC)
    while time.time_ns() // 1000 <= timestamp_of(between) // 1000:
        pass  # the clock's next µs
    change(id=id, fields={"n": 2})
    for at in (
        ts,
        between,
        between.astimezone().replace(tzinfo=None),
        between.astimezone(dt.timezone(dt.timedelta(hours=5))),
    ):
        assert list(cs.snapshot(at).df("tasks").n) == [1], at
    assert list(cs.snapshot(at=dt.timedelta(0)).df("tasks").n) == [2]


def test_a_moment_before_the_store_began_is_refused_and_its_first_is_named(db):
    put(table="tasks", docs=[{"text": "a", "n": 1}])
    with pytest.raises(cs.OutOfRetention, match="before this store's first commit; its history begins at") as caught:
        cs.snapshot(dt.timedelta(hours=1))
    first = int(caught.value.message.rpartition(" ")[2])
    assert f"begins at {moment_of(first):%Y-%m-%d %H:%M:%S} UTC" in caught.value.message
    assert cs.snapshot(first).ts == first
    with pytest.raises(cs.OutOfRetention, match="first commit"):
        cs.snapshot(first - 1)


def test_a_snapshot_knows_its_moment(db):
    put(table="tasks", docs=[{"text": "a"}])
    snap = cs.snapshot()
    assert timestamp_of(snap.time) == snap.ts // 1000 * 1000
    assert snap == cs.snapshot(snap.ts)
    assert str(snap.ts) in repr(snap)
    assert "tasks" in snap._repr_html_()


@pytest.mark.parametrize(
    ("at", "error", "says"),
    [
        (dt.timedelta(seconds=-1), cs.CallerError, "counted back from now"),
        ("yesterday", cs.CallerError, "no moment"),
        (True, cs.CallerError, "no moment"),
        (1.5, cs.CallerError, "no moment"),
    ],
)
def test_what_is_no_moment_is_refused(db, at, error, says):
    with pytest.raises(error, match=says):
        cs.snapshot(at)


def test_a_moment_to_come_is_refused(db):
    for at in (dt.datetime.now() + dt.timedelta(hours=1), time.time_ns() + 3600 * 10**9):
        with pytest.raises(cs.OutOfRetention, match=r"3,\d\d\d\.\d s in the future"):
            cs.snapshot(at)


@pytest.mark.parametrize("db", ["file"], indirect=True)  # memory keeps what some view may still see
def test_a_moment_that_is_not_kept_any_more_is_refused(db):
    for n in range(3):
        put(table="tasks", docs=[{"text": str(n)}])
    old = cs.snapshot().ts - 1
    storage = db.link._deployment._engine.storage
    while storage.trim(cs.snapshot().ts, 1000):
        pass
    with pytest.raises(cs.OutOfRetention, match="retention_s"):
        cs.snapshot(old)


# ── SQL ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_sql_answers_in_four_forms(db):
    put(table="tasks", docs=[{"text": "a", "n": 1}, {"text": "b", "n": WIDE}])
    result = cs.sql("select text, n from tasks order by n desc")
    rows = [{"text": "b", "n": WIDE}, {"text": "a", "n": 1}]
    assert result.rows() == list(result) == rows
    assert result.df().to_dict("records") == result.arrow().to_pylist() == result.polars().to_dicts() == rows
    assert len(result) == 2
    assert "2 rows × 2 columns" in repr(result)
    assert "<table" in result._repr_html_()


def test_rows_are_python_values(db):
    put(table="tasks", docs=[FULL])
    put(table="loose", docs=[{"v": b"x"}, {"v": math.nan}, {"v": [1]}])
    (row,) = cs.sql("select due, day, raw, tags, sum(n) over () as s, 1.5 as d from tasks").rows()
    assert row["due"] == dt.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=dt.UTC)
    assert (row.day, row.raw, row.tags, row.s, float(row.d)) == (
        dt.date(2026, 1, 2),
        b"\x00\xff",
        ["a", "b"],
        WIDE,
        1.5,
    )
    values = [row.v for row in cs.sql("select v from loose order by _creationTime").rows()]
    assert values[0] == b"x"
    assert math.isnan(values[1])
    assert values[2] == [1]


def test_other_types_of_sql_become_what_pandas_has_for_them(db):
    frame = cs.sql(
        """select interval 1 day as span, time '12:00' as clock, uuid() as id, 'x'::enum('x') as word,
           timestamp '2026-01-01' as local, 1::utinyint as small, 18446744073709551616::hugeint as huge, null as gap,
           0.5::float as single, json('{"$odd": 1}') as own"""
    ).df()
    row = frame.iloc[0]
    assert (row.span, row.clock, row.word, row.local) == (
        pd.Timedelta(days=1),
        dt.time(12),
        "x",
        pd.Timestamp("2026-01-01"),
    )
    assert (row.small, row.huge, row.single, row.own, len(row.id)) == (1, 2**64, 0.5, {"$odd": 1}, 36)
    assert pd.isna(row.gap)


def test_mistakes_in_sql_raise_at_once(db):
    with pytest.raises(cs.ValidationError, match="syntax error"):
        cs.sql("selec 1")
    with pytest.raises(cs.ValidationError, match="not DROP"):
        cs.sql("drop table tasks")


def test_an_empty_result_keeps_its_columns(db):
    frame = cs.snapshot().df("tasks")
    assert list(frame) == ["_id", *FULL, "_creationTime"]
    assert len(frame) == 0
    assert cs.sql("select n, tags from tasks").rows() == []


# ── files and differences ────────────────────────────────────────────────────────────────────────────────────────────


def test_every_table_is_written_as_parquet(db, tmp_path):
    put(table="tasks", docs=[FULL])
    put(table="others", docs=[{"x": 1}, {"x": 2}])
    written = cs.snapshot().to_parquet(tmp_path / "out")
    assert [path.name for path in written] == ["others.parquet", "tasks.parquet"]
    assert duckdb.read_parquet(str(written[0])).aggregate("sum(x)").fetchall() == [(3,)]
    assert len(list((tmp_path / "out").iterdir())) == 2


@pytest.fixture
def two(db):
    changed, removed = put(table="tasks", docs=[{"text": "a", "n": 1}, {"text": "b", "n": 2}])
    before = cs.snapshot()
    change(id=changed, fields={"n": 10, "text": "A"})
    drop(id=removed)
    (inserted,) = put(table="others", docs=[{"x": 1}])
    return before, cs.snapshot(), [inserted, changed, removed]


def test_a_difference_lists_documents_by_what_happened(two):
    before, after, ids = two
    frame = after.diff(before).df()
    assert list(frame) == ["table", "_id", "change", "fields", "before", "after"]
    assert list(frame._id) == ids
    assert list(frame.change) == ["inserted", "changed", "removed"]
    assert list(frame.fields) == [[], ["text", "n"], []]
    assert (frame.before[1].n, frame.after[1].n, frame.after[2]) == (1, 10, None)
    assert frame.attrs["ts"] == after.ts


def test_a_difference_goes_from_the_earlier_to_the_later_whichever_is_asked(two):
    before, after, _ = two
    assert before.diff(after).changes == after.diff(before).changes
    assert len(after.diff(after)) == 0
    assert "nothing differs" in repr(after.diff(after))


def test_a_table_s_difference_has_both_values_side_by_side(two):
    before, after, _ = two
    frame = after.diff(before).df("tasks")
    assert list(frame["n before"]) == [1, 2]
    assert (frame["n after"][0], frame["n after"][1] is pd.NA) == (10, True)
    assert (frame["n after"] - frame["n before"])[0] == 9
    with pytest.raises(cs.NotFound, match="only of others, tasks"):
        after.diff(before).df("users")


def test_a_difference_prints_a_line_per_document(two):
    before, after, (inserted, changed, removed) = two
    text = repr(after.diff(before))
    assert "others 1 inserted; tasks 1 changed, 1 removed" in text
    assert f"+ others {inserted}  x: 1" in text
    assert f"~ tasks {changed}  text: 'a' → 'A', n: 1 → 10" in text
    assert f"- tasks {removed}  text: 'b'" in text
    assert "'a' → " not in after.diff(before)._repr_html_()  # escaped
    assert changed in after.diff(before)._repr_html_()


def test_a_difference_can_be_used_like_its_frame(two):
    before, after, _ = two
    difference = after.diff(before)
    assert list(difference[["table", "change"]].iloc[0]) == ["others", "inserted"]
    assert len(difference[difference["change"] == "removed"]) == 1
    assert [each.table for each in difference] == ["others", "tasks", "tasks"]
    assert difference.counts()["tasks"] == {"inserted": 0, "changed": 1, "removed": 1}
    with pytest.raises(cs.CallerError, match="compares two snapshots"):
        after.diff(before.ts)


def test_each_job_has_its_own_arguments_in_sql_and_frames(tmp_path):
    with cs.open(tmp_path / "jobs.db") as db:

        @cs.mutation(module="jobs_args_test")
        def put(ctx, title: str, n: int = 1): ...

        @cs.mutation(module="jobs_args_test")
        def later(ctx):
            ctx.scheduler.run_after(1000, put, title="x")
            ctx.scheduler.run_after(2000, put, title="y", n=3)

        db.mutation(later)
        wanted = [[{"title": "x"}], [{"title": "y", "n": 3}]]
        assert list(db.snapshot().df("_scheduled_functions").sort_values("scheduledTime")["args"]) == wanted
        rows = db.sql("select args->0->>'title' as title from _scheduled_functions order by scheduledTime").rows()
        assert [row["title"] for row in rows] == ["x", "y"]


def test_each_job_that_refused_has_its_own_data_in_sql_and_frames(tmp_path):
    refusals = [{"left": 3}, {"code": "full"}]
    with cs.open(tmp_path / "jobs.db") as db:

        @cs.mutation(module="jobs_refused_test")
        def refuse(ctx, data: object):
            raise cs.ApplicationError(data)

        @cs.mutation(module="jobs_refused_test")
        def later(ctx):
            for n, data in enumerate(refusals):
                ctx.scheduler.run_after(n / 1000, refuse, data=data)

        @cs.query(module="jobs_refused_test")
        def failed(ctx) -> int:
            return sum(row["state"]["kind"] == "failed" for row in ctx.db.query("_scheduled_functions"))

        db.mutation(later)
        db.subscribe(failed).wait(lambda count: count == len(refusals), timeout=20)
        assert list(db.snapshot().df("_scheduled_functions").sort_values("scheduledTime")["errorData"]) == refusals
        rows = db.sql(
            "select errorData->>'left' as n from _scheduled_functions where state.kind = 'failed' order by scheduledTime"
        ).rows()
        assert [row["n"] for row in rows] == ["3", None]
