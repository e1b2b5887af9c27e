"""`ctx.db`: what it reads and writes, what it refuses, and which interval each way of reading records."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from cellstore.errors import CallerError, Forbidden, LimitExceeded, NotFound, ValidationError
from cellstore.knobs import Knobs
from cellstore.transaction.access import DatabaseReader, DatabaseWriter
from cellstore.transaction.catalog import membership
from cellstore.transaction.database import Engine
from cellstore.transaction.transaction import Transaction
from cellstore.values.index_key import END, encode_value
from cellstore.values.value import UNSET


@pytest.fixture
def tasks(engine: Engine, define: Any) -> Engine:
    """Five tasks of rank 0, 10, … 40, two of each colour but the last."""
    engine.define(define("tasks", by_rank="rank", by_colour="colour,rank", by_depth="at.depth"))
    colours = ["red", "red", "blue", "blue", "green"]
    engine.run(
        lambda tx: [
            tx.insert("tasks", {"rank": 10 * n, "colour": colour, "at": {"depth": -n}})
            for n, colour in enumerate(colours)
        ]
    )
    return engine


def ranks(documents: Any) -> list[Any]:
    return [document["rank"] for document in documents]


def rank_reads(transaction: Transaction, index: str = "by_rank") -> list[tuple[bytes, bytes]]:
    meta = transaction.catalog.table("tasks")
    assert meta is not None
    return transaction.reads.get(meta.indexes[index].number, [])


def key_of(transaction: Transaction, document: Any, index: str = "by_rank") -> bytes:
    from cellstore.values.ids import decode_id

    meta = transaction.catalog.table("tasks")
    assert meta is not None
    return meta.indexes[index].key(document, decode_id(document["_id"])[1])


def test_ranges_select_what_they_say(tasks: Engine) -> None:
    with tasks.begin() as tx:
        query = DatabaseReader(tx).query("tasks")
        assert ranks(query.with_index("by_rank", lambda q: q.gte("rank", 10).lt("rank", 30))) == [10, 20]
        assert ranks(query.with_index("by_rank", lambda q: q.gt("rank", 10).lte("rank", 30))) == [20, 30]
        assert ranks(query.with_index("by_rank", rank=20)) == [20]
        assert ranks(query.with_index("by_rank", lambda q: q.gt("rank", 30).lt("rank", 10))) == []
        assert ranks(query.with_index("by_colour", colour="red")) == [0, 10]
        assert ranks(query.with_index("by_colour", lambda q: q.eq("colour", "blue").gt("rank", 20))) == [30]
        assert ranks(query.with_index("by_colour", lambda q: q.eq("rank", 30).eq("colour", "blue"))) == [30]
        assert ranks(query.with_index("by_depth", lambda q: q.lte("at.depth", -3))) == [40, 30]
        assert ranks(query.with_index("by_rank").order("desc").take(2)) == [40, 30]


def test_numbers_compare_as_in_python(tasks: Engine) -> None:
    tasks.run(lambda tx: tx.insert("tasks", {"rank": 10.5}))
    with tasks.begin() as tx:
        query = DatabaseReader(tx).query("tasks")
        assert ranks(query.with_index("by_rank", lambda q: q.gte("rank", 10.0).lte("rank", 20.0))) == [10, 10.5, 20]


def test_missing_fields_sort_first_and_can_be_asked_for(tasks: Engine) -> None:
    tasks.run(lambda tx: [tx.insert("tasks", {"n": 1}), tx.insert("tasks", {"rank": None})])
    with tasks.begin() as tx:
        query = DatabaseReader(tx).query("tasks")
        assert [d.get("rank", "-") for d in query.with_index("by_rank", lambda q: q.lt("rank", 10))] == ["-", None, 0]
        assert [d.get("n") for d in query.with_index("by_rank", rank=UNSET)] == [1]
        assert query.with_index("by_rank", rank=None).count() == 1


def test_creation_time_breaks_ties_and_bounds_a_scan(tasks: Engine) -> None:
    ids = tasks.run(lambda tx: [tx.insert("tasks", {"rank": 7}) for _ in range(4)])[0]
    with tasks.begin() as tx:
        query = DatabaseReader(tx).query("tasks")
        found = query.with_index("by_rank", rank=7).collect()
        assert [d["_id"] for d in found] == ids
        assert [d["_id"] for d in query.with_index("by_rank", rank=7).order("desc")] == ids[::-1]
        later = query.with_index("by_creation_time", lambda q: q.gt("_creationTime", found[1]["_creationTime"]))
        assert [d["_id"] for d in later] == ids[2:]
        assert query.with_index("by_id", _id=ids[0]).unique() == found[0]


@pytest.mark.parametrize(
    ("range", "code"),
    [
        (lambda q: q.eq("rank", 1), "InvalidIndexRange"),
        (lambda q: q.gt("rank", 1), "InvalidIndexRange"),
        (lambda q: q.eq("size", 1), "FieldNotInIndex"),
        (lambda q: q.eq("colour", 1).eq("colour", 2), "AlreadyDefinedBound"),
        (lambda q: q.gt("colour", 1).gte("colour", 2), "AlreadyDefinedBound"),
        (lambda q: q.eq("colour", 1).gt("colour", 2), "AlreadyDefinedBound"),
        (lambda q: q.gt("colour", 1).lt("rank", 2), "BoundsOnMultipleFields"),
    ],
)
def test_a_wrong_range_is_refused_by_name(tasks: Engine, range: Any, code: str) -> None:
    with tasks.begin() as tx, pytest.raises(ValidationError) as caught:
        DatabaseReader(tx).query("tasks").with_index("by_colour", range).collect()
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({1, 2}, "colour: expected a value, got a set"),
        (2**64, "colour: expected an integer of 64 bits"),
        (["\ud800"], r"colour\[0\]: expected valid Unicode text, got a lone surrogate"),
        ([UNSET], "colour: expected a value, got UNSET"),
        (dt.datetime(2026, 1, 1), "colour: expected a datetime with a time zone"),
    ],
)
def test_what_no_document_can_hold_is_no_bound(tasks: Engine, value: Any, message: str) -> None:
    with tasks.begin() as tx, pytest.raises(ValidationError, match=message):
        DatabaseReader(tx).query("tasks").with_index("by_colour", lambda q: q.lt("colour", value)).collect()


def test_an_unknown_index_names_the_known_ones(tasks: Engine) -> None:
    with tasks.begin() as tx, pytest.raises(NotFound, match="by_colour, by_creation_time, by_depth, by_id, by_rank"):
        DatabaseReader(tx).query("tasks").with_index("by_size").collect()


def test_a_query_nobody_pulls_records_nothing(tasks: Engine) -> None:
    with tasks.begin() as tx:
        DatabaseReader(tx).query("tasks").with_index("by_rank").order("desc").filter(lambda d: True)
        assert tx.reads == {}


def test_a_loop_that_breaks_read_up_to_there(tasks: Engine) -> None:
    with tasks.begin() as tx:
        for document in DatabaseReader(tx).query("tasks").with_index("by_rank"):
            if document.rank == 20:
                break
        assert rank_reads(tx) == [(b"", key_of(tx, document) + b"\0")]


def test_collect_reads_the_whole_range_and_its_empty_tail(tasks: Engine) -> None:
    with tasks.begin() as tx:
        DatabaseReader(tx).query("tasks").with_index("by_rank", lambda q: q.gte("rank", 30)).collect()
        assert rank_reads(tx) == [(encode_value(30), END)]


def test_take_reads_up_to_the_last_one_taken(tasks: Engine) -> None:
    with tasks.begin() as tx:
        query = DatabaseReader(tx).query("tasks").with_index("by_rank")
        second = query.take(2)[1]
        assert rank_reads(tx) == [(b"", key_of(tx, second) + b"\0")]
        query.take(0)
        query.take(5)
        assert rank_reads(tx)[0][1] < END
        query.take(6)
        assert rank_reads(tx) == [(b"", END)]


def test_taking_from_the_end_reads_from_the_end(tasks: Engine) -> None:
    with tasks.begin() as tx:
        last = DatabaseReader(tx).query("tasks").with_index("by_rank").order("desc").first()
        assert rank_reads(tx) == [(key_of(tx, last), END)]


def test_first_that_finds_nothing_reads_the_whole_range(tasks: Engine) -> None:
    with tasks.begin() as tx:
        assert DatabaseReader(tx).query("tasks").with_index("by_rank", rank=99).first() is None
        assert rank_reads(tx) == [(encode_value(99), encode_value(99) + END)]


def test_unique_reads_on_for_a_second_one(tasks: Engine) -> None:
    with tasks.begin() as tx:
        query = DatabaseReader(tx).query("tasks")
        assert query.with_index("by_rank", rank=10).unique()["rank"] == 10
        assert rank_reads(tx) == [(encode_value(10), encode_value(10) + END)]
        with pytest.raises(ValidationError, match="found two documents"):
            query.with_index("by_colour", colour="red").unique()


def test_a_filter_reads_what_it_passes_over(tasks: Engine) -> None:
    with tasks.begin() as tx:
        found = DatabaseReader(tx).query("tasks").with_index("by_rank").filter(lambda d: d.rank > 15).first()
        assert found["rank"] == 20
        assert rank_reads(tx) == [(b"", key_of(tx, found) + b"\0")]


def test_count_reads_the_interval_but_no_document(tasks: Engine) -> None:
    with tasks.begin() as tx:
        assert DatabaseReader(tx).query("tasks").with_index("by_colour", colour="red").count() == 2
        by_colour = tx.catalog.table("tasks").indexes["by_colour"].number
        assert tx.reads[membership(by_colour)] == [(encode_value("red"), encode_value("red") + END)]
        assert rank_reads(tx, "by_colour") == [], "what red documents hold does not matter"
        assert DatabaseReader(tx).query("tasks").count() == 5


def test_a_missing_table_depends_on_its_name_only(engine: Engine) -> None:
    from cellstore.transaction.catalog import TABLES_BY_NAME, name_interval

    with engine.begin() as tx:
        db = DatabaseReader(tx)
        assert db.query("nowhere").collect() == []
        assert db.query("nowhere").with_index("by_any", x=1).first() is None
        assert tx.reads == {TABLES_BY_NAME: [name_interval("nowhere")]}


def test_pages_keep_their_edges_while_documents_come_and_go(tasks: Engine) -> None:
    with tasks.begin() as tx:
        first = DatabaseReader(tx).query("tasks").with_index("by_rank").paginate(num_items=2)
        journal = tx.next_journal
        assert ranks(first.page) == [0, 10]
        assert not first.isDone
        last_key = key_of(tx, first.page[-1])
        assert rank_reads(tx) == [(b"", last_key + b"\0")]
    tasks.run(lambda tx: [tx.insert("tasks", {"rank": 5}), tx.insert("tasks", {"rank": 15})])
    with tasks.begin() as tx:
        tx.journal = journal
        query = DatabaseReader(tx).query("tasks").with_index("by_rank")
        again = query.paginate({"numItems": 2, "cursor": None})
        second = query.paginate({"numItems": 2.0, "cursor": again.continueCursor})
        third = query.paginate(num_items=9, cursor=second.continueCursor)
        assert [ranks(page.page) for page in (again, second, third)] == [[0, 5, 10], [15, 20], [30, 40]]
        assert third.isDone
        assert query.paginate(num_items=9, cursor=third.continueCursor).page == []


def test_pages_go_backwards_too(tasks: Engine) -> None:
    with tasks.begin() as tx:
        query = DatabaseReader(tx).query("tasks").with_index("by_rank").order("desc")
        first = query.paginate(num_items=3)
        assert ranks(first.page) == [40, 30, 20]
        assert ranks(query.paginate(num_items=3, cursor=first.continueCursor).page) == [10, 0]
        assert ranks(query.paginate(num_items=1, end_cursor=first.continueCursor).page) == [40, 30, 20]


def test_a_cursor_of_another_query_is_refused(tasks: Engine) -> None:
    with tasks.begin() as tx:
        query = DatabaseReader(tx).query("tasks")
        cursor = query.with_index("by_rank").paginate(num_items=1).continueCursor
        for other in (query, query.with_index("by_rank").order("desc"), query.with_index("by_rank", rank=1)):
            with pytest.raises(ValidationError) as caught:
                other.paginate(num_items=1, cursor=cursor)
            assert caught.value.code == "InvalidCursor"


def test_a_loop_may_write_what_it_walks_over(tasks: Engine) -> None:
    def double(tx: Transaction) -> list[int]:
        met = []
        db = DatabaseWriter(tx)
        for document in db.query("tasks").with_index("by_rank"):
            met.append(document.rank)
            db.patch(document._id, {"rank": document.rank + 15})
            db.insert("tasks", {"rank": document.rank + 1})
        return met

    assert tasks.run(double)[0] == [0, 10, 20, 30, 40]
    with tasks.begin() as tx:
        assert ranks(DatabaseReader(tx).query("tasks").with_index("by_rank")) == [1, 11, 15, 21, 25, 31, 35, 41, 45, 55]


def test_a_deleted_document_is_skipped_by_a_loop_that_runs(tasks: Engine) -> None:
    with tasks.begin() as tx:
        db = DatabaseWriter(tx)
        loop = iter(db.query("tasks").with_index("by_rank"))
        next(loop)
        for document in db.query("tasks").with_index("by_rank", lambda q: q.gt("rank", 0).lt("rank", 40)):
            db.delete(document._id)
        assert ranks(loop) == [40]


def test_changing_what_was_handed_out_changes_nothing(tasks: Engine) -> None:
    with tasks.begin() as tx:
        db = DatabaseWriter(tx)
        document = db.query("tasks").first()
        document["at"]["depth"] = 99
        assert db.get(document._id).at.depth == 0
        fields = {"tags": ["a"]}
        id = db.insert("tasks", fields)
        fields["tags"].append("b")
        assert db.get(id).tags == ["a"]


def test_every_write_has_its_two_forms(tasks: Engine) -> None:
    def work(tx: Transaction) -> Any:
        db = DatabaseWriter(tx)
        id = db.insert("tasks", {"rank": 1, "a": {"b": 1}, "c": 2})
        db.patch("tasks", id, {"a": {"d": 2}, "c": UNSET})
        assert {k: v for k, v in db.get("tasks", id).items() if k[0] != "_"} == {"rank": 1, "a": {"d": 2}}
        db.replace("tasks", id, {**db.get(id), "rank": 2})
        db.patch(id, {"rank": 3})
        db.replace(id, {"rank": 4})
        assert db.get(id).rank == 4
        db.delete("tasks", id)
        assert db.get(id) is None
        return id

    id = tasks.run(work)[0]
    with tasks.begin() as tx:
        db = DatabaseWriter(tx)
        for call in (lambda: db.patch(id, {}), lambda: db.replace(id, {}), lambda: db.delete(id)):
            with pytest.raises(NotFound, match="may have been deleted"):
                call()
        with pytest.raises(CallerError, match="call it as patch"):
            db.patch(id)
        with pytest.raises(ValidationError, match="of table 'other'"):
            db.get("other", id)
        with pytest.raises(ValidationError, match="not a document id"):
            db.get("abc")


def test_system_fields_may_be_repeated_not_changed(tasks: Engine) -> None:
    with tasks.begin() as tx:
        db = DatabaseWriter(tx)
        document = db.query("tasks").first()
        db.replace(document._id, document)
        db.patch(document._id, {"_creationTime": document._creationTime, "rank": 3})
        with pytest.raises(ValidationError, match="never changes"):
            db.patch(document._id, {"_creationTime": 1.0})
        with pytest.raises(ValidationError, match="_id"):
            db.insert("tasks", {"_id": document._id})


def test_system_tables_are_closed(engine: Engine) -> None:
    job = engine.run(lambda tx: tx.insert("_scheduled_functions", {"name": "f", "state": {"kind": "pending"}}))[0]
    with engine.begin() as tx:
        db = DatabaseWriter(tx)
        assert db.query("_scheduled_functions").first() == db.get(job)
        for call in (
            lambda: db.query("_modules"),
            lambda: db.insert("_modules", {}),
            lambda: db.patch(job, {}),
            lambda: db.delete(job),
        ):
            with pytest.raises(Forbidden):
                call()


def test_limits_name_themselves(define: Any) -> None:
    small = Knobs(
        read_rows_max=3, read_intervals_max=2, write_documents_max=2, read_size_bytes=1000, write_size_bytes=300
    )
    with Engine.memory() as engine:
        ids = engine.run(lambda tx: [tx.insert("t", {"n": n}) for n in range(5)])[0]
        engine.knobs = small
        cases: list[tuple[str, Any]] = [
            ("read_rows_max", lambda tx: DatabaseReader(tx).query("t").collect()),
            ("read_intervals_max", lambda tx: [tx.get(id) for id in ids]),
            ("write_documents_max", lambda tx: [tx.insert("t", {}) for _ in range(3)]),
            ("write_size_bytes", lambda tx: tx.insert("t", {"x": "x" * 400})),
        ]
        for knob, work in cases:
            with engine.begin() as tx, pytest.raises(LimitExceeded) as caught:
                work(tx)
            assert caught.value.knob == knob
            assert caught.value.used > caught.value.limit == getattr(small, knob)
        engine.knobs = Knobs()


@pytest.mark.parametrize("name", ["", "_x", "1a", "a-b", "x" * 65, "___", "naïve"])
def test_a_bad_table_name_is_refused(engine: Engine, name: str) -> None:
    with engine.begin() as tx, pytest.raises(ValidationError):
        tx.insert(name, {})


def test_creation_times_rise_within_a_transaction(engine: Engine) -> None:
    with engine.begin(now_ms=5.0) as tx:
        ids = [tx.insert("t", {}) for _ in range(100)]
        times = [tx.get(id)["_creationTime"] for id in ids]
    assert times == sorted(set(times))
    assert times[0] >= 5.0
