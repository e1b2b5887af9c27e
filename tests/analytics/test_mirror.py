"""Tables in DuckDB say what the storage says: values exactly, at every moment, however they came."""

import math

import pytest

from cellstore.analytics import mirror
from cellstore.errors import NotFound, OutOfRetention
from cellstore.schema.definition import TableDefinition
from cellstore.schema.types import from_hint


def fields_of(row):
    return {name: value for name, value in row.items() if not name.startswith("_")}


def schema_of(**hints):
    return {
        "type": "object",
        "fields": {name: {"type": from_hint(hint), "optional": True} for name, hint in hints.items()},
    }


def define(desk, name, **hints):
    desk.engine.define(TableDefinition(name=name, fields=schema_of(**hints), indexes={}))


EXACT = {
    "wide": 2**62 + 1,
    "least": -(2**63),
    "zero": -0.0,
    "tiny": 5e-324,
    "nan": math.nan,
    "low": -math.inf,
    "raw": b"\x00\xff",
    "text": 'a\x00b"é\n\U0001f600',
    "flag": True,
    "nested": {"a": [1, 2, None], "b": {"c": "x"}},
    "mixed": [1, "a", b"b", 2**60, 0.5],
    "blobs": [b"x"],
    "words": ['{"$float":', ""],
    "floats": [math.nan, 1.5],
    "empty": {},
    "none": None,
}


def test_every_value_comes_back_exactly(desk):
    desk.write(lambda tx: tx.insert("t", EXACT))
    (row,) = desk.table("t")
    assert repr(fields_of(row)) == repr(EXACT)


def test_declared_fields_come_back_as_declared(desk):
    import datetime as dt

    define(desk, "t", n=int, x=float, when=dt.datetime, day=dt.date, raw=bytes, tags=list[str], by=dict[str, int])
    desk.write(
        lambda tx: tx.insert(
            "t",
            {
                "n": 2**62 + 1,
                "x": math.nan,
                "when": "2026-01-02T03:04:05.000006Z",
                "day": "0001-01-02",
                "raw": b"\x00",
                "tags": ["a"],
                "by": {"k": 1},
            },
        )
    )
    desk.write(lambda tx: tx.insert("t", {"n": 1}))
    full, bare = desk.table("t")
    assert full["n"] == 2**62 + 1
    assert math.isnan(full["x"])
    assert full["when"] == dt.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=dt.UTC)
    assert (full["day"], full["raw"], full["tags"], full["by"]) == (dt.date(1, 1, 2), b"\x00", ["a"], {"k": 1})
    assert fields_of(bare) == {"n": 1, "x": None, "when": None, "day": None, "raw": None, "tags": None, "by": None}


def test_system_fields_are_columns_and_rows_come_in_order_of_creation(desk):
    ids = [desk.write(lambda tx, n=n: tx.insert("t", {"n": n})) for n in range(5)]
    rows = desk.table("t")
    assert [row["_id"] for row in rows] == ids
    assert list(rows[0]) == ["_id", "n", "_creationTime"]
    with desk.engine.begin() as tx:
        assert rows[0]["_creationTime"] == tx.get(ids[0])["_creationTime"]


def test_an_empty_table_has_its_declared_columns(desk):
    define(desk, "t", n=int)
    assert desk.table("t") == []
    assert desk.sql("select count(n) as n from t") == [{"n": 0}]


def test_a_field_that_was_only_ever_none_is_a_column(desk):
    desk.write(lambda tx: tx.insert("t", {"later": None}))
    assert desk.sql("select later from t") == [{"later": None}]
    desk.write(lambda tx: tx.insert("t", {"later": 7}))
    assert desk.sql("select sum(later) as s from t") == [{"s": 7}]


def test_names_that_differ_in_case_only_are_two_columns(desk):
    desk.write(lambda tx: tx.insert("t", {"a": 1, "A": "x", "f": math.nan}))
    desk.write(lambda tx: tx.insert("t", {"A": "y"}))
    assert desk.sql("select a, A_1 from t order by A_1") == [{"a": 1, "A_1": "x"}, {"a": None, "A_1": "y"}]


def test_the_mirror_follows_inserts_patches_and_deletes(desk):
    one = desk.write(lambda tx: tx.insert("t", {"n": 1}))
    two = desk.write(lambda tx: tx.insert("t", {"n": 2}))
    assert desk.sql("select sum(n) as s from t") == [{"s": 3}]
    desk.write(lambda tx: tx.patch(one, {"n": 10}))
    desk.write(lambda tx: tx.patch(one, {"n": 100}))
    desk.write(lambda tx: tx.delete(two))
    desk.write(lambda tx: tx.insert("t", {"n": 5, "new": "field"}))
    assert desk.sql("select n, new from t order by n") == [{"n": 5, "new": "field"}, {"n": 100, "new": None}]


def test_a_moment_after_the_first_reading_needs_no_second_one(desk, monkeypatch):
    one = desk.write(lambda tx: tx.insert("t", {"n": 1}))
    assert desk.sql("select n from t") == [{"n": 1}]
    moments = []
    for n in (2, 3, 4):
        desk.write(lambda tx, n=n: tx.patch(one, {"n": n}))
        moments.append((desk.now, n))
    monkeypatch.setattr(mirror, "documents", None)  # reading the table again would fail
    assert [desk.sql("select n from t", ts)[0]["n"] for ts, _ in moments] == [n for _, n in moments]


def test_a_moment_before_the_first_reading_comes_from_the_storage(desk):
    one = desk.write(lambda tx: tx.insert("t", {"n": 1}))
    before = desk.now
    desk.write(lambda tx: tx.patch(one, {"n": "text now"}))
    assert desk.sql("select n from t") == [{"n": "text now"}]
    assert desk.sql("select n from t", before) == [{"n": 1}]


def test_a_value_that_does_not_fit_its_column_widens_it(desk):
    desk.write(lambda tx: tx.insert("t", {"v": 1}))
    assert desk.sql("select v from t") == [{"v": 1}]
    desk.write(lambda tx: tx.insert("t", {"v": 2**60}))
    desk.write(lambda tx: tx.insert("t", {"v": 0.5}))
    assert sorted(row["v"] for row in desk.sql("select v from t")) == [0.5, 1, 2**60]
    desk.write(lambda tx: tx.insert("t", {"v": {"deep": [1]}}))
    assert {"deep": [1]} in [row["v"] for row in desk.sql("select v from t")]


def test_a_schema_that_comes_later_gives_its_types(desk):
    desk.write(lambda tx: tx.insert("t", {"day": "2026-01-02"}))
    before = desk.now
    assert desk.sql("select typeof(day) as kind from t") == [{"kind": "VARCHAR"}]
    import datetime as dt

    define(desk, "t", day=dt.date)
    assert desk.sql("select typeof(day) as kind from t") == [{"kind": "DATE"}]
    assert desk.sql("select typeof(day) as kind from t", before) == [{"kind": "VARCHAR"}]


def test_many_changes_are_taken_in_batches(desk, monkeypatch):
    monkeypatch.setattr(mirror, "BATCH", 7)
    ids = desk.write(lambda tx: [tx.insert("t", {"n": n}) for n in range(20)])
    assert desk.sql("select count(*) as c from t") == [{"c": 20}]
    for id in ids:
        desk.write(lambda tx, id=id: tx.patch(id, {"n": 1}))
    assert desk.sql("select sum(n) as s, count(*) as c from t") == [{"s": 20, "c": 20}]


def test_a_log_that_has_been_trimmed_meanwhile_means_reading_the_table_again(desk):
    one = desk.write(lambda tx: tx.insert("t", {"n": 1}))
    assert desk.sql("select n from t") == [{"n": 1}]
    loaded = desk.now
    for n in (2, 3):
        desk.write(lambda tx, n=n: tx.patch(one, {"n": n}))
    while desk.engine.storage.trim(desk.now, 1000):
        pass
    assert desk.sql("select n from t") == [{"n": 3}]
    with pytest.raises(OutOfRetention):
        desk.sql("select n from t", loaded)


def test_rows_that_ended_long_ago_are_given_up(desk, monkeypatch):
    monkeypatch.setattr(mirror, "DEAD_ROWS_MAX", 3)
    one = desk.write(lambda tx: tx.insert("t", {"n": 0}))
    desk.sql("from t")
    (copy,) = desk.analyst._mirror._copies.values()
    desk.analyst._mirror._retention_ns = 0
    for n in range(1, 8):
        desk.write(lambda tx, n=n: tx.patch(one, {"n": n}))
    assert desk.sql("select n from t") == [{"n": 7}]
    assert copy.dead == 0
    assert copy.since == desk.now


def test_a_moment_to_come_is_refused(desk):
    desk.write(lambda tx: tx.insert("t", {"n": 1}))
    with pytest.raises(OutOfRetention, match="in the future"):
        desk.table("t", desk.now + 1)


def test_a_table_that_is_not_there_yet_is_named_with_those_that_are(desk):
    desk.write(lambda tx: tx.insert("tasks", {"n": 1}))
    before = desk.now
    desk.write(lambda tx: tx.insert("users", {"n": 1}))
    with pytest.raises(NotFound, match="no table 'users' at this moment; there are: tasks"):
        desk.table("users", before)


def test_nothing_is_left_in_the_scratch_directory_but_the_mirror(desk, tmp_path):
    one = desk.write(lambda tx: tx.insert("t", {"n": math.nan}))
    desk.table("t")
    desk.write(lambda tx: tx.patch(one, {"n": 2.0}))
    desk.table("t")
    assert {path.name.partition(".")[0] for path in (tmp_path / "scratch").iterdir()} <= {"mirror"}


@pytest.mark.parametrize("read_before", [False, True])
def test_a_renamed_field_has_the_name_of_each_moment(desk, read_before):
    define(desk, "t", n=int, x=float)
    desk.write(lambda tx: [tx.insert("t", {"n": n, "x": math.nan}) for n in range(3)])
    before = desk.now
    if read_before:
        assert [row["n"] for row in desk.table("t")] == [0, 1, 2]
    fields = schema_of(number=int, x=float)
    desk.engine.define(TableDefinition("t", fields, {}, None, {"n": "number"}))
    desk.write(lambda tx: tx.insert("t", {"number": 3, "x": 0.5}))
    assert [row["number"] for row in desk.table("t")] == [0, 1, 2, 3]
    desk.write(lambda tx: tx.insert("t", {"number": 4}))
    assert [row["number"] for row in desk.table("t")] == [0, 1, 2, 3, 4], "what came after the copy was made, too"
    assert math.isnan(desk.sql("select x from t where number = 1")[0]["x"])
    assert [row["n"] for row in desk.table("t", before)] == [0, 1, 2]


def test_a_name_a_field_had_for_a_while_is_that_of_those_moments(desk):
    define(desk, "t", n=int)
    desk.write(lambda tx: tx.insert("t", {"n": 1}))
    first = desk.now
    desk.engine.define(TableDefinition("t", schema_of(number=int), {}, None, {"n": "number"}))
    meanwhile = desk.now
    desk.engine.define(TableDefinition("t", schema_of(n=int), {}, None, {"number": "n"}))
    assert [fields_of(row) for row in desk.table("t", first)] == [{"n": 1}]
    assert [fields_of(row) for row in desk.table("t", meanwhile)] == [{"number": 1}]
    assert [fields_of(row) for row in desk.table("t")] == [{"n": 1}]
