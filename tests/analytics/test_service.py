"""The asynchronous face: every question ends, whatever happens to who works on it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cellstore.analytics import service
from cellstore.analytics.analyst import Analyst, Call, GivenUp
from cellstore.analytics.service import Analytics, ProcessHost
from cellstore.errors import LimitExceeded, NotFound, OutOfRetention, TransientError, ValidationError
from cellstore.knobs import Knobs
from cellstore.transaction.database import Engine

SLOW = "select count(*) from range(100000000) a, range(100000) b where a.range + b.range = 7"
Work = Callable[[Analytics, Engine], Awaitable[Any]]


@pytest.fixture(params=["memory", "file"])
def serve(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run a coroutine with a service over a store with ten documents."""
    monkeypatch.setattr(service.tempfile, "tempdir", str(tmp_path))

    def serve(work: Work, **knobs: Any) -> Any:
        made = Knobs(**knobs)
        in_file = request.param == "file"
        with Engine.open(tmp_path / "store.db", knobs=made) if in_file else Engine.memory(knobs=made) as engine:
            engine.bulk_insert("tasks", [{"n": n} for n in range(10)])
            return asyncio.run(served(work, engine))

    return serve


only_files = pytest.mark.parametrize("serve", ["file"], indirect=True)


async def served(work: Work, engine: Engine) -> Any:
    analytics = Analytics(engine)
    try:
        return await asyncio.wait_for(work(analytics, engine), 60)
    finally:
        await analytics.close()


async def csv(analytics: Analytics, engine: Engine, statement: str) -> str:
    return (await analytics.sql(statement, engine.published_ts, "csv")).decode()


def test_statements_tables_and_differences_come_as_octets(serve):
    async def work(analytics, engine):
        ts = engine.published_ts
        assert await csv(analytics, engine, "select sum(n) as s from tasks") == "s\n45\n"
        assert (await analytics.table_parquet("tasks", ts))[:4] == b"PAR1"
        assert (await analytics.diff(0, ts)).count(b'"inserted"') == 10

    serve(work)


def test_a_commit_is_seen_at_its_own_timestamp(serve):
    async def work(analytics, engine):
        for n in range(10, 15):
            engine.run(lambda tx, n=n: tx.insert("tasks", {"n": n}))
            assert await csv(analytics, engine, "select count(*) as c from tasks") == f"c\n{n + 1}\n"

    serve(work)


def test_errors_arrive_with_their_types_and_particulars(serve):
    async def work(analytics, engine):
        ts = engine.published_ts
        with pytest.raises(ValidationError, match="syntax error"):
            await analytics.sql("selec 1", ts)
        with pytest.raises(NotFound) as told:
            await analytics.table_parquet("users", ts)
        assert (told.value.kind, told.value.name, told.value.code) == ("table", "users", "NotFound")
        with pytest.raises(OutOfRetention) as early:
            await analytics.diff(ts, ts + 10**12)
        assert early.value.ts == ts + 10**12

    serve(work)


def test_a_quick_statement_does_not_wait_for_a_slow_one(serve):
    async def work(analytics, engine):
        slow = asyncio.ensure_future(csv(analytics, engine, SLOW))
        assert await csv(analytics, engine, "select 1 as one") == "one\n1\n"
        assert not slow.done()
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow

    serve(work)


def test_a_question_given_up_before_it_began_is_not_asked(tmp_path):
    with Engine.memory() as engine:
        analyst = Analyst(engine.storage.reader, tmp_path)
        analyst.cancel(7)
        with pytest.raises(GivenUp):
            analyst.run("sql", {"statement": SLOW, "ts": engine.published_ts, "format": "csv"}, 7)
        assert analyst.run("sql", {"statement": "select 1", "ts": engine.published_ts, "format": "csv"}, 7).exists()
        analyst.close()


def test_an_interrupt_that_came_too_early_comes_again():
    heard = []
    call = Call(SimpleNamespace(interrupt=lambda: heard.append(1), close=lambda: None))
    call.cancel()
    while len(heard) < 3:
        time.sleep(0.01)
    call.close()
    with pytest.raises(GivenUp):
        call.check()


def test_a_statement_ends_when_its_time_is_up(serve):
    async def work(analytics, engine):
        with pytest.raises(LimitExceeded, match="analytics_time_s"):
            await csv(analytics, engine, SLOW)

    serve(work, analytics_time_s=0.3)


@only_files
def test_a_worker_that_does_not_stop_is_killed_and_replaced(serve, monkeypatch):
    monkeypatch.setattr(service, "CANCEL_GRACE_S", 0.1)

    async def work(analytics, engine):
        await csv(analytics, engine, "select 1 as one")
        os.kill(analytics._host.pid, signal.SIGSTOP)  # deaf, as in an endless loop
        analytics._knobs = Knobs(analytics_time_s=0.1)
        with pytest.raises(LimitExceeded):
            await csv(analytics, engine, "select 2 as two")
        while not analytics._host.dead:
            await asyncio.sleep(0.01)
        analytics._knobs = Knobs()
        assert await csv(analytics, engine, "select 3 as three") == "three\n3\n"

    serve(work)


@only_files
def test_a_worker_killed_in_the_middle_costs_that_answer_and_no_other(serve):
    async def work(analytics, engine):
        await csv(analytics, engine, "select 1 as one")
        slow = asyncio.ensure_future(csv(analytics, engine, SLOW))
        await csv(analytics, engine, "select 2 as two")
        os.kill(analytics._host.pid, signal.SIGKILL)
        with pytest.raises(TransientError, match=r"SIGKILL.*ask again"):
            await slow
        assert await csv(analytics, engine, "select count(*) as c from tasks") == "c\n10\n"

    serve(work)


@only_files
def test_a_worker_that_cannot_start_says_why(serve, monkeypatch):
    async def work(analytics, engine):
        with monkeypatch.context() as broken:
            broken.setattr(service.sys, "executable", "/bin/false")
            with pytest.raises(TransientError, match="ended with status 1"):
                await csv(analytics, engine, "select 1")
        assert await csv(analytics, engine, "select 1 as one") == "one\n1\n"

    serve(work)


def test_closing_leaves_no_process_and_no_file(serve, tmp_path):
    pids = []

    async def work(analytics, engine):
        await csv(analytics, engine, "select sum(n) from tasks")
        slow = asyncio.ensure_future(csv(analytics, engine, SLOW))
        await csv(analytics, engine, "select 1")
        if isinstance(analytics._host, ProcessHost):
            pids.append(analytics._host.pid)
        await analytics.close()
        with pytest.raises((TransientError, ValidationError)):
            await slow
        with pytest.raises(TransientError, match="closing"):
            await csv(analytics, engine, "select 1")

    serve(work)
    assert not list(tmp_path.glob("cellstore-analytics-*"))
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


ORPHAN = """
import asyncio, os, sys
from cellstore.analytics.service import Analytics
from cellstore.transaction.database import Engine

async def main():
    with Engine.open(sys.argv[1]) as engine:
        engine.bulk_insert("tasks", [{"n": 1}])
        analytics = Analytics(engine)
        await analytics.sql("select * from tasks", engine.published_ts)
        print(analytics._host.pid, analytics._host._scratch, flush=True)
        await analytics.sql(sys.argv[2], engine.published_ts)

asyncio.run(main())
"""


def test_a_worker_dies_with_the_process_it_works_for(tmp_path):
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHAN, str(tmp_path / "store.db"), SLOW], stdout=subprocess.PIPE, text=True
    )
    with parent:
        pid, scratch = parent.stdout.readline().split()
        parent.kill()
    deadline = time.monotonic() + 10
    while (alive(pid) or Path(scratch).exists()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(pid)
    assert not Path(scratch).exists()


def alive(pid: str) -> bool:
    """Not a zombie either: an orphan may wait for a careless init to take it away."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
