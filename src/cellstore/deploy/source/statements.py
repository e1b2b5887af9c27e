"""Statements in an order in which they run, and what names mean among them.

    say       the statement that makes an object; from then on it has an expression
    later     what it is to be told once it is there, so that objects may hold each other
    complete  do that now: the next statement may call it
    bind      a name of the notebook gets its value

Invariant  an object is made once, however many hold it
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any

from cellstore.deploy.captures import is_reference
from cellstore.deploy.source.text import NoSource, is_literal
from cellstore.deploy.source.written import UNREADABLE, import_statement, reference, written


class NotYet(Exception):
    """A class is needed while its own statement is being written."""


class Statements:
    """The text so far."""

    def __init__(self, files: dict[str, str]) -> None:
        self.files = files  # texts of modules next to the notebook
        self.lines: list[str] = []
        self.references: dict[str, str] = {}  # names of functions of the store, with their expression
        self.names: dict[str, Any] = {}  # what names mean in the text, or are about to
        self.made: dict[int, str] = {}  # objects with their expression
        self.kept: list[Any] = []  # so that no identity is used twice
        self.parts: dict[int, list[Any]] = {}  # what an object holds
        self.todo: dict[int, tuple[Any, list[tuple[str, Callable[[], None]]]]] = {}  # what it is still to be told
        self.under_way: set[int] = set()  # classes whose statement is being written
        self.scope: dict[str, Any] = {}  # the notebook's names
        self.missing: list[str] = []

    def expression(self, wish: str, value: Any) -> str:
        """An expression for `value`, which is made first where it needs statements, as `wish` if that may be."""
        raise NotImplementedError

    def later(self, value: Any, what: str, parts: Iterable[Any], action: Callable[[], None]) -> None:
        """Have `value` told something once it is there. `what`: who uses which variable, for the refusal."""
        self.parts.setdefault(id(value), []).extend(parts)
        self.todo.setdefault(id(value), (value, []))[1].append((what, action))
        self.kept.append(value)

    def complete(self, *values: Any) -> None:
        """Tell these, and all that they hold, what they are to be told: somebody is about to call them."""
        pending, seen = [*values], set[int]()
        while pending:
            value = pending.pop()
            if id(value) in seen:
                continue
            seen.add(id(value))
            _, steps = self.todo.pop(id(value), (None, []))
            for what, action in steps:
                self._take(value, what, action)
            pending += self.parts.get(id(value), ())

    def _take(self, value: Any, what: str, action: Callable[[], None]) -> None:
        try:
            action()
        except NotYet:
            self.todo.setdefault(id(value), (value, []))[1].append((what, action))
        except NoSource as reason:
            self.missing.append(f"{what}: {reason}")

    def bind(self, name: str, value: Any) -> None:
        """Have `name` mean `value` in the text."""
        if is_reference(value) and not isinstance(value, type):
            self.references[name] = reference(value)
            return
        if name in self.names:
            if self.names[name] is not value:
                raise NoSource(f"two different things have the name {name}")
            return
        if id(value) in self.under_way:
            raise NotYet
        self.names[name] = value
        statement = import_statement(name, value)
        if statement is None:
            try:
                expression = self.expression(name, value)
            except BaseException:
                del self.names[name]
                raise
            statement = None if expression == name else f"{name} = {expression}"
        if statement is not None:
            self.lines.append(statement)

    def claim(self, wish: str, value: Any) -> str:
        """A name for `value`: the wish, where it means that."""
        if self.names.get(wish, UNREADABLE) is value:
            return wish
        wish = wish if wish.isidentifier() else "value"
        return f"{wish}_{len(self.lines)}_{len(self.made)}_"

    def is_own(self, name: str, value: Any, scope: dict[str, Any]) -> bool:
        """Whether a statement may define `value` under its own name."""
        if name in self.names:
            return self.names[name] is value
        meant = scope.get(name, UNREADABLE)
        return meant is value or is_reference(meant) or (meant is UNREADABLE and not hasattr(builtins, name))

    def say(self, name: str, value: Any, line: str) -> str:
        """Write the statement that makes `value` under `name`."""
        self.made[id(value)] = name
        self.kept.append(value)
        self.lines.append(line)
        return name

    def made_of(self, wish: str, value: Any, expression: str, parts: Iterable[Any]) -> str:
        name = self.claim(wish, value)
        self.parts.setdefault(id(value), []).extend(parts)
        return self.say(name, value, f"{name} = {expression}")

    def display(self, wish: str, value: Any) -> str:
        """A list, tuple, set or dict as it is written, or as it would be if all of its parts had a literal."""
        if is_literal(value):
            return written(value)
        self.kept.append(value)
        if isinstance(value, dict):
            self.parts.setdefault(id(value), []).extend([*value.keys(), *value.values()])
            items = [(self.part(wish, key), self.part(wish, each)) for key, each in value.items()]
            return f"{{{', '.join(f'{key}: {each}' for key, each in items)}}}"
        self.parts.setdefault(id(value), []).extend(value)
        parts = [self.part(wish, each) for each in value]
        if isinstance(value, list):
            return f"[{', '.join(parts)}]"
        listed = "".join(f"{part}, " for part in parts)
        return f"({listed})" if isinstance(value, tuple) else f"{type(value).__name__}(({listed}))"

    def part(self, wish: str, value: Any) -> str:
        """A part of something; what has a name of its own is made under that."""
        own = getattr(value, "__name__", wish) if isinstance(value, FunctionType | type) else wish
        return self.expression(own, value)
