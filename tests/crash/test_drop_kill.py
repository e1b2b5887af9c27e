"""Killed while a table is dropped: it is there whole or gone whole, and the next server finishes what was begun."""

import asyncio
import signal
import textwrap

import pytest
from mortal import start

from cellstore.server.deployment import Deployment
from cellstore.storage.check import check
from cellstore.transaction.database import Engine
from cellstore.transaction.hidden import leftovers

DOCUMENTS = 1600
DROPPER = textwrap.dedent(
    """
    import sys
    from cellstore import faults
    from cellstore.transaction.database import Engine
    from cellstore.transaction.hidden import drop_table, leftovers, purge

    engine = Engine.open(sys.argv[1])
    engine.run(lambda tx: [tx.insert("old", {"n": n}) for n in range(1600)])
    engine.run(lambda tx: tx.insert("kept", {"n": 1}))
    faults.arm_from_environment()
    drop_table(engine, "old")
    print("dropped", flush=True)
    for number in leftovers(engine):
        purge(engine, number)
    """
)


async def served_until_empty(path):
    deployment = Deployment(path, runner="inline")
    await deployment.start()
    try:
        async with asyncio.timeout(20):
            while leftovers(deployment._engine):
                await asyncio.sleep(0.01)
    finally:
        await deployment.stop()


@pytest.mark.parametrize("point", ["storage.written", "storage.committed", "commit.persisted"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_killed_at(point, count, tmp_path):
    dropper = start(DROPPER, tmp_path, CELLSTORE_FAULT=f"{point}=kill@{count}")
    acknowledged = "dropped" in dropper.communicate(timeout=60)[0]
    assert (dropper.returncode, acknowledged) == (-signal.SIGKILL, count > 1)
    path = tmp_path / "store.db"
    assert list(check(path)) == []
    with Engine.open(path) as engine, engine.begin() as tx:
        there = tx.count("old")
        assert there == (DOCUMENTS if (point, count) == ("storage.written", 1) else 0), "whole or gone"
        assert tx.count("old") == len(list(tx.scan("old")))
        half_gone = bool(leftovers(engine))
    assert half_gone == (there == 0)
    asyncio.run(served_until_empty(path))
    with Engine.open(path) as engine:
        assert (list(engine.check()), leftovers(engine), engine.run(lambda tx: tx.count("kept"))[0]) == ([], [], 1)
