"""What a user's own tests look like, and what they cost."""

from __future__ import annotations

import datetime as dt
import importlib
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

import cellstore as cs
from cellstore.testing.store import StoreUnderTest

pytest_plugins = ["pytester"]

CONFTEST = 'pytest_plugins = ["cellstore.testing.plugin"]\n'
LIMIT = 3


class Note(cs.Table, name="notes"):
    text: str
    owner: str | None = None
    by_owner = cs.Index("owner")


@cs.mutation
def write(ctx, text: str) -> cs.Id["notes"]:  # noqa: UP037 — a name, not an annotation
    who = ctx.auth.identity()
    return ctx.db.insert("notes", {"text": text, "owner": who["subject"] if who else None})


@cs.query
def notes(ctx) -> list[dict[str, Any]]:
    return ctx.db.query("notes").take(LIMIT)


@cs.query
def describe_queries(ctx):
    asked = ctx.db.query(Note).with_index("by_owner", owner=None).order("desc").filter(len)
    return [repr(ctx.db), repr(asked)]


@cs.mutation
def remind(ctx, text: str, minutes: float) -> str:
    return ctx.scheduler.run_after(minutes * 60, write, text=text)


@cs.every(hours=1)
@cs.mutation
def tick(ctx):
    ctx.db.insert("notes", {"text": f"tick {ctx.now:%H:%M}"})


@cs.cron("0 9 * * *", tz="Europe/Berlin")
@cs.mutation
def morning(ctx):
    return write(text="good morning")


@cs.action
def fetch_and_write(ctx, text: str):
    ctx.progress(1, 2, "fetched")
    write(text=text)
    return len(notes())


@cs.http("/notes", methods=["POST"])
def post_note(ctx, request):
    return cs.Response.json({"id": ctx.run_mutation(write, text=request.json()["text"])}, status=201)


@cs.mutation
def forever(ctx):
    ctx.scheduler.run_after(0, forever)


@pytest.fixture
def store() -> Iterator[StoreUnderTest]:
    with StoreUnderTest() as fresh:
        yield fresh


def texts() -> list[str]:
    return [note.text for note in notes()]


def test_functions_run_on_a_fresh_store(store: StoreUnderTest) -> None:
    write(text="milk")
    assert texts() == ["milk"]
    assert store.query(notes)[0]["owner"] == "embedded"
    assert fetch_and_write(text="bread") == 2
    with pytest.raises(cs.ValidationError, match="text"):
        write(text=5)


def test_the_next_test_sees_nothing_of_it(store: StoreUnderTest) -> None:
    assert texts() == []


def test_functions_are_the_very_objects_so_that_monkeypatching_works(store: StoreUnderTest, monkeypatch: Any) -> None:
    for text in "abc":
        write(text=text)
    monkeypatch.setattr(sys.modules[__name__], "LIMIT", 1)
    assert texts() == ["a"]


def test_a_job_runs_when_the_clock_gets_there(store: StoreUnderTest) -> None:
    job = remind(text="tea", minutes=10)
    store.clock.advance(minutes=9, seconds=59)
    assert texts() == []
    [row] = [row for row in store.jobs("pending") if row["_id"] == job]
    store.clock.advance(seconds=1)
    assert texts() == ["tea"]
    [row] = store.jobs("success")
    assert row["completedTime"] - row["scheduledTime"] < 1
    assert row["result"] == notes()[0]._id


def test_crons_run_on_the_way_each_at_its_own_moment(store: StoreUnderTest, monkeypatch: Any) -> None:
    monkeypatch.setattr(sys.modules[__name__], "LIMIT", 100)
    began = store.clock.now
    texts()  # the module is deployed
    store.clock.advance(days=1)
    assert store.clock.now - began - dt.timedelta(days=1) < dt.timedelta(milliseconds=1)
    assert len([text for text in texts() if text.startswith("tick")]) == 24
    assert texts().count("good morning") == 1
    mornings = [row for row in store.jobs("success") if row["name"].endswith(":morning")]
    due = dt.datetime.fromtimestamp(mornings[0]["scheduledTime"] / 1000, dt.UTC)
    assert (due.hour, due.minute) == (7, 0), "nine in Berlin, in June"


def test_after_a_day_asleep_a_schedule_runs_once_and_says_what_it_missed(store: StoreUnderTest) -> None:
    texts()
    store.clock.sleep_until(store.clock.now + dt.timedelta(days=1))
    ticks = [row for row in store.jobs("success") if row["name"].endswith(":tick")]
    assert [row["missed"] for row in ticks] == [23]
    said = [line for record in store.logs() for line in record["lines"] if "missed" in line]
    assert any("23 runs of test_user_fixtures:tick since" in line for line in said)
    store.clock.advance(hours=1)
    assert len([row for row in store.jobs("success") if row["name"].endswith(":tick")]) == 2


def test_a_clock_set_back_runs_no_slot_again(store: StoreUnderTest) -> None:
    texts()
    store.clock.advance(hours=3)
    store.clock.set(store.clock.now - dt.timedelta(hours=2))
    store.clock.advance(hours=2)
    assert len([row for row in store.jobs("success") if row["name"].endswith(":tick")]) == 3
    store.clock.advance(hours=1)
    assert len([row for row in store.jobs("success") if row["name"].endswith(":tick")]) == 4


def test_calls_come_from_whom_the_test_says(store: StoreUnderTest) -> None:
    with store.signed_in("ann"):
        write(text="hers")
        fetch_and_write(text="by action")
    write(text="mine")
    assert [note.owner for note in notes()] == ["ann", "ann", "embedded"]


def test_http_actions_answer(store: StoreUnderTest) -> None:
    answer = store.fetch("POST", "/notes", json={"text": "posted"})
    assert (answer.status, answer.json()["id"]) == (201, notes()[0]._id)
    with pytest.raises(cs.ValidationError):
        store.fetch("POST", "/notes", b"{")
    with pytest.raises(cs.CellstoreError, match="No matching routes"):
        store.fetch("GET", "/nowhere")


def test_what_a_failing_test_shows_says_what_it_is(store: StoreUnderTest) -> None:
    answer = store.fetch("POST", "/notes", json={"text": "posted"})
    assert repr(answer) == f'<201 application/json, {len(answer.body)} bytes: {{"id": "{notes()[0]._id}"}}>'
    assert repr(store.clock) == f"<clock at {store.clock.now:%Y-%m-%d %H:%M:%S.%f} UTC>"
    assert repr(store) == "<Database :memory: (default), connected>"
    assert describe_queries() == [
        "<ctx.db, to read>",
        "<query('notes').with_index('by_owner', owner=None).order(\"desc\").filter(…), which nobody has pulled: .collect(), "
        ".take(n), .first() …>",
    ]


def test_live_queries_and_snapshots_are_there_as_well(store: StoreUnderTest) -> None:
    with store.subscribe(notes) as live:
        write(text="milk")
        live.wait(lambda rows: len(rows) == 1, timeout=5)
    assert list(store.snapshot().df("notes")["text"]) == ["milk"]


def test_a_job_that_schedules_itself_at_once_is_an_error_and_no_hang(store: StoreUnderTest, monkeypatch: Any) -> None:
    monkeypatch.setattr("cellstore.testing.store._JOBS_MAX", 50)
    forever()
    with pytest.raises(cs.LimitExceeded, match="schedule itself"):
        store.run_jobs()


def test_the_plugin_gives_the_fixture_and_fifty_tests_cost_fifty_stores_and_no_packing(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed: list[str] = []
    packing = importlib.import_module("cellstore.deploy.pack")
    monkeypatch.setattr(packing, "pack", lambda module, *_: packed.append(module))
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        fifty_tasks="""
            import cellstore as cs
            @cs.mutation
            def add(ctx, text: str): return ctx.db.insert("tasks", {"text": text})
            @cs.query
            def count(ctx) -> int: return ctx.db.query("tasks").count()
        """,
        test_fifty="""
            import pytest
            from fifty_tasks import add, count
            @pytest.mark.parametrize("n", range(50))
            def test_one(store, n):
                for _ in range(3): add(text="x")
                assert count() == 3
        """,
    )
    began = time.perf_counter()
    result = pytester.runpytest_inprocess("-q", "-p", "no:cacheprovider", "-p", "no:asyncio")
    seconds = time.perf_counter() - began
    result.assert_outcomes(passed=50)
    assert packed == []
    print(f"fifty tests took {seconds:.2f} s")
