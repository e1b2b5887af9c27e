"""Ctrl-C while a call is waited for: it ends at once, and says where the user was and what becomes of the call."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

import cellstore as cs
from cellstore.client.awaiting import aside
from cellstore.functions import registry


def test_an_interrupted_call_shows_the_callers_line_and_its_fate(tmp_path: Path):
    @cs.action(module="waiting")
    async def wait_long(ctx):
        import asyncio
        import signal

        signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(1)

    with cs.open(tmp_path / "x.db"), pytest.raises(KeyboardInterrupt) as caught:
        wait_long()
    registry.forget("waiting")
    lines = "\n".join(caught.value._render_traceback_())
    assert "wait_long()" in lines
    fate = "it was sent and is told to stop; what it has done stays"
    assert lines.endswith(f"KeyboardInterrupt: waiting:wait_long is no longer waited for: {fate}")
    assert "cellstore/" not in lines


def test_calls_that_are_awaited_end_at_once_too(tmp_path: Path):
    enough = tmp_path / "enough"

    @cs.action(module="waiting")
    async def wait_for_file(ctx, path: str, interrupts: bool):
        import asyncio
        import signal
        import threading
        from pathlib import Path

        if interrupts:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # which sits in its loop's select
        while not Path(path).exists():
            await asyncio.sleep(0.01)
        return "done"

    with cs.open(tmp_path / "x.db") as db:
        for call in (db.aio.action, slowly(db)):
            with pytest.raises(KeyboardInterrupt):
                asyncio.run(call(wait_for_file, path=str(enough), interrupts=True))
        with pytest.raises(TimeoutError):
            asyncio.run(asyncio.wait_for(db.aio.action(wait_for_file, path=str(enough), interrupts=False), 0.1))
        enough.touch()
        assert asyncio.run(db.aio.action(wait_for_file, path=str(enough), interrupts=False)) == "done"
    registry.forget("waiting")


def slowly(db: cs.Database):
    """A call that keeps a thread for as long as it takes, as queries do."""

    async def call(handle, **args):
        return await aside(db.action, handle, **args)

    return call


def test_closing_while_a_function_does_not_end_says_what_is_the_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cellstore.client.embedded.STOP_TIMEOUT_S", 0.2)
    began, enough = tmp_path / "began", tmp_path / "enough"

    @cs.mutation(module="waiting")
    def spin(ctx, began: str, enough: str):
        from pathlib import Path

        Path(began).touch()
        while not Path(enough).exists():
            pass

    db = cs.open(tmp_path / "x.db")
    db.enqueue(spin, began=str(began), enough=str(enough))
    deadline = time.monotonic() + 10
    while not began.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(cs.CallerError, match="a function still runs"):
        db.close()
    enough.touch()
    registry.forget("waiting")
