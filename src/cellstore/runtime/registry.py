"""The host's table of deployed functions.

The truth is the `_modules` table, one row per unit, of which a module may have several (see `deploy.merge`); this is its
decoded form, replaced module by module when a deploy commits. A path is `module:name`. Clients spell it in other ways
too; `canonical` knows them.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cellstore.deploy.unit import Unit
from cellstore.errors import CallerError, DeployError, MethodNotAllowed, NotFound
from cellstore.schema.arguments import FunctionSpec
from cellstore.web import METHODS

_SUFFIXES = (".py", ".ipynb", ".js", ".ts")

Environment = tuple[str, str]
"""(python executable, working directory): functions of one environment share workers."""


def canonical(path: str) -> str:
    """`path` as `module:name`: drops a file suffix; a missing name is `default`."""
    module, colon, name = path.rpartition(":")
    if not colon:
        module, name = path, "default"
    for suffix in _SUFFIXES:
        module = module.removesuffix(suffix)
    return f"{module}:{name}"


@dataclass(frozen=True, slots=True)
class Deployed:
    """One function that can be called."""

    path: str
    kind: str  # query, mutation, action or http
    internal: bool
    spec: FunctionSpec
    module: str
    hash: str  # of this function's code; part of cache keys
    environment: Environment


@dataclass(frozen=True, slots=True)
class Change:
    """What a deploy did to a module's functions, by path."""

    added: list[str]
    changed: list[str]
    removed: list[str]


class Registry:
    """Deployed functions by path, units by module."""

    def __init__(self) -> None:
        self.units: dict[str, list[Unit]] = {}  # oldest first
        self._functions: dict[str, Deployed] = {}

    def change(self, module: str, units: Iterable[Unit]) -> Change:
        """What having the module consist of `units` would change."""
        old = self._of_module(module)
        new = {function.path: function for unit in units for function in _functions(unit)}
        return Change(
            added=sorted(new.keys() - old.keys()),
            changed=sorted(path for path in new.keys() & old.keys() if new[path].hash != old[path].hash),
            removed=sorted(old.keys() - new.keys()),
        )

    def install(self, module: str, units: list[Unit]) -> None:
        """Have the module consist of `units`; of none, it is gone."""
        for path in self._of_module(module):
            del self._functions[path]
        self.units.pop(module, None)
        if units:
            self.units[module] = units
        self._functions.update({each.path: each for unit in units for each in _functions(unit)})

    def unit_of(self, path: str) -> Unit | None:
        """The unit that brought the function at a canonical path."""
        units = self.units.get(path.rpartition(":")[0], ())
        return next((unit for unit in units if any(spec.path == path for spec in unit.functions)), None)

    def find(self, path: str, kind: str | None = None, *, internal: bool = True) -> Deployed:
        """The function at `path`.

        Errors: NotFound, the same for a missing function and an internal one the caller may not reach; CallerError
        naming the real kind when it is not a `kind`.
        """
        function = self._functions.get(path) or self._functions.get(canonical(path)) or self._dotted(path)
        if function is None or (function.internal and not internal):
            raise NotFound(self._missing(path, internal), kind="function", name=path)
        if kind is not None and function.kind != kind:
            raise CallerError(f"{function.path} is a {function.kind}, not a {kind}", code="WrongFunctionKind")
        return function

    def route(self, method: str, path: str) -> Deployed:
        """The HTTP action for a request: an exact path, else the longest prefix. Errors: NotFound, MethodNotAllowed."""
        wanted = "GET" if method == "HEAD" else method
        fitting = [
            (not route["prefix"], len(route["path"]), function)
            for function in self._functions.values()
            if (route := function.spec.route) is not None and wanted in route["methods"] and _fits(route, path)
        ]
        if not fitting and (others := [each for each in METHODS if self.has_route(each, path)]):
            raise MethodNotAllowed(f"{path} is not for {method}, but for {', '.join(others)}", kind="route", name=path)
        if not fitting:
            raise NotFound(f"No matching routes found for {method} {path}", kind="route", name=path)
        return max(fitting, key=lambda each: each[:2])[2]

    def has_route(self, method: str, path: str) -> bool:
        """Whether there is an HTTP action for such a request."""
        routes = (function.spec.route for function in self._functions.values())
        return any(route and method in route["methods"] and _fits(route, path) for route in routes)

    def check_routes(self, module: str, units: Iterable[Unit]) -> None:
        """Errors: DeployError when one of the routes of `units` is taken, in them or by another module."""
        others = [function.spec for function in self._functions.values() if function.module != module]
        taken: dict[tuple[str, bool, str], str] = {}
        for spec in [*others, *(spec for unit in units for spec in unit.functions)]:
            route = spec.route or {"methods": ()}
            for method in route["methods"]:
                key = (route["path"], route["prefix"], method)
                if key in taken:
                    raise DeployError(
                        f"{taken[key]} answers {method} {key[0]} already; {spec.path} cannot, too. If that is gone from its "
                        f"notebook: %cellstore drop {taken[key]}"
                    )
                taken[key] = spec.path

    def all(self) -> list[Deployed]:
        """Every function, by path."""
        return [self._functions[path] for path in sorted(self._functions)]

    def listing(self) -> list[dict[str, Any]]:
        """Every function as plain data."""
        return [
            {
                "path": function.path,
                "kind": function.kind,
                "visibility": function.spec.visibility,
                "args": function.spec.args,
                "returns": function.spec.returns,
                "doc": function.spec.doc,
                "module": function.module,
                "hash": function.hash,
                **self._source(function),
            }
            for function in self.all()
        ]

    def _source(self, function: Deployed) -> dict[str, str]:
        unit = self.unit_of(function.path)
        if unit is None:
            return {"origin": "", "cell": ""}
        return {"origin": unit.origin, "cell": unit.cell_ids.get(function.spec.name, "")}

    def environments(self) -> set[Environment]:
        """The environments some function needs."""
        return {function.environment for function in self._functions.values()}

    def _of_module(self, module: str) -> dict[str, Deployed]:
        return {path: function for path, function in self._functions.items() if function.module == module}

    def _dotted(self, path: str) -> Deployed | None:
        module, dot, name = path.rpartition(".")
        return self._functions.get(f"{module}:{name}") if dot and ":" not in path else None

    def _missing(self, path: str, internal: bool) -> str:
        """Strangers do not learn what there is, and Convex's tools know the words."""
        if not internal:
            return f"Could not find public function for {path!r}: deploy it, or look at the name (module:function)"
        known = sorted(self._functions)
        some = ", ".join(known[:8]) + (" …" if len(known) > 8 else "") if known else "none yet"
        return f"there is no function {path!r}; deployed: {some}"


def _fits(route: dict[str, Any], path: str) -> bool:
    return path.startswith(route["path"]) if route["prefix"] else path == route["path"]


def _functions(unit: Unit) -> Iterable[Deployed]:
    environment = (unit.python, unit.cwd)
    for spec in unit.functions:
        name = spec.path.rpartition(":")[2]
        yield Deployed(
            path=spec.path,
            kind=spec.kind,
            internal=spec.visibility == "internal",
            spec=spec,
            module=unit.module,
            hash=unit.hashes.get(name) or unit.hashes.get(spec.path) or unit.hash,
            environment=environment,
        )


def unit_row(unit: Unit, size_max: int) -> dict[str, Any]:
    """`unit` as a document of `_modules`; the unit itself compressed.

    Errors: DeployError when it is larger than a document may be.
    """
    packed = base64.b85encode(zlib.compress(json.dumps(unit.to_json()).encode(), 6)).decode()
    if len(packed) > size_max - 4096:
        raise DeployError(
            f"the module {unit.module!r} is {len(packed):,} bytes packed and the limit is {size_max - 4096:,}: a "
            "function captures a large value; store that value in a table and read it inside the function"
        )
    return {"path": unit.module, "key": unit.key, "hash": unit.hash, "unit": packed}


def unit_of_row(row: dict[str, Any]) -> Unit:
    """The unit that `unit_row` packed."""
    return Unit.from_json(json.loads(zlib.decompress(base64.b85decode(row["unit"]))))
