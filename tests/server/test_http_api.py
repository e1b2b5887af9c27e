"""Convex's HTTP function API and the control operations, over a real server."""

import json
from typing import Any

import pytest
from served_harness import Served

from cellstore.errors import Overloaded
from cellstore.reactivity.connection import Hub
from cellstore.runtime.outcome import Outcome


def call(path: str, args: object = None, **more: object) -> dict[str, object]:
    return {"path": path, "args": args or {}, "format": "convex_encoded_json", **more}


async def test_a_query_a_mutation_and_an_action(chat: Served) -> None:
    head = chat.token_header
    sent = await chat.fetch("api/mutation", call("chat:send", [{"author": "ann", "body": "hi"}]), head)
    assert sent.json["status"] == "success"
    assert sent.json["logLines"] == ["[LOG] sending hi"]
    acted = await chat.fetch("api/action", call("chat:act", {"author": "bo"}), head)
    assert acted.json["value"] == "acted"
    listed = await chat.fetch("api/query", call("chat:list"), head)
    assert [message["author"] for message in listed.json["value"]] == ["ann", "bo"]


async def test_numbers_are_written_as_floats_for_clients_that_refuse_integers(chat: Served) -> None:
    answer = await chat.fetch(
        "api/query", call("chat:echo", {"value": {"$integer": "BQAAAAAAAAA="}}), chat.token_header
    )
    assert b'"value":5.0' in answer.body


async def test_the_clean_format_is_the_default(chat: Served) -> None:
    body = {"path": "chat:echo", "args": {"value": {"$bytes": "AQI="}}}
    assert (await chat.fetch("api/query", body, chat.token_header)).json["value"] == "AQI="


@pytest.mark.parametrize("path", ["api/query", "/api/query", "//api/query", "/a%40b//cellstore//api/query"])
async def test_the_api_answers_under_the_prefix_and_at_the_root(chat: Served, path: str) -> None:
    answer = await chat.fetch(path, call("chat:count"), chat.token_header)
    assert answer.json["value"] == 0.0


async def test_a_function_that_fails_is_still_200(chat: Served) -> None:
    answer = await chat.fetch("api/mutation", call("chat:fail"), chat.token_header)
    assert answer.status == 200
    assert answer.json["status"] == "error"
    assert "a bug on line such and such" in answer.json["errorMessage"]
    assert "errorData" not in answer.json


@pytest.mark.parametrize("kind", ["query", "mutation"])
async def test_too_much_to_do_is_no_failure_of_the_function(chat: Served, kind: str, monkeypatch: Any) -> None:
    async def full(self: Any, *_args: Any, **_more: Any) -> Outcome:
        return Outcome.failed(Overloaded("1000 calls are waiting", queue="calls"))

    monkeypatch.setattr(Hub, kind, full)
    answer = await chat.fetch(f"api/{kind}", call("chat:count"), chat.token_header)
    assert (answer.status, answer.json["code"]) == (503, "Overloaded")


async def test_application_errors_carry_their_data(chat: Served) -> None:
    answer = await chat.fetch("api/mutation", call("chat:refuse", {"data": {"code": 7.0}}), chat.token_header)
    assert answer.json["errorData"] == {"code": 7.0}


async def test_a_consistent_set_of_queries(chat: Served) -> None:
    ts = (await chat.fetch("api/query_ts", b"", chat.token_header)).json["ts"]
    await chat.fetch("api/mutation", call("chat:send", {"author": "a", "body": "b"}), chat.token_header)
    old = await chat.fetch("api/query_at_ts", call("chat:count", ts=ts), chat.token_header)
    new = await chat.fetch("api/query", call("chat:count"), chat.token_header)
    assert (old.json["value"], new.json["value"]) == (0.0, 1.0)
    future = await chat.fetch("api/query_at_ts", call("chat:count", ts="/////////38="), chat.token_header)
    assert future.status == 400
    batch = await chat.fetch("api/query_batch", {"queries": [call("chat:count")] * 2}, chat.token_header)
    assert [each["value"] for each in batch.json["results"]] == [1.0, 1.0]


async def test_any_function_by_path_or_url(chat: Served) -> None:
    by_body = await chat.fetch("api/function", call("chat:send", {"author": "a", "body": "b"}), chat.token_header)
    by_url = await chat.fetch("api/run/chat/count", {"args": {}}, chat.token_header)
    assert by_body.json["status"] == "success"
    assert by_url.json["value"] == 1
    by_get = await chat.fetch("api/query?path=chat:count&args=%7B%7D", headers=chat.token_header)
    assert by_get.json["value"] == 1


async def test_a_missing_and_an_internal_function_answer_alike(chat: Served) -> None:
    missing = (await chat.fetch("api/query", call("chat:nothing"), chat.token_header)).json["errorMessage"]
    internal = (await chat.fetch("api/query", call("chat:secret"), chat.token_header)).json["errorMessage"]
    assert "Could not find public function" in missing

    def shape(text: str) -> str:
        return text.partition("] ")[2].replace("nothing", "…").replace("secret", "…")

    assert shape(missing) == shape(internal)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{nonsense", "ValidationError"),
        (b"[]", "ValidationError"),
        (json.dumps({"args": {}}).encode(), "ValidationError"),
        (json.dumps({"path": "a:b", "args": [1, 2]}).encode(), "ValidationError"),
        (json.dumps({"path": "a:b", "args": {"x": {"$integer": "?"}}}).encode(), "ValidationError"),
        (json.dumps({"path": "a:b", "format": "xml"}).encode(), "BadFormat"),
    ],
)
async def test_a_request_that_cannot_be_understood_is_400_with_a_reason(served: Served, body: bytes, code: str) -> None:
    answer = await served.fetch("api/query", body, served.token_header)
    assert answer.status == 400
    assert answer.json["code"] == code
    assert answer.json["message"]


async def test_probes_answer_without_credentials(served: Served) -> None:
    assert (await served.fetch("/instance_name")).body == b"default"
    assert (await served.fetch("/echo", b"12345")).body == b"12345"
    assert b"cellstore" in (await served.fetch("")).body


async def test_hello_says_who_serves(served: Served) -> None:
    answer = await served.fetch("x/hello", b"", served.kernel_header)
    assert answer.json["protocol"] == 1
    assert answer.json["permissions"] == ["execute", "read", "write"]


async def test_control_lists_functions_and_tables(chat: Served) -> None:
    await chat.fetch("api/mutation", call("chat:send", {"author": "a", "body": "b"}), chat.token_header)
    functions = (await chat.fetch("x/functions", b"", chat.token_header)).json["functions"]
    assert {"chat:list", "chat:send", "chat:act"} <= {function["path"] for function in functions}
    (table,) = (await chat.fetch("x/tables", b"", chat.token_header)).json["tables"]
    assert (table["name"], table["count"]) == ("messages", 1)


async def test_rows_go_in_by_insert_and_out_by_a_query_at_a_moment(chat: Served) -> None:
    rows = b"\n".join(json.dumps({"author": "bulk", "body": str(n)}).encode() for n in range(100))
    head = {**chat.token_header, "X-Cellstore-Params": json.dumps({"table": "messages"})}
    before = (await chat.fetch("x/snapshot_ts", b"", chat.token_header)).json["ts"]
    loaded = (await chat.fetch("x/insert", rows, head)).json
    assert (loaded["count"], loaded["created"]) == (100, True)
    for ts, expected in ((before, 0), (loaded["ts"], 100)):
        params = {"X-Cellstore-Params": json.dumps({"path": "chat:count", "ts": ts})}
        answer = await chat.fetch("x/query", b"{}", {**chat.token_header, **params})
        assert answer.json["value"] == expected


async def test_an_unknown_operation_names_those_there_are(served: Served) -> None:
    answer = await served.fetch("x/nonsense", b"", served.token_header)
    assert answer.status == 404
    assert "snapshot_ts" in answer.json["message"]


async def test_named_deployments_are_separate_stores(chat: Served) -> None:
    head = {**chat.token_header, "X-Cellstore-Deployment": "other"}
    assert (await chat.fetch("x/functions", b"", head)).json["functions"] == []
    assert (await chat.fetch("d/other/x/hello", b"", chat.token_header)).json["deployment"] == "other"
    bad = await chat.fetch("x/hello", b"", {**chat.token_header, "X-Cellstore-Deployment": "../evil"})
    assert bad.status == 404
