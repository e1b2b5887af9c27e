"""One pickle for a whole module, by cloudpickle, with these differences.

Handles and tables travel as references. Code keeps the name of its file, which tracebacks need. What would travel but be
useless or dangerous there (an open file that silently becomes its text, another lock, a name that only this process
knows) is refused, with the object at hand. What is made by calls of the standard library and pickled by none of it
(`functools.singledispatch`, `NewType`, context variables) is made again. Members of an enum keep their attributes. The
output is bounded while it is written, so that a captured frame of a gigabyte is not pickled before it is found too large.
"""

from __future__ import annotations

import enum
import functools
import importlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar
from types import CodeType, FunctionType, ModuleType
from typing import Any, NewType, ParamSpec, TypeVarTuple

import cloudpickle

from cellstore.deploy.captures import CACHED, KEYED, MANAGERS, compared_by, dispatched, is_table, table_definition
from cellstore.deploy.origins import is_installed_module, is_named, singleton_name
from cellstore.deploy.refuse import why_not
from cellstore.deploy.standalone import table_class
from cellstore.schema.definition import Table

UNNAMED = "<dynamic-code>"  # what cloudpickle of late writes for the file of any code

_NO_FILE = "<dynamic-code>"  # what cloudpickle puts in the place of every file name
_PROTOCOL = 5
_MEMBER_MACHINERY = {"_value_", "_name_", "__objclass__", "_sort_order_"}


class Refused(Exception):
    """An object that may not travel, and why."""

    def __init__(self, value: Any, reason: str) -> None:
        self.value, self.reason = value, reason


class TooLarge(Exception):
    """More bytes than allowed."""


class _Bounded(io.BytesIO):
    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > self._limit:
            raise TooLarge
        return super().write(data)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, _PROTOCOL)
        self.last: Any = None  # the object it was at when it failed

    def reducer_override(self, obj: Any) -> Any:
        self.last = obj
        if isinstance(obj, type) and is_table(obj) and obj is not Table:
            return table_class, (obj.__name__, table_definition(obj).to_json())
        if isinstance(obj, ModuleType) and type(obj) is not ModuleType and is_installed_module(obj.__name__):
            return importlib.import_module, (obj.__name__,)  # some modules are instances of classes of their own
        if isinstance(obj, CodeType):
            make, parts = self.dispatch_table[CodeType](obj)
            return make, tuple(obj.co_filename if part == UNNAMED else part for part in parts)
        if isinstance(obj, CodeType) and obj.co_filename != _NO_FILE:
            return code_of_file, (obj.replace(co_filename=_NO_FILE), obj.co_filename)
        if isinstance(obj, CACHED):  # by itself it would travel as a name that only this process knows
            return cached, (obj.__wrapped__, obj.cache_parameters())
        if type(obj) is functools.cached_property:  # it holds a lock, in Python 3.11
            return cached_attribute, (obj.func, obj.attrname)
        name = singleton_name(obj)
        if name is not None:
            return singleton, name
        reason = why_not(obj)
        if reason is not None:
            raise Refused(obj, reason)
        made = made_again(obj)
        if made is None:
            made = super().reducer_override(obj)
        if isinstance(obj, enum.EnumMeta) and isinstance(made, tuple) and len(made) == 6:
            return _with_aliases(obj, made)
        return self._by_itself(obj) if made is NotImplemented else made

    def _by_itself(self, obj: Any) -> Any:
        """How an object pickles itself. Errors: Refused when that is a name which only this process knows."""
        if type(obj) in self.dispatch_table or isinstance(obj, type | FunctionType):
            return NotImplemented
        made = obj.__reduce_ex__(_PROTOCOL)
        if isinstance(made, str) and not is_installed_module(getattr(obj, "__module__", None) or "builtins"):
            raise Refused(obj, f"it is known by its name only ({made}), and only here")
        return made


def made_again(obj: Any) -> tuple[Any, ...] | None:
    """The call that makes such an object, where pickle knows none."""
    if isinstance(obj, FunctionType):
        registry = None if is_named(obj) else dispatched(obj)
        return None if registry is None else (dispatching, (), list(registry.items()), None, None, dispatch_to)
    if type(obj) is functools.singledispatchmethod:  # from 3.13 on it holds a cache of this process
        return dispatching_method, (obj.func, obj.dispatcher)
    if isinstance(obj, KEYED):
        return functools.cmp_to_key, (compared_by(obj),)
    if isinstance(obj, MANAGERS):
        return type(obj), (obj.func, obj.args, obj.kwds)
    if isinstance(obj, ContextVar):
        return context_variable, (obj.name, *_default_of(obj))
    if isinstance(obj, NewType):
        return None if is_named(obj) else (NewType, (obj.__name__, obj.__supertype__))
    if isinstance(obj, ParamSpec | TypeVarTuple):
        return type(obj), (obj.__name__,)
    return None


def _default_of(variable: ContextVar[Any]) -> tuple[Any, ...]:
    try:
        return (Context().run(variable.get),)
    except LookupError:
        return ()


def _with_aliases(cls: enum.EnumMeta, made: tuple[Any, ...]) -> tuple[Any, ...]:
    """How cloudpickle makes an enum, with the members that have a second name, and with what members know."""
    make, (bases, name, qualname, _, *rest), (attributes, slots), _, _, set_class = made
    members = {each: member.value for each, member in dict[str, Any](cls.__members__).items()}
    attributes = {key: value for key, value in attributes.items() if key not in members}
    state = set_class, (attributes, slots), _attributes_of_members(cls)
    return make, (bases, name, qualname, members, *rest), state, None, None, set_enum


def _attributes_of_members(cls: enum.EnumMeta) -> dict[str, dict[str, Any]]:
    """What the members of an enum were given by their `__init__`: it does not run when the class is put together again."""
    found = {}
    for name, member in dict[str, Any](cls.__members__).items():
        own = {key: value for key, value in vars(member).items() if key not in _MEMBER_MACHINERY}
        if own:
            found[name] = own
    return found


def dump(value: Any, limit: int) -> bytes:
    """The pickle. Errors: TooLarge; Refused with the object that cannot travel and the reason."""
    file = _Bounded(limit)
    pickler = _Pickler(file)
    try:
        pickler.dump(value)
    except (Refused, TooLarge):
        raise
    except RecursionError:
        raise Refused(value, "it is nested too deeply") from None
    except Exception as error:
        if isinstance(error.__cause__, RecursionError):  # cloudpickle's words for it
            raise Refused(value, "it is nested too deeply") from None
        raise Refused(pickler.last, f"it cannot be pickled ({type(error).__name__}: {error})") from error
    return file.getvalue()


@contextmanager
def by_value(modules: list[ModuleType]) -> Iterator[None]:
    """Have functions and classes of these modules travel whole, for as long as the block lasts."""
    registered = []
    try:
        for module in modules:
            if module.__name__ not in cloudpickle.list_registry_pickle_by_value():
                cloudpickle.register_pickle_by_value(module)
                registered.append(module)
        yield
    finally:
        for module in registered:
            cloudpickle.unregister_pickle_by_value(module)


def singleton(module: str, name: str) -> Any:
    """The object of that name, as this process has it."""
    return getattr(importlib.import_module(module), name)


def cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    """`function` behind an empty `functools.lru_cache`."""
    return functools.lru_cache(**parameters)(function)


def cached_attribute(function: Callable[[Any], Any], name: str | None) -> Any:
    """`function` as a cached property that knows its name: nobody tells it, where a class is put together again."""
    made = functools.cached_property(function)
    if name is not None:
        made.__set_name__(object, name)
    return made


def dispatching() -> Any:
    """A function that `dispatch_to` completes: what it dispatches to may name it."""

    def nothing(*_: Any) -> None:
        """Stands in until then."""

    return functools.singledispatch(nothing)


def dispatch_to(function: Any, registry: list[tuple[type, Callable[..., Any]]]) -> None:
    """Have `function` dispatch as another one did."""
    for cls, implementation in registry:
        function.register(cls, implementation)
        if cls is object:
            functools.update_wrapper(function, implementation)


def dispatching_method(function: Any, dispatcher: Any) -> Any:
    """`function` as a method that dispatches as `dispatcher` does."""
    made = functools.singledispatchmethod(function)
    made.dispatcher = dispatcher
    return made


def context_variable(name: str, *default: Any) -> ContextVar[Any]:
    """A context variable with its default, or without."""
    return ContextVar(name, default=default[0]) if default else ContextVar(name)


def set_enum(cls: Any, state: tuple[Any, Any, dict[str, dict[str, Any]]]) -> None:
    """The state of an enum as cloudpickle sets it, and that of its members."""
    set_class, of_class, of_members = state
    set_class(cls, of_class)
    for name, attributes in of_members.items():
        vars(cls[name]).update(attributes)


def code_of_file(code: CodeType, file: str) -> CodeType:
    """`code` as it was compiled from `file`."""
    return code.replace(co_filename=file)
