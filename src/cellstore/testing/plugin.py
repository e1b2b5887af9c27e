"""pytest fixtures for functions of the store. In conftest.py:

    pytest_plugins = ["cellstore.testing.plugin"]

and in a test:

    from tasks import add_task, open_tasks

    def test_a_new_task_is_open(store):
        add_task(text="milk")
        assert [task.text for task in open_tasks()] == ["milk"]

Not registered by itself: `store` is a name that your own tests may have taken.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cellstore.testing.store import StoreUnderTest


@pytest.fixture
def store() -> Iterator[StoreUnderTest]:
    """A fresh store in memory, the current one while the test runs; see `StoreUnderTest`."""
    with StoreUnderTest() as store:
        yield store
