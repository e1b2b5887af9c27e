"""From a mutation's frame to the subscriber's frame, through a real server: `python tests/bench/push.py [queries …]`.

Per run: one writer socket, one reader socket with so many live queries on distinct ranges of twenty rows each; every
mutation changes one row of one range. Prints p50 and p99 in milliseconds, and a bare WebSocket echo for comparison.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from server_process import TOKEN, ServerProcess
from websockets.asyncio.client import connect

ROUNDS = 500
GROUPS, ROWS = 10_000, 20


def load(server: ServerProcess) -> None:
    """Two hundred thousand rows, in batches."""
    for start in range(0, GROUPS, 500):
        rows = (
            json.dumps({"group": group, "rank": rank, "value": 0.0})
            for group in range(start, start + 500)
            for rank in range(ROWS)
        )
        server.control("insert", "\n".join(rows).encode(), table="items")


async def dial(server: ServerProcess) -> Any:
    address = server.url.replace("http", "ws") + "/cellstore/api/sync"
    headers = {"Authorization": f"token {TOKEN}"}
    socket = await connect(address, additional_headers=headers, proxy=None, compression=None, max_size=None)
    await socket.send(json.dumps({"type": "Connect", "sessionId": f"bench-{time.time_ns()}", "exact": True}))
    return socket


async def measure(server: ServerProcess, queries: int, rounds: int = ROUNDS) -> list[float]:
    """Latencies in ms, sorted."""
    reader, writer = await dial(server), await dial(server)
    adds = [{"type": "Add", "queryId": q, "udfPath": "board:top", "args": [{"group": q}]} for q in range(queries)]
    began = time.perf_counter()
    await reader.send(json.dumps({"type": "ModifyQuerySet", "baseVersion": 0, "newVersion": 1, "modifications": adds}))
    while json.loads(await reader.recv())["type"] != "Transition":
        pass
    print(f"  {queries} subscribed in {time.perf_counter() - began:.2f} s")
    draining = asyncio.ensure_future(drain(writer))
    times: list[float] = []
    for turn in range(rounds):
        group = turn * 7919 % queries
        call = {"type": "Mutation", "requestId": turn, "udfPath": "board:touch"}
        frame = json.dumps(call | {"args": [{"group": group, "value": float(turn + 1)}]})
        began = time.perf_counter()
        await writer.send(frame)
        while json.loads(await reader.recv())["type"] != "Transition":
            pass
        times.append((time.perf_counter() - began) * 1e3)
        await asyncio.sleep(0.002)
    await reader.close()
    await writer.close()
    await draining
    return sorted(times)


async def drain(socket: Any) -> None:
    async for _ in socket:
        pass


def show(name: str, times: list[float]) -> None:
    print(f"{name:>24}: p50 {statistics.median(times):.2f} ms   p99 {times[int(len(times) * 0.99)]:.2f} ms")


def main() -> None:
    sizes = [int(argument) for argument in sys.argv[1:]] or [1, 100, 10_000]
    with tempfile.TemporaryDirectory() as directory:
        server = ServerProcess(Path(directory)).start()
        try:
            server.deploy(Path(__file__).parent / "board.py")
            load(server)
            for queries in sizes:
                asyncio.run(measure(server, queries, 50))
                show(f"{queries} live queries", asyncio.run(measure(server, queries)))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
