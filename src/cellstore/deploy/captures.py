"""What a function reads besides its arguments: the globals, closure variables and defaults it names, and theirs in turn.

    open_tasks ──▶ helper ──▶ conn          a capture: value, and the way to it ("open_tasks", "helper", "conn")
             ╰──▶ LIMIT

Walked are functions and classes of the user's, and modules next to the notebook. Installed code is a name and ends the
walk; so do handles and tables, which travel as references. What remains at the leaves is data.

Cost       one visit per object, however many functions share it
"""

from __future__ import annotations

import contextlib
import dis
import functools
import gc
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from cellstore.deploy.origins import is_installed_module, is_named, singleton_name
from cellstore.functions import Function, FunctionReference
from cellstore.schema.definition import Table, TableDefinition

Chain = tuple[str, ...]

CACHED = type(functools.lru_cache(lambda: None))
"""What `functools.cache` makes of a function."""

MANAGERS = (contextlib._GeneratorContextManager, contextlib._AsyncGeneratorContextManager)
"""What functions with `contextlib.contextmanager` on top give; as decorators they make another for every call."""

KEYED = type(functools.cmp_to_key(max))
"""What `functools.cmp_to_key` makes of a function."""

_PARTS_MAX = 10_000
_LEAVES = {type(None), bool, int, float, str, bytes}
_GLOBAL_READS = ("LOAD_GLOBAL", "LOAD_NAME")
_CLASS_MACHINERY = {"__dict__", "__weakref__", "__module__", "__qualname__", "__firstlineno__", "__static_attributes__"}


@dataclass(frozen=True, slots=True)
class Capture:
    """A piece of data that a function carries along."""

    chain: Chain  # names from the function to the variable
    value: Any


@dataclass(slots=True)
class Captures:
    """All that a module's functions reach."""

    data: list[Capture] = field(default_factory=list)
    functions: list[FunctionType] = field(default_factory=list)
    classes: list[type] = field(default_factory=list)
    modules: list[ModuleType] = field(default_factory=list)  # next to the notebook

    def files(self) -> list[str]:
        """The files that the walked functions were compiled from."""
        return list(dict.fromkeys(function.__code__.co_filename for function in self.functions))


def explore(functions: Iterable[tuple[str, Any]]) -> Captures:
    """Everything that these (name, function) pairs reach."""
    found = Captures()
    seen: dict[int, Any] = {}  # keeps what it has seen, so that no identity is used twice
    pending: list[tuple[Chain, Any]] = [((name,), fn) for name, fn in functions]
    while pending:
        chain, value = pending.pop(0)
        if id(value) not in seen:
            seen[id(value)] = value
            pending += [((*chain, name), inner) for name, inner in _step(found, chain, value)]
    return found


def _step(found: Captures, chain: Chain, value: Any) -> Iterable[tuple[str, Any]]:
    """Note `value`; what to look at next."""
    if is_reference(value):
        return ()
    if isinstance(value, ModuleType):
        if is_installed_module(value.__name__):
            return ()
        found.modules.append(value)
        return module_members(value)
    if isinstance(value, FunctionType):
        if is_named(value):
            return ()
        registry = dispatched(value)
        if registry is not None:
            return [part for each in registry.items() for part in code_in(each)]
        found.functions.append(value)
        return [*function_reads(value), *attributes_of(value)]
    if isinstance(value, type):
        if is_named(value):
            return ()
        found.classes.append(value)
        return class_members(value)
    if isinstance(value, MethodType):
        return [("__func__", value.__func__), ("__self__", value.__self__)]
    if isinstance(value, functools.partial):
        return [("func", value.func), ("args", value.args), ("keywords", value.keywords)]
    if isinstance(value, CACHED):
        return [("__wrapped__", value.__wrapped__)]
    if isinstance(value, KEYED):
        return [("mycmp", compared_by(value))]
    if isinstance(value, MANAGERS):
        return [("func", value.func), ("args", value.args), ("kwds", value.kwds)]
    if singleton_name(value) is not None or (callable(value) and is_named(value)):
        return ()
    found.data.append(Capture(chain, value))
    return code_in(value)


def is_reference(value: Any) -> bool:
    """Whether a value travels as a name of the store's own: a handle, or a table."""
    return isinstance(value, Function | FunctionReference) or (isinstance(value, type) and is_table(value))


def is_table(value: type) -> bool:
    """Whether a class is a table's definition."""
    return issubclass(value, Table)


def table_definition(table: Any) -> TableDefinition:
    """What a table's class defines."""
    definition: TableDefinition = table.__cellstore__
    return definition


def dispatched(function: FunctionType) -> Mapping[type, Any] | None:
    """Class to implementation, of what `functools.singledispatch` made; None for other functions.

    Its closure is machinery: a cache by weak references, which is made again wherever the function is.
    """
    if function.__code__.co_qualname != "singledispatch.<locals>.wrapper":
        return None
    registry: Mapping[type, Any] | None = getattr(function, "registry", None)
    return registry


def compared_by(key: Any) -> Any:
    """The function that a key compares with: nothing but the garbage collector knows it."""
    return next(each for each in gc.get_referents(key) if each is not type(key))


def function_reads(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """(name, value) of what a function reads: closure, globals, defaults, and what it wraps."""
    yield from closure_reads(function)
    for name in global_names(function.__code__):
        if name in function.__globals__:
            yield name, function.__globals__[name]
    yield from defaults_of(function)


def closure_reads(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """(name, value) of the captured variables that have a value."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not assigned yet
            continue


def defaults_of(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """(parameter, value) of the defaults."""
    code = function.__code__
    defaults = function.__defaults__ or ()
    yield from zip(code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount], defaults, strict=True)
    yield from (function.__kwdefaults__ or {}).items()


def attributes_of(function: FunctionType) -> list[tuple[str, Any]]:
    """(attribute, value) of what was set on a function."""
    return list(function.__dict__.items())


def class_members(cls: type) -> Iterator[tuple[str, Any]]:
    """(name, value) of what a class consists of: its bases, and the functions and values in its body."""
    for base in cls.__bases__:
        yield base.__name__, base
    if isinstance(cls, type) and type(cls) is not type:
        yield type(cls).__name__, type(cls)
    for name, value in list(vars(cls).items()):
        for inner in functions_in(value):
            yield name, inner


def functions_in(member: Any) -> Iterator[Any]:
    """The functions behind a class's attribute."""
    if isinstance(member, FunctionType | type):
        yield member
    elif isinstance(member, staticmethod | classmethod):
        yield from functions_in(member.__func__)
    elif isinstance(member, property):
        yield from (each for each in (member.fget, member.fset, member.fdel) if each is not None)
    elif isinstance(member, functools.cached_property | functools.partialmethod):
        yield member.func
    elif isinstance(member, functools.singledispatchmethod):
        yield member.dispatcher
    elif hasattr(member, "wrapped"):  # pydantic's validators
        yield from functions_in(member.wrapped)


def module_members(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """(name, value) of a module's own names."""
    return ((name, value) for name, value in list(vars(module).items()) if not name.startswith("__"))


def code_in(value: Any) -> Iterator[tuple[str, Any]]:
    """(name, function, class or module) that a piece of data holds, its own class included; a bounded look."""
    pending: list[Any] = [value]
    seen: set[int] = set()
    while pending and len(seen) < _PARTS_MAX:
        part = pending.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, FunctionType | type | ModuleType | MethodType | functools.partial | CACHED):
            yield str(getattr(part, "__name__", type(part).__name__)), part
        elif isinstance(part, list | tuple | set | frozenset):
            pending += [each for each in part if type(each) not in _LEAVES]
        elif isinstance(part, dict):
            pending += [each for each in (*part.keys(), *part.values()) if type(each) not in _LEAVES]
        elif not is_named(type(part)) and not (callable(part) and is_named(part)):
            yield type(part).__name__, type(part)
            pending.append(getattr(part, "__dict__", None))


def is_machinery(name: str) -> bool:
    """Attributes of a class that say nothing about what it does."""
    return name in _CLASS_MACHINERY


@functools.lru_cache(maxsize=8192)
def global_names(code: CodeType) -> tuple[str, ...]:
    """The globals that a code object, or code inside it, reads. Attribute names do not count."""
    names = {each.argval: None for each in dis.get_instructions(code) if each.opname in _GLOBAL_READS}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= dict.fromkeys(global_names(constant))
    return tuple(names)


def submodules_named(functions: Iterable[FunctionType]) -> list[str]:
    """Modules of installed packages that the functions name on their package, where `import package.module` was executed."""
    packages: dict[str, set[str]] = {}  # with the names in the functions that name them
    for function in functions:
        for _, value in function_reads(function):
            if isinstance(value, ModuleType) and hasattr(value, "__path__") and is_installed_module(value.__name__):
                packages.setdefault(value.__name__, set()).update(_all_names(function.__code__))
    packages.pop("cellstore", None)  # it is there
    return sorted(
        each
        for package, names in packages.items()
        for each in list(sys.modules)
        if each.startswith(f"{package}.") and names.issuperset(each[len(package) + 1 :].split("."))
    )


@functools.lru_cache(maxsize=8192)
def _all_names(code: CodeType) -> frozenset[str]:
    return frozenset(code.co_names).union(*(_all_names(each) for each in code.co_consts if isinstance(each, CodeType)))


@functools.lru_cache(maxsize=8192)
def imported_names(code: CodeType) -> tuple[str, ...]:
    """The dotted names of modules that a code object, or code inside it, may import when it runs."""
    names: dict[str, None] = {}
    module = ""
    for each in dis.get_instructions(code):
        if each.opname == "IMPORT_NAME" and each.argval:
            module = each.argval
            names[module] = None
        elif each.opname == "IMPORT_FROM" and module:
            names[f"{module}.{each.argval}"] = None
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= dict.fromkeys(imported_names(constant))
    return tuple(names)
