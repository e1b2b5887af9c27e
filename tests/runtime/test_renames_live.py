"""Definitions that change while functions run in workers: no call fails, none is lost, none sees a mixture."""

from __future__ import annotations

import asyncio
from typing import Any

from runtime_harness import Stage, play

from cellstore.schema.definition import IndexDefinition, TableDefinition

SOURCE = """
    @cs.mutation
    def fill(ctx, count: int) -> list[str]:
        return [ctx.db.insert("t", {"a": 0, "k": k}) for k in range(count)]

    @cs.mutation
    def count_up(ctx, id: str) -> None:
        document = ctx.db.get(id)
        name = "a" if "a" in document else "b"
        ctx.db.patch(id, {name: document[name] + 1})

    @cs.query
    def seen(ctx) -> list[str]:
        return sorted({name for document in ctx.db.query("t").collect() for name in document if name in "ab"})

    @cs.query
    def total(ctx) -> int:
        return sum(document.get("a", 0) + document.get("b", 0) for document in ctx.db.query("t").collect())
"""


def called(name: str, before: str | None = None) -> TableDefinition:
    """The table with its counters in `name`, which were in `before`."""
    fields = {each: {"type": {"type": "int"}, "optional": False} for each in (name, "k")}
    renames = {} if before is None else {before: name}
    return TableDefinition(
        "t", {"type": "object", "fields": fields}, {"by_it": IndexDefinition((name,))}, None, renames
    )


def test_a_field_is_renamed_to_and_fro_beside_mutations_in_workers(tmp_path):
    async def scenario(stage: Stage) -> None:
        ids = await stage.mutate("fill", count=20)
        stage.engine.define(called("a"))
        over = asyncio.Event()

        async def work(number: int) -> int:
            calls = 0
            while not over.is_set():
                await stage.mutate("count_up", id=ids[(number + calls) % len(ids)])
                assert await stage.query("seen") in (["a"], ["b"]), "all of them by one name"
                calls += 1
            return calls

        workers = [asyncio.create_task(work(number)) for number in range(6)]
        for before, after in [("a", "b"), ("b", "a")] * 10:
            for _ in stage.engine.apply_definitions([called(after, before)]):
                await asyncio.sleep(0)
            await asyncio.sleep(0.02)
        over.set()
        calls: list[Any] = await asyncio.gather(*workers)
        assert await stage.query("total") == sum(calls) > 0
        assert await stage.query("seen") == ["a"]

    play(tmp_path, SOURCE, scenario)
