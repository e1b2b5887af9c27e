"""Versions of functions: a hash of what a function does, the same in every kernel and after every re-execution.

Hashed are the bytecode with its constants and names, the defaults, and whatever the function captures, in turn. Not
hashed are file names, line numbers and identities, so moving a function in its cell, or packing it in another kernel,
changes nothing. Pickled bytes would not do: they hold random class ids and the kernel's process number.

    functions, classes of the user's    by what they consist of       installed ones     by name
    plain values                        by value                      handles, tables    by path, by name
    other objects                       by class and state            modules            by name; local ones by content

Limits     an object whose state cannot be seen counts by its type alone
"""

from __future__ import annotations

import enum
import hashlib
import pickle
import re
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from cellstore.deploy.beside import files_imported
from cellstore.deploy.captures import (
    CACHED,
    dispatched,
    function_reads,
    functions_in,
    imported_names,
    is_machinery,
    is_reference,
    is_table,
    module_members,
    table_definition,
)
from cellstore.deploy.origins import is_installed_module, is_named, singleton_name
from cellstore.schema.definition import Table

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_SCALARS = (type(None), bool, int, float, complex, str, bytes)


def function_hash(function: Any) -> str:
    """The version of a function: 32 hex digits."""
    hasher = _Hasher()
    hasher.add(function)
    return hasher.digest()


class _Hasher:
    """Feeds a walk over values to one hash; an object met again is told by its number, so cycles end."""

    def __init__(self) -> None:
        self._sha = hashlib.sha256()
        self._numbers: dict[int, int] = {}
        self._kept: list[Any] = []

    def digest(self) -> str:
        return self._sha.hexdigest()[:32]

    def _say(self, *words: object) -> None:
        for word in words:
            data = repr(word).encode("utf-8", "surrogatepass")
            self._sha.update(b"%d:" % len(data) + data)

    def add(self, value: Any) -> None:
        if isinstance(value, _SCALARS) and type(value) in _SCALARS:
            self._say(type(value).__name__, value)
            return
        if isinstance(value, tuple | frozenset | CodeType):  # which of these are one object is up to the compiler
            self._add_new(value)
            return
        number = self._numbers.get(id(value))
        if number is not None:
            self._say("again", number)
            return
        self._numbers[id(value)] = len(self._numbers)
        self._kept.append(value)
        self._add_new(value)

    def _add_new(self, value: Any) -> None:
        if is_reference(value):
            self._say("store", _reference_name(value))
        elif isinstance(value, CodeType):
            self._add_code(value)
        elif isinstance(value, FunctionType):
            self._add_function(value)
        elif isinstance(value, type):
            self._add_class(value)
        elif isinstance(value, ModuleType):
            self._add_module(value)
        elif isinstance(value, MethodType):
            self._say("method")
            self.add(value.__func__)
            self.add(value.__self__)
        elif isinstance(value, CACHED):
            self._say("cached", value.cache_parameters())
            self.add(value.__wrapped__)
        elif isinstance(value, list | tuple):
            self._say(type(value).__name__, len(value))
            for each in value:
                self.add(each)
        elif isinstance(value, dict):
            self._say(type(value).__name__, len(value))
            for key, each in value.items():
                self.add(key)
                self.add(each)
        elif isinstance(value, set | frozenset):
            self._say(type(value).__name__, sorted(_alone(each) for each in value))
        else:
            self._add_object(value)

    def _add_code(self, code: CodeType) -> None:
        self._say("code", code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        self._say(code.co_flags, code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_name)
        self._say(getattr(code, "co_exceptiontable", b""))
        for constant in code.co_consts:
            self.add(constant)

    def _add_function(self, function: FunctionType) -> None:
        if is_named(function):
            self._say("named", function.__module__, function.__qualname__)
            return
        registry = dispatched(function)
        if registry is not None:
            self._say("dispatch", function.__name__)
            self.add(list(registry.items()))
            return
        self._say("function", function.__name__)
        self._add_code(function.__code__)
        for text in sorted(files_imported(imported_names(function.__code__)).values()):
            self._say("imports", text)
        for name, value in function_reads(function):
            self._say(name)
            self.add(value)

    def _add_class(self, cls: type) -> None:
        if is_named(cls):
            self._say("named", cls.__module__, cls.__qualname__)
            return
        self._say("class", cls.__qualname__, len(cls.__bases__))
        for base in cls.__bases__:
            self.add(base)
        if issubclass(cls, enum.Enum):
            self._say("enum")
            self.add([(member.name, member.value) for member in cls])
        for name, field in sorted(getattr(cls, "__pydantic_fields__", {}).items()):
            self._say(name, _ADDRESS.sub("", repr(field)))
        for name, member in sorted(vars(cls).items()):
            if not is_machinery(name) and not name.startswith(("__pydantic", "_abc", "__abstract")):
                self._add_member(name, member)

    def _add_member(self, name: str, member: Any) -> None:
        self._say(name, type(member).__name__)
        inner = list(functions_in(member))
        if inner:
            for each in inner:
                self.add(each)
        elif name == "__annotations__":
            self._say([(key, _hint_text(hint)) for key, hint in member.items()])
        elif _is_plain(member):
            self.add(member)

    def _add_module(self, module: ModuleType) -> None:
        self._say("module", module.__name__)
        if not is_installed_module(module.__name__):
            for name, value in sorted(module_members(module)):
                self._say(name)
                self.add(value)

    def _add_object(self, value: Any) -> None:
        name = singleton_name(value)
        if name is None and callable(value) and is_named(value):
            name = (value.__module__, value.__qualname__)
        if name is not None:
            self._say("named", *name)
            return
        owner = getattr(value, "__self__", None)
        if singleton_name(owner) is not None:  # a method in C of one
            self._say("method", value.__name__)
            self.add(owner)
            return
        self._say("object")
        self.add(type(value))
        if is_named(type(value)):
            try:
                self._say(pickle.dumps(value, 4))
                return
            except Exception:  # noqa: BLE001 — any class may refuse; its parts are looked at instead
                pass
        state = getattr(value, "__dict__", None)
        if isinstance(state, dict):
            self.add(dict(sorted(state.items())))
        for slot in _slots(type(value)):
            self.add(getattr(value, slot, None))


def _reference_name(value: Any) -> str:
    if not isinstance(value, type):
        return str(value.path)
    return "" if value is Table else table_definition(value).name


def _alone(value: Any) -> str:
    hasher = _Hasher()
    hasher.add(value)
    return hasher.digest()


def _slots(cls: type) -> list[str]:
    names: list[str] = []
    for base in cls.__mro__:
        slots = vars(base).get("__slots__", ())
        names += [slots] if isinstance(slots, str) else list(slots)
    return [name for name in names if name not in ("__dict__", "__weakref__")]


def _is_plain(value: Any) -> bool:
    """Data all the way down. Other attributes of a class are machinery, with addresses in them."""
    if isinstance(value, list | tuple | set | frozenset):
        return all(_is_plain(each) for each in value)
    if isinstance(value, dict):
        return all(_is_plain(key) and _is_plain(each) for key, each in value.items())
    return isinstance(value, _SCALARS) or (isinstance(value, type) and (is_table(value) or is_named(value)))


def _hint_text(hint: Any) -> str:
    if isinstance(hint, type) and not hasattr(hint, "__origin__"):
        return f"{hint.__module__}.{hint.__qualname__}"
    return _ADDRESS.sub("", str(hint))
