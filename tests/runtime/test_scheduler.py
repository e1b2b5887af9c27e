"""Jobs: mutations exactly once, actions at most once, crons that do not overlap, across restarts."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from runtime_harness import Stage, play

import cellstore as cs
from cellstore.runtime import jobs, scheduler
from cellstore.runtime.scheduler import _missed, _next_ms
from cellstore.testing.clock import FakeClock

BERLIN = ZoneInfo("Europe/Berlin")
SOURCE = """
    @cs.mutation
    def add(ctx, n: int):
        ctx.db.insert("t", {"n": n})

    @cs.mutation
    def fail(ctx):
        ctx.db.insert("t", {"n": 0})
        raise ValueError("not today")

    @cs.action
    def act(ctx, n: int):
        add(n=n)

    @cs.mutation
    def later(ctx, fn: str, s: float, args: dict) -> str:
        return ctx.scheduler.run_after(s, fn, args)

    @cs.mutation
    def schedule_and_fail(ctx):
        ctx.scheduler.run_after(0, add, n=1)
        raise ValueError

    @cs.mutation
    def stop(ctx, job: str):
        ctx.scheduler.cancel(job)

    @cs.action
    def act_later(ctx):
        ctx.scheduler.run_after(0, add, n=7)

    @cs.query
    def numbers(ctx):
        return [row["n"] for row in ctx.db.query("t")]

    @cs.query
    def state(ctx, job: str):
        return ctx.db.get(job)
"""


async def ended(stage: Stage, job: str) -> dict:
    for _ in range(250):
        row = await stage.query("state", job=job)
        if row["state"]["kind"] in jobs.ENDED:
            return row
        await asyncio.sleep(0.02)
    raise AssertionError(row)


@pytest.mark.parametrize("inline", [False, True], ids=["pool", "inline"])
def test_a_job_runs_once_and_says_how_it_ended(tmp_path: Path, inline: bool) -> None:
    async def scenario(stage: Stage) -> None:
        good = await stage.mutate("later", fn="m:add", s=0.0, args={"n": 1})
        bad = await stage.mutate("later", fn="m:fail", s=0.0, args={})
        done = await stage.mutate("later", fn="m:act", s=0.05, args={"n": 2})
        nobody = await stage.mutate("later", fn="m:nobody", s=0.0, args={})
        assert (await ended(stage, good))["state"] == {"kind": "success"}
        failed = (await ended(stage, bad))["state"]
        assert failed["kind"] == "failed"
        assert "not today" in failed["error"]
        assert (await ended(stage, done))["state"]["kind"] == "success"
        assert "no function" in (await ended(stage, nobody))["state"]["error"]
        assert sorted(await stage.query("numbers")) == [1, 2]

    play(tmp_path, SOURCE, scenario, inline=inline)


def test_a_job_of_a_mutation_that_failed_never_was_and_a_cancelled_one_never_runs(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.runner.mutation("m:schedule_and_fail", {})
        job = await stage.mutate("later", fn="m:add", s=0.3, args={"n": 1})
        await stage.mutate("stop", job=job)
        assert (await stage.query("state", job=job))["state"]["kind"] == "canceled"
        await stage.runner.action("m:act_later", {})
        await asyncio.sleep(0.6)
        assert await stage.query("numbers") == [7]

    play(tmp_path, SOURCE, scenario)


@pytest.mark.parametrize("inline", [False, True], ids=["pool", "inline"])
def test_what_a_cancelled_action_schedules_is_canceled_from_the_start(tmp_path: Path, inline: bool) -> None:
    source = (
        SOURCE
        + """
    import time

    @cs.query
    def everything(ctx):
        return ctx.db.query("_scheduled_functions").collect()

    @cs.action
    def linger(ctx):
        before = ctx.scheduler.run_after(60, add, n=1)
        add(n=100)
        while 200 not in ctx.run_query(numbers):  # cancelled meanwhile
            time.sleep(0.01)
        directly = ctx.scheduler.run_after(0, add, n=2)
        by_mutation = ctx.run_mutation(later, fn="m:add", s=0.0, args={"n": 3})
        nested = ctx.run_action(pass_on)
        return [before, directly, by_mutation, nested]

    @cs.action
    async def pass_on(ctx):
        return await ctx.scheduler.run_after(0, "m:add", n=4)
    """
    )

    async def scenario(stage: Stage) -> None:
        job = await stage.mutate("later", fn="m:linger", s=0.0, args={})
        while 100 not in await stage.query("numbers"):
            await asyncio.sleep(0.01)
        await stage.mutate("stop", job=job)
        await stage.mutate("add", n=200)
        while len(rows := await stage.query("everything")) < 5:
            await asyncio.sleep(0.01)
        states = [row["state"]["kind"] for row in rows]
        assert states == ["canceled", "pending", "canceled", "canceled", "canceled"]
        assert sorted(await stage.query("numbers")) == [100, 200]

    play(tmp_path, source, scenario, inline=inline)


def test_jobs_survive_a_restart_and_an_action_found_in_progress_is_not_started_again(tmp_path: Path) -> None:
    found: list[str] = []

    async def first(stage: Stage) -> None:
        found.append(await stage.mutate("later", fn="m:add", s=0.8, args={"n": 1}))
        interrupted = await stage.mutate("later", fn="m:act", s=60.0, args={"n": 2})
        stage.engine.run(lambda transaction: transaction.patch(interrupted, jobs.started()))
        found.append(interrupted)

    async def second(stage: Stage) -> None:
        assert (await ended(stage, found[0]))["state"]["kind"] == "success"
        assert "not started again" in (await ended(stage, found[1]))["state"]["error"]
        assert await stage.query("numbers") == [1]

    play(tmp_path, SOURCE, first)
    play(tmp_path, None, second)


def test_a_schedule_runs_again_and_again_until_it_is_gone(tmp_path: Path) -> None:
    source = (
        SOURCE
        + """
    @cs.every(seconds=1)
    @cs.mutation
    def tick(ctx):
        ctx.db.insert("t", {"n": 100})
    """
    )

    async def scenario(stage: Stage) -> None:
        from runtime_harness import unit_of

        for _ in range(200):
            if len(await stage.query("numbers")) >= 2:
                break
            await asyncio.sleep(0.05)
        assert set(await stage.query("numbers")) == {100}
        await stage.runner.deploy(unit_of(SOURCE))
        before = len(await stage.query("numbers"))
        await asyncio.sleep(1.3)
        assert len(await stage.query("numbers")) <= before + 1

    play(tmp_path, source, scenario)


def test_a_cron_is_due_by_the_clock_of_its_zone() -> None:
    noon = dt.datetime(2026, 1, 15, 12, 0, tzinfo=dt.UTC).timestamp() * 1000
    due = _next_ms({"cron": "30 9 * * *", "tz": "America/New_York"}, noon)
    assert dt.datetime.fromtimestamp(due / 1000, dt.UTC) == dt.datetime(2026, 1, 15, 14, 30, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("cron", "slots"),
    [
        ("30 2 * * *", ["28 02:30+0100", "29 03:00+0200", "30 02:30+0200"]),
        ("0 2,3 29 * *", ["29 03:00+0200"]),
        ("*/30 1-3 29 * *", ["29 01:00+0100", "29 01:30+0100", "29 03:00+0200", "29 03:30+0200"]),
    ],
)
def test_what_is_due_in_an_hour_that_the_clocks_skip_runs_when_they_have(cron: str, slots: list[str]) -> None:
    assert slots_of(cron, dt.datetime(2026, 3, 28, tzinfo=BERLIN), len(slots)) == slots


@pytest.mark.parametrize(
    ("cron", "slots"),
    [
        ("30 2 * * *", ["24 02:30+0200", "25 02:30+0200", "26 02:30+0100"]),
        ("0 * 25 * *", ["25 00:00+0200", "25 01:00+0200", "25 02:00+0200", "25 02:00+0100", "25 03:00+0100"]),
    ],
)
def test_in_an_hour_that_comes_twice_a_named_hour_is_one_and_every_hour_is_two(cron: str, slots: list[str]) -> None:
    assert slots_of(cron, dt.datetime(2026, 10, 24, tzinfo=BERLIN), len(slots)) == slots


def slots_of(cron: str, start: dt.datetime, count: int) -> list[str]:
    """The next slots of a cron in Berlin, each found from the one before, as a scheduler does."""
    due_ms, found = start.timestamp() * 1000 - 1, []
    for _ in range(count):
        due_ms = _next_ms({"cron": cron, "tz": "Europe/Berlin"}, due_ms)
        found.append(f"{dt.datetime.fromtimestamp(due_ms / 1000, BERLIN):%d %H:%M%z}")
    return found


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        (lambda: cs.cron("61 * * * *"), "'61 \\* .* cannot be read"),
        (lambda: cs.cron("* * * *"), "has 4 fields; it needs five"),
        (lambda: cs.cron(5), "has 1 fields"),  # type: ignore[arg-type]
        (lambda: cs.cron("* * * * *", tz="Mars/Olympus"), "no time zone 'Mars/Olympus'"),
        (lambda: cs.every(seconds=0.5), "every 0.5 seconds is too often"),
        (lambda: cs.every(minutes=float("nan")), "too often"),
        (lambda: cs.every(), "too often"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_with_a_reason(schedule: Callable[[], object], said: str) -> None:
    with pytest.raises(cs.CellstoreError, match=said):
        schedule()


def test_a_schedule_is_for_a_mutation_or_an_action_that_needs_no_arguments() -> None:
    def needy(ctx: object, n: int, m: int = 0) -> None: ...
    def ready(ctx: object, m: int = 0) -> None: ...

    with pytest.raises(cs.CellstoreError, match="needy needs 'n', and a schedule passes no arguments"):
        cs.every(minutes=5)(cs.mutation(needy))
    with pytest.raises(cs.CellstoreError, match="ready is a query; only mutations and actions"):
        cs.every(minutes=5)(cs.query(ready))
    with pytest.raises(cs.CellstoreError, match=r"put it above @cs\.mutation"):
        cs.every(minutes=5)(ready)  # type: ignore[type-var]
    daily = cs.cron("0 9 * * *", tz=BERLIN)(cs.mutation(ready))
    assert daily.crons == [{"name": None, "cron": "0 9 * * *", "tz": "Europe/Berlin"}]


def test_a_delay_must_make_sense() -> None:
    from cellstore.errors import CallerError

    assert jobs.due_after(1000.0, dt.timedelta(seconds=2)) == 3000.0
    for wrong in (-1.0, float("nan"), 1e12):
        with pytest.raises(CallerError):
            jobs.due_after(0.0, wrong)
    with pytest.raises(CallerError, match="time zone"):
        jobs.due_at(0.0, dt.datetime(2026, 1, 1))


def test_ten_thousand_due_jobs_drain_and_a_query_does_not_wait_for_them(tmp_path: Path) -> None:
    source = (
        SOURCE
        + """
    @cs.mutation
    def flood(ctx, n: int):
        for k in range(n):
            ctx.scheduler.run_after(0, add, n=k)

    @cs.query
    def count(ctx):
        return ctx.db.query("t").count()
    """
    )

    async def scenario(stage: Stage) -> None:
        for _ in range(10):
            await stage.mutate("flood", n=1000)
        seen = [await stage.query("count")]
        while seen[-1] < 10_000:
            seen.append(await stage.query("count"))
            await asyncio.sleep(0.01)
        steps = [after - before for before, after in pairwise(seen)]
        assert max(steps) < 2_000, "a query came between, again and again"
        assert len(steps) > 20
        assert len(set(await stage.query("numbers"))) == 1000
        rows = await stage.query("ended")
        assert rows == [10_000, 0]

    source += """
    @cs.query
    def ended(ctx):
        kinds = [row["state"]["kind"] for row in ctx.db.query("_scheduled_functions")]
        return [kinds.count("success"), len(kinds) - kinds.count("success")]
    """
    play(tmp_path, source, scenario, timeout_s=120)


def test_a_job_whose_worker_dies_is_run_again_and_one_that_kills_workers_fails(tmp_path: Path) -> None:
    source = (
        SOURCE
        + """
    import os

    @cs.mutation
    def dies_once(ctx):
        saved = any(row["n"] == 51 for row in ctx.db.query("t"))
        ctx.db.insert("t", {"n": 50})
        if not saved:
            os._exit(9)

    @cs.mutation
    def always_dies(ctx):
        ctx.db.insert("t", {"n": 60})
        os._exit(9)
    """
    )

    async def scenario(stage: Stage) -> None:
        job = await stage.mutate("later", fn="m:dies_once", s=0.0, args={})
        await asyncio.sleep(0.1)
        await stage.mutate("add", n=51)
        hopeless = await stage.mutate("later", fn="m:always_dies", s=0.0, args={})
        assert (await ended(stage, job))["state"]["kind"] == "success"
        for _ in range(500):
            row = await stage.query("state", job=hopeless)
            if row["state"]["kind"] == "failed":
                break
            await asyncio.sleep(0.02)
        assert "exited with status 9" in row["state"]["error"]
        assert await stage.query("numbers") == [51, 50]

    play(tmp_path, source, scenario)


def test_what_a_job_returned_stays_with_it(tmp_path: Path) -> None:
    source = SOURCE + "\n    @cs.action\n    def answer(ctx):\n        return {'n': 42}\n"

    async def scenario(stage: Stage) -> None:
        job = await stage.mutate("later", fn="m:answer", s=0.0, args={})
        row = await ended(stage, job)
        assert (row["state"], row["result"]) == ({"kind": "success"}, {"n": 42})
        assert row["completedTime"] >= row["scheduledTime"]

    play(tmp_path, source, scenario)


@pytest.mark.parametrize("inline", [False, True], ids=["pool", "inline"])
def test_the_data_of_a_refusal_stays_with_the_job_that_refused(tmp_path: Path, inline: bool) -> None:
    source = (
        SOURCE
        + """
    @cs.mutation
    def refuse(ctx, data: object):
        ctx.db.insert("t", {"n": 0})
        raise cs.ApplicationError(data)

    @cs.action
    def refuse_outside(ctx, data: object):
        raise cs.ApplicationError(data, "no")
    """
    )

    async def scenario(stage: Stage) -> None:
        data = {"code": "Sold out", "seats": [1, b"2", None], "price": 2.0}
        for name in ("refuse", "refuse_outside"):
            for kept in (data, None, "x" * (jobs.KEPT_BYTES_MAX - 2)):
                job = await stage.mutate("later", fn=f"m:{name}", s=0.0, args={"data": kept})
                row = await ended(stage, job)
                assert (row["state"]["kind"], row["errorData"]) == ("failed", kept)
            too_large = await stage.mutate("later", fn=f"m:{name}", s=0.0, args={"data": "x" * jobs.KEPT_BYTES_MAX})
            assert "errorData" not in await ended(stage, too_large)
        assert "errorData" not in await ended(stage, await stage.mutate("later", fn="m:fail", s=0.0, args={}))
        assert await stage.query("numbers") == []

    play(tmp_path, source, scenario, inline=inline)


def test_an_ended_job_can_be_looked_at_for_a_week(tmp_path: Path) -> None:
    day_ms = 86_400_000.0

    async def scenario(stage: Stage) -> None:
        old, recent, waiting = [await stage.mutate("later", fn="m:add", s=s, args={"n": 1}) for s in (0.0, 0.0, 600.0)]
        await asyncio.gather(ended(stage, old), ended(stage, recent))
        now_ms = stage.engine.clock.now_ns() / 1e6
        for job, days in ((old, 7.1), (recent, 6.9), (waiting, 7.1)):
            row = await stage.query("state", job=job)
            times = {key: now_ms - days * day_ms for key in ("scheduledTime", "completedTime") if key in row}
            stage.engine.run(lambda transaction, job=job, times=times: transaction.patch(job, times))
        scheduler = stage.runner.scheduler
        scheduler._cleaned_at = float("-inf")
        scheduler._clean()
        assert await stage.query("state", job=old) is None
        assert (await stage.query("state", job=recent))["state"]["kind"] == "success"
        assert await stage.query("state", job=waiting) is not None, "what never ran is kept"

    play(tmp_path, SOURCE, scenario)


def test_an_interval_counts_from_its_slots_and_a_clock_set_back_repeats_none() -> None:
    hour = 3_600_000.0
    assert _next_ms({"every_s": 3600}, 10 * hour + 5) == 11 * hour + 5, "the first time from now"
    assert _next_ms({"every_s": 3600}, 10 * hour + 5, 10 * hour) == 11 * hour
    assert _next_ms({"every_s": 3600}, 15.5 * hour, 10 * hour) == 16 * hour
    assert _next_ms({"every_s": 3600}, 7 * hour, 10 * hour) == 11 * hour
    daily = {"cron": "0 9 * * *", "tz": "UTC"}
    nine = dt.datetime(2026, 1, 15, 9, tzinfo=dt.UTC).timestamp() * 1000
    assert _next_ms(daily, nine - 2 * hour, nine) == nine + 24 * hour


def test_slots_that_went_by_are_counted_in_their_zone() -> None:
    spec = {"cron": "30 2 * * *", "tz": "Europe/Berlin"}
    slot = dt.datetime(2026, 3, 27, 1, 30, tzinfo=dt.UTC).timestamp() * 1000  # over the change to summer time
    week = slot + 7 * 86_400_000.0
    assert _missed(spec, slot, week) == 7
    assert _missed(spec, slot, slot + 1) == 0
    assert _missed({"every_s": 60}, slot, slot + 10 * 60_000) == 10


def test_a_store_with_a_time_zone_this_machine_does_not_know_opens_and_says_what_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = """
        @cs.cron("0 9 * * *", tz="Europe/Berlin")
        @cs.mutation
        def daily(ctx):
            ctx.db.insert("t", {"n": 1})
    """

    async def nothing(_stage: Stage) -> None: ...

    async def here(stage: Stage) -> None:
        [said] = [record for record in stage.runner.logs.tail(10) if record["function"] == "m:daily"]
        assert "Europe/Berlin" in str(said["lines"])
        stage.runner.scheduler.plan_crons()
        assert len([r for r in stage.runner.logs.tail(10) if r["function"] == "m:daily"]) == 1, "once is enough"

    play(tmp_path, source, nothing)
    monkeypatch.setattr("zoneinfo.ZoneInfo", lambda name: exec("raise LookupError(name)"))
    play(tmp_path, None, here)


# A day asleep, and runs that take longer than their interval

HOUR_NS = 3_600 * 10**9
SLOW_CRON = """
    import time

    @cs.mutation
    def add(ctx, n: int):
        ctx.db.insert("t", {"n": n})

    @cs.query
    def numbers(ctx):
        return [row["n"] for row in ctx.db.query("t")]

    @cs.every(hours=1)
    @cs.action
    def tick(ctx):
        add(n=1)
        while 100 not in ctx.run_query(numbers):
            time.sleep(0.01)
        add(n=2)

    @cs.mutation
    def later(ctx):
        ctx.scheduler.run_after(0, add, n=50)

    @cs.query
    def ticks(ctx):
        return [row for row in ctx.db.query("_scheduled_functions") if row["name"] == "m:tick"]
"""


async def until(stage: Stage, *numbers: int) -> None:
    """Wait until all of them are there."""
    while not set(numbers) <= set(await stage.query("numbers")):
        await asyncio.sleep(0.01)


async def two_ticks(stage: Stage) -> list[dict]:
    """The run of the cron that is over and the one planned next, when it is."""
    while len(rows := await stage.query("ticks")) < 2 or rows[0]["state"]["kind"] == "inProgress":
        await asyncio.sleep(0.01)
    return rows


def said_missed(stage: Stage) -> list[str]:
    return [line for record in stage.runner.logs.tail(100) for line in record["lines"] if "missed" in line]


@pytest.mark.parametrize("how", ["closed", "asleep"])
def test_after_a_day_of_sleep_one_run_follows_and_the_others_are_said_to_be_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(scheduler, "_SLEEP_MAX_S", 0.02)
    clock = FakeClock(time.time_ns())

    async def before(stage: Stage) -> None:
        await stage.mutate("add", n=100)
        if how == "asleep":
            clock.move(24 * HOUR_NS + HOUR_NS // 2)
            await after(stage)

    async def after(stage: Stage) -> None:
        run, coming = await two_ticks(stage)
        assert (run["state"]["kind"], run["missed"]) == ("success", 23)
        assert sorted(await stage.query("numbers")) == [1, 2, 100], "one run, from its beginning to its end"
        assert coming["state"]["kind"] == "pending"
        assert round((coming["scheduledTime"] - run["scheduledTime"]) / 3_600_000) == 24
        [said] = said_missed(stage)
        assert "23 runs of m:tick since" in said

    play(tmp_path, SLOW_CRON, before, clock=clock)
    if how == "closed":
        clock.move(24 * HOUR_NS + HOUR_NS // 2)
        play(tmp_path, None, after, clock=clock)


def test_a_run_that_takes_longer_than_its_interval_is_never_beside_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "_SLEEP_MAX_S", 0.02)
    clock = FakeClock(time.time_ns())

    async def scenario(stage: Stage) -> None:
        clock.move(HOUR_NS + 1)
        await until(stage, 1)
        clock.move(5 * HOUR_NS)  # the run is still at it
        await stage.mutate("later")
        await until(stage, 50)  # what is due runs
        assert [row["state"]["kind"] for row in await stage.query("ticks")] == ["inProgress"]
        await stage.mutate("add", n=100)
        run, coming = await two_ticks(stage)
        assert (run["state"]["kind"], run["missed"], coming["state"]["kind"]) == ("success", 5, "pending")
        assert sorted(await stage.query("numbers")) == [1, 2, 50, 100]
        assert len(said_missed(stage)) == 1

    play(tmp_path, SLOW_CRON, scenario, clock=clock)
