"""What live queries cost, through a real server: `python tests/bench/push.py [--quick]`.

    latency      a mutation's frame to the subscriber's frame with the new twenty-row result, for 1, 100 and 10,000 live
                 queries on distinct ranges, over 10^4 and 10^6 documents
    fan-out      updates a second to 1,000 subscribers of one query
    bytes        of one changed row in a result of 10,000 rows, for our clients and for Convex's
    memory       of an idle session and of a live query, in the server's process

Every latency has a bare WebSocket echo of the same frames by the same kind of server beside it, measured in turns with
it, and the server's own processor time per update, because wall clock alone says little on a shared machine.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from server_process import TOKEN, ServerProcess, free_port
from websockets.asyncio.client import connect

ROWS = 20  # per live query
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
Socket = Any


class Counter:
    """Rising values, so that no mutation of the whole run is a change to what is there."""

    def __init__(self) -> None:
        self.value = 0.0

    def next(self) -> float:
        self.value += 1.0
        return self.value


counter = Counter()


def load(server: ServerProcess, table: str, documents: int) -> None:
    """So many documents in groups of twenty."""
    batch = 20_000
    for start in range(0, documents, batch):
        rows = (
            json.dumps({"group": row // ROWS, "rank": row % ROWS, "value": 0.0})
            for row in range(start, min(start + batch, documents))
        )
        server.control("insert", "\n".join(rows).encode(), table=table)


async def dial(server: ServerProcess, **said: Any) -> Socket:
    address = server.url.replace("http", "ws") + "/cellstore/api/sync"
    headers = {"Authorization": f"token {TOKEN}"}
    socket = await connect(address, additional_headers=headers, proxy=None, compression=None, max_size=None)
    await socket.send(json.dumps({"type": "Connect", "sessionId": f"bench-{time.time_ns()}", **said}))
    return socket


async def subscribe(socket: Socket, path: str, arguments: list[dict[str, Any]]) -> None:
    """Live queries, in frames of a thousand; returns when all have their first result."""
    for version, start in enumerate(range(0, len(arguments), 1000)):
        adds = [
            {"type": "Add", "queryId": start + number, "udfPath": path, "args": [args]}
            for number, args in enumerate(arguments[start : start + 1000])
        ]
        frame = {"type": "ModifyQuerySet", "baseVersion": version, "newVersion": version + 1, "modifications": adds}
        await socket.send(json.dumps(frame))
        await transition(socket)


async def transition(socket: Socket) -> str:
    """The next Transition's text."""
    while True:
        text: str = await socket.recv()
        if text.startswith('{"type":"Transition"'):
            return text


async def drain(socket: Socket) -> None:
    async for _ in socket:
        pass


# ── latency ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def latencies(server: ServerProcess, table: str, groups: int, queries: int, rounds: int, echo_port: int) -> None:
    """Updates of one live query among `queries`, and echoes of the same sizes, turn by turn."""
    reader, writer = await dial(server, exact=True, deltas=True), await dial(server, exact=True)
    draining = asyncio.ensure_future(drain(writer))
    await subscribe(reader, "board:top", [{"table": table, "group": group} for group in range(queries)])
    echo = await connect(f"ws://127.0.0.1:{echo_port}/", proxy=None, compression=None, max_size=None)
    pushed, echoed, size = [], [], 0
    cpu = Processor(server)
    for turn in range(-50, rounds):
        if turn == 0:
            cpu.begin()
        args = {"table": table, "group": turn * 7919 % min(queries, groups), "value": counter.next()}
        call = {"type": "Mutation", "requestId": turn + 50, "udfPath": "board:touch", "args": [args]}
        began = time.perf_counter()
        await writer.send(json.dumps(call))
        size = len(await transition(reader))
        pushed.append(time.perf_counter() - began)
        began = time.perf_counter()
        await echo.send("x" * size)
        await echo.recv()
        echoed.append(time.perf_counter() - began)
        await asyncio.sleep(0.001)
    seconds = cpu.seconds()
    for socket in (reader, writer, echo):
        await socket.close()
    await draining
    show(f"{queries:,} live queries", pushed[50:], seconds / rounds)
    show("bare echo beside it", echoed[50:])


def show(name: str, times: list[float], cpu_s: float | None = None) -> None:
    times = sorted(times)
    p50, p99 = statistics.median(times) * 1e3, times[int(len(times) * 0.99)] * 1e3
    best = times[len(times) // 10] * 1e3
    cost = "" if cpu_s is None else f"   processor {cpu_s * 1e3:5.2f} ms an update"
    print(f"{name:>24}: p50 {p50:6.2f} ms   p99 {p99:6.2f} ms   p10 {best:5.2f} ms{cost}", flush=True)


class Processor:
    """The processor time of the server and its workers."""

    def __init__(self, server: ServerProcess) -> None:
        assert server.process is not None
        self._pid = server.process.pid
        self._began = 0.0

    def begin(self) -> None:
        self._began = self._now()

    def seconds(self) -> float:
        return self._now() - self._began

    def _now(self) -> float:
        return sum(_cpu_ticks(pid) for pid in family(self._pid)) * TICK_S


def family(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += family(int(child))
    return found


def _cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


# ── fan-out, bytes, memory ────────────────────────────────────────────────────────────────────────────────────────────


async def fan_out(server: ServerProcess, table: str, clients: int, rounds: int) -> None:
    """One query, many subscribers, one change after the other as fast as the slowest has it."""
    sockets = await asyncio.gather(*[dial(server, exact=True) for _ in range(clients)])
    await asyncio.gather(*[subscribe(socket, "board:top", [{"table": table, "group": 0}]) for socket in sockets])
    writer = await dial(server, exact=True)
    draining = asyncio.ensure_future(drain(writer))
    cpu = Processor(server)
    cpu.begin()
    began = time.perf_counter()
    for turn in range(rounds):
        args = {"table": table, "group": 0, "value": counter.next()}
        await writer.send(json.dumps({"type": "Mutation", "requestId": turn, "udfPath": "board:touch", "args": [args]}))
        await asyncio.gather(*map(transition, sockets))
    took, used = time.perf_counter() - began, cpu.seconds()
    await asyncio.gather(*[socket.close() for socket in (*sockets, writer)])
    await draining
    updates = clients * rounds
    print(
        f"{clients:,} subscribers of one query: {updates / took:,.0f} updates a second; {used / updates * 1e6:.0f} µs of"
    )
    print("    the server's processor time each (the subscribers of this benchmark take as much again)")


async def changed_row(server: ServerProcess, table: str, rows: int) -> None:
    """One row of a large result changes: what crosses the wire."""
    for who, said in (("our clients", {"exact": True, "deltas": True}), ("Convex's clients", {})):
        reader, writer = await dial(server, **said), await dial(server)
        draining = asyncio.ensure_future(drain(writer))
        await subscribe(reader, "board:many", [{"table": table, "count": rows}])
        sizes, times = [], []
        for turn in range(5):
            args = {"table": table, "group": 100 + turn, "value": counter.next()}
            call = {"type": "Mutation", "requestId": turn, "udfPath": "board:touch", "args": [args]}
            began = time.perf_counter()
            await writer.send(json.dumps(call))
            sizes.append(len(await transition(reader)))
            times.append(time.perf_counter() - began)
        await reader.close()
        await writer.close()
        await draining
        size = f"{statistics.median(sizes):,.0f} bytes"
        print(f"one changed row of {rows:,}, {who}: {size}, {statistics.median(times) * 1e3:.1f} ms")


async def memory(server: ServerProcess, table: str, sessions: int, queries: int) -> None:
    """Growth of the server process by sessions that do nothing, then by live queries on distinct ranges."""
    assert server.process is not None
    pid = server.process.pid
    before = resident(pid)
    idle = await asyncio.gather(*[dial(server, exact=True) for _ in range(sessions)])
    await asyncio.gather(*[subscribe(socket, "board:top", [{"table": table, "group": 0}]) for socket in idle])
    print(f"memory of a session with one shared live query: {(resident(pid) - before) / sessions:,.0f} bytes")
    await asyncio.gather(*[socket.close() for socket in idle])
    reader = await dial(server, exact=True)
    before = resident(pid)
    await subscribe(reader, "board:top", [{"table": table, "group": group} for group in range(queries)])
    print(f"memory of a live query with {ROWS} rows of its own: {(resident(pid) - before) / queries:,.0f} bytes")
    await reader.close()


def resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


# ── the echo beside it ────────────────────────────────────────────────────────────────────────────────────────────────


def echo_server(port: int) -> None:
    """A bare tornado WebSocket that answers with what it was sent."""
    from tornado.web import Application
    from tornado.websocket import WebSocketHandler

    class Echo(WebSocketHandler):
        def open(self, *args: str, **kwargs: str) -> None:
            self.set_nodelay(True)

        def on_message(self, message: str | bytes) -> None:
            self.write_message(message)

    async def serve() -> None:
        Application([("/", Echo)]).listen(port, "127.0.0.1")
        await asyncio.Event().wait()

    asyncio.run(serve())


@contextmanager
def echoing() -> Iterator[int]:
    port = free_port()
    process = multiprocessing.get_context("spawn").Process(target=echo_server, args=(port,), daemon=True)
    process.start()
    try:
        time.sleep(1.5)
        yield port
    finally:
        process.kill()


def main() -> None:
    quick = "--quick" in sys.argv
    sizes = {"small": 10_000} if quick else {"small": 10_000, "large": 1_000_000}
    rounds = 200 if quick else 500
    with tempfile.TemporaryDirectory() as directory, echoing() as echo_port:
        server = ServerProcess(Path(directory)).start()
        try:
            server.deploy(Path(__file__).parent / "board.py")
            for table, documents in sizes.items():
                load(server, table, documents)
                print(f"── {documents:,} documents", flush=True)
                if table == list(sizes)[-1]:
                    asyncio.run(memory(server, table, 200 if quick else 1_000, 400 if quick else 5_000))
                for queries in (1, 100, 1_000 if quick else 10_000):
                    groups = documents // ROWS
                    asyncio.run(latencies(server, table, groups, queries, rounds, echo_port))
            asyncio.run(fan_out(server, "small", 200 if quick else 1_000, 20))
            asyncio.run(changed_row(server, "small", 10_000))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
