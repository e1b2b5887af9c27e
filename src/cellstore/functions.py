"""Decorators that make functions of the store, and the handles they leave behind.

    @cs.query
    def open_tasks(ctx, limit: int = 100): ...

    open_tasks(limit=5)      outside of a function: shipped if the store has not seen it, run there, answered in plain Python
    open_tasks(limit=5)      inside one: `ctx.run_query(open_tasks, limit=5)` of the function that runs
    open_tasks.fn            the function itself

A handle is metadata and a door: the signature read once, the name under which the function is called, the schedule. It
knows no machinery; whoever opens a database sets `current_database`, whoever runs functions sets `running`.

Invariant  importing this module imports nothing heavy, and decorating a function neither packs nor sends anything
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextvars import ContextVar
from types import FunctionType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, NoReturn, ParamSpec, Protocol, TypeVar, overload

from cellstore.errors import CallerError, DeployError, ValidationError
from cellstore.schema.arguments import FunctionSpec, Kind, http_spec_of, spec_of
from cellstore.schema.expr import mentions
from cellstore.schema.hints import frame_names, resolved_hints
from cellstore.schema.rebuild import objects_of
from cellstore.schema.registry import clean_module, module_of, registry
from cellstore.schema.types import check_plain
from cellstore.values.value import check_value
from cellstore.web import METHODS

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

__all__ = [
    "Function",
    "FunctionReference",
    "action",
    "cron",
    "current_database",
    "every",
    "http",
    "mutation",
    "query",
    "registry",
]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
F = TypeVar("F", bound="Function[..., Any]")

running: ContextVar[Any] = ContextVar("cellstore_running", default=None)
"""The `ctx` of the function that runs here; None outside of functions."""


class CallsFunctions(Protocol):
    """What a handle needs of a database."""

    def call(self, handle: Any, args: dict[str, Any]) -> Any:
        """Run the function and return its value."""
        ...


def _no_database() -> NoReturn:
    raise CallerError(
        "no database is open: use %load_ext cellstore in a notebook, or cs.open(path), or cs.connect(url)",
        code="NoDatabase",
    )


def _plain_frame(function: Function[..., Any] | FunctionReference, args: dict[str, Any]) -> Any:
    """The function's result as a pandas DataFrame."""
    import pandas as pd

    value = function(**args)
    rows = value if isinstance(value, list) else [value]
    frame = pd.DataFrame([dict(row) if isinstance(row, dict) else {"value": row} for row in rows])
    frame.attrs["query"] = {"path": function.path, "args": args}
    return frame


current_database: Callable[[], CallsFunctions] = _no_database
"""The database that handles are called on; set by whoever opens one."""

make_frame: Callable[[Any, dict[str, Any]], Any] = _plain_frame
"""(handle, arguments) to a DataFrame; set by the client, which knows the timestamp too."""


def _no_facts(_handle: Any) -> dict[str, Any]:
    return {}


function_facts: Callable[[Any], dict[str, Any]] = _no_facts
"""What the store knows of a handle's function; set by whoever opens a database."""


def called_on(
    database: Callable[[], CallsFunctions],
    frame: Callable[[Any, dict[str, Any]], Any],
    facts: Callable[[Any], dict[str, Any]],
) -> None:
    """Have handles use this from now on."""
    global current_database, make_frame, function_facts
    current_database, make_frame, function_facts = database, frame, facts


def badge(handle: Any, facts: dict[str, Any]) -> str:
    """A function as a line of HTML."""
    from html import escape

    marks = [f"<b>{escape(handle.kind)}</b> <code>{escape(handle.path)}{escape(handle.spec.signature)}</code>"]
    marks += [escape(_when(cron)) for cron in handle.crons]
    version = facts.get("hash") or handle.version
    marks.append(f"version {escape(version[:8])}" if version else "not deployed yet")
    if facts.get("origin"):
        marks.append(f"from {escape(facts['origin'].rpartition('/')[2])}")
    if facts.get("last_error"):
        error = facts["last_error"]
        text = f"last error: {error['message']} (request {error['request_id']})"
        marks.append(f'<span style="color:#b3261e">{escape(text)}</span>')
    return f"<div>{' · '.join(marks)}</div>"


class _Callable:
    """What a function's handle and a reference to it share: being called."""

    kind: Kind
    name: str
    _positional: tuple[str, ...]

    @property
    def path(self) -> str:
        """`module:name`."""
        raise NotImplementedError

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments by name. Errors: ValidationError."""
        if len(args) > len(self._positional):
            takes = ", ".join(self._positional) or "none"
            raise ValidationError(
                f"{self.name} got {len(args)} arguments by position and takes {len(self._positional)} ({takes})",
                path=self.name,
                code="ArgumentValidationError",
            )
        named = dict(zip(self._positional, args, strict=False))
        for name in named.keys() & kwargs.keys():
            raise ValidationError(
                f"{self.name} got the argument {name!r} twice",
                path=f"{self.name}.{name}",
                code="ArgumentValidationError",
            )
        return {**named, **kwargs}

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        ctx = running.get()
        if ctx is None:
            bound = self.bind(args, kwargs)
            return current_database().call(self, bound)
        if args and args[0] is ctx:  # passing ctx along is a natural mistake, and harmless
            args = args[1:]
        return getattr(ctx, f"run_{self.kind}")(self, self.bind(args, kwargs))


class Function(_Callable, Generic[P, R]):
    """A function of the store: call it, and it runs there.

    `kind` query, mutation or action · `path` module:name · `fn` the function itself · `spec` its signature as data ·
    `crons` its schedules. Errors of a call: ValidationError for wrong arguments, before anything is sent; FunctionError
    and ApplicationError as the function raises them.
    """

    def __init__(
        self,
        kind: Kind,
        fn: Callable[..., Any],
        *,
        name: str | None = None,
        module: str | None = None,
        internal: bool = False,
        route: dict[str, Any] | None = None,
        depth: int = 0,
    ) -> None:
        plain = _plain_function(kind, fn)
        self.kind = kind
        self.fn = fn
        self.name = _checked_name(name or plain.__name__, kind)
        home = module_of(plain.__module__, plain.__globals__.get("__file__"))
        self.home = home if module is None else clean_module(module)  # None: the notebook, whatever its name
        self.cell = registry.cell or ""  # the id of the cell that defines it, where the notebook tells
        self.crons: list[dict[str, Any]] = []
        self.version = ""  # of what was shipped last: a hash of what it does
        names = frame_names(depth + 1)
        hints = resolved_hints(plain, names)
        if route is not None:
            self._spec = http_spec_of(fn, f":{self.name}", route)
        else:
            self._spec = spec_of(fn, kind, f":{self.name}", hints, internal=internal, names=names)
        # the parameters that get objects, not plain values
        self.hints = objects_of(hints, self._spec.args["fields"], names)
        functools.update_wrapper(self, fn, updated=())
        parameters = list(inspect.signature(fn).parameters.values())[1:]
        self._positional = tuple(each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD)
        self.__signature__ = inspect.signature(fn).replace(parameters=parameters)

    @property
    def module(self) -> str:
        """The module it is shipped in."""
        return registry.notebook if self.home is None else self.home

    @property
    def path(self) -> str:
        """`module:name`."""
        return f"{self.module}:{self.name}"

    @property
    def spec(self) -> FunctionSpec:
        """What the store is told about it."""
        return self._spec.at(self.path)

    @property
    def from_cell(self) -> bool:
        """Whether a cell, a prompt or a script defines it: bit by bit, not as a file that is whole."""
        return self.fn.__module__ == "__main__"

    @property
    def internal(self) -> bool:
        """Whether only other functions may call it."""
        return self._spec.visibility == "internal"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if self._spec.route is not None:
            raise CallerError(
                f"{self.name} answers HTTP requests ({self._spec.signature.strip()} below cellstore/http): ask it over HTTP, "
                f"or call the function itself as {self.name}.fn(ctx, request)",
                code="WrongKind",
            )
        result: R = self._run(args, kwargs)
        return result

    def df(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """The result as a pandas DataFrame."""
        return make_frame(self, self.bind(args, kwargs))

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments by name, checked, as they are sent. Errors: ValidationError naming the argument."""
        given = super().bind(args, kwargs)
        try:
            checked: dict[str, Any] = check_plain(self._spec.args, given, self.name, "argument")
            if mentions(self._spec.args, "any"):
                check_value(checked, self.name)
        except ValidationError as error:
            error.code = "ArgumentValidationError"
            for stale in self._defined_again(given):
                error.add_note(
                    f"{stale} was defined again after {self.name} was: run the cell of {self.name} once more"
                )
            raise
        return checked

    def _defined_again(self, given: dict[str, Any]) -> Iterator[str]:
        """Names of classes of arguments that are not the ones they were when this function was defined."""
        for name, hint in self.hints.items():
            kind = type(given.get(name))
            if isinstance(hint, type) and kind is not hint and kind.__qualname__ == hint.__qualname__:
                yield hint.__name__

    def __get__(self, instance: object, owner: type | None = None) -> Function[P, R]:
        return self  # a handle in a class stays a handle

    def __repr__(self) -> str:
        internal = "internal " if self.internal and self._spec.route is None else ""
        schedule = "".join(f", {_when(cron)}" for cron in self.crons)
        version = f", version {self.version[:8]}" if self.version else ""
        return f"<{internal}{self.kind} {self.path}{self._spec.signature}{schedule}{version}>"

    def _repr_html_(self) -> str:
        """A badge: path, kind, version, where it is deployed from, its last error."""
        return badge(self, function_facts(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return reference, (self.path, self.kind, self._positional)


class FunctionReference(_Callable):
    """A function of the store as another function sees it: a path. What a handle becomes when it travels."""

    def __init__(self, path: str, kind: Kind, positional: tuple[str, ...]) -> None:
        self._path = path
        self.kind = kind
        self.name = path.rpartition(":")[2]
        self._positional = positional

    @property
    def path(self) -> str:
        """`module:name`."""
        return self._path

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._run(args, kwargs)

    def df(self, *args: Any, **kwargs: Any) -> Any:
        """The result as a pandas DataFrame."""
        return make_frame(self, self.bind(args, kwargs))

    def __repr__(self) -> str:
        return f"<{self.kind} {self.path}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return reference, (self._path, self.kind, self._positional)


def reference(path: str, kind: Kind, positional: tuple[str, ...] = ()) -> FunctionReference:
    """A reference to the function at `path`."""
    return FunctionReference(path, kind, tuple(positional))


# ── decorators ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Decorator(Protocol):
    """What `@cs.query(name=…)` is before it meets its function."""

    @overload
    def __call__(self, fn: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /) -> Function[P, R]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[Any, P], R], /) -> Function[P, R]: ...


@overload
def query(fn: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /) -> Function[P, R]: ...
@overload
def query(fn: Callable[Concatenate[Any, P], R], /) -> Function[P, R]: ...
@overload
def query(*, name: str | None = None, module: str | None = None, internal: bool = False) -> Decorator: ...
def query(fn: Any = None, /, **options: Any) -> Any:
    """A function that reads: `@cs.query def f(ctx, …)`. Deterministic, without I/O; can be watched live.

    `name`, `module` give it another path than module:name; `internal=True` hides it from clients.
    Errors: DeployError for a signature that cannot be.
    """
    return _decorated("query", fn, **options)


@overload
def mutation(fn: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /) -> Function[P, R]: ...
@overload
def mutation(fn: Callable[Concatenate[Any, P], R], /) -> Function[P, R]: ...
@overload
def mutation(*, name: str | None = None, module: str | None = None, internal: bool = False) -> Decorator: ...
def mutation(fn: Any = None, /, **options: Any) -> Any:
    """A function that writes, in one serializable transaction: `@cs.mutation def f(ctx, …)`. Options as in `query`."""
    return _decorated("mutation", fn, **options)


@overload
def action(fn: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /) -> Function[P, R]: ...
@overload
def action(fn: Callable[Concatenate[Any, P], R], /) -> Function[P, R]: ...
@overload
def action(*, name: str | None = None, module: str | None = None, internal: bool = False) -> Decorator: ...
def action(fn: Any = None, /, **options: Any) -> Any:
    """A function that may touch the world and reaches data through `ctx.run_query` and `ctx.run_mutation` only.

    `@cs.action def f(ctx, …)` or `async def`. Runs at most once per call. Options as in `query`.
    """
    return _decorated("action", fn, **options)


def http(
    path: str,
    *,
    methods: Iterable[str] = ("GET",),
    prefix: bool = False,
    name: str | None = None,
    module: str | None = None,
) -> Callable[[Callable[[Any, Any], Any]], Function[..., Any]]:
    """A function that answers HTTP requests at `{base_url}cellstore/http` + `path`: `@cs.http("/hook", methods=["POST"])`.

    `def hook(ctx, request)` or `async def`, with the `ctx` of an action; see `cellstore.web` for requests and responses.
    `prefix=True` serves everything below a path that ends with `/`. An exact path goes before a prefix, a longer prefix
    before a shorter one; HEAD is served by GET. Callers sign in as for any function (a hook's URL may carry `?token=`).
    Errors: CallerError for a path or method that cannot be.
    """
    route = {"path": path, "prefix": prefix, "methods": _checked_route(path, methods, prefix)}
    return lambda fn: _define("http", fn, name, module, True, route=route, depth=1)


def _checked_route(path: str, methods: Iterable[str], prefix: bool) -> list[str]:
    wanted = [methods] if isinstance(methods, str) else list(methods)
    upper = [str(method).upper() for method in wanted]
    for method in upper:
        if method not in METHODS:
            also = "; HEAD is served by GET" if method == "HEAD" else ""
            raise CallerError(
                f"{method!r} is no method of a route; there are {', '.join(METHODS)}{also}", code="BadRoute"
            )
    if not upper or not isinstance(path, str) or not path.startswith("/") or "?" in path:
        raise CallerError(
            f'a route is a path and its methods, like @cs.http("/hook", methods=["POST"]), not {path!r}',
            code="BadRoute",
        )
    if prefix and not path.endswith("/"):
        raise CallerError(f"a prefix ends with a slash: @cs.http({path + '/'!r}, prefix=True)", code="BadRoute")
    return list(dict.fromkeys(upper))


def _decorated(
    kind: Kind, fn: Any, *, name: str | None = None, module: str | None = None, internal: bool = False
) -> Any:
    if fn is None:
        return lambda late: _define(kind, late, name, module, internal, depth=1)
    return _define(kind, fn, name, module, internal, depth=2)


def _define(
    kind: Kind,
    fn: Any,
    name: str | None,
    module: str | None,
    internal: bool,
    *,
    route: dict[str, Any] | None = None,
    depth: int,
) -> Any:
    handle: Function[..., Any] = Function(
        kind, fn, name=name, module=module, internal=internal, route=route, depth=depth + 1
    )
    registry.add(handle)
    return handle


def _plain_function(kind: str, fn: Any) -> FunctionType:
    if isinstance(fn, Function):
        raise DeployError(f"{fn.name} is {_a(fn.kind)} already and cannot be {_a(kind)} too; use one decorator")
    plain = inspect.unwrap(fn) if callable(fn) else fn
    if not isinstance(plain, FunctionType):
        more = ": write a def that calls it" if callable(fn) else ""
        raise DeployError(f"@cs.{kind} decorates a function, not {type(fn).__name__} {fn!r:.60}{more}")
    if inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain):
        raise DeployError(f"{plain.__name__} yields; a function of the store returns its result: collect it in a list")
    return plain


def _checked_name(name: str, kind: str) -> str:
    if name == "<lambda>":
        raise DeployError(f'a lambda has no name; give it one: cs.{kind}(name="…")(lambda ctx: …)')
    if not (isinstance(name, str) and name.isidentifier() and name.isascii()):
        raise DeployError(f"{name!r} cannot be the name of a function: ASCII letters, digits and _, no digit first")
    return name


def _a(kind: str) -> str:
    return {"action": "an action", "http": "an HTTP action"}.get(kind, f"a {kind}")


# ── schedules ──────────────────────────────────────────────────────────────────────────────────────────────────────


def cron(expression: str, *, tz: str | ZoneInfo | None = None, name: str | None = None) -> Callable[[F], F]:
    """Run a mutation or action when the clock says so: `cs.cron("*/5 * * * *", tz="Europe/Berlin")(fn)`.

    Five fields: minute, hour, day of month, month, day of week. `tz` is UTC when not given. What is due in an hour that the
    clocks skip runs when they have; in an hour that comes twice, what names its hour runs once, and `*` runs in both. The
    schedule belongs to the function and takes effect when that is deployed; a second one for the same function needs a
    `name`.
    Errors: CallerError for an expression or zone that cannot be read.
    """
    zone = str(tz) if tz else "UTC"
    _check_cron(expression, zone)
    return functools.partial(_scheduled, {"cron": expression, "tz": zone}, name)


def every(
    *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0, name: str | None = None
) -> Callable[[F], F]:
    """Run a mutation or action again and again: `cs.every(minutes=5)(fn)`. Runs of one schedule never overlap."""
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    _check_interval(total)
    return functools.partial(_scheduled, {"every_s": float(total)}, name)


def _scheduled(schedule: dict[str, Any], name: str | None, fn: F) -> F:
    if not isinstance(fn, Function):
        raise CallerError(
            f"a schedule belongs to a mutation or an action, not to {type(fn).__name__}: put it above @cs.mutation",
            code="BadSchedule",
        )
    if fn.kind in ("query", "http"):
        raise CallerError(
            f"{fn.name} is {_a(fn.kind)}; only mutations and actions can be scheduled", code="BadSchedule"
        )
    needed = [each for each, field in fn.spec.args["fields"].items() if not field["optional"]]
    if needed:
        raise CallerError(
            f"{fn.name} needs {needed[0]!r}, and a schedule passes no arguments: give it a default", code="BadSchedule"
        )
    fn.crons = [each for each in fn.crons if each.get("name") != name]
    fn.crons.append({"name": name, **schedule})
    return fn


def check_schedule(spec: Mapping[str, Any]) -> None:
    """Whether it can be followed here: {"cron", "tz"} or {"every_s"}. Errors: CallerError."""
    match dict(spec):
        case {"every_s": int() | float() as interval_s}:
            _check_interval(interval_s)
        case {"cron": str(expression), "tz": str() | None as tz}:
            _check_cron(expression, tz)
        case _:
            problem = f"a schedule has cron and tz, or every_s, and this is {dict(spec)!r:.200}"
            raise CallerError(problem, code="BadSchedule")


def _check_interval(interval_s: float) -> None:
    if not interval_s >= 1:
        raise CallerError(
            f"every {interval_s:g} seconds is too often; one second is the shortest interval", code="BadSchedule"
        )


def _check_cron(expression: str, tz: str | None) -> None:
    from zoneinfo import ZoneInfo

    from cronsim import CronSim, CronSimError

    fields = str(expression).split()
    if len(fields) != 5:
        raise CallerError(
            f"the cron expression {expression!r} has {len(fields)} fields; it needs five: minute hour day month weekday",
            code="BadSchedule",
        )
    import datetime as dt

    try:
        zone = ZoneInfo(tz or "UTC")
    except (LookupError, ValueError, OSError):
        raise CallerError(f"there is no time zone {tz!r}; names are like 'Europe/Berlin'", code="BadSchedule") from None
    try:
        CronSim(expression, dt.datetime.now(zone))
    except CronSimError as error:
        raise CallerError(f"the cron expression {expression!r} cannot be read: {error}", code="BadSchedule") from None


def _when(schedule: dict[str, Any]) -> str:
    if "every_s" in schedule:
        return f"every {schedule['every_s']:g} s"
    return f"cron {schedule['cron']!r} {schedule['tz']}"
