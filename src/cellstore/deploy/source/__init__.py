"""A module's functions as text that stands alone: executed in an empty namespace, it defines them.

    import numpy as np                                       what is installed is imported
    LIMIT = 100                                              values are written out
    def helper(x, n=2): ...                                  functions and classes, as they stand in their cells
    rates = __cellstore_new__(Rates)
    __cellstore_set__(rates, {'each': {'a': 2}})             what has no literal is made, then told its state
    def __make_7__():                                        a closure gets its variables as they are
        step = None
        def inner(ctx): ...
        return inner
    inner_7_ = __cellstore_closed__(__make_7__, {'step': step_6_})
    __cellstore_functions__['open_tasks'] = open_tasks
    open_tasks = __cellstore_function__(…)                   if a function calls it: through the store, as it did there

It is the same graph of objects as the pickle's, with text in the place of bytecode: each object is made once, then filled,
so that objects may hold each other. A function's decorators do not run again; what they made of it, and what they did
elsewhere, are objects, too. A class is made by its statement, whose parts come before it, and then gets what it was given
later (see `changes`).

    statements   their order, and what names mean among them · objects, functions, classes   each as statements
    text         where something stands in its cell · places   and that it stands there, for errors
    changes      what a class was given later · written   literals and names

The other form, the pickle, is exact; this one is for other Python versions and for people. What has no text is listed in
`missing`, by the name of the variable and the reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from types import CellType, FunctionType
from typing import Any

from cellstore.deploy.source.classes import ClassWriter
from cellstore.deploy.source.objects import ObjectWriter
from cellstore.deploy.source.statements import NotYet
from cellstore.deploy.source.text import NoSource


@dataclass(slots=True)
class Source:
    """The text, and what it lacks."""

    text: str = ""
    missing: list[str] = field(default_factory=list)


def source_of(functions: dict[str, Any], hints: dict[str, dict[str, Any]], files: dict[str, str]) -> Source:
    """The text that defines these (name: function) and the objects their parameters get (function: parameter: hint).

    `files` holds the texts of modules next to the notebook.
    """
    writer = _Writer(files)
    for name, function in functions.items():
        writer.deploy(name, function, hints.get(name, {}))
    return writer.finish()


@lru_cache(maxsize=8)  # after most cells it is the text it was before
def _complaints(text: str) -> tuple[str, ...]:
    """Why a text does not compile, if so."""
    try:
        compile(text, "<source>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        return (f"the source does not compile: {error}",)
    return ()


class _Writer(ClassWriter, ObjectWriter):
    """Writes what is deployed, and all that it reaches."""

    def deploy(self, name: str, function: Any, hints: dict[str, Any]) -> None:
        self.scope = getattr(function, "__globals__", self.scope)
        try:
            expression = self.expression(name, function)
            self.lines.append(f"__cellstore_functions__[{name!r}] = {expression}")
            self.complete(function)
            if hints:
                self.lines.append(f"__cellstore_hints__[{name!r}] = {self.display(name, hints)}")
        except NoSource as reason:
            self.missing.append(f"{name}: {reason}")

    def finish(self) -> Source:
        while self.todo:
            value, _ = next(iter(self.todo.values()))
            self.complete(value)
        calls = [f"{name} = {expression}" for name, expression in self.references.items()]  # not the plain functions
        text = "\n".join([*self.lines, *calls]) + "\n"
        if not self.missing:
            self.missing += _complaints(text)
        return Source(text, list(dict.fromkeys(self.missing)))

    def expression(self, wish: str, value: Any) -> str:
        """An expression for `value`, which is made first where it needs statements, as `wish` if that may be."""
        if id(value) in self.made:
            return self.made[id(value)]
        if id(value) in self.under_way:
            raise NotYet
        known = self.known(value)
        if known is not None:
            return known
        if isinstance(value, FunctionType):
            return self.function(wish, value)
        if isinstance(value, type):
            return self.cls(wish, value)
        if isinstance(value, CellType):
            return self.variable(wish, value)
        if isinstance(value, tuple | frozenset) and type(value) in (tuple, frozenset):
            return self.display(wish, value)
        if type(value) in (list, dict, set):
            return self.container(wish, value)
        return self.object(wish, value)
