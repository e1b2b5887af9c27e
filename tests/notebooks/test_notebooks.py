"""Every notebook is a test: nbval runs it in a real kernel, on a real server of its own, and compares what is marked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
CELL_TIMEOUT_S = 240
TIMEOUT_S = 600


@pytest.mark.deadline(TIMEOUT_S + 60)
@pytest.mark.parametrize("notebook", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_the_notebook_runs_and_shows_what_it_says(notebook: Path) -> None:
    """In a run of its own, because its server tells kernels where it is through the environment."""
    options = ["--nbval-lax", "--nbval-current-env", f"--nbval-cell-timeout={CELL_TIMEOUT_S}", "-p", "no:cacheprovider"]
    sanitized = f"--nbval-sanitize-with={Path(__file__).parent / 'sanitize.cfg'}"
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:asyncio", *options, sanitized, str(notebook)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env={**os.environ, "PYDEVD_DISABLE_FILE_VALIDATION": "1"},
    )
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
