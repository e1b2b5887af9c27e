"""Mixed calls while processes are killed at random: none is lost, doubled, or without an answer.

A few seconds here; `CELLSTORE_SOAK_S=60 pytest tests/runtime/test_soak.py` for the long one. A failing run prints its seed.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from pathlib import Path
from typing import Any

from runtime_harness import Stage, play

from cellstore.runtime import jobs
from cellstore.runtime.outcome import Outcome

SOAK_S = float(os.environ.get("CELLSTORE_SOAK_S", "4"))
ANSWER_S = 60.0  # a call without an answer by then hangs

SOURCE = """
    import asyncio, time

    @cs.mutation
    def put(ctx, token: str):
        row = ctx.db.query("counter").first()
        if row is None:
            ctx.db.insert("counter", {"n": 1})
        else:
            ctx.db.patch(row._id, {"n": row.n + 1})
        ctx.db.insert("tokens", {"token": token})

    @cs.mutation
    def slowly(ctx, token: str):
        for _ in range(200_000):
            pass
        ctx.db.insert("tokens", {"token": token})

    @cs.mutation
    def later(ctx, token: str) -> str:
        return ctx.scheduler.run_after(0.05, put, token=token)

    @cs.action
    def act(ctx, token: str):
        time.sleep(0.02)
        ctx.run_mutation(put, token=token)

    @cs.action
    async def act_async(ctx, token: str):
        await asyncio.sleep(0.02)
        await ctx.run_mutation(put, token=token)

    @cs.query
    def look(ctx):
        return ctx.db.query("tokens").order("desc").take(3)

    @cs.query
    def everything(ctx):
        row = ctx.db.query("counter").first()
        return [[row["token"] for row in ctx.db.query("tokens")], row.n if row else 0]

    @cs.query
    def jobs(ctx):
        return [[row["args"][0]["token"], row["state"]["kind"]] for row in ctx.db.query("_scheduled_functions")]
"""


class Soak:
    """What was asked and what was answered."""

    def __init__(self, stage: Stage, seed: int) -> None:
        self.stage, self.dice = stage, random.Random(seed)
        self.asked: list[tuple[str, str]] = []  # (function, token)
        self.answers: dict[str, Outcome] = {}
        self.over = False
        self.killed = 0

    async def caller(self, name: str) -> None:
        kinds = ["put", "put", "slowly", "later", "act", "act_async", "look"]
        number = 0
        while not self.over:
            function, token = self.dice.choice(kinds), f"{name}.{number}"
            number += 1
            self.asked.append((function, token))
            async with asyncio.timeout(ANSWER_S):
                self.answers[token] = await self.call(function, token)

    async def call(self, function: str, token: str) -> Outcome:
        runner, args = self.stage.runner, {"token": token}
        if function == "look":
            return await runner.query("m:look", {})
        if function.startswith("act"):
            return await runner.action(f"m:{function}", args)
        return await runner.mutation(f"m:{function}", args)

    async def killer(self) -> None:
        while not self.over:
            await asyncio.sleep(self.dice.uniform(0.05, 0.4))
            pids = [pid for pid in self.processes() if pid]
            if pids:
                os.kill(self.dice.choice(pids), signal.SIGKILL)
                self.killed += 1

    def processes(self) -> list[int]:
        runner: Any = self.stage.runner
        workers = [w.link for team in runner._teams.values() for w in team.workers if w.link.is_ready]
        actions = [link for team in runner._actions.values() for link in team._links if link.is_ready]
        return [link.pid for link in workers + actions if not link.dead]

    def check(self, tokens: list[str], count: int, states: dict[str, str]) -> None:
        times = Counter(tokens)
        assert set(times.values()) <= {1}, f"done twice: {[t for t, n in times.items() if n > 1]}"
        lanes = 0
        for function, token in self.asked:
            answer, done = self.answers[token], times.get(token, 0)
            if answer.error is not None:
                assert answer.error.code in ("WorkerDied", "LimitExceeded"), answer.error
            if function in ("put", "slowly"):
                assert done == int(answer.ok), (function, token, answer.error)
            elif function == "later" and answer.ok:
                assert done == int(states[token] == "success"), (token, states[token])
            elif function.startswith("act") and answer.ok:
                assert done == 1, (function, token)
            lanes += done and function != "slowly"
        assert count == lanes, "the counter saw every mutation that was done, and no other"


def test_nothing_is_lost_doubled_or_left_hanging_while_workers_are_killed(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")

    async def scenario(stage: Stage) -> None:
        soak = Soak(stage, seed)
        callers = [asyncio.create_task(soak.caller(f"c{n}")) for n in range(12)]
        killer = asyncio.create_task(soak.killer())
        await asyncio.sleep(SOAK_S)
        soak.over = True
        await asyncio.gather(killer, *callers)
        while True:
            states = dict(await stage.query("jobs"))
            if set(states.values()) <= jobs.ENDED:
                break
            await asyncio.sleep(0.05)
        tokens, count = await stage.query("everything")
        soak.check(tokens, count, states)
        kinds = Counter(function for function, _ in soak.asked)
        failed = sum(1 for answer in soak.answers.values() if not answer.ok)
        print(f"{dict(kinds)}: {failed} failed, {soak.killed} processes killed, {len(tokens)} writes")
        assert soak.killed >= min(5, SOAK_S)
        assert len(tokens) > 50

    play(tmp_path, SOURCE, scenario, timeout_s=SOAK_S + 120)
