"""Clients on a network that delays, swallows and cuts, while mutations run: nothing torn, nothing twice, nothing lost."""

from __future__ import annotations

import json
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from published import client, needs_npm, needs_pypi, serving
from rough_proxy import RoughProxy
from server_process import TOKEN, ServerProcess

import cellstore as cs

MUTATIONS = 40
PYPI_MUTATIONS = 120  # one after the other: it takes more of them to meet as many cuts
QUERIES = {"entries": "bank:entries", "total": "bank:total"} | {
    f"book{n}": ("bank:book", {"number": n}) for n in range(4)
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with serving(tmp_path, "bank.py", "bank:open_books") as server:
        yield server


@pytest.fixture
def proxy(server: ServerProcess) -> Iterator[RoughProxy]:
    proxy = RoughProxy(server.port, seed=7)
    yield proxy
    proxy.stop()


@pytest.fixture
def own_proxy(server: ServerProcess) -> Iterator[RoughProxy]:
    """Of one client alone."""
    proxy = RoughProxy(server.port, seed=8)
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


@needs_npm
def test_the_npm_client_on_such_a_network(server: ServerProcess, proxy: RoughProxy) -> None:
    proxy.rough()
    with client("npm_chaos.mjs", f"http://127.0.0.1:{proxy.port}/cellstore", str(MUTATIONS)) as npm:
        done = json.loads(said(npm))["value"]
        proxy.calm()
        entries = server.call("query", "bank:entries")
        assert [entry["n"] for entry in entries] == list(range(MUTATIONS))  # in order, each once
        assert done == {"results": list(range(1, MUTATIONS + 1)), "torn": 0}
        assert json.loads(npm.communicate("now\n", timeout=30)[0])["value"] == {"held": entries, "torn": 0}


@needs_pypi
def test_the_pypi_clients_on_such_a_network(server: ServerProcess, proxy: RoughProxy, own_proxy: RoughProxy) -> None:
    """They have no sessions: what was not answered is sent again by one, and given up by the other.

    The first drops a connection on which it is answered what a transition has ended: nothing here makes it do so.
    """
    url, own_url, count = f"http://127.0.0.1:{proxy.port}", f"http://127.0.0.1:{own_proxy.port}", str(PYPI_MUTATIONS)
    with (
        client("pypi_chaos.py", "watch", url) as watcher,
        client("pypi_chaos.py", "write", own_url, count) as writer,
        client("pypi_chaos.py", "http", url, count) as http,
    ):
        assert said(watcher) == "ready\n"
        proxy.rough()
        own_proxy.rough()
        answers, answered = json.loads(said(writer)), json.loads(said(http))
        assert min(proxy.cuts, own_proxy.cuts) > 3, "the network behaved too well to prove anything"
        assert own_proxy.accepted <= 1 + own_proxy.cuts  # each connection but the first follows one that was cut
        proxy.calm()
        server.call("mutation", "bank:post", {"who": "end", "n": 0})
        seen = json.loads(said(watcher))
    entries = server.call("query", "bank:entries")
    assert (seen["entries"], seen["torn"]) == (entries, 0)
    assert seen["states"] > 5
    counted = Counter((entry["who"], entry["n"]) for entry in entries)
    for n in range(PYPI_MUTATIONS):
        assert counted["pypi", n] >= 1  # also where the client lost the answer
        totals = [entry["total"] for entry in entries if (entry["who"], entry["n"]) == ("pypi", n)]
        assert answers[n] is None or answers[n] in totals
        assert counted["http", n] <= 1
    assert any(answers)
    assert all(counted["http", n] == 1 for n in answered)


def said(process: subprocess.Popen[str], timeout_s: float = 100) -> str:
    """The next line a client prints."""
    assert process.stdout is not None
    watchdog = threading.Timer(timeout_s, process.kill)
    watchdog.start()
    try:
        return process.stdout.readline()
    finally:
        watchdog.cancel()
