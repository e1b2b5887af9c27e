"""Two-account transfers, durable: `python tests/bench/transfers.py [seconds] [--one-row]`.

    cellstore   a mutation in a worker, called over the WebSocket, answered after the fsync
    peer        Node's HTTP server over SQLite (better-sqlite3), one durable transaction a request; in the same run, where
                Node and that package are present (CELLSTORE_NODE_MODULES). Python's sqlite3 behind a bare asyncio HTTP
                server where they are not

100,000 accounts, clients with one request in flight each, all of them in this one process so that neither side is driven
better than the other. `uniform` picks both accounts evenly, `Zipf 1.5` picks nearly always the same few. In the end the
money is counted. The last line starts a mutation of some seconds on the hottest accounts in the middle of a contended run.

`--one-row` prints only how 64 clients fare who all take from one account, against 64 that pick evenly.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import numpy as np
from server_process import TOKEN, ServerProcess

ACCOUNTS, START_BALANCE = 100_000, 1000
CLIENTS = (1, 4, 16)
HERE = Path(__file__).parent
Pairs = Iterator[tuple[int, int]]


def pairs(kind: str, seed: int) -> Pairs:
    """Endless pairs of different accounts."""
    dice = np.random.default_rng(seed)
    while kind == "one row":
        yield from ((0, number) for number in dice.integers(1, ACCOUNTS, 4096).tolist())
    while True:
        even = kind == "uniform"
        drawn = dice.integers(0, ACCOUNTS, (4096, 2)) if even else (dice.zipf(1.5, (4096, 2)) - 1) % ACCOUNTS
        for a, b in drawn.tolist():
            if a != b:
                yield a, b


class Line(asyncio.Protocol):
    """One connection with one request in flight. Frames are made by hand: the driver must not be what is measured."""

    def __init__(self) -> None:
        self._buffer = b""
        self._waiter: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(exc or ConnectionError("the server hung up"))

    def cut(self, buffer: bytes) -> tuple[bytes, bytes] | None:
        """(first complete answer, rest), or None."""
        raise NotImplementedError

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done() and (found := self.cut(self._buffer)) is not None:
            answer, self._buffer = found
            self._waiter.set_result(answer)

    async def answer(self) -> bytes:
        self._waiter = asyncio.get_running_loop().create_future()
        self._wake()
        return await self._waiter


class HttpLine(Line):
    """Keep-alive HTTP."""

    def cut(self, buffer: bytes) -> tuple[bytes, bytes] | None:
        head, mark, rest = buffer.partition(b"\r\n\r\n")
        if not mark:
            return None
        lower = head.lower()
        if b"transfer-encoding: chunked" in lower:
            end = rest.find(b"0\r\n\r\n")
            return None if end < 0 else (head + rest[:end], rest[end + 5 :])
        length = int(lower.partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        return (head, rest[length:]) if len(rest) >= length else None

    async def transfer(self, a: int, b: int) -> None:
        self.transport.write(b"POST /?a=%d&b=%d HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n" % (a, b))
        answer = await self.answer()
        assert answer.startswith(b"HTTP/1.1 200"), answer


class SocketLine(Line):
    """A WebSocket that speaks the sync protocol; masked with zeros, which the standard allows and costs nothing."""

    ids: list[str]

    def __init__(self, ids: list[str]) -> None:
        super().__init__()
        self.ids, self._is_open, self._number = ids, False, 0

    def cut(self, buffer: bytes) -> tuple[bytes, bytes] | None:
        if not self._is_open:
            head, mark, rest = buffer.partition(b"\r\n\r\n")
            return (head, rest) if mark else None
        if len(buffer) < 2:
            return None
        length, start = buffer[1] & 127, 2
        if length >= 126:
            start = 4 if length == 126 else 10
            length = int.from_bytes(buffer[2:start], "big")
        end = start + length
        return (buffer[start:end], buffer[end:]) if len(buffer) >= end else None

    def send(self, message: dict[str, Any]) -> None:
        text = json.dumps(message).encode()
        head = b"\x81" + (bytes([0x80 | len(text)]) if len(text) < 126 else b"\xfe" + len(text).to_bytes(2, "big"))
        self.transport.write(head + b"\0\0\0\0" + text)

    async def open(self) -> None:
        self.transport.write(
            b"GET /cellstore/api/sync HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            b"Authorization: token " + TOKEN.encode() + b"\r\n\r\n"
        )
        answer = await self.answer()
        assert b" 101 " in answer, answer
        self._is_open = True
        self.send({"type": "Connect", "sessionId": f"bench-{os.urandom(8).hex()}", "exact": True})

    async def mutate(self, path: str, **args: Any) -> dict[str, Any]:
        self._number += 1
        self.send({"type": "Mutation", "requestId": self._number, "udfPath": path, "args": [args]})
        while True:
            frame = await self.answer()
            if b'"MutationResponse"' in frame:
                response: dict[str, Any] = json.loads(frame)
                assert response["success"], response
                return response

    async def transfer(self, a: int, b: int) -> None:
        await self.mutate("bank:transfer", source=self.ids[a], target=self.ids[b], amount=1)


Lines = list[Any]


async def rate(lines: Lines, kind: str, seconds: float) -> float:
    """Transfers a second."""
    done, end = 0, time.perf_counter() + seconds

    async def client(line: Any, source: Pairs) -> None:
        nonlocal done
        while time.perf_counter() < end:
            await line.transfer(*next(source))
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*[client(line, pairs(kind, seed)) for seed, line in enumerate(lines)])
    return done / (time.perf_counter() - began)


async def dial(port: int, count: int, make: Any) -> Lines:
    loop = asyncio.get_running_loop()
    lines = [(await loop.create_connection(make, "127.0.0.1", port))[1] for _ in range(count)]
    for line in lines:
        if isinstance(line, SocketLine):
            await line.open()
    return lines


async def table(name: str, port: int, make: Any, seconds: float) -> dict[tuple[str, int], float]:
    found: dict[tuple[str, int], float] = {}
    for clients in CLIENTS:
        for kind in ("uniform", "Zipf 1.5"):
            lines = await dial(port, clients, make)
            await rate(lines, kind, 0.5)
            found[kind, clients] = await rate(lines, kind, seconds)
            for line in lines:
                line.transport.close()
    for kind in ("uniform", "Zipf 1.5"):
        print(f"{name:>12} {kind:>9}" + "".join(f"{found[kind, clients]:>12,.0f}" for clients in CLIENTS))
    return found


def cpu_s(pid: int) -> float:
    """Seconds of processor time a process has used (Linux; 0 elsewhere)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """The processes below one."""
    found = [int(each) for task in Path(f"/proc/{pid}/task").glob("*/children") for each in task.read_text().split()]
    return found + [below for each in found for below in children(each)]


async def processor_time(server: ServerProcess, ids: list[str], seconds: float) -> None:
    """What a transfer costs host and workers, which a noisy machine changes less than it does the rates."""
    assert server.process is not None
    host, workers = server.process.pid, children(server.process.pid)
    lines = await dial(server.port, 16, lambda: SocketLine(ids))
    await rate(lines, "uniform", 0.5)
    before = cpu_s(host), sum(map(cpu_s, workers))
    done = await rate(lines, "uniform", seconds) * seconds
    after = cpu_s(host), sum(map(cpu_s, workers))
    used = [(b - a) / done * 1e6 for a, b in zip(before, after, strict=True)]
    print(f"processor time of a transfer at 16 clients: host {used[0]:.0f} µs, workers {used[1]:.0f} µs")


async def contended_with_a_slow_one(port: int, ids: list[str], seconds: float) -> None:
    """Fifteen clients on the hot accounts, and one mutation that takes its time."""
    slow, *lines = await dial(port, 16, lambda: SocketLine(ids))
    before = await rate(lines, "Zipf 1.5", seconds)
    began = time.perf_counter()
    ran = asyncio.ensure_future(slow.mutate("bank:slow_transfer", source=ids[0], target=ids[1], rounds=12_000_000))
    beside = await rate(lines, "Zipf 1.5", 2 * seconds)
    busy = asyncio.ensure_future(rate(lines, "Zipf 1.5", 30.0)) if not ran.done() else None
    await ran
    took = time.perf_counter() - began
    if busy is not None:
        busy.cancel()
    print(
        f"a mutation of {took:.1f} s on the hottest accounts committed; beside it {beside:,.0f} a second, {before:,.0f} before"
    )


@contextlib.contextmanager
def cellstore_server(root: Path) -> Iterator[tuple[ServerProcess, list[str]]]:
    (root / "home").mkdir(parents=True)
    knobs = {"CellstoreApp": {"knobs": {"mutation_time_s": 60.0, "query_time_s": 60.0}}}
    (root / "home" / "jupyter_server_config.json").write_text(json.dumps(knobs))
    server = ServerProcess(root).start()
    try:
        server.deploy(HERE / "bank.py")
        for start in range(0, ACCOUNTS, 10_000):
            rows = (b'{"number":%d,"balance":%d}' % (n, START_BALANCE) for n in range(start, start + 10_000))
            server.control("insert", b"\n".join(rows), table="accounts")
        yield server, server.call("query", "bank:ids")
    finally:
        server.stop()


def node_peer(root: Path) -> subprocess.Popen[bytes] | None:
    """Node with better-sqlite3, if there is one."""
    modules, node = os.environ.get("CELLSTORE_NODE_MODULES", ""), shutil.which("node")
    if node is None or not Path(modules, "better-sqlite3").exists():
        return None
    call = [node, str(HERE / "bank_peer.mjs"), str(root / "peer.db"), str(ACCOUNTS)]
    return subprocess.Popen(call, stdout=subprocess.PIPE)


def python_peer(root: Path) -> subprocess.Popen[bytes]:
    call = [sys.executable, __file__, "--serve", str(root / "peer.db")]
    return subprocess.Popen(call, stdout=subprocess.PIPE)


async def serve_sqlite(path: str) -> None:
    """The fallback peer."""
    db = sqlite3.connect(path, isolation_level=None)
    db.executescript(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE accounts (id INTEGER PRIMARY KEY, body TEXT)"
    )
    db.execute("BEGIN")
    rows = ((n, json.dumps({"number": n, "balance": START_BALANCE})) for n in range(ACCOUNTS))
    db.executemany("INSERT INTO accounts VALUES (?, ?)", rows)
    db.execute("COMMIT")

    def move(a: int, b: int) -> None:
        db.execute("BEGIN IMMEDIATE")
        for id, amount in ((a, -1), (b, 1)):
            account = json.loads(db.execute("SELECT body FROM accounts WHERE id = ?", (id,)).fetchone()[0])
            account["balance"] += amount
            db.execute("UPDATE accounts SET body = ? WHERE id = ?", (json.dumps(account), id))
        db.execute("COMMIT")

    class Server(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            target = data.split(b" ", 2)[1]
            if data.startswith(b"POST"):
                a, _, b = target.partition(b"?a=")[2].partition(b"&b=")
                move(int(a), int(b))
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextlib.asynccontextmanager
async def peer(root: Path) -> AsyncIterator[tuple[str, int]]:
    process = node_peer(root)
    name = "Node" if process is not None else "Python"
    process = process or python_peer(root)
    assert process.stdout is not None
    try:
        yield name, int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()


async def main(seconds: float) -> None:
    print(f"{'transfers/s':>12} {'clients':>9}" + "".join(f"{clients:>12}" for clients in CLIENTS))
    with tempfile.TemporaryDirectory() as directory:
        async with peer(Path(directory)) as (name, port):
            theirs = await table(name, port, HttpLine, seconds)
        with cellstore_server(Path(directory) / "ours") as (server, ids):
            ours = await table("cellstore", server.port, lambda: SocketLine(ids), seconds)
            await processor_time(server, ids, seconds)
            await contended_with_a_slow_one(server.port, ids, seconds)
            total = server.call("query", "bank:total")
    for kind in ("uniform", "Zipf 1.5"):
        print(f"{'ratio':>12} {kind:>9}" + "".join(f"{ours[kind, n] / theirs[kind, n]:>12.2f}" for n in CLIENTS))
    contended = ours["Zipf 1.5", 16] / ours["uniform", 16]
    money = "conserved" if total == ACCOUNTS * START_BALANCE else f"NOT CONSERVED: {total:,}"
    print(f"contended against uniform at 16 clients: {contended:.2f}; no client saw a conflict; money {money}")


async def one_row(seconds: float, clients: int = 64) -> None:
    """What contention costs at its worst; turn about, so that a noisy machine is noisy for both."""
    done: dict[str, list[float]] = {"uniform": [], "one row": []}
    with tempfile.TemporaryDirectory() as directory, cellstore_server(Path(directory) / "ours") as (server, ids):
        lines = await dial(server.port, clients, lambda: SocketLine(ids))
        for kind in ("uniform", "one row") * 4:
            done[kind].append(await rate(lines, kind, seconds / 2))
        total = server.call("query", "bank:total")
    even, row = (sorted(rates[1:])[1] for rates in done.values())  # the first of each warms up
    money = "conserved" if total == ACCOUNTS * START_BALANCE else f"NOT CONSERVED: {total:,}"
    print(
        f"{clients} clients: {row:,.0f} transfers/s on one row, {even:,.0f} uniform, ratio {row / even:.2f}; money {money}"
    )


if __name__ == "__main__":
    if "--one-row" in sys.argv:
        sys.argv.remove("--one-row")
        asyncio.run(one_row(float(sys.argv[1]) if len(sys.argv) > 1 else 4.0))
    elif sys.argv[1:2] == ["--serve"]:
        asyncio.run(serve_sqlite(sys.argv[2]))
    else:
        asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 4.0))
