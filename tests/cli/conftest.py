"""One real `cellstore serve` for the commands that talk to a server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result
from server_process import TOKEN, ServerProcess

from cellstore.cli import main

TASKS = """
import cellstore as cs

class Task(cs.Table, name="tasks"):
    text: str
    done: bool = False
    by_done = cs.Index("done")

@cs.query
def texts(ctx, limit: int = 10):
    return [task.text for task in ctx.db.query("tasks").take(limit)]

@cs.mutation
def add(ctx, text: str):
    print("adding", text)
    return ctx.db.insert("tasks", {"text": text})

@cs.mutation
def stumble(ctx):
    return {}["no such key"]

@cs.action
async def shout(ctx, text: str):
    return text.upper()
"""


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path_factory.mktemp("served")).start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the command line finds it: nothing is defined, not even what other test files define at their top."""
    from cellstore.functions import registry

    monkeypatch.setattr(registry, "_handles", {})
    monkeypatch.setattr(registry, "_tables", {})


@pytest.fixture
def tasks(server: ServerProcess, fresh_process: None) -> Any:
    """`command(…)` against the server, with the functions of TASKS deployed by the command itself."""
    file = server.root / "tasks.py"
    file.write_text(TASKS)

    def command(*words: str, token: str = TOKEN) -> Result:
        return CliRunner().invoke(main, [*words, "--url", server.url, "--token", token])

    deployed = command("deploy", str(file))
    assert deployed.exit_code == 0, deployed.output
    return command
