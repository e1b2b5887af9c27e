"""Two of our clients and the npm one watch two documents while money moves between them: nobody ever sees it on the way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server_process import TOKEN, ServerProcess

from cellstore.client.connect import connect
from cellstore.client.database import Database

HERE = Path(__file__).parent
NODE, MODULES = shutil.which("node"), os.environ.get("CELLSTORE_NODE_MODULES", "")
EACH = 40

needs_npm = pytest.mark.skipif(
    NODE is None or not (Path(MODULES) / "convex").is_dir() or not MODULES,
    reason="needs Node.js and CELLSTORE_NODE_MODULES with the npm packages convex and ws",
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path, allow_anonymous=True).start()
    try:
        server.deploy(HERE / "ledger.py")
        server.call("mutation", "ledger:open_accounts")
        yield server
    finally:
        server.stop()


@pytest.fixture
def npm(server: ServerProcess) -> Iterator[subprocess.Popen[str]]:
    """The npm client, which has been shown the beginning."""
    command = [str(NODE), str(HERE / "npm_watch.mjs"), server.url + "/cellstore", str(100 - 2 * EACH)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())[0] == {"left": 100, "right": 100}
            yield process
        finally:
            process.kill()


def move(db: Database) -> None:
    for _ in range(EACH):
        db.mutation("ledger:transfer", amount=1)


@needs_npm
@pytest.mark.node
def test_no_client_ever_shows_money_on_its_way(server: ServerProcess, npm: subprocess.Popen[str]) -> None:
    seen: dict[str, list[dict[str, Any]]] = {"ann": [], "bo": []}
    with connect(server.url, TOKEN) as ann, connect(server.url, TOKEN) as bo:
        views = [db.subscribe("ledger:amounts", seen[name].append) for name, db in (("ann", ann), ("bo", bo))]
        movers = [threading.Thread(target=move, args=(db,), daemon=True) for db in (ann, bo)]
        for mover in movers:
            mover.start()
        shown, _ = npm.communicate(timeout=60)
        for view in views:
            view.wait(lambda amounts: amounts["left"] == 100 - 2 * EACH, 30)
            view.close()
    npm_saw = [json.loads(line) for line in shown.splitlines()]
    assert npm.returncode == 0
    assert len(npm_saw) > 5
    for amounts in [*seen["ann"], *seen["bo"], *(amounts for amounts, _ in npm_saw)]:
        assert amounts["left"] + amounts["right"] == 200
    for amounts, held in npm_saw:  # nor do its queries disagree with each other
        assert held in ([None, None], [amounts["left"], amounts["right"]])
