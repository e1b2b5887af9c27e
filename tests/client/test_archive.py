"""Exports and imports on the embedded engine: what goes out comes back, what is in the way is named."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cellstore as cs
from cellstore.analytics.archive import write_archive
from cellstore.client import files
from cellstore.client.database import Database
from cellstore.errors import CallerError, NotFound, StorageError, ValidationError
from cellstore.storage.sqlite import SqliteReader
from cellstore.testing.strategies import VALUES
from cellstore.values.ids import encode_id
from cellstore.values.value import same

ZOO: dict[str, Any] = {
    "int": 1,
    "float": 1.0,
    "negative_zero": -0.0,
    "nan": math.nan,
    "inf": -math.inf,
    "wide": 2**62 + 1,
    "none": None,
    "empty": "",
    "word": "null",
    "digits": "007",
    "json_as_text": '{"a": [1]}',
    "quoted": '"a",\n\r\nb',
    "bytes": b"\x00\xff",
    "nested": {"list": [1, 1.0, None, b"x", {"deep": math.nan}], 'any name, "there"': {}},
    "true": True,
}


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    with cs.open(tmp_path / "store.db") as database:
        yield database


@pytest.fixture
def other() -> Iterator[Database]:
    """Another, empty store."""
    with cs.open(":memory:") as database:
        yield database


@cs.mutation(module="archive_test")
def put(ctx, table: str, documents: list):
    return [ctx.db.insert(table, document) for document in documents]


@cs.query(module="archive_test")
def everything(ctx, table: str):
    return list(ctx.db.query(table))


class Reading(cs.Table, name="archive_readings"):
    station: str
    celsius: float | None = None
    note: str | None = None

    by_station = cs.Index("station")


def documents(db: Database, table: str) -> list[dict[str, Any]]:
    return [dict(document) for document in db.query(everything, table=table)]


def fields(db: Database, table: str) -> list[dict[str, Any]]:
    return [{k: v for k, v in each.items() if not k.startswith("_")} for each in documents(db, table)]


def lines_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# ── out and in ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("suffix", ["zip", "jsonl", "csv"])
def test_every_kind_of_value_comes_back_with_its_id_and_its_creation_time(
    db: Database, other: Database, tmp_path: Path, suffix: str
) -> None:
    db.mutation(put, table="zoo", documents=[ZOO, {"n": 1}, {}])
    path = db.export(tmp_path / f"zoo.{suffix}")
    assert other.import_(path)["documents"] == 3
    assert same(documents(other, "zoo"), documents(db, "zoo"))


@pytest.mark.parametrize("suffix", ["zip", "jsonl", "csv"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.dictionaries(st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,3}", fullmatch=True), VALUES, max_size=4), max_size=4
    )
)
def test_random_documents_survive_to_the_bit(tmp_path: Path, suffix: str, rows: list[dict[str, Any]]) -> None:
    with cs.open(":memory:") as there, cs.open(":memory:") as back:
        there.mutation(put, table="things", documents=[{"first": None}, *rows])
        path = there.export(tmp_path / f"things.{suffix}")
        back.import_(path)
        assert same(documents(back, "things"), documents(there, "things"))
        if suffix != "csv":  # its columns come in another order
            bits = [db.export(tmp_path / f"{n}.jsonl", ["things"]).read_bytes() for n, db in enumerate((there, back))]
            assert bits[0] == bits[1]


def test_parquet_comes_back_but_for_none_and_missing_which_are_one(
    db: Database, other: Database, tmp_path: Path
) -> None:
    rows = [
        {"a": 1, "b": 1.5, "c": "x", "d": [1, 2]},
        {"a": 2**60, "b": math.nan, "c": None, "e": b"\xff", "f": {"x": 1}},
    ]
    db.mutation(put, table="things", documents=rows)
    other.import_(db.export(tmp_path / "things.parquet"))
    del rows[1]["c"]
    assert same(fields(other, "things"), rows)
    assert [each["_id"] for each in documents(other, "things")] == [each["_id"] for each in documents(db, "things")]


def test_references_between_tables_hold_after_a_zip_came_back(db: Database, other: Database, tmp_path: Path) -> None:
    (user,) = db.mutation(put, table="users", documents=[{"name": "ann"}])
    db.mutation(put, table="posts", documents=[{"author": user}])
    report = other.import_(db.export(tmp_path / "all.zip"))
    numbers = {table["name"]: table["number"] for table in db.tables()}
    assert {name: each["number"] for name, each in report["tables"].items()} == numbers
    assert documents(other, "users")[0]["_id"] == documents(other, "posts")[0]["author"]


def test_tables_whose_numbers_are_taken_come_in_with_the_references_between_them(
    db: Database, other: Database, tmp_path: Path
) -> None:
    (user,) = db.mutation(put, table="users", documents=[{"name": "ann"}])
    db.mutation(put, table="posts", documents=[{"author": user}])
    other.mutation(put, table="tasks", documents=[{"n": 1}])  # the first table here, too
    report = other.import_(db.export(tmp_path / "all.zip"))["tables"]
    assert report["users"] == {"documents": 1, "number": 10_003, "renumbered_from": 10_001}
    assert "renumbered_from" not in report["posts"]
    assert documents(other, "posts")[0]["author"] == documents(other, "users")[0]["_id"] != user
    assert fields(other, "tasks") == [{"n": 1}]


@pytest.mark.parametrize("suffix", ["zip", "jsonl", "csv", "parquet"])
def test_renamed_fields_travel_by_their_new_names(db: Database, other: Database, tmp_path: Path, suffix: str) -> None:
    module = tmp_path / "talk.py"
    head = "import cellstore as cs\nfrom typing import Any\n"
    db.mutation(put, table="talk", documents=[{"body": "hello", "n": n} for n in range(3)])
    module.write_text(
        f'{head}class Talk(cs.Table, name="talk", renamed_fields={{"body": "text"}}):\n text: str\n n: Any'
    )
    db.deploy(module)
    before = documents(db, "talk")
    assert [row["text"] for row in before] == ["hello"] * 3
    exported = db.export(tmp_path / f"talk.{suffix}", ["talk"])
    other.import_(exported)
    assert documents(other, "talk") == before
    db.mutation(put, table="talk", documents=[{"text": "later", "n": 3}])
    db.import_(exported, mode="replace")
    assert documents(db, "talk") == before


def test_a_directory_goes_out_and_comes_in(db: Database, other: Database, tmp_path: Path) -> None:
    db.mutation(put, table="a", documents=[{"n": 1}])
    db.mutation(put, table="b", documents=[{"n": 2}])
    assert db.export(tmp_path / "all") == tmp_path / "all"
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == ["a.parquet", "b.parquet"]
    db.export(tmp_path / "all", format="jsonl", tables=["b"])
    (tmp_path / "all" / "b.parquet").unlink()
    other.import_(tmp_path / "all")
    assert (fields(other, "a"), fields(other, "b")) == ([{"n": 1}], [{"n": 2}])


# ── exports ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_zip_is_laid_out_as_convex_lays_out_its_snapshots(db: Database, tmp_path: Path) -> None:
    (id,) = db.mutation(put, table="zoo", documents=[{"int": 1, "float": 3.0, "nan": math.nan, "bytes": b"\xff"}])
    with zipfile.ZipFile(db.export(tmp_path / "all.zip")) as archive:
        assert archive.testzip() is None
        assert {"README.md", "_tables/documents.jsonl", "zoo/documents.jsonl"} < set(archive.namelist())
        assert archive.read("zoo/generated_schema.jsonl") == b'"uniform"\n'
        assert json.loads(archive.read("_tables/documents.jsonl")) == {"name": "zoo", "id": 10001}
        line = archive.read("zoo/documents.jsonl").decode()
    assert line.startswith(
        f'{{"_id":"{id}","int":1,"float":3.0,"nan":{{"$float":"AAAAAAAA+H8="}},"bytes":{{"$bytes":"/w=="}}'
    )
    assert line.endswith("}\n")


def test_all_of_an_export_is_as_of_one_moment(db: Database, tmp_path: Path) -> None:
    db.mutation(put, table="things", documents=[{"n": 1}])
    then = db.snapshot().ts
    db.mutation(put, table="things", documents=[{"n": 2}])
    db.mutation(put, table="later", documents=[{"n": 3}])
    assert [row["n"] for row in lines_of(db.export(tmp_path / "things.jsonl", ["things"], at=then))] == [1]
    db.export(tmp_path / "all", format="jsonl", at=then)
    assert [path.name for path in (tmp_path / "all").iterdir()] == ["things.jsonl"]


def test_several_tables_do_not_go_into_one_csv_and_nothing_is_left(db: Database, tmp_path: Path) -> None:
    for table in ("a", "b"):
        db.mutation(put, table=table, documents=[{}])
    with pytest.raises(ValidationError, match="a csv file holds one table and 2 were asked for: name one"):
        db.export(tmp_path / "all.csv")
    with pytest.raises(NotFound, match="there is no table 'c' to export; there are: a, b"):
        db.export(tmp_path / "c", ["c"])
    with pytest.raises(CallerError, match="suffix names no format"):
        db.export(tmp_path / "a.xlsx")
    with pytest.raises(StorageError, match="cannot write the export"):
        db.export(tmp_path / "nowhere" / "a.zip")
    assert [path for path in tmp_path.iterdir() if not path.name.startswith("store.db")] == []


def test_a_failed_export_leaves_the_file_of_the_one_before(db: Database, tmp_path: Path) -> None:
    db.mutation(put, table="a", documents=[{"n": 1}])
    path = db.export(tmp_path / "a.jsonl")
    kept = path.read_bytes()
    db.mutation(put, table="b", documents=[{}])
    with pytest.raises(ValidationError):
        db.export(path)
    assert path.read_bytes() == kept


def test_csv_tells_missing_none_and_empty_text_apart(db: Database, tmp_path: Path) -> None:
    db.mutation(put, table="t", documents=[{"a": None, "b": "", "c": [1]}, {"b": "x"}])
    text = db.export(tmp_path / "t.csv").read_text().splitlines()
    assert [line.split(",", 1)[1].rsplit(",", 1)[0] for line in text] == ["a,b,c", 'null,"","[1]"', ',"x",']


# ── imports ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_modes_fail_append_and_replace(db: Database, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"n": 1}\n')
    db.import_(path)
    with pytest.raises(CallerError, match="the table 't' has documents already, nothing was imported"):
        db.import_(path)
    db.import_(path, mode="append")
    assert fields(db, "t") == [{"n": 1}, {"n": 1}]
    db.import_(path, mode="replace")
    assert fields(db, "t") == [{"n": 1}]
    with pytest.raises(ValidationError, match="mode: expected 'fail' or 'append' or 'replace', got 'merge'"):
        db.import_(path, mode="merge")


def test_a_live_query_goes_from_all_old_to_all_new(db: Database, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("".join(f'{{"n": {n}}}\n' for n in range(2500)))
    db.mutation(put, table="t", documents=[{"n": -1}] * 3)
    seen: list[list[int]] = []
    replaced = threading.Event()

    def show(rows: list[Any]) -> None:
        seen.append([row["n"] for row in rows])
        if len(rows) == 2500:
            replaced.set()

    with db.subscribe(everything, show, table="t") as live:
        live.wait(timeout=10)
        db.import_(path, mode="replace")
        assert replaced.wait(10)
    assert seen == [[-1] * 3, [*range(2500)]]


def test_a_line_that_does_not_fit_is_named_and_what_is_in_is_said(db: Database, tmp_path: Path) -> None:
    db.deploy([put, everything])
    path = tmp_path / "archive_readings.jsonl"
    path.write_text('{"station": "a"}\n\n' * 1200 + '{"station": 5}\n')
    with pytest.raises(ValidationError) as refused:
        db.import_(path)
    assert refused.value.message.startswith("archive_readings.jsonl, line 2401: archive_readings.station: expected str")
    assert refused.value.message.endswith("(before it, 1,000 documents are in 'archive_readings')")
    with pytest.raises(ValidationError, match=r"line 2401: .* \(nothing was replaced\)"):
        db.import_(path, mode="replace")
    assert len(documents(db, "archive_readings")) == 1000


def test_a_declared_table_applies_to_what_comes_in(db: Database, tmp_path: Path) -> None:
    path = tmp_path / "readings.csv"
    path.write_text('station,celsius,note\n007,21,"12"\n"b",,null\n')
    db.import_(path, Reading)
    assert fields(db, "archive_readings") == [
        {"station": "007", "celsius": 21.0, "note": "12"},
        {"station": "b", "celsius": None, "note": None},
    ]
    (table,) = [table for table in db.tables() if table["name"] == "archive_readings"]
    assert "by_station" in table["indexes"]


def test_csv_from_elsewhere(db: Database, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b'\xef\xbb\xbf a ,"b",d\r\n1,1.0,x\r\n\r\n-0.5,007,"a ""b"", c\r\nd"\r\ntrue,[oops,{no')
    db.import_(path)
    assert fields(db, "t") == [
        {"a": 1, "b": 1.0, "d": "x"},
        {"a": -0.5, "b": "007", "d": 'a "b", c\r\nd'},
        {"a": True, "b": "[oops", "d": "{no"},
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1\n", r"t\.csv, line 2: 1 cells, and the header names 2 columns"),
        ('a,b\n"x\ny",1\n2,"open\n', r"t\.csv, line 4: a quotation mark .* is not closed"),
        ("a,a\n", r"t\.csv, line 1: two columns have the same name"),
        ("a\n\udcff\n", r"t\.csv is not UTF-8 text"),
    ],
)
def test_a_broken_csv_is_named_by_its_line(db: Database, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValidationError, match=message):
        db.import_(tmp_path / "t.csv")


@pytest.mark.parametrize("name", ["t.json", "t.jsonl"])
def test_a_document_that_is_nested_too_deep_is_refused_by_its_place(db: Database, tmp_path: Path, name: str) -> None:
    document = f'{{"a": {"[" * 900}{"]" * 900}, "n": {{"$integer": "AQAAAAAAAAA="}}}}'
    (tmp_path / name).write_text(f"[{document}]" if name == "t.json" else document)
    with pytest.raises(ValidationError, match=r"(document|line) 1: .*shallower nesting"):
        db.import_(tmp_path / name)


def test_an_array_that_would_fill_the_memory_is_refused(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "ARRAY_BYTES_MAX", 10)
    (tmp_path / "t.json").write_text('[{"a": 100}]')
    with pytest.raises(ValidationError, match=r"one document a line \(\.jsonl\)"):
        db.import_(tmp_path / "t.json")


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 1000])
def test_csv_is_the_same_in_whatever_pieces_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(files, "_READ_CHARS", piece)
    path = tmp_path / "t.csv"
    path.write_bytes(b'a,b\r\n"x ""y""\r\n",1\r\n,\n"",2\r3,"4"')
    (source,) = files.open_path(path, None).sources
    found = [(line.place, json.loads(line.text)) for line in source.lines({})]
    assert found == [(2, {"a": 'x "y"\r\n', "b": 1}), (4, {}), (5, {"a": "", "b": 2}), (6, {"a": 3, "b": "4"})]


FILE = encode_id(540, bytes(range(16)))


def test_the_files_of_a_store_travel_with_it(tmp_path: Path) -> None:
    with cs.open(tmp_path / "one.db") as one:
        one.insert_df("t", pd.DataFrame({"n": [1]}))
        one._control("import_file", {"id": FILE, "content_type": "text/plain", "creation_time": 5.5}, b"bytes")
        one.export(tmp_path / "all.zip")
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        (row,) = archive.read("_storage/documents.jsonl").splitlines()
        assert archive.read(f"_storage/{FILE}.txt") == b"bytes"
    with cs.open(tmp_path / "two.db") as two:
        assert two.import_(tmp_path / "all.zip")["files"] == 1
        two.export(tmp_path / "again.zip")
    (kept,) = (tmp_path / "two.db.files").iterdir()
    assert kept.read_bytes() == b"bytes"
    with zipfile.ZipFile(tmp_path / "again.zip") as archive:
        (again,) = archive.read("_storage/documents.jsonl").splitlines()
    assert {**json.loads(again), "internalId": ""} == {**json.loads(row), "internalId": ""}


def test_a_file_that_comes_back_is_in_memory_a_piece_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bytes(range(256)) * 40
    monkeypatch.setattr(files, "_READ_CHARS", 1000)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("t/documents.jsonl", b"")
        archive.writestr(f"_storage/{FILE}.bin", whole)
    with cs.open(tmp_path / "store.db") as db:
        sizes: list[int] = []
        control = db._control
        monkeypatch.setattr(
            db, "_control", lambda op, params, body=b"": sizes.append(len(body)) or control(op, params, body)
        )
        assert db.import_(tmp_path / "all.zip")["files"] == 1
        assert max(sizes) == 1000
        (kept,) = (tmp_path / "store.db.files").iterdir()
        assert kept.read_bytes() == whole
        sizes.clear()
        assert db.import_(tmp_path / "all.zip", mode="append")["files"] == 1  # there already: that is known at once
        assert sum(sizes) == 1000


def test_a_file_that_is_swept_while_it_is_exported_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with cs.open(tmp_path / "one.db") as one:
        one._control("import_file", {"id": FILE, "content_type": "text/plain"}, b"bytes")
        ts = one.snapshot().ts
    (place,) = (tmp_path / "one.db.files").iterdir()
    monkeypatch.setattr("mimetypes.guess_extension", lambda _type: place.unlink())
    path, _ = write_archive(
        lambda: SqliteReader(str(tmp_path / "one.db")), None, "zip", ts, tmp_path, files=tmp_path / "one.db.files"
    )
    with zipfile.ZipFile(path) as archive:
        assert [name for name in archive.namelist() if "_storage" in name] == []


def test_what_another_store_beside_it_writes_is_left_alone(tmp_path: Path) -> None:
    left = [
        tmp_path / f".cellstore-{what}-{of}-abcdefgh" for what in ("export", "upload") for of in ("a.db", "a.db-b.db")
    ]
    for scratch in left:
        scratch.mkdir()
    with cs.open(tmp_path / "a.db") as db:
        db.export(tmp_path / "all.zip")
    assert [scratch.exists() for scratch in left] == [False, True, False, True]


def test_a_snapshot_of_convex_is_read(db: Database, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "convex.zip", "w") as archive:
        archive.writestr("snap/_tables/documents.jsonl", '{"name":"exact","id":10044}\n{"name":"old","id":10045}\n')
        archive.writestr("snap/exact/generated_schema.jsonl", '"uniform"\n')
        archive.writestr("snap/exact/documents.jsonl", '{"i":1,"f":1.0,"big":{"$integer":"//////////8="}}\n')
        archive.writestr("snap/old/documents.jsonl", '{"n":1}')
        archive.writestr("snap/_components/billing/_tables/documents.jsonl", "")
        archive.writestr("snap/_scheduled_jobs/documents.jsonl", '{"x":1}')
        archive.writestr(f"snap/_storage/{FILE}.png", b"bytes")
    report = db.import_(tmp_path / "convex.zip")
    assert report["files"] == 1
    assert report["ignored"] == ["_components"]
    assert same(fields(db, "exact"), [{"i": 1, "f": 1.0, "big": -1}])
    assert same(fields(db, "old"), [{"n": 1.0}])  # without the mark, every number is a float
    assert {table["name"]: table["number"] for table in db.tables()} == {"exact": 10044, "old": 10045}


def test_one_table_of_a_zip(db: Database, other: Database, tmp_path: Path) -> None:
    for table in ("a", "b"):
        db.mutation(put, table=table, documents=[{}])
    path = db.export(tmp_path / "all.zip")
    assert list(other.import_(path, "b")["tables"]) == ["b"]
    with pytest.raises(NotFound, match=r"all\.zip holds nothing to import into 'c'"):
        other.import_(path, "c")


def test_what_is_no_zip_is_refused(db: Database, tmp_path: Path) -> None:
    (tmp_path / "bad.zip").write_bytes(b"no")
    with pytest.raises(ValidationError, match=r"bad\.zip cannot be read as a ZIP file"):
        db.import_(tmp_path / "bad.zip")
    with pytest.raises(NotFound, match="there is no file"):
        db.import_(tmp_path / "none.zip")


def test_parquet_from_elsewhere(db: Database, tmp_path: Path) -> None:
    import pandas as pd

    moments = pd.to_datetime(["2024-01-02T03:04:05Z", None])
    pd.DataFrame({"s": ["a", None], "n": [1, 2], "f": [1.0, None], "when": moments}).to_parquet(tmp_path / "t.parquet")
    db.import_(tmp_path / "t.parquet")
    assert fields(db, "t") == [{"s": "a", "n": 1, "f": 1.0, "when": "2024-01-02T03:04:05.000000Z"}, {"n": 2}]


def test_what_was_replaced_is_gone_after_a_while_and_the_store_is_sound(db: Database, tmp_path: Path) -> None:
    db.mutation(put, table="t", documents=[{"n": n} for n in range(10)])
    path = tmp_path / "t.jsonl"
    path.write_text('{"n": 1}\n')
    db.import_(path, mode="replace")
    assert fields(db, "t") == [{"n": 1}]
    assert [table["name"] for table in db.tables()] == ["t"]
    assert db._control("check", {})[0]["problems"] == []


# ── memory ─────────────────────────────────────────────────────────────────────────────────────────────────────────

PEAK = """
import resource, sys
import cellstore as cs
with cs.open(sys.argv[2]) as db:
    if sys.argv[1] == "export":
        db.export(sys.argv[3])
    else:
        db.import_(sys.argv[3], "things", "replace")
with open("/proc/self/status") as status:
    own = next(line.split()[1] for line in status if line.startswith("VmHWM"))
print(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def peak_mib(*arguments: str) -> float:
    """Peak memory of a process that exports or imports; of its child, if that needs more."""
    ran = subprocess.run(
        [sys.executable, "-c", PEAK, *arguments], capture_output=True, text=True, timeout=100, check=True
    )
    return max(map(int, ran.stdout.split())) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of a process from /proc")
def test_memory_does_not_grow_with_the_table(tmp_path: Path) -> None:
    """200 MB instead of 1 MB fill SQLite's caches, of 128 MiB to write and 64 to read, and nothing else."""
    peaks: dict[str, list[float]] = {"import": [], "export": []}
    for count in (40, 8_000):
        home = tmp_path / str(count)
        home.mkdir()
        with (home / "rows.jsonl").open("w") as file:
            file.writelines(f'{{"n": {n}, "text": "{"x" * 25_000}"}}\n' for n in range(count))
        peaks["import"].append(peak_mib("import", str(home / "store.db"), str(home / "rows.jsonl")))
        peaks["export"].append(peak_mib("export", str(home / "store.db"), str(home / "out.zip")))
    assert peaks["import"][1] - peaks["import"][0] < 160, peaks
    assert peaks["export"][1] - peaks["export"][0] < 96, peaks
