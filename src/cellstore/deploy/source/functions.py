"""Functions as statements: their text, then what they hold; and the modules next to the notebook they come from."""

from __future__ import annotations

import ast
import functools
import sys
from types import FunctionType, ModuleType
from typing import Any

from cellstore.deploy.captures import dispatched, global_names, is_reference
from cellstore.deploy.origins import is_installed_module, is_named
from cellstore.deploy.source.changes import module_changes
from cellstore.deploy.source.places import marked
from cellstore.deploy.source.statements import Statements
from cellstore.deploy.source.text import Def, NoSource, function_statement, moved
from cellstore.deploy.source.written import imported, resolves


class FunctionWriter(Statements):
    """Functions, and modules next to the notebook."""

    def function(self, wish: str, function: FunctionType) -> str:
        registry = dispatched(function)
        if registry is not None:
            return self._dispatching(wish, function, dict(registry))
        home = self.home(function.__globals__)
        if home is not None and resolves(function):
            expression = f"{self.module(home)}.{function.__qualname__}"
            self.made[id(function)] = expression
            self._look_around(function)
            return expression
        name = self._write_function(wish, function, home)
        self._set_parts(name, function)
        if home is None:
            self._later_globals(function)
        return name

    def _write_function(self, wish: str, function: FunctionType, home: ModuleType | None) -> str:
        said, file = function_statement(function), function.__code__.co_filename
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        is_alone = not cells and home is None and not said.owner
        if is_alone and isinstance(said.node, Def) and self.is_own(said.node.name, function, function.__globals__):
            self.names[said.node.name] = function
            name = self.say(said.node.name, function, marked(said.text, said.node, file))
        elif is_alone and isinstance(said.node, ast.Lambda):
            name = self.claim(wish, function)
            self.say(name, function, marked(f"{name} = ({said.text})", said.node, file))
        else:
            name = self.claim(wish, function)
            shared = {variable: self.expression(variable, cell) for variable, cell in cells.items()}
            given = ", ".join(f"{variable!r}: {cell}" for variable, cell in shared.items())
            maker = f"__make_{len(self.lines)}__"
            factory = _factory(maker, said.text, said.node, said.owner, list(cells))
            self.lines.append(marked(factory, said.node, file))
            rest = f", {self.module(home)}" if home is not None else ""
            self.say(name, function, f"{name} = __cellstore_closed__({maker}, {{{given}}}{rest})")
            self.lines.append(f"{name}.__qualname__ = {function.__qualname__!r}")
            self.parts.setdefault(id(function), []).extend(cells.values())
        if "defaults" in said.lacks:
            self.later_attribute(name, function, "__defaults__", function.__defaults__)
            self.later_attribute(name, function, "__kwdefaults__", function.__kwdefaults__)
        if "annotations" in said.lacks:
            self._later_annotations(name, function)
        return name

    def _set_parts(self, name: str, function: FunctionType) -> None:
        """Its name, documentation and attributes, where its text does not give them."""
        if function.__name__ != function.__code__.co_name:
            self.lines.append(f"{name}.__name__ = {function.__name__!r}")
        constants = function.__code__.co_consts
        if function.__doc__ != (constants[0] if constants and isinstance(constants[0], str) else None):
            self.lines.append(f"{name}.__doc__ = {function.__doc__!r}")
        for attribute, value in function.__dict__.items():
            self.later_attribute(name, function, attribute, value)

    def later_attribute(self, name: str, owner: Any, attribute: str, value: Any) -> None:
        parts = [value, *(value.values() if isinstance(value, dict) else ())]

        def set_it() -> None:
            shown = (
                self.display(attribute, value)
                if attribute == "__kwdefaults__" and value
                else self.part(attribute, value)
            )
            direct = attribute.isidentifier() and not (attribute.startswith("__") and not attribute.endswith("__"))
            self.lines.append(f"{name}.{attribute} = {shown}" if direct else f"setattr({name}, {attribute!r}, {shown})")

        self.later(owner, f"{getattr(owner, '__name__', name)}.{attribute}", parts, set_it)

    def _later_annotations(self, name: str, function: FunctionType) -> None:
        hints = dict(function.__annotations__)

        def set_them() -> None:
            try:
                self.lines.append(f"{name}.__annotations__ = {self.display('hint', hints)}")
            except NoSource:  # then they are what the text says, as strings
                pass

        self.later(function, f"{function.__name__}", hints.values(), set_them)

    def _later_globals(self, function: FunctionType) -> None:
        scope = function.__globals__
        for name in global_names(function.__code__):
            if name in scope:
                whose = f"{function.__name__} uses `{name}`"
                self.later(function, whose, [scope[name]], functools.partial(self.bind, name, scope[name]))

    def _look_around(self, function: FunctionType) -> None:
        """The classes that a function of a module next to the notebook reads may have changed since."""
        for name in global_names(function.__code__):
            value = function.__globals__.get(name)
            if isinstance(value, FunctionType | type) and not is_named(value) and not is_reference(value):
                whose = f"{function.__name__} uses `{name}`"
                self.later(function, whose, [value], functools.partial(self._look_at, name, value))

    def _look_at(self, name: str, value: Any) -> None:
        self.expression(name, value)

    def _dispatching(self, wish: str, function: FunctionType, registry: dict[Any, Any]) -> str:
        name = self.made_of(wish, function, f"{imported('cellstore.deploy.pickling', 'dispatching')}()", ())

        def fill() -> None:
            shown = self.display(wish, list(registry.items()))
            self.lines.append(f"{imported('cellstore.deploy.pickling', 'dispatch_to')}({name}, {shown})")

        self.later(function, f"`{wish}`", [*registry.keys(), *registry.values()], fill)
        return name

    def home(self, scope: dict[str, Any]) -> ModuleType | None:
        """The module next to the notebook whose names these are."""
        module = sys.modules.get(str(scope.get("__name__")))
        is_one = module is not None and vars(module) is scope and scope.get("__file__") in self.files
        return module if is_one and scope.get("__name__") != "__main__" else None

    def module(self, module: ModuleType) -> str:
        if id(module) in self.made:
            return self.made[id(module)]
        if is_installed_module(module.__name__):
            return f"__cellstore_import__({module.__name__!r})"
        file = getattr(module, "__file__", None)
        if file not in self.files:
            raise NoSource(f"the module {module.__name__} has no file")
        short = module.__name__.rpartition(".")[2]
        name = self.made_of(short, module, f"__cellstore_module__({module.__name__!r}, {file!r})", ())
        for attribute, value in module_changes(module, self.files[file]):
            self.later_attribute(name, module, attribute, value)
        return name


def _factory(maker: str, text: str, node: Def | ast.Lambda, owner: str, variables: list[str]) -> str:
    """A function that makes the function: what it closes over are variables of the one, to be replaced by the right ones."""
    lines = [f"def {maker}():"]
    inner = [name for name in variables if name != "__class__"]
    if inner:
        lines.append(f"    {' = '.join(inner)} = None")
    if isinstance(node, ast.Lambda):
        return "\n".join([*lines, f"    return ({text})"])
    if owner or node.name not in variables:  # in a class its name is not in its way when it means a global one
        owner = owner or "_"
        return "\n".join(
            [*lines, f"    class {owner}:", moved(text, 0, 8), f"    return {owner}.__dict__[{node.name!r}]"]
        )
    return "\n".join([*lines, moved(text, 0, 4), f"    return {node.name}"])
