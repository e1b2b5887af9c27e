"""A process that writes until it is killed, and what both it and the test define."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def start(script: str, directory: Path, **environment: str) -> subprocess.Popen[str]:
    """Run `script` on the store in `directory`; it can import what is defined there."""
    return subprocess.Popen(
        [sys.executable, "-c", script, str(directory / "store.db")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(directory), **environment},
    )


def defined(text: str, file: Path) -> dict[str, Any]:
    """The names that `text` defines, here and, as a module, where `file` is."""
    file.write_text(text)
    names: dict[str, Any] = {}
    exec(text, names)
    return names
