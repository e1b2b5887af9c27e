"""Whatever is written, and whenever it is read: the mirror shows what the storage's readers show."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

from analytics_desk import Desk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cellstore.testing.strategies import VALUES
from cellstore.transaction.access import DatabaseReader
from cellstore.transaction.database import Engine

FIELDS = st.dictionaries(st.sampled_from(["a", "b", "c"]), VALUES, max_size=3)
PLAIN = st.dictionaries(st.sampled_from(["a", "b"]), st.one_of(st.none(), st.integers(-3, 3), st.floats()), max_size=2)
STEP = st.one_of(
    st.tuples(st.just("insert"), st.sampled_from(["t", "u"]), st.one_of(PLAIN, FIELDS)),
    st.tuples(st.just("replace"), st.integers(0, 9), st.one_of(PLAIN, FIELDS)),
    st.tuples(st.just("delete"), st.integers(0, 9), st.none()),
    st.tuples(st.just("read"), st.integers(0, 9), st.sampled_from(["t", "u"])),
)
COMMITS = st.lists(st.lists(STEP, min_size=1, max_size=3), max_size=8)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(COMMITS)
def test_the_mirror_at_any_moment_is_the_storage_at_that_moment(commits):
    with tempfile.TemporaryDirectory() as scratch:
        desk = Desk(Engine.memory(), Path(scratch))
        moments = [desk.now]
        for steps in commits:
            desk.write(lambda tx, steps=steps: [step(tx, *each) for each in steps if each[0] != "read"])
            moments.append(desk.now)
            for _, back, table in (each for each in steps if each[0] == "read"):
                agree(desk, table, moments[-1 - back % len(moments)])
        for ts in reversed(moments):
            agree(desk, "t", ts)
            agree(desk, "u", ts)
        desk.close()


def step(tx: Any, what: str, place: Any, fields: Any) -> None:
    if what == "insert":
        tx.insert(place, fields)
        return
    ids = [row["_id"] for name in ("t", "u") if tx.catalog.table(name) for row in everything(tx, name)]
    if ids and what == "replace":
        tx.replace(ids[place % len(ids)], fields)
    elif ids:
        tx.delete(ids[place % len(ids)])


def everything(tx: Any, table: str) -> list[dict[str, Any]]:
    return DatabaseReader(tx).query(table).collect()


def agree(desk: Desk, table: str, ts: int) -> None:
    with desk.engine.begin(ts) as tx:
        if tx.catalog.table(table) is None:
            return
        stored = everything(tx, table)
    shown = desk.table(table, ts)
    assert len(stored) == len(shown)
    for one, other in zip(stored, shown, strict=True):
        assert one.keys() <= other.keys()
        assert all(reads_as(one.get(name), value) for name, value in other.items()), (one, other)


def reads_as(stored: Any, shown: Any) -> bool:
    """Equal, but that an int may have become an equal float, and that a missing name in an object reads None."""
    if isinstance(stored, bool) or isinstance(shown, bool) or stored is None or shown is None:
        return stored is shown
    if isinstance(stored, int | float) and isinstance(shown, int | float):
        return stored == shown or (math.isnan(stored) and math.isnan(shown))
    if isinstance(stored, dict) and isinstance(shown, dict):
        return stored.keys() <= shown.keys() and all(reads_as(stored.get(name), value) for name, value in shown.items())
    if isinstance(stored, list) and isinstance(shown, list):
        return len(stored) == len(shown) and all(map(reads_as, stored, shown))
    return isinstance(stored, type(shown)) and stored == shown
