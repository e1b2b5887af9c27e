"""Imports as a client asks for them that is in a hurry, gives up in the middle, or sends what no export of ours holds."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest
from served_harness import Answer, Served

from cellstore.reactivity.principal import EMBEDDED
from cellstore.server import imports
from cellstore.transaction import files
from cellstore.transaction.database import Engine
from cellstore.transaction.importing import Import
from cellstore.values.ids import encode_id

FILE = encode_id(540, bytes(range(16)))
BYTES = bytes(range(256)) * 100


@pytest.fixture
def importer(served: Served) -> Importer:
    return Importer(served)


class Importer:
    """What tests ask of a server that imports."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.home = files.directory(str(served.app.directory("default") / "store.db"))
        self.key = {"Authorization": f"Convex {served.app.admin_key('default')}"}

    async def ask(self, op: str, body: bytes = b"", **params: Any) -> Answer:
        return await self.served.fetch(f"x/{op}", body, {**self.key, "X-Cellstore-Params": json.dumps(params)})

    async def convex(self, step: str, body: Any) -> Answer:
        return await self.served.fetch(f"/api/{step}", body, self.key)

    async def upload(self, body: bytes = b'{"a":1}\n') -> tuple[str, str]:
        """The tokens of an upload and of its only part."""
        upload = (await self.convex("import/start_upload", {})).json["uploadToken"]
        return upload, (await self.convex(f"import/upload_part?uploadToken={upload}&partNumber=1", body)).json

    def parts(self) -> list[Path]:
        return list(self.home.glob("*.part")) if self.home.is_dir() else []


def zipped(**entries: bytes) -> bytes:
    """A snapshot with one table and these entries; two underscores are a slash."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("t/documents.jsonl", b"".join(b'{"a":%d}\n' % (n * 7919 % 100_003) for n in range(5000)))
        for name, content in entries.items():
            archive.writestr(name.replace("__", "/") + ".jsonl", content)
    return made.getvalue()


async def test_of_imports_begun_together_one_fills_the_table(importer: Importer) -> None:
    wanted = {"mode": "fail", "tables": [{"name": "t"}]}
    answers = await asyncio.gather(*(importer.ask("import_begin", **wanted) for _ in range(3)))
    assert sorted(answer.status for answer in answers) == [200, 400, 400]
    assert {answer.json["code"] for answer in answers if answer.status == 400} == {"ImportRunning"}


async def test_an_import_ends_once_and_nothing_comes_after(importer: Importer) -> None:
    key = (await importer.ask("import_begin", mode="append", tables=[{"name": "t"}])).json["import"]
    ends = await asyncio.gather(*(importer.ask("import_end", **{"import": key}) for _ in range(3)))
    assert sorted(answer.status for answer in ends) == [200, 404, 404]
    for op in ("import_rows", "import_abort"):
        late = await importer.ask(op, b'{"a":1}', table="t", **{"import": key})
        assert (late.status, late.json["message"]) == (404, "this import is over, or was given up: begin again")


async def test_an_import_that_is_cancelled_while_it_begins_is_in_nobodys_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(*args: Any) -> Import:
        begun.set()
        assert go_on.wait(10)
        return Import(*args)

    with Engine.memory() as engine:
        begun, go_on, every = threading.Event(), threading.Event(), imports.Imports(engine)
        wanted = {"tables": [{"name": "t"}]}
        monkeypatch.setattr(imports, "Import", slowly)
        first = asyncio.create_task(every.begin(wanted, b"", EMBEDDED))
        await asyncio.to_thread(begun.wait, 10)
        first.cancel()
        await asyncio.wait([first])
        go_on.set()
        answer, _ = await every.begin(wanted, b"", EMBEDDED)
        assert answer.keys() == {"import"}
        await every.close()


async def test_a_file_comes_in_pieces(importer: Importer) -> None:
    digest = base64.b64encode(hashlib.sha256(BYTES).digest()).decode()
    about: dict[str, Any] = {"id": FILE, "sha256": digest, "content_type": "image/png"}
    for begin in range(0, 20_000, 10_000):
        about = (await importer.ask("import_file", BYTES[begin : begin + 10_000], **about, more=True)).json
        assert about.keys() == {"part"}
    assert (await importer.ask("import_file", BYTES[20_000:], **about)).json == {"new": True}
    [path] = importer.home.iterdir()
    assert path.read_bytes() == BYTES
    assert (await importer.ask("import_file", b"x", id=FILE, more=True)).json == {"new": False}
    again = await importer.ask("import_file", b"x", **about)
    assert (again.status, again.json["code"]) == (404, "NotFound")


async def test_of_a_file_that_is_not_sent_to_its_end_nothing_is_kept(
    importer: Importer, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = (await importer.ask("import_begin", mode="append", tables=[{"name": "t"}])).json["import"]
    about = {"id": FILE, "more": True}
    await importer.ask("import_file", b"x", **about, **{"import": key})
    assert len(importer.parts()) == 1
    await importer.ask("import_abort", **{"import": key})
    assert importer.parts() == []
    await importer.ask("import_file", b"x", **about)
    monkeypatch.setattr(imports, "IDLE_S", -1.0)
    await importer.ask("import_begin", mode="append", tables=[{"name": "t"}])
    assert importer.parts() == []
    monkeypatch.undo()
    await importer.ask("import_file", b"x", **about)
    await (await importer.served.app.deployment("default")).stop()
    assert importer.parts() == []


class TestLimit:
    @pytest.fixture
    def extension_config(self) -> dict[str, Any]:
        return {"knobs": {"file_size_bytes": 10}}

    async def test_a_file_in_pieces_may_be_no_larger_than_one_in_one(self, importer: Importer) -> None:
        part = (await importer.ask("import_file", b"x" * 10, id=FILE, more=True)).json
        for params in (part, {"id": FILE}):
            refused = await importer.ask("import_file", b"x" * 11, **params)
            assert (refused.status, "file_size_bytes" in refused.json["message"]) == (413, True)
        assert importer.parts() == []


@pytest.mark.parametrize(
    ("entry", "content", "said"),
    [
        ("_tables__documents", b'{"name":"t","id":"x"}\n', "_tables/documents.jsonl"),
        ("_tables__documents", b'{"name":"t"}\n', "_tables/documents.jsonl"),
        ("_storage__documents", b"[]\n", "_storage/documents.jsonl, line 1"),
        ("u__documents", b'{"a":"' + b"x" * 20_000, "u/documents.jsonl, line 1: this line does not end"),
    ],
)
async def test_what_no_export_holds_is_named(
    importer: Importer, entry: str, content: bytes, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cellstore.client.files._RECORD_CHARS_MAX", 10_000)
    refused = await importer.convex("import?format=zip&mode=replace", zipped(**{entry: content}))
    assert (refused.status, said in refused.json["message"]) == (400, True), refused.body


@pytest.mark.parametrize("at", [60, 200, 2000])
async def test_a_zip_with_torn_bytes_is_said_to_be_one_and_nothing_is_replaced(importer: Importer, at: int) -> None:
    torn = bytearray(zipped())
    torn[at : at + 40] = b"\xff" * 40
    refused = await importer.convex("import?format=zip&mode=replace", bytes(torn))
    assert (refused.status, "snapshot.zip is broken" in refused.json["message"]) == (400, True), refused.body
    assert str(importer.home.parent) not in refused.json["message"]
    assert (await importer.ask("tables")).json["tables"] == []


async def test_parts_that_make_no_file_are_named(importer: Importer) -> None:
    wanted = {"tableName": "t", "mode": "append", "format": "jsonLines"}
    for named in (["{part}", "{part}"], ["{upload}." + "9" * 5000], ["{upload}.2"], []):
        upload, part = await importer.upload()
        tokens = [token.format(upload=upload, part=part) for token in named]
        body = {"uploadToken": upload, "partTokens": tokens, "import": wanted}
        refused = await importer.convex("import/finish_upload", body)
        assert (refused.status, "partTokens" in refused.json["message"]) == (400, True), refused.body
    assert list(importer.home.parent.glob(".cellstore-upload-*")) == []


async def test_a_part_the_disk_does_not_take_is_an_error_that_says_so(
    importer: Importer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: Any) -> int:
        raise OSError(28, "No space left on device")

    upload, _ = await importer.upload()
    monkeypatch.setattr(Path, "write_bytes", full)
    refused = await importer.convex(f"import/upload_part?uploadToken={upload}&partNumber=2", b"x")
    assert (refused.json["code"], "No space left" in refused.json["message"]) == ("StorageError", True)
