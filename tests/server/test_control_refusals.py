"""The control operations: what no client of ours sends is refused by name, and harms nobody."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from served_harness import Answer, Served

from cellstore.client.sources import modules_of
from cellstore.deploy.pack import pack
from cellstore.functions import registry

CHAT = Path(__file__).parents[1] / "interop" / "chat.py"


async def ask(served: Served, op: str, body: bytes = b"", **params: Any) -> Answer:
    key = {"Authorization": f"Convex {served.app.admin_key('default')}", "X-Cellstore-Params": json.dumps(params)}
    return await served.fetch(f"x/{op}", body, key)


async def test_octets_that_are_no_text_are_refused_and_the_next_rows_go_in(served: Served) -> None:
    refused = await ask(served, "insert", b'{"a":"\xff"}', table="t")
    assert (refused.status, "UTF-8" in refused.json["message"]) == (400, True)
    assert (await ask(served, "insert", b'{"a":1}', table="t")).json["count"] == 1


@pytest.mark.parametrize("unit", [b"{}", b"[]", b'{"definitions": "{}"}', b'{"definitions": "[]", "module": 5}', b"5"])
async def test_what_is_no_unit_is_refused(served: Served, unit: bytes) -> None:
    refused = await ask(served, "deploy", unit)
    assert (refused.status, refused.json["path"]) == (400, "unit"), refused.body


BAD = [
    {"module": 5}, {"module": ""}, {"crons": "x"}, {"hashes": []}, {"sources": 5}, {"session": {}}, {"python": None},
    {"crons": [{"path": "m:gone", "every_s": 5.0}]}, {"crons": [{"every_s": 5.0}]},
]  # fmt: skip
BAD_TIMES = [
    {"cron": "zzz", "tz": "UTC"},
    {"cron": "* * * * *", "tz": "No/Where"},
    {"cron": 5},
    {"every_s": 0},
    {"every_s": "x"},
    {},
]


@pytest.mark.parametrize("change", [*BAD, *({"crons": [{"path": "chat:send", **time}]} for time in BAD_TIMES)])
async def test_a_unit_that_would_not_load_again_is_not_kept(served: Served, change: dict[str, Any]) -> None:
    (module,) = modules_of(CHAT)
    unit = pack(module, registry.handles(module), registry.tables(module)).to_json()
    refused = await ask(served, "deploy", json.dumps(unit | change).encode())
    assert refused.status == 400, refused.body
    deployment = await served.app.deployment("default")
    await deployment.stop()
    assert (await ask(served, "functions")).json["functions"] == []  # it starts again, without it


async def test_page_options_that_are_none_are_refused_by_name(served: Served) -> None:
    await ask(served, "insert", b'{"a":1}', table="t")
    for options in (5, "x", [], {"numItems": 1, "cursor": 5}):
        body = json.dumps({"table": "t", "paginationOpts": options}).encode()
        error = (await ask(served, "query", body, path="_system/cli/tableData")).json["error"]
        assert error["code"] in ("ValidationError", "InvalidCursor"), error


async def test_an_answer_that_is_too_long_for_a_header_leaves_out_what_is(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cellstore.server.handlers.HEADER_CHARS_MAX", 100)
    for name in ("a", "b" * 50, "c" * 50):
        await ask(served, "insert", b"{}", table=name)
    answer = await ask(served, "export", format="zip")
    assert json.loads(answer.headers["X-Cellstore-Result"]).keys() == {"ts", "size"}
    assert answer.body.startswith(b"PK")


class TestNoPlace:
    @pytest.fixture
    def extension_config(self) -> dict[str, Any]:
        return {"data_dir": "/dev/null/stores"}

    async def test_a_store_that_has_no_place_says_so_and_what_to_set(self, served: Served) -> None:
        answer = await served.fetch("x/hello", b"", served.token_header)
        assert (answer.status, answer.json["code"]) == (507, "StorageError")
        assert "CellstoreApp.data_dir" in answer.json["message"]
        wrong = await served.fetch("x/hello", b"", {"Authorization": "Convex default|wrong"})
        assert wrong.status == 401


async def test_what_a_store_holds_is_for_its_owner_only(served: Served) -> None:
    assert stat.S_IMODE(served.app.directory("default").stat().st_mode) == 0o700
