"""A store in memory or in a file, and an analyst over it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from analytics_desk import Desk

from cellstore.transaction.database import Engine


@pytest.fixture(params=["memory", "file"])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    engine = Engine.memory() if request.param == "memory" else Engine.open(tmp_path / "store.db")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    made = Desk(engine, scratch)
    yield made
    made.close()
