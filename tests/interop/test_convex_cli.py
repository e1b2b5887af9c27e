"""The published `convex` command line, unmodified, against `cellstore serve` with its admin key."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from server_process import ServerProcess

HERE = Path(__file__).parent
NODE, MODULES = shutil.which("node"), os.environ.get("CELLSTORE_NODE_MODULES", "")
COMMAND = Path(MODULES) / "convex" / "bin" / "main.js"

pytestmark = [
    pytest.mark.node,
    pytest.mark.skipif(NODE is None or not COMMAND.is_file(), reason="needs Node.js and the npm package convex"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path_factory.mktemp("cli")).start()
    try:
        server.deploy(HERE / "chat.py")
        server.call("mutation", "chat:send", {"author": "ann", "body": "hello"})
        yield server
    finally:
        server.stop()


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


def test_env_has_nothing_and_says_where_variables_belong(project: Path) -> None:
    assert "No environment variables" in convex(project, "env", "list")
    assert "where it is started" in convex(project, "env", "set", "NAME", "value", code=1)


def test_export(project: Path, tmp_path: Path) -> None:
    target = tmp_path / "all.zip"
    assert "Created snapshot export" in convex(project, "export", "--path", str(target))
    with zipfile.ZipFile(target) as archive:
        rows = [json.loads(line) for line in archive.read("messages/documents.jsonl").splitlines()]
    assert [row["body"] for row in rows] == ["hello"]


def test_logs(project: Path, server: ServerProcess) -> None:
    env = {**os.environ, "NO_COLOR": "1", "HOME": str(project)}
    command = [str(NODE), str(COMMAND), "logs", "--history"]
    with subprocess.Popen(
        command, cwd=project, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as logs:
        assert logs.stdout is not None
        watchdog = threading.Timer(60, logs.kill)
        watchdog.start()
        try:
            said = ""
            while "sending hello" not in said and (line := logs.stdout.readline()):
                said += line
        finally:
            watchdog.cancel()
            logs.kill()
    assert "M(chat:send)" in said
    assert "sending hello" in said
