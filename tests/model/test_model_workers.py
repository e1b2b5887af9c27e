"""The real thing: mutations by name in worker processes, in the lane and beside it, workers killed under them.

Every function returns its own trace, so what a worker saw is judged, not what the host believes it saw. Requests whose
worker was killed are sent again with the same number, as clients do: they must have happened once.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from soak import seconds

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))
from runtime_harness import Stage, play, value_of

from cellstore.runtime.outcome import Outcome
from cellstore.testing.clock import JumpingClock
from cellstore.testing.history import FOREVER, History, Recorded, clock
from cellstore.testing.threads import log_of, perform
from cellstore.testing.workloads import WORKLOADS, Step, Workload

SOURCE = """
    from cellstore.testing.trace import recorded
    from cellstore.testing.workloads import WORKLOADS

    @cs.mutation(internal=True)
    def try_it(ctx, workload, step, arguments):
        with recorded(ctx) as db:
            value = WORKLOADS[workload].perform(db, (step, arguments))
            raise cs.ApplicationError(value)

    @cs.mutation
    def act(ctx, workload, step, arguments, savepoint, spin):
        with recorded(ctx) as db:
            for _ in range(spin):
                pass
            if savepoint:
                try:
                    ctx.run_mutation(try_it, workload=workload, step=step, arguments=arguments)
                except cs.ApplicationError as error:
                    value = error.data
            if savepoint == "noted":
                db.insert("noted", {"step": step, "value": value})
            else:
                value = WORKLOADS[workload].perform(db, (step, arguments))
            return {"trace": db.trace, "changed": db.changed, "value": value}

    @cs.query
    def look(ctx, workload, step, arguments):
        with recorded(ctx) as db:
            value = WORKLOADS[workload].perform(db, (step, arguments))
            return {"trace": db.trace, "changed": False, "value": value}
"""
READ_ONLY = {"audit", "read", "members", "odd", "read_lists", "tally"}
ENOUGH = 50  # transactions
SPIN = 1_500_000  # longer than the lane's budget


class Clients:
    """Clients of one stage, each with its own session and dice."""

    def __init__(self, stage: Stage, workload: Workload, seed: int) -> None:
        self.stage, self.workload, self.history = stage, workload, History(seed)
        self.resent = 0

    def set_up(self) -> None:
        """Tables and first documents, by the host."""
        self.stage.engine.define(*self.workload.tables)
        perform(self.stage.engine, self.workload, self.history, "setup", ("setup", {}), lambda _: None)

    async def run(self, count: int, until: float) -> None:
        """Work until the deadline, and until there is something to check."""
        await asyncio.gather(*(self._client(number, until) for number in range(count)))
        self.history.check(self.workload.rule, log_of(self.stage.engine))
        assert list(self.stage.engine.storage.check(self.stage.engine.catalog.keys_of)) == []

    async def _client(self, number: int, until: float) -> None:
        dice, request = Random(f"{self.history.seed}.{number}"), 0
        while time.monotonic() < until or self.history.committed("") <= ENOUGH:
            step = self.workload.plan(dice)
            request += 1
            if step[0] in READ_ONLY and dice.random() < 0.5:
                await self._look(f"{step[0]} query{number}.{request}", step)
            else:
                spin = SPIN if dice.random() < 0.01 else 0
                await self._act(f"{step[0]} client{number}.{request}", step, (f"s{number}", request), spin)

    async def _look(self, label: str, step: Step) -> None:
        arguments = {name: value for name, value in step[1].items() if name != "savepoint"}
        began = clock()
        args = {"workload": self.workload.name, "step": step[0], "arguments": arguments}
        outcome = await self.stage.runner.query("m:look", args)
        if not _killed(outcome):
            self._add(label, outcome, began, again=False)

    async def _act(self, label: str, step: Step, request: tuple[str, int], spin: int) -> None:
        arguments = dict(step[1])
        savepoint = arguments.pop("savepoint", None)
        args = {"workload": self.workload.name, "step": step[0], "arguments": arguments}
        args |= {"savepoint": savepoint, "spin": spin}
        began, again = clock(), False
        outcome = await self.stage.runner.mutation("m:act", args, request=request)
        while _killed(outcome):
            again = True
            self.resent += 1
            outcome = await self.stage.runner.mutation("m:act", args, request=request)
        self._add(label, outcome, began, again)

    def _add(self, label: str, outcome: Outcome, began: int, again: bool) -> None:
        said: dict[str, Any] = value_of(outcome)
        fate, ts, ended = ("replayed", None, FOREVER) if again else ("committed", outcome.ts, clock())
        self.history.add(Recorded(label, said["trace"], began, ended, fate, ts, said["changed"], said["value"]))


def _killed(outcome: Outcome) -> bool:
    return not outcome.ok and outcome.error is not None and "died while it ran" in outcome.error.message


def stage_for(name: str, beside: Callable[[Clients, float], Awaitable[None]] | None = None) -> Any:
    async def scenario(stage: Stage) -> None:
        clients = Clients(stage, WORKLOADS[name], seed=random.randrange(1000))
        clients.set_up()
        until = time.monotonic() + seconds(1.2)
        work = asyncio.ensure_future(clients.run(8, until))
        if beside is not None:
            await beside(clients, until)
        await work

    return scenario


@pytest.mark.parametrize("name", WORKLOADS)
def test_mutations_in_the_lane_are_serializable(name: str, tmp_path: Path) -> None:
    play(tmp_path, SOURCE, stage_for(name), timeout_s=60 + seconds(0))


@pytest.mark.parametrize("name", WORKLOADS)
def test_they_are_while_the_host_itself_commits_between_them(name: str, tmp_path: Path) -> None:
    """What deploys, schedules and imports do: strangers to the lane, whose commits it has to find out about."""

    async def strangers(clients: Clients, until: float) -> None:
        dice, count = Random(5), 0
        while time.monotonic() < until:
            count += 1
            step = clients.workload.plan(dice)
            perform(clients.stage.engine, clients.workload, clients.history, f"host.{count}", step, lambda _: None)
            await asyncio.sleep(0.002)

    play(tmp_path, SOURCE, stage_for(name, strangers), timeout_s=60 + seconds(0))


@pytest.mark.parametrize("name", WORKLOADS)
def test_killing_workers_while_the_clock_jumps_loses_nothing_and_does_nothing_twice(name: str, tmp_path: Path) -> None:
    async def killer(clients: Clients, until: float) -> None:
        kills = 0
        while time.monotonic() < until or kills == 0:
            await asyncio.sleep(random.uniform(0.05, 0.3))
            ready = [w for team in clients.stage.runner._teams.values() for w in team.workers if w.is_open]
            if ready:
                os.kill(random.choice(ready).link.pid, signal.SIGKILL)
                kills += 1

    jumping = JumpingClock(random.randrange(1000))
    play(tmp_path, SOURCE, stage_for(name, killer), timeout_s=90 + seconds(0), clock=jumping, worker_deaths_max=1000)


BUSY = """
    @cs.mutation
    def fail(ctx):
        raise cs.ApplicationError("always")

    @cs.mutation
    def must_find(ctx, id: str):
        if ctx.db.get(id) is None:
            raise cs.ApplicationError("not there")
        return True

    @cs.mutation
    def find(ctx, id: str):
        return ctx.db.get(id) is not None
"""


@pytest.mark.parametrize("function", ["must_find", "find"])
def test_a_lane_that_never_rests_sees_what_its_callers_have_been_told(function: str, tmp_path: Path) -> None:
    """Failures write nothing, so nothing moved the lane's view on, and errors were told as of long ago."""

    async def scenario(stage: Stage) -> None:
        resting = asyncio.Event()

        async def keep_busy() -> None:
            while not resting.is_set():
                await stage.runner.mutation("m:fail", {})

        noise = [asyncio.ensure_future(keep_busy()) for _ in range(20)]
        for n in range(15):
            id, _ = stage.engine.run(lambda tx, n=n: tx.insert("things", {"n": n}))
            assert await stage.mutate(function, id=id) is True
        resting.set()
        await asyncio.gather(*noise)

    play(tmp_path, BUSY, scenario)
