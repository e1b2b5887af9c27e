"""What is committed beside the loop can be seen by workers before the disk has it, and nobody is told until it has."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from runtime_harness import Stage, play

sys.path.insert(0, str(Path(__file__).parents[1]))
from slow_disk import disk_at_work

from cellstore.runtime.team import Team

SOURCE = """
    @cs.query
    def count(ctx):
        return ctx.db.query("t").count()

    @cs.mutation
    def look(ctx):
        return ctx.db.query("t").count()

    @cs.mutation
    def complain(ctx):
        raise cs.ApplicationError(ctx.db.query("t").count())
"""


def beside(stage: Stage) -> Any:
    """An import, say, whose commit the disk is at work on."""
    return disk_at_work(stage.engine, lambda: stage.engine.bulk_insert("t", [{"n": 1}]))


@pytest.mark.parametrize("inline", [False, True])
def test_a_query_for_the_newest_moment_gets_one_that_lasts(tmp_path: Path, inline: bool) -> None:
    async def scenario(stage: Stage) -> None:
        stage.engine.bulk_insert("t", [{"n": 0}])
        with beside(stage):
            outcome = await stage.runner.query("m:count", {})
            assert (outcome.value, outcome.ts) == (b"1", stage.engine.published_ts)
        assert await stage.query("count") == 2

    play(tmp_path, SOURCE, scenario, inline=inline)


@pytest.mark.parametrize("name", ["look", "complain"])
@pytest.mark.parametrize("where", ["inline", "lane", "beside the lane"])
def test_a_mutation_that_saw_it_is_answered_when_it_lasts(
    tmp_path: Path, where: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Team.submit

    def submit(self: Team, call: Any) -> None:
        call.in_lane = where == "lane"
        real(self, call)

    async def scenario(stage: Stage) -> None:
        with beside(stage) as done:
            threading.Timer(0.3, done.set).start()
            outcome = await stage.runner.mutation(f"m:{name}", {})
            assert done.is_set()
        assert (outcome.value if outcome.error is None else outcome.error.data) in (b"1", 1)

    monkeypatch.setattr(Team, "submit", submit)
    play(tmp_path, SOURCE, scenario, inline=where == "inline")
