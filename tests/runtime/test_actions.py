"""Actions: they reach data only through calls, run at once, stream their lines, and end at most once."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from runtime_harness import Stage, play, value_of

from cellstore.runtime import actions as actions_module

SOURCE = """
    import asyncio, os, time

    @cs.mutation
    def add(ctx, n: int):
        return ctx.db.insert("t", {"n": n})

    @cs.query
    def count(ctx):
        return ctx.db.query("t").count()

    @cs.action
    def plain(ctx, n: int):
        print("adding")
        ctx.run_mutation(add, n=n)
        add(n=n)
        return ctx.run_query("m:count")

    @cs.action
    async def gently(ctx, n: int):
        await asyncio.gather(ctx.run_mutation(add, n=n), add(n=n))
        return await ctx.run_query(count)

    @cs.action
    async def nested(ctx):
        return await ctx.run_action(plain, n=9)

    @cs.action
    def wait(ctx, s: float):
        deadline = time.monotonic() + s
        while time.monotonic() < deadline:
            time.sleep(0.02)
        add(n=1)

    @cs.action
    def die(ctx):
        os._exit(4)

    @cs.action
    def fail(ctx):
        raise ValueError("out there")

    @cs.action
    def touch(ctx):
        return ctx.db.query("t").collect()
"""


@pytest.mark.parametrize("inline", [False, True], ids=["pool", "inline"])
def test_an_action_reaches_data_through_calls_of_its_own(tmp_path: Path, inline: bool) -> None:
    async def scenario(stage: Stage) -> None:
        heard: list[str] = []
        outcome = await stage.runner.action("m:plain", {"n": 1}, on_log=heard.append)
        assert value_of(outcome) == 2
        await asyncio.sleep(0)
        assert outcome.logs == heard == ["[LOG] adding"]
        assert value_of(await stage.runner.action("m:gently", {"n": 1})) == 4
        assert value_of(await stage.runner.action("m:nested", {})) == 6
        failed = await stage.runner.action("m:fail", {})
        assert failed.error is not None
        assert failed.error.message == "ValueError: out there"
        assert 'raise ValueError("out there")' in failed.error.traceback
        touched = await stage.runner.action("m:touch", {})
        assert touched.error is not None
        assert "ctx.run_query" in touched.error.message

    play(tmp_path, SOURCE, scenario, inline=inline)


def test_actions_run_at_once_and_one_that_is_cancelled_stops(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.runner.action("m:wait", {"s": 0.0})
        began = time.monotonic()
        await asyncio.gather(*[stage.runner.action("m:wait", {"s": 0.3}) for _ in range(10)])
        assert time.monotonic() - began < 1.5
        task = asyncio.ensure_future(stage.runner.action("m:wait", {"s": 0.5}))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.sleep(1.0)
        assert await stage.query("count") == 11, "the cancelled one never came to its mutation"

    play(tmp_path, SOURCE, scenario)


def test_an_action_that_takes_its_process_down_or_too_long_is_an_error(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        dead = await stage.runner.action("m:die", {})
        assert dead.error is not None
        assert "status 4" in dead.error.message
        late = await stage.runner.action("m:wait", {"s": 5.0})
        assert late.error is not None
        assert late.error.code == "LimitExceeded"
        assert "ran longer than" in late.error.message
        assert "in wait" in late.error.traceback, "the line where it stood"
        assert value_of(await stage.runner.action("m:plain", {"n": 1})) == 2

    play(tmp_path, SOURCE, scenario, action_time_s=0.6)


def test_an_action_says_how_far_it_is(tmp_path: Path) -> None:
    source = (
        SOURCE
        + """
    @cs.action
    def parts(ctx):
        for n in range(200):
            ctx.progress(n + 1, 200, "part")

    @cs.action
    async def wrong(ctx, done: object):
        ctx.progress(done)

    @cs.action
    def far(ctx):
        ctx.progress(2**70)

    @cs.action
    def of_numpy(ctx):
        import numpy
        ctx.progress(numpy.int64(1), numpy.float32(2), "half \\ud800")
    """
    )

    async def scenario(stage: Stage) -> None:
        heard: list[tuple[float, float | None, str]] = []
        outcome = await stage.runner.action("m:parts", {}, on_progress=lambda *far: heard.append(far))
        assert outcome.ok
        assert heard[-1] == (200, 200, "part"), "the end is always told"
        assert len(heard) < 20, "two hundred reports in a moment are for nobody's eyes"
        for number in ("half", None, float("nan")):
            wrong = await stage.runner.action("m:wrong", {"done": number})
            assert wrong.error is not None
            assert "expected a number" in wrong.error.message
        heard.clear()
        assert (await stage.runner.action("m:of_numpy", {}, on_progress=lambda *far: heard.append(far))).ok
        assert heard == [(1, 2.0, "half \\ud800")]
        heard.clear()
        assert (await stage.runner.action("m:far", {}, on_progress=lambda *far: heard.append(far))).ok
        assert heard == [(2.0**70, None, "")]

    play(tmp_path, source, scenario)


def test_fifty_actions_run_at_once(tmp_path: Path) -> None:
    source = (
        SOURCE
        + """
    @cs.action
    def meet(ctx, n: int):
        add(n=n)
        while ctx.run_query(count) < n:  # none goes on before all have come
            time.sleep(0.01)
        return True
    """
    )

    async def scenario(stage: Stage) -> None:
        outcomes = await asyncio.gather(*[stage.runner.action("m:meet", {"n": 50}) for _ in range(50)])
        assert all(value_of(outcome) for outcome in outcomes)

    play(tmp_path, source, scenario)


BLOCKING = (
    SOURCE
    + """
    @cs.action
    async def block(ctx, s: float):
        deadline = time.monotonic() + s
        while time.monotonic() < deadline:
            pass
        return os.getpid()

    @cs.action
    async def pid(ctx):
        await asyncio.sleep(0)
        await add(n=1)
        return os.getpid()

    @cs.action
    async def meet_pid(ctx, n: int):
        await add(n=n)
        while await ctx.run_query(count) < n:  # 5 from before, 20 of these
            await asyncio.sleep(0.01)
        return os.getpid()

    @cs.action
    async def leave_behind(ctx):
        asyncio.create_task(asyncio.sleep(3600))
        asyncio.get_running_loop().run_in_executor(None, time.sleep, 2)
        await asyncio.sleep(0)
        return "left"
    """
)


@pytest.mark.parametrize("inline", [False, True], ids=["pool", "inline"])
def test_an_async_action_that_blocks_holds_up_nobody(tmp_path: Path, inline: bool) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.runner.action("m:pid", {})
        blocking = asyncio.ensure_future(stage.runner.action("m:block", {"s": 1.5}))
        pids = {value_of(await stage.runner.action("m:pid", {})) for _ in range(5)}
        assert not blocking.done()
        assert pids == {value_of(await blocking)}, "they share the process"

    play(tmp_path, BLOCKING, scenario, inline=inline, action_processes_max=1)


def test_an_async_action_without_end_is_stopped_at_its_line_and_its_process_lives_on(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        before = value_of(await stage.runner.action("m:pid", {}))
        late = await stage.runner.action("m:block", {"s": 60.0})
        assert late.error is not None
        assert late.error.code == "LimitExceeded"
        assert "in block" in late.error.traceback
        assert value_of(await stage.runner.action("m:pid", {})) == before

    play(tmp_path, BLOCKING, scenario, action_time_s=0.5)


def test_what_an_action_leaves_behind_does_not_hold_it_up(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.runner.action("m:pid", {})
        began = time.monotonic()
        assert value_of(await stage.runner.action("m:leave_behind", {})) == "left"
        assert time.monotonic() - began < 1.5

    play(tmp_path, BLOCKING, scenario)


def test_an_action_that_takes_its_process_down_takes_no_other_with_it(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        waiting = [asyncio.ensure_future(stage.runner.action("m:wait", {"s": 0.8})) for _ in range(3)]
        await asyncio.sleep(0)
        dead = await stage.runner.action("m:die", {})
        assert dead.error is not None
        assert dead.error.code == "WorkerDied"
        assert all(outcome.ok for outcome in await asyncio.gather(*waiting))
        assert await stage.query("count") == 3

    play(tmp_path, SOURCE, scenario)


def test_an_action_that_wants_too_much_memory_is_told_so(tmp_path: Path) -> None:
    source = SOURCE + "\n    @cs.action\n    def hog(ctx):\n        return len(bytearray(3 << 30))\n"

    async def scenario(stage: Stage) -> None:
        waiting = asyncio.ensure_future(stage.runner.action("m:wait", {"s": 0.3}))
        hog = await stage.runner.action("m:hog", {})
        assert hog.error is not None
        assert hog.error.code == "LimitExceeded"
        assert "memory_bytes" in hog.error.message
        assert "in hog" in hog.error.traceback
        assert (await waiting).ok

    play(tmp_path, source, scenario, memory_bytes=2 << 30)


NESTING = (
    SOURCE
    + """
    @cs.action
    def outer(ctx):
        ctx.run_action(wait, s=0.8)

    @cs.action
    async def outer_async(ctx):
        await ctx.run_action(wait, s=0.8)

    @cs.action
    async def impatient(ctx):
        try:
            await asyncio.wait_for(ctx.run_action(wait, s=0.5), 0.1)
        except asyncio.TimeoutError:
            pass
        await asyncio.sleep(0.8)  # the answer comes meanwhile
        return "went on"
    """
)


@pytest.mark.parametrize("inline", [False, True], ids=["pool", "inline"])
@pytest.mark.parametrize("path", ["m:outer", "m:outer_async"])
def test_what_a_cancelled_action_runs_is_cancelled_with_it(tmp_path: Path, path: str, inline: bool) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.runner.action("m:wait", {"s": 0.0})
        task = asyncio.ensure_future(stage.runner.action(path, {}))
        await asyncio.sleep(0.3)
        task.cancel()
        await asyncio.sleep(1.2)
        assert await stage.query("count") == 1, "the inner one never came to its mutation"

    play(tmp_path, NESTING, scenario, inline=inline)


def test_an_answer_that_nobody_waits_for_any_more_harms_nobody(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        others = asyncio.ensure_future(stage.runner.action("m:wait", {"s": 1.2}))
        assert value_of(await stage.runner.action("m:impatient", {})) == "went on"
        assert (await others).ok

    play(tmp_path, NESTING, scenario, action_processes_max=1)


def test_one_action_after_another_has_one_process_and_many_at_once_share_a_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions_module, "_IDLE_S", 0.3)

    async def scenario(stage: Stage) -> None:
        one_by_one = {value_of(await stage.runner.action("m:pid", {})) for _ in range(5)}
        assert len(one_by_one) == 1
        outcomes = await asyncio.gather(*[stage.runner.action("m:meet_pid", {"n": 25}) for _ in range(20)])
        assert len({value_of(outcome) for outcome in outcomes}) == 3
        [team] = stage.runner._actions.values()
        async with asyncio.timeout(20):
            while len(team._links) > 1:
                await asyncio.sleep(0.02)
        assert value_of(await stage.runner.action("m:pid", {})) in {value_of(outcome) for outcome in outcomes}

    play(tmp_path, BLOCKING, scenario, action_processes_max=3)


def test_an_action_beyond_the_limit_is_told_so_at_once(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        two = [asyncio.ensure_future(stage.runner.action("m:wait", {"s": 0.5})) for _ in range(2)]
        await asyncio.sleep(0)
        third = await stage.runner.action("m:wait", {"s": 0.0})
        assert third.error is not None
        assert third.error.code == "Overloaded"
        assert all(outcome.ok for outcome in await asyncio.gather(*two))

    play(tmp_path, SOURCE, scenario, actions_running_max=2)
