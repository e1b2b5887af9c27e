"""Tables and fields renamed in place: ids, indexes, references and history stay."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

import cellstore as cs
from cellstore.errors import ConflictError, DeployError, ValidationError
from cellstore.schema.definition import TableDefinition
from cellstore.transaction.access import upsert
from cellstore.transaction.catalog import INDEXES, TABLES
from cellstore.transaction.database import Engine
from cellstore.transaction.hidden import drop_table, leftovers, purge
from cellstore.transaction.importing import Import, Wanted
from cellstore.values.ids import Id
from cellstore.values.index_key import encode_value

STRING = {"type": {"type": "string"}, "optional": False}


@pytest.fixture
def tasks(engine: Engine, define: Any) -> list[Id]:
    engine.define(
        define("tasks", {"text": "string", "rank": "int", "note?": "string"}, by_text="text,rank!", by_rank="rank")
    )
    rows = [{"text": f"t{n % 3}", "rank": n} for n in range(12)]
    return engine.run(lambda tx: [tx.insert("tasks", row) for row in rows])[0]


def retitled(define: Any, **indexes: str) -> TableDefinition:
    """The table of `tasks` with `text` renamed to `title`."""
    made = define(
        "tasks", {"title": "string", "rank": "int", "note?": "string"}, by_text="title,rank!", by_rank="rank", **indexes
    )
    return replace(made, renamed_fields={"text": "title"})


def everything(engine: Engine, table: str = "tasks", ts: int | None = None) -> list[dict[str, Any]]:
    with engine.begin(ts) as tx:
        return [{k: v for k, v in row.items() if k[0] != "_"} for _, row in tx.scan(table)]


def test_a_field_is_renamed_in_every_document_at_once(engine: Engine, tasks: list[Id], define: Any) -> None:
    before = engine.published_ts
    report = engine.define(retitled(define))["tables"]["tasks"]
    assert report["fields_renamed"] == {"text": "title"}
    assert everything(engine) == [{"title": f"t{n % 3}", "rank": n} for n in range(12)]
    assert everything(engine, ts=before) == [{"text": f"t{n % 3}", "rank": n} for n in range(12)], "history is history"
    with engine.begin() as tx:
        prefix = encode_value("t1")
        assert [row["rank"] for _, row in tx.scan("tasks", "by_text", prefix, prefix + b"\xff")] == [1, 4, 7, 10]
        assert tx.get(tasks[3]) is not None
    assert engine.define(retitled(define))["tables"]["tasks"].get("fields_renamed") is None, "it is done once"


def test_an_index_over_a_renamed_field_is_kept_and_not_built_again(
    engine: Engine, tasks: list[Id], define: Any
) -> None:
    number = engine.catalog.table("tasks").indexes["by_text"].number  # type: ignore[union-attr]
    steps = [step["step"] for step in engine.apply_definitions([retitled(define)])]
    assert "backfill" not in steps
    index = engine.catalog.table("tasks").indexes["by_text"]  # type: ignore[union-attr]
    assert (index.number, index.fields) == (number, ("title", "rank"))
    with pytest.raises(ValidationError, match="unique"):
        engine.run(lambda tx: tx.insert("tasks", {"title": "t1", "rank": 1}))


def test_writers_who_know_the_old_name_run_again(engine: Engine, tasks: list[Id], define: Any) -> None:
    with engine.begin() as tx:
        tx.patch(tasks[0], {"text": "late"})
        request = tx.freeze()
    engine.define(retitled(define))
    assert isinstance(engine.commit([request])[0], ConflictError)
    with pytest.raises(ValidationError, match="text"):
        engine.run(lambda tx: tx.patch(tasks[0], {"text": "late"}))


@pytest.mark.parametrize("documents", [10, 2000])
def test_a_rename_rewrites_no_document(engine: Engine, define: Any, documents: int) -> None:
    engine.define(define("t", {"text": "string"}, by_text="text"))
    engine.run(lambda tx: [tx.insert("t", {"text": f"t{n}"}) for n in range(documents)])
    before = engine.published_ts
    engine.define(replace(define("t", {"title": "string"}, by_text="title"), renamed_fields={"text": "title"}))
    with closing(engine.storage.reader()) as reader:
        written = reader.log(before, reader.refresh(), 10_000)
    assert len({entry.ts for entry in written}) == 1, "one commit"
    assert sorted(entry.table for entry in written) == [TABLES, INDEXES], "the row of the table, the row of the index"
    assert everything(engine, "t")[-1] == {"title": f"t{documents - 1}"}


def test_a_new_field_of_the_old_name_is_another_field(engine: Engine, tasks: list[Id], define: Any) -> None:
    engine.define(retitled(define))
    fields = {"title": "string", "rank": "int", "note?": "string", "text?": "int"}
    engine.define(define("tasks", fields, by_text="title,rank!", by_rank="rank", by_new="text"))
    engine.run(lambda tx: tx.patch(tasks[0], {"text": 7}))
    engine.run(lambda tx: tx.insert("tasks", {"title": "t0", "rank": 50, "text": 8}))
    assert [row for row in everything(engine) if "text" in row] == [
        {"title": "t0", "rank": 0, "text": 7},
        {"title": "t0", "rank": 50, "text": 8},
    ]
    with engine.begin() as tx:
        assert tx.count("tasks", "by_new", encode_value(7), encode_value(9)) == 2


def test_a_name_may_be_given_back(engine: Engine, tasks: list[Id], define: Any) -> None:
    before = everything(engine)
    engine.define(retitled(define))
    fields = {"text": "string", "rank": "int", "note?": "string"}
    back = define("tasks", fields, by_text="text,rank!", by_rank="rank")
    engine.define(replace(back, renamed_fields={"title": "text"}))
    assert everything(engine) == before
    assert engine.catalog.table("tasks").stored_as == {}  # type: ignore[union-attr]


def test_every_write_after_a_rename_is_by_the_new_name(engine: Engine, tasks: list[Id], define: Any) -> None:
    engine.define(retitled(define))
    engine.run(lambda tx: tx.patch(tasks[0], {"title": "patched", "note": "n"}))
    engine.run(lambda tx: tx.replace(tasks[1], {"title": "replaced", "rank": 1}))
    engine.run(lambda tx: upsert(tx, "tasks", {"title": "t2", "rank": 2}, {"note": "found"}))
    engine.run(lambda tx: tx.delete(tasks[3]))
    engine.define(define("tasks", {"title": "string", "rank": "int", "note?": "string"}, by_rank="rank"))
    engine.bulk_insert("tasks", b'{"title": "as text", "rank": 20}')
    engine.bulk_insert("tasks", [{"title": "as rows", "rank": 21}])
    found = everything(engine)
    assert found[:3] == [
        {"title": "patched", "rank": 0, "note": "n"},
        {"title": "replaced", "rank": 1},
        {"title": "t2", "rank": 2, "note": "found"},
    ]
    assert [row["title"] for row in found[-2:]] == ["as text", "as rows"]
    assert (len(found), list(engine.check())) == (13, [])


def test_a_patch_that_changes_nothing_still_writes_nothing(engine: Engine, tasks: list[Id], define: Any) -> None:
    engine.define(retitled(define))
    with engine.begin() as tx:
        tx.patch(tasks[0], {"title": "t0"})
        assert tx.freeze().writes == []


def test_counts_look_past_the_rename_from_either_side(engine: Engine, tasks: list[Id], define: Any) -> None:
    before = engine.published_ts
    engine.define(retitled(define))
    engine.run(lambda tx: tx.patch(tasks[0], {"title": "t9"}))
    span = encode_value("t0"), encode_value("t0") + b"\xff"
    with engine.begin(before) as then, engine.begin() as now:
        assert (then.count("tasks", "by_text", *span), now.count("tasks", "by_text", *span)) == (4, 3)
        now.patch(tasks[3], {"title": "t9"})
        assert now.count("tasks", "by_text", *span) == 2, "with a write of its own"


@pytest.mark.parametrize("number", ["its own", "another"])
def test_a_renamed_table_is_replaced_and_dropped_as_any_other(
    engine: Engine, tasks: list[Id], define: Any, number: str
) -> None:
    engine.define(retitled(define))
    table = engine.catalog.table("tasks")
    assert table is not None
    rows = b'{"_id":"%b","title":"t0","rank":0}\n' % str(tasks[0]).encode() + b'{"title":"new","rank":99}'
    replacement = Import(engine, "replace", [Wanted("tasks", table.number if number == "its own" else None)])
    replacement.load("tasks", rows if number == "its own" else rows.split(b"\n")[1])
    replacement.finish()
    assert everything(engine)[-1] == {"title": "new", "rank": 99}
    for left in leftovers(engine):
        purge(engine, left)
    drop_table(engine, "tasks")
    for left in leftovers(engine):
        purge(engine, left)
    assert everything(engine) == []


def test_documents_written_while_it_is_deployed_are_renamed_too(engine: Engine, tasks: list[Id], define: Any) -> None:
    steps = engine.apply_definitions([retitled(define)])
    next(steps)
    engine.run(lambda tx: tx.insert("tasks", {"text": "new", "rank": 99}))
    for _ in steps:
        pass
    assert {"title": "new", "rank": 99} in everything(engine)
    assert all("text" not in row for row in everything(engine))


def test_live_queries_of_the_table_are_woken(engine: Engine, tasks: list[Id], define: Any) -> None:
    reads = []
    for read in (lambda tx: list(tx.scan("tasks", "by_rank")), lambda tx: tx.get(tasks[0])):
        with engine.begin() as tx:
            read(tx)
            reads.append((tx.reads, tx.begin_ts))
    engine.define(retitled(define))
    assert all(engine.write_log.first_hit(seen, ts) is not None for seen, ts in reads)


def test_a_document_that_has_the_new_field_already_is_named(engine: Engine, define: Any) -> None:
    engine.run(lambda tx: tx.insert("tasks", {"text": "a"}))
    bad = engine.run(lambda tx: tx.insert("tasks", {"text": "b", "title": "both"}))[0]
    with pytest.raises(ValidationError, match="nothing was changed") as refused:
        engine.define(replace(define("tasks", {"title": "string"}), renamed_fields={"text": "title"}))
    assert bad in str(refused.value)
    assert everything(engine) == [{"text": "a"}, {"text": "b", "title": "both"}]


def test_a_new_index_over_a_field_being_renamed_comes_after_it(engine: Engine, tasks: list[Id], define: Any) -> None:
    with pytest.raises(ValidationError, match="deploy the rename first"):
        engine.define(retitled(define, by_title="title"))
    engine.define(retitled(define))
    engine.define(retitled(define, by_title="title"))
    with engine.begin() as tx:
        assert tx.count("tasks", "by_title") == 12


def renamed(define: Any, **more: Any) -> TableDefinition:
    made = define("todos", {"text": "string", "rank": "int", "note?": "string"}, by_text="text,rank!", by_rank="rank")
    return replace(made, renamed_from="tasks", **more)


def test_a_table_is_renamed_with_its_documents_ids_and_indexes(engine: Engine, tasks: list[Id], define: Any) -> None:
    before, old = engine.published_ts, engine.catalog.table("tasks")
    report = engine.define(renamed(define))["tables"]["todos"]
    assert report["renamed_from"] == "tasks"
    assert not report["created"]
    new = engine.catalog.table("todos")
    assert old is not None
    assert new is not None
    assert engine.catalog.table("tasks") is None
    assert (new.number, new.indexes["by_text"].number) == (old.number, old.indexes["by_text"].number)
    assert [row["rank"] for row in everything(engine, "todos")] == list(range(12))
    assert everything(engine) == []
    assert len(everything(engine, "tasks", before)) == 12, "then it bore the old name"
    with engine.begin() as tx:
        found = tx.get(tasks[3])
        assert found is not None
        assert type(found["_id"]) is Id["todos"]
    assert "renamed_from" not in engine.define(renamed(define))["tables"]["todos"], "it is done once"


def test_references_go_on_meaning_the_renamed_table(engine: Engine, tasks: list[Id], define: Any) -> None:
    of_task = {"type": {"type": "array", "items": {"type": "id", "table": "tasks"}}, "optional": False}
    engine.define(TableDefinition("lists", {"type": "object", "fields": {"tasks": of_task}}))
    engine.run(lambda tx: tx.insert("lists", {"tasks": tasks[:2]}))
    engine.define(renamed(define))
    engine.run(lambda tx: tx.insert("lists", {"tasks": [str(id) for id in tasks[2:4]]}))
    with pytest.raises(ValidationError, match="an id of table 'todos'"):
        engine.run(lambda tx: tx.insert("lists", {"tasks": [tx.insert("others", {})]}))


def test_references_from_before_it_was_replaced_go_on_meaning_it_too(
    engine: Engine, tasks: list[Id], define: Any
) -> None:
    schema = {"type": "object", "fields": {"task": {"type": {"type": "id", "table": "tasks"}, "optional": False}}}
    engine.define(TableDefinition("notes", schema))
    note = engine.run(lambda tx: tx.insert("notes", {"task": tasks[0]}))[0]
    replacement = Import(engine, "replace", [Wanted("tasks")])
    replacement.load("tasks", b'{"text":"new","rank":0}')
    replacement.finish()
    engine.define(replace(define("todos", {"text": "string", "rank": "int"}), renamed_from="tasks"))
    engine.run(lambda tx: tx.patch(note, {"task": str(tasks[1])}))
    assert everything(engine, "notes") == [{"task": tasks[1]}]
    assert list(engine.check()) == []


def test_a_table_may_refer_to_itself_by_its_new_name(engine: Engine, define: Any) -> None:
    def of(table: str, **more: Any) -> TableDefinition:
        parent = {"type": {"type": "id", "table": table}, "optional": True}
        return TableDefinition(table, {"type": "object", "fields": {"parent": parent, **more}})

    engine.define(of("tasks"))
    root = engine.run(lambda tx: tx.insert("tasks", {}))[0]
    engine.run(lambda tx: tx.insert("tasks", {"parent": root}))
    engine.define(replace(of("todos", note={**STRING, "optional": True}), renamed_from="tasks"))
    engine.run(lambda tx: tx.insert("todos", {"parent": str(root), "note": "x"}))
    assert len(everything(engine, "todos")) == 3


def test_both_at_once_and_queries_by_either_name_wake(engine: Engine, tasks: list[Id], define: Any) -> None:
    reads = []
    for name in ("tasks", "todos"):
        with engine.begin() as tx:
            list(tx.scan(name))
            reads.append((tx.reads, tx.begin_ts))
    made = define("todos", {"title": "string", "rank": "int", "note?": "string"}, by_text="title,rank!", by_rank="rank")
    engine.define(replace(made, renamed_from="tasks", renamed_fields={"text": "title"}))
    assert everything(engine, "todos")[0] == {"title": "t0", "rank": 0}
    assert all(engine.write_log.first_hit(seen, ts) is not None for seen, ts in reads)


def test_a_name_that_is_taken_refuses_the_rename(engine: Engine, tasks: list[Id], define: Any) -> None:
    engine.run(lambda tx: tx.insert("todos", {"text": "x", "rank": 1}))
    with pytest.raises(ValidationError, match="'tasks' cannot be renamed to 'todos', nothing was changed: both exist"):
        engine.define(renamed(define))
    assert len(everything(engine)) == 12


def test_a_table_of_the_new_name_that_appears_meanwhile_refuses_it(
    engine: Engine, tasks: list[Id], define: Any
) -> None:
    stricter = define("todos", {"text": "string", "rank": "int"}, by_text="text,rank!", by_rank="rank")
    steps = engine.apply_definitions([replace(stricter, renamed_from="tasks")])
    assert next(steps)["step"] == "check"
    engine.run(lambda tx: tx.insert("todos", {"text": "x", "rank": 1}))
    with pytest.raises(ValidationError, match="both exist"):
        list(steps)
    assert (len(everything(engine)), len(everything(engine, "todos"))) == (12, 1)


def test_classes_spell_renames() -> None:
    class Todo(cs.Table, name="todos", renamed_from="tasks", renamed_fields={"text": "title"}):
        title: str

    definition = Todo.__cellstore__
    assert (definition.renamed_from, definition.renamed_fields) == ("tasks", {"text": "title"})
    assert TableDefinition.from_json(definition.to_json()) == definition
    assert "renamed_from" not in replace(definition, renamed_from=None).to_json()


@pytest.mark.parametrize(
    ("renames", "message"),
    [
        ({"renamed_from": "todos"}, "its own name"),
        ({"renamed_from": "_tasks"}, "leading _"),
        ({"renamed_fields": {"text": "headline"}}, "'headline', which the table does not declare"),
        ({"renamed_fields": {"rank": "title"}}, "declared still"),
        ({"renamed_fields": {"a": "title", "b": "title"}}, "two fields are renamed to one"),
        ({"renamed_fields": ["text"]}, "a dict of old to new names"),
    ],
)
def test_a_rename_that_makes_no_sense_is_refused_where_it_stands(renames: dict[str, Any], message: str) -> None:
    with pytest.raises(DeployError, match=message):

        class Todo(cs.Table, name="todos", **renames):
            title: str
            rank: int
