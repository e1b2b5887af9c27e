"""What a newcomer copies first works as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import cellstore

README = Path(__file__).parents[2] / "README.md"
RESULT = "assert len(open_tasks()) == 1, open_tasks()"


def run(code: str, directory: Path) -> None:
    (directory / "first.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "first.py"], cwd=directory, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_first_lines_of_the_readme(tmp_path: Path) -> None:
    cells = re.search(
        r"```python\n%load_ext cellstore\nimport cellstore as cs\n(.*?)```", README.read_text(), re.DOTALL
    )
    assert cells is not None
    run('import cellstore as cs\ncs.open("tasks.db")\n' + cells[1] + RESULT, tmp_path)


def test_the_example_of_the_package(tmp_path: Path) -> None:
    example = re.search(r"    import cellstore as cs\n.*?\n(?=\w)", cellstore.__doc__ or "", re.DOTALL)
    assert example is not None
    run(textwrap.dedent(example[0]).replace("    open_tasks()", f"    {RESULT}"), tmp_path)
