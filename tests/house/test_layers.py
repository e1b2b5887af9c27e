"""The floor plan, executable: a module imports its own layer and the layers it may look at, nothing else.

The plan differs from a plain line in four places. `protocol` knows values only, because both ends of the wire share it.
The client's side (`client`, `functions`, `deploy`) never sees the engine: a kernel may be on another machine. Only its
`embedded` module may, since that one is the engine in the same process. The server reads the files it is sent as the
client does (`client.files`). Imports inside functions count as well: lazy is not exempt.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "src" / "cellstore"
KERNEL = ROOT / "kernel_ext" / "cellstore_kernel"

GROUND = {"errors", "clock", "knobs", "faults", "web"}
ENGINE = GROUND | {"values", "schema", "storage", "transaction"}
MAY_IMPORT: dict[str, set[str]] = {
    **dict.fromkeys(GROUND, GROUND),
    "values": GROUND,
    "schema": GROUND | {"values"},
    "storage": GROUND | {"values"},
    "transaction": ENGINE,
    "protocol": GROUND | {"values"},
    "functions": GROUND | {"values", "schema"},
    "deploy": GROUND | {"values", "schema", "functions"},
    "runtime": ENGINE | {"deploy", "functions"},
    "reactivity": ENGINE | {"protocol", "runtime"},
    "analytics": ENGINE,
    "server": ENGINE | {"protocol", "deploy", "functions", "runtime", "reactivity", "analytics", "client.files"},
    "client": GROUND | {"values", "schema", "protocol", "functions", "deploy"},
    "client.files": GROUND | {"values", "schema", "client.rows"},
    "client.rows": GROUND | {"values", "schema"},
    "client.embedded": ENGINE | {"protocol", "deploy", "functions", "runtime", "reactivity", "server", "client"},
    "front door": GROUND | {"values", "schema", "functions", "deploy", "client", "server.extension"},
}
EVERYTHING = {"cli", "tour", "testing"}  # may import anything; nothing imports them but each other


def layer(module: str) -> str:
    """`cellstore.client.embedded.x` → `client.embedded`; the package itself is the front door."""
    parts = module.split(".")[1:]
    if not parts:
        return "front door"
    return ".".join(parts[:2]) if ".".join(parts[:2]) in MAY_IMPORT else parts[0]


def module_name(path: Path, root: Path, package: str) -> str:
    parts = (package, *path.relative_to(root).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name: str) -> bool:
    return (SOURCES / f"{name}.py").exists() or (SOURCES / name).is_dir()


def imports(path: Path) -> set[str]:
    """Every module of ours that the file names in an import, wherever the import stands."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{path}: write absolute imports"
            found.add(node.module)
            if node.module == "cellstore":
                found |= {
                    f"cellstore.{a.name}"
                    for a in node.names
                    if (SOURCES / f"{a.name}.py").exists() or (SOURCES / a.name).is_dir()
                }
                found.discard("cellstore")
    return {name for name in found if name.split(".")[0] in ("cellstore", "cellstore_kernel")}


FILES = sorted(SOURCES.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCES)))
def test_imports_point_left(path: Path) -> None:
    own = layer(module_name(path, SOURCES, "cellstore"))
    if own in EVERYTHING:
        return
    allowed = MAY_IMPORT[own] | {own, own.split(".")[0]}
    for target in imports(path):
        if target.startswith("cellstore_kernel"):
            assert own in ("front door", "client", "server"), f"{path} reaches into the kernel half"
            continue
        names = {layer(target), layer(target).split(".")[0], target.removeprefix("cellstore.")}
        assert names & allowed, f"{own} may not import {target}"


@pytest.mark.parametrize("path", sorted(KERNEL.rglob("*.py")), ids=lambda p: p.name)
def test_the_kernel_half_knows_the_client_and_the_front_door_only(path: Path) -> None:
    allowed = GROUND | {"front door", "client", "functions", "deploy", "schema", "values"}
    for target in imports(path):
        if target.split(".")[0] == "cellstore":
            assert layer(target).split(".")[0] in allowed, target


def test_a_worker_never_imports_the_committer() -> None:
    seen: set[str] = set()
    todo = ["cellstore.runtime.worker"]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        base = SOURCES.joinpath(*name.split(".")[1:])
        file = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
        if file.exists() and file != SOURCES / "__init__.py":
            todo.extend(imports(file))
    assert "cellstore.transaction.committer" not in seen


PACKAGES = sorted(
    path.parent for root in (SOURCES, KERNEL) for path in root.glob("**/__init__.py") if path.parent != SOURCES
)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_the_docstring_of_a_package_names_every_module_in_it(package: Path) -> None:
    told = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    words = set(re.findall(r"\w+", told))
    assert {path.stem for path in package.glob("*.py")} - {"__init__"} - words == set()
