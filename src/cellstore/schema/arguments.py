"""A function's signature as plain data: what it takes, what it returns, where it stands.

The first parameter is `ctx`. Arguments travel by name in one object, so `*args` and positional-only parameters have no
place; `**kwargs` makes it an object of more fields. Defaults are applied where the function runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from cellstore.errors import DeployError
from cellstore.schema.expr import ANY, TypeExpr, signature
from cellstore.schema.hints import Names, field_of, from_hint

Kind = Literal["query", "mutation", "action", "http"]
Visibility = Literal["public", "internal"]


@dataclass(frozen=True, slots=True)
class FunctionSpec:
    """One function as the store knows it."""

    path: str  # module:name
    kind: Kind
    visibility: Visibility
    args: TypeExpr  # an object
    returns: TypeExpr | None  # None when it is not annotated: anything
    doc: str = ""
    file: str = ""
    line: int = 0
    route: dict[str, Any] | None = None  # of an HTTP action: {path, prefix, methods}

    @property
    def name(self) -> str:
        """The part of the path after the colon."""
        return self.path.rpartition(":")[2]

    @property
    def signature(self) -> str:
        """`(limit: int = 100) -> list[Any]`."""
        parts = [_parameter(name, field) for name, field in self.args["fields"].items()]
        if "extra" in self.args:
            parts.append("**more")
        if self.route is not None:
            return f" {'|'.join(self.route['methods'])} {self.route['path']}{'…' if self.route['prefix'] else ''}"
        returns = "" if self.returns is None else f" -> {signature(self.returns)}"
        return f"({', '.join(parts)}){returns}"

    def at(self, path: str) -> FunctionSpec:
        """The same function under another path."""
        return self if path == self.path else replace(self, path=path)

    def to_json(self) -> dict[str, Any]:
        """As a value of the native JSON (a default may be bytes)."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> FunctionSpec:
        """What `to_json` made."""
        return cls(**data)


def spec_of(
    fn: Callable[..., Any], kind: Kind, path: str, hints: dict[str, Any], *, internal: bool, names: Names
) -> FunctionSpec:
    """Read a function whose annotations are `hints`. Errors: DeployError naming the parameter that cannot be."""
    path_only = path.rpartition(":")[2]
    parameters = list(inspect.signature(fn).parameters.values())
    _check_ctx(path_only, kind, parameters)
    args = _args(path_only, parameters[1:], hints, names)
    code = getattr(inspect.unwrap(fn), "__code__", None)
    return FunctionSpec(
        path=path,
        kind=kind,
        visibility="internal" if internal else "public",
        args=args,
        returns=_read(f"{path_only}: its result", hints["return"], names) if "return" in hints else None,
        doc=inspect.getdoc(fn) or "",
        file="" if code is None else code.co_filename,
        line=0 if code is None else code.co_firstlineno,
    )


def http_spec_of(fn: Callable[..., Any], path: str, route: dict[str, Any]) -> FunctionSpec:
    """Read a function that answers HTTP requests: `f(ctx, request)`. Errors: DeployError."""
    name = path.rpartition(":")[2]
    parameters = list(inspect.signature(fn).parameters.values())
    ordinary = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    needed = [each for each in parameters[2:] if each.default is each.empty and each.kind is not each.VAR_KEYWORD]
    if len(ordinary) < 2 or needed:
        raise DeployError(
            f"{name} takes the context and the request, nothing else: @cs.http(…) def {name}(ctx, request)"
        )
    code = getattr(inspect.unwrap(fn), "__code__", None)
    return FunctionSpec(
        path=path,
        kind="http",
        visibility="internal",
        args={"type": "object", "fields": {}},
        returns=None,
        doc=inspect.getdoc(fn) or "",
        file="" if code is None else code.co_filename,
        line=0 if code is None else code.co_firstlineno,
        route=route,
    )


def _check_ctx(name: str, kind: str, parameters: list[inspect.Parameter]) -> None:
    advice = f"@cs.{kind} def {name}(ctx, …)"
    if not parameters:
        raise DeployError(f"{name} takes no parameter; its first one is the context: {advice}")
    first = parameters[0]
    if first.kind in (first.VAR_POSITIONAL, first.VAR_KEYWORD, first.KEYWORD_ONLY):
        wrapped = ", or @functools.wraps(fn) on it, if a decorator made it of another function fn"
        hint = advice + (wrapped if first.kind is first.VAR_POSITIONAL else "")
        raise DeployError(f"{name}: the first parameter is the context and an ordinary one: {hint}")
    if first.default is not first.empty:
        raise DeployError(f"{name}: the first parameter is the context, and {first.name!r} is none: {advice}")


def _args(name: str, parameters: list[inspect.Parameter], hints: dict[str, Any], names: Names) -> TypeExpr:
    fields: dict[str, Any] = {}
    extra: TypeExpr | None = None
    for parameter in parameters:
        where = f"{name}, parameter {parameter.name!r}"
        if parameter.kind is parameter.VAR_POSITIONAL:
            raise DeployError(f"{name}: *{parameter.name} cannot be: arguments travel by name; take a list instead")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise DeployError(f"{where}: positional-only parameters cannot be: arguments travel by name; drop the `/`")
        expr = _read(where, hints.get(parameter.name, Any), names)
        if parameter.kind is parameter.VAR_KEYWORD:
            extra = expr
        elif parameter.default is parameter.empty:
            fields[parameter.name] = {"type": expr, "optional": False}
        else:
            fields[parameter.name] = field_of(_admitting(expr, parameter.default), parameter.default, optional=True)
    args: TypeExpr = {"type": "object", "fields": fields}
    return args if extra is None else {**args, "extra": extra}


def _admitting(expr: TypeExpr, default: Any) -> TypeExpr:
    """`x: int = None` has always meant that None may be passed too."""
    from cellstore.schema.expr import NULL, mentions, union

    if default is not None or expr == ANY or (expr["type"] in ("null", "union") and mentions(expr, "null", "any")):
        return expr
    return union([expr, NULL])


def _read(where: str, hint: Any, names: Names) -> TypeExpr:
    try:
        return from_hint(hint, names)
    except DeployError as error:
        raise DeployError(f"{where}: {error.message}") from None


def _parameter(name: str, field: dict[str, Any]) -> str:
    text = name if field["type"] == ANY else f"{name}: {signature(field['type'])}"
    if not field["optional"]:
        return text
    default = repr(field["default"]) if "default" in field else "…"
    return f"{text} = {default}" if ":" in text else f"{text}={default}"
