"""Gives the notebooks a server of their own: fresh, on the loopback interface, gone at the end of the run.

nbval starts kernels itself, so no Jupyter server is their parent; they find this one through the environment, as kernels of a hub do.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest

_cleanup = pytest.StashKey[ExitStack]()


def pytest_sessionstart(session: pytest.Session) -> None:
    from cellstore.server.launch import launch

    if session.config.option.collectonly:
        return
    stack = session.config.stash[_cleanup] = ExitStack()
    root = stack.enter_context(tempfile.TemporaryDirectory(prefix="cellstore-notebooks-", ignore_cleanup_errors=True))
    server = stack.enter_context(launch(Path(root)))
    os.environ.update(CELLSTORE_SERVER_URL=server.url, CELLSTORE_SERVER_TOKEN=server.token)


def pytest_sessionfinish(session: pytest.Session) -> None:
    stack = session.config.stash.get(_cleanup, None)
    if stack is not None:
        for name in ("CELLSTORE_SERVER_URL", "CELLSTORE_SERVER_TOKEN"):
            os.environ.pop(name, None)
        stack.close()
