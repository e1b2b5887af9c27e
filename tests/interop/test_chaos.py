"""Clients on a network that delays, swallows and cuts, while mutations run: nothing torn, nothing twice, nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rough_proxy import RoughProxy
from server_process import TOKEN, ServerProcess

import cellstore as cs

HERE = Path(__file__).parent
MUTATIONS = 40
NODE, MODULES = shutil.which("node"), os.environ.get("CELLSTORE_NODE_MODULES", "")
QUERIES = {"entries": "bank:entries", "total": "bank:total"} | {
    f"book{n}": ("bank:book", {"number": n}) for n in range(4)
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path, allow_anonymous=True).start()
    try:
        server.deploy(HERE / "bank.py")
        server.call("mutation", "bank:open_books")
        yield server
    finally:
        server.stop()


@pytest.fixture
def proxy(server: ServerProcess) -> Iterator[RoughProxy]:
    proxy = RoughProxy(server.port, seed=7)
    yield proxy
    proxy.stop()


class Client(threading.Thread):
    """One of ours: it posts, some of it while it is away, and looks at every state it is shown."""

    def __init__(self, port: int, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.db = cs.connect(f"http://127.0.0.1:{port}", token=TOKEN)
        self.torn: list[Any] = []
        self.results: list[int] = []
        self.longest = 0
        self.view = self.db.together(self.look, **QUERIES)

    def look(self, value: dict[str, Any]) -> None:
        books = sum(amount for n in range(4) for amount in value[f"book{n}"])
        numbered = [entry["total"] for entry in value["entries"]] == list(range(1, len(value["entries"]) + 1))
        if books != 100 or value["total"] != 100 or not numbered or len(value["entries"]) < self.longest:
            self.torn.append(value)
        self.longest = len(value["entries"])

    def run(self) -> None:
        pending = []
        for n in range(MUTATIONS):
            pending.append(self.db.enqueue("bank:post", who=self.name, n=n))
            if n % 5 == 4:
                pending[-1].result(timeout=90)
        self.results = [each.result(timeout=90) for each in pending]


def test_nothing_is_torn_nothing_happens_twice_and_everybody_ends_up_to_date(
    server: ServerProcess, proxy: RoughProxy
) -> None:
    clients = [Client(proxy.port, f"client {n}") for n in range(4)]
    try:
        for client in clients:
            client.view.wait(timeout=30)
        proxy.rough()
        for client in clients:
            client.start()
        for client in clients:
            client.join(120)
        assert proxy.cuts > 5, "the network behaved too well to prove anything"
        proxy.calm()
        entries = server.call("query", "bank:entries")
        counted = Counter((entry["who"], entry["n"]) for entry in entries)
        assert counted == {(client.name, n): 1 for client in clients for n in range(MUTATIONS)}
        for client in clients:
            mine = {entry["n"]: entry["total"] for entry in entries if entry["who"] == client.name}
            assert client.results == [mine[n] for n in range(MUTATIONS)]  # the answer of a repeat is the first answer
            client.view.until(lambda value: len(value["entries"]) == len(entries), timeout=60)
            assert client.view.value["entries"] == entries
            assert client.torn == []
    finally:
        for client in clients:
            client.db.close()


@pytest.mark.node
@pytest.mark.skipif(NODE is None or not (Path(MODULES) / "convex").is_dir(), reason="needs Node.js and the npm client")
def test_the_npm_client_on_such_a_network(server: ServerProcess, proxy: RoughProxy) -> None:
    proxy.rough()
    command = [str(NODE), str(HERE / "npm_chaos.mjs"), f"http://127.0.0.1:{proxy.port}/cellstore", str(MUTATIONS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as node:
        assert node.stdout is not None
        watchdog = threading.Timer(120, node.kill)
        watchdog.start()
        try:
            done = json.loads(node.stdout.readline())["value"]
            proxy.calm()
            entries = server.call("query", "bank:entries")
            assert [entry["n"] for entry in entries] == list(range(MUTATIONS))  # in order, each once
            assert done == {"results": list(range(1, MUTATIONS + 1)), "torn": 0}
            said, _ = node.communicate("now\n", timeout=30)
            assert json.loads(said)["value"] == {"held": entries, "torn": 0}
        finally:
            watchdog.cancel()
            node.kill()
