"""Every storage, one at a time."""

import pytest

from cellstore.storage.memory import MemoryStorage
from cellstore.storage.sqlite import SqliteStorage


@pytest.fixture(params=["memory", "sqlite"])
def storage(request, tmp_path):
    made = MemoryStorage() if request.param == "memory" else SqliteStorage.open(tmp_path / "store.db")
    yield made
    made.close()


@pytest.fixture
def reader(storage):
    made = storage.reader()
    made.refresh()
    yield made
    made.close()
