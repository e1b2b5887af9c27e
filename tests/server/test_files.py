"""Files: uploaded, served, seen by functions, exported and brought back."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import os
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from served_harness import Answer, Served

from cellstore.errors import StorageError
from cellstore.transaction import files

FUNCTIONS = """
import cellstore as cs

@cs.mutation
def address(ctx):
    return ctx.storage.generate_upload_url()

@cs.query
def look(ctx, id: str):
    return [ctx.storage.get_url(id), ctx.storage.get_metadata(id), ctx.db.system.get(id)]

@cs.query
def listed(ctx):
    return [row.size for row in ctx.db.system.query("_storage")]

@cs.query
def known(ctx):
    return [row._id for row in ctx.db.system.query("_storage")]

@cs.mutation
def delete(ctx, id: str):
    ctx.storage.delete(id)

@cs.mutation
def delete_in_vain(ctx, id: str):
    ctx.storage.delete(id)
    raise cs.ApplicationError("no")

@cs.query
def store_in_query(ctx):
    return ctx.storage.store(b"")

@cs.query
def delete_in_query(ctx, id: str):
    return ctx.storage.delete(id)

@cs.action
def keep(ctx, text: str, content_type: str = "text/plain"):
    return ctx.storage.store(text.encode(), content_type)

@cs.action
async def round_trip(ctx, text: str):
    id = await ctx.storage.store(text.encode(), content_type="text/plain; charset=utf-8")
    data, url = await ctx.storage.get(id), await ctx.storage.get_url(id)
    about = await ctx.storage.get_metadata(id)
    await ctx.storage.delete(id)
    return [data.decode(), url is not None, about.size, await ctx.storage.get(id), await ctx.storage.get_metadata(id)]
"""
TEXT = b"0123456789" * 1000
DIGEST = base64.b64encode(hashlib.sha256(TEXT).digest()).decode()


@pytest.fixture
def stored(served: Served, jp_asyncio_loop: Any, tmp_path: Path) -> Store:
    (tmp_path / "store.py").write_text(FUNCTIONS)
    jp_asyncio_loop.run_until_complete(served.deploy(tmp_path / "store.py"))
    return Store(served)


class Store:
    """What tests ask of a server with files."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.home = files.directory(str(served.app.directory("default") / "store.db"))

    async def call(self, kind: str, name: str, **args: Any) -> Any:
        body = {"path": f"store:{name}", "args": args, "format": "convex_encoded_json"}
        answer = (await self.served.fetch(f"/api/{kind}", body, self.served.token_header)).json
        assert answer["status"] == "success", answer
        return answer["value"]

    async def fetch(self, url: str, body: bytes | None = None, headers: Any = None, **more: Any) -> Answer:
        """An address that the server made up, without any credentials."""
        path = url.removeprefix(self.served.origin).replace("http://127.0.0.1", "http://localhost")
        return await self.served.fetch(path.removeprefix(self.served.origin), body, headers, **more)

    async def upload(self, body: bytes = TEXT, **headers: str) -> Answer:
        return await self.fetch(await self.call("mutation", "address"), body, {"Content-Type": "image/png", **headers})

    async def uploaded(self, body: bytes = TEXT) -> tuple[str, str]:
        """An id and where the file can be read."""
        id = (await self.upload(body)).json["storageId"]
        return id, (await self.call("query", "look", id=id))[0]


async def test_what_was_uploaded_is_served_to_whoever_knows_where(stored: Store) -> None:
    id, url = await stored.uploaded()
    got = await stored.fetch(url)
    assert (got.status, got.body) == (200, TEXT)
    assert {name: got.headers[name] for name in ("Content-Type", "Content-Length", "Digest", "Accept-Ranges")} == {
        "Content-Type": "image/png",
        "Content-Length": "10000",
        "Digest": f"sha-256={DIGEST}",
        "Accept-Ranges": "bytes",
    }
    assert got.headers["Cache-Control"] == "private, max-age=2592000"
    assert got.headers["Content-Security-Policy"].startswith("sandbox")  # no page of this server
    assert got.headers["Referrer-Policy"] == "no-referrer"  # whom it asks for more is not told the address
    assert got.headers["X-Content-Type-Options"] == "nosniff"
    assert (await stored.fetch(url.replace(url[-4:], "0000"))).status == 404
    head = await stored.fetch(url, method="HEAD")
    assert (head.headers["Content-Length"], head.body) == ("10000", b"")
    assert id not in url


@pytest.mark.parametrize(
    ("asked", "status", "body", "told"),
    [
        ("bytes=0-9", 206, b"0123456789", "bytes 0-9/10000"),
        ("bytes=9995-", 206, b"56789", "bytes 9995-9999/10000"),
        ("bytes=-3", 206, b"789", "bytes 9997-9999/10000"),
        ("bytes=9998-20000", 206, b"89", "bytes 9998-9999/10000"),
        ("bytes=10000-", 416, None, "bytes */10000"),
        ("bytes=0-1,5-6", 200, TEXT, None),
        ("lines=1-2", 200, TEXT, None),
        ("bytes=5-3", 200, TEXT, None),
        ("bytes=-0", 416, None, "bytes */10000"),
        ("bytes=" + "9" * 5000 + "-", 200, TEXT, None),
        ("bytes=-" + "9" * 5000, 200, TEXT, None),
    ],
)
async def test_one_range_may_be_asked_for(stored: Store, asked: str, status: int, body: Any, told: str | None) -> None:
    _, url = await stored.uploaded()
    got = await stored.fetch(url, None, {"Range": asked})
    assert (got.status, got.headers.get("Content-Range")) == (status, told)
    assert body is None or got.body == body
    assert ("max-age" in got.headers.get("Cache-Control", "")) == ("Etag" in got.headers) == (status != 416)


async def test_a_copy_that_is_still_good_is_not_sent_again_and_a_torn_one_goes_on(stored: Store) -> None:
    _, url = await stored.uploaded()
    etag = (await stored.fetch(url)).headers["Etag"]
    kept = await stored.fetch(url, None, {"If-None-Match": etag})
    assert (kept.status, kept.body, kept.headers["Cache-Control"]) == (304, b"", "private, max-age=2592000")
    for known, status, body in ((etag, 206, TEXT[9990:]), ('"another"', 200, TEXT)):
        got = await stored.fetch(url, None, {"Range": "bytes=9990-", "If-Range": known})
        assert (got.status, got.body) == (status, body)
    head = await stored.fetch(url, None, {"Range": "bytes=0-9"}, method="HEAD")
    assert (head.status, head.headers["Content-Length"]) == (200, "10000")


async def test_what_cannot_be_a_content_type_is_refused_wherever_it_comes_from(stored: Store) -> None:
    id, _ = await stored.uploaded()
    await stored.call("mutation", "delete", id=id)
    for about in (
        {"content_type": 5},
        {"content_type": "a\r\nSet-Cookie: b"},
        {"content_type": "text/€"},
        {"sha256": 5},
    ):
        headers = {**stored.served.kernel_header, "X-Cellstore-Params": json.dumps({"id": id, **about})}
        refused = await stored.served.fetch("x/import_file", b"abc", headers)
        assert (refused.status, refused.json["code"]) == (400, "ValidationError"), about
    body = {"path": "store:keep", "args": {"text": "", "content_type": "a\nb"}}
    said = await stored.served.fetch("/api/action", body, stored.served.token_header)
    assert "content_type" in said.json["errorMessage"]
    assert len(list(stored.home.iterdir())) == 1  # the bytes of the deleted one, until the next sweep
    assert await stored.call("query", "listed") == []


async def test_an_upload_nobody_feeds_is_given_up(
    stored: Store, jp_http_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cellstore.server.files.IDLE_S", 0.1)
    url = await stored.call("mutation", "address")
    reader, writer = await asyncio.open_connection("localhost", jp_http_port)
    path = url.partition("://")[2].partition("/")[2]
    writer.write(f"POST /{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc".encode())
    async with asyncio.timeout(10):
        assert await reader.read() == b""  # it is hung up on
    assert list(stored.home.iterdir()) == []
    writer.close()


def test_a_piece_that_comes_after_an_upload_was_given_up_is_an_error_of_ours(tmp_path: Path) -> None:
    incoming = files.Incoming(str(tmp_path / "store.db"))
    incoming.drop()
    with pytest.raises(StorageError, match="given up"):
        incoming.write(b"x")


async def test_functions_see_it_and_live_queries_hear_of_it(stored: Store) -> None:
    wire = await stored.served.socket(headers=stored.served.token_header)
    await wire.subscribe(0, "store:listed")
    assert (await wire.result(0))["value"] == []
    id, _ = await stored.uploaded()
    assert (await wire.result(0))["value"] == [10000.0]
    _, about, same = await stored.call("query", "look", id=id)
    assert about == same
    assert about == {
        "_id": id, "_creationTime": about["_creationTime"], "sha256": DIGEST, "size": 10000.0, "contentType": "image/png",
    }  # fmt: skip
    await stored.call("mutation", "delete", id=id)
    assert (await wire.result(0))["value"] == []


async def test_a_deleted_file_is_gone_at_the_commit_and_its_bytes_with_a_sweep(stored: Store) -> None:
    id, url = await stored.uploaded()
    body = {"path": "store:delete_in_vain", "args": {"id": id}}
    await stored.served.fetch("/api/mutation", body, stored.served.token_header)
    assert (await stored.fetch(url)).status == 200
    await stored.call("mutation", "delete", id=id)
    assert (await stored.fetch(url)).status == 404
    assert await stored.call("query", "look", id=id) == [None, None, None]
    again = await stored.served.fetch("/api/mutation", {**body, "path": "store:delete"}, stored.served.token_header)
    assert "there is no file" in again.json["errorMessage"]
    other, _ = await stored.uploaded()
    engine = (await stored.served.app.deployment("default"))._engine
    assert files.sweep(engine) == 0  # not at once: a transaction may be under way
    long_ago = time.time() - files.SWEEP_S - 1
    for path in stored.home.iterdir():
        os.utime(path, (long_ago, long_ago))
    assert files.sweep(engine) == 1
    assert (await stored.fetch((await stored.call("query", "look", id=other))[0])).status == 200


async def test_a_digest_that_differs_is_refused_and_nothing_is_kept(stored: Store) -> None:
    refused = await stored.upload(Digest="sha-256=" + DIGEST[::-1])
    assert (refused.status, refused.json["code"]) == (400, "Sha256Mismatch")
    assert list(stored.home.iterdir()) == []
    assert (await stored.upload(Digest=f"SHA-256={DIGEST}")).status == 200


async def test_an_upload_address_is_good_for_an_hour_and_for_its_store(
    stored: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = await stored.call("mutation", "address")
    for wrong in (url[:-3], url + "A", url.partition("?")[0] + "?token=%20", url.partition("?")[0]):
        refused = await stored.fetch(wrong, TEXT)
        assert (refused.status, refused.json["code"]) == (400, "StorageTokenInvalid")
    later = time.time() + 3601
    monkeypatch.setattr(files.time, "time", lambda: later)
    assert (await stored.fetch(url, TEXT)).json["code"] == "StorageTokenExpired"


async def test_an_upload_the_disk_does_not_take_is_hung_up_on_at_once(
    stored: Store, jp_http_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: Any) -> None:
        raise StorageError("the file could not be kept: No space left on device")

    monkeypatch.setattr(files.Incoming, "write", full)
    path = (await stored.call("mutation", "address")).partition("://")[2].partition("/")[2]
    reader, writer = await asyncio.open_connection("localhost", jp_http_port)
    writer.write(f"POST /{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nabc".encode())
    async with asyncio.timeout(10):
        said = await reader.read()  # to its end, though most of the body was never sent
    assert said.startswith(b"HTTP/1.1 507")
    assert b"No space left" in said
    assert list(stored.home.iterdir()) == []
    writer.close()


async def test_an_upload_that_breaks_off_leaves_nothing(stored: Store, jp_http_port: int) -> None:
    url = await stored.call("mutation", "address")
    _, writer = await asyncio.open_connection("localhost", jp_http_port)
    path = url.partition("://")[2].partition("/")[2]
    writer.write(f"POST /{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc".encode())
    async with asyncio.timeout(10):
        while not (stored.home.is_dir() and list(stored.home.iterdir())):
            await asyncio.sleep(0.01)
        writer.close()
        while list(stored.home.iterdir()):
            await asyncio.sleep(0.01)


async def test_bytes_that_are_gone_or_torn_are_an_error_that_nobody_caches(stored: Store) -> None:
    _, url = await stored.uploaded()
    [path] = stored.home.iterdir()
    path.write_bytes(TEXT[:100])
    async with asyncio.timeout(5):
        torn = await stored.fetch(url)
    assert (torn.status, torn.json["code"]) == (500, "Corruption")
    path.unlink()
    gone = await stored.fetch(url)
    assert (gone.status, gone.json["code"]) == (404, "FileNotFound")
    assert "max-age" not in gone.headers.get("Cache-Control", "")


async def test_an_action_stores_and_reads_bytes(stored: Store) -> None:
    assert await stored.call("action", "round_trip", text="äöü") == ["äöü", True, 6.0, None, None]
    id = await stored.call("action", "keep", text="kept")
    assert (await stored.fetch((await stored.call("query", "look", id=id))[0])).body == b"kept"


async def test_what_a_query_cannot_do_says_where_it_can_be_done(stored: Store) -> None:
    for name, args, said in (
        ("store_in_query", {}, "do it in an action"),
        ("delete_in_query", {"id": "x"}, "mutation"),
    ):
        body = {"path": f"store:{name}", "args": args}
        answer = (await stored.served.fetch("/api/query", body, stored.served.token_header)).json
        assert said in answer["errorMessage"]


async def test_an_export_holds_the_files_and_an_import_brings_them_back(stored: Store) -> None:
    key = {"Authorization": f"Convex {stored.served.app.admin_key('default')}"}

    async def exported(with_files: str) -> bytes:
        await stored.served.fetch(f"/api/export/request/zip?includeStorage={with_files}", {}, key)
        state = await stored.served.fetch("/api/query", {"path": "_system/cli/exports:getLatest", "args": {}}, key)
        ts = state.json["value"]["start_ts"]
        return (await stored.served.fetch(f"/api/export/zip/{ts}", headers=key)).body

    id, _ = await stored.uploaded()
    await stored.served.fetch("/cellstore/x/insert", b"{}", {**key, "X-Cellstore-Params": '{"table": "t"}'})
    await stored.served.fetch("x/insert", b"{}", {**key, "X-Cellstore-Params": '{"table": "t"}'})
    assert not [name for name in zipfile.ZipFile(io.BytesIO(await exported("false"))).namelist() if "_storage" in name]
    whole = await exported("true")
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        row = json.loads(archive.read("_storage/documents.jsonl"))
        assert (row["_id"], row["sha256"], row["contentType"], len(row["internalId"])) == (id, DIGEST, "image/png", 36)
        assert archive.read(f"_storage/{id}.png") == TEXT
    about = (await stored.call("query", "look", id=id))[1]
    await stored.call("mutation", "delete", id=id)
    answer = await stored.served.fetch("/api/import?format=zip&mode=replace", whole, key)
    assert answer.status == 200, answer.body
    url, again, _ = await stored.call("query", "look", id=id)
    assert again == about
    assert (await stored.fetch(url)).body == TEXT


async def test_a_snapshot_that_replaces_takes_away_the_files_it_leaves_out(stored: Store) -> None:
    """As in Convex: where a snapshot holds files they are one more table; where it holds none they are left alone."""
    key = {"Authorization": f"Convex {stored.served.app.admin_key('default')}"}
    kept, _ = await stored.uploaded()

    def snapshot(*entries: tuple[str, str]) -> bytes:
        with zipfile.ZipFile(raw := io.BytesIO(), "w") as archive:
            for name, text in [("t/documents.jsonl", '{"n": 1}\n'), *entries]:
                archive.writestr(name, text)
        return raw.getvalue()

    async def imported(mode: str, body: bytes) -> tuple[int, set[str]]:
        answer = await stored.served.fetch(f"/api/import?format=zip&mode={mode}", body, key)
        rows = await stored.call("query", "known")
        return answer.status, set(rows)

    with_files = snapshot(("_storage/documents.jsonl", json.dumps({"_id": kept}) + "\n"), (f"_storage/{kept}", "x"))
    other, _ = await stored.uploaded(b"other")
    assert await imported("requireEmpty", with_files) == (400, {kept, other})
    assert await imported("append", with_files) == (200, {kept, other})
    assert await imported("replaceAll", snapshot()) == (200, {kept, other})
    assert await imported("replaceAll", with_files) == (200, {kept})
    other, _ = await stored.uploaded(b"other")
    assert await imported("replace", with_files) == (200, {kept})


class TestLimit:
    @pytest.fixture
    def extension_config(self) -> dict[str, Any]:
        return {"knobs": {"file_size_bytes": 100}, "cors_allow_origins": ["http://app.example"]}

    async def test_a_file_beyond_the_knob_is_refused(self, stored: Store) -> None:
        assert (await stored.upload(b"x" * 100)).status == 200
        refused = await stored.upload(b"x" * 101)
        assert (refused.status, "file_size_bytes" in refused.json["message"]) == (413, True)

    async def test_an_action_stores_no_larger_file_than_may_be_uploaded(self, stored: Store) -> None:
        await stored.call("action", "keep", text="x" * 100)
        body = {"path": "store:keep", "args": {"text": "x" * 101}}
        refused = (await stored.served.fetch("/api/action", body, stored.served.token_header)).json
        assert "file_size_bytes" in refused["errorMessage"]
        assert len(list(stored.home.iterdir())) == 1

    async def test_pages_of_configured_origins_may_upload(self, stored: Store) -> None:
        answer = await stored.upload(b"x", Origin="http://app.example")
        assert answer.headers["Access-Control-Allow-Origin"] == "http://app.example"

    async def test_a_copy_cached_for_one_origin_is_not_taken_for_another(self, stored: Store) -> None:
        _, url = await stored.uploaded(b"x")
        for headers in ({}, {"Origin": "http://app.example"}, {"Origin": "http://evil.example"}):
            assert (await stored.fetch(url, None, headers)).headers["Vary"] == "Origin"
