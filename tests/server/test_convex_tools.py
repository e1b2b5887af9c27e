"""What Convex's command line and its streaming connectors ask of a server."""

from __future__ import annotations

import asyncio
import base64
import io
import itertools
import json
import threading
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import pytest
from served_harness import Served

from cellstore.schema.definition import TableDefinition
from cellstore.server.uploads import Uploads
from cellstore.transaction.hidden import drop_table
from cellstore.transaction.importing import Import, Wanted


def admin(served: Served) -> dict[str, str]:
    return {"Authorization": f"Convex {served.app.admin_key('default')}"}


async def ask(served: Served, path: str, body: Any = None) -> Any:
    answer = await served.fetch(path, body, admin(served))
    assert answer.status == 200, answer.body
    return answer.json


async def system(served: Served, path: str, args: dict[str, Any]) -> Any:
    answer = await ask(served, "/api/query", {"path": path, "args": args, "format": "json"})
    assert answer["status"] == "success", answer
    return answer["value"]


async def send(served: Served, *bodies: str) -> None:
    for body in bodies:
        await ask(served, "/api/mutation", {"path": "chat:send", "args": {"author": "ann", "body": body}})


async def test_a_snapshot_and_then_every_change_is_the_whole_store(chat: Served) -> None:
    await send(chat, "one", "two")
    first = await ask(chat, "/api/list_snapshot")
    assert {(row["_table"], row["body"]) for row in first["values"]} == {("messages", "one"), ("messages", "two")}
    assert first["hasMore"] is False
    await send(chat, "three")
    again = await ask(chat, "/api/list_snapshot", {"snapshot": first["snapshot"]})
    assert again["values"] == first["values"]
    after = await ask(chat, f"/api/document_deltas?cursor={first['snapshot']}")
    assert [(row["body"], row["_deleted"]) for row in after["values"]] == [("three", False)]
    assert after["values"][0]["_ts"] == after["cursor"] > first["snapshot"]
    assert (await ask(chat, f"/api/document_deltas?cursor={after['cursor']}"))["values"] == []


async def test_large_tables_come_in_pages_without_gaps(chat: Served) -> None:
    begin = (await ask(chat, "/api/list_snapshot"))["snapshot"]
    rows = "\n".join(json.dumps({"n": number}) for number in range(2500)).encode()
    headers = {**chat.kernel_header, "X-Cellstore-Params": json.dumps({"table": "numbers"})}
    assert (await chat.fetch("x/insert", rows, headers)).status == 200
    seen: list[int] = []
    page: dict[str, Any] = {"hasMore": True, "snapshot": None, "cursor": None}
    while page["hasMore"]:
        position = {name: page[name] for name in ("snapshot", "cursor") if page[name] is not None}
        page = await ask(chat, "/api/list_snapshot", {"tableName": "numbers", **position})
        assert len(page["values"]) <= 1024
        ids = [row["_id"] for row in page["values"]]
        assert ids == sorted(ids)  # by table, then id
        seen += [row["n"] for row in page["values"]]
    assert sorted(seen) == list(range(2500))
    seen, commits, delta = [], [], {"hasMore": True, "cursor": begin}
    while delta["hasMore"]:
        delta = await ask(chat, "/api/document_deltas", {"cursor": delta["cursor"], "tableName": "numbers"})
        seen += [row["n"] for row in delta["values"]]
        commits.append({row["_ts"] for row in delta["values"]})
    assert seen == list(range(2500))
    assert not any(one & another for one, another in itertools.combinations(commits, 2))  # no commit is torn


async def test_a_reader_begins_again_when_a_table_came_or_went_as_a_whole(chat: Served) -> None:
    await send(chat, "one")
    begin = (await ask(chat, "/api/list_snapshot"))["snapshot"]
    await chat.fetch("x/insert", b'{"n": 1}', {**chat.kernel_header, "X-Cellstore-Params": '{"table": "numbers"}'})
    dropped = await chat.fetch(
        "x/drop_table", b"", {**chat.kernel_header, "X-Cellstore-Params": '{"table": "messages"}'}
    )
    assert dropped.status == 200, dropped.body
    missed = await chat.fetch(f"/api/document_deltas?cursor={begin}", headers=admin(chat))
    assert (missed.status, missed.json["code"]) == (410, "OutOfRetention")
    assert "'messages' was imported, replaced, renamed or dropped" in missed.json["message"]
    others = await ask(chat, "/api/document_deltas", {"cursor": begin, "tableName": "numbers"})
    assert [row["n"] for row in others["values"]] == [1], "of another table nothing is missing"
    again = await ask(chat, "/api/list_snapshot")
    assert {row["_table"] for row in again["values"]} == {"numbers"}
    assert (await ask(chat, "/api/document_deltas", {"cursor": again["snapshot"]}))["values"] == []


@pytest.mark.parametrize("wanted", ["messages", "notes", None])
@pytest.mark.parametrize("how", ["renamed", "its number was given up to another"])
async def test_a_reader_begins_again_when_a_table_has_another_name(chat: Served, how: str, wanted: str | None) -> None:
    await send(chat, "one")
    begin = (await ask(chat, "/api/list_snapshot"))["snapshot"]
    engine: Any = (await chat.app.deployment("default"))._engine
    if how == "renamed":
        engine.define(TableDefinition("notes", {"type": "any"}, {}, "messages"))
    else:
        number = engine.catalog.table("messages").number
        drop_table(engine, "messages")
        running = Import(engine, "fail", [Wanted("notes", number)])
        running.load("notes", b'{"text": "two"}')
        running.finish()
    wish = "" if wanted is None else f"&tableName={wanted}"
    missed = await chat.fetch(f"/api/document_deltas?cursor={begin}{wish}", headers=admin(chat))
    assert (missed.status, missed.json["code"]) == (410, "OutOfRetention")


async def test_a_reader_begins_again_when_a_field_was_renamed(chat: Served) -> None:
    await send(chat, "one")
    begin = (await ask(chat, "/api/list_snapshot"))["snapshot"]
    fields = {name: {"type": {"type": "any"}, "optional": True} for name in ("author", "text")}
    engine = (await chat.app.deployment("default"))._engine
    engine.define(TableDefinition("messages", {"type": "object", "fields": fields}, {}, None, {"body": "text"}))
    missed = await chat.fetch(f"/api/document_deltas?cursor={begin}", headers=admin(chat))
    assert (missed.status, missed.json["code"]) == (410, "OutOfRetention")
    assert "'messages' was given other field names" in missed.json["message"]
    again = await ask(chat, "/api/list_snapshot")
    assert [row["text"] for row in again["values"]] == ["one"]
    assert (await ask(chat, "/api/list_snapshot", {"snapshot": begin}))["values"][0]["body"] == "one"
    engine.run(lambda tx: tx.insert("messages", {"text": "two"}))
    after = await ask(chat, "/api/document_deltas", {"cursor": again["snapshot"]})
    assert [row["text"] for row in after["values"]] == ["two"]


async def test_tables_and_fields_may_be_selected(chat: Served) -> None:
    begin = (await ask(chat, "/api/list_snapshot"))["snapshot"]
    await send(chat, "one")
    await chat.fetch("x/insert", b'{"n": 1}', {**chat.kernel_header, "X-Cellstore-Params": '{"table": "numbers"}'})
    for selection, seen in [
        ({"": {"_other": "excluded", "messages": "included"}}, {"messages": {"author", "body"}}),
        ({"": {"messages": {"body": "excluded"}}}, {"messages": {"author"}, "numbers": {"n"}}),
        ({"": {"messages": {"_other": "excluded", "body": "included"}, "_other": "excluded"}}, {"messages": {"body"}}),
        ({"_other": "excluded"}, {}),
    ]:
        for path, more in (("/api/list_snapshot", {}), ("/api/document_deltas", {"cursor": begin})):
            rows = (await ask(chat, path, {"selection": selection, **more}))["values"]
            assert {row["_table"]: {name for name in row if name[0] != "_"} for row in rows} == seen
            assert all({"_id", "_ts", "_component"} <= row.keys() for row in rows)
    refused = await chat.fetch("/api/list_snapshot?selection=%7B%22%22:5%7D", headers=admin(chat))
    assert (refused.status, refused.json["code"]) == (400, "ValidationError")


async def test_schemas_name_every_field(chat: Served) -> None:
    await send(chat, "one")
    schema = (await ask(chat, "/api/json_schemas?deltaSchema=true&format=json"))["messages"]
    assert {"_id", "_creationTime", "_ts", "_deleted", "_table", "_component"} <= set(schema["properties"])
    assert await ask(chat, "/api/test_streaming_export_connection") is None
    columns = await ask(chat, "/api/get_table_column_names")
    assert columns["byComponent"][""][0]["name"] == "messages"


@pytest.mark.parametrize("path", ["/api/list_snapshot", "/api/document_deltas?cursor=0", "/api/stream_function_logs"])
async def test_strangers_see_none_of_it(chat: Served, path: str) -> None:
    for headers in ({}, {"Authorization": "Convex default|00"}):
        refused = await chat.fetch(path, headers=headers)
        assert refused.status == (403 if path.endswith("_logs") else 401)


@pytest.mark.parametrize(
    "path", ["document_deltas", "document_deltas?cursor=x", "list_snapshot?cursor=!", "list_snapshot?format=no"]
)
async def test_what_makes_no_sense_is_said(chat: Served, path: str) -> None:
    await send(chat, "one")
    answer = await chat.fetch(f"/api/{path}", headers=admin(chat))
    assert answer.status == 400
    assert answer.json["message"]


async def test_the_system_queries_answer_admins_only_and_are_live(chat: Served) -> None:
    denied = await chat.fetch("/api/query", {"path": "_system/cli/tables", "args": {}}, chat.token_header)
    assert "Could not find public function" in denied.json["errorMessage"]
    wire = await chat.socket()
    await wire.say("Authenticate", baseVersion=0, tokenType="Admin", value=chat.app.admin_key("default"))
    await wire.subscribe(0, "_system/cli/tables", {"paginationOpts": {"cursor": None, "numItems": 100.0}})
    assert (await wire.result(0))["value"]["page"] == []
    await send(chat, "one")
    assert (await wire.result(0))["value"]["page"] == [{"name": "messages"}]
    args = {"table": "messages", "order": "desc", "paginationOpts": {"cursor": None, "numItems": 1.0}}
    await wire.subscribe(1, "_system/cli/tableData", args)
    assert [row["body"] for row in (await wire.result(1))["value"]["page"]] == ["one"]
    await send(chat, "two")
    # the first page keeps its right edge, which in this order lies behind "one"
    assert [row["body"] for row in (await wire.result(1))["value"]["page"]] == ["two", "one"]


async def test_functions_are_described_in_convexs_words(chat: Served) -> None:
    found = {each.get("identifier"): each for each in await system(chat, "_system/cli/modules:apiSpec", {})}
    sent = found["chat.js:send"]
    assert sent["functionType"] == "Mutation"
    assert sent["args"]["value"]["author"] == {"fieldType": {"type": "string"}, "optional": False}
    assert found["chat.js:secret"]["visibility"] == {"kind": "internal"}
    assert (await system(chat, "_system/cli/convexUrl:cloudUrl", {})).endswith("/cellstore")


async def test_logs_are_waited_for(chat: Served) -> None:
    start = {"newCursor": 0.0}
    waiting = asyncio.ensure_future(ask(chat, f"/api/stream_function_logs?cursor={start['newCursor']}"))
    await send(chat, "one")
    entries = (await waiting)["entries"]
    assert any(entry["identifier"] == "chat:send" and entry["logLines"] == ["[LOG] sending one"] for entry in entries)
    assert all(entry["udfType"] in ("Query", "Mutation", "Action", "HttpAction") for entry in entries)


async def test_an_export_is_there_when_it_was_asked_for(chat: Served) -> None:
    await send(chat, "one")
    await ask(chat, "/api/export/request/zip?includeStorage=false", {})
    state = await system(chat, "_system/cli/exports:getLatest", {})
    assert state["state"] == "completed"
    got = await chat.fetch(f"/api/export/zip/{state['start_ts']}", headers=admin(chat))
    assert "messages/documents.jsonl" in zipfile.ZipFile(io.BytesIO(got.body)).namelist()
    assert (await chat.fetch(f"/api/export/zip/{state['start_ts']}", headers=admin(chat))).status == 404


async def test_a_second_export_is_not_taken_for_the_first(chat: Served) -> None:
    wire = await chat.socket(headers=admin(chat))
    await wire.subscribe(0, "_system/cli/exports:getLatest")
    assert (await wire.result(0))["value"] is None
    for body in ("one", "two"):
        await send(chat, body)
        await ask(chat, "/api/export/request/zip", {})
        state = (await wire.result(0))["value"]
        ts = int.from_bytes(base64.b64decode(state["start_ts"]["$integer"]), "little")
        got = await chat.fetch(f"/api/export/zip/{ts}", headers=admin(chat))
        assert body in zipfile.ZipFile(io.BytesIO(got.body)).read("messages/documents.jsonl").decode()


async def test_what_is_not_served_is_no_404(chat: Served) -> None:
    """Convex's command line tries a 404 again, for any method."""
    for path in ("/api/run_test_function", "/api/import/nonsense", "/api/deploy2/start_push"):
        assert (await chat.fetch(path, {}, admin(chat))).status == 501


async def test_a_variable_that_changes_wakes_who_asked_for_it(chat: Served) -> None:
    wire = await chat.socket(headers=chat.token_header)
    await wire.subscribe(0, "chat:colour")
    assert (await wire.result(0))["value"] is None
    for value in ("blue", None):
        await ask(chat, "/api/update_environment_variables", {"changes": [{"name": "COLOUR", "value": value}]})
        assert (await wire.result(0))["value"] == value
    refused = await chat.fetch("/api/update_environment_variables", {"changes": "COLOUR"}, admin(chat))
    assert (refused.status, refused.json["code"]) == (400, "ValidationError")


class TestImport:
    """Steps of an import that the command line does not take by itself."""

    ROWS = b'{"n": 1}\n{"n": 2.5}\n'
    WANTED: ClassVar = {"tableName": "birds", "mode": "requireEmpty", "format": "jsonLines"}

    async def begun(self, chat: Served, **wanted: Any) -> str:
        """An import that waits for a yes."""
        token = (await ask(chat, "/api/import/start_upload", b""))["uploadToken"]
        part = await ask(chat, f"/api/import/upload_part?uploadToken={token}&partNumber=1", self.ROWS)
        finish = {"import": {**self.WANTED, **wanted}, "uploadToken": token, "partTokens": [part]}
        return str((await ask(chat, "/api/import/finish_upload", finish))["importId"])

    def scratch(self, chat: Served) -> list[Path]:
        return list(chat.app.directory("default").glob(".cellstore-upload-*"))

    async def state(self, chat: Served, key: str) -> Any:
        return (await system(chat, "_system/cli/queryImport:default", {"importId": key}))["state"]

    async def test_all_at_once(self, chat: Served) -> None:
        path = "/api/import?tableName=birds&format=jsonLines"
        assert await ask(chat, path, self.ROWS) == {"numWritten": 2}
        again = await chat.fetch(path, self.ROWS, admin(chat))
        assert "has documents already" in again.json["message"]
        assert await ask(chat, path + "&mode=append", self.ROWS) == {"numWritten": 2}

    async def test_its_state_is_live_and_nothing_happens_before_the_yes(self, chat: Served) -> None:
        key = await self.begun(chat)
        wire = await chat.socket(headers=admin(chat))
        await wire.subscribe(0, "_system/cli/queryImport:default", {"importId": key})
        first = (await wire.result(0))["value"]["state"]
        assert (first["state"], first["require_manual_confirmation"]) == ("waiting_for_confirmation", False)
        assert (await ask(chat, "/api/list_snapshot", {"tableName": "birds"}))["values"] == []
        await ask(chat, "/api/perform_import", {"importId": key})
        while (state := (await wire.result(0))["value"]["state"])["state"] != "completed":
            assert state["state"] == "in_progress"
        assert state["num_rows_written"] == 2
        assert sorted(row["n"] for row in (await ask(chat, "/api/list_snapshot"))["values"]) == [1, 2.5]
        assert self.scratch(chat) == []

    async def test_one_that_is_cancelled_leaves_nothing(self, chat: Served) -> None:
        key = await self.begun(chat)
        assert len(self.scratch(chat)) == 1
        await ask(chat, "/api/cancel_import", {"importId": key})
        assert (await self.state(chat, key))["error_message"] == "the import was cancelled"
        assert self.scratch(chat) == []
        assert (await chat.fetch("/api/perform_import", {"importId": key}, admin(chat))).status == 400

    @pytest.mark.parametrize(("owner", "late"), [(Import, "finish"), (Uploads, "_discard")])
    async def test_one_that_is_cancelled_too_late_is_complete(
        self, chat: Served, monkeypatch: pytest.MonkeyPatch, owner: type, late: str
    ) -> None:
        reached, go_on, work = threading.Event(), threading.Event(), getattr(owner, late)

        def slowly(*args: Any) -> Any:
            reached.set()
            assert go_on.wait(10)
            return work(*args)

        monkeypatch.setattr(owner, late, slowly)
        key = await self.begun(chat)
        await ask(chat, "/api/perform_import", {"importId": key})
        assert await asyncio.to_thread(reached.wait, 10)
        task = (await chat.app.deployment("default")).uploads()._running[key]
        cancelling = asyncio.ensure_future(chat.fetch("/api/cancel_import", {"importId": key}, admin(chat)))
        while not task.cancelling():
            await asyncio.sleep(0.001)
        go_on.set()
        assert (await cancelling).json["code"] == "ImportOver"
        assert (await self.state(chat, key))["state"] == "completed"
        assert len((await ask(chat, "/api/list_snapshot"))["values"]) == 2

    async def test_one_that_a_stop_ended_has_failed(self, chat: Served) -> None:
        key = await self.begun(chat)
        deployment = await chat.app.deployment("default")
        await deployment.stop()
        assert "the server stopped" in (await self.state(chat, key))["error_message"]
        assert self.scratch(chat) == []

    @pytest.mark.parametrize(
        "wrong", [{"mode": "no"}, {"format": "xml"}, {"tableName": "../x"}, {"tableName": None}, {"componentPath": "c"}]
    )
    async def test_what_makes_no_sense_is_refused_and_given_up(self, chat: Served, wrong: dict[str, Any]) -> None:
        with pytest.raises(AssertionError, match="code"):
            await self.begun(chat, **wrong)
        assert self.scratch(chat) == []

    async def test_strangers_import_nothing(self, chat: Served) -> None:
        assert (await chat.fetch("/api/import/start_upload", b"")).status == 401
