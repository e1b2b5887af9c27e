"""Modules next to the notebook that functions import by themselves, while they run.

    def shape(ctx):
        import geometry              the worker finds geometry.py where the kernel would, and keeps it

They do not travel; but what is in their files counts as what the function does, and so does what those import in turn. A
file that changed makes another version, which is shipped, and a worker imports such modules anew when it gets a version.

Cost       a look at each file's time and size, for functions that import such modules
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from cellstore.deploy.origins import path_entries


def files_imported(names: Iterable[str]) -> dict[str, str]:
    """File name to text, of the modules of these names that lie next to the notebook, and of those they import."""
    pending = list(dict.fromkeys(names))
    directories = [each for each in path_entries() if not _is_library(each)] if pending else []
    found: dict[str, str] = {}
    while pending:
        name = pending.pop()
        for file in _files_of(name, directories):
            if file not in found:
                stat = Path(file).stat()
                found[file], inner = _read(file, stat.st_mtime_ns, stat.st_size)
                pending += inner
    return found


def forget_imported(files: Iterable[str]) -> None:
    """Have this process import the modules of these files anew."""
    gone = set(files)
    for name, module in list(sys.modules.items()):
        if gone and getattr(module, "__file__", None) in gone:
            del sys.modules[name]


@functools.lru_cache(maxsize=64)
def _is_library(directory: str) -> bool:
    """Whether packages were installed there, beyond the interpreter's own places."""
    return any(Path(directory).glob("*.dist-info"))


def _files_of(name: str, directories: list[str]) -> Iterator[str]:
    """The files that importing a dotted name executes."""
    root = name.partition(".")[0]
    if root in sys.stdlib_module_names:
        return
    for directory in directories:
        place, found = Path(directory), False
        for part in name.split("."):
            for file in (place / f"{part}.py", place / part / "__init__.py"):
                if file.is_file():
                    found = True
                    yield str(file)
            place /= part
        if found:
            return


@functools.lru_cache(maxsize=256)
def _read(file: str, _mtime_ns: int, _size: int) -> tuple[str, tuple[str, ...]]:
    """(text, names of what it imports)."""
    text = Path(file).read_text(encoding="utf-8", errors="replace")
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return text, ()
    return text, tuple(dict.fromkeys(name for node in ast.walk(tree) for name in _imported(node, file)))


def _imported(node: ast.AST, file: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (each.name for each in node.names)
    elif isinstance(node, ast.ImportFrom):
        package = ".".join(_package_of(file, node.level)) if node.level else ""
        base = ".".join(part for part in (package, node.module) if part)
        yield from (f"{base}.{each.name}" if base else each.name for each in node.names)


def _package_of(file: str, level: int) -> list[str]:
    """The package a relative import of a file starts from."""
    place, parts = Path(file).parent, list[str]()
    for _ in range(level - 1):
        place = place.parent
    while (place / "__init__.py").is_file():
        parts.insert(0, place.name)
        place = place.parent
    return parts
