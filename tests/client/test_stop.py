"""An action that nobody waits for any more is stopped where it runs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import cellstore as cs
from cellstore.functions import registry


def test_an_action_whose_call_is_interrupted_is_stopped(tmp_path: Path):
    stopped = tmp_path / "stopped"

    @cs.action(module="waiting")
    async def run_long(ctx, path: str):
        import asyncio
        import signal
        from pathlib import Path

        signal.raise_signal(signal.SIGINT)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            Path(path).touch()
            raise

    with cs.open(tmp_path / "x.db") as db:
        with pytest.raises(KeyboardInterrupt):
            run_long(path=str(stopped))
        deadline = time.monotonic() + 20
        while not stopped.exists() or "stopped by its caller" not in said(db):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    registry.forget("waiting")


def said(db: cs.Database) -> str:
    """What the log stream says of errors."""
    return "\n".join(record.get("error", "") for record in db.logs())
