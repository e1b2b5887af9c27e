"""Killed while an index is built: it is there whole or not at all, and can be built again."""

import signal
import textwrap

import pytest
from mortal import start

from cellstore.schema.definition import IndexDefinition, TableDefinition
from cellstore.transaction.database import Engine

DOCUMENTS = 1000
BUILDER = textwrap.dedent(
    """
    import sys
    from cellstore import faults
    from cellstore.schema.definition import IndexDefinition, TableDefinition
    from cellstore.transaction.database import Engine

    engine = Engine.open(sys.argv[1])
    engine.run(lambda tx: [tx.insert("t", {"n": -n}) for n in range(1000)])
    faults.arm_from_environment()
    engine.define(TableDefinition("t", {"type": "any"}, {"by_n": IndexDefinition(("n",), unique=True)}))
    """
)
BY_N = TableDefinition("t", {"type": "any"}, {"by_n": IndexDefinition(("n",), unique=True)})


@pytest.mark.parametrize(
    ("point", "count", "is_there"),
    [
        ("storage.written", 1, False),  # as it begins
        ("commit.persisted", 1, False),
        ("storage.written", 2, False),  # within the first slice, and later ones
        ("storage.written", 5, False),
        ("commit.validated", 2, False),  # as it is switched on
        ("commit.persisted", 2, True),
    ],
)
def test_killed_at(point, count, is_there, tmp_path):
    builder = start(BUILDER, tmp_path, CELLSTORE_FAULT=f"{point}=kill@{count}")
    builder.communicate(timeout=60)
    assert builder.returncode == -signal.SIGKILL
    with Engine.open(tmp_path / "store.db") as engine:
        assert list(engine.check()) == []
        assert ("by_n" in engine.catalog.table("t").indexes) == is_there
        engine.define(BY_N)
        with engine.begin() as tx:
            assert [document["n"] for _, document in tx.scan("t", "by_n")] == list(range(1 - DOCUMENTS, 1))
            assert tx.count("t", "by_n") == DOCUMENTS
        assert list(engine.check()) == []
