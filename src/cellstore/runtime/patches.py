"""What a function assigns to on modules and classes of libraries.

    math.tau2 = 6.3     del json.JSONEncoder.default     setattr(pd.DataFrame, "shout", shout)
    setattr(module, name, value)

The first kind is read from the bytecode, because the text may be elsewhere by now: a chain of names that ends in STORE_ATTR.
Only chains that begin with a global, a variable of a closure or an import of the function itself are followed. Of names that
are made up as it runs, `setattr` and `delattr` keep account themselves: in a worker, of calls from the user's own lines;
not of modules that are being imported, which happens only once.

Cost       a tenth of a microsecond for each call of `setattr`, whoever calls
"""

from __future__ import annotations

import builtins
import dis
import functools
import importlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import CodeType, ModuleType
from typing import Any

from cellstore.deploy.origins import is_installed_module, is_named
from cellstore.runtime.traces import is_importing

_ABSENT = object()
_SILENT = frozenset({"CACHE", "EXTENDED_ARG", "NOP", "PRECALL", "PUSH_NULL", "RESUME"})
_VARIABLES = ("LOAD_GLOBAL", "LOAD_FAST", "LOAD_DEREF", "LOAD_NAME")
_SETTERS = (["setattr"], ["delattr"])
_SETS = re.compile(r"(set|use|enable|disable|register|unregister|configure|init|reset)(_|[A-Z]|$)|add(_|[A-Z])")

Chain = list[str]


@dataclass(slots=True, frozen=True, eq=False)
class Patched:
    """An attribute of a library's module or class."""

    owner: Any
    attribute: str

    def get(self) -> Any:
        """What stands there now."""
        return vars(self.owner).get(self.attribute, _ABSENT)

    def came_or_went(self, before: Any) -> bool:
        """Whether it was not there when `get` found `before`, or is not now."""
        return (before is _ABSENT) is not (self.get() is _ABSENT)

    def put(self, value: Any) -> None:
        """Have stand there what `get` found earlier."""
        if value is not _ABSENT:
            setattr(self.owner, self.attribute, value)
        elif self.get() is not _ABSENT:
            delattr(self.owner, self.attribute)


@dataclass(slots=True, frozen=True, eq=False)
class Assigned:
    """One that `setattr` or `delattr` was asked for: what stood there before, and the line that asked."""

    name: str
    place: Patched
    before: Any
    code: CodeType
    line: int


ASSIGNED: list[Assigned] = []
"""In the order asked. Whoever begins a call remembers how many there are, and takes those behind at its end."""


def watch_setters() -> None:
    """Have `setattr` and `delattr` keep account in `ASSIGNED`. Once, in a worker of queries and mutations."""
    for name in ("setattr", "delattr"):
        setattr(builtins, name, staticmethod(_accounting(getattr(builtins, name))))


def _accounting(real: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(real)
    def accounting(owner: Any, attribute: str, *value: Any) -> None:
        if isinstance(owner, ModuleType | type) and _is_of_a_library(owner):
            frame = sys._getframe(1)
            if not (is_installed_module(frame.f_globals.get("__name__")) or is_importing(frame)):
                place = Patched(owner, attribute)
                name = f"{owner.__module__}.{owner.__qualname__}" if isinstance(owner, type) else owner.__name__
                ASSIGNED.append(Assigned(f"{name}.{attribute}", place, place.get(), frame.f_code, frame.f_lineno))
        real(owner, attribute, *value)

    return accounting


def patches(code: CodeType, names: Mapping[str, Any]) -> Iterator[tuple[str, Patched]]:
    """(dotted name, place) of each. `names`: what the globals and closure variables of the code are."""
    assigned = list(_assigned(code))
    imports = dict(_imports(code)) if assigned else {}
    for chain, attribute in assigned:
        owner = _resolved(chain, names, imports)
        if _is_of_a_library(owner):
            yield ".".join([*chain, attribute]), Patched(owner, attribute)


def set_packages(code: CodeType, names: Mapping[str, Any]) -> Iterator[str]:
    """The libraries of which the code calls a function that sets something: `xml.etree.ElementTree.register_namespace`.

    `names`: as for `patches`.
    """
    for name, value in names.items():
        if _SETS.match(getattr(value, "__name__", name)) and callable(value) and is_named(value):
            yield str(value.__module__).partition(".")[0]
    chains = [chain for chain in _chains(code) if _SETS.match(chain[-1])]
    imports = dict(_imports(code)) if chains else {}
    for chain in chains:
        root = _resolved(chain[:1], names, imports)
        if isinstance(root, ModuleType) and is_installed_module(root.__name__):
            yield root.__name__.partition(".")[0]


def _chains(code: CodeType) -> Iterator[Chain]:
    """Names with the attributes that are looked up on them, two names at least."""
    chain: Chain = []
    for step in _steps(code):
        if step.opname in ("LOAD_ATTR", "LOAD_METHOD") and chain:
            chain = [*chain, step.argval]
            continue
        if len(chain) > 1:
            yield chain
        named = step.opname.startswith(_VARIABLES)
        chain = [step.argval[-1] if isinstance(step.argval, tuple) else step.argval] if named else []


def _assigned(code: CodeType) -> Iterator[tuple[Chain, str]]:
    """(names that lead to the owner, attribute)."""
    before: Chain = []
    chain: Chain = []
    kept: Chain = []  # of `owner.attribute += …`
    for step in _steps(code):
        op, argument = step.opname, step.argval
        if op.startswith(_VARIABLES):
            before, chain = chain, [argument[-1] if isinstance(argument, tuple) else argument]
        elif op == "LOAD_ATTR" and chain:
            chain = [*chain, argument]
        elif op == "COPY":
            kept = chain
        elif op == "SWAP":
            chain = kept
        else:
            named = op == "LOAD_CONST" and isinstance(argument, str) and before in _SETTERS
            if chain and (named or op in ("STORE_ATTR", "DELETE_ATTR")):
                yield chain, argument
            before, chain = [], []


def _imports(code: CodeType) -> Iterator[tuple[str, tuple[str, str | None]]]:
    """Local variable to (module, name in it) of the imports inside the code. `import a.b` gives the variable a."""
    module, name, top = "", None, True
    for step in _steps(code):
        match step.opname:
            case "IMPORT_NAME":
                module, name, top = step.argval, None, True
            case "IMPORT_FROM":
                name, top = step.argval, False
            case "STORE_FAST" | "STORE_DEREF" if module:
                yield step.argval, (module.partition(".")[0] if top else module, name)
                name = None
            case "POP_TOP" | "SWAP" | "LOAD_CONST":
                pass
            case _:
                module = ""


def _resolved(chain: Chain, names: Mapping[str, Any], imports: Mapping[str, tuple[str, str | None]]) -> Any:
    root, *attributes = chain
    if root in imports:
        module, name = imports[root]
        try:
            value: Any = importlib.import_module(module)
        except ImportError:
            return _ABSENT
        attributes = attributes if name is None else [name, *attributes]
    else:
        value = names.get(root, vars(builtins).get(root, _ABSENT))
    for attribute in attributes:
        if not isinstance(value, ModuleType | type):
            return _ABSENT
        value = vars(value).get(attribute, _ABSENT)
    return value


def _is_of_a_library(value: Any) -> bool:
    if isinstance(value, ModuleType):
        return is_installed_module(value.__name__)
    return isinstance(value, type) and is_named(value)


def _steps(code: CodeType) -> Iterator[dis.Instruction]:
    return (step for step in dis.get_instructions(code) if step.opname not in _SILENT)
