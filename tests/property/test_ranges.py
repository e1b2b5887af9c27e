"""Every form of range on every shape of index, in both directions and with limits, at any moment and through own writes:
what the engine finds is what a sorted list of all documents has."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cellstore.testing.model import State, selected
from cellstore.testing.workloads import table
from cellstore.transaction.access import DatabaseReader
from cellstore.transaction.catalog import value_at
from cellstore.transaction.database import Engine
from cellstore.transaction.ranges import Range
from cellstore.transaction.transaction import Transaction
from cellstore.values.value import MISSING, UNSET

VALUES = [None, 0, -0.0, 1, 1.0, 2**53, 2**53 + 1, float("inf"), float("nan"), False, "", "a", "a\0", b"", [], [1], {}]
FIELDS = ["a", "b", "o.p", "o.q.r"]
INDEXES = {
    "by_a": ["a"],
    "by_ab": ["a", "b"],
    "by_inside": ["o.q.r", "o.p"],
    "by_all": [*FIELDS, *(f"f{n}" for n in range(12))],  # sixteen
}
TABLE = table("t", **{name: ",".join(fields) for name, fields in INDEXES.items()})


def some_document(dice: Random) -> dict[str, Any]:
    inside = {"p": dice.choice(VALUES), "q": dice.choice([1, {}, {"r": dice.choice(VALUES)}])}
    maybe = {
        "a": dice.choice(VALUES),
        "b": dice.choice(VALUES),
        "o": dice.choice([3, inside]),
        "f7": dice.choice([1, 2]),
    }
    return {name: value for name, value in maybe.items() if dice.random() < 0.8}


def change(tx: Transaction, dice: Random) -> None:
    """Some documents come, some go, some change their place."""
    there = [document["_id"] for _, document in tx.scan("t")]
    for id in dice.sample(there, len(there) // 4):
        dice.choice([tx.delete, lambda id: tx.replace(id, some_document(dice)), lambda id: tx.patch(id, {"a": 1})])(id)
    for _ in range(8):
        tx.insert("t", some_document(dice))


def some_conditions(dice: Random, fields: list[str], documents: list[Any]) -> list[tuple[str, str, Any]]:
    """Equal on a prefix, then perhaps bounds on the next field."""

    def value_of(field: str) -> Any:
        if dice.random() < 0.2 and field != "_creationTime":
            return dice.choice(VALUES)
        return value_at(dice.choice(documents), tuple(field.split(".")))

    named = [*fields, "_creationTime"]
    depth = dice.randrange(len(named))
    alike = dice.choice(documents)
    asked = [("eq", field, value_at(alike, tuple(field.split(".")))) for field in named[:depth]]
    for pair in (("gt", "gte"), ("lt", "lte")):
        if dice.random() < 0.6:
            asked.append((dice.choice(pair), named[depth], value_of(named[depth])))
    return dice.sample(asked, len(asked))


def agree(tx: Transaction, dice: Random) -> None:
    state: State = {document["_id"]: ("t", document) for _, document in tx.scan("t")}
    documents = [document for _, document in state.values()]
    for name, fields in INDEXES.items():
        asked, descending, limit = (
            some_conditions(dice, fields, documents),
            dice.random() < 0.5,
            dice.choice((1, 3, 999)),
        )

        def range_(q: Range, asked: Any = asked) -> None:
            for verb, field, value in asked:
                getattr(q, verb)(field, UNSET if value is MISSING else value)

        query = DatabaseReader(tx).query("t").with_index(name, range_)
        expected = selected(state, "t", fields, asked, descending)
        found = query.order("desc" if descending else "asc").take(limit)
        assert [one["_id"] for one in found] == [one["_id"] for one in expected[:limit]], (name, asked, descending)
        assert query.count() == len(expected)


@pytest.mark.parametrize("storage", ["memory", "sqlite"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 32))
def test_a_range_holds_what_a_sorted_list_has(
    storage: str, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    dice = Random(seed)
    path: Path = tmp_path_factory.mktemp("ranges") / "store.db"
    with Engine.memory() if storage == "memory" else Engine.open(path) as engine:
        engine.define(TABLE)
        moments = [engine.run(lambda tx: change(tx, dice))[1] for _ in range(6)]
        for ts in [*moments, None]:
            with engine.begin(ts) as tx:
                agree(tx, dice)
        with engine.begin() as tx:
            change(tx, dice)
            agree(tx, dice)
