"""`ctx`: what a function sees of the store.

    query       ctx.db (reader) · ctx.auth · ctx.env · ctx.storage · ctx.run_query · ctx.now · ctx.random
    mutation    the same with a writer, and ctx.scheduler · ctx.run_mutation (a savepoint)
    action      ctx.run_query · ctx.run_mutation · ctx.run_action · ctx.scheduler · ctx.auth · ctx.env · ctx.storage; no db

In an `async def` function the `run_…` methods are awaited, in a plain one they return the value.
Calling a decorated function inside a running one comes here too (`cellstore.functions.running`).
"""

from __future__ import annotations

import asyncio
import datetime as dt
import math
import numbers
import random
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn

from cellstore.errors import CallerError, LimitExceeded, NotDeterministic, ValidationError, function_lines
from cellstore.knobs import DEFAULTS, Knobs
from cellstore.runtime import jobs
from cellstore.runtime.files import ActionStorage, MutationStorage, QueryStorage
from cellstore.runtime.loaded import Loaded, LoadedModules
from cellstore.runtime.outcome import Identity, Outcome
from cellstore.runtime.patches import ASSIGNED
from cellstore.runtime.registry import canonical
from cellstore.runtime.traces import plain
from cellstore.runtime.variables import Variables
from cellstore.schema.explain import TableOf
from cellstore.transaction.access import DatabaseReader, DatabaseWriter
from cellstore.transaction.transaction import Transaction
from cellstore.values.document import documents
from cellstore.values.json import loads
from cellstore.web import waited


class Ready:
    """A value that can be awaited: nested calls are done by the time `await` looks at them."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __await__(self) -> Generator[Any, None, Any]:
        yield from ()
        return self.value


@dataclass(slots=True)
class Run:
    """What all contexts of one call share, nested ones included."""

    transaction: Transaction
    modules: LoadedModules
    knobs: Knobs
    identity: Identity | None
    now_ms: float
    seed: bytes
    used_identity: bool = False
    depth: int = 0
    scheduled: int = 0
    called: set[str] = field(default_factory=set)  # modules of functions called inside
    job: str | None = None  # the scheduled job this call is, if any
    parent: str | None = None  # the scheduled job of the action that called it, if any
    store: str = ""  # the path of the store; empty in memory
    variables: Variables | None = None  # once somebody asked

    @property
    def env(self) -> Variables:
        """The deployment's environment variables."""
        if self.variables is None:
            self.variables = Variables(self.transaction)
        return self.variables


class Auth:
    """Who calls."""

    __slots__ = ("_identity", "_on_use")

    def __init__(self, identity: Identity | None, on_use: Callable[[], None]) -> None:
        self._identity = identity
        self._on_use = on_use

    def identity(self) -> dict[str, Any] | None:
        """The caller's claims, or None. A query that asks is cached per caller."""
        self._on_use()
        return None if self._identity is None else dict(self._identity)


class Unavailable:
    """Stands where something is not offered; using it says what to do instead."""

    __slots__ = ("_why",)

    def __init__(self, why: str) -> None:
        object.__setattr__(self, "_why", why)

    def __getattr__(self, name: str) -> NoReturn:
        raise CallerError(self._why, code="NotAvailable")


_NO_DB = Unavailable("an action has no ctx.db: read with ctx.run_query(fn, …) and write with ctx.run_mutation(fn, …)")
_NO_SCHEDULER = Unavailable("a query cannot schedule anything; do it in a mutation or an action")


def function_path(function: Any) -> str:
    """The path of a decorated function, or the path itself."""
    path = getattr(function, "path", function)
    if not isinstance(path, str):
        raise CallerError(
            f"expected a decorated function or a path like 'module:name', got {type(function).__name__}: "
            "decorate it with @cs.query, @cs.mutation or @cs.action"
        )
    return path


def arguments(args: Mapping[str, Any] | None, named: dict[str, Any]) -> dict[str, Any]:
    """`run_query(f, {"a": 1})` and `run_query(f, a=1)` mean the same."""
    return {**args, **named} if args else named


class QueryContext:
    """`ctx` of a query. Most calls need little of it: what they ask for is made then."""

    kind = "query"

    def __init__(self, run: Run, loaded: Loaded) -> None:
        self._run = run
        self._loaded = loaded
        self.db: Any = self._database()

    scheduler: Any = _NO_SCHEDULER

    @cached_property
    def auth(self) -> Auth:
        """Who calls."""
        return Auth(self._run.identity, self._identity_was_used)

    @cached_property
    def storage(self) -> Any:
        """Files."""
        return QueryStorage(self._run.transaction, self._run.store)

    def _database(self) -> Any:
        return DatabaseReader(self._run.transaction)

    def table_of(self, number: int) -> str | None:
        """The name of a table by its number, for checking ids."""
        table = self._run.transaction.catalog.by_number(number)
        return None if table is None else table.known_as

    @property
    def env(self) -> Mapping[str, str]:
        """The deployment's environment variables."""
        return self._run.env

    def _identity_was_used(self) -> None:
        self._run.used_identity = True

    @property
    def now(self) -> dt.datetime:
        """The moment this call began, in UTC; the same for the whole call."""
        return dt.datetime.fromtimestamp(self._run.now_ms / 1000, dt.UTC)

    @property
    def random(self) -> random.Random:
        """A generator seeded for this call."""
        return random.Random(self._run.seed)

    def run_query(self, function: Any, args: Mapping[str, Any] | None = None, /, **named: Any) -> Any:
        """Another query in the same transaction; it sees this call's writes."""
        return self._nested("query", function, arguments(args, named))

    def run_mutation(self, *_: Any, **__: Any) -> Any:
        """Refused."""
        raise CallerError("a query cannot run a mutation: queries only read")

    def run_action(self, *_: Any, **__: Any) -> Any:
        """Refused."""
        raise NotDeterministic(
            f"a {self.kind} cannot run an action; schedule it with ctx.scheduler.run_after(0, fn, …) in a mutation"
        )

    def _nested(self, kind: str, function: Any, args: dict[str, Any]) -> Any:
        run, path = self._run, canonical(function_path(function))
        run.called.add(path.rpartition(":")[0])
        loaded = run.modules.find(path, kind)
        if run.depth >= run.knobs.call_depth_max:
            raise _too_deep(path, run.knobs.call_depth_max)
        context = QueryContext(run, loaded) if kind == "query" else MutationContext(run, loaded)
        run.depth += 1
        try:
            value = invoke(loaded, context, args)
        finally:
            run.depth -= 1
        return Ready(value) if self._loaded.is_async else value


class MutationContext(QueryContext):
    """`ctx` of a mutation."""

    kind = "mutation"

    @cached_property
    def scheduler(self) -> Any:
        """What is to run later."""
        return MutationScheduler(self._run)

    @cached_property
    def storage(self) -> Any:
        """Files."""
        return MutationStorage(self._run.transaction, self._run.store)

    def _database(self) -> Any:
        return DatabaseWriter(self._run.transaction)

    def run_mutation(self, function: Any, args: Mapping[str, Any] | None = None, /, **named: Any) -> Any:
        """Another mutation as a savepoint: when it raises, its writes are gone and its reads stay."""
        transaction = self._run.transaction
        savepoint = transaction.savepoint()
        try:
            value = self._nested("mutation", function, arguments(args, named))
        except BaseException:
            transaction.rollback(savepoint)
            raise
        transaction.release(savepoint)
        return value


def _too_deep(path: str, most: int) -> LimitExceeded:
    return LimitExceeded(
        f"calls within calls go {most} deep at most (knob call_depth_max), and {path} would be one more: write a loop, or "
        "a plain function that calls itself, in place of functions of the store that call each other",
        knob="call_depth_max",
        limit=most,
        used=most + 1,
    )


class MutationScheduler:
    """`ctx.scheduler` of a mutation: a job exists exactly when the mutation commits."""

    __slots__ = ("_run",)

    def __init__(self, run: Run) -> None:
        self._run = run

    def run_after(
        self, delay: float | dt.timedelta, function: Any, args: Mapping[str, Any] | None = None, /, **named: Any
    ) -> str:
        """Run `function` `delay` seconds after this call began."""
        return self._add(jobs.due_after(self._run.now_ms, delay), function, arguments(args, named))

    def run_at(
        self, when: float | dt.datetime, function: Any, args: Mapping[str, Any] | None = None, /, **named: Any
    ) -> str:
        """Run `function` at `when`: an aware datetime, or seconds since the epoch."""
        return self._add(jobs.due_at(self._run.now_ms, when), function, arguments(args, named))

    def cancel(self, job: str) -> None:
        """A pending job will not run; a finished one stays as it is."""
        if job == self._run.job:
            raise CallerError("a scheduled function cannot cancel itself", code="ScheduledFunctionCancelingItself")
        jobs.cancel(self._run.transaction, job, self._run.now_ms)

    def _add(self, due_ms: float, function: Any, args: dict[str, Any]) -> str:
        run = self._run
        run.scheduled += 1
        if run.scheduled > run.knobs.scheduled_per_call_max:
            raise LimitExceeded(
                knob="scheduled_per_call_max", limit=run.knobs.scheduled_per_call_max, used=run.scheduled
            )
        path = function_path(function)
        row = jobs.new_job(path, run.modules.stored_form(path, args), due_ms)
        return jobs.scheduled(run.transaction, row, run.now_ms, run.parent)


Ask = Callable[[str, str, dict[str, Any]], "Future[Outcome]"]
"""How an action reaches the host: kind, path, arguments."""


Report = Callable[[float, "float | None", str], None]
"""Told how far an action is: done, of how many if that is known, a word on it."""


class ActionContext:
    """`ctx` of an action: every nested call is a call of its own, each at its own timestamp."""

    kind = "action"

    def __init__(
        self,
        loaded: Loaded,
        identity: Identity | None,
        ask: Ask,
        now_ms: Callable[[], float],
        report: Report = lambda _done, _total, _note: None,
        env: Mapping[str, str] | None = None,
        store: str = "",
        knobs: Knobs = DEFAULTS,
    ) -> None:
        self.env: Mapping[str, str] = {} if env is None else env
        self._report = report
        self._loaded = loaded
        self._ask = ask
        self.now_ms = now_ms
        self.db: Any = _NO_DB
        self.auth = Auth(identity, lambda: None)
        self.storage = ActionStorage(self.ask, loaded.is_async, store, knobs.file_size_bytes)
        self.scheduler = ActionScheduler(self)

    @property
    def now(self) -> dt.datetime:
        """The wall clock, in UTC."""
        return dt.datetime.fromtimestamp(self.now_ms() / 1000, dt.UTC)

    def run_query(self, function: Any, args: Mapping[str, Any] | None = None, /, **named: Any) -> Any:
        """A query on the newest snapshot."""
        return self.ask("query", function_path(function), arguments(args, named))

    def run_mutation(self, function: Any, args: Mapping[str, Any] | None = None, /, **named: Any) -> Any:
        """A mutation, committed when this returns."""
        return self.ask("mutation", function_path(function), arguments(args, named))

    def run_action(self, function: Any, args: Mapping[str, Any] | None = None, /, **named: Any) -> Any:
        """Another action, possibly in another Python environment."""
        return self.ask("action", function_path(function), arguments(args, named))

    def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """How far this action is, for whoever waits: a bar in the calling cell. Call it as often as you like."""
        self._report(_number("done", done), None if total is None else _number("total", total), plain(str(note)))

    def ask(self, kind: str, path: str, args: dict[str, Any]) -> Any:
        """One nested call: the value, or an awaitable of it in an `async def` action."""
        answer = self._ask(kind, path, args)
        if not self._loaded.is_async:
            return unwrap(waited(answer))
        awaitable: Any = _awaited(answer)
        awaitable.__qualname__ = f"{kind} {path}"  # as it is called in the warning when it is never awaited
        return awaitable


def _number(name: str, value: Any) -> float:
    """A number of Python's own; NumPy's are some as well."""
    if not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ValidationError(path=f"ctx.progress: {name}", expected="a number", got=repr(value)[:60])
    if isinstance(value, numbers.Integral) and abs(int(value)) < 1 << 53:  # what takes 64 bits cannot be sent
        return int(value)
    return float(value)


class ActionScheduler:
    """`ctx.scheduler` of an action: a job exists as soon as the call returns."""

    __slots__ = ("_context",)

    def __init__(self, context: ActionContext) -> None:
        self._context = context

    def run_after(
        self, delay: float | dt.timedelta, function: Any, args: Mapping[str, Any] | None = None, /, **named: Any
    ) -> Any:
        """Run `function` `delay` seconds from now."""
        return self._add(jobs.due_after(self._context.now_ms(), delay), function, arguments(args, named))

    def run_at(
        self, when: float | dt.datetime, function: Any, args: Mapping[str, Any] | None = None, /, **named: Any
    ) -> Any:
        """Run `function` at `when`: an aware datetime, or seconds since the epoch."""
        return self._add(jobs.due_at(self._context.now_ms(), when), function, arguments(args, named))

    def cancel(self, job: str) -> Any:
        """A pending job will not run; a finished one stays as it is."""
        return self._context.ask("cancel", job, {})

    def _add(self, due_ms: float, function: Any, args: dict[str, Any]) -> Any:
        return self._context.ask("schedule", function_path(function), {"due_ms": due_ms, "args": args})


def unwrap(outcome: Outcome) -> Any:
    """The value of an outcome, or its error raised."""
    if outcome.ok:
        return documents(loads(outcome.value))
    assert outcome.error is not None
    info, error = outcome.error, outcome.error.to_exception()
    lines = function_lines(info.traceback, info.function, info.message)
    if "\n" in lines:  # more than the heading
        error.add_note(lines)
    raise error


async def _awaited(answer: Future[Outcome]) -> Any:
    return unwrap(await asyncio.wrap_future(answer))


def invoke(loaded: Loaded, context: Any, args: dict[str, Any]) -> Any:
    """Check arguments, call, check the result. A coroutine is driven here: it has nothing to wait for."""
    table_of, state = context.table_of, loaded.state
    checked = check_arguments(loaded, args, table_of)
    if state is None:
        return check_result(loaded, _called(loaded, context, checked), table_of)
    assigned = len(ASSIGNED)
    try:
        value = check_result(loaded, _called(loaded, context, checked), table_of)
    except BaseException:
        state.undo(assigned)
        raise
    state.settle(loaded.cells, assigned)
    return value


def _called(loaded: Loaded, context: Any, args: dict[str, Any]) -> Any:
    value = loaded.fn(context, **args)
    return drive(value, loaded) if loaded.is_async else value


def check_arguments(loaded: Loaded, args: dict[str, Any], table_of: TableOf | None = None) -> dict[str, Any]:
    """`args` as the function takes them. Errors: ValidationError with the code ArgumentValidationError."""
    try:
        checked: dict[str, Any] = loaded.check_args(args, "", table_of)
    except ValidationError as error:
        raise _refused(error, loaded.path, "ArgumentValidationError") from None
    return checked


def check_result(loaded: Loaded, value: Any, table_of: TableOf | None = None) -> Any:
    """`value` as the return annotation promises. Errors: ValidationError with the code ReturnsValidationError."""
    if loaded.check_result is None:
        return value
    try:
        return loaded.check_result(value, "", table_of)
    except ValidationError as error:
        raise _refused(error, f"the result of {loaded.path}", "ReturnsValidationError") from None


def _refused(error: ValidationError, where: str, code: str) -> ValidationError:
    return ValidationError(
        f"{where}: {error.message}", path=error.path, expected=error.expected, got=error.got, code=code
    )


def drive(coroutine: Any, loaded: Loaded) -> Any:
    """Run a coroutine that never waits to its end. Errors: NotDeterministic when it waits all the same."""
    from cellstore.runtime.instant import WouldWait, run_at_once

    try:
        return run_at_once(coroutine)
    except WouldWait as waits:
        raise NotDeterministic(
            f"{loaded.path} is a {loaded.kind} and awaited something that takes time; what is ready at once can be awaited "
            "here, like `await ctx.…`. Do the waiting in an action (@cs.action)"
        ).with_traceback(waits.__traceback__) from None
