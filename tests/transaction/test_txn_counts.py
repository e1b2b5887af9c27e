"""Counting: exact through every layer and at every moment, and woken only by what comes or goes."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from cellstore.errors import ConflictError
from cellstore.transaction.access import DatabaseReader, DatabaseWriter, QueryBuilder
from cellstore.transaction.database import Engine
from cellstore.transaction.overlay import Overlay
from cellstore.transaction.snapshot import Snapshot
from cellstore.transaction.transaction import Transaction
from cellstore.values.ids import Id


@pytest.fixture
def tasks(engine: Engine, define: Any) -> list[Id]:
    """Ten tasks of rank 0 to 9; the even ones are done."""
    engine.define(define("tasks", by_done="done,rank", by_key="key!"))
    rows = [{"rank": n, "done": n % 2 == 0, "key": str(n), "text": ""} for n in range(10)]
    return engine.run(lambda tx: [tx.insert("tasks", row) for row in rows])[0]


def done(tx: Transaction) -> QueryBuilder:
    return DatabaseReader(tx).query("tasks").with_index("by_done", done=True)


def woken(engine: Engine, read: Callable[[Transaction], object], write: Callable[[Transaction], object]) -> bool:
    """Whether a live query that `read` would be run again after `write`."""
    with engine.begin() as tx:
        read(tx)
        reads, ts = tx.reads, tx.begin_ts
    engine.run(write)
    return engine.write_log.first_hit(reads, ts) is not None


def test_a_live_count_sleeps_while_documents_change_in_place(engine: Engine, tasks: list[Id]) -> None:
    def change(tx: Transaction) -> None:
        for id in tasks:
            tx.patch(id, {"text": "changed"})

    assert not woken(engine, lambda tx: done(tx).count(), change)
    assert not woken(engine, lambda tx: tx.count("tasks"), lambda tx: tx.patch(tasks[0], {"text": "2", "rank": 70}))
    assert not woken(engine, lambda tx: tx.count("tasks", "by_id"), lambda tx: tx.patch(tasks[0], {"text": "3"}))
    assert woken(engine, lambda tx: done(tx).collect(), lambda tx: tx.patch(tasks[0], {"text": "again"}))


@pytest.mark.parametrize("index", ["by_done", "by_creation_time", "by_id"])
def test_a_live_count_wakes_when_something_comes_or_goes(engine: Engine, tasks: list[Id], index: str) -> None:
    def count(tx: Transaction) -> None:
        tx.count("tasks", index)

    assert woken(engine, count, lambda tx: tx.insert("tasks", {"done": True}))
    assert woken(engine, count, lambda tx: tx.delete(tasks[3]))


def test_a_live_count_of_a_range_wakes_for_that_range_only(engine: Engine, tasks: list[Id]) -> None:
    assert woken(engine, lambda tx: done(tx).count(), lambda tx: tx.patch(tasks[1], {"done": True}))
    assert woken(engine, lambda tx: done(tx).count(), lambda tx: tx.patch(tasks[1], {"done": False}))
    assert not woken(engine, lambda tx: done(tx).count(), lambda tx: tx.insert("tasks", {"done": False}))
    assert not woken(engine, lambda tx: done(tx).count(), lambda tx: tx.delete(tasks[3]))


def test_a_commit_that_does_both_wakes_only_where_something_came_or_went(engine: Engine, tasks: list[Id]) -> None:
    def both(tx: Transaction) -> None:
        tx.patch(tasks[0], {"text": "in place"})
        tx.patch(tasks[1], {"rank": 50})
        tx.insert("tasks", {"done": False})

    assert not woken(engine, lambda tx: done(tx).count(), both)
    assert woken(engine, lambda tx: tx.count("tasks", "by_done"), both)
    assert woken(engine, lambda tx: tx.count("tasks", "by_id"), both)


def test_a_count_with_a_filter_depends_on_what_it_looked_at(engine: Engine, tasks: list[Id]) -> None:
    def count(tx: Transaction) -> None:
        assert done(tx).filter(lambda task: task["text"] == "").count() == 5

    assert woken(engine, count, lambda tx: tx.patch(tasks[0], {"text": "x"}))


def test_counting_then_inserting_twice_is_a_phantom_and_refused(engine: Engine, tasks: list[Id]) -> None:
    requests = []
    for _ in range(2):
        with engine.begin() as tx:
            assert done(tx).count() < 6
            tx.insert("tasks", {"done": True})
            requests.append(tx.freeze())
    answers = engine.commit(requests)
    assert [type(answer) for answer in answers][1] is ConflictError
    assert "tasks.by_done" in str(answers[1])
    with engine.begin() as tx:
        assert done(tx).count() == 6


def test_counting_conflicts_with_nobody_who_changes_in_place(engine: Engine, tasks: list[Id]) -> None:
    with engine.begin() as tx:
        tx.insert("log", {"done": done(tx).count()})
        request = tx.freeze()
    engine.run(lambda tx: tx.patch(tasks[0], {"text": "x"}))
    assert not isinstance(engine.commit([request])[0], ConflictError)


def test_a_unique_claim_conflicts_with_nobody_who_keeps_the_key(engine: Engine, tasks: list[Id]) -> None:
    with engine.begin() as tx:
        tx.insert("tasks", {"key": "99"})
        request = tx.freeze()
    engine.run(lambda tx: tx.patch(tasks[9], {"text": "x"}))
    assert not isinstance(engine.commit([request])[0], ConflictError)


def test_own_writes_and_the_lane_count(engine: Engine, tasks: list[Id]) -> None:
    overlay = Overlay("lane")
    with engine.begin(overlay=overlay) as tx:
        tx.patch(tasks[1], {"done": True})
        tx.delete(tasks[0])
        overlay.apply(tx.freeze())
    with engine.begin(overlay=overlay) as tx:
        assert done(tx).count() == 5
        db = DatabaseWriter(tx)
        db.insert("tasks", {"done": True})
        db.patch(tasks[2], {"done": False})
        db.delete(tasks[1])
        assert done(tx).count() == len(done(tx).collect()) == 4
        assert tx.count("tasks") == 9


def test_a_count_looks_up_nothing_its_transaction_wrote(
    engine: Engine, tasks: list[Id], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[bytes] = []
    with engine.begin() as tx:
        for n in range(30):
            tx.insert("tasks", {"done": n < 20})
        tx.patch(tasks[0], {"done": False})
        tx.replace(tasks[1], {"done": True})
        tx.delete(tasks[2])
        point = tx.savepoint()
        tx.delete(tasks[4])
        tx.rollback(point)
        monkeypatch.setattr(Snapshot, "row", lambda self, table, id: looked_at.append(id))
        assert done(tx).count() == 5 + 20 - 1 + 1 - 1
        assert tx.count("tasks") == tx.count("tasks", "by_id") == 10 + 30 - 1
        assert looked_at == []


@pytest.mark.parametrize("seed", range(3))
def test_a_count_at_any_moment_is_what_a_scan_finds(engine: Engine, tasks: list[Id], seed: int) -> None:
    dice, moments = random.Random(seed), []
    for n in range(60):
        id = dice.choice(tasks)

        def change(tx: Transaction, id: Id = id, n: int = n) -> None:
            tx.patch(id, {"done": dice.random() < 0.5, "text": str(n)})
            for rank in range(dice.randrange(12)):
                tx.insert("tasks", {"done": dice.random() < 0.5, "rank": rank})

        moments.append(engine.run(change)[1])
    for ts in dice.sample(moments, 12) + moments[-3:]:
        with engine.begin(ts) as tx:
            assert done(tx).count() == len(done(tx).collect())
            assert tx.count("tasks") == tx.count("tasks", "by_id") == len(list(tx.scan("tasks")))


def test_a_count_a_moment_ago_walks_nothing(engine: Engine, define: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.define(define("t", by_n="n"))
    engine.bulk_insert("t", [{"n": n} for n in range(3000)])
    before = engine.published_ts
    engine.run(lambda tx: tx.insert("t", {"n": 5}))
    with engine.begin(before) as tx:
        asked: list[Any] = []
        reader = tx._snapshot.reader
        count = reader.count
        monkeypatch.setattr(reader, "count", lambda *a: (asked.append(a), count(*a))[1])
        assert tx.count("t", "by_n") == 3000
        assert all(len(a) == 3 for a in asked), "the count of now was asked for, and corrected"
