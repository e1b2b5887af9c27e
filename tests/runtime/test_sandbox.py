"""Inside queries and mutations time stands still, chance is seeded and I/O is refused, by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from runtime_harness import Stage, play

SOURCE = """
    import datetime, os, random, secrets, socket, subprocess, threading, time, uuid, pathlib
    from time import time as early_time

    @cs.query
    def clock(ctx):
        first = [time.time(), early_time(), datetime.datetime.now().timestamp(), time.perf_counter(), time.monotonic()]
        for _ in range(10000):
            pass
        again = [time.time(), early_time(), datetime.datetime.now().timestamp(), time.perf_counter(), time.monotonic()]
        return [first == again, first[0] == first[1] == first[2] == ctx.now.timestamp()]

    @cs.query
    def chance(ctx):
        return [random.random(), str(uuid.uuid4()), secrets.token_hex(4), ctx.random.random()]

    @cs.mutation
    def attempt(ctx, what: str):
        ctx.db.insert("t", {"what": what})
        tries = {
            "open": lambda: open("x.txt"),
            "read_text": lambda: pathlib.Path("x.txt").read_text(),
            "socket": lambda: socket.socket(),
            "subprocess": lambda: subprocess.run(["ls"]),
            "listdir": lambda: os.listdir("."),
            "thread": lambda: threading.Thread(target=print).start(),
            "sleep": lambda: time.sleep(0.1),
            "environment": lambda: os.environ.__setitem__("CELLSTORE_TEST", "1"),
            "system": lambda: os.system("true"),
        }
        tries[what]()

    @cs.query
    def late_import(ctx):
        import colorsys
        return colorsys.rgb_to_hsv(0.5, 0.5, 0.5)[2]

    @cs.query
    def attempts(ctx):
        return ctx.db.query("t").count()

    @cs.action
    def freely(ctx):
        time.sleep(0.01)
        return len(os.listdir(".")) >= 0

    @cs.query
    async def waits(ctx):
        import asyncio
        await asyncio.sleep(0.01)
"""

NAMES = {
    "open": "open('x.txt')",
    "read_text": "open('x.txt')",
    "socket": "socket.socket()",
    "subprocess": "subprocess.Popen",
    "listdir": "os.listdir('.')",
    "thread": "starting the thread",
    "sleep": "time.sleep(0.1)",
    "environment": "os.putenv",
    "system": "os.system",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("store")


def test_the_guard_of_queries_and_mutations(place: Path) -> None:
    async def scenario(stage: Stage) -> None:
        assert await stage.query("clock") == [True, True]
        first, second = await stage.query("chance"), await stage.query("chance")
        assert first != second
        for what, name in NAMES.items():
            outcome = await stage.runner.mutation("m:attempt", {"what": what})
            assert outcome.error is not None, what
            assert outcome.error.code == "NotDeterministic"
            assert name in outcome.error.message
            assert "use" in outcome.error.message or "action" in outcome.error.message
            assert f'"{what}": lambda' in outcome.error.traceback
        assert await stage.query("attempts") == 0
        assert await stage.query("late_import") == 0.5
        waited = await stage.runner.query("m:waits", {})
        assert waited.error is not None
        assert "awaited something" in waited.error.message
        assert (await stage.runner.action("m:freely", {})).ok

    play(place, SOURCE, scenario)
