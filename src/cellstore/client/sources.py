"""What there is to deploy: a module, a file, a directory of files, or handles, as names of registered modules.

A file is executed once, here, under its stem; its decorators register what it defines under that name.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from cellstore.errors import DeployError


def modules_of(what: Any) -> list[str]:
    """The registered modules that `what` stands for; None stands for all.

    Errors: DeployError when it is no such thing, cannot be executed, or defines nothing.
    """
    from cellstore.functions import Function, registry

    if what is None:
        return sorted(registry.modules())
    if isinstance(what, Function):
        return [what.module]
    if isinstance(what, list | tuple):
        return sorted({module for each in what for module in modules_of(each)})
    if isinstance(what, ModuleType):
        return _defined_in(what)
    if not isinstance(what, str | os.PathLike):
        raise DeployError(
            f"{what!r:.60} cannot be deployed: give a module, a .py file, a directory, functions, or nothing for all"
        )
    path = Path(what)
    if not path.is_dir():
        return _defined_in(load_file(path))
    return sorted({module for file in files_of(path) for module in _defined_in(load_file(file))})


def files_of(path: Path) -> list[Path]:
    """A file itself, or the files of a directory that say they define something; others are there to be imported."""
    if not path.is_dir():
        return [path]
    files = sorted(path.rglob("*.py"))
    return [file for file in files if "cellstore" in file.read_text(encoding="utf-8", errors="replace")]


def load_file(path: Path) -> ModuleType:
    """Execute a Python file as a module named by its stem. Errors: DeployError, with the file's own error as cause."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise DeployError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(path.stem)
    sys.modules[path.stem] = module  # dataclasses and pickling look a module up while it loads
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's file raises is the reason
        if before is None:
            del sys.modules[path.stem]
        else:
            sys.modules[path.stem] = before
        refusal = DeployError(f"{path} could not be executed: {type(error).__name__}: {getattr(error, 'msg', error)}")
        refusal.add_note(_lines_of(error))
        raise refusal from error
    return module


def _lines_of(error: Exception) -> str:
    """The user's own lines on the way to an error."""
    from cellstore.deploy.origins import is_installed_file

    entries = traceback.extract_tb(error.__traceback__)
    own = [each for each in entries if not (each.filename.startswith("<") or is_installed_file(each.filename))]
    lines = traceback.StackSummary.from_list(own).format()
    if isinstance(error, SyntaxError):  # whose own place is where it could not be read
        lines += traceback.format_exception_only(error)[:-1]
    return "".join(lines).rstrip("\n")


def _defined_in(module: ModuleType) -> list[str]:
    from cellstore.functions import Function, registry
    from cellstore.schema.registry import module_of

    found = {value.module for value in vars(module).values() if isinstance(value, Function)}
    own = module_of(module.__name__, getattr(module, "__file__", None))
    if own is not None and registry.tables(own):
        found.add(own)
    if not found:
        raise DeployError(
            f"{module.__name__} defines no functions or tables of cellstore; decorate functions with @cs.query, @cs.mutation or "
            "@cs.action"
        )
    return sorted(found)
