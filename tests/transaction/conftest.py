"""Engines on both storages, and definitions in one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cellstore.schema.definition import IndexDefinition, TableDefinition
from cellstore.transaction.database import Engine


def _type(kind: str) -> dict[str, str]:
    return {"type": "id", "table": kind.removeprefix("id of ")} if kind.startswith("id of ") else {"type": kind}


def defined(name: str, fields: dict[str, str] | None = None, **indexes: Any) -> TableDefinition:
    """`defined("tasks", {"rank": "int"}, by_rank="rank")`; a field ending in ? is optional, an index in ! unique."""
    expr: dict[str, Any] = {"type": "any"}
    if fields is not None:
        expr = {
            "type": "object",
            "fields": {
                name.rstrip("?"): {"type": _type(kind), "optional": name.endswith("?")} for name, kind in fields.items()
            },
        }
    made = {
        label: IndexDefinition(tuple(paths.rstrip("!").split(",")), paths.endswith("!"))
        for label, paths in indexes.items()
    }
    return TableDefinition(name, expr, made)


@pytest.fixture(params=["memory", "sqlite"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """An empty store, checked for broken invariants at the end."""
    with Engine.memory() if request.param == "memory" else Engine.open(tmp_path / "store.db") as engine:
        yield engine
        engine.write_log.check()
        assert list(engine.storage.check(engine.catalog.keys_of)) == []


@pytest.fixture
def define() -> Any:
    return defined
