"""Definitions, documents and claims broken by hand, and what a check says of each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cellstore.storage import check
from cellstore.storage.contract import CommitRecord, DocWrite
from cellstore.storage.sqlite import SqliteReader
from cellstore.transaction.catalog import TABLES, TABLES_END, TableMeta
from cellstore.transaction.database import Engine
from cellstore.values.json import dumps, loads


@pytest.fixture
def engine(tmp_path: Path, define: Any) -> Iterator[Engine]:
    with Engine.open(tmp_path / "store.db") as engine:
        engine.define(define("users", {"mail": "string", "age?": "int"}, by_mail="mail!"), define("notes"))
        engine.run(lambda tx: [tx.insert("users", {"mail": f"{n}@x"}) for n in range(3)])
        assert list(engine.check()) == []
        yield engine


def put(engine: Engine, table: TableMeta, fields: dict[str, Any], id: bytes = b"\7" * 16) -> None:
    """Store a document past all that looks at it."""
    document = {"_creationTime": 1.0, **fields}
    known = engine.storage.reader()
    known.refresh()
    old = known.get(table.number, id)
    known.close()
    before = {} if old is None else table.keys(loads(old.body), id)
    keys = [(index, before.get(index), key) for index, key in table.keys(document, id).items()]
    write = DocWrite(table.number, id, dumps(document), "insert" if old is None else "update", keys)
    engine.storage.append([CommitRecord(engine.storage.last_ts + 1, "", [write], None, table.number < 1000)])


def table(engine: Engine, name: str) -> TableMeta:
    found = engine.catalog.table(name)
    assert found is not None
    return found


def another(engine: Engine, system: str, name: str, /, **changes: Any) -> None:
    """A copy of a definition, changed."""
    rows = engine.catalog.rows() if system == "_tables" else (row for _, row in engine.catalog.index_rows())
    row = next(dict(row) for row in rows if row["name"] == name)
    put(engine, table(engine, system), {**row, **changes})


DAMAGE: dict[str, tuple[Callable[[Engine], None], str]] = {
    "two of one name": (lambda e: another(e, "_tables", "users", number=10_050), "two tables have the name 'users'"),
    "two of one number": (lambda e: another(e, "_tables", "users", name="more"), "two tables have the number 10001"),
    "two indexes": (lambda e: another(e, "_indexes", "by_mail", name="by_x"), "two indexes have the number 1048576"),
    "an index of nothing": (
        lambda e: another(e, "_indexes", "by_mail", table=10_070, number=1_048_600),
        "the index 'by_mail' is of the table number 10070",
    ),
    "a claim made twice": (
        lambda e: put(e, table(e, "users"), {"mail": "1@x"}),
        "users.by_mail is unique, and the documents .* and .* are equal in it",
    ),
    "a document that does not fit": (
        lambda e: put(e, table(e, "users"), {"mail": "new@x", "age": "old"}),
        r"does not fit its table's schema: .*users\.age: expected int",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_check_sees(damage: str, engine: Engine) -> None:
    breaks, said = DAMAGE[damage]
    breaks(engine)
    told = list(engine.check())
    assert any(re.search(said, line) for line in told), told


def test_documents_of_no_table_are_told(engine: Engine) -> None:
    engine.run(lambda tx: tx.insert("notes", {"n": 1}))
    (row,) = [id for id, _ in rows_of(engine) if engine.catalog.row(id)["name"] == "notes"]  # type: ignore[index]
    keys = [(n, key, None) for n, key in table(engine, "_tables").keys(engine.catalog.row(row) or {}, row).items()]
    gone = DocWrite(TABLES, row, None, "delete", keys)
    engine.run(lambda tx: tx.insert("later", {"n": 1}))
    engine.storage.append([CommitRecord(engine.storage.last_ts + 1, "", [gone], None, True)])
    assert any("1 documents are of the table number 10002, which there is not" in line for line in engine.check())


@pytest.mark.parametrize("number", [600, 10_003, TABLES_END - 1])
def test_so_are_those_of_a_number_that_was_never_given(engine: Engine, number: int) -> None:
    stray = DocWrite(number, b"\1" * 16, dumps({"_creationTime": 1.0}), "insert", [])
    engine.storage.append([CommitRecord(engine.storage.last_ts + 1, "", [stray])])
    assert f"1 documents are of the table number {number}, which there is not" in list(engine.check())


def test_a_table_of_the_highest_number_is_checked_as_fast_as_any(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.run(lambda tx: tx.define_table("far", TABLES_END - 1, None))
    engine.run(lambda tx: tx.insert("far", {"n": 1}))
    looked_at: list[int] = []
    count = SqliteReader.count

    def watched(self: Any, index: int, *rest: Any) -> int:
        looked_at.append(index)
        return count(self, index, *rest)

    monkeypatch.setattr(SqliteReader, "count", watched)
    assert list(engine.check()) == []
    assert looked_at == []


def rows_of(engine: Engine) -> list[tuple[bytes, bytes]]:
    reader = engine.storage.reader()
    reader.refresh()
    found = [(row.id, row.body) for row in reader.scan(2 * TABLES, TABLES, b"", b"\xff" * 17)]
    reader.close()
    return found


def test_an_index_in_the_middle_of_its_backfill_is_no_fault(engine: Engine, define: Any) -> None:
    engine.run(lambda tx: [tx.insert("notes", {"n": n}) for n in range(600)])
    steps = engine.apply_definitions([define("notes", None, by_n="n")])
    assert next(step for step in steps if step["step"] == "backfill")["documents"] < 600
    told = list(engine.check())
    for _ in steps:
        pass
    assert (told, list(engine.check())) == ([], [])


def test_an_index_dropped_as_the_check_begins_is_no_fault(
    engine: Engine, define: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.define(define("notes", None, by_n="n"))
    engine.run(lambda tx: [tx.insert("notes", {"n": n}) for n in range(5)])
    real, views = check.check, []

    def late(path: Any, keys_of: Any) -> Iterator[str]:
        if not views:
            engine.define(define("notes"))
        views.append(path)
        return real(path, keys_of)

    monkeypatch.setattr(check, "check", late)
    assert list(engine.check()) == []
    assert len(views) == 2
