"""A disk that is at work for as long as a test likes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cellstore.transaction.database import Engine


@contextmanager
def disk_at_work(engine: Engine, work: Callable[[], object]) -> Iterator[threading.Event]:
    """Another thread's `work` commits and waits for the disk, for as long as the event given is not set."""
    visible, done = threading.Event(), threading.Event()
    storage: Any = engine.storage
    sync = storage._sync

    def slow() -> None:
        visible.set()
        assert done.wait(20)
        sync()

    storage._sync = slow
    thread = threading.Thread(target=work)
    thread.start()
    assert visible.wait(20)
    try:
        yield done
    finally:
        done.set()
        thread.join()
        storage._sync = sync
