"""Of each kind of function, through each door: what is internal is not there, refusals arrive, bugs say nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from served_harness import Served

SOURCE = """
import cellstore as cs

for kind in (cs.query, cs.mutation, cs.action):
    @kind(name=f"hidden_{kind.__name__}", internal=True)
    def hidden(ctx):
        return "hidden"

    @kind(name=f"refuse_{kind.__name__}")
    def refuse(ctx):
        print("said")
        raise cs.ApplicationError({"code": 7, "list": [1, "x"]})

    @kind(name=f"fail_{kind.__name__}")
    def fail(ctx):
        print("said")
        raise ValueError("a secret")
"""
KINDS = ["query", "mutation", "action"]
Failure = dict[str, Any]


@pytest.fixture
def extension_config() -> dict[str, Any]:
    return {"allow_anonymous": True}


@pytest.fixture
def stranger(served: Served, jp_asyncio_loop: Any, tmp_path: Path) -> Served:
    file = tmp_path / "stranger_doors.py"
    file.write_text(SOURCE)
    jp_asyncio_loop.run_until_complete(served.deploy(file))
    return served


async def by_http(served: Served, kind: str, path: str) -> Failure:
    answer = (await served.fetch(f"api/{kind}", {"path": path, "args": {}})).json
    assert answer["status"] == "error"
    return {"message": answer["errorMessage"], "data": answer.get("errorData"), "logs": answer["logLines"]}


async def by_socket(served: Served, kind: str, path: str) -> Failure:
    wire = await served.socket()
    if kind == "query":
        await wire.subscribe(0, path)
        answer = await wire.result(0)
        assert answer["type"] == "QueryFailed"
        message = answer["errorMessage"]
    else:
        answer = await wire.call(kind.capitalize(), path)
        assert answer["success"] is False
        message = answer["result"]
    return {"message": message, "data": answer.get("errorData"), "logs": answer["logLines"]}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ask", [by_http, by_socket])
class TestEachDoor:
    async def test_what_is_internal_is_as_if_it_were_not_there(self, stranger: Served, ask: Any, kind: str) -> None:
        hidden, missing = [await ask(stranger, kind, f"stranger_doors:{what}_{kind}") for what in ("hidden", "absent")]
        assert "Could not find public function" in hidden["message"]
        for failure in (hidden, missing):
            failure["message"] = re.sub(r"Request ID: \w+|hidden|absent", "…", failure["message"])
        assert hidden == missing

    async def test_the_data_of_a_refusal_arrives(self, stranger: Served, ask: Any, kind: str) -> None:
        assert (await ask(stranger, kind, f"stranger_doors:refuse_{kind}"))["data"] == {"code": 7, "list": [1, "x"]}

    async def test_a_bug_tells_nothing_but_its_number(self, stranger: Served, ask: Any, kind: str) -> None:
        failed = await ask(stranger, kind, f"stranger_doors:fail_{kind}")
        assert re.fullmatch(r"\[Request ID: \w+\] Server Error", failed["message"])
        assert (failed["data"], failed["logs"]) == (None, [])
