"""What it costs to have a function run elsewhere: `python tests/bench/calls.py`.

floor        a bare worker's round trip: one byte over a socket to a process that sends it back
query        call to result of an empty query; one at a time, and 64 in flight
mutation     the same for one that writes a row, durable
envelope     what the guard around a query costs, without the call
fresh worker from asking for a process to its first word
idle worker  memory of its own, beyond what it shares: right after the calls above, and a few seconds later
actions      fifty at once, each waiting 100 ms: plain ones and `async def`
"""

from __future__ import annotations

import asyncio
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))

from runtime_harness import unit_of

from cellstore.runtime.pool import PoolRunner
from cellstore.runtime.team import _TIDY_AFTER_S
from cellstore.transaction.database import Engine

SOURCE = """
    import asyncio, time

    @cs.query
    def nothing(ctx):
        return None

    @cs.mutation
    def write(ctx, n: int):
        ctx.db.insert("rows", {"n": n})

    @cs.action
    def wait(ctx):
        time.sleep(0.1)

    @cs.action
    async def wait_async(ctx):
        await asyncio.sleep(0.1)
"""


async def one_by_one(runner: PoolRunner, kind: str, args: dict[str, Any], path: str, count: int) -> list[float]:
    """Seconds of each call."""
    call = getattr(runner, kind)
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        outcome = await call(path, args)
        seconds.append(time.perf_counter() - began)
        assert outcome.ok, outcome.error
    return seconds


async def at_once(
    runner: PoolRunner, kind: str, args: dict[str, Any], path: str, count: int = 6400, width: int = 64
) -> float:
    """Calls a second with `width` in flight."""
    call = getattr(runner, kind)

    async def lane() -> None:
        for _ in range(count // width):
            outcome = await call(path, args)
            assert outcome.ok, outcome.error

    began = time.perf_counter()
    await asyncio.gather(*[lane() for _ in range(width)])
    return count / (time.perf_counter() - began)


async def floor(count: int) -> list[float]:
    """Seconds of each round trip of one byte between this loop and another process."""
    ours, theirs = socket.socketpair()
    code = "import socket, sys; s = socket.socket(fileno=int(sys.argv[1]))\nwhile b := s.recv(1): s.send(b)"
    process = subprocess.Popen([sys.executable, "-c", code, str(theirs.fileno())], pass_fds=[theirs.fileno()])
    theirs.close()
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        writer.write(b".")
        await reader.readexactly(1)
        seconds.append(time.perf_counter() - began)
    writer.close()
    await writer.wait_closed()
    process.wait()
    return seconds


def show(name: str, seconds: list[float]) -> None:
    ordered = sorted(seconds)
    p99 = ordered[int(len(ordered) * 0.99)]
    print(f"{name:>14}: p50 {statistics.median(ordered) * 1e6:7.0f} µs   p99 {p99 * 1e6:7.0f} µs")


def private_mb(pid: int) -> float:
    """Memory of the process that no other shares, Linux."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    kb = sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_"))
    return kb / 1024


def show_memory(runner: PoolRunner, when: str) -> None:
    [team] = runner._teams.values()
    own = sorted(private_mb(worker.link.pid) for worker in team.workers)
    print(f"{'idle worker':>14}: {', '.join(f'{each:.1f}' for each in own)} MB of its own, {when}")


def envelope_us() -> float:
    """Microseconds of entering and leaving the guard, in a process of its own."""
    code = (
        "import time; real = time.perf_counter\n"
        "from cellstore.runtime import sandbox\n"
        "e = sandbox.install(); seed = bytes(16)\n"
        "def once():\n"
        "    e.stand_at(e.real_time_ns()); e.enter('query', seed); e.exit()\n"
        "for _ in range(1000): once()\n"
        "best = 1e9\n"
        "for _ in range(20):\n"
        "    a = real()\n"
        "    for _ in range(500): once()\n"
        "    best = min(best, (real() - a) / 500)\n"
        "print(best * 1e6)\n"
    )
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


async def fresh_worker(runner: PoolRunner) -> float:
    """Seconds until a worker that was killed has a successor that answers."""
    [team] = runner._teams.values()
    before = {worker.link.pid for worker in team.workers}
    began = time.perf_counter()
    team.start(len(team.workers) + 1)
    while True:
        ready = [worker for worker in team.workers if worker.link.is_ready and worker.link.pid not in before]
        if ready:
            return time.perf_counter() - began
        await asyncio.sleep(0.001)


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        engine = Engine.open(Path(directory) / "store.db")
        runner = PoolRunner(engine)
        await runner.start()
        await runner.deploy(unit_of(SOURCE))
        show("floor", await floor(3000))
        for kind, args, path in (("query", {}, "m:nothing"), ("mutation", {"n": 1}, "m:write")):
            await one_by_one(runner, kind, args, path, 300)
            show(kind, await one_by_one(runner, kind, args, path, 3000))
            rates = [await at_once(runner, kind, args, path) for _ in range(5)]
            each_us = 1e6 / statistics.median(rates)
            print(f"{'64 in flight':>14}: {statistics.median(rates):,.0f} a second, one every {each_us:.0f} µs")
        print(f"{'envelope':>14}: {envelope_us():.1f} µs")
        for path in ("m:wait", "m:wait_async"):
            await one_by_one(runner, "action", {}, path, 1)
            began = time.perf_counter()
            await asyncio.gather(*[runner.action(path, {}) for _ in range(50)])
            print(f"{'fifty actions':>14}: {time.perf_counter() - began:.3f} s for 0.1 s each ({path})")
        seconds = [await fresh_worker(runner) for _ in range(2)]
        print(f"{'fresh worker':>14}: {', '.join(f'{each * 1e3:.0f}' for each in seconds)} ms")
        if sys.platform == "linux":
            show_memory(runner, "at once")
            await asyncio.sleep(_TIDY_AFTER_S + 1)
            show_memory(runner, "when it has idled")
        await runner.stop()
        engine.close()


if __name__ == "__main__":
    asyncio.run(main())
