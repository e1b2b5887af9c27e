"""The server is killed while jobs are due, again and again: each mutation happens once, each action at most once."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

from server_process import ServerProcess

SOURCE = """
import cellstore as cs

@cs.mutation
def put(ctx, token: str):
    ctx.db.insert("tokens", {"token": token})

@cs.action
def act(ctx, token: str):
    ctx.run_mutation(put, token=token)

@cs.mutation
def plan(ctx, count: int):
    for n in range(count):
        ctx.scheduler.run_after(n * 0.004, put, token=f"m{n}")
        ctx.scheduler.run_after(n * 0.004, act, token=f"a{n}")

@cs.query
def done(ctx):
    return [row["token"] for row in ctx.db.query("tokens")]

@cs.query
def states(ctx):
    return [[row["args"][0]["token"], row["state"]["kind"]] for row in ctx.db.query("_scheduled_functions")]
"""


def test_scheduled_mutations_happen_once_and_actions_at_most_once_through_kills(tmp_path: Path) -> None:
    file = tmp_path / "surviving_jobs.py"
    file.write_text(SOURCE)
    server = ServerProcess(tmp_path / "root").start()
    try:
        server.deploy(file)
        server.call("mutation", "surviving_jobs:plan", {"count": 300})
        for _ in range(2):
            time.sleep(random.uniform(0.2, 0.5))  # somewhere in the middle
            server.kill()
            server.start()
        deadline = time.monotonic() + 60
        while any(kind in ("pending", "inProgress") for _, kind in server.call("query", "surviving_jobs:states")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        times = Counter(server.call("query", "surviving_jobs:done"))
        states = dict(server.call("query", "surviving_jobs:states"))
        assert set(times.values()) == {1}
        assert len(states) == 600
        assert {states[f"m{n}"] for n in range(300)} == {"success"}
        assert all(times[f"m{n}"] == 1 for n in range(300))
        assert all(times[f"a{n}"] == 1 for n in range(300) if states[f"a{n}"] == "success")
    finally:
        server.stop()
