"""Annotations, as people write them, to type expressions.

    None bool int float str bytes          themselves; Any and object are any value
    Optional, |, Literal, Enum             unions
    list, Sequence · dict, Mapping         arrays; records with str keys
    TypedDict, dataclass, pydantic model   objects: their fields, which may be absent where there is a default
    Id["users"], datetime, date            ids and moments (see `moments`)
    a Table                                a document of it, with its system fields
    Annotated[T, Ge(0), Field(max_length=9)]   limits of numbers and lengths

Everything else is refused with advice: tuples and sets come back as lists, so they are not accepted in the first place.
String annotations are resolved in the names they were written among.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime as dt
import enum
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import typing_extensions

from cellstore.errors import CellstoreError, DeployError
from cellstore.schema.expr import ANY, LIMITS, NULL, TypeExpr, object_of, union
from cellstore.values.document import Document
from cellstore.values.ids import Id
from cellstore.values.value import check_value

Names = Mapping[str, Any]

_SCALARS: dict[Any, TypeExpr] = {
    None: NULL,
    type(None): NULL,
    bool: {"type": "boolean"},
    int: {"type": "int"},
    float: {"type": "float"},
    str: {"type": "string"},
    Id: {"type": "string"},
    bytes: {"type": "bytes"},
    Any: ANY,
    object: ANY,
    dt.datetime: {"type": "datetime"},
    dt.date: {"type": "date"},
}
ARRAYS: set[Any] = {list, typing.Sequence, collections.abc.Sequence, collections.abc.MutableSequence}
ARRAYS |= {collections.abc.Iterable, collections.abc.Collection}
RECORDS: set[Any] = {dict, Document, collections.abc.Mapping, collections.abc.MutableMapping}
_TUPLES = "tuples are stored as lists and would come back as such; use list[…], or a dataclass for named parts"
_ADVICE: dict[str, str] = {
    "builtins.tuple": _TUPLES,
    "builtins.set": "sets are not stored; use list[…]",
    "builtins.frozenset": "sets are not stored; use list[…]",
    "builtins.complex": "complex numbers are not stored; use two floats",
    "builtins.bytearray": "use bytes",
    "builtins.memoryview": "use bytes",
    "builtins.type": "classes are not values",
    "decimal.Decimal": "decimals are not stored; use str, or int in the smallest unit",
    "uuid.UUID": "use str",
    "datetime.time": "use str, as in '08:30'",
    "datetime.timedelta": "use float seconds",
    "pathlib.Path": "use str",
    "collections.abc.Callable": "functions are not values; call one by its name inside",
    "pandas.DataFrame": "use list[dict], made with df.to_dict('records'), or load it with db.insert_df",
    "pandas.core.frame.DataFrame": "use list[dict], made with df.to_dict('records'), or load it with db.insert_df",
    "pandas.Series": "use list, made with .tolist()",
    "pandas.core.series.Series": "use list, made with .tolist()",
    "pandas.Timestamp": "use datetime.datetime",
    "numpy.ndarray": "use list[float], made with .tolist()",
}
_MARKERS = {typing.Required: True, typing.NotRequired: False}
_MARKERS |= {typing_extensions.Required: True, typing_extensions.NotRequired: False}
_SYSTEM_FIELDS = {"_id", "_creationTime"}


def from_hint(hint: Any, names: Names | None = None) -> TypeExpr:
    """The type expression of an annotation. `names` are those a string annotation may use besides its module's own.

    Errors: DeployError saying what to use instead.
    """
    return _Reader(names or {}).read(hint)


def resolved_hints(owner: Any, names: Names | None = None) -> dict[str, Any]:
    """The annotations of a function or class, strings evaluated. Errors: DeployError naming what is not defined."""
    try:
        return typing_extensions.get_type_hints(owner, localns=dict(names or {}), include_extras=True)
    except NameError as error:
        raise DeployError(
            f"an annotation of {owner.__qualname__} names {error.name!r}, which is not defined (yet): define it first"
        ) from None
    except Exception as error:
        raise DeployError(f"the annotations of {owner.__qualname__} cannot be read: {error}") from error


def frame_names(depth: int) -> dict[str, Any]:
    """What a class or function defined `depth` frames up could see: names of its module and of enclosing functions."""
    frame = sys._getframe(depth + 1)
    scopes = []
    below: types.FrameType | None = frame
    while below is not None and below.f_globals is frame.f_globals and below.f_code.co_name != "<module>":
        scopes.append(below.f_locals)
        below = below.f_back
    names = dict(frame.f_globals)
    for scope in reversed(scopes):
        names.update(scope)
    return names


def is_typed_dict(hint: Any) -> bool:
    """Whether this is a TypedDict of either kind."""
    return typing_extensions.is_typeddict(hint)


def unwrapped(hint: Any) -> tuple[Any, bool | None]:
    """(the hint inside Required, NotRequired or ReadOnly, whether it is required or None when it does not say)."""
    required = None
    while (origin := typing_extensions.get_origin(hint)) in _MARKERS or origin is typing_extensions.ReadOnly:
        required = _MARKERS.get(origin, required)
        (hint,) = typing_extensions.get_args(hint)
    return hint, required


def storable(value: Any) -> bool:
    """Whether a default is a plain value and so can be told to others."""
    try:
        check_value(value)
    except CellstoreError:
        return False
    return True


class _Reader:
    """Reads one annotation; remembers the classes it is inside of."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._inside: list[Any] = []

    def read(self, hint: Any) -> TypeExpr:
        try:
            if hint in _SCALARS:
                return _SCALARS[hint]
        except TypeError:  # unhashable, as in Annotated[int, []]
            pass
        if isinstance(hint, str | typing.ForwardRef):
            return self.read(self._evaluated(hint))
        origin = typing_extensions.get_origin(hint)
        if origin is not None:
            return self._generic(hint, origin, typing_extensions.get_args(hint))
        if isinstance(hint, type):
            return self._class(hint)
        return self._special(hint)

    def _evaluated(self, hint: str | typing.ForwardRef) -> Any:
        def annotated() -> None: ...

        annotated.__annotations__ = {"hint": hint}
        return resolved_hints(annotated, self._names)["hint"]

    def _special(self, hint: Any) -> TypeExpr:
        if hasattr(hint, "__supertype__"):  # NewType
            return self.read(hint.__supertype__)
        if isinstance(hint, typing_extensions.TypeAliasType):
            return self._once(hint, lambda: self.read(hint.__value__))
        if isinstance(hint, typing.TypeVar):
            return self.read(hint.__bound__ if hint.__bound__ is not None else Any)
        raise _refused(hint)

    # generics

    def _generic(self, hint: Any, origin: Any, args: tuple[Any, ...]) -> TypeExpr:
        if origin in (typing.Union, types.UnionType):
            return union([self.read(arg) for arg in args])
        if origin in (typing.Literal, typing_extensions.Literal):
            return union([_literal(arg, hint) for arg in args])
        if origin in (typing.Annotated, typing_extensions.Annotated):
            return _limited(self.read(args[0]), args[1:], hint)
        if origin in ARRAYS:
            return {"type": "array", "items": self.read(args[0])}
        if origin in RECORDS:
            return self._record(hint, *args)
        if isinstance(origin, typing_extensions.TypeAliasType):
            return self.read(origin.__value__[args])
        if isinstance(origin, type) and (dataclasses.is_dataclass(origin) or is_typed_dict(origin)):
            raise DeployError(f"{_name(hint)}: generic classes are not supported; write the fields out")
        raise _refused(hint, origin)

    def _record(self, hint: Any, keys: Any, values: Any) -> TypeExpr:
        expr = self.read(keys)
        if expr["type"] not in ("string", "id", "literal", "union", "any"):
            raise DeployError(f"{_name(hint)}: the keys of a stored dict are str")
        return {"type": "record", "values": self.read(values)}

    # classes

    def _class(self, hint: type) -> TypeExpr:
        if issubclass(hint, Id):
            return {"type": "id", "table": hint.table}
        if hint in ARRAYS:
            return {"type": "array", "items": ANY}
        if hint in RECORDS:
            return {"type": "record", "values": ANY}
        if issubclass(hint, enum.Enum):
            return union([_literal(member.value, hint) for member in hint])
        definition = getattr(hint, "__cellstore__", None)
        if definition is not None:
            return _document(definition.fields)
        if is_typed_dict(hint):
            return self._once(hint, lambda: self._typed_dict(hint))
        if dataclasses.is_dataclass(hint):
            return self._once(hint, lambda: self._dataclass(hint))
        if hasattr(hint, "__pydantic_fields__"):
            return self._once(hint, lambda: self._model(hint))
        raise _refused(hint)

    def _once(self, hint: Any, read: Callable[[], TypeExpr]) -> TypeExpr:
        if hint in self._inside:
            raise DeployError(f"{_name(hint)} contains itself; use Any or dict at the place where it does")
        self._inside.append(hint)
        try:
            return read()
        finally:
            self._inside.pop()

    def _typed_dict(self, hint: Any) -> TypeExpr:
        fields = {}
        for name, inner in resolved_hints(hint, self._names).items():
            inner, required = unwrapped(inner)
            if required is None:
                required = name in hint.__required_keys__
            fields[name] = {"type": self.read(inner), "optional": not required}
        return {"type": "object", "fields": fields}

    def _dataclass(self, hint: Any) -> TypeExpr:
        hints = resolved_hints(hint, self._names)
        fields = {}
        for field in dataclasses.fields(hint):
            if field.init:
                has_factory = field.default_factory is not dataclasses.MISSING
                default = None if has_factory else field.default
                fields[field.name] = field_of(
                    self.read(hints[field.name]), default, optional=has_factory or default is not dataclasses.MISSING
                )
        return {"type": "object", "fields": fields}

    def _model(self, hint: Any) -> TypeExpr:
        fields = {}
        for name, field in hint.__pydantic_fields__.items():
            expr = _limited(self.read(field.annotation), tuple(field.metadata), hint)
            default = field.default if field.default_factory is None else None
            fields[name] = field_of(expr, default, optional=not field.is_required())
        expr = {"type": "object", "fields": fields}
        return {**expr, "extra": ANY} if getattr(hint, "model_config", {}).get("extra") == "allow" else expr


def field_of(expr: TypeExpr, default: Any, *, optional: bool) -> dict[str, Any]:
    """One field of an object; the default is told when it is a plain value (an enum's member counts as its value)."""
    field: dict[str, Any] = {"type": expr, "optional": optional}
    default = default.value if isinstance(default, enum.Enum) else default
    if optional and storable(default):
        field["default"] = default
    return field


def _document(fields: TypeExpr) -> TypeExpr:
    """A document as it is read or about to be written: the system fields may be there."""
    system = {"_id": {"type": {"type": "string"}, "optional": True}}
    system["_creationTime"] = {"type": {"type": "float"}, "optional": True}
    return {"type": "object", "fields": {**system, **fields["fields"]}}


def _literal(value: Any, hint: Any) -> TypeExpr:
    if isinstance(value, enum.Enum):
        value = value.value
    if value is None:
        return NULL
    if type(value) not in (bool, int, float, str):
        raise DeployError(f"{_name(hint)}: the value {value!r} cannot be stored; use str, int, float or bool")
    return {"type": "literal", "value": value}


def _limited(expr: TypeExpr, metadata: tuple[Any, ...], hint: Any) -> TypeExpr:
    """`expr` within the limits that an annotation's metadata tells."""
    limits: dict[str, Any] = {}
    for each in metadata:
        if type(each).__module__ == "pydantic.functional_validators":
            raise DeployError(
                f"{_name(hint)}: {type(each).__name__} is a function and cannot be checked by the store; "
                "check it inside the mutation that writes"
            )
        for inner in (each, *getattr(each, "metadata", ())):
            limits |= {name: value for name in LIMITS if (value := getattr(inner, name, None)) is not None}
    return _with_limits(expr, limits) if limits else expr


def _with_limits(expr: TypeExpr, limits: dict[str, Any]) -> TypeExpr:
    kind = expr["type"]
    if kind == "union":
        return {**expr, "members": [_with_limits(member, limits) for member in expr["members"]]}
    accepted = {
        "int": LIMITS[:4],
        "float": LIMITS[:4],
        "string": LIMITS[4:],
        "bytes": LIMITS[4:6],
        "array": LIMITS[4:6],
    }
    return {**expr, **{name: limits[name] for name in accepted.get(kind, ()) if name in limits}}


def _refused(hint: Any, origin: Any = None) -> DeployError:
    kind = origin if origin is not None else hint
    module, name = getattr(kind, "__module__", ""), getattr(kind, "__qualname__", "")
    advice = _ADVICE.get(f"{module}.{name}")
    if advice is None and isinstance(kind, type) and issubclass(kind, tuple):
        advice = _TUPLES
    if advice is None and module.partition(".")[0] == "numpy":
        advice = "use int, float, bool or str"
    if advice is None and name in ("Generator", "Iterator", "AsyncGenerator", "AsyncIterator"):
        advice = "return a list"
    known = "None, bool, int, float, str, bytes, list, dict, datetime, date, Id, Literal, an Enum, TypedDict, dataclass"
    return DeployError(
        f"{_name(hint)} is no type of a stored value: {advice or f'use {known}, a pydantic model or Any'}"
    )


def _name(hint: Any) -> str:
    return hint.__qualname__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


def record_of_any() -> TypeExpr:
    """An object of which nothing is known."""
    return {**object_of({}), "extra": ANY}
