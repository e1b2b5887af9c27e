"""Whose code is whose: what every process of this environment can import, and what only this one has.

installed   the standard library, site-packages, editable installs: travels as a name
the user's  `__main__`, cells, files next to the notebook, anything executed by hand: travels by value
"""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

_OURS = ("cellstore", "cellstore_kernel")
_SINGLETONS = (("os", "environ"), ("random", "_inst"), ("secrets", "_sysrand"), ("numpy.random.mtrand", "_rand"))
"""Objects that every process has one of, and that functions imported by name belong to: `from random import random`."""


def is_installed_module(name: str | None) -> bool:
    """Whether a worker of the same environment can import the module, wherever it is started."""
    if name is None or name == "__main__":
        return False
    root = name.partition(".")[0]
    if root in _OURS or root in sys.builtin_module_names or root in sys.stdlib_module_names:
        return True
    module = sys.modules.get(name)
    if module is None:
        return False
    file = getattr(module, "__file__", None)
    if file is None:
        paths = list(getattr(module, "__path__", []))  # a namespace package
        return all(is_installed_file(path) for path in paths) if paths else not _is_by_hand(module)
    return is_installed_file(file)


def _is_by_hand(module: ModuleType) -> bool:
    return getattr(module, "__spec__", None) is None


@lru_cache(maxsize=4096)
def is_installed_file(file: str) -> bool:
    """Whether a file, or a directory, belongs to the interpreter, a library or an editable install."""
    return (os.path.abspath(file) + os.sep).startswith(_installed_roots())  # noqa: PTH100 — a Path would resolve symlinks


def leads_to_installed(directory: str) -> bool:
    """Whether a directory is on the way to what is installed: whoever resolves links looks at every one."""
    return any(root.startswith(directory.rstrip(os.sep) + os.sep) for root in _installed_roots())


def is_named(value: Any) -> bool:
    """Whether a function or class can be imported under its own name by a worker."""
    module = getattr(value, "__module__", None)
    qualname = getattr(value, "__qualname__", None)
    if not isinstance(module, str) or qualname is None or not is_installed_module(module):
        return False
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found is value


def singleton_name(value: Any) -> tuple[str, str] | None:
    """(module, attribute) of an object of which a worker has its own, to be used there instead of a copy."""
    for module, name in _SINGLETONS:
        home = sys.modules.get(module)
        if home is not None and getattr(home, name, None) is value:
            return module, name
    return _name_at_home(value)


def _name_at_home(value: Any) -> tuple[str, str] | None:
    """An object that the module of its class has under a name: `dataclasses.MISSING`, which is compared by identity."""
    module = type(value).__module__
    if not isinstance(module, str) or module == "builtins" or not is_installed_module(module):
        return None
    name = _named_objects(module).get(id(value))
    return (module, name) if name is not None and getattr(sys.modules[module], name, None) is value else None


@lru_cache(maxsize=256)
def _named_objects(module: str) -> dict[int, str]:
    """Identity to name, of what a module holds; to be checked, since modules change."""
    return {id(value): name for name, value in list(vars(sys.modules[module]).items())}


def path_entries() -> list[str]:
    """Directories of `sys.path` that this process has beyond the interpreter's own: a worker needs them, too."""
    entries = (os.path.abspath(entry or os.curdir) for entry in sys.path)  # noqa: PTH100
    unknown = (entry for entry in entries if not is_installed_file(entry) and Path(entry).is_dir())
    return list(dict.fromkeys(entry for entry in unknown if not _is_machinery(entry)))


def _is_machinery(entry: str) -> bool:
    """Entries that tools put there for this process only, and that differ from one to the next."""
    return "ipykernel_launcher" in entry or entry.startswith(sys.prefix + os.sep + "bin")


@lru_cache(maxsize=1)
def _installed_roots() -> tuple[str, ...]:
    named = ("stdlib", "platstdlib", "purelib", "platlib")
    directories = {sysconfig.get_path(name) for name in named}
    directories |= {*site.getsitepackages(), site.getusersitepackages()}
    directories |= {os.path.dirname(os.__file__)}  # the standard library behind a virtual environment  # noqa: PTH120
    directories |= {os.path.abspath(directory) for directory in directories if directory}  # noqa: PTH100
    editable = {entry for directory in directories for entry in _editable(directory)} | set(_mapped())
    return tuple(sorted(each.rstrip(os.sep) + os.sep for each in directories | editable if each))


def _editable(directory: str) -> set[str]:
    """Source directories that `.pth` files of a site-packages directory add."""
    found = set()
    for file in Path(directory).glob("*.pth") if Path(directory).is_dir() else ():
        try:
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            entry = line.strip()
            if entry and not entry.startswith(("#", "import ", "import\t")) and Path(directory, entry).is_dir():
                found.add(os.path.abspath(Path(directory, entry)))  # noqa: PTH100
    return found


def _mapped() -> set[str]:
    """Source directories that setuptools' editable finders know."""
    found = set()
    for name, module in list(sys.modules.items()):
        mapping = getattr(module, "MAPPING", None) if name.startswith("__editable__") else None
        if isinstance(mapping, dict):
            found |= {str(path) for path in mapping.values()}
    return found
