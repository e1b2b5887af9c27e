"""What tests of the published clients share: which there are, and a server with the functions they call."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from server_process import ServerProcess

HERE = Path(__file__).parent
NODE, MODULES = shutil.which("node"), Path(os.environ.get("CELLSTORE_NODE_MODULES", "") or "/nowhere")
"""CELLSTORE_NODE_MODULES names a directory with the npm packages `convex` and `ws`."""

_has_npm = NODE is not None and (MODULES / "convex").is_dir()
_has_pypi = importlib.util.find_spec("convex") is not None


def needs_npm(test: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a test, or a class of tests, of the npm client."""
    skipped = pytest.mark.skipif(not _has_npm, reason="needs Node.js and the npm packages convex and ws")
    return pytest.mark.node(skipped(test))


needs_pypi = pytest.mark.skipif(not _has_pypi, reason="needs the PyPI package convex")


@contextmanager
def serving(root: Path, file: str, *first: str, **settings: Any) -> Iterator[ServerProcess]:
    """A server with the functions of a file beside this one, after some mutations of it; strangers may call them."""
    server = ServerProcess(root, allow_anonymous=True, **settings).start()
    try:
        server.deploy(HERE / file)
        for path in first:
            server.call("mutation", path)
        yield server
    finally:
        server.stop()


@contextmanager
def client(script: str, *words: str, timeout_s: float = 120) -> Iterator[subprocess.Popen[str]]:
    """A client in a process of its own: a script beside this file, for Node or Python."""
    interpreter = str(NODE) if script.endswith(".mjs") else sys.executable
    command = [interpreter, str(HERE / script), *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()
