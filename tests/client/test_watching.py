"""`cellstore deploy PATH --watch`: files deployed again when they change."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cellstore as cs
from cellstore.client.watching import watch
from cellstore.functions import registry

TASKS = """
import cellstore as cs
from watched_helper import FACTOR

@cs.query
def product(ctx, n: int):
    return n * FACTOR
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "watched_helper.py").write_text("FACTOR = 2\n")
    (tmp_path / "watched_tasks.py").write_text(TASKS)
    before = list(sys.path)
    yield tmp_path
    sys.path[:] = before
    for name in ("watched_helper", "watched_tasks"):
        sys.modules.pop(name, None)
        registry.forget(name)


def put(file: Path, text: str) -> None:
    file.write_text(text)
    later = time.time_ns() + put.times * 10**9  # as if it were written a while after
    put.times += 1
    os.utime(file, ns=(later, later))


put.times = 1


def test_a_changed_file_and_what_imports_it_are_deployed_again(place: Path) -> None:
    said: list[str] = []
    with cs.open(":memory:") as db:
        looks: Any = watch(db, place, said.append, every_s=0)
        next(looks)
        assert db.query("watched_tasks:product", n=5) == 10
        assert said == [f"deployed {place}/watched_tasks.py as watched_tasks: added watched_tasks:product"]
        put(place / "watched_helper.py", "FACTOR = 3\n")
        next(looks)
        assert db.query("watched_tasks:product", n=5) == 15
        assert said[1:] == [f"deployed {place}/watched_tasks.py as watched_tasks: changed watched_tasks:product"]
        next(looks)
        assert len(said) == 2


def test_a_broken_file_is_said_and_the_version_before_serves_on(place: Path) -> None:
    said: list[str] = []
    with cs.open(":memory:") as db:
        looks: Any = watch(db, place, said.append, every_s=0)
        next(looks)
        put(place / "watched_tasks.py", TASKS + "\n1 / 0\n")
        next(looks)
        assert "ZeroDivisionError" in said[1]
        assert db.query("watched_tasks:product", n=5) == 10
        put(place / "watched_tasks.py", TASKS.replace("product", "renamed"))
        next(looks)
        assert "added watched_tasks:renamed; removed watched_tasks:product" in said[2]


def test_a_module_that_was_imported_can_be_deployed(place: Path) -> None:
    sys.path.insert(0, str(place))
    import watched_tasks

    with cs.open(":memory:") as db:
        assert list(db.deploy(watched_tasks)) == ["watched_tasks"]
        assert watched_tasks.product(n=1) == 2
        assert db.deploy(place / "watched_tasks.py") == {}, "the file defines the same"


BROKEN = {
    "an error where it is executed": (
        "from watched_helper import half\nhalf(0)\n",
        ['watched_tasks.py", line 2, in <module>\n    half(0)\n', 'watched_helper.py", line 2, in half\n', "~~^~~"],
        "could not be executed: ZeroDivisionError: division by zero",
    ),
    "what is no Python": (
        "import cellstore\ndef f(:\n",
        ['watched_tasks.py", line 2\n    def f(:\n          ^'],
        "could not be executed: SyntaxError: invalid syntax",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_cannot_be_executed_is_shown_by_its_lines(place: Path, case: str) -> None:
    text, lines, reason = BROKEN[case]
    (place / "watched_helper.py").write_text("def half(n):\n    return 1 / n\n")
    (place / "watched_tasks.py").write_text(text)
    sys.path.insert(0, str(place))
    with cs.open(":memory:") as db, pytest.raises(cs.DeployError) as caught:
        db.deploy(place / "watched_tasks.py")
    [shown] = caught.value.__notes__
    assert all(line in shown for line in lines), shown
    assert "sources.py" not in shown
    assert "importlib" not in shown
    assert caught.value.message.endswith(reason)


def test_what_cannot_be_deployed_is_named() -> None:
    with cs.open(":memory:") as db, pytest.raises(cs.DeployError, match="5 cannot be deployed: give a module"):
        db.deploy(5)  # type: ignore[arg-type]
