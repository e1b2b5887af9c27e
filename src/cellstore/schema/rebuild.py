"""From plain values back to what a function's annotations name.

    def add(ctx, item: Item, due: datetime): ...        Item a dataclass, a pydantic model or an Enum

Arguments travel and are checked as plain data; the function gets an `Item` and a `datetime`. This makes the step between:
`rebuilder(hint)` is a function from the checked value to the object, or None when the value is the object already, which
is so for most hints and costs nothing. Fields inside are rebuilt too.
"""

from __future__ import annotations

import ast
import dataclasses
import datetime as dt
import enum
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import typing_extensions

from cellstore.errors import ValidationError
from cellstore.schema.explain import Misfit, fit
from cellstore.schema.expr import TypeExpr
from cellstore.schema.hints import ARRAYS, RECORDS, Names, from_hint, is_typed_dict, resolved_hints, unwrapped
from cellstore.schema.moments import date_of, datetime_of

Rebuild = Callable[[Any], Any]


def rebuilder(hint: Any, names: Names | None = None) -> Rebuild | None:
    """From a checked value of this annotation to the object it names; None when they are the same."""
    if hint is dt.datetime:
        return datetime_of
    if hint is dt.date:
        return date_of
    origin, args = typing_extensions.get_origin(hint), typing_extensions.get_args(hint)
    if origin in (typing.Annotated, typing_extensions.Annotated):
        return rebuilder(args[0], names)
    if origin in (typing.Union, types.UnionType):
        return _of_union(args, names)
    if origin in ARRAYS:
        return _of_array(rebuilder(args[0], names))
    if origin in RECORDS:
        return _of_record(rebuilder(args[1], names))
    if hasattr(hint, "__supertype__"):
        return rebuilder(hint.__supertype__, names)
    return _of_class(hint, names) if isinstance(hint, type) and origin is None else None


def objects_of(hints: Mapping[str, Any], parameters: Iterable[str], names: Names | None = None) -> dict[str, Any]:
    """The annotations of those parameters that get objects rather than plain values; under SPELT, what the strings in
    annotations of their classes mean: elsewhere nobody knows."""
    found = {name: hints[name] for name in parameters if name in hints and rebuilder(hints[name], names) is not None}
    spelt: dict[str, Any] = {}
    for hint in found.values():
        _spell(hint, names or {}, spelt, set())
    return {**found, SPELT: spelt} if spelt else found


SPELT = "*"


def _spell(hint: Any, scope: Names, spelt: dict[str, Any], seen: set[int]) -> None:
    """Note the names that string annotations in `hint` use, with what they mean, and those of their classes in turn."""
    if isinstance(hint, str | typing.ForwardRef):
        text = hint if isinstance(hint, str) else hint.__forward_arg__
        for node in ast.walk(ast.parse(text, mode="eval")):
            if isinstance(node, ast.Name) and node.id in scope and node.id not in spelt:
                spelt[node.id] = scope[node.id]
                _spell(scope[node.id], scope, spelt, seen)
    for inner in _hints_in(hint):
        _spell(inner, scope, spelt, seen)
    if isinstance(hint, type) and id(hint) not in seen and (dataclasses.is_dataclass(hint) or is_typed_dict(hint)):
        seen.add(id(hint))
        for base in hint.__mro__:
            known = {**vars(sys.modules.get(base.__module__, types)), **scope}
            for inner in inspect.get_annotations(base).values():
                _spell(inner, known, spelt, seen)


def _hints_in(hint: Any) -> tuple[Any, ...]:
    """The hints another is made of. What a Literal lists and what is said beside an Annotated are none."""
    origin, args = typing_extensions.get_origin(hint), typing_extensions.get_args(hint)
    if origin in (typing.Literal, typing_extensions.Literal):
        return ()
    return args[:1] if origin in (typing.Annotated, typing_extensions.Annotated) else args


def _of_class(hint: type, names: Names | None) -> Rebuild | None:
    if issubclass(hint, enum.Enum):
        return hint
    if is_typed_dict(hint):
        return _of_fields(dict, hint, names)
    if hasattr(hint, "__pydantic_fields__"):
        return _of_model(hint)
    if dataclasses.is_dataclass(hint):
        inner = _of_fields(dict, hint, names)
        return (lambda value: hint(**inner(value))) if inner is not None else (lambda value: hint(**value))
    return None


def _of_model(hint: Any) -> Rebuild:
    def rebuild(value: Any) -> Any:
        try:
            return hint.model_validate(value)
        except ValueError as error:  # its own validators refuse what its types allow
            first = error.errors()[0] if hasattr(error, "errors") else {"msg": str(error), "loc": ()}
            path = ".".join(map(str, first["loc"]))
            raise ValidationError(f"{path + ': ' if path else ''}{first['msg']}", path=path) from None

    return rebuild


def _of_fields(made: type, hint: Any, names: Names | None) -> Rebuild | None:
    hints = {name: unwrapped(inner)[0] for name, inner in resolved_hints(hint, names).items()}
    steps = {name: step for name, inner in hints.items() if (step := rebuilder(inner, names)) is not None}
    if not steps:
        return None
    return lambda value: made({name: steps[name](each) if name in steps else each for name, each in value.items()})


def _of_array(item: Rebuild | None) -> Rebuild | None:
    return None if item is None else lambda value: [item(each) for each in value]


def _of_record(item: Rebuild | None) -> Rebuild | None:
    return None if item is None else lambda value: {key: item(each) for key, each in value.items()}


def _of_union(members: tuple[Any, ...], names: Names | None) -> Rebuild | None:
    """The first member that the value is of decides."""
    steps = [(_fits(from_hint(member, names)), rebuilder(member, names)) for member in members]
    if all(step is None for _, step in steps):
        return None

    def rebuild(value: Any) -> Any:
        for fits, step in steps:
            if fits(value):
                return value if step is None else step(value)
        return value

    return rebuild


def _fits(expr: TypeExpr) -> Callable[[Any], bool]:
    def fits(value: Any) -> bool:
        try:
            fit(expr, value)
        except Misfit:
            return False
        return True

    return fits
