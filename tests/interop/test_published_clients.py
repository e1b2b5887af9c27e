"""The published Convex clients, unmodified, against our server: the transcript of what they saw is what is asserted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from published import client, needs_npm, needs_pypi, serving
from server_process import TOKEN, ServerProcess


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(tmp_path_factory.mktemp("interop"), "chat.py") as server:
        yield server


def run(script: str, *words: str) -> dict[str, Any]:
    """What a client said, by topic."""
    with client(script, *words) as process:
        printed, _ = process.communicate(timeout=120)
    said = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    transcript = {line["what"]: line["value"] for line in said}
    assert "end" in transcript, printed
    return transcript


@pytest.fixture(scope="module")
def npm(server: ServerProcess) -> dict[str, Any]:
    return run("npm_client.mjs", server.url + "/cellstore", server.admin_key())


@pytest.fixture(scope="module")
def pypi(server: ServerProcess) -> dict[str, Any]:
    return run("pypi_client.py", server.url, TOKEN, server.admin_key())


@needs_npm
class TestNpm:
    def test_a_promise_resolves_when_its_effects_are_shown(self, npm: dict[str, Any]) -> None:
        assert npm["first"] == []
        assert npm["shown when the promise resolved"] == [[{"author": "ann", "body": "hello"}], 1]
        assert npm["id"] is True

    def test_errors_arrive_as_convex_gives_them(self, npm: dict[str, Any]) -> None:
        assert npm["bug"]["message"].startswith("[CONVEX M(chat:fail)] [Request ID: ")
        assert "a bug on line" not in npm["bug"]["message"]  # strangers are told no more
        assert npm["refusal"]["data"] == {"code": 7, "list": [1, "x"]}
        assert npm["refusal with null"]["kind"] == "ConvexError"
        assert npm["refusal with null"]["data"] is None
        assert "author" in npm["wrong arguments"]["message"]
        assert npm["action refusal"]["data"] == {"code": 7}
        assert "Server Error" in npm["broken query"]["message"]

    def test_internal_and_missing_functions_look_alike(self, npm: dict[str, Any]) -> None:
        for topic in ("internal query", "missing query", "http internal"):
            assert "Could not find public function" in npm[topic]["message"]

    def test_what_an_action_changed_is_shown(self, npm: dict[str, Any]) -> None:
        assert npm["action"] == "acted"
        assert npm["after the action"][-1] == {"author": "bo", "body": "from an action"}

    def test_every_kind_of_value_comes_back(self, npm: dict[str, Any]) -> None:
        assert npm["values"] == {
            "big": {"bigint": str(2**62)},
            "small": 5,
            "nan": "NaN",
            "negative": "-0",
            "infinite": "Infinity",
            "bytes": {"bytes": [1, 2]},
            "text": "äöü €",
            "nested": [{"a": [None, True, 1.5]}],
        }

    def test_mutations_keep_their_order(self, npm: dict[str, Any]) -> None:
        assert npm["many in order"] == 20
        assert npm["order"] == list(range(20))

    def test_the_http_client(self, npm: dict[str, Any]) -> None:
        assert npm["http query"] == 22
        assert isinstance(npm["http mutation"], str)
        assert npm["http action"] == "acted"
        assert npm["http refusal"]["data"] == "no"
        assert npm["http bug"]["message"].endswith("Server Error")
        assert npm["http consistent"] == 24
        assert npm["http admin internal"] == "secret"
        assert npm["http function"] == 24


@needs_pypi
class TestPypi:
    def test_subscribe_mutate_and_see_it(self, pypi: dict[str, Any]) -> None:
        assert isinstance(pypi["first"], list)
        assert pypi["mutation"] is True
        assert {"author": "py", "body": "hello"} in pypi["update"] or len(pypi["update"]) > 0
        assert pypi["query"] >= 1
        assert pypi["action"] == "acted"

    def test_values(self, pypi: dict[str, Any]) -> None:
        assert pypi["values"] == {"n": 3.0, "f": 1.5, "list": [None, True, "ü"]}
        assert pypi["int64"] == 2**62
        assert pypi["large"] == 20 << 20  # a frame of more than 16 MiB would end its connection, again and again
        assert "one message to a client" in pypi["too large"]["message"]  # and so would a message of more than 64 MiB

    def test_errors(self, pypi: dict[str, Any]) -> None:
        assert pypi["bug"]["kind"] == "Exception"
        assert pypi["refusal"] == {"kind": "ConvexError", "data": {"code": 7.0}}
        assert "Server Error" in pypi["broken query"]["message"]
        assert "Could not find public function" in pypi["missing"]["message"]

    def test_it_may_sign_in_with_a_jupyter_token_or_an_admin_key(self, pypi: dict[str, Any]) -> None:
        assert pypi["nobody"] is None
        assert pypi["with a Jupyter token"] == "token"
        assert "Could not find public function" in pypi["internal"]["message"]
        assert pypi["internal as admin"] == "secret"

    def test_the_http_client(self, pypi: dict[str, Any]) -> None:
        assert pypi["http query"] >= 1
        assert pypi["http mutation"] is True
        assert pypi["http refusal"]["data"] == "no"
        assert "Server Error" in pypi["http bug"]["message"]
        assert pypi["http wrong token"]["message"].startswith("401 Unauthenticated: ")
        assert pypi["http token"] == "token"
        assert pypi["http admin"] == "secret"
