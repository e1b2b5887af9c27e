"""Objects as statements: what can be written out is, what cannot is made by calls and then told its state, as pickle does."""

from __future__ import annotations

import copyreg
import enum
from collections.abc import Iterator
from types import CellType, ModuleType
from typing import Any, TypeVar

from cellstore.deploy.captures import CACHED, is_reference
from cellstore.deploy.origins import is_named, singleton_name
from cellstore.deploy.source.statements import Statements
from cellstore.deploy.source.text import PLAIN, NoSource, is_literal
from cellstore.deploy.source.written import UNREADABLE, content, imported, pickled, reference, written

_NEW, _NEW_BY_NAME = copyreg.__newobj__, copyreg.__newobj_ex__  # type: ignore[attr-defined]
_UNNAMED_TYPES = {type(None): "None", type(...): "...", type(NotImplemented): "NotImplemented"}


class ObjectWriter(Statements):
    """Containers, variables of closures, instances."""

    def module(self, module: ModuleType) -> str:
        """An expression for a module."""
        raise NotImplementedError

    def known(self, value: Any) -> str | None:
        """What every process of this environment has, and what can be written out."""
        if type(value) in PLAIN:
            return written(value)
        if is_reference(value):
            return reference(value)
        if isinstance(value, ModuleType):
            return self.module(value)
        if isinstance(value, type) and value in _UNNAMED_TYPES:
            return f"type({_UNNAMED_TYPES[value]})"
        name = singleton_name(value)
        if name is not None:
            return imported(*name)
        owner = getattr(value, "__self__", None)
        if singleton_name(owner) is not None:
            return f"{self.known(owner)}.{value.__name__}"
        if callable(value) and is_named(value):
            return imported(value.__module__, value.__qualname__)
        return None

    def container(self, wish: str, value: Any) -> str:
        name = self.claim(wish, value)
        if is_literal(value):
            return self.say(name, value, f"{name} = {written(value)}")
        self.say(name, value, f"{name} = {type(value).__name__}()")
        parts = [*value.keys(), *value.values()] if isinstance(value, dict) else [*value]

        def fill() -> None:
            shown = self.display(wish, value)
            filled = f"{name}[:] = {shown}" if isinstance(value, list) else f"{name}.clear(); {name}.update({shown})"
            self.lines.append(filled)  # a class that registered itself while it was made, is there but once

        self.later(value, f"`{wish}`", parts, fill)
        return name

    def variable(self, wish: str, cell: CellType) -> str:
        """A variable that closures share."""
        name = self.claim(wish, cell)
        value = content(cell)
        if value is UNREADABLE or type(value) in PLAIN:
            return self.say(name, cell, f"{name} = __cellstore_cell__({'' if value is UNREADABLE else written(value)})")
        self.say(name, cell, f"{name} = __cellstore_cell__()")

        def fill() -> None:
            self.lines.append(f"{name}.cell_contents = {self.expression(wish, value)}")

        self.later(cell, f"`{wish}`", [value], fill)
        return name

    def object(self, wish: str, value: Any) -> str:
        """What its class can make again."""
        if isinstance(value, CACHED):
            inner = self.expression(f"{wish}_uncached", value.__wrapped__)
            made = f"{imported('functools', 'lru_cache')}(**{value.cache_parameters()!r})({inner})"
            return self.made_of(wish, value, made, [value.__wrapped__])
        if isinstance(value, enum.Enum) and value.name in type(value).__members__:
            return f"{self.part(wish, type(value))}[{value.name!r}]"
        if isinstance(value, property | staticmethod | classmethod):
            parts = [value.fget, value.fset, value.fdel] if isinstance(value, property) else [value.__func__]
            shown = ", ".join(self.part(wish, each) for each in parts)
            return self.made_of(wish, value, f"{type(value).__name__}({shown})", parts)
        if isinstance(value, TypeVar):
            bound = f", bound={self.part(wish, value.__bound__)}" if value.__bound__ is not None else ""
            limits = "".join(f", {self.part(wish, each)}" for each in value.__constraints__)
            return self.made_of(wish, value, f"{imported('typing', 'TypeVar')}({value.__name__!r}{limits}{bound})", ())
        try:
            return self.made_of(wish, value, f"__cellstore_value__({pickled(value)!r})", ())
        except NoSource as reason:
            return self._taken_apart(wish, value, reason)

    def _taken_apart(self, wish: str, value: Any, reason: NoSource) -> str:
        """As pickle does it: a call, then a state and items."""
        from cellstore.deploy.pickling import made_again

        try:
            taken = made_again(value) or value.__reduce_ex__(4)
        except Exception:  # noqa: BLE001 — any class may refuse, in its own way
            raise reason from None
        if isinstance(taken, str):
            raise NoSource(f"it is known by its name only ({taken}), and only there")
        make, args, *told = taken
        keywords: dict[str, Any] = {}
        if make is _NEW_BY_NAME:
            kind, args, keywords = args
            args = (kind, *args)
        if make not in (_NEW, _NEW_BY_NAME):
            self.complete(make, args)
        elif "__new__" in vars(args[0]):
            self.complete(args[0])
        called = "__cellstore_new__" if make in (_NEW, _NEW_BY_NAME) else self.part(wish, make)
        given = [self.part(wish, each) for each in args]
        given += [f"{key}={self.part(wish, each)}" for key, each in keywords.items()]
        parts = [type(value), make, *args, *keywords.values()]
        name = self.made_of(wish, value, f"{called}({', '.join(given)})", parts)
        self._tell(wish, name, value, *told)
        return name

    def _tell(
        self,
        wish: str,
        name: str,
        value: Any,
        state: Any = None,
        items: Any = None,
        pairs: Any = None,
        setter: Any = None,
    ) -> None:
        """What an object is told once it is there."""
        listed, mapped = [*(items or ())], dict(pairs or ())

        def tell() -> None:
            if state is not None:
                called = self.expression(wish, setter) if setter is not None else "__cellstore_set__"
                self.lines.append(f"{called}({name}, {self._state(wish, state)})")
            if listed:
                self.lines.append(f"{name}.extend({self.display(wish, listed)})")
            if mapped:
                self.lines.append(f"__cellstore_items__({name}, {self.display(wish, mapped)})")

        self.later(value, f"`{wish}`", [*_parts(state), *listed, *mapped.keys(), *mapped.values()], tell)

    def _state(self, wish: str, state: Any) -> str:
        if isinstance(state, tuple):
            return f"({''.join(f'{self._state(wish, each)}, ' for each in state)})"
        return self.display(wish, state) if type(state) is dict else self.expression(wish, state)


def _parts(state: Any) -> Iterator[Any]:
    """What a state holds; the dicts in it are its own."""
    for each in state if isinstance(state, tuple) else (state,):
        yield from each.values() if isinstance(each, dict) else (each,)
