"""What live queries cost, through a real server: `python tests/bench/push.py [--quick]`.

    latency      a mutation's frame to the subscriber's frame with the new twenty-row result, for 1, 100 and 10,000 live
                 queries on distinct ranges, over 10^4 and 10^6 documents
    fan-out      updates a second to 1,000 subscribers of one query, and how often it ran for each change
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from server_process import TOKEN, ServerProcess, free_port
from websockets.asyncio.client import connect

ROWS = 20  # per live query
WARMING = 50  # turns that do not count
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
    socket = await connect(
        address, additional_headers=headers, proxy=None, compression=None, max_size=None, open_timeout=60
    )
    await socket.send(json.dumps({"type": "Connect", "sessionId": f"bench-{time.time_ns()}", **said}))
    return socket


async def dial_many(server: ServerProcess, count: int) -> list[Socket]:
    """Fifty at a time."""
    sockets: list[Socket] = []
    while len(sockets) < count:
        some = min(50, count - len(sockets))
        sockets += await asyncio.gather(*[dial(server, exact=True) for _ in range(some)])
    return sockets


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


@dataclass
class Cell:
    """So many live queries over so many documents; all times in seconds."""

    pushed: list[float] = field(default_factory=list)
    echoed: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)  # of the server, an update

    def line(self, name: str) -> str:
        """p50 and p99 of both, in ms."""
        parts = [f"{at(times, share) * 1e3:8.2f}" for times in (self.pushed, self.echoed) for share in (0.5, 0.99)]
        return f"{name:>22} {''.join(parts)} {statistics.mean(self.cpu) * 1e3:10.2f}"


def at(times: list[float], share: float) -> float:
    return sorted(times)[int((len(times) - 1) * share)]


async def latencies(server: ServerProcess, table: str, documents: int, queries: int, turns: int, port: int) -> Cell:
    """Updates of one live query among `queries` on distinct ranges, and echoes of the same sizes, turn by turn.

    Ten thousand documents are five hundred groups of twenty: with ten thousand queries the others follow groups that
    are still empty. Only groups of twenty are written to, and every push is seen to bring the twenty rows.
    """
    reader, writer = await dial(server, exact=True, deltas=True), await dial(server, exact=True)
    draining = asyncio.ensure_future(drain(writer))
    await subscribe(reader, "board:top", [{"table": table, "group": group} for group in range(queries)])
    echo = await connect(f"ws://127.0.0.1:{port}/", proxy=None, compression=None, max_size=None)
    cell, cpu = Cell(), Processor(server)
    for turn in range(-WARMING, turns):
        if turn == 0:
            cell, cpu = Cell(), Processor(server)
        group, value = turn * 7919 % min(queries, documents // ROWS), counter.next()
        args = {"table": table, "group": group, "value": value}
        call = {"type": "Mutation", "requestId": turn + WARMING, "udfPath": "board:touch", "args": [args]}
        began = time.perf_counter()
        await writer.send(json.dumps(call))
        pushed = await transition(reader)
        cell.pushed.append(time.perf_counter() - began)
        check_push(pushed, group, value)
        began = time.perf_counter()
        await echo.send("x" * len(pushed))
        await echo.recv()
        cell.echoed.append(time.perf_counter() - began)
        await asyncio.sleep(0.001)
    cell.cpu.append(cpu.seconds() / turns)
    for socket in (reader, writer, echo):
        await socket.close()
    await draining
    return cell


def check_push(text: str, query_id: int, value: float) -> None:
    """It is of one query, whole, and newest."""
    [change] = json.loads(text)["modifications"]
    assert (change["queryId"], len(change["value"]), change["value"][0]["value"]) == (query_id, ROWS, value)


def grid(server: ServerProcess, sizes: dict[str, int], queries: list[int], turns: int, port: int) -> None:
    """Every size with every number of queries, in two rounds, so that a busy minute of the machine is not one cell's."""
    cells = {(table, count): Cell() for table in sizes for count in queries}
    for _ in range(2):
        for (table, count), cell in cells.items():
            more = asyncio.run(latencies(server, table, sizes[table], count, turns // 2, port))
            cell.pushed += more.pushed
            cell.echoed += more.echoed
            cell.cpu += more.cpu
    print(f"{'':>22} {'push':>8}{'':8}{'echo':>8}{'':8} {'processor':>10}")
    print(f"{'documents × queries':>22} {'p50':>8}{'p99':>8}{'p50':>8}{'p99':>8} {'a push':>10}   (ms)")
    for (table, count), cell in cells.items():
        print(cell.line(f"{sizes[table]:,} × {count:,}"), flush=True)
    for table, documents in sizes.items():
        few, many = cells[table, queries[0]], cells[table, queries[-1]]
        ratio, cost = at(many.pushed, 0.5) / at(few.pushed, 0.5), statistics.mean(many.cpu) / statistics.mean(few.cpu)
        print(f"{documents:,} documents: p50 with {queries[-1]:,} live queries is {ratio:.2f} times that with one, "
              f"processor time {cost:.2f} times")  # fmt: skip


class Processor:
    """The processor time of the server and its workers, from here on."""

    def __init__(self, server: ServerProcess) -> None:
        assert server.process is not None
        self._pid = server.process.pid
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
    """In user code and in the kernel, with those of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15]))


# ── fan-out, bytes, memory ────────────────────────────────────────────────────────────────────────────────────────────


async def fan_out(server: ServerProcess, table: str, clients: int, turns: int) -> None:
    """One query, many subscribers, one change after the other as fast as the slowest has it."""
    sockets = await dial_many(server, clients)
    await asyncio.gather(*[subscribe(socket, "board:top", [{"table": table, "group": 0}]) for socket in sockets])
    writer = await dial(server, exact=True)
    draining = asyncio.ensure_future(drain(writer))
    seen, cpu, began = records(server)[-1]["number"], Processor(server), time.perf_counter()
    for turn in range(turns):
        args = {"table": table, "group": 0, "value": counter.next()}
        await writer.send(json.dumps({"type": "Mutation", "requestId": turn, "udfPath": "board:touch", "args": [args]}))
        await asyncio.gather(*map(transition, sockets))
    took, used = time.perf_counter() - began, cpu.seconds()
    runs = sum(record["number"] > seen and record["function"] == "board:top" for record in records(server))
    await asyncio.gather(*[socket.close() for socket in (*sockets, writer)])
    await draining
    updates = clients * turns
    print(
        f"{clients:,} subscribers of one query: {updates / took:,.0f} updates a second, {runs / turns:g} runs a change"
    )
    print(
        f"    {used / updates * 1e6:.0f} µs of the server's processor time each (these subscribers take as much again)"
    )


def records(server: ServerProcess) -> list[dict[str, Any]]:
    """The newest calls."""
    found: list[dict[str, Any]] = server.control("logs", tail=1000)["records"]
    return found


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
    """Growth of the server process by sessions that do nothing, then by one query they share, then by queries of their own."""
    assert server.process is not None
    pid = server.process.pid
    before = resident(pid)
    idle = await dial_many(server, sessions)
    await asyncio.sleep(1.0)  # nothing answers a Connect
    connected = resident(pid)
    await asyncio.gather(*[subscribe(socket, "board:top", [{"table": table, "group": 0}]) for socket in idle])
    shared = resident(pid)
    await asyncio.gather(*[socket.close() for socket in idle])
    print(f"memory of an idle session: {(connected - before) / sessions:,.0f} bytes, "
          f"and {(shared - connected) / sessions:,.0f} more when it follows a query that others follow too")  # fmt: skip
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
    with tempfile.TemporaryDirectory() as directory, echoing() as port:
        server = ServerProcess(Path(directory)).start()
        try:
            server.deploy(Path(__file__).parent / "board.py")
            for table, documents in sizes.items():
                load(server, table, documents)
            table = list(sizes)[-1]
            asyncio.run(memory(server, table, 200 if quick else 1_000, 400 if quick else 10_000))
            grid(server, sizes, [1, 100, 1_000 if quick else 10_000], 200 if quick else 600, port)
            asyncio.run(fan_out(server, "small", 200 if quick else 1_000, 20))
            asyncio.run(changed_row(server, "small", 10_000))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
