"""What a user imports: every promised name is there, nothing heavy comes along, packages do not hide functions."""

from __future__ import annotations

import subprocess
import sys

import pytest

import cellstore as cs

HEAVY = {
    "pandas",
    "duckdb",
    "pyarrow",
    "polars",
    "IPython",
    "ipywidgets",
    "tornado",
    "jupyter_server",
    "cloudpickle",
    "apsw",
}
HEAVY |= {"pydantic", "websockets", "asyncio", "matplotlib"}

PROMISED = {"Table", "Index", "Id", "query", "mutation", "action", "cron", "every", "live", "grid", "form", "button"}
PROMISED |= {"view", "snapshot", "sql", "connect", "open", "deploy", "Database", "Document", "UNSET"}
PROMISED |= {"ApplicationError", "CellstoreError", "ValidationError", "NotFound", "FunctionError", "Disconnected"}


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", cs.__all__)
def test_every_public_name_can_be_used(name):
    assert getattr(cs, name) is not None
    assert name in dir(cs)


def test_the_promised_names_are_public():
    assert set(cs.__all__) >= PROMISED


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        cs.nonsense  # noqa: B018


def test_importing_cellstore_brings_nothing_heavy():
    loaded = python("import sys, cellstore; print(*{name.partition('.')[0] for name in sys.modules})")
    assert not HEAVY & set(loaded.split())


def test_defining_functions_brings_nothing_heavy():
    code = "import sys, cellstore as cs; cs.query, cs.Table, cs.Index, cs.Id, cs.ApplicationError; print(*sys.modules)"
    assert not (HEAVY - {"asyncio"}) & set(python(code).split())


def test_importing_cellstore_is_quick():
    code = "import time; t = time.perf_counter(); import cellstore; print(time.perf_counter() - t)"
    assert min(float(python(code)) for _ in range(3)) < 0.3


def test_a_package_does_not_hide_the_function_of_its_name():
    code = "import cellstore.deploy.unit; import cellstore as cs; print(type(cs.deploy).__name__, cs.deploy.__name__)"
    assert python(code) == "function deploy"
