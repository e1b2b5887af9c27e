"""A live count in a worker: what it depends on comes back to the host, and is touched only by what comes or goes."""

import asyncio

import pytest
from runtime_harness import play

import cellstore as cs
from cellstore.schema.definition import IndexDefinition, TableDefinition
from cellstore.testing.store import StoreUnderTest

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


class Job(cs.Table, name="jobs"):
    open: bool
    text: str = ""
    by_open = cs.Index("open")


ran: list[int] = []


@cs.query
def open_jobs(ctx):
    ran.append(1)
    return ctx.db.query("jobs").with_index("by_open", open=True).count()


@cs.mutation
def put(ctx, id: str | None = None, **fields):
    return ctx.db.insert("jobs", fields) if id is None else ctx.db.patch(id, fields)


@cs.mutation
def remove(ctx, id: str):
    ctx.db.delete(id)


def test_a_watched_count_is_run_again_when_a_commit_changes_its_range_and_then_only():
    with StoreUnderTest() as store:
        here, closed = put(open=True), put(open=False)
        live = store.subscribe(open_jobs)

        def runs(change, **args):
            ran.clear()
            change(**args)
            return len(ran), live.value

        assert live.until(lambda count: count is not None, timeout=10) == 1
        assert runs(put, id=here, text="changed in place") == (0, 1)
        assert runs(put, id=closed, text="elsewhere") == (0, 1)
        assert runs(put, open=False) == (0, 1)
        assert runs(remove, id=closed) == (0, 1)
        assert runs(put, open=True) == (1, 2)
        assert runs(put, id=here, open=False) == (1, 1)
        assert runs(remove, id=here) == (0, 1)
