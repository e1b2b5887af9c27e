"""In a user's own process: a query or mutation without end is ended, and nothing else is."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from runtime_harness import Stage, play

SOURCE = """
    import importlib.util, time

    @cs.mutation
    def add(ctx, n: int):
        return ctx.db.insert("t", {"n": n})

    @cs.query
    def count(ctx):
        return ctx.db.query("t").count()

    @cs.query
    def spin(ctx):
        while True:
            pass

    @cs.query
    def stubborn(ctx):
        for _ in range(3):
            try:
                while True:
                    pass
            except BaseException:
                pass
        return "at last"

    @cs.mutation
    def write_and_spin(ctx):
        ctx.db.insert("t", {"n": 1})
        while True:
            pass

    @cs.query
    def wait(ctx):
        time.sleep(0.6)  # as at a breakpoint
        return "waited"

    @cs.query
    def load(ctx, path: str):
        spec = importlib.util.spec_from_file_location("slow_to_import", path)
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
        return "loaded"
"""


def test_an_endless_query_is_ended_at_its_line_and_the_next_call_runs(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        began = time.monotonic()
        late = await stage.runner.query("m:spin", {})
        assert late.error is not None
        assert time.monotonic() - began < 5
        assert late.error.code == "LimitExceeded"
        assert "m:spin computed longer than 0.2 s and was stopped at" in late.error.message
        assert ", line 13" in late.error.message or ", line 14" in late.error.message
        assert "in spin" in late.error.traceback
        assert "query_time_s" in late.error.message
        for n in range(200):
            await stage.mutate("add", n=n)
        assert await stage.query("count") == 200

    play(tmp_path, SOURCE, scenario, inline=True, query_time_s=0.2)


def test_an_endless_mutation_writes_nothing(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        late = await stage.runner.mutation("m:write_and_spin", {})
        assert late.error is not None
        assert "mutation_time_s" in late.error.message
        assert await stage.query("count") == 0

    play(tmp_path, SOURCE, scenario, inline=True, mutation_time_s=0.2)


def test_a_function_that_catches_everything_is_told_again(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        async with asyncio.timeout(10):
            assert (await stage.runner.query("m:stubborn", {})).ok
        assert await stage.query("count") == 0

    play(tmp_path, SOURCE, scenario, inline=True, query_time_s=0.2)


def test_waiting_and_importing_are_not_counted(tmp_path: Path) -> None:
    module = tmp_path / "slow.py"
    module.write_text("import time\nend = time.thread_time() + 0.5\nwhile time.thread_time() < end: pass\n")

    async def scenario(stage: Stage) -> None:
        assert await stage.query("wait") == "waited"
        assert await stage.query("load", path=str(module)) == "loaded"

    play(tmp_path, SOURCE, scenario, inline=True, query_time_s=0.3)


def test_the_store_closes_over_an_endless_query_whose_caller_has_gone(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stage.runner.query("m:spin", {}), 0.3)

    began = time.monotonic()
    play(tmp_path, SOURCE, scenario, inline=True, query_time_s=1.0)
    assert time.monotonic() - began < 10


def test_watching_costs_less_than_three_microseconds_a_call() -> None:
    from cellstore.knobs import DEFAULTS
    from cellstore.runtime.execute import Call
    from cellstore.runtime.loaded import LoadedModules
    from cellstore.runtime.watchdog import Watchdog

    watchdog, call, best = Watchdog(LoadedModules(), DEFAULTS), Call(1, "query", "m:f", {}), 1.0
    for _ in range(20):
        began = time.perf_counter()
        for _ in range(500):
            watchdog.enter(call, b"")
            watchdog.exit()
        best = min(best, (time.perf_counter() - began) / 500)
    assert best < 3e-6
