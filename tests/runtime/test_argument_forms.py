"""What a parameter is annotated as may be passed to it, whoever calls and whenever it runs."""

from __future__ import annotations

import asyncio

import pytest
from runtime_harness import Stage, play

SOURCE = """
    import datetime as dt

    NEW_YEAR = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)

    @cs.mutation
    def note(ctx, when: dt.datetime, by: str) -> str:
        assert when == NEW_YEAR, when
        ctx.db.insert("notes", {"by": by, "when": when.isoformat()})
        return by

    @cs.mutation
    def nested(ctx):
        ctx.run_mutation(note, when=NEW_YEAR, by="a mutation")
        ctx.scheduler.run_after(0, note, when=NEW_YEAR, by="its job")

    @cs.action
    async def acting(ctx):
        await ctx.run_mutation(note, when=NEW_YEAR, by="an action")
        await ctx.scheduler.run_after(0, note, {"when": NEW_YEAR, "by": "the job of it"})

    @cs.mutation
    def careless(ctx):
        ctx.scheduler.run_after(0, note, when=(2026, 1, 1), by="nobody")

    @cs.query
    def writers(ctx) -> list[str]:
        return sorted(row["by"] for row in ctx.db.query("notes"))
"""


@pytest.mark.parametrize("inline", [False, True])
def test_a_datetime_reaches_a_function_that_declares_one(tmp_path, inline):
    async def scenario(stage: Stage) -> None:
        await stage.mutate("nested")
        assert (await stage.runner.action("m:acting", {})).error is None
        async with asyncio.timeout(20):
            while len(await stage.query("writers")) < 4:
                await asyncio.sleep(0.01)
        assert await stage.query("writers") == ["a mutation", "an action", "its job", "the job of it"]
        refused = await stage.runner.mutation("m:careless", {})
        assert refused.error is not None
        assert "got tuple (2026, 1, 1); use a list" in refused.error.message

    play(tmp_path, SOURCE, scenario, inline=inline)
