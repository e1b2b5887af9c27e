"""Functions in worker processes: what goes well, and everything that can go wrong with a process."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import sys
import time
from pathlib import Path

import pytest
from runtime_harness import Stage, play, unit_of, value_of

from cellstore.errors import ValidationError
from cellstore.runtime.execute import with_modules

BASICS = """
    @cs.query
    def everything(ctx):
        return ctx.db.query("t").collect()

    @cs.query
    def count(ctx):
        return len(ctx.db.query("t").collect())

    @cs.mutation
    def add(ctx, n: int):
        print("adding", n)
        return ctx.db.insert("t", {"n": n})

    @cs.mutation
    def add_and_fail(ctx, n: int):
        ctx.db.insert("t", {"n": n})
        return {}["balence"]

    @cs.mutation
    def add_and_return_the_wrong_type(ctx) -> int:
        ctx.db.insert("t", {"n": 1})
        return "one"

    @cs.mutation
    def outer(ctx):
        add(n=1)
        try:
            ctx.run_mutation("m:add_and_fail", n=2)
        except KeyError:
            pass
        return ctx.run_query(count)

    @cs.mutation(internal=True)
    def hidden(ctx):
        return 1

    @cs.query
    async def gently(ctx):
        return await ctx.run_query(count)

    @cs.query
    def who(ctx):
        return ctx.auth.identity()

    @cs.mutation
    def refuse(ctx):
        raise cs.ApplicationError({"code": 7})
"""


def test_a_mutation_commits_and_its_output_and_result_reach_the_caller(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        outcome = await stage.runner.mutation("m:add", {"n": 5})
        assert outcome.ok
        assert outcome.logs == ["[LOG] adding 5"]
        assert outcome.ts == stage.engine.published_ts
        [row] = await stage.query("everything")
        assert (row["n"], row["_id"]) == (5, value_of(outcome))

    play(tmp_path, BASICS, scenario)


def test_what_a_function_did_wrong_is_said_in_its_own_lines_and_nothing_is_written(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        failed = await stage.runner.mutation("m:add_and_fail", {"n": 1})
        assert failed.error is not None
        assert failed.error.message == "KeyError: 'balence'"
        assert 'return {}["balence"]' in failed.error.traceback
        assert "cellstore" not in failed.error.traceback
        wrong = await stage.runner.mutation("m:add", {"n": "x"})
        assert wrong.error is not None
        assert wrong.error.code == "ArgumentValidationError"
        assert "m:add: n: expected int" in wrong.error.message
        broken = await stage.runner.mutation("m:add_and_return_the_wrong_type", {})
        assert broken.error is not None
        assert broken.error.code == "ReturnsValidationError"
        assert await stage.query("count") == 0
        told = await stage.runner.mutation("m:refuse", {})
        assert told.error is not None
        assert (told.error.data, told.error.has_data) == ({"code": 7}, True)

    play(tmp_path, BASICS, scenario)


def test_a_nested_mutation_that_fails_leaves_nothing_and_the_outer_one_goes_on(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        assert await stage.mutate("outer") == 1
        assert await stage.query("gently") == 1

    play(tmp_path, BASICS, scenario)


def test_an_internal_function_answers_as_if_it_were_not_there(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        hidden = await stage.runner.mutation("m:hidden", {})
        missing = await stage.runner.mutation("m:nowhere", {})
        assert hidden.error is not None
        assert missing.error is not None
        assert hidden.error.code == missing.error.code == "NotFound"
        assert (await stage.runner.mutation("m:hidden", {}, internal=True)).ok
        wrong_kind = await stage.runner.query("m:add", {"n": 1})
        assert wrong_kind.error is not None
        assert "m:add is a mutation" in wrong_kind.error.message

    play(tmp_path, BASICS, scenario)


def test_a_query_that_asks_who_calls_says_so(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        asked = await stage.runner.query("m:who", {}, identity={"subject": "ada"})
        assert (value_of(asked), asked.used_identity) == ({"subject": "ada"}, True)
        assert not (await stage.runner.query("m:count", {})).used_identity

    play(tmp_path, BASICS, scenario)


def test_a_query_at_a_timestamp_sees_that_moment(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        first = await stage.runner.mutation("m:add", {"n": 1})
        await stage.mutate("add", n=2)
        then = await stage.runner.query("m:count", {}, ts=first.ts)
        assert (value_of(then), then.ts) == (1, first.ts)
        assert await stage.query("count") == 2

    play(tmp_path, BASICS, scenario)


def test_calls_beyond_what_may_wait_are_told_so_at_once_and_no_process_comes_beyond_what_may_be(tmp_path: Path) -> None:
    source = BASICS + "\n    @cs.query\n    def busy(ctx):\n        for _ in range(2_000_000):\n            pass\n"

    async def scenario(stage: Stage) -> None:
        calls = [asyncio.ensure_future(stage.runner.query("m:busy", {})) for _ in range(20)]
        await asyncio.sleep(0)
        [team] = stage.runner._teams.values()
        waiting, refused = [call for call in calls if not call.done()], [call for call in calls if call.done()]
        assert {call.result().error.code for call in refused} == {"Overloaded"}
        assert 5 <= len(waiting) <= 5 + 2 * 2
        outcomes = await asyncio.gather(*waiting)
        assert all(outcome.ok for outcome in outcomes)
        assert len(team.workers) <= 2

    knobs = {"workers_min": 2, "workers_max": 2, "worker_pipeline_max": 2, "queued_calls_max": 5, "query_time_s": 10.0}
    play(tmp_path, source, scenario, **knobs)


def test_the_host_opens_no_pickle_neither_a_deployed_one_nor_one_of_a_worker(tmp_path: Path) -> None:
    opened: list[object] = []
    unit = unit_of(BASICS)
    assert unit.payload is not None
    is_looking = True
    sys.addaudithook(lambda event, args: opened.append(args) if is_looking and event == "pickle.find_class" else None)

    async def scenario(stage: Stage) -> None:
        await stage.runner.deploy(unit)
        await stage.mutate("add", n=1)
        assert await stage.query("count") == 1
        assert opened == []
        pickle.loads(pickle.dumps(Path))
        assert opened, "it would have been seen"

    try:
        play(tmp_path, None, scenario)
    finally:
        is_looking = False


# Processes that misbehave

TROUBLE = """
    import itertools, os

    @cs.query
    def pid(ctx):
        return os.getpid()

    @cs.query
    def loop_for_ever(ctx):
        while True:
            pass

    @cs.query
    def stuck_in_c(ctx):
        return sum(itertools.repeat(1))

    @cs.query
    def hog(ctx):
        return len(bytearray(8 << 30))

    @cs.mutation
    def write_and_die(ctx):
        ctx.db.insert("t", {"n": 1})
        os._exit(3)

    @cs.mutation
    def bump(ctx):
        row = ctx.db.query("t").first()
        if row is None:
            ctx.db.insert("t", {"n": 1})
        else:
            ctx.db.patch(row["_id"], {"n": row["n"] + 1})

    @cs.query
    def total(ctx):
        row = ctx.db.query("t").first()
        return 0 if row is None else row["n"]

    @cs.mutation
    def slow_bump(ctx):
        row = ctx.db.query("t").first()
        for _ in range(10_000_000):
            pass
        ctx.db.patch(row["_id"], {"n": row["n"] + 1})
"""


def test_killing_a_worker_under_a_call_gives_that_call_an_error_and_nobody_else(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        victim = asyncio.ensure_future(stage.runner.query("m:loop_for_ever", {}))
        await asyncio.sleep(0.3)
        [team] = stage.runner._teams.values()
        [worker] = [worker for worker in team.workers if worker.flying]
        others = [asyncio.ensure_future(stage.runner.query("m:total", {})) for _ in range(20)]
        os.kill(worker.link.pid, signal.SIGKILL)
        outcome = await asyncio.wait_for(victim, 5)
        assert outcome.error is not None
        assert "SIGKILL" in outcome.error.message
        assert [value_of(await other) for other in others] == [0] * 20
        assert await stage.query("pid") != worker.link.pid

    play(tmp_path, TROUBLE, scenario, query_time_s=30)


def test_an_endless_loop_is_stopped_at_its_line_while_others_go_on(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        endless = asyncio.ensure_future(stage.runner.query("m:loop_for_ever", {}))
        await asyncio.sleep(0.1)
        began = time.monotonic()
        for _ in range(20):
            await stage.mutate("bump")
        assert time.monotonic() - began < 0.9, "nobody waits for the endless one"
        outcome = await asyncio.wait_for(endless, 20)
        assert outcome.error is not None
        assert outcome.error.code == "LimitExceeded"
        assert "was stopped at" in outcome.error.message
        assert "pass" in outcome.error.traceback or "while True" in outcome.error.traceback

    play(tmp_path, TROUBLE, scenario)


def test_a_deploy_right_after_a_runaway_does_not_meet_the_worker_that_goes(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        for _ in range(4):
            outcome = await stage.runner.query("m:loop_for_ever", {})
            assert outcome.error is not None
            await stage.runner.deploy(unit_of("@cs.query\ndef f(ctx): return 1", module="other"))
        assert value_of(await stage.runner.query("other:f", {})) == 1

    play(tmp_path, TROUBLE, scenario, query_time_s=0.1, workers_min=1)


def test_what_a_call_imports_is_not_counted_unless_it_never_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    spin = "import itertools\nfrom cellstore.runtime.worker import _real_thread_time as used\nend = used() + {}\n"
    for name, seconds in (("slow_import", 1.5), ("endless_import", 1e9)):
        (tmp_path / f"{name}.py").write_text(spin.format(seconds) + "while used() < end: pass\n")

    async def scenario(stage: Stage) -> None:
        assert await stage.query("load", module="slow_import") == "slow_import"
        endless = await asyncio.wait_for(stage.runner.query("m:load", {"module": "endless_import"}), 60)
        assert endless.error is not None
        assert endless.error.code == "LimitExceeded"
        assert "return importlib.import_module(module).__name__" in endless.error.traceback

    source = TROUBLE + "\n    @cs.query\n    def load(ctx, module: str):\n"
    source += "        import importlib\n        return importlib.import_module(module).__name__\n"
    play(tmp_path, source, scenario, query_time_s=0.1)


def test_a_call_stuck_in_c_code_is_killed_and_its_line_reported(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        stuck = asyncio.ensure_future(stage.runner.query("m:stuck_in_c", {}))
        await asyncio.sleep(0.1)
        assert await asyncio.wait_for(stage.query("total"), 5) == 0
        outcome = await asyncio.wait_for(stuck, 20)
        assert outcome.error is not None
        assert "did not stop" in outcome.error.message
        assert "line" in outcome.error.traceback
        assert "stuck_in_c" in outcome.error.traceback

    play(tmp_path, TROUBLE, scenario, query_time_s=0.3)


def test_a_memory_hog_is_told_so(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        outcome = await stage.runner.query("m:hog", {})
        assert outcome.error is not None
        assert "out of memory" in outcome.error.message
        assert await stage.query("total") == 0

    play(tmp_path, TROUBLE, scenario, memory_bytes=2 << 30)


@pytest.mark.parametrize(
    ("knob", "line"),
    [
        ("time_s", "while True: n += 1"),
        ("time_s", "n += sum(itertools.repeat(1))"),
        ("memory_bytes", "while True: kept.append(bytes(64 << 20))"),
    ],
    ids=["time", "time in C", "memory"],
)
@pytest.mark.parametrize("kind", ["query", "mutation"])
def test_a_call_beyond_its_budget_ends_at_its_line_leaves_nothing_and_is_noticed_by_nobody(
    tmp_path: Path, kind: str, knob: str, line: str
) -> None:
    source = (
        TROUBLE
        + f"""
    def waste(n=0):
        kept = []
        {line}

    @cs.query
    def wasteful_query(ctx):
        return waste(total(ctx))

    @cs.mutation
    def wasteful_mutation(ctx):
        bump()
        for _ in range(100):
            ctx.db.insert("u", {{"n": 1}})
        bump()
        waste()

    @cs.query
    def rows(ctx):
        return [total(ctx), ctx.db.query("u").count()]
    """
    )

    async def scenario(stage: Stage) -> None:
        wasteful = asyncio.ensure_future(getattr(stage.runner, kind)(f"m:wasteful_{kind}", {}))
        others = [asyncio.ensure_future(stage.runner.mutation("m:bump", {})) for _ in range(20)]
        outcome = await asyncio.wait_for(wasteful, 20)
        assert outcome.error is not None
        assert (outcome.error.code, outcome.error.function) == ("LimitExceeded", f"m:wasteful_{kind}")
        assert knob in outcome.error.message
        assert f"in wasteful_{kind}\n    " in outcome.error.traceback
        assert '  File "<cell m' in outcome.error.traceback
        assert line in outcome.error.traceback
        assert all(other.ok for other in await asyncio.wait_for(asyncio.gather(*others), 20))
        assert await stage.query("rows") == [20, 0]

    play(tmp_path, source, scenario, memory_bytes=2 << 30, query_time_s=0.3, mutation_time_s=0.3)


AWKWARD = """
    import logging

    class Mute(Exception):
        def __str__(self):
            raise RuntimeError("nothing")

    @cs.mutation
    def fails(ctx, how: str):
        ctx.db.insert("t", {"how": how})
        print("half \\ud800")
        raise {"mute": Mute(), "half": ValueError("half \\ud800"), "long": ValueError("a" + "x" * (30 << 20) + "z")}[how]

    @cs.query
    def says(ctx):
        logging.warning("half %s", "\\udfff")
        return ctx.db.query("t").count()
"""

AWKWARD_SAID = {
    "mute": "Mute: <its text cannot be had: RuntimeError>",
    "half": "ValueError: half \\ud800",
    "long": "characters left out) … xxx",
}


@pytest.mark.parametrize("inline", [False, True], ids=["pool", "inline"])
def test_whatever_text_a_call_comes_up_with_reaches_its_caller(tmp_path: Path, inline: bool) -> None:
    async def scenario(stage: Stage) -> None:
        for how, said in AWKWARD_SAID.items():
            outcome = await stage.runner.mutation("m:fails", {"how": how})
            assert outcome.error is not None
            assert (outcome.error.code, outcome.error.function) == ("FunctionError", "m:fails"), how
            assert said in outcome.error.message
            assert "in fails" in outcome.error.traceback
            assert len(outcome.error.traceback) < 100_000
            assert outcome.logs == ["[LOG] half \\ud800"]
        outcome = await stage.runner.query("m:says", {})
        assert (value_of(outcome), outcome.logs) == (0, ["[WARN] half \\udfff"])

    play(tmp_path, AWKWARD, scenario, inline=inline)


@pytest.mark.parametrize("inline", [False, True], ids=["pool", "inline"])
@pytest.mark.parametrize("error", ["KeyboardInterrupt", "SystemExit", "GeneratorExit"])
def test_whatever_a_function_raises_is_the_error_of_its_call_alone(tmp_path: Path, inline: bool, error: str) -> None:
    source = f"""
    import os

    @cs.query
    def raises(ctx):
        raise {error}("enough")

    @cs.query
    def who(ctx):
        return os.getpid()
    """

    async def scenario(stage: Stage) -> None:
        before = await stage.query("who")
        outcome = await stage.runner.query("m:raises", {})
        assert outcome.error is not None
        assert (outcome.error.code, outcome.error.message) == ("FunctionError", f"{error}: enough")
        assert f'raise {error}("enough")' in outcome.error.traceback
        assert await stage.query("who") == before

    play(tmp_path, source, scenario, inline=inline, workers_max=1, workers_min=1)


def test_calls_within_calls_that_go_too_deep_are_told_what_to_do_instead(tmp_path: Path) -> None:
    source = """
    @cs.query
    def deeper(ctx, n: int):
        return ctx.run_query(deeper, n=n - 1) if n else "the bottom"
    """

    async def scenario(stage: Stage) -> None:
        assert await stage.query("deeper", n=3) == "the bottom"
        outcome = await stage.runner.query("m:deeper", {"n": 4})
        assert outcome.error is not None
        assert outcome.error.code == "LimitExceeded"
        assert (
            "3 deep at most (knob call_depth_max), and m:deeper would be one more: write a loop"
            in outcome.error.message
        )

    play(tmp_path, source, scenario, call_depth_max=3)


def test_a_mutation_that_takes_its_process_down_writes_nothing(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        dying = asyncio.ensure_future(stage.runner.mutation("m:write_and_die", {}))
        others = [asyncio.ensure_future(stage.runner.mutation("m:bump", {})) for _ in range(30)]
        outcome = await asyncio.wait_for(dying, 10)
        assert outcome.error is not None
        assert "status 3" in outcome.error.message
        for other in others:
            assert (await asyncio.wait_for(other, 10)).ok
        assert await stage.query("total") == 30

    play(tmp_path, TROUBLE, scenario)


def test_workers_that_do_not_start_are_an_error_and_no_wait(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        [team] = stage.runner._teams.values()
        team._settings = {**team._settings, "store": str(tmp_path / "not" / "there.db")}  # what is to come will fail
        for worker in list(team.workers):
            os.kill(worker.link.pid, signal.SIGKILL)
        for _ in range(2):  # again and again
            outcomes = await asyncio.wait_for(
                asyncio.gather(*[stage.runner.query("m:total", {}) for _ in range(5)]), 30
            )
            assert {outcome.error.code for outcome in outcomes if outcome.error is not None} <= {
                "WorkerFailed",
                "FunctionError",
                "WorkerDied",
            }
            assert not any(outcome.ok for outcome in outcomes)
        bumped = await asyncio.wait_for(stage.runner.mutation("m:bump", {}), 30)
        assert bumped.error is not None
        assert "do not start" in bumped.error.message

    play(tmp_path, TROUBLE, scenario)


# The lane


def test_contended_mutations_never_show_a_conflict_and_none_is_lost(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.mutate("bump")

        async def stranger() -> None:
            def bump(transaction):
                [(_, row)] = list(transaction.scan("t"))
                transaction.patch(row["_id"], {"n": row["n"] + 1})

            for _ in range(50):
                stage.engine.run(bump)
                await asyncio.sleep(0.001)

        async def client() -> None:
            for _ in range(8):
                await stage.mutate("bump")

        await asyncio.gather(stranger(), *[client() for _ in range(64)])
        assert await stage.query("total") == 1 + 50 + 64 * 8

    play(tmp_path, TROUBLE, scenario)


def test_a_slow_mutation_hands_the_lane_over_and_still_commits(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.mutate("bump")
        finished = 0

        async def client() -> None:
            nonlocal finished
            while not slow.done():
                await stage.mutate("bump")
                finished += 1

        slow = asyncio.ensure_future(stage.runner.mutation("m:slow_bump", {}))
        await asyncio.gather(*[client() for _ in range(4)])
        outcome = await slow
        assert outcome.ok, outcome.error
        assert finished > 50, "the others did not wait for it"
        assert await stage.query("total") == 1 + finished + 1

    play(tmp_path, TROUBLE, scenario, mutation_time_s=20.0, timeout_s=100)


def test_a_mutation_that_fails_on_a_state_that_never_was_is_run_again(tmp_path: Path) -> None:
    source = """
        @cs.mutation
        def claim(ctx, who: int):
            row = ctx.db.query("t").first()
            if row is not None:
                raise cs.ApplicationError("taken")
            ctx.db.insert("t", {"who": who})
    """

    async def scenario(stage: Stage) -> None:
        outcomes = await asyncio.gather(*[stage.runner.mutation("m:claim", {"who": n}) for n in range(40)])
        assert sum(outcome.ok for outcome in outcomes) == 1
        assert {o.error.message for o in outcomes if o.error is not None} == {"taken"}

    play(tmp_path, source, scenario)


def test_the_same_request_again_gets_the_first_answer_and_changes_nothing(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        both = await asyncio.gather(
            *[stage.runner.mutation("m:add", {"n": 1}, request=("session", 1)) for _ in range(2)]
        )
        again = await stage.runner.mutation("m:add", {"n": 1}, request=("session", 1))
        assert both[0].value == both[1].value == again.value
        assert again.logs == ["[LOG] adding 1"]
        assert again.ts >= both[0].ts
        assert await stage.query("count") == 1

    play(tmp_path, BASICS, scenario)

    async def after_a_restart(stage: Stage) -> None:
        again = await stage.runner.mutation("m:add", {"n": 1}, request=("session", 1))
        assert again.ok
        assert await stage.query("count") == 1

    play(tmp_path, None, after_a_restart)


# Deploying


def test_what_flies_behind_a_request_that_is_sent_again_runs_all_the_same(tmp_path: Path) -> None:
    """The answer to a repeat ends a tenancy of the lane, while one call flies in it and another waits for room."""

    async def scenario(stage: Stage) -> None:
        await stage.runner.mutation("m:add", {"n": 1}, request=("session", 1))
        repeat = stage.runner.mutation("m:add", {"n": 1}, request=("session", 1))
        await asyncio.sleep(0)  # it is sent,
        time.sleep(0.2)  # and answered, which nobody has seen yet
        others = [stage.runner.mutation("m:add", {"n": 1}) for _ in range(3)]
        assert all(outcome.ok for outcome in await asyncio.gather(repeat, *others))
        assert await stage.query("count") == 4

    play(tmp_path, BASICS, scenario, timeout_s=20, lane_pipeline_max=2)


def test_a_query_that_called_another_module_is_invalidated_by_its_deploy(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        missing = await stage.runner.query("m:top", {})
        first = await stage.runner.deploy(unit_of("@cs.query\ndef base(ctx):\n    return 1\n", "lib"))
        assert stage.engine.write_log.first_hit(missing.reads, missing.ts) == first["ts"], "it was not there"
        found = await stage.runner.query("m:top", {})
        again = await stage.runner.deploy(unit_of("@cs.query\ndef base(ctx):\n    return 2\n", "lib"))
        assert stage.engine.write_log.first_hit(found.reads, found.ts) == again["ts"]
        assert await stage.query("top") == 2

    play(tmp_path, "@cs.query\ndef top(ctx):\n    return ctx.run_query('lib:base')\n", scenario)


def test_a_redeploy_replaces_the_whole_module_and_invalidates_its_queries(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        before = await stage.runner.query("m:count", {})
        report = await stage.runner.deploy(unit_of('@cs.query\ndef count(ctx):\n    return "new"\n'))
        assert report["changed"] == ["m:count"]
        assert "m:add" in report["removed"]
        assert stage.engine.write_log.first_hit(before.reads, before.ts) == report["ts"]
        assert await stage.query("count") == "new"
        gone = await stage.runner.mutation("m:add", {"n": 1})
        assert gone.error is not None
        assert gone.error.code == "NotFound"
        assert [function["path"] for function in stage.runner.functions()] == ["m:count"]

    play(tmp_path, BASICS, scenario)


def test_functions_serve_on_after_a_restart(tmp_path: Path) -> None:
    async def first(stage: Stage) -> None:
        await stage.mutate("add", n=3)

    async def second(stage: Stage) -> None:
        assert await stage.query("count") == 1
        assert "m:add" in [function["path"] for function in stage.runner.functions()]

    play(tmp_path, BASICS, first)
    play(tmp_path, None, second)


def test_a_module_that_does_not_load_is_refused_and_the_old_one_stays(tmp_path: Path) -> None:
    from cellstore.errors import DeployError

    async def scenario(stage: Stage) -> None:
        unit = unit_of(BASICS)
        broken = type(unit).from_json({**unit.to_json(), "payload": None, "source": "raise RuntimeError('no')"})
        with pytest.raises(DeployError, match="cannot be loaded"):
            await stage.runner.deploy(broken)
        assert await stage.query("count") == 0

    play(tmp_path, BASICS, scenario)


def test_bulk_batches_in_flight_together_create_one_table(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        rows = b"\n".join(b'{"n":%d}' % n for n in range(500))
        answers = await asyncio.gather(*[stage.runner.bulk("t", rows) for _ in range(4)])
        assert [count for count, _ in answers] == [500] * 4
        assert await stage.query("count") == 2000

    play(tmp_path, BASICS, scenario)


def test_a_long_bulk_insert_is_many_commits_in_the_order_of_its_rows(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.runner.bulk("t", b'{"n":-1}')
        commits: list[int] = []
        stage.engine.committer.listeners.append(lambda group: commits.extend(len(c.keys[min(c.keys)]) for c in group))
        rows = b"\n".join(b'{"n":%d}' % n for n in range(3500))
        assert (await stage.runner.bulk("t", rows))[0] == 3500
        assert commits == [1000, 1000, 1000, 500]
        with stage.engine.begin() as transaction:
            assert [row["n"] for _, row in transaction.scan("t", "by_creation_time")] == list(range(-1, 3500))

    play(tmp_path, BASICS, scenario)


def test_a_bulk_insert_stops_at_the_first_bad_row_and_says_how_many_are_in(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.runner.bulk("t", b'{"n":-1}')
        rows = [b'{"n":%d}' % n for n in range(5000)]
        rows[2500] = b'["no", "document"]'
        with pytest.raises(ValidationError, match="row 2500: t: expected a document") as refused:
            await stage.runner.bulk("t", b"\n".join(rows))
        assert refused.value.inserted == 2000
        assert await stage.query("count") == 2001

    play(tmp_path, BASICS, scenario)


def test_the_code_of_a_query_is_part_of_what_it_depends_on() -> None:
    reads = with_modules({7: [(b"a", b"b")]}, ["m"])
    assert len(reads) == 2


def test_a_worker_with_nothing_to_do_is_sent_its_call_at_once_and_the_rest_of_the_turn_in_one_frame(
    tmp_path: Path,
) -> None:
    async def scenario(stage: Stage) -> None:
        [team] = stage.runner._teams.values()
        now = stage.engine.published_ts
        await stage.runner.query("m:count", {}, ts=now)
        calls = [stage.runner.query("m:count", {}, ts=now) for _ in range(5)]
        unsent = [len(worker.link._out) for worker in team.workers if worker.flying]
        assert sum(unsent) == 5 - len(unsent), "each of the workers has one, the others wait for the end of the turn"
        assert {value_of(await call) for call in calls} == {0}

    play(tmp_path, BASICS, scenario, workers_max=2)
