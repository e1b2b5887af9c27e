"""Imports: ids are kept, replacing is one moment for everybody, what is in the way is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cellstore.errors import CallerError, ConflictError, LimitExceeded, NotFound, ValidationError
from cellstore.knobs import Knobs
from cellstore.transaction import catalog, importing
from cellstore.transaction.access import DatabaseReader
from cellstore.transaction.catalog import FIRST_TABLE, TABLES_END
from cellstore.transaction.database import Engine
from cellstore.transaction.hidden import drop_table, leftovers, purge
from cellstore.transaction.importing import Import, Wanted
from cellstore.values.ids import encode_id
from cellstore.values.json import dumps

NUMBER, LAST = 10_044, TABLES_END - 1


def id_of(n: int, number: int = NUMBER) -> str:
    return encode_id(number, n.to_bytes(16, "big"))


def lines(*rows: dict[str, Any]) -> bytes:
    return b"\n".join(map(dumps, rows))


def rows_of(engine: Engine, table: str, ts: int | None = None) -> list[dict[str, Any]]:
    with engine.begin(ts) as transaction:
        return [dict(document) for document in DatabaseReader(transaction).query(table)]


def texts(engine: Engine, table: str, ts: int | None = None) -> list[Any]:
    return [row["text"] for row in rows_of(engine, table, ts)]


def imported(engine: Engine, mode: str, table: str, *rows: dict[str, Any], number: int | None = None) -> dict[str, Any]:
    running = Import(engine, mode, [Wanted(table, number)])
    running.load(table, lines(*rows))
    return running.finish()


def test_ids_and_creation_times_are_kept_and_the_table_gets_their_number(engine: Engine) -> None:
    kept = {"_id": id_of(7), "text": "a", "_creationTime": 12.5}
    report = imported(engine, "fail", "notes", kept, {"text": "new"}, number=NUMBER)
    assert report["tables"] == {"notes": {"documents": 2, "number": NUMBER}}
    first, second = rows_of(engine, "notes")
    assert first == kept
    assert second["text"] == "new"
    assert engine.catalog.table("notes").number == NUMBER


def test_an_empty_table_takes_the_number_of_the_ids_and_keeps_its_definition(engine: Engine, define: Any) -> None:
    engine.define(define("notes", {"text": "string"}, by_text="text"))
    imported(engine, "fail", "notes", {"_id": id_of(1), "text": "a"}, number=NUMBER)
    with engine.begin() as transaction:
        found = DatabaseReader(transaction).query("notes").with_index("by_text", text="a").unique()
    assert found is not None
    assert found["_id"] == id_of(1)
    with pytest.raises(ValidationError, match=r"notes\.text: expected str"):
        engine.run(lambda transaction: transaction.insert("notes", {"text": 1}))


def test_a_table_with_documents_is_refused_unless_the_mode_says_what_to_do(engine: Engine) -> None:
    imported(engine, "fail", "notes", {"text": "a"})
    with pytest.raises(CallerError, match="mode='append' to add to them, or with mode='replace'"):
        Import(engine, "fail", [Wanted("notes")])
    imported(engine, "append", "notes", {"text": "b"})
    assert texts(engine, "notes") == ["a", "b"]


# ── numbers that are taken ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", ["fail", "append", "replace"])
def test_where_another_table_has_the_number_ids_are_renumbered(engine: Engine, mode: str) -> None:
    imported(engine, "fail", "notes", {"_id": id_of(1), "text": "a"}, number=NUMBER)
    for _ in range(2 if mode == "replace" else 1):  # again, and the ids are the same
        report = imported(engine, mode, "tasks", {"_id": id_of(1), "text": "b"}, number=NUMBER)
        told = report["tables"]["tasks"]
        assert (told["number"], told["renumbered_from"]) == (NUMBER + 1, NUMBER)
        assert [(row["_id"], row["text"]) for row in rows_of(engine, "tasks")] == [(id_of(1, NUMBER + 1), "b")]
        assert [(row["_id"], row["text"]) for row in rows_of(engine, "notes")] == [(id_of(1), "a")]


@pytest.mark.parametrize("mode", ["fail", "append", "replace"])
def test_references_inside_of_an_import_follow_its_renumbered_ids(engine: Engine, define: Any, mode: str) -> None:
    engine.run(lambda transaction: transaction.insert("here", {}))
    engine.define(define("posts", {"author": "id of users", "more": "any"}))
    running = Import(engine, mode, [Wanted("posts", 10_050), Wanted("users", 10_001)])
    ann, bob = id_of(1, 10_001), id_of(2, 10_001)
    other, word = id_of(1, 10_050), "0" * 32
    running.load("users", lines({"_id": ann}, {"_id": bob, "friend": ann}))
    running.load("posts", lines({"author": ann, "more": {"likes": [{bob: [ann, bob]}], "of": other, "word": word}}))
    number = running.finish()["tables"]["users"]["number"]
    assert number not in (10_001, 10_050)
    ann, bob = id_of(1, number), id_of(2, number)
    assert [(row["_id"], row.get("friend")) for row in rows_of(engine, "users")] == [(ann, None), (bob, ann)]
    (post,) = rows_of(engine, "posts")
    assert (post["author"], post["more"]) == (ann, {"likes": [{bob: [ann, bob]}], "of": other, "word": word})


@pytest.mark.parametrize("form", ["with ids", "without", "a schema", "another mode"])
def test_references_of_a_later_import_follow_what_was_renumbered_before(engine: Engine, define: Any, form: str) -> None:
    ours = engine.run(lambda transaction: transaction.insert("here", {}))[0]
    if form == "a schema":
        engine.define(define("posts", {"author": "id of users", "of": "any"}))
    ann, gone = id_of(1, 10_001), id_of(3, 10_001)
    number = imported(engine, "fail", "users", {"_id": ann}, number=10_001)["tables"]["users"]["number"]
    post = {"author": ann, "of": {"list": [ours], ann: [gone] if form == "with ids" else []}}
    if form == "without":
        report = imported(engine, "fail", "posts", post)
    else:
        mode = "replace" if form == "another mode" else "fail"
        report = imported(engine, mode, "posts", {"_id": id_of(9), **post}, number=NUMBER)
    (found,) = rows_of(engine, "posts")
    assert found["author"] == id_of(1, number)
    assert found["of"] == {"list": [ours], id_of(1, number): post["of"][ann]}, "an id of this store stays one"
    told = report["tables"]["posts"].get("dangling")
    assert told == ({"count": 1, "first": gone} if form == "with ids" else None)


def test_references_to_documents_that_are_not_here_are_told(engine: Engine) -> None:
    ann, bob = id_of(1, 10_090), id_of(2, 10_091)
    engine.run(lambda transaction: transaction.insert("dropped", {}))
    old = id_of(1, engine.catalog.table("dropped").number)  # type: ignore[union-attr]
    drop_table(engine, "dropped")
    rows = [{"_id": id_of(n), "author": ann, "more": [{bob: old}, id_of(n), "0" * 32]} for n in range(2)]
    report = imported(engine, "fail", "posts", *rows, number=NUMBER)
    assert report["tables"]["posts"]["dangling"] == {"count": 6, "first": ann}
    assert [row["author"] for row in rows_of(engine, "posts")] == [ann, ann]
    imported(engine, "fail", "users", {"_id": ann}, number=10_090)  # it comes later, and has its number
    assert imported(engine, "append", "posts", {"author": ann})["tables"]["posts"].get("dangling") is None
    wrong = id_of(7, 10_090)  # the number is another table's here than where it comes from
    told = imported(engine, "append", "posts", {"author": wrong})["tables"]["posts"]["dangling"]
    assert told == {"count": 1, "first": wrong}


def test_ids_that_come_behind_documents_without_one_are_here(engine: Engine) -> None:
    imported(engine, "fail", "notes", {"text": "a"})
    first, second = (id_of(n, engine.catalog.table("notes").number) for n in range(2))  # type: ignore[union-attr]
    rows = [{"text": "b"}, {"_id": first, "next": second, "text": "c"}, {"_id": second, "text": "d"}]
    assert "dangling" not in imported(engine, "append", "notes", *rows)["tables"]["notes"]
    assert texts(engine, "notes") == ["a", "b", "c", "d"]


def test_documents_are_added_to_a_table_of_another_number(engine: Engine) -> None:
    imported(engine, "fail", "notes", {"text": "a"})
    report = imported(engine, "append", "notes", {"_id": id_of(1), "text": "b"}, {"text": "c"}, number=NUMBER)
    assert report["tables"]["notes"] == {"documents": 2, "number": 10_001, "renumbered_from": NUMBER}
    assert texts(engine, "notes") == ["a", "b", "c"]
    assert rows_of(engine, "notes")[1]["_id"] == id_of(1, 10_001)
    with pytest.raises(ValidationError, match="there is a document"):
        imported(engine, "append", "notes", {"_id": id_of(1), "text": "b"}, number=NUMBER)


@pytest.mark.parametrize("mode", ["fail", "append", "replace"])
def test_a_dropped_table_gives_its_number_up(engine: Engine, mode: str) -> None:
    imported(engine, "fail", "notes", {"_id": id_of(1), "text": "old"}, {"_id": id_of(2), "text": "old"}, number=NUMBER)
    before = engine.published_ts
    drop_table(engine, "notes")
    with engine.begin() as transaction:
        assert transaction.get(id_of(1)) is None
        reads, begun = transaction.reads, transaction.begin_ts
    report = imported(engine, mode, "tasks", {"_id": id_of(1), "text": "new"}, number=NUMBER)
    assert report["tables"] == {"tasks": {"documents": 1, "number": NUMBER}}
    assert (texts(engine, "tasks"), texts(engine, "notes"), leftovers(engine)) == (["new"], [], [])
    assert engine.write_log.first_hit(reads, begun) is not None, "who looked for that id is woken"
    assert (texts(engine, "notes", before), texts(engine, "tasks", before)) == (["old", "old"], [])


@pytest.mark.parametrize("meant", ["a schema has ids of it", "there is one of its name again"])
def test_a_number_that_still_means_a_dropped_table_is_not_taken(engine: Engine, define: Any, meant: str) -> None:
    imported(engine, "fail", "users", {"_id": id_of(1)}, number=NUMBER)
    drop_table(engine, "users")
    if meant == "a schema has ids of it":
        engine.define(define("posts", {"author": "id of users"}))
    else:
        imported(engine, "fail", "users", {"_id": id_of(1, NUMBER + 1)}, number=NUMBER + 1)
    report = imported(engine, "fail", "tasks", {"_id": id_of(1)}, number=NUMBER)
    assert report["tables"]["tasks"]["renumbered_from"] == NUMBER
    engine.run(lambda transaction: transaction.insert("posts", {"author": id_of(1)}))
    assert list(engine.check()) == []


def test_a_high_number_leaves_those_below_it_to_others(engine: Engine, define: Any) -> None:
    imported(engine, "fail", "notes", {"_id": id_of(1, LAST), "text": "a"}, number=LAST)
    engine.run(lambda transaction: transaction.insert("tasks", {"text": "b"}))
    engine.define(define("more", {"text": "string"}, by_text="text"))
    running = Import(engine, "fail", [Wanted("ones", FIRST_TABLE + 3), Wanted("news"), Wanted("taken", LAST)])
    assert running.finish()["tables"]["ones"]["number"] == FIRST_TABLE + 3
    numbers = {table.name: table.number - FIRST_TABLE for table in engine.catalog.user_tables()}
    assert numbers == {"notes": LAST - FIRST_TABLE, "tasks": 0, "more": 1, "ones": 3, "taken": 2, "news": 4}
    assert (texts(engine, "notes"), texts(engine, "tasks")) == (["a"], ["b"])


def test_an_id_that_is_there_already_is_named_by_its_row(engine: Engine) -> None:
    imported(engine, "fail", "notes", {"_id": id_of(1), "text": "a"}, number=NUMBER)
    running = Import(engine, "append", [Wanted("notes", NUMBER)])
    with pytest.raises(ValidationError, match=r"row 21: there is a document .* in table 'notes' already"):
        running.load("notes", lines({"_id": id_of(2), "text": "b"}, {"_id": id_of(1), "text": "c"}), first_row=20)
    assert texts(engine, "notes") == ["a"]


# ── replacing ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", [None, NUMBER], ids=["new ids", "ids of another number"])
def test_replacing_is_one_moment_for_readers_by_name_and_by_id(engine: Engine, number: int | None) -> None:
    old = engine.run(lambda transaction: transaction.insert("notes", {"text": "old"}))[0]
    with engine.begin() as transaction:
        DatabaseReader(transaction).query("notes").collect()
        by_name = transaction.reads
    with engine.begin() as transaction:
        transaction.get(old)
        by_id = transaction.reads
    before = engine.published_ts
    running = Import(engine, "replace", [Wanted("notes", number)])
    running.load("notes", lines({"text": "new", **({"_id": id_of(3)} if number else {})}))
    assert texts(engine, "notes") == ["old"]
    assert engine.write_log.first_hit(by_name, before) is None

    switch = running.finish()["ts"]
    assert [engine.write_log.first_hit(reads, before) for reads in (by_name, by_id)] == [switch, switch]
    assert texts(engine, "notes") == ["new"]
    assert texts(engine, "notes", before) == ["old"]
    with engine.begin() as transaction:
        assert transaction.get(old) is None


def test_documents_on_their_way_in_cannot_be_got_by_id(engine: Engine) -> None:
    running = Import(engine, "replace", [Wanted("notes", NUMBER)])
    running.load("notes", lines({"_id": id_of(1), "text": "a"}))
    with engine.begin() as transaction:
        assert transaction.get(id_of(1)) is None
        reads = transaction.reads
    before = engine.published_ts
    switch = running.finish()["ts"]
    assert engine.write_log.first_hit(reads, before) == switch


def test_replacing_under_the_same_ids_touches_only_what_differs(engine: Engine) -> None:
    same, changed, gone, new = (
        {"_id": id_of(n), "text": text, "_creationTime": float(n)} for n, text in enumerate(("same", "b", "c", "d"))
    )
    imported(engine, "fail", "notes", same, changed, gone, number=NUMBER)
    with engine.begin() as transaction:
        transaction.get(same["_id"])
        reads = transaction.reads
    before = engine.published_ts
    report = imported(engine, "replace", "notes", same, {**changed, "text": "B"}, new, number=NUMBER)
    assert report["tables"]["notes"] == {"documents": 3, "number": NUMBER, "changed": 3}
    assert texts(engine, "notes") == ["same", "B", "d"]
    assert engine.write_log.first_hit(reads, before) is None


def test_what_is_written_while_a_replacement_comes_in_is_replaced_too(engine: Engine) -> None:
    imported(engine, "fail", "notes", {"_id": id_of(1), "text": "a"}, number=NUMBER)
    running = Import(engine, "replace", [Wanted("notes", NUMBER)])
    running.load("notes", lines({"_id": id_of(1), "text": "a"}))
    engine.run(lambda transaction: transaction.patch(id_of(1), {"text": "meanwhile"}))
    running.finish()
    assert texts(engine, "notes") == ["a"]


def test_a_write_that_began_before_the_switch_is_run_again_and_misses(engine: Engine) -> None:
    old = engine.run(lambda transaction: transaction.insert("notes", {"text": "old"}))[0]
    with engine.begin() as transaction:
        transaction.patch(old, {"text": "patched"})
        request = transaction.freeze()
        imported(engine, "replace", "notes", {"text": "new"})
        assert isinstance(engine.commit([request])[0], ConflictError)
    with pytest.raises(NotFound, match="there is no document"):
        engine.run(lambda transaction: transaction.patch(old, {"text": "patched"}))


def test_an_empty_table_is_replaced_in_one_moment_too(engine: Engine, define: Any) -> None:
    engine.define(define("notes", {"text": "string"}))
    number = engine.catalog.table("notes").number
    running = Import(engine, "replace", [Wanted("notes", number)])
    running.load("notes", lines({"_id": id_of(1, number), "text": "a"}))
    assert texts(engine, "notes") == []
    running.finish()
    assert rows_of(engine, "notes")[0]["_id"] == id_of(1, number)


def test_several_tables_and_the_references_between_them_are_replaced_at_once(engine: Engine, define: Any) -> None:
    users, posts = define("users", {"text": "string"}), define("posts", {"text": "string"})
    posts.fields["fields"]["author"] = {"type": {"type": "id", "table": "users"}, "optional": False}
    engine.define(users, posts)
    imported(engine, "fail", "users", {"text": "old"})
    running = Import(engine, "replace", [Wanted("users", 10_050), Wanted("posts", 10_051)])
    running.load("posts", lines({"_id": id_of(1, 10_051), "text": "p", "author": id_of(2, 10_050)}))
    running.load("users", lines({"_id": id_of(2, 10_050), "text": "u"}))
    assert (texts(engine, "users"), texts(engine, "posts")) == (["old"], [])
    switch = running.finish()["ts"]
    assert (texts(engine, "users", switch), texts(engine, "posts", switch)) == (["u"], ["p"])


def test_references_to_documents_that_were_replaced_are_still_ids_of_their_table(engine: Engine, define: Any) -> None:
    posts = define("posts", {"text": "string"})
    posts.fields["fields"]["author"] = {"type": {"type": "id", "table": "users"}, "optional": False}
    user = engine.run(lambda transaction: transaction.insert("users", {"text": "u"}))[0]
    engine.define(posts)
    post = engine.run(lambda transaction: transaction.insert("posts", {"text": "p", "author": user}))[0]
    imported(engine, "replace", "users", {"text": "new"})
    engine.run(lambda transaction: transaction.patch(post, {"text": "dangling, and legal"}))
    assert texts(engine, "posts") == ["dangling, and legal"]


# ── refusals ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", [None, NUMBER], ids=["switch", "merge"])
def test_a_row_that_does_not_fit_is_named_and_nothing_is_replaced(
    engine: Engine, define: Any, number: int | None
) -> None:
    engine.define(define("notes", {"text": "string"}))
    imported(engine, "fail", "notes", {"_id": id_of(1), "text": "old"}, number=NUMBER)
    running = Import(engine, "replace", [Wanted("notes", number)])
    running.load("notes", lines({"text": "new"}))
    with pytest.raises(ValidationError, match=r"^row 1: notes\.text: expected str, got int 5"):
        running.load("notes", lines({"text": "new"}, {"text": 5}))
    assert texts(engine, "notes") == ["old"]


def test_unique_indexes_hold_inside_of_what_comes_in(engine: Engine, define: Any) -> None:
    engine.define(define("notes", {"text": "string"}, by_text="text!"))
    imported(engine, "fail", "notes", {"_id": id_of(1), "text": "a"}, number=NUMBER)
    running = Import(engine, "replace", [Wanted("notes", NUMBER)])
    running.load("notes", lines({"_id": id_of(2), "text": "a"}))  # what is there now does not count
    with pytest.raises(ValidationError, match=r"row 0: the index notes\.by_text is unique"):
        running.load("notes", lines({"_id": id_of(3), "text": "a"}))


def test_names_that_changed_places_while_documents_came_in_are_noticed(engine: Engine, define: Any) -> None:
    def declare(*names: str, **renamed: str) -> None:
        engine.define(replace(define("notes", {f"{name}?": "int" for name in names}), renamed_fields=renamed))

    declare("a", "b")
    imported(engine, "fail", "notes", {"_id": id_of(1), "a": 1, "b": 2}, number=NUMBER)
    running = Import(engine, "replace", [Wanted("notes", NUMBER)])
    running.load("notes", lines({"_id": id_of(1), "a": 3, "b": 4}))
    declare("b", "c", a="c")
    declare("a", "c", b="a")
    declare("a", "b", c="b")
    with pytest.raises(CallerError, match="was redefined while its documents came in"):
        running.finish()
    with engine.begin() as tx:
        assert [(row["a"], row["b"]) for _, row in tx.scan("notes")] == [(2, 1)]


def test_a_table_redefined_while_its_documents_come_in_is_not_replaced(engine: Engine, define: Any) -> None:
    imported(engine, "fail", "notes", {"text": "old"})
    running = Import(engine, "replace", [Wanted("notes")])
    running.load("notes", lines({"text": "new"}))
    engine.define(define("notes", {"text": "string"}, by_text="text"))
    with pytest.raises(CallerError, match="'notes' was redefined while its documents came in, nothing was replaced"):
        running.finish()
    assert texts(engine, "notes") == ["old"]


def test_one_commit_holds_only_so_many_differences() -> None:
    with Engine.memory(knobs=Knobs(import_changes_max=2)) as engine:
        olds = [{"_id": id_of(n), "text": "old"} for n in range(3)]
        imported(engine, "fail", "notes", *olds, number=NUMBER)
        with pytest.raises(LimitExceeded, match=r"more than 2 differ.*nothing was replaced.*import_changes_max"):
            imported(engine, "replace", "notes", *[{**old, "text": "new"} for old in olds], number=NUMBER)
        assert texts(engine, "notes") == ["old"] * 3
        imported(engine, "replace", "notes", *[{"text": "new"}] * 5)  # under new ids there is no limit
        assert texts(engine, "notes") == ["new"] * 5


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"_id": "nonsense"}, "is not a document id"),
        ({"_id": id_of(1, 10_045)}, f"expected an id of the table number {NUMBER}"),
        ({"_creationTime": "today"}, r"notes\._creationTime: expected milliseconds"),
        ({"_creationTime": True}, r"notes\._creationTime: expected milliseconds"),
        ([1], "expected a document"),
    ],
)
def test_system_fields_are_checked(engine: Engine, row: Any, message: str) -> None:
    running = Import(engine, "fail", [Wanted("notes", NUMBER)])
    with pytest.raises(ValidationError, match=message):
        running.load("notes", lines({"_id": id_of(9)}, row))
    assert rows_of(engine, "notes") == []


# ── what is left ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_was_replaced_is_purged_and_its_number_can_come_back(engine: Engine) -> None:
    imported(engine, "fail", "notes", {"_id": id_of(1), "text": "first"}, number=NUMBER)
    imported(engine, "replace", "notes", {"text": "second"})
    assert leftovers(engine) == [NUMBER]
    assert purge(engine, NUMBER) == 1
    assert leftovers(engine) == []
    imported(engine, "replace", "notes", {"_id": id_of(1), "text": "again"}, number=NUMBER)
    assert rows_of(engine, "notes")[0]["_id"] == id_of(1)
    assert engine.catalog.table("notes").number == NUMBER


def test_what_an_import_that_never_ended_left_is_in_nobodys_way(engine: Engine) -> None:
    Import(engine, "replace", [Wanted("notes", NUMBER)]).load("notes", lines({"_id": id_of(1), "text": "a"}))
    assert leftovers(engine) == [NUMBER]
    assert [table.name for table in engine.catalog.user_tables()] == []
    imported(engine, "replace", "notes", {"_id": id_of(1), "text": "b"}, number=NUMBER)
    assert texts(engine, "notes") == ["b"]
    assert leftovers(engine) == []


def test_a_table_being_filled_loses_nothing_to_another_import_that_wants_its_number(engine: Engine) -> None:
    running = Import(engine, "replace", [Wanted("notes", NUMBER)])
    running.load("notes", lines({"text": "a"}))
    assert imported(engine, "replace", "tasks", {"text": "b"}, number=NUMBER)["tables"]["tasks"]["number"] == NUMBER + 1
    running.finish()
    assert (texts(engine, "notes"), texts(engine, "tasks")) == (["a"], ["b"])


def test_no_table_gets_a_number_whose_indexes_would_be_somebody_elses(
    engine: Engine, define: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "TABLES_END", FIRST_TABLE + 2)
    monkeypatch.setattr(importing, "TABLES_END", FIRST_TABLE + 2)
    imported(engine, "fail", "notes", {"text": "a"}, number=FIRST_TABLE + 1)
    engine.run(lambda tx: tx.insert("tasks", {"text": "b"}))
    for more in (
        lambda: engine.run(lambda tx: tx.insert("more", {"text": "b"})),
        lambda: engine.define(define("more", {"text": "string"}, by_text="text")),
        lambda: Import(engine, "fail", [Wanted("more", FIRST_TABLE)]),
    ):
        with pytest.raises(LimitExceeded, match="table numbers"):
            more()
    with pytest.raises(ValidationError, match="expected table numbers of 10001 to 10002"):
        Import(engine, "fail", [Wanted("more", FIRST_TABLE + 2)])
    assert (texts(engine, "notes"), texts(engine, "tasks")) == (["a"], ["b"])
