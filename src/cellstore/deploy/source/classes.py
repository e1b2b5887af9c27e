"""Classes as statements: their text, after what it reads while it runs; then what they were given later."""

from __future__ import annotations

import ast
import builtins
import enum
import functools
import inspect
import sys
from types import FunctionType, ModuleType
from typing import Any

from cellstore.deploy.origins import is_installed_module, is_named
from cellstore.deploy.source.changes import class_changes, removed
from cellstore.deploy.source.functions import FunctionWriter
from cellstore.deploy.source.places import marked
from cellstore.deploy.source.text import (
    NoSource,
    class_node,
    class_reads,
    class_statement,
    function_statement,
    is_flagged,
    is_written_by_hand,
    moved,
)
from cellstore.deploy.source.written import UNREADABLE, content, imported, resolves


class ClassWriter(FunctionWriter):
    """Classes."""

    def cls(self, wish: str, cls: type) -> str:
        home = self.home(vars(sys.modules[cls.__module__])) if cls.__module__ in sys.modules else None
        outer = self._outer_of(cls)
        if (home is not None and resolves(cls)) or outer is not None:
            holder = self.expression(outer.__name__, outer) if outer is not None else self.module(home)  # type: ignore[arg-type]
            self.made[id(cls)] = f"{holder}.{cls.__name__ if outer is not None else cls.__qualname__}"
            self.kept.append(cls)
        else:
            try:
                class_node(cls)
            except NoSource as reason:
                return self._class_by_call(wish, cls, reason)
            self.under_way.add(id(cls))
            try:
                self._write_class(wish, cls)
            finally:
                self.under_way.discard(id(cls))
        self._later_changes(self.made[id(cls)], cls)
        return self.made[id(cls)]

    def _outer_of(self, cls: type) -> type | None:
        """The class in whose body it stands."""
        outer, _, _ = cls.__qualname__.rpartition(".")
        if not outer or outer.endswith("<locals>") or "." in outer:
            return None
        found = self._scope_of(cls).get(outer)
        return found if isinstance(found, type) and vars(found).get(cls.__name__) is cls else None

    def _scope_of(self, cls: type) -> dict[str, Any]:
        for each in vars(cls).values():
            if isinstance(each, FunctionType) and is_written_by_hand(each):
                return each.__globals__
        module = sys.modules.get(cls.__module__)
        is_ours = module is None or self.scope.get("__name__") == cls.__module__
        return self.scope if is_ours else vars(module)

    def _write_class(self, wish: str, cls: type) -> None:
        node, text, file = class_node(cls)
        scope = self._scope_of(cls)
        is_own = self.is_own(node.name, cls, scope) and "<locals>" not in cls.__qualname__
        others = [each for each in node.decorator_list if not is_own and not _is_installed(each, scope)]
        statement = class_statement(node, text, _is_flagged(cls), others)
        at_once, later = class_reads(statement)
        given = {} if is_own else self._variables_of(cls, node)
        known = given.keys() | {node.name}
        self._prepare(cls, at_once - known, scope, is_own=is_own)
        if is_own:
            self.names[node.name] = cls
            self.say(node.name, cls, marked(statement, node, file))
        else:
            expressions = {name: self.part(name, value) for name, value in given.items()}
            name, maker = self.claim(wish, cls), f"__make_{len(self.lines)}__"
            factory = f"def {maker}({', '.join(given)}):\n{moved(statement, 0, 4)}\n    return {node.name}"
            self.lines.append(marked(factory, node, file))
            self.say(name, cls, f"{name} = {maker}({', '.join(expressions.values())})")
        self.parts.setdefault(id(cls), []).extend([*cls.__bases__, *given.values()])
        for name in sorted(((at_once | later) - known) & scope.keys()):
            whose = f"{cls.__name__} uses `{name}`"
            self.later(cls, whose, [scope[name]], functools.partial(self.bind, name, scope[name]))

    def _prepare(self, cls: type, names: set[str], scope: dict[str, Any], *, is_own: bool) -> None:
        """Have what the statement reads while it runs, ready to be called."""
        for name in sorted(names):
            if name in scope:
                self.bind(name, scope[name])
                if callable(scope[name]):
                    self.complete(scope[name])
            elif not is_own and not hasattr(builtins, name):
                raise NoSource(f"the class {cls.__qualname__} reads `{name}` of the function it is defined in")

    def _variables_of(self, cls: type, node: ast.ClassDef) -> dict[str, Any]:
        """The variables of the function around a class that are known: those of its methods, and its bases."""
        found: dict[str, Any] = {}
        for base, actual in zip(node.bases, getattr(cls, "__orig_bases__", cls.__bases__), strict=False):
            if isinstance(base, ast.Name):
                found[base.id] = actual
        for each in vars(cls).values():
            if isinstance(each, FunctionType):
                cells = zip(each.__code__.co_freevars, each.__closure__ or (), strict=True)
                found.update((name, content(cell)) for name, cell in cells)
        left = {name: value for name, value in found.items() if name not in ("__class__", node.name)}
        return {name: value for name, value in left.items() if value is not UNREADABLE}

    def _later_changes(self, name: str, cls: type) -> None:
        """What it was given after its body, or what its body computed."""
        try:
            node, _, file = class_node(cls)
        except NoSource:
            return
        for attribute, value, is_bound in class_changes(cls, node, file):
            self._later_attribute_of_class(name, cls, attribute, value, is_bound)
        for attribute in removed(cls, node):
            self.lines.append(f"del {name}.{attribute}")
        for attribute, member in vars(cls).items():
            function = getattr(member, "__func__", member)
            is_from_body = isinstance(function, FunctionType) and function.__code__.co_filename == file
            if is_from_body and function.__defaults__ and "defaults" in function_statement(function).lacks:
                way = f"{name}.__dict__[{attribute!r}]{'' if function is member else '.__func__'}"
                self.later_attribute(way, cls, "__defaults__", function.__defaults__)

    def _later_attribute_of_class(self, name: str, cls: type, attribute: str, value: Any, is_bound: bool) -> None:
        def set_it() -> None:
            try:
                shown = self.part(attribute, value)
            except NoSource:
                if not is_bound:
                    raise
                return  # then it is what the body makes of it
            self.lines.append(f"__cellstore_attribute__({name}, {attribute!r}, {shown})")

        self.later(cls, f"{cls.__name__}.{attribute}", [value], set_it)

    def _class_by_call(self, wish: str, cls: Any, reason: NoSource) -> str:
        """A class that no statement defines."""
        if cls.__bases__ == (tuple,) and hasattr(cls, "_field_defaults"):
            defaults = self.display(wish, tuple(cls._field_defaults.values()))
            given = f"{cls.__name__!r}, {list(cls._fields)!r}, defaults={defaults}"
            return self.made_of(wish, cls, f"{imported('collections', 'namedtuple')}({given})", ())
        if isinstance(cls, enum.EnumMeta) and len(cls.__bases__) == 1:
            values = {name: member.value for name, member in dict[str, Any](cls.__members__).items()}
            base = self.part(wish, cls.__bases__[0])
            return self.made_of(wish, cls, f"{base}({cls.__name__!r}, {self.display(wish, values)})", ())
        raise reason


def _is_installed(decorator: ast.expr, scope: dict[str, Any]) -> bool:
    while not isinstance(decorator, ast.Name):
        inner = getattr(decorator, "func", None) or getattr(decorator, "value", None)
        if inner is None:
            return False
        decorator = inner
    value = scope.get(decorator.id)
    return is_installed_module(value.__name__) if isinstance(value, ModuleType) else is_named(value)


def _is_flagged(cls: type) -> bool:
    """Whether its annotations are strings that nobody evaluated."""
    methods = [each for each in vars(cls).values() if isinstance(each, FunctionType) and is_written_by_hand(each)]
    hints = inspect.get_annotations(cls).values()
    strings = [isinstance(hint, str) for hint in hints]
    return any(is_flagged(each.__code__) for each in methods) or (bool(strings) and all(strings))
