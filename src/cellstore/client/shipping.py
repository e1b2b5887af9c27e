"""Which functions the store has not seen yet in their present form.

A function is shipped with its whole module when it is first called and again when it changed. Packing a module costs
milliseconds, so a call first compares what it would pack: the function objects and, through the names they read, the
constants, helpers and captured variables of their module. All by identity: a rebound name is noticed, and a list, dict,
set or object of the user's changed in place, by its first parts. A frame or an array changed in place is not
(deploy again, or leave it to the notebook, which packs after every cell).

One mistake does not hold up the rest: without the functions that cannot travel, or with the tables as they were when the
store refuses the new ones, everything else is shipped, and then the refusal is raised. What served before serves on.

Cost:      a call of known functions compares some hundred references; nothing is packed, nothing is sent.
Invariant: `_seen` holds the compared objects themselves, so an identity is never reused by another object.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellstore.deploy.unit import Unit
from cellstore.errors import DeployError, ValidationError

log = logging.getLogger(__name__)

REPORTS_MAX = 64  # kept for whoever asks
PARTS_MAX = 1000  # of captured data, compared before each call


class Shipper:
    """What one database has been sent by this process."""

    def __init__(self, deploy: Callable[[Unit], dict[str, Any]]) -> None:
        self._deploy = deploy
        self._seen: dict[str, list[Any]] = {}
        self._hashes: dict[str, str] = {}
        self._served: dict[str, list[Any]] = {}  # by path: the objects of the form that is deployed
        self._good: dict[str, Any] = {}  # by path: the handle in that form
        self._tables: dict[str, list[Any]] = {}  # by module: the tables as the store took them
        self._refused: dict[str, list[Any]] = {}  # by module: what was compared when something in it was refused
        self._reports: deque[tuple[str, dict[str, Any]]] = deque(maxlen=REPORTS_MAX)
        self._lock = threading.RLock()

    def ready(self, handle: Any) -> None:
        """Have the store hold `handle` in its present form. One that was taken away is defined again by being called.

        A module is shipped whole; when it is refused for the sake of another function or table, what was deployed
        before serves on, and so may this one if it is unchanged; outside of cells, the log says so. Errors: as `ensure`.
        """
        from cellstore.functions import registry

        with self._lock:
            if registry.find(handle.path) is None:
                registry.add(handle)
            refused = self._refused.get(handle.module)
            if refused is not None and self._serves(handle) and same_objects(_parts(handle.module), refused):
                return
            try:
                self.ensure(handle.module)
            except (DeployError, ValidationError) as refusal:
                self._refused[handle.module] = _parts(handle.module)
                if not self._serves(handle):
                    raise
                if registry.cell is None or not handle.from_cell:  # else the cell that defined it shows it
                    log.warning("%s is served as it was before: %s", handle.module, refusal.message)

    def ensure(self, module: str) -> dict[str, Any] | None:
        """Ship the registered module if anything about it changed; the store's report, None when nothing did.

        In the report `only_here` says why the module is bound to this version of Python, if it is.
        Errors: DeployError naming what cannot travel; ValidationError and others as the store finds them.
        """
        from cellstore.functions import registry

        with self._lock:
            parts = _parts(module)
            if same_objects(parts, self._seen.get(module)):
                return None
            report = self.ship(module, list(registry.handles(module)), registry.tables(module))
            self._seen[module] = parts
            return report

    def ship(self, module: str, handles: list[Any], tables: list[Any]) -> dict[str, Any] | None:
        """Pack and deploy, unless the very same unit was deployed before; with tables defined again it is told again, for
        somebody may have dropped them. Errors: as `ensure`, when the rest is shipped."""
        with self._lock:
            try:
                report = self._send(module, handles, tables)
            except DeployError as refusal:
                fit, refusals = self._fit(module, handles)
                if not refusals:
                    refusals = self._ship_singly(module, handles, tables)
                else:
                    self._send(module, fit, tables)
                if len(refusals) > 1:
                    raise DeployError("\n".join(refusals)) from refusal
                raise
            except ValidationError:
                self._send(module, handles, self._tables.get(module, []))
                raise
            self._refused.pop(module, None)
            return report

    def _fit(self, module: str, handles: list[Any]) -> tuple[list[Any], list[str]]:
        """Those that can travel, and why each of the others cannot. The form that is deployed goes in the place of one
        that cannot.

        Errors: DeployError when a function that is deployed can go along in no form: leaving it out would end it.
        """
        from cellstore.deploy.pack import pack

        fit, refusals = [], []
        for handle in handles:
            try:
                pack(module, [handle], [])
            except DeployError as refusal:
                refusals.append(refusal.message)
                handle = self._good.get(handle.path)
                if handle is not None:
                    pack(module, [handle], [])
            fit.append(handle)
        return [handle for handle in fit if handle is not None], refusals

    def _ship_singly(self, module: str, handles: list[Any], tables: list[Any]) -> list[str]:
        """All of them can be packed, and the store refuses them together: send what it takes of those that changed, one
        after the other, beside those as they are deployed; why it does not take the others."""
        standing = {handle.path: self._good.get(handle.path) for handle in handles}
        changed = [handle for handle in handles if not self._serves(handle)]
        refusals = []
        for handle in changed if len(changed) > 1 else []:
            trial = {**standing, handle.path: handle}
            try:
                self._send(module, [each for each in trial.values() if each is not None], tables)
            except DeployError as refusal:
                refusals.append(f"{handle.name}: {refusal.message}")
            else:
                standing = trial
        self._send(module, [each for each in standing.values() if each is not None], tables)
        return refusals

    def _send(self, module: str, handles: list[Any], tables: list[Any]) -> dict[str, Any] | None:
        from cellstore.deploy.pack import pack

        unit = pack(module, handles, tables)
        if self._hashes.get(module) == unit.hash and same_objects(tables, self._tables.get(module)):
            return None
        report = self._deploy(unit)
        if unit.source_missing:
            report["only_here"] = only_here(unit)
        self._reports.append((module, report))
        self._hashes[module], self._tables[module] = unit.hash, tables
        for handle in handles:
            handle.version = unit.hashes.get(handle.name, "")
        self._good.update((handle.path, handle) for handle in handles)
        self._served.update((handle.path, list(watched([handle.fn]))) for handle in handles)
        return report

    def reports(self) -> list[tuple[str, dict[str, Any]]]:
        """(module, the store's report) of what was shipped since this was asked last."""
        with self._lock:
            taken = list(self._reports)
            self._reports.clear()
            return taken

    def forget_table(self, name: str) -> None:
        """A table was dropped: modules that define it are no longer deployed as they are."""
        with self._lock:
            for module, tables in self._tables.items():
                if any(table.name == name for table in tables):
                    self._seen.pop(module, None)
                    self._hashes.pop(module, None)

    def _serves(self, handle: Any) -> bool:
        """Does the store hold this very form?"""
        return same_objects(list(watched([handle.fn])), self._served.get(handle.path))


def only_here(unit: Unit) -> str:
    """That a unit has no text as a whole, why, and what that means."""
    return (
        f"{unit.module} runs under Python {unit.stamp} only, and not when the server gets another version: "
        f"{'; '.join(unit.source_missing)}. Define what it names at the top of a cell or a file"
    )


def _parts(module: str) -> list[Any]:
    """All that a change of the module would replace."""
    from cellstore.functions import registry

    handles: list[Any] = list(registry.handles(module))
    functions = watched(handle.fn for handle in handles)
    return [*functions, *(handle.crons for handle in handles), *registry.tables(module)]


def watched(functions: Iterable[Any]) -> Iterator[Any]:
    """The objects a change would replace: functions, what they read by name, defaults and captured variables; and so on in
    the user's own functions, classes and modules, which may be changed where they stand, as reloading does, and in data."""
    visited: set[int] = set()
    pending, left = list(functions), PARTS_MAX
    while pending:
        thing = pending.pop()
        if id(thing) in visited:
            continue
        visited.add(id(thing))
        yield thing
        kind = type(thing)
        if kind in _SCALARS:
            continue
        if isinstance(thing, _CODE):
            pending += _inside_code(thing)
        elif left > 0:
            parts = [*islice(_inside_data(thing, kind), left)]
            left -= len(parts)
            pending += parts


_CODE = FunctionType | ModuleType | type
_SCALARS = {type(None), bool, int, float, str, bytes, CodeType}


def _inside_code(code: Any) -> list[Any]:
    """What a function of the user's reads, what a class or a module consists of."""
    from cellstore.deploy.origins import is_installed_module

    if is_installed_module(code.__name__ if isinstance(code, ModuleType) else code.__module__):
        return []
    if isinstance(code, FunctionType):
        return [*_reads(code), *((code.__wrapped__,) if hasattr(code, "__wrapped__") else ())]
    members = list(vars(code).items())
    return [each for name, each in members if not name.startswith("__") or isinstance(each, FunctionType)]


def _inside_data(value: Any, kind: type) -> Iterable[Any]:
    """What may be replaced in a value without the value being another. It may be large."""
    if kind is dict:
        return chain(value, value.values())
    if kind in (list, tuple, set):
        found: Iterable[Any] = value
        return found
    if kind is functools.partial:
        return [value.func, value.args, value.keywords]
    if kind.__module__ == "__main__":
        return list(getattr(value, "__dict__", {}).values())
    wrapped = getattr(value, "__wrapped__", None)  # of a cache, a static method
    return [] if wrapped is None else [wrapped]


def _reads(function: FunctionType) -> Iterator[Any]:
    from cellstore.deploy.captures import global_names

    yield function.__code__
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a variable not assigned yet
            yield cell
    for name in global_names(function.__code__):
        if name in function.__globals__:
            yield function.__globals__[name]


def same_objects(left: list[Any], right: list[Any] | None) -> bool:
    """The very same objects in the same order."""
    return right is not None and len(left) == len(right) and all(a is b for a, b in zip(left, right, strict=True))
