"""Functions ready to be called: the worker's side of a deployed module.

A unit is loaded whole, so that all its functions share one globals dict, and replaced whole.
"""

from __future__ import annotations

import difflib
import inspect
import os
import site
import sys
import sysconfig
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cellstore.deploy.beside import forget_imported
from cellstore.deploy.load import load
from cellstore.deploy.unit import Unit
from cellstore.errors import CallerError, NotFound, ValidationError
from cellstore.runtime.leaks import State, Watch
from cellstore.runtime.registry import canonical
from cellstore.schema.arguments import FunctionSpec
from cellstore.schema.explain import TableOf
from cellstore.schema.types import validator

Check = Callable[[Any, str, TableOf | None], Any]
"""Value, where it stands, how to name an id's table: the value in its stored form, or ValidationError."""


@dataclass(slots=True)
class Loaded:
    """One callable function with its checks."""

    path: str
    kind: str
    module: str
    unit: str  # the key of the unit that brought it
    fn: Callable[..., Any]
    is_async: bool
    spec: FunctionSpec
    check_args: Check
    check_result: Check | None
    state: State | None = None  # what a call must leave as it found it; None: nobody looks
    cells: Mapping[str, str] = field(default_factory=dict)


class LoadedModules:
    """The units this process can run.

    `guarded`: queries and mutations must leave the state of their module as they found it; see `leaks`.
    `private`: nothing else runs in this process, so that modules next to the notebook may be imported anew.
    Order      `install` and `forget` between calls only
    """

    def __init__(self, *, guarded: bool = False, private: bool = False) -> None:
        self._guarded = guarded
        self._private = private or guarded
        self.cells: dict[str, str] = {}  # file name to "Cell In[n]", of every loaded unit
        self._units: dict[str, Unit] = {}
        self._functions: dict[str, Loaded] = {}
        self._sources: set[str] = set()
        self._roots: tuple[str, ...] = ()

    def install(self, unit: Unit) -> None:
        """Load `unit`, replacing the one of its key. Raises whatever its module level raises; then nothing changed."""
        for entry in unit.path_entries:
            if entry not in sys.path:
                sys.path.append(entry)
        if self._private:
            forget_imported(unit.imports)
        callables = load(unit)
        loaded = [_loaded(unit, spec, callables) for spec in unit.functions]
        if self._guarded:
            watch = Watch()
            for function in loaded:
                if function.kind in ("query", "mutation"):
                    function.state, function.cells = watch.state_of(function.path, function.fn), unit.cells
        self.forget(unit.key)
        self._units[unit.key] = unit
        self._functions.update((function.path, function) for function in loaded)
        self._learn_files()

    def forget(self, key: str) -> None:
        """That unit's functions are gone."""
        self._units.pop(key, None)
        self._functions = {path: loaded for path, loaded in self._functions.items() if loaded.unit != key}

    def find(self, path: str, kind: str | None = None) -> Loaded:
        """The function at `path`. Errors: NotFound; CallerError naming its real kind."""
        loaded = self._functions.get(path) or self._functions.get(canonical(path))
        if loaded is None:
            raise NotFound(
                f"there is no function {path!r} in this environment{_nearest(path, self._functions)}; "
                "a function of another Python environment can be called from an action only",
                kind="function",
                name=path,
            )
        if kind is not None and loaded.kind != kind:
            raise CallerError(f"{loaded.path} is a {loaded.kind}, not a {kind}", code="WrongFunctionKind")
        return loaded

    def stored_form(self, path: str, args: dict[str, Any]) -> dict[str, Any]:
        """Arguments as they are stored and sent: a `datetime` as text, where the function at `path` declares it.

        Those of a function that is not known here, or that do not fit it, stay as they are: its own call refuses them.
        """
        try:
            stored: dict[str, Any] = self.find(path).check_args(args, "", None)
        except (NotFound, ValidationError):
            return args
        return stored

    def asked(self, kind: str, path: str, args: dict[str, Any]) -> dict[str, Any]:
        """What an action asks for (see `context.Ask`), with the arguments in it as they are stored."""
        if kind == "schedule":
            return {**args, "args": self.stored_form(path, args["args"])}
        return self.stored_form(path, args) if kind in ("query", "mutation", "action") else args

    def is_users(self, filename: str) -> bool:
        """Whether a frame of this file is the user's own."""
        if filename in self._sources:
            return True
        return filename.startswith(self._roots) and not filename.startswith(_LIBRARIES)

    def _learn_files(self) -> None:
        units = self._units.values()
        self._sources = {name for unit in units for name in unit.sources}
        self.cells = {name: cell for unit in units for name, cell in unit.cells.items()}
        roots = {root for unit in units for root in (unit.cwd, *unit.path_entries) if root}
        self._roots = tuple(root.rstrip(os.sep) + os.sep for root in roots)


def _nearest(path: str, known: Iterable[str]) -> str:
    """What may have been meant."""
    near = difflib.get_close_matches(path, known, n=3, cutoff=0.5)
    if near:
        return f"; did you mean {' or '.join(map(repr, near))}"
    some = sorted(known)
    return f", which has {', '.join(some[:8])}{' …' if len(some) > 8 else ''}" if some else ""


def _loaded(unit: Unit, spec: FunctionSpec, callables: dict[str, Any]) -> Loaded:
    name = spec.path.rpartition(":")[2]
    fn = callables[name] if name in callables else callables[spec.path]
    fn = getattr(fn, "fn", fn)  # a decorated handle stands for its function
    return Loaded(
        path=spec.path,
        kind=spec.kind,
        module=unit.module,
        unit=unit.key,
        fn=fn,
        is_async=inspect.iscoroutinefunction(fn),
        spec=spec,
        check_args=validator(spec.args, "argument").check,
        check_result=None if spec.returns is None else validator(spec.returns).check,
    )


def _library_directories() -> tuple[str, ...]:
    """Where other people's code lives, this package included."""
    paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    paths |= {*site.getsitepackages(), site.getusersitepackages()}
    paths.add(str(Path(__file__).resolve().parent.parent))
    return tuple(path.rstrip(os.sep) + os.sep for path in paths if path)


_LIBRARIES = _library_directories()
