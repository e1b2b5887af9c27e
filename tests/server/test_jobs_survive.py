"""The server is killed while jobs are due, again and again: each mutation happens once, each action at most once. And while
many are due, who watches sees them go by."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from server_process import TOKEN, ServerProcess, deploy_body

from cellstore.client.connect import connect as connect_database
from cellstore.transaction.database import Engine

SOURCE = """
import pathlib
import time

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

@cs.action
def linger(ctx, token: str):
    ctx.run_mutation(put, token=token)
    while "go on" not in ctx.run_query(done):
        time.sleep(0.01)
    ctx.run_mutation(put, token=f"{token}, to its end")

@cs.mutation
def plan_around_a_kill(ctx):
    ctx.scheduler.run_after(0, linger, token="action")
    for n in range(20):
        ctx.scheduler.run_after(1, put, token=f"m{n}")

@cs.query
def jobs(ctx):
    return [[row["args"][0]["token"], row["state"]] for row in ctx.db.query("_scheduled_functions")]

@cs.mutation
def flood(ctx, first: int, count: int):
    for n in range(first, first + count):
        ctx.scheduler.run_after(0, put, token=f"m{n}")

@cs.action
def leave_a_mark(ctx, path: str):
    pathlib.Path(path).touch()

@cs.mutation
def plan_a_mark(ctx, path: str):
    ctx.scheduler.run_after(3, leave_a_mark, path=path)

@cs.query
def count(ctx):
    return ctx.db.query("tokens").count()
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    file = tmp_path / "surviving_jobs.py"
    file.write_text(SOURCE)
    server = ServerProcess(tmp_path / "root").start()
    try:
        server.deploy(file)
        yield server
    finally:
        server.stop()


def ask(server: ServerProcess, name: str) -> Any:
    return server.call("query", f"surviving_jobs:{name}")


def test_scheduled_mutations_happen_once_and_actions_at_most_once_through_kills(server: ServerProcess) -> None:
    server.call("mutation", "surviving_jobs:plan", {"count": 300})
    for _ in range(2):
        time.sleep(random.uniform(0.2, 0.5))  # somewhere in the middle
        server.kill()
        server.start()
    deadline = time.monotonic() + 60
    while any(kind in ("pending", "inProgress") for _, kind in ask(server, "states")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    times, states = Counter(ask(server, "done")), dict(ask(server, "states"))
    assert set(times.values()) == {1}
    assert len(states) == 600
    assert {states[f"m{n}"] for n in range(300)} == {"success"}
    assert all(times[f"m{n}"] == 1 for n in range(300))
    assert all(times[f"a{n}"] == 1 for n in range(300) if states[f"a{n}"] == "success")


def test_an_action_that_a_kill_ended_is_failed_and_what_was_pending_then_runs_once(server: ServerProcess) -> None:
    server.call("mutation", "surviving_jobs:plan_around_a_kill")
    while "action" not in ask(server, "done"):
        time.sleep(0.01)
    assert Counter(state["kind"] for _, state in ask(server, "jobs")) == {"inProgress": 1, "pending": 20}
    server.kill()
    server.start()
    server.call(
        "mutation", "surviving_jobs:put", {"token": "go on"}
    )  # one that was started again would come to its end
    deadline = time.monotonic() + 30
    while any(state["kind"] == "pending" for _, state in ask(server, "jobs")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    states = dict(ask(server, "jobs"))
    assert states.pop("action")["kind"] == "failed"
    assert "not started again" in dict(ask(server, "jobs"))["action"]["error"]
    assert {state["kind"] for state in states.values()} == {"success"}
    assert sorted(ask(server, "done")) == sorted([*states, "action", "go on"]), "each once"


def test_who_watches_sees_ten_thousand_jobs_go_by_in_small_steps_and_in_order(server: ServerProcess) -> None:
    counts: list[int] = []
    with connect_database(server.url, TOKEN) as db:
        watched = db.subscribe("surviving_jobs:count", counts.append)
        for first in range(0, 10_000, 1_000):
            db.mutation("surviving_jobs:flood", first=first, count=1_000)
        watched.wait(lambda count: count == 10_000, timeout=120)
        watched.close()
    steps = [after - before for before, after in pairwise(counts)]
    assert min(steps) > 0, "never back, and nothing twice"
    assert len(steps) > 100
    assert max(steps) < 500
    assert set(Counter(ask(server, "done")).values()) == {1}
    assert Counter(kind for _, kind in ask(server, "states")) == {"success": 10_000}


def test_jobs_of_every_deployment_go_on_after_a_restart_before_anybody_asks(
    server: ServerProcess, tmp_path: Path
) -> None:
    token, mark = {"Authorization": f"token {TOKEN}"}, tmp_path / "mark"
    server.post("/cellstore/d/other/x/deploy", deploy_body(tmp_path / "surviving_jobs.py"), token)
    server.post("/cellstore/d/idle/x/hello", b"", token)
    with connect_database(server.url, TOKEN, deployment="other") as other:
        other.mutation("surviving_jobs:plan_a_mark", path=str(mark))
    server.kill()
    assert not mark.exists()
    server.start()
    deadline = time.monotonic() + 30
    while not mark.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    Engine.open(server.root / ".cellstore" / "idle" / "store.db").close()  # nobody has opened what has nothing to do
