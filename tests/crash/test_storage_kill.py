"""Killed at every fault point and at random: nothing acknowledged is lost, nothing is half there, reopening just works."""

import random
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from mortal import defined, start

from cellstore.storage.check import check
from cellstore.storage.sqlite import SqliteStorage
from cellstore.testing.revisions import TABLE, Scribe, assert_same_as_scribe, keys_of
from cellstore.values.index_key import END

WRITER = textwrap.dedent(
    """
    import random, sys
    from cellstore import faults
    from cellstore.storage.sqlite import SqliteStorage
    from cellstore.testing.revisions import Scribe
    from tests_changes import changes_of

    faults.arm_from_environment()
    storage, scribe = SqliteStorage.open(sys.argv[1]), Scribe()
    print("open", flush=True)
    group = 0
    while True:
        storage.append([scribe.record(changes) for changes in changes_of(group)])
        print(storage.last_ts, flush=True)  # acknowledged
        if group % 7 == 6:
            storage.trim(scribe.ts - 400, 50)
        group += 1
    """
)
CHANGES = textwrap.dedent(
    """
    import random

    def changes_of(group):
        dice = random.Random(group)
        def fields():
            return None if dice.random() < 0.3 else {"a": dice.randrange(4), "pad": "x" * dice.randrange(900)}
        return [{dice.randrange(30): fields() for _ in range(dice.randrange(5))} for _ in range(dice.randrange(1, 6))]
    """
)


@pytest.fixture
def changes_of(tmp_path):
    return defined(CHANGES, tmp_path / "tests_changes.py")["changes_of"]


def survives(tmp_path, acknowledged, changes_of):
    """Reopen and compare with what the same changes make of a dict."""
    assert list(check(tmp_path / "store.db", keys_of)) == [], "before anyone repaired anything"
    storage = SqliteStorage.open(tmp_path / "store.db")
    try:
        assert storage.last_ts >= acknowledged
        scribe, group, ends = Scribe(), 0, [0]
        while scribe.ts < storage.last_ts:
            for changes in changes_of(group):
                scribe.record(changes)
            ends.append(scribe.ts)
            group += 1
        assert storage.last_ts in ends, "a group is there whole or not at all"
        assert storage.last_ts <= ends[ends.index(acknowledged) + 1 if acknowledged != ends[-1] else -1]
        reader = storage.reader()
        reader.refresh()
        floor = max(0, scribe.ts - 200)
        reader.check_retention(floor)
        assert_same_as_scribe(reader, scribe, [floor, max(floor, scribe.ts - 40), scribe.ts])
        assert reader.count(2 * TABLE, b"", END) == len(scribe.now)
        reader.close()
        storage.append([scribe.record({7: {"a": 1}})])  # time goes on rising
        assert list(storage.check(keys_of)) == []
    finally:
        storage.close()


@pytest.mark.parametrize("count", [1, 9, 30])
@pytest.mark.parametrize("point", ["storage.begin", "storage.written", "storage.committed"])
def test_killed_at(point, count, tmp_path, changes_of):
    writer = start(WRITER, tmp_path, CELLSTORE_FAULT=f"{point}=kill@{count}")
    lines = writer.communicate(timeout=60)[0].split()
    assert writer.returncode == -signal.SIGKILL
    survives(tmp_path, int(lines[-1]) if len(lines) > 1 else 0, changes_of)


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random(seed, tmp_path, changes_of):
    writer = start(WRITER, tmp_path)
    assert writer.stdout.readline() == "open\n"
    time.sleep(random.Random(seed).uniform(0.02, 0.5))
    writer.kill()
    lines = writer.communicate(timeout=60)[0].split()
    acknowledged = int(lines[-1]) if lines else 0
    survives(tmp_path, acknowledged, changes_of)


def test_killed_again_and_again_while_recovering(tmp_path, changes_of):
    writer = start(WRITER, tmp_path, CELLSTORE_FAULT="storage.written=kill@20")
    lines = writer.communicate(timeout=60)[0].split()
    opener = """if True:
        import os, sys
        from cellstore.storage.sqlite import SqliteStorage
        storage = SqliteStorage.open(sys.argv[1])
        os.kill(os.getpid(), 9)"""
    for _ in range(3):
        died = subprocess.run([sys.executable, "-c", opener, str(tmp_path / "store.db")], timeout=60)
        assert died.returncode == -signal.SIGKILL
    survives(tmp_path, int(lines[-1]), changes_of)
