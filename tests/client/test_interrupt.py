"""Ctrl-C while a call is waited for: it ends at once, and says where the user was and what becomes of the call."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import cellstore as cs
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
    fate = "it was sent and may have been carried out"
    assert lines.endswith(f"KeyboardInterrupt: waiting:wait_long is no longer waited for: {fate}")
    assert "cellstore/" not in lines


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
