"""What Convex's command line and its streaming connectors ask of a server."""

from __future__ import annotations

import asyncio
import io
import json
import zipfile
from typing import Any

import pytest
from served_harness import Served


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
    assert [(row["_table"], row["body"]) for row in first["values"]] == [("messages", "one"), ("messages", "two")]
    assert first["hasMore"] is False
    await send(chat, "three")
    again = await ask(chat, "/api/list_snapshot", {"snapshot": first["snapshot"]})
    assert again["values"] == first["values"]
    after = await ask(chat, f"/api/document_deltas?cursor={first['snapshot']}")
    assert [(row["body"], row["_deleted"]) for row in after["values"]] == [("three", False)]
    assert after["values"][0]["_ts"] == after["cursor"] > first["snapshot"]
    assert (await ask(chat, f"/api/document_deltas?cursor={after['cursor']}"))["values"] == []


async def test_large_tables_come_in_pages_without_gaps(chat: Served) -> None:
    rows = "\n".join(json.dumps({"n": number}) for number in range(2500)).encode()
    headers = {**chat.kernel_header, "X-Cellstore-Params": json.dumps({"table": "numbers"})}
    assert (await chat.fetch("x/insert", rows, headers)).status == 200
    seen: list[int] = []
    page: dict[str, Any] = {"hasMore": True, "snapshot": None, "cursor": None}
    while page["hasMore"]:
        position = {name: page[name] for name in ("snapshot", "cursor") if page[name] is not None}
        page = await ask(chat, "/api/list_snapshot", {"tableName": "numbers", **position})
        assert len(page["values"]) <= 1024
        seen += [row["n"] for row in page["values"]]
    assert seen == list(range(2500))
    seen, delta = [], {"hasMore": True, "cursor": 0}
    while delta["hasMore"]:
        delta = await ask(chat, "/api/document_deltas", {"cursor": delta["cursor"], "tableName": "numbers"})
        seen += [row["n"] for row in delta["values"]]
    assert seen == list(range(2500))


async def test_schemas_name_every_field(chat: Served) -> None:
    await send(chat, "one")
    schema = (await ask(chat, "/api/json_schemas?deltaSchema=true&format=json"))["messages"]
    assert {"_id", "_creationTime", "_ts", "_deleted", "_table", "_component"} <= set(schema["properties"])
    assert await ask(chat, "/api/test_streaming_export_connection") is None
    columns = await ask(chat, "/api/get_table_column_names")
    assert columns["byComponent"][""][0]["name"] == "messages"


@pytest.mark.parametrize("path", ["/api/list_snapshot", "/api/document_deltas?cursor=0", "/api/stream_function_logs"])
async def test_strangers_see_none_of_it(chat: Served, path: str) -> None:
    assert (await chat.fetch(path)).status == 401
    wrong = await chat.fetch(path, headers={"Authorization": "Convex default|00"})
    assert wrong.status == 401


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


async def test_what_is_not_served_is_no_404(chat: Served) -> None:
    """Convex's command line tries a 404 again, for any method."""
    for path in ("/api/import/start_upload", "/api/update_environment_variables", "/api/deploy2/start_push"):
        assert (await chat.fetch(path, {}, admin(chat))).status == 501
