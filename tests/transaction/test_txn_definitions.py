"""Tables, schemas and indexes that change behind live traffic, and bulk inserts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from cellstore.errors import NotFound, OutOfRetention, ValidationError
from cellstore.schema.definition import IndexDefinition, TableDefinition
from cellstore.transaction import backfill
from cellstore.transaction.access import DatabaseReader
from cellstore.transaction.bulk import prepare_bulk
from cellstore.transaction.catalog import Catalog, TableMeta
from cellstore.transaction.database import Engine
from cellstore.transaction.transaction import Transaction
from cellstore.transaction.worker_store import WorkerStore


def fill(engine: Engine, count: int = 1000) -> list[str]:
    return engine.run(lambda tx: [tx.insert("t", {"n": n, "m": n % 7}) for n in range(count)])[0]


def order(engine: Engine, index: str) -> list[int]:
    with engine.begin() as tx:
        return [document["n"] for document in DatabaseReader(tx).query("t").with_index(index)]


def run_with(steps: Any, between: Any) -> Any:
    """Pull every step, doing something in between; the report."""
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            return end.value
        between(step)


def test_an_index_on_an_empty_table_is_there_at_once(engine: Engine, define: Any) -> None:
    assert list(engine.apply_definitions([define("t", by_n="n")])) == []
    assert order(engine, "by_n") == []


def test_an_earlier_moment_says_that_its_index_is_gone_since(engine: Engine, define: Any) -> None:
    """Not that it is still being built, which is true of its successor then: who asks again at a newer moment is served."""
    engine.define(define("t", by_it="n"))
    fill(engine, 5)
    before = engine.published_ts
    engine.define(define("t", by_it="m"))
    with engine.begin(before) as tx, pytest.raises(OutOfRetention, match="by_it of that moment is gone since"):
        DatabaseReader(tx).query("t").with_index("by_it").first()


def test_nothing_to_change_commits_nothing(engine: Engine, define: Any) -> None:
    definition = define("t", {"n": "int", "m": "int"}, by_n="n")
    report = engine.define(definition)
    assert report["tables"]["t"]["created"]
    before = engine.published_ts
    report = engine.define(definition)
    assert engine.published_ts == before
    assert report["tables"]["t"] == {
        "created": False,
        "schema_changed": False,
        "documents_checked": 0,
        "indexes_added": [],
        "indexes_dropped": [],
    }


def test_an_index_is_built_behind_live_traffic(engine: Engine, define: Any) -> None:
    ids = fill(engine)
    live = iter(range(10_000))

    def write(step: Any) -> None:
        at = next(live)
        with engine.begin() as tx, pytest.raises(NotFound) as caught:
            DatabaseReader(tx).query("t").with_index("by_n").collect()
        assert caught.value.code in ("IndexBackfilling", "IndexNotFound")
        engine.run(lambda tx: tx.patch(ids[at], {"n": -at}))  # perhaps built already
        engine.run(lambda tx: tx.patch(ids[-at - 1], {"n": 5000 + at}))  # perhaps not yet
        engine.run(lambda tx: tx.delete(ids[500 + at]))
        engine.run(lambda tx: tx.insert("t", {"n": 9000 + at}))

    report = run_with(engine.apply_definitions([define("t", by_n="n")]), write)
    assert next(live) > 3
    assert report["tables"]["t"]["indexes_added"] == ["by_n"]
    with engine.begin() as tx:
        expected = sorted(document["n"] for _, document in tx.scan("t"))
        assert tx.count("t", "by_n") == len(expected)
    assert order(engine, "by_n") == expected


def test_how_far_a_backfill_is_can_be_watched(engine: Engine, define: Any) -> None:
    from cellstore.server.control import _describe_tables

    def told() -> dict[str, Any]:
        return {
            name: index for name, index in _describe_tables(engine)[0]["indexes"].items() if index["state"] != "enabled"
        }

    fill(engine, 600)
    engine.define(define("t", by_n="n"))
    seen, steps = [], []
    for step in engine.apply_definitions([define("t", by_n="n,m", by_m="m")]):
        steps += [(step["documents"], step["of"])] if step["step"] == "backfill" else []
        seen.append(told())
    building = {"unique": False, "state": "backfilling", "documents": steps[0][0], "of": 600}
    assert seen[0] == {"by_n (new)": {"fields": ["n", "m"], **building}, "by_m": {"fields": ["m"], **building}}
    assert 0 < steps[0][0] < 100
    assert steps == sorted({*steps, (600, 600)})
    assert told() == {}
    assert _describe_tables(engine)[0]["indexes"]["by_n"]["fields"] == ["n", "m"]


@pytest.mark.parametrize(("entry_us", "largest"), [(10, 300), (1000, 16)])
def test_a_slice_of_a_backfill_takes_its_time_and_no_more(
    engine: Engine, define: Any, monkeypatch: pytest.MonkeyPatch, entry_us: int, largest: int
) -> None:
    fill(engine, 1500)
    now, put, slices = [0.0], engine.storage.put_entries, []

    def timed(index: int, entries: Any) -> None:
        put(index, entries)
        slices.append(len(entries))
        now[0] += len(entries) * entry_us * 1e-6

    monkeypatch.setattr(backfill, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(engine.storage, "put_entries", timed)
    engine.define(define("t", by_n="n"))
    assert (slices[0], max(slices), sum(slices)) == (16, largest, 1500)


def test_a_writer_who_does_not_know_the_new_index_runs_again(engine: Engine, define: Any) -> None:
    fill(engine, 10)
    with engine.begin() as tx:
        tx.insert("t", {"n": 77})
        request = tx.freeze()
    engine.define(define("t", by_n="n"))
    assert "redefined" in str(engine.commit([request])[0])


def test_a_document_that_does_not_fit_refuses_the_schema_and_nothing_changes(engine: Engine, define: Any) -> None:
    fill(engine, 300)
    bad = engine.run(lambda tx: tx.insert("t", {"n": "many", "m": 1}))[0]
    with pytest.raises(ValidationError, match=r"nothing was changed: document .* t\.n: expected int") as caught:
        engine.define(define("t", {"n": "int", "m": "int"}, by_n="n"))
    assert bad in str(caught.value)
    assert caught.value.path == "t.n"
    table = engine.catalog.table("t")
    assert table is not None
    assert table.schema is None
    assert set(table.indexes) == {"by_id", "by_creation_time"}
    engine.run(lambda tx: tx.patch(bad, {"n": 3}))
    engine.define(define("t", {"n": "int", "m": "int"}, by_n="n"))
    with pytest.raises(ValidationError, match=r"t\.n: expected int, got str"):
        engine.run(lambda tx: tx.insert("t", {"n": "many", "m": 1}))


def test_of_several_that_do_not_fit_the_oldest_is_named(engine: Engine, define: Any) -> None:
    ids = fill(engine, 700)
    for n in (600, 300, 301, 650):
        engine.run(lambda tx, n=n: tx.patch(ids[n], {"n": "bad"}))
    with pytest.raises(ValidationError, match="nothing was changed") as told:
        engine.define(define("t", {"n": "int", "m": "int"}))
    assert ids[300] in str(told.value)


def test_a_schema_that_only_allows_more_looks_at_no_document(engine: Engine, define: Any) -> None:
    fill(engine, 700)

    def checked(**fields: str) -> int:
        return int(engine.define(define("t", fields))["tables"]["t"]["documents_checked"])

    assert checked(n="int", m="any") == 700
    assert checked(n="int", m="any", **{"k?": "string"}) == 0
    assert checked(n="any", **{"m?": "any", "k?": "string"}) == 0
    assert checked(n="int", **{"m?": "any", "k?": "string"}) == 700
    with pytest.raises(ValidationError, match=r"t\.n: expected int"):
        engine.run(lambda tx: tx.insert("t", {"n": "x"}))


def test_a_schema_that_python_takes_for_equal_is_another(engine: Engine) -> None:
    def deployed(value: object) -> bool:
        fields = {"n": {"type": {"type": "literal", "value": value}, "optional": False}}
        report = engine.define(TableDefinition("t", {"type": "object", "fields": fields}))
        with pytest.raises(ValidationError, match=f"expected {value}, got"):
            engine.run(lambda tx: tx.insert("t", {"n": 2}))
        return bool(report["tables"]["t"]["schema_changed"])

    assert [deployed(value) for value in (1, 1, True, 1)] == [False, False, True, True]


def test_a_write_meanwhile_that_breaks_only_the_new_schema_fails_the_change(engine: Engine, define: Any) -> None:
    ids = fill(engine, 600)
    steps = engine.apply_definitions([define("t", {"n": "int", "m": "int"}, by_n="n")])
    while next(steps)["step"] != "backfill":
        pass
    engine.run(lambda tx: tx.patch(ids[0], {"n": 0.5}))
    with pytest.raises(ValidationError, match="cannot take the new schema"):
        list(steps)
    table = engine.catalog.table("t")
    assert table is not None
    assert table.schema is None
    assert "by_n" not in table.indexes


def test_a_write_at_the_last_moment_fails_the_change_too(
    engine: Engine, define: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cellstore.transaction import backfill

    ids, catch_up = fill(engine, 20), backfill._Watch.catch_up

    def and_then_another_thread(watch: Any) -> Any:
        yield from catch_up(watch)
        engine.run(lambda tx: tx.patch(ids[0], {"n": 0.5}))

    monkeypatch.setattr(backfill._Watch, "catch_up", and_then_another_thread)
    with pytest.raises(ValidationError, match="cannot take the new schema") as refused:
        engine.define(define("t", {"n": "int", "m": "int"}))
    assert ids[0] in str(refused.value)
    with engine.begin() as tx:
        assert tx.get(ids[0])["n"] == 0.5  # type: ignore[index]


def test_a_bad_document_that_was_mended_meanwhile_is_no_offender(engine: Engine, define: Any) -> None:
    ids = fill(engine, 600)
    steps = engine.apply_definitions([define("t", {"n": "int", "m": "int"})])
    next(steps)
    engine.run(lambda tx: tx.patch(ids[0], {"n": 0.5}))
    engine.run(lambda tx: tx.patch(ids[0], {"n": 1}))
    list(steps)
    assert engine.catalog.table("t").schema is not None  # type: ignore[union-attr]


def test_a_change_nobody_finishes_leaves_nothing(engine: Engine, define: Any) -> None:
    fill(engine, 600)
    steps = engine.apply_definitions([define("t", by_n="n")])
    next(steps)
    steps.close()
    assert set(engine.catalog.table("t").indexes) == {"by_id", "by_creation_time"}  # type: ignore[union-attr]
    engine.define(define("t", by_n="n"))
    assert order(engine, "by_n") == sorted(range(600))


def test_index_numbers_are_never_used_again(engine: Engine, define: Any) -> None:
    fill(engine, 10)
    numbers = []
    for fields in ("n", "m", "m,n", "n,m", "n"):
        engine.define(define("t", by_it=fields))
        numbers.append(engine.catalog.table("t").indexes["by_it"].number)  # type: ignore[union-attr]
        assert len(order(engine, "by_it")) == 10
    engine.define(define("t"))
    engine.define(define("t", by_it="n"))
    numbers.append(engine.catalog.table("t").indexes["by_it"].number)  # type: ignore[union-attr]
    assert numbers == sorted(set(numbers))
    assert len(list(engine.catalog.index_rows())) <= 3


def test_an_altered_index_stays_readable_until_the_new_one_is_built(engine: Engine, define: Any) -> None:
    fill(engine, 600)
    engine.define(define("t", by_it="n"))
    seen = []

    def read(step: Any) -> None:
        seen.append(order(engine, "by_it")[:3])

    run_with(engine.apply_definitions([define("t", by_it="m,n")]), read)
    assert seen[0] == [0, 1, 2]
    assert order(engine, "by_it")[:3] == [0, 7, 14]


def test_a_unique_index_over_doubles_is_refused(engine: Engine, define: Any) -> None:
    ids = fill(engine, 8)
    with pytest.raises(ValidationError, match="cannot be unique, nothing was changed") as caught:
        engine.define(define("t", by_m="m!"))
    assert ids[0] in str(caught.value)
    assert ids[7] in str(caught.value)
    engine.run(lambda tx: tx.delete(ids[7]))
    engine.define(define("t", by_m="m!"))
    with pytest.raises(ValidationError, match=r"t\.by_m is unique"):
        engine.run(lambda tx: tx.insert("t", {"m": 3}))


@pytest.mark.parametrize("when", ["while it is built", "at the last moment"])
def test_a_double_written_meanwhile_fails_the_change_and_not_the_write(
    engine: Engine, define: Any, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    ids, catch_up = fill(engine, 600), backfill._Watch.catch_up

    def double() -> None:
        engine.run(lambda tx: tx.insert("t", {"n": 3}))

    def and_then_another_thread(watch: Any) -> Any:
        yield from catch_up(watch)
        double()

    if when == "at the last moment":
        monkeypatch.setattr(backfill._Watch, "catch_up", and_then_another_thread)
    steps = engine.apply_definitions([define("t", by_n="n!")])
    with pytest.raises(ValidationError, match="cannot be unique, nothing was changed") as refused:
        run_with(steps, lambda step: double() if when == "while it is built" and "index" in step else None)
    assert ids[3] in str(refused.value)
    with engine.begin() as tx:
        assert tx.count("t") > 600
    assert "by_n" not in engine.catalog.table("t").indexes  # type: ignore[union-attr]


def test_equal_documents_that_never_were_at_once_do_not_break_a_unique_index(engine: Engine, define: Any) -> None:
    """One goes and its like comes while the index is walked, ahead of the walk, behind it and under it."""
    ids = fill(engine, 1000)

    def again(tx: Transaction, n: int) -> None:
        tx.delete(ids[n])
        ids[n] = tx.insert("t", {"n": n})

    def move(step: Any) -> None:
        for n in (1, 255, 256, 900) if "index" in step else ():
            engine.run(lambda tx, n=n: again(tx, n))  # type: ignore[misc]

    run_with(engine.apply_definitions([define("t", by_n="n!")]), move)
    assert order(engine, "by_n") == list(range(1000))
    with pytest.raises(ValidationError, match=r"t\.by_n is unique"):
        engine.run(lambda tx: tx.insert("t", {"n": 900}))


def test_making_an_index_unique_holds_up_nobody(engine: Engine, define: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(engine, 1000)
    finish = backfill.Definitions._finish
    looked_at: list[int] = []

    def switch(self: Any, *given: Any) -> bool:
        looked_at.append(0)
        return finish(self, *given)

    def count(body: bytes) -> Any:
        looked_at[-1] += 1
        return orjson.loads(body)

    monkeypatch.setattr(backfill.Definitions, "_finish", switch)
    monkeypatch.setattr(TableMeta, "load", property(lambda _table: count))
    looked_at.append(0)
    engine.define(define("t", by_n="n!"))
    assert looked_at[0] >= 1000
    assert looked_at[1:] == [0], "while others wait, only what was written since is looked at"


def test_a_refused_index_leaves_in_slices(engine: Engine, define: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(engine, 1000)
    monkeypatch.setattr(backfill, "DROP_MAX", 100)
    steps: list[str] = []
    with pytest.raises(ValidationError, match="cannot be unique"):
        run_with(engine.apply_definitions([define("t", by_m="m!")]), lambda step: steps.append(step["step"]))
    assert steps.count("drop") >= 10
    assert list(engine.storage.check(engine.catalog.keys_of)) == []


def test_an_interrupted_change_is_cleared_away_at_the_next_opening(
    tmp_path: Path, define: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Engine.open(tmp_path / "s.db") as engine:
        fill(engine, 600)
        monkeypatch.setattr(backfill.Definitions, "_give_up", lambda self, numbers: None)  # as if killed
        steps = engine.apply_definitions([define("t", by_n="n")])
        while next(steps)["step"] != "backfill":
            pass
        steps.close()
        assert engine.catalog.table("t").indexes["by_n"].state == "backfilling"  # type: ignore[union-attr]
    with Engine.open(tmp_path / "s.db") as engine:
        assert "by_n" not in engine.catalog.table("t").indexes  # type: ignore[union-attr]
        assert list(engine.storage.check(engine.catalog.keys_of)) == []


def test_the_past_is_read_with_the_definitions_of_its_time(engine: Engine, define: Any) -> None:
    fill(engine, 5)
    before = engine.published_ts
    engine.define(define("t", by_n="n"))
    after = engine.published_ts
    engine.run(lambda tx: tx.insert("t", {"n": -1}))
    with engine.begin(ts=before) as tx, pytest.raises(NotFound):
        DatabaseReader(tx).query("t").with_index("by_n").collect()
    with engine.begin(ts=after) as tx:
        assert [d["n"] for d in DatabaseReader(tx).query("t").with_index("by_n")] == [0, 1, 2, 3, 4]
        assert tx.count("t") == 5
    engine.define(define("t"))
    with engine.begin(ts=after) as tx, pytest.raises(OutOfRetention, match="gone since"):
        DatabaseReader(tx).query("t").with_index("by_n").collect()
    with engine.begin(ts=0) as tx:
        assert list(tx.scan("t")) == []


@pytest.mark.parametrize(
    "definition",
    [
        TableDefinition("_t", {"type": "any"}),
        TableDefinition("t", {"type": "any"}, {"by_id": IndexDefinition(("n",))}),
        TableDefinition("t", {"type": "any"}, {"by_n": IndexDefinition(())}),
        TableDefinition("t", {"type": "any"}, {"by_n": IndexDefinition(("n", "n"))}),
        TableDefinition("t", {"type": "any"}, {"by_n": IndexDefinition(("n", "_creationTime"))}),
        TableDefinition("t", {"type": "any"}, {"by_n": IndexDefinition(("a..b",))}),
        TableDefinition("t", {"type": "any"}, {"by_n": IndexDefinition(("_a",))}),
        TableDefinition("t", {"type": "any"}, {"by_n": IndexDefinition(("a.$b",))}),
        TableDefinition("t", {"type": "any"}, {"__": IndexDefinition(("n",))}),
        TableDefinition("t", {"type": "any"}, {f"by_{n}": IndexDefinition((f"f{n}",)) for n in range(65)}),
    ],
    ids=lambda definition: f"{definition.name}-{definition.indexes}"[:80],
)
def test_an_impossible_definition_is_refused(engine: Engine, definition: TableDefinition) -> None:
    with pytest.raises(ValidationError):
        engine.define(definition)
    assert engine.catalog.user_tables() == []


def test_sixty_four_indexes_are_kept_up_and_paths_reach_what_fields_inside_may_be_called(engine: Engine) -> None:
    indexes = {f"by_{n}": IndexDefinition((f"inside._{n} or so",)) for n in range(64)}
    engine.define(TableDefinition("t", {"type": "any"}, indexes))
    engine.run(lambda tx: [tx.insert("t", {"n": n, "inside": {"_7 or so": -n}}) for n in range(3)])
    assert order(engine, "by_7") == [2, 1, 0]


def test_ids_must_be_of_the_table_their_field_names(engine: Engine) -> None:
    owner = {"type": "union", "members": [{"type": "id", "table": "users"}, {"type": "null"}]}
    many = {"type": "array", "items": {"type": "id", "table": "users"}}
    fields = {"owner": {"type": owner, "optional": False}, "others": {"type": many, "optional": True}}
    engine.define(TableDefinition("tasks", {"type": "object", "fields": fields}))
    user, stranger = engine.run(lambda tx: [tx.insert("users", {}), tx.insert("teams", {})])[0]
    engine.run(lambda tx: tx.insert("tasks", {"owner": user, "others": [user]}))
    engine.run(lambda tx: tx.insert("tasks", {"owner": None}))
    engine.run(lambda tx: tx.insert("tasks", {"owner": str(user)}))
    for bad in ({"owner": stranger}, {"owner": str(stranger)}, {"owner": None, "others": [str(stranger)]}):
        with pytest.raises(ValidationError, match=r"'users'.*'teams'"):
            engine.run(lambda tx, bad=bad: tx.insert("tasks", bad))


def test_defaults_are_filled_in(engine: Engine) -> None:
    fields = {
        "n": {"type": {"type": "int"}, "optional": False},
        "done": {"type": {"type": "boolean"}, "optional": True, "default": False},
    }
    engine.define(TableDefinition("t", {"type": "object", "fields": fields}))
    engine.bulk_insert("t", [{"n": 1}])
    id = engine.run(lambda tx: tx.insert("t", {"n": 2.0}))[0]
    engine.run(lambda tx: tx.replace(id, {"n": 3}))
    with engine.begin() as tx:
        assert [(d["n"], d["done"]) for _, d in tx.scan("t")] == [(1, False), (3, False)]


# ── bulk ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

ROWS = [{"n": n, "name": f"name {n}", "b": n % 2 == 0, "x": None if n % 3 else n / 7} for n in range(200)]


@pytest.mark.parametrize("schema", [None, {"n": "int", "name": "string", "b": "boolean", "x": "any"}])
def test_bulk_and_one_by_one_store_the_same(engine: Engine, define: Any, schema: Any) -> None:
    for table in ("bulk", "single"):
        engine.define(define(table, schema, by_n="n", by_name="name,b", by_deep="n.x"))
    count, ts = engine.bulk_insert("bulk", b"\n".join(map(orjson.dumps, ROWS)) + b"\n")
    engine.run(lambda tx: [tx.insert("single", row) for row in ROWS])
    assert (count, ts < engine.published_ts) == (200, True)
    with engine.begin() as tx:
        for index in ("by_creation_time", "by_n", "by_name", "by_deep"):
            bulk, single = (
                [{k: v for k, v in d.items() if k[0] != "_"} for _, d in tx.scan(t, index)] for t in ("bulk", "single")
            )
            assert bulk == single


def test_bulk_rows_may_hold_what_json_cannot(engine: Engine) -> None:
    engine.bulk_insert("t", b'{"n":{"$float":"AAAAAAAA8H8="},"b":{"$bytes":"AAE="}}\n{"n":1.0,"b":null}')
    engine.bulk_insert("t", [{"n": float("inf"), "b": b"\0\1"}])
    with engine.begin() as tx:
        assert [(d["n"], d["b"]) for _, d in tx.scan("t")] == [
            (float("inf"), b"\0\1"),
            (1.0, None),
            (float("inf"), b"\0\1"),
        ]


@pytest.mark.parametrize("bad", [b'{"n":"x"}', b'{"n":1,"o":1}', b"{}", b"[]", b"{", b'{"_id":"x","n":1}'])
def test_a_bad_row_is_named_and_nothing_is_inserted(engine: Engine, define: Any, bad: bytes) -> None:
    engine.define(define("t", {"n": "int"}))
    with pytest.raises(ValidationError, match="row 1: "):
        engine.bulk_insert("t", b'{"n":1}\n' + bad)
    with engine.begin() as tx:
        assert tx.count("t") == 0


def test_bulk_into_a_unique_index_finds_doubles(engine: Engine, define: Any) -> None:
    engine.define(define("t", by_n="n!"))
    engine.bulk_insert("t", [{"n": 1}, {"n": 2}])
    for rows in ([{"n": 3}, {"n": 2}], [{"n": 3}, {"n": 3}]):
        with pytest.raises(ValidationError, match=r"row 1: .*unique"):
            engine.bulk_insert("t", rows)


def test_an_import_keeps_ids_and_creation_times(engine: Engine) -> None:
    engine.bulk_insert("t", [{"n": 1}, {"n": 2}])
    with engine.begin() as tx:
        rows = [dict(document) for _, document in tx.scan("t")]
    with pytest.raises(ValidationError, match="row 0: there is a document"):
        engine.bulk_insert("t", rows, keep_system_fields=True)
    engine.run(lambda tx: [tx.delete(row["_id"]) for row in rows])
    engine.bulk_insert("t", rows, keep_system_fields=True)
    with engine.begin() as tx:
        assert [dict(document) for _, document in tx.scan("t")] == rows


def test_a_bulk_insert_conflicts_only_with_a_redefinition(engine: Engine, define: Any) -> None:
    engine.bulk_insert("t", [{"n": 1}])
    with engine.begin() as tx:
        first = prepare_bulk(tx, "t", [{"n": 2}])
        second = prepare_bulk(tx, "t", [{"n": 3}])
    engine.run(lambda tx: tx.insert("t", {}))
    assert first.reads == {}
    assert engine.commit([first])[0].ts  # type: ignore[union-attr]
    engine.define(define("t", by_n="n"))
    assert "redefined" in str(engine.commit([second])[0])


# ── the worker's door ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_worker_sees_commits_and_definitions_when_it_refreshes(tmp_path: Path, define: Any) -> None:
    with Engine.open(tmp_path / "s.db") as engine:
        fill(engine, 3)
        worker = WorkerStore(tmp_path / "s.db")
        assert worker.begin().count("t") == 3
        engine.define(define("t", by_n="n"))
        engine.run(lambda tx: tx.insert("other", {}))
        assert worker.begin().count("other") == 0, "the view stays until it is told"
        worker.refresh()
        assert worker.begin().count("other") == 1
        assert worker.begin().count("t", "by_n") == 3
        assert worker.begin(ts=engine.published_ts).begin_ts == engine.published_ts
        worker.release()
        known: Catalog = worker.catalog
        assert worker.catalog is known, "loaded once"
        worker.close()


def test_a_worker_loads_no_committer() -> None:
    import subprocess
    import sys

    code = (
        "import sys, cellstore.transaction.worker_store, cellstore.transaction.access, cellstore.transaction.bulk\n"
        "loaded = [name for name in sys.modules if name.endswith(('committer', 'write_log', 'backfill', 'database'))]\n"
        "sys.exit(str(loaded) if loaded else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
