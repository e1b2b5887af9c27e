"""The golden dialogues of the transaction layer, on every storage. They are meant to be read: see txn/."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cellstore.transaction.database import Engine

sys.path.insert(0, str(Path(__file__).parent))
from dialogue import run_file

SCRIPTS = sorted((Path(__file__).parent / "txn").glob("*.txt"))


@pytest.mark.parametrize("storage", ["memory", "sqlite"])
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_dialogue_goes_as_written(script: Path, storage: str, tmp_path: Path) -> None:
    with Engine.memory() if storage == "memory" else Engine.open(tmp_path / "store.db") as engine:
        written, heard = run_file(script, engine)
    assert heard == written
