"""The published `convex` command line, unmodified, against `cellstore serve` with its admin key."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from published import MODULES, NODE, serving
from server_process import ServerProcess

COMMAND = MODULES / "convex" / "bin" / "main.js"

pytestmark = [
    pytest.mark.node,
    pytest.mark.skipif(NODE is None or not COMMAND.is_file(), reason="needs Node.js and the npm package convex"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(tmp_path_factory.mktemp("cli"), "chat.py") as server:
        server.call("mutation", "chat:send", {"author": "ann", "body": "hello"})
        yield server


@pytest.fixture
def project(tmp_path: Path, server: ServerProcess) -> Path:
    """A directory the command line takes for a project that lives on our server."""
    (tmp_path / "package.json").write_text(json.dumps({"name": "here", "dependencies": {"convex": "*"}}))
    (tmp_path / "node_modules").symlink_to(MODULES)
    (tmp_path / "convex").mkdir()
    lines = (f"CONVEX_SELF_HOSTED_URL={server.url}", f"CONVEX_SELF_HOSTED_ADMIN_KEY={server.admin_key()}")
    (tmp_path / ".env.local").write_text("\n".join(lines) + "\n")
    return tmp_path


def convex(project: Path, *words: str, code: int = 0) -> str:
    """Run it; everything it said."""
    env = {**os.environ, "NO_COLOR": "1", "CI": "1", "HOME": str(project)}
    env.pop("CONVEX_DEPLOYMENT", None)
    done = subprocess.run(
        [str(NODE), str(COMMAND), *words], cwd=project, env=env, capture_output=True, text=True, timeout=90, check=False
    )
    said = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", done.stdout + done.stderr)
    assert done.returncode == code, said
    return said


def held(server: ServerProcess, table: str) -> Any:
    """The documents of a table, without what the store adds."""
    body = json.dumps({"path": "chat:rows", "args": {"table": table}}).encode()
    return server.post("/api/query", body, {"Authorization": f"Convex {server.admin_key()}"})["value"]


@contextmanager
def watched(project: Path, *words: str) -> Iterator[Iterator[str]]:
    """Run it until the block ends; what it says, line by line."""
    env = {**os.environ, "NO_COLOR": "1", "CI": "1", "HOME": str(project)}
    command = [str(NODE), str(COMMAND), *words]
    with subprocess.Popen(
        command, cwd=project, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        watchdog = threading.Timer(60, process.kill)
        watchdog.start()
        try:
            yield iter(process.stdout.readline, "")
        finally:
            watchdog.cancel()
            process.kill()


def test_run(project: Path) -> None:
    assert convex(project, "run", "chat:count").strip().endswith("1")
    assert "secret" in convex(project, "run", "chat:secret")  # internal: the admin key may
    assert "no such thing" in convex(project, "run", "chat:refuse", '{"data": "no such thing"}', code=1)
    identity = '{"subject": "bo", "issuer": "i", "name": "Bo"}'
    assert "bo" in convex(project, "run", "chat:who", "--identity", identity)
    assert "chat:send" in convex(project, "run", "chat:nothing", code=1)  # it lists what there is


def test_data(project: Path) -> None:
    assert "messages" in convex(project, "data")
    table = convex(project, "data", "messages", "--limit", "5", "--order", "desc")
    assert "hello" in table
    assert "ann" in table


def test_function_spec(project: Path, server: ServerProcess) -> None:
    said = convex(project, "function-spec")
    spec = json.loads(said[said.index("{") : said.rindex("}") + 1])
    assert spec["url"] == f"{server.url}/cellstore"
    assert {"chat.js:send", "chat.js:secret"} <= {each["identifier"] for each in spec["functions"]}


def test_env(project: Path, server: ServerProcess) -> None:
    assert "No environment variables" in convex(project, "env", "list")
    assert "Successfully set" in convex(project, "env", "set", "COLOUR", "blue")
    convex(project, "env", "set", "OTHER=a=b")
    assert convex(project, "env", "get", "COLOUR").strip() == "blue"
    assert {"COLOUR", "OTHER"} <= {line.partition("=")[0] for line in convex(project, "env", "list").splitlines()}
    assert server.call("query", "chat:colour") == "blue"  # os.environ of a function
    convex(project, "env", "remove", "COLOUR")
    assert "not found" in convex(project, "env", "get", "COLOUR")
    assert server.call("query", "chat:colour") is None
    assert "digits" in convex(project, "env", "set", "9LIVES", "x", code=1)


def test_run_watch_follows_the_data(project: Path, server: ServerProcess) -> None:
    with watched(project, "run", "--watch", "chat:colour") as lines:
        assert any("null" in line for line in lines)
        convex(project, "env", "set", "COLOUR", "green")
        assert any("green" in line for line in lines)
    convex(project, "env", "remove", "COLOUR")


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv"])
def test_import_one_table(project: Path, server: ServerProcess, suffix: str) -> None:
    file = project / f"birds.{suffix}"
    rows = [{"name": "wren", "n": 1}, {"name": "owl, barn", "n": 2.5}]
    file.write_text(
        {
            "jsonl": "".join(json.dumps(row) + "\n" for row in rows),
            "json": json.dumps(rows),
            "csv": '\ufeffname,n\nwren,1\n"owl, barn",2.5\n',
        }[suffix]
    )
    table = f"birds_{suffix}"

    assert "Added 2 documents" in convex(project, "import", "--table", table, str(file))
    assert held(server, table) == rows
    assert "has documents already" in convex(project, "import", "--table", table, str(file), code=1)
    convex(project, "import", "--append", "--table", table, str(file))
    assert held(server, table) == rows * 2
    assert "delete the 4 documents" in convex(project, "import", "--replace", "-y", "--table", table, str(file))
    assert held(server, table) == rows


def test_what_an_import_refuses_is_named_and_nothing_is_replaced(project: Path, server: ServerProcess) -> None:
    (project / "bad.jsonl").write_text('{"n": 1}\n{"n": nonsense}\n')
    said = convex(project, "import", "--replace", "-y", "--table", "messages", str(project / "bad.jsonl"), code=1)
    assert "messages.jsonl, line 2" in said
    assert held(server, "messages")[0]["body"] == "hello"
    said = convex(project, "import", "--component", "x", "--table", "t", str(project / "bad.jsonl"), code=1)
    assert "component" in said


def test_an_export_comes_back_as_it_was(project: Path, server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    target = project / "all.zip"
    convex(project, "export", "--path", str(target))
    before = held(server, "messages")
    server.call("mutation", "chat:send", {"author": "bo", "body": "too much"})
    server.control("insert", b'{"n": 1}', table="extra")
    monkeypatch.setenv("CONVEX_IMPORT_CHUNK_SIZE", "300")  # so that there are several parts
    assert "delete the 2 documents of messages" in convex(project, "import", "--replace-all", "-y", str(target))
    assert (held(server, "messages"), held(server, "extra")) == (before, [])
    assert not list((server.root / ".cellstore" / "default").glob(".cellstore-upload-*"))


def test_network_test(project: Path) -> None:
    assert "Network test passed" in convex(project, "network-test", "--timeout", "60")


def test_export(project: Path, tmp_path: Path) -> None:
    target = tmp_path / "all.zip"
    assert "Created snapshot export" in convex(project, "export", "--path", str(target))
    with zipfile.ZipFile(target) as archive:
        rows = [json.loads(line) for line in archive.read("messages/documents.jsonl").splitlines()]
    assert [row["body"] for row in rows] == ["hello"]


def test_logs(project: Path, server: ServerProcess) -> None:
    with watched(project, "logs", "--history") as lines:
        said = ""
        while "sending hello" not in said:
            said += next(lines)
    assert "M(chat:send)" in said


def test_logs_with_a_wrong_key_end_at_once(project: Path, server: ServerProcess) -> None:
    """It asks again after any answer but 403."""
    said = convex(project, "logs", "--url", server.url, "--admin-key", "default|wrong", code=1)
    assert "do not have permission" in said


def test_a_url_with_our_prefix_serves_as_well(project: Path, server: ServerProcess) -> None:
    """Of which some commands keep the path, and others drop it."""
    place = project / ".env.local"
    place.write_text(place.read_text().replace(server.url, f"{server.url}/cellstore"))
    assert convex(project, "run", "chat:count").strip().endswith("1")
    assert "messages" in convex(project, "data")
    convex(project, "env", "set", "PREFIXED", "yes")
    assert convex(project, "env", "get", "PREFIXED").strip() == "yes"
    convex(project, "export", "--path", str(project / "all.zip"))
    assert zipfile.is_zipfile(project / "all.zip")
