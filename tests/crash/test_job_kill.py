"""Killed at every commit of a scheduled mutation and a scheduled action, at every fault point of it, and again while the next
server recovers: the mutation has its effect once; the action is begun once at most, and says how it ended.

One job runs at a time, so the commits come in a known order, and whether a killed one is there depends on the point alone.
What an action did outside the store is a line in a file, which no crash takes back.
"""

from __future__ import annotations

import asyncio
import signal
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mortal import start
from test_engine_kill import POINTS

from cellstore.knobs import Knobs
from cellstore.server.deployment import Deployment
from cellstore.storage.check import check
from cellstore.transaction.database import Engine

FUNCTIONS = """
import cellstore as cs

@cs.mutation
def put(ctx, by: str):
    ctx.db.insert("effects", {"by": by})

@cs.action
def act(ctx, marks: str):
    with open(marks, "a") as file:
        file.write("begun ")
    ctx.run_mutation(put, by="action")

@cs.mutation
def plan(ctx, marks: str):
    ctx.scheduler.run_after(0, put, by="mutation")
    ctx.scheduler.run_after(0.001, act, marks=marks)
"""
SERVERS = textwrap.dedent(
    """
    import asyncio, os, pathlib, sys
    from cellstore import faults
    from cellstore.knobs import Knobs
    from cellstore.runtime.inline import InlineRunner
    from cellstore.runtime.pool import PoolRunner
    from cellstore.server.deployment import Deployment
    from server_process import deploy_body

    RUNNERS = {"inline": InlineRunner, "pool": PoolRunner}

    async def serve(directory, runner):
        '''The first time jobs are planned; after that the server recovers. It is armed when only jobs are left to do.'''
        def armed(engine):
            faults.arm_from_environment()
            return RUNNERS[runner](engine)

        store = directory / "store.db"
        is_first = not store.exists()
        knobs = Knobs(jobs_running_max=1, trim_pause_s=60)
        deployment = Deployment(store, runner=runner if is_first else armed, knobs=knobs)
        await deployment.start()
        if is_first:
            await deployment.control("deploy", {}, deploy_body(directory / "planned_jobs.py"))
            await asyncio.sleep(0)  # its upkeep begins, and has nothing to do for the next minute
            faults.arm_from_environment()
            await deployment.mutation("planned_jobs:plan", {"marks": str(directory / "marks")})
            await asyncio.sleep(30)

    for line in sys.stdin:  # a server each, forked when all is imported: that takes longest
        directory, os.environ["CELLSTORE_FAULT"], runner = line.split()
        server = os.fork()
        if server == 0:
            asyncio.run(serve(pathlib.Path(directory), runner))
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(server, 0)[1]), flush=True)
    """
)
COMMITS = ["plan", "mutation", "begin action", "effect of action", "end action"]
DURABLE = set(POINTS) - {"commit.validated", "storage.begin", "storage.written"}  # for all but a power cut

IN_WORKERS = ["storage.begin", "storage.committed", "commit.published"]  # what a commit is made of is the same there

Serve = Callable[..., None]


@pytest.fixture(scope="module")
def serve_and_die(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Serves the store in a directory from a process of its own, until that dies at the fault."""
    servers = start(SERVERS, tmp_path_factory.mktemp("servers"), PYTHONPATH=str(Path(__file__).parents[1]))
    assert servers.stdin is not None
    assert servers.stdout is not None

    def serve(directory: Path, fault: str, runner: str = "inline") -> None:
        (directory / "planned_jobs.py").write_text(FUNCTIONS)
        print(directory, fault, runner, file=servers.stdin, flush=True)
        assert int(servers.stdout.readline()) == -signal.SIGKILL
        assert list(check(directory / "store.db")) == []

    yield serve
    servers.communicate(timeout=20)


def found(engine: Engine) -> tuple[dict[str, str], list[str]]:
    """State of each job by the name of its function, and who had an effect."""
    with engine.begin() as tx:
        jobs = {row["name"].split(":")[1]: row["state"]["kind"] for _, row in tx.scan("_scheduled_functions")}
        return jobs, sorted(row["by"] for _, row in tx.scan("effects"))


async def served_to_the_end(directory: Path, runner: Any = "inline") -> tuple[dict[str, str], list[str], str]:
    deployment = Deployment(directory / "store.db", runner=runner, knobs=Knobs(jobs_running_max=1))
    await deployment.start()
    try:
        async with asyncio.timeout(30):
            while {"pending", "inProgress"} & set(found(deployment._engine)[0].values()):
                await asyncio.sleep(0.01)
        marks = directory / "marks"
        return *found(deployment._engine), marks.read_text() if marks.exists() else ""
    finally:
        await deployment.stop()


def expected(commit: str, is_there: bool) -> Any:
    """Jobs, effects and beginnings after a crash in `commit`, which was written or not, and a run to the end."""
    if commit == "plan" and not is_there:
        return {}, [], ""
    done = {"put": "success", "act": "success"}, ["action", "mutation"], "begun "
    interrupted = {"put": "success", "act": "failed"}
    if commit == "begin action" and is_there:
        return interrupted, ["mutation"], ""
    if commit == "effect of action":
        return interrupted, ["action", "mutation"] if is_there else ["mutation"], "begun "
    return (interrupted, *done[1:]) if commit == "end action" and not is_there else done


@pytest.mark.parametrize("commit", COMMITS)
@pytest.mark.parametrize("point", POINTS)
def test_killed_at(point: str, commit: str, tmp_path: Path, serve_and_die: Serve) -> None:
    serve_and_die(tmp_path, f"{point}=kill@{COMMITS.index(commit) + 1}")
    assert asyncio.run(served_to_the_end(tmp_path)) == expected(commit, point in DURABLE)


@pytest.mark.parametrize("commit", COMMITS)
@pytest.mark.parametrize("point", IN_WORKERS)
def test_killed_at_with_functions_in_workers(point: str, commit: str, tmp_path: Path, serve_and_die: Serve) -> None:
    serve_and_die(tmp_path, f"{point}=kill@{COMMITS.index(commit) + 1}", "pool")
    assert asyncio.run(served_to_the_end(tmp_path, "pool")) == expected(commit, point in DURABLE)


@pytest.mark.parametrize("point", POINTS)
def test_killed_again_while_an_interrupted_action_is_failed(point: str, tmp_path: Path, serve_and_die: Serve) -> None:
    serve_and_die(tmp_path, "commit.published=kill@4")
    serve_and_die(tmp_path, f"{point}=kill@1")
    with Engine.open(tmp_path / "store.db") as engine:
        assert found(engine)[0]["act"] == ("failed" if point in DURABLE else "inProgress")
    assert asyncio.run(served_to_the_end(tmp_path)) == expected("effect of action", True)
