"""An engine killed at every fault point and at random, under a mix of all it does: reopened, it is what a dict would be."""

import random
import signal
import textwrap
import time

import pytest
from mortal import defined, start

from cellstore.storage.check import check
from cellstore.transaction.database import Engine

STORY = textwrap.dedent(
    """
    import random
    from cellstore.knobs import Knobs
    from cellstore.schema.definition import IndexDefinition, TableDefinition
    from cellstore.transaction.access import DatabaseWriter
    from cellstore.transaction.overlay import Overlay

    KNOBS = Knobs(retention_s=0.05)
    ACCOUNTS = 10

    def items(*indexes):
        made = {f"by_{name}": IndexDefinition(tuple(name.split("_"))) for name in indexes}
        return TableDefinition("items", {"type": "any"}, made)

    def users(number):
        '''The table as it is defined at a step: every seventh renames a field.'''
        old, new = ("seen", "last") if number // 7 % 2 else ("last", "seen")
        fields = {name: {"type": {"type": "any"}, "optional": name != "name"} for name in ("name", "step", new)}
        indexes = {"by_name": IndexDefinition(("name",), True), "by_seen": IndexDefinition((new,))}
        return new, TableDefinition("users", {"type": "object", "fields": fields}, indexes, None, {old: new})

    def begin(engine):
        engine.define(users(0)[1], items("n"))
        engine.run(lambda tx: [tx.insert("accounts", {"no": n, "balance": 100}) for n in range(ACCOUNTS)])

    def money(tx, dice):
        accounts = [row for _, row in tx.scan("accounts")]
        one, other = dice.sample(accounts, 2)
        tx.patch(one["_id"], {"balance": one["balance"] - 1})
        tx.patch(other["_id"], {"balance": other["balance"] + 1})

    def churn(tx, dice):
        for _, row in tx.scan("items", "by_n"):
            if dice.random() < 0.3:
                tx.delete(row["_id"]) if dice.random() < 0.6 else tx.patch(row["_id"], {"n": dice.randrange(9)})
        for _ in range(dice.randrange(4)):
            tx.insert("items", {"n": dice.randrange(9), "pad": "x" * dice.randrange(400)})

    def step(engine, number):
        '''One step: a group of dependent commits, the last of them a client's request; at times something rarer.'''
        dice = random.Random(number)
        seen, table = users(number)
        engine.define(table)
        overlay, requests = Overlay(str(number)), []
        for what in (money, churn, money):
            with engine.begin(overlay=overlay) as tx:
                what(tx, dice)
                requests.append(tx.freeze("story"))
                overlay.apply(requests[-1])
        with engine.begin(overlay=overlay) as tx:
            DatabaseWriter(tx).upsert("users", {"name": dice.randrange(5)}, {seen: number})
            DatabaseWriter(tx).upsert("users", {"name": "progress"}, {"step": number})
            requests.append(tx.freeze("story", request=("client", number), result=b"%d" % number))
        answers = engine.commit(requests)
        assert all(type(answer).__name__ == "Committed" for answer in answers), answers
        if number % 5 == 0:
            engine.define(items("n") if number % 10 else items("n", "pad_n"))
        if number % 3 == 0:
            engine.retention.slice()

    def contents(engine):
        with engine.begin() as tx:
            found = {}
            for table in tx.catalog.user_tables():
                rows = [{k: v for k, v in row.items() if k[0] != "_"} for _, row in tx.scan(table.name)]
                found[table.name] = sorted(rows, key=repr)
                assert tx.count(table.name) == tx.count(table.name, "by_id") == len(rows)
            names = {name for row in found["users"] for name in row} & {"seen", "last"}
            assert len(names) < 2, "a rename is whole, too"
            found["users"] = [{"at" if k in names else k: v for k, v in row.items()} for row in found["users"]]
            return found
    """
)
WRITER = textwrap.dedent(
    """
    import sys
    from cellstore import faults
    from cellstore.transaction.database import Engine
    from story import KNOBS, begin, contents, step

    engine = Engine.open(sys.argv[1], knobs=KNOBS)
    begin(engine)
    print("0", flush=True)
    faults.arm_from_environment()
    number = 1
    while True:
        step(engine, number)
        print(number, flush=True)  # acknowledged
        number += 1
    """
)
POINTS = [
    "storage.begin",
    "storage.written",
    "storage.visible",
    "storage.committed",
    "commit.validated",
    "commit.persisted",
    "commit.published",
]


@pytest.fixture
def story(tmp_path):
    return defined(STORY, tmp_path / "story.py")


def survives(tmp_path, acknowledged, story):
    path = tmp_path / "store.db"
    assert list(check(path)) == [], "before anyone repaired anything"
    with Engine.open(path, knobs=story["KNOBS"]) as engine, Engine.memory() as replay:
        assert list(engine.check()) == []
        found = story["contents"](engine)
        done = next((user["step"] for user in found["users"] if user["name"] == "progress"), 0)
        assert done in (acknowledged, acknowledged + 1), "nothing acknowledged is lost, nothing unasked is there"
        assert sum(account["balance"] for account in found["accounts"]) == 100 * story["ACCOUNTS"]
        story["begin"](replay)
        for number in range(1, done + 1):
            story["step"](replay, number)
        assert found == story["contents"](replay), "no step is half there"
        assert [engine.request("client", n) for n in (done, done + 1)] == [b"%d" % done if done else None, None]
        before = engine.published_ts
        story["step"](engine, done + 1)  # life goes on, and time with it
        assert engine.published_ts > before
        assert list(engine.check()) == []


@pytest.mark.parametrize("count", [1, 8, 45])
@pytest.mark.parametrize("point", POINTS)
def test_killed_at(point, count, tmp_path, story):
    writer = start(WRITER, tmp_path, CELLSTORE_FAULT=f"{point}=kill@{count}")
    lines = writer.communicate(timeout=60)[0].split()
    assert writer.returncode == -signal.SIGKILL
    survives(tmp_path, int(lines[-1]), story)


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random_again_and_again(seed, tmp_path, story):
    writer = start(WRITER, tmp_path)
    assert writer.stdout.readline() == "0\n"
    time.sleep(random.Random(seed).uniform(0.05, 0.6))
    writer.kill()
    lines = writer.communicate(timeout=60)[0].split()
    survives(tmp_path, int(lines[-1]) if lines else 0, story)


def test_every_fault_point_of_the_store_is_killed_at():
    from pathlib import Path

    import cellstore

    source = Path(cellstore.__file__).parent
    texts = [path.read_text() for layer in ("storage", "transaction") for path in (source / layer).glob("*.py")]
    named = {line.split('"')[1] for text in texts for line in text.splitlines() if "faults.reach(" in line}
    assert named == set(POINTS)
