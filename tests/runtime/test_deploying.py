"""What a deploy that takes long leaves to others."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from runtime_harness import Stage, play, unit_of

from cellstore.runtime.deploying import _OTHERS_SHARE, _give_way


def given_up(step_s: float, work_s: float) -> float:
    """How long a deploy waits after a step that took `step_s`, when somebody on the loop has work for `work_s`."""

    def work() -> None:
        over = time.perf_counter() + work_s
        while time.perf_counter() < over:
            pass

    async def deploy() -> float:
        asyncio.get_running_loop().call_soon(work)
        begun = time.perf_counter()
        await _give_way(step_s)
        return time.perf_counter() - begun

    return asyncio.run(deploy())


def test_while_others_have_something_to_do_most_of_the_time_is_theirs() -> None:
    assert given_up(step_s=0.05, work_s=0.002) >= _OTHERS_SHARE * 0.05 > 0.05


def test_with_the_loop_to_itself_a_deploy_does_not_wait() -> None:
    assert min(given_up(step_s=5, work_s=0) for _ in range(3)) < 5


SOURCE = """
    class Item(cs.Table, name="items"):
        n: int
        m: int
        by_it = cs.Index({fields})

    @cs.query
    def lowest(ctx):
        return ctx.db.query("items").with_index("by_it").first().n

    @cs.mutation
    def add(ctx, n: int):
        ctx.db.insert("items", {{"n": n, "m": -n}})
"""


def test_calls_go_on_while_an_index_is_built_the_old_one_serves_and_everybody_sees_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cellstore.runtime.deploying._OTHERS_SHARE", 10)  # so that it takes a while

    async def scenario(stage: Stage) -> None:
        stage.engine.bulk_insert("items", [{"n": n, "m": -n} for n in range(20_000)])
        deploy = asyncio.ensure_future(stage.runner.deploy(unit_of(SOURCE.format(fields='"m"'))))
        lowest, watched = 0, []
        while not deploy.done():
            watched += stage.engine.backfills.values()
            if await stage.query("lowest") == lowest:  # by n, so the old index
                await stage.mutate("add", n=lowest - 1)
                lowest -= 1
        assert lowest < -5
        assert watched
        assert all(progress.done <= progress.of >= 20_000 for progress in watched)
        assert await stage.query("lowest") == 19_999

    play(tmp_path, SOURCE.format(fields='"n"'), scenario)
