"""A deployment gives up old history by itself."""

import asyncio
from pathlib import Path

import pytest

from cellstore.errors import OutOfRetention, StorageError
from cellstore.knobs import Knobs
from cellstore.server.deployment import Deployment


def refused(engine, ts):
    try:
        engine.begin(ts).close()
    except OutOfRetention:
        return True
    return False


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def test_a_deployment_gives_up_old_history_while_it_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        deployment = Deployment(tmp_path / "store.db", runner="inline", knobs=Knobs(retention_s=0.1, trim_pause_s=0.02))
        await deployment.start()
        engine = deployment._engine
        assert engine is not None
        id, old = engine.run(lambda tx: tx.insert("t", {"n": 0}))
        engine.run(lambda tx: tx.patch(id, {"n": 1}))
        await until(lambda: refused(engine, old))
        with engine.begin() as tx:
            assert tx.get(id)["n"] == 1
        failed = []

        def fail(*_args, **_more):
            failed.append(1)
            raise StorageError("the disk is full")

        monkeypatch.setattr(engine.storage, "trim", fail)
        await until(lambda: len(failed) > 2)  # a full disk is no reason to give up trying
        assert deployment.running
        await deployment.stop()

    asyncio.run(story())
