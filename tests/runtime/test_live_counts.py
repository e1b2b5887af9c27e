"""A live count in a worker: what it depends on comes back to the host, and is touched only by what comes or goes."""

import asyncio

import pytest
from runtime_harness import play

from cellstore.schema.definition import IndexDefinition, TableDefinition

SOURCE = """
    @cs.query
    def open_count(ctx):
        return ctx.db.query("tasks").with_index("by_done", done=False).count()

    @cs.query
    def open_tasks(ctx):
        return ctx.db.query("tasks").with_index("by_done", done=False).collect()

    @cs.mutation
    def add(ctx, text: str) -> str:
        return ctx.db.insert("tasks", {"text": text, "done": False})

    @cs.mutation
    def change(ctx, id: str, text: str):
        ctx.db.patch(id, {"text": text})

    @cs.mutation
    def finish(ctx, id: str):
        ctx.db.patch(id, {"done": True})

    @cs.mutation
    def name(ctx, key: str, text: str) -> str:
        return ctx.db.upsert("names", {"key": key}, {"text": text})
"""


TABLES = (
    TableDefinition("tasks", {"type": "any"}, {"by_done": IndexDefinition(("done",))}),
    TableDefinition("names", {"type": "any"}, {"by_key": IndexDefinition(("key",), unique=True)}),
)


@pytest.mark.parametrize("inline", [False, True])
def test_a_live_count_is_touched_by_what_comes_or_goes_and_nothing_else(tmp_path, inline):
    async def scenario(stage):
        stage.engine.define(*TABLES)
        id = await stage.mutate("add", text="one")
        log = stage.engine.write_log

        async def touched(query, write, **args):
            outcome = await stage.runner.query(f"m:{query}", {})
            before = stage.engine.published_ts
            await stage.mutate(write, **args)
            return log.first_hit(outcome.reads, before) is not None

        assert not await touched("open_count", "change", id=id, text="two")
        assert await touched("open_tasks", "change", id=id, text="three")
        assert await touched("open_count", "add", text="another")
        assert await stage.query("open_count") == 2
        assert await touched("open_count", "finish", id=id)
        assert not await touched("open_count", "change", id=id, text="done")
        assert await stage.query("open_count") == 1

    play(tmp_path, SOURCE, scenario, inline=inline)


@pytest.mark.parametrize("inline", [False, True])
def test_an_upsert_goes_through_the_lane(tmp_path, inline):
    async def scenario(stage):
        stage.engine.define(*TABLES)
        ids = await asyncio.gather(*[stage.mutate("name", key=f"k{n % 3}", text=str(n)) for n in range(30)])
        assert len(set(ids)) == 3
        with stage.engine.begin() as transaction:
            assert transaction.count("names") == 3

    play(tmp_path, SOURCE, scenario, inline=inline)
