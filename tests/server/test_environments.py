"""One server for kernels of several Python environments: what each deploys runs in its own, and outlives it.

A second environment is always made: a virtual one of this Python. Another minor version is tried where the variable
CELLSTORE_OTHER_PYTHON names an interpreter that has cellstore.
"""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server_process import TOKEN, ServerProcess

SHOP = """
import os, sys
import cellstore as cs

RATE = 3

def priced(n):
    return n * RATE

class Sale(cs.Table, name="sales"):
    n: int
    by_n = cs.Index("n")

@cs.query
def where(ctx):
    return {"python": sys.executable, "version": list(sys.version_info[:2]), "cwd": os.getcwd()}

@cs.query
def sales(ctx):
    return [sale.n for sale in ctx.db.query("sales").with_index("by_n")]

@cs.mutation
def sell(ctx, n: int):
    ctx.db.insert("sales", {"n": priced(n)})

@cs.query
def broken(ctx):
    return sales(ctx)["no index"]

@cs.action
async def sell_all(ctx, upto: int):
    for n in range(upto):
        await ctx.run_mutation(sell, n=n)
    return await ctx.run_query(sales)
"""
SESSION = """
import json, sys
import cellstore as cs
import shop

with cs.connect(*sys.argv[1:]) as db:
    watched = db.subscribe(shop.sales)
    sold = shop.sell_all(upto=3)
    watched.wait(lambda value: value == sold, timeout=30)
    try:
        shop.broken()
    except cs.FunctionError as error:
        print(json.dumps({**shop.where(), "sold": sold, "frame": list(db.snapshot().df("sales").n), "error": error.traceback}))
"""


@pytest.fixture
def bare(tmp_path: Path) -> str:
    """The interpreter of a virtual environment that finds libraries where this one does."""
    home = tmp_path / "environment"
    venv.create(home, symlinks=True, with_pip=False)
    (packages,) = home.glob("lib/*/site-packages")
    lines = [f"import site; site.addsitedir({path!r})" for path in site.getsitepackages()]
    (packages / "as_before.pth").write_text("\n".join(lines))
    return str(home / "bin" / "python")


@pytest.fixture
def other() -> str:
    python = os.environ.get("CELLSTORE_OTHER_PYTHON", "")
    if not python:
        pytest.skip("CELLSTORE_OTHER_PYTHON names no second interpreter with cellstore")
    return python


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path / "root")
    yield server
    server.stop()


def session(python: str, place: Path, server: ServerProcess) -> dict[str, Any]:
    """What a script says that `python` runs in the directory `place`."""
    place.mkdir()
    (place / "shop.py").write_text(SHOP)
    (place / "session.py").write_text(SESSION)
    command = [python, "session.py", server.url, TOKEN]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def check(said: dict[str, Any], python: str, place: Path) -> None:
    assert (said["python"], said["cwd"]) == (python, str(place))
    assert said["sold"] == said["frame"] == [0, 3, 6]
    assert 'return sales(ctx)["no index"]' in said["error"]


def test_functions_run_with_the_interpreter_and_in_the_directory_of_their_kernel(
    bare: str, server: ServerProcess, tmp_path: Path
) -> None:
    server.start()
    check(session(bare, tmp_path / "shop", server), bare, tmp_path / "shop")
    assert server.call("query", "shop:where")["python"] == bare  # its kernel is gone
    shutil.rmtree(tmp_path / "environment")
    server.kill()
    server.start()
    assert server.call("query", "shop:where")["python"] == sys.executable  # … and now its environment
    assert server.call("action", "shop:sell_all", {"upto": 1}) == [0, 0, 3, 6]


def test_a_kernel_of_another_python_is_served(other: str, server: ServerProcess, tmp_path: Path) -> None:
    server.start()
    said = session(other, tmp_path / "shop", server)
    check(said, other, tmp_path / "shop")
    assert said["version"] != list(sys.version_info[:2])
    assert server.call("query", "shop:where")["version"] == said["version"]


def test_a_server_of_another_python_serves_this_one(other: str, server: ServerProcess, tmp_path: Path) -> None:
    server.python = other
    server.start()
    check(session(sys.executable, tmp_path / "shop", server), sys.executable, tmp_path / "shop")
    assert server.call("query", "shop:where")["version"] == list(sys.version_info[:2])
