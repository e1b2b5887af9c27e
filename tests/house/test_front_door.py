"""The door users come in by: quick to open, complete, documented."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import cellstore

SOURCES = Path(cellstore.__file__).parent

# Design §2. Adding a name is a decision; losing one breaks people.
PROMISED = {
    "Table", "Index", "Id", "UNSET", "query", "mutation", "action", "http", "cron", "every", "live", "grid", "form",
    "button", "view", "snapshot", "sql", "connect", "open", "current", "insert_df", "tables", "functions", "deploy",
    "Database", "subscribe", "export", "import_", "Document", "Request", "Response",
    "ApplicationError", "FunctionError", "ValidationError", "CellstoreError",
}  # fmt: skip

HEAVY = {
    "pandas", "numpy", "duckdb", "pyarrow", "polars", "matplotlib", "IPython", "ipywidgets", "tornado", "jupyter_server",
    "pydantic", "apsw", "cloudpickle", "websockets",
}  # fmt: skip


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_promised_name_is_there() -> None:
    assert set(cellstore.__all__) >= PROMISED


@pytest.mark.parametrize("name", cellstore.__all__)
def test_every_public_name_can_be_used(name: str) -> None:
    assert getattr(cellstore, name) is not None
    assert name in dir(cellstore)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        cellstore.nonsense  # noqa: B018


def test_importing_cellstore_loads_nothing_heavy() -> None:
    """Which is what keeps it quick; asyncio alone would double the time."""
    loaded = python("import sys, cellstore; print(*{name.partition('.')[0] for name in sys.modules})")
    assert not (HEAVY | {"asyncio"}) & set(loaded.split())


def test_defining_functions_loads_nothing_heavy() -> None:
    code = "import sys, cellstore as cs; cs.query, cs.Table, cs.Index, cs.Id, cs.ApplicationError; print(*sys.modules)"
    assert not HEAVY & set(python(code).split())


@pytest.mark.parametrize("name", ["deploy", "functions"])
def test_a_package_does_not_hide_the_function_of_its_name(name: str) -> None:
    code = f"import cellstore as cs, cellstore.{name}; print(type(cs.{name}).__name__, cs.{name}.__name__)"
    assert python(f"{code}; cs.query; {code}") == f"function {name}\nfunction {name}"


def public_definitions(path: Path) -> list[tuple[str, ast.AST]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: list[tuple[str, ast.AST]] = []
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if not node.name.startswith("_") and not _is_overload(node):  # an overload's implementation speaks for it
            found.append((node.name, node))
    return found


def _is_overload(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    return any(isinstance(each, ast.Name) and each.id == "overload" for each in node.decorator_list)


@pytest.mark.parametrize("path", sorted(SOURCES.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCES)))
def test_every_file_and_every_public_class_and_function_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{path.name} has no docstring"
    silent = [name for name, node in public_definitions(path) if not ast.get_docstring(node)]  # type: ignore[arg-type]
    assert not silent


def test_every_method_of_a_database_is_documented() -> None:
    silent = [n for n, m in inspect.getmembers(cellstore.Database, callable) if not n.startswith("_") and not m.__doc__]
    assert not silent
