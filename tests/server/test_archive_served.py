"""Exports and imports through a server: streamed, permitted, the same as in one process, and over when it is killed."""

from __future__ import annotations

import asyncio
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from server_process import TOKEN, ServerProcess

import cellstore as cs
from cellstore.cli import main
from cellstore.client.connect import connect
from cellstore.client.database import Database
from cellstore.errors import CallerError, Forbidden, NotFound, ValidationError
from cellstore.reactivity.principal import Principal

CHAT = Path(__file__).parents[1] / "interop" / "chat.py"
ROWS = [{"n": n, "half": n / 2, "text": "x" * 1000} for n in range(5_000)]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path / "root").start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def db(server: ServerProcess) -> Iterator[Database]:
    with connect(server.url, TOKEN) as database:
        yield database


def count(db: Database, table: str) -> int:
    found: dict[str, int] = {each["name"]: each["count"] for each in db.tables()}
    return found.get(table, 0)


@pytest.mark.parametrize("suffix", ["zip", "jsonl", "csv", "parquet"])
def test_a_table_goes_through_a_server_and_is_the_same(db: Database, tmp_path: Path, suffix: str) -> None:
    db.insert_df("things", ROWS, progress=False)
    path = db.export(tmp_path / f"things.{suffix}")
    before = db.export(tmp_path / "before.jsonl", ["things"]).read_bytes()
    with cs.open(":memory:") as other:
        other.import_(path)
        assert sorted(other.export(tmp_path / "after.jsonl", ["things"]).read_bytes().splitlines()) == sorted(
            before.splitlines()
        )
    db.import_(path, mode="replace")
    assert db.export(tmp_path / "again.jsonl", ["things"]).read_bytes() == before
    assert db._control("check", {})[0]["problems"] == []


def test_errors_of_an_export_arrive_and_leave_nothing(server: ServerProcess, db: Database, tmp_path: Path) -> None:
    for table in ("a", "b"):
        db.insert_df(table, [{"n": 1}], progress=False)
    with pytest.raises(ValidationError, match="a csv file holds one table and 2 were asked for"):
        db.export(tmp_path / "all.csv")
    with pytest.raises(NotFound, match="there is no table 'c'"):
        db.export(tmp_path / "c.csv", ["c"])
    db.export(tmp_path / "all.zip")
    assert [path.name for path in tmp_path.iterdir() if path.name != "root"] == ["all.zip"]
    assert list(server.root.rglob(".cellstore-export-*")) == []


def test_the_command_line_exports_and_imports(server: ServerProcess, db: Database, tmp_path: Path) -> None:
    db.insert_df("things", ROWS[:10], progress=False)
    db.insert_df("others", ROWS[:3], progress=False)
    address, run = ["--url", server.url, "--token", TOKEN], CliRunner().invoke
    path = str(tmp_path / "all.zip")
    assert run(main, ["export", path, "--table", "things", *address]).output == f"wrote {path}\n"
    with zipfile.ZipFile(path) as archive:
        assert [name for name in archive.namelist() if name.startswith("others")] == []
    refused = run(main, ["import", path, *address])
    assert refused.exit_code == 1
    assert "the table 'things' has documents already" in refused.output
    assert run(main, ["import", path, "--mode", "replace", *address]).output == "things: 10 documents\n"


def test_an_import_that_a_kill_ended_is_in_nobodys_way(server: ServerProcess, tmp_path: Path) -> None:
    path = tmp_path / "things.jsonl"
    path.write_text('{"n": 1}\n')
    with connect(server.url, TOKEN) as db:
        db.insert_df("things", [{"n": 0}], progress=False)
        begun, _ = db._control("import_begin", {"mode": "replace", "tables": [{"name": "things"}]})
        db._control("import_rows", {"import": begun["import"], "table": "things"}, b'{"n": 1}\n{"n": 2}')
        with pytest.raises(CallerError, match="another import is filling the table 'things'"):
            db.import_(path, mode="replace")
        server.kill()
        server.start()
        assert count(db, "things") == 1
        with pytest.raises(NotFound, match="this import is over"):
            db._control("import_end", {"import": begun["import"]})
        db.import_(path, mode="replace")
        assert (count(db, "things"), [each["name"] for each in db.tables()]) == (1, ["things"])


async def test_an_export_may_be_read_and_an_import_must_be_written(served: Any) -> None:
    deployment = await served.app.deployment("default")
    reader = Principal("user", frozenset({"read"}), owner=True)
    await deployment.control("insert", {"table": "things"}, b'{"n": 1}')
    answer, export = await deployment.control("export", {"format": "jsonl", "tables": ["things"]}, who=reader)
    assert answer["tables"] == {"things": 1}
    assert export.read(-1).endswith(b"}\n")
    export.close()
    for op in ("import_begin", "import_rows", "import_end", "import_abort"):
        with pytest.raises(Forbidden, match="may not write"):
            await deployment.control(op, {}, who=reader)


async def test_too_many_exports_at_once_are_told_to_wait(served: Any) -> None:
    deployment = await served.app.deployment("default")
    made = await asyncio.gather(
        *(deployment.control("export", {"format": "zip"}) for _ in range(4)), return_exceptions=True
    )
    refused = [each for each in made if isinstance(each, Exception)]
    assert [type(each).__name__ for each in refused] == ["Overloaded", "Overloaded"]
    for each in made:
        if not isinstance(each, BaseException):
            each[1].close()


async def test_a_client_that_goes_away_in_the_middle_leaves_nothing(served: Any) -> None:
    deployment = await served.app.deployment("default")
    rows = b"\n".join(b'{"text": "%b"}' % (b"x" * 100_000) for _ in range(300))  # more than sockets buffer
    await deployment.control("insert", {"table": "things"}, rows)
    reader, writer = await asyncio.open_connection("localhost", int(served.origin.rsplit(":", 1)[1]))
    params = '{"format": "jsonl", "tables": ["things"]}'
    lines = [f"POST {served.base_url}cellstore/x/export HTTP/1.1", "Host: localhost", "Content-Length: 0"]
    lines += [f"{name}: {value}" for name, value in served.token_header.items()] + [f"X-Cellstore-Params: {params}"]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    assert b" 200 " in await reader.readline()
    home = Path(deployment.path).parent
    assert list(home.glob(".cellstore-export-*"))
    writer.close()
    async with asyncio.timeout(10):
        while list(home.glob(".cellstore-export-*")):
            await asyncio.sleep(0.01)
