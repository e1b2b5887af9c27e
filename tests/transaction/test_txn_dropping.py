"""Tables dropped: gone at once for everybody, emptied behind live traffic, free to be made anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cellstore.errors import CallerError, ConflictError, NotFound, ValidationError
from cellstore.schema.definition import TableDefinition
from cellstore.transaction.database import Engine
from cellstore.transaction.hidden import PURGE_DOCUMENTS, drop_table, leftovers, purge
from cellstore.transaction.importing import Import, Wanted
from cellstore.values.ids import Id
from cellstore.values.json import dumps

MANY = 2 * PURGE_DOCUMENTS + 7


@pytest.fixture
def tasks(engine: Engine, define: Any) -> list[Id]:
    engine.define(define("tasks", {"text": "string", "rank": "int"}, by_text="text!", by_rank="rank"))
    return filled(engine)


def filled(engine: Engine, count: int = MANY) -> list[Id]:
    return engine.run(lambda tx: [tx.insert("tasks", {"text": f"t{n}", "rank": n % 7}) for n in range(count)])[0]


def ranks(engine: Engine, ts: int | None = None) -> list[int]:
    with engine.begin(ts) as tx:
        return [row["rank"] for _, row in tx.scan("tasks")]


def test_a_dropped_table_is_gone_at_once_and_was_there_before(engine: Engine, tasks: list[Id]) -> None:
    before = engine.published_ts
    dropped = drop_table(engine, "tasks")
    assert dropped > before
    assert engine.catalog.table("tasks") is None
    with engine.begin() as tx:
        assert (tx.get(tasks[3]), tx.count("tasks"), list(tx.scan("tasks"))) == (None, 0, [])
    assert len(ranks(engine, before)) == MANY
    purge(engine, leftovers(engine)[0])
    assert len(ranks(engine, before)) == MANY, "history is history"


def test_a_view_that_is_open_sees_all_of_it_however_far_its_end_is(engine: Engine, tasks: list[Id]) -> None:
    with engine.begin() as tx:
        drop_table(engine, "tasks")
        purge(engine, leftovers(engine)[0], steps_max=1)
        assert tx.count("tasks") == MANY
        assert len(list(tx.scan("tasks", "by_rank"))) == MANY
        assert tx.get(tasks[0]) is not None


def test_its_documents_leave_in_slices_and_others_commit_in_between(engine: Engine, tasks: list[Id]) -> None:
    sizes: list[int] = []
    engine.committer.listeners.append(lambda commits: sizes.extend(len(c.keys.get(2 * number, ())) for c in commits))
    number = engine.catalog.table("tasks").number  # type: ignore[union-attr]
    drop_table(engine, "tasks")
    assert sizes == [0], "the name is what goes at once"
    while leftovers(engine):
        purge(engine, number, steps_max=1)
        engine.run(lambda tx: tx.insert("others", {}))
    assert (sum(sizes), max(sizes)) == (MANY, PURGE_DOCUMENTS)
    reader = engine.storage.reader()
    reader.refresh()
    assert [reader.count(index, b"", b"\xff" * 40) for index in (2 * number, 2 * number + 1)] == [0, 0]
    reader.close()


def test_a_new_table_of_the_name_has_a_number_and_unique_claims_of_its_own(
    engine: Engine, tasks: list[Id], define: Any
) -> None:
    number = engine.catalog.table("tasks").number  # type: ignore[union-attr]
    drop_table(engine, "tasks")
    engine.define(define("tasks", {"text": "string"}, by_text="text!"))
    anew = engine.run(lambda tx: tx.insert("tasks", {"text": "t0"}))[0]
    assert engine.catalog.table("tasks").number > number  # type: ignore[union-attr]
    assert purge(engine, number) == MANY
    with pytest.raises(ValidationError, match="unique"):
        engine.run(lambda tx: tx.insert("tasks", {"text": "t0"}))
    with engine.begin() as tx:
        assert (tx.count("tasks"), tx.get(anew) is not None, tx.get(tasks[0])) == (1, True, None)


def test_writers_who_knew_the_table_run_again_and_readers_of_it_wake(engine: Engine, tasks: list[Id]) -> None:
    writes = []
    for write in (
        lambda tx: tx.insert("tasks", {"text": "late", "rank": 1}),
        lambda tx: tx.patch(tasks[0], {"rank": 9}),
    ):
        with engine.begin() as tx:
            write(tx)
            writes.append(tx.freeze())
    reads = []
    for read in (lambda tx: tx.count("tasks"), lambda tx: tx.get(tasks[0]), lambda tx: list(tx.scan("others"))):
        with engine.begin() as tx:
            read(tx)
            reads.append((tx.reads, tx.begin_ts))
    drop_table(engine, "tasks")
    assert [type(answer) for answer in engine.commit(writes)] == [ConflictError, ConflictError]
    assert [engine.write_log.first_hit(*read) is not None for read in reads] == [True, True, False]
    with pytest.raises(NotFound, match=r"deleted|does not exist"):
        engine.run(lambda tx: tx.patch(tasks[0], {"rank": 9}))


def test_what_cannot_be_dropped_is_named(engine: Engine, tasks: list[Id]) -> None:
    of_task = {"type": {"type": "array", "items": {"type": "id", "table": "tasks"}}, "optional": False}
    engine.define(TableDefinition("lists", {"type": "object", "fields": {"tasks": of_task}}))
    with pytest.raises(CallerError, match="documents of 'lists' have ids of it"):
        drop_table(engine, "tasks")
    with pytest.raises(NotFound, match=r"no table 'taks' \(did you mean 'tasks'"):
        drop_table(engine, "taks")
    with pytest.raises(NotFound):
        drop_table(engine, "_indexes")
    drop_table(engine, "lists")
    drop_table(engine, "tasks")
    assert engine.catalog.user_tables() == []


def test_a_table_dropped_while_it_is_redefined_is_made_anew(engine: Engine, tasks: list[Id], define: Any) -> None:
    number = engine.catalog.table("tasks").number  # type: ignore[union-attr]
    steps = engine.apply_definitions(
        [define("tasks", {"text": "string", "rank": "int"}, by_rank="text", by_new="text")]
    )
    while next(steps)["step"] != "backfill":
        pass
    drop_table(engine, "tasks")
    for _ in steps:
        purge(engine, number, steps_max=1)
    made = engine.catalog.table("tasks")
    assert made is not None
    assert (made.number != number, set(made.indexes) >= {"by_rank", "by_new"}, ranks(engine)) == (True, True, [])
    purge(engine, number)
    assert leftovers(engine) == []
    assert [row["state"] for _, row in engine.catalog.index_rows() if row["state"] == "backfilling"] == []


def test_an_export_of_it_brings_it_back_with_its_ids(engine: Engine, tasks: list[Id]) -> None:
    number = engine.catalog.table("tasks").number  # type: ignore[union-attr]
    drop_table(engine, "tasks")
    back = Import(engine, "fail", [Wanted("tasks", number)])
    back.load("tasks", dumps({"_id": tasks[5], "text": "back", "rank": 0}))
    back.finish()
    assert leftovers(engine) == []
    with engine.begin() as tx:
        assert [id for _, row in tx.scan("tasks") for id in [row["_id"]]] == [tasks[5]]


def test_a_store_opened_again_in_the_middle_goes_on(tmp_path: Path, define: Any) -> None:
    with Engine.open(tmp_path / "store.db") as engine:
        engine.define(define("tasks", {"text": "string", "rank": "int"}, by_text="text!", by_rank="rank"))
        ids = filled(engine)
        drop_table(engine, "tasks")
        (number,) = leftovers(engine)
        purge(engine, number, steps_max=1)
    with Engine.open(tmp_path / "store.db") as engine:
        assert list(engine.check()) == []
        assert engine.catalog.table("tasks") is None
        assert leftovers(engine) == [number]
        assert purge(engine, number) == MANY - PURGE_DOCUMENTS
        with engine.begin() as tx:
            assert tx.get(ids[-1]) is None
        assert list(engine.check()) == []
