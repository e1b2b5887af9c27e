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
import marshal
import re
from collections.abc import Iterator
from types import CodeType, FunctionType, GetSetDescriptorType, MemberDescriptorType, MethodType, ModuleType
from typing import Any

from cellstore.deploy.beside import files_imported
from cellstore.deploy.captures import (
    CACHED,
    KEYED,
    attributes_of,
    compared_by,
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
from cellstore.deploy.source.text import NoSource, is_literal
from cellstore.deploy.source.written import pickled
from cellstore.schema.definition import Table

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_OF_LIBRARIES = ("__pydantic", "model_", "_abc", "__abstract")
_DESCRIPTORS = (MemberDescriptorType, GetSetDescriptorType)
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
        elif isinstance(value, KEYED):
            self._say("keyed")
            self.add(compared_by(value))
        elif type(value) in (list, tuple, dict, set, frozenset):
            self._add_parts(value)
        else:
            self._add_object(value)

    def _add_parts(self, value: Any) -> None:
        self._say(type(value).__name__, len(value))
        if is_literal(value):
            self._sha.update(marshal.dumps(value, 0))  # the same bytes for equal values, in the twinkling of an eye
            return
        if isinstance(value, set | frozenset):
            self._say(sorted(_alone(each) for each in value))
        elif isinstance(value, dict):
            for key, each in value.items():
                self.add(key)
                self.add(each)
        else:
            for each in value:
                self.add(each)

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
        for name, value in (*function_reads(function), *attributes_of(function)):
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
            if not is_machinery(name) and not name.startswith(_OF_LIBRARIES):
                if isinstance(cls, enum.EnumMeta) and (name.startswith("_") or name in cls.__members__):
                    continue  # said already
                self._add_member(name, member)

    def _add_member(self, name: str, member: Any) -> None:
        self._say(name, type(member).__name__)
        inner = list(functions_in(member))
        if inner:
            for each in inner:
                self.add(each)
        elif name == "__annotations__":
            self._say([(key, _hint_text(hint)) for key, hint in member.items()])
        elif (not name.startswith("__") and not isinstance(member, _DESCRIPTORS)) or _is_plain(member):
            self.add(member)

    def _add_module(self, module: ModuleType) -> None:
        self._say("module", module.__name__)
        if not is_installed_module(module.__name__):
            for name, value in sorted(module_members(module)):
                self._say(name)
                self.add(value)

    def _add_librarys(self, value: Any) -> None:
        """An instance of an installed class: as it is pickled, or by what it holds of the user's."""
        try:
            self._say(pickled(value))
        except NoSource:
            for part in _parts_of_pickle(value):
                self.add(part)

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
            self._add_librarys(value)
            return
        if isinstance(value, list | tuple | dict | set | frozenset):
            self._add_parts(value)
        state = getattr(value, "__dict__", None)
        if isinstance(state, dict):
            self.add(dict(sorted(state.items())))
        for slot in _slots(type(value)):
            self.add(getattr(value, slot, None))


def _parts_of_pickle(value: Any) -> list[Any]:
    """What pickle makes an object of: a call, a state, items. Its own objects, so that none is hashed as met again."""
    from cellstore.deploy.pickling import made_again

    try:
        taken = made_again(value) or value.__reduce_ex__(4)
    except Exception:  # noqa: BLE001 — any class may refuse; it counts by its type
        return []
    return [taken] if isinstance(taken, str) else [[*each] if isinstance(each, Iterator) else each for each in taken]


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
