"""One query or mutation, from its transaction to its outcome. The same code in a worker and inside a user's process.

    check arguments ─▶ freeze clock, seed chance ─▶ call ─▶ check result ─▶ encode ─▶ freeze the commit request

Everything that can be wrong with a call is found before its commit request leaves this file: a mutation whose result
does not fit its annotation is never committed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from cellstore.errors import (
    ApplicationError,
    CellstoreError,
    LimitExceeded,
    NotDeterministic,
    TransientError,
    ValidationError,
)
from cellstore.knobs import Knobs
from cellstore.runtime import jobs
from cellstore.runtime.capture import LogLines, current
from cellstore.runtime.context import MutationContext, QueryContext, Run, invoke
from cellstore.runtime.loaded import Loaded, LoadedModules
from cellstore.runtime.outcome import ErrorInfo, Identity, Outcome
from cellstore.runtime.traces import message_of, readable, user_traceback
from cellstore.transaction.overlay import Overlay
from cellstore.transaction.requests import CommitRequest
from cellstore.transaction.transaction import Transaction
from cellstore.values.json import dumps, loads
from cellstore.values.value import check_value

_perf_counter = time.perf_counter  # the real one; the sandbox stops the module's


@dataclass(slots=True)
class Call:
    """What a worker is asked to run."""

    id: int
    kind: str
    path: str
    args: dict[str, Any]
    identity: Identity | None = None
    ts: int | None = None
    journal: str | None = None
    request: tuple[str, int] | None = None
    job: str | None = None
    parent: str | None = None  # the job of the action that asks for it
    exclusive: bool = False  # it has the lane to itself: nobody waits who need not


class OutOfTime(BaseException):
    """Raised into user code whose time is up; not an Exception, so that `except Exception` does not eat it."""

    __qualname__ = "LimitExceeded"  # as its caller gets it, and tracebacks name it


def out_of_time_text(path: str, kind: str, budget_s: float, where: str) -> str:
    """What an `OutOfTime` says. `where`: the user's line, or nothing."""
    return (
        f"{path} computed longer than {budget_s:g} s and was stopped{f' at {where}' if where else ''}; "
        f"longer work belongs in an action (knob {kind}_time_s)"
    )


class Guards(Protocol):
    """What surrounds user code: sandbox and stopwatch in a worker, a watchdog inside a user's own process."""

    def enter(self, call: Call, seed: bytes) -> None:
        """User code begins."""
        ...

    def exit(self) -> None:
        """User code is over; may be called twice."""
        ...


@dataclass(slots=True)
class Ran:
    """What came of one call: an outcome, and what is to be committed if it is a mutation that succeeded."""

    outcome: Outcome
    commit: CommitRequest | None = None


class Executor:
    """Runs calls one after another on the modules of this process."""

    def __init__(
        self,
        modules: LoadedModules,
        guards: Guards,
        knobs: Knobs,
        random: Callable[[int], bytes],
        request: Callable[[str, int], bytes | None],
        store: str = "",
    ) -> None:
        self.modules = modules
        self._guards = guards
        self._knobs = knobs
        self._random = random
        self._store = store  # its path; empty in memory
        self._request = request  # the stored outcome of a client's request, if it was committed

    def query(self, call: Call, transaction: Transaction, now_ns: int) -> Outcome:
        """Run a query on `transaction`."""
        transaction.journal = call.journal
        outcome, run, loaded = self._run(call, transaction, now_ns)
        outcome.reads = transaction.reads
        if loaded is not None:
            outcome.reads = with_modules(
                transaction.reads, {loaded.module} | (run.called if run is not None else set())
            )
        outcome.ts = transaction.begin_ts
        if run is not None:
            outcome.used_identity = run.used_identity
            outcome.journal = transaction.next_journal
        return outcome

    def mutation(self, call: Call, transaction: Transaction, now_ns: int, overlay: Overlay | None = None) -> Ran:
        """Run a mutation on `transaction`; its commit request carries everything it wrote and the result.

        In the lane (`overlay` given) a failure, too, may rest on writes that will never be, or on a view older than what
        its caller has been told: it comes with a commit request without writes, and counts only if that is accepted.
        """
        if call.job is not None and not self._job_is_due(call, transaction):
            return Ran(Outcome.failed(CellstoreError("the job was cancelled or has run already", code="JobIsOver")))
        outcome, _, _ = self._run(call, transaction, now_ns)
        outcome.ts = transaction.begin_ts
        commit = None
        if outcome.ok:
            outcome, commit = self._freeze(call, transaction, outcome, now_ns)
        if not outcome.ok and call.request is not None:
            stored = self._request(*call.request)  # it may have failed because it has succeeded before
            if stored is not None:
                return Ran(replayed(stored, transaction.begin_ts))
        if not outcome.ok and overlay is not None:
            commit = transaction.freeze(source=call.path, writes=False)
        if commit is not None and overlay is not None:
            overlay.apply(commit)
        return Ran(outcome, commit)

    def _freeze(
        self, call: Call, transaction: Transaction, outcome: Outcome, now_ns: int
    ) -> tuple[Outcome, CommitRequest | None]:
        try:
            if call.job is not None:
                transaction.patch(call.job, jobs.ended("success", now_ns / 1e6, result=outcome.value))
            result = stored_result(outcome) if call.request is not None else b"null"
            return outcome, transaction.freeze(source=call.path, request=call.request, result=result)
        except CellstoreError as error:
            return Outcome(False, error=ErrorInfo.of(error, function=call.path), logs=outcome.logs), None

    def _job_is_due(self, call: Call, transaction: Transaction) -> bool:
        assert call.job is not None
        row = transaction.get(call.job)
        return row is not None and row["state"]["kind"] == "pending"

    def _run(self, call: Call, transaction: Transaction, now_ns: int) -> tuple[Outcome, Run | None, Loaded | None]:
        began = _perf_counter()
        lines = LogLines(self._knobs, cells=self.modules.cells)
        run: Run | None = None
        loaded: Loaded | None = None
        token = current.set(lines)
        try:
            loaded = self.modules.find(call.path, call.kind)
            seed = self._random(16)
            run = Run(transaction, self.modules, self._knobs, call.identity, now_ns / 1e6, seed, store=self._store)
            run.job, run.parent = call.job, call.parent
            value = self._call_user(call, loaded, run)
            outcome = Outcome(True, encoded_result(value, loaded.path, self._knobs))
        except TransientError:
            raise
        except BaseException as error:  # noqa: BLE001 — here the call ends: whatever it raised is its outcome
            outcome = Outcome(False, error=explain(error, call.path, self.modules, self._knobs))
        finally:
            self._guards.exit()
            current.reset(token)
        outcome.logs = lines.finish()
        outcome.duration_ms = (_perf_counter() - began) * 1000
        return outcome, run, loaded

    def _call_user(self, call: Call, loaded: Loaded, run: Run) -> Any:
        from cellstore.functions import running

        context = QueryContext(run, loaded) if call.kind == "query" else MutationContext(run, loaded)
        token = running.set(context)
        self._guards.enter(call, run.seed)
        try:
            return copy_context().run(invoke, loaded, context, call.args)  # context variables last as long as it
        finally:
            self._guards.exit()
            running.reset(token)


def explain(error: BaseException, path: str, modules: LoadedModules, knobs: Knobs) -> ErrorInfo:
    """An exception that ended a call, as data: the user's lines, and a message that says what to do."""
    trace = getattr(error, "traceback", "") if isinstance(error, NotDeterministic) else ""
    trace = trace or user_traceback(error, modules.is_users, modules.cells)
    if isinstance(error, OutOfTime):
        info = ErrorInfo.of(LimitExceeded(str(error)), function=path)
    elif isinstance(error, MemoryError):
        limit = knobs.memory_bytes / (1 << 20)
        info = ErrorInfo.of(
            LimitExceeded(f"the function ran out of memory; a worker may use {limit:,.0f} MiB (knob memory_bytes)"),
            function=path,
        )
    elif isinstance(error, CellstoreError):
        info = ErrorInfo.of(error, function=path)
    else:
        info = ErrorInfo("FunctionError", message_of(error))
    info.message = readable(info.message)
    info.function, info.traceback = path, trace
    if isinstance(error, ApplicationError):
        info = _checked_data(info)
    return info


def _checked_data(info: ErrorInfo) -> ErrorInfo:
    try:
        check_value(info.data)
    except ValidationError as error:
        info.message = f"ApplicationError's data is not a value that can be sent: {error.message}"
        info.data, info.has_data, info.code = None, False, "FunctionError"
    return info


def with_modules(
    reads: dict[int, list[tuple[bytes, bytes]]], modules: Iterable[str]
) -> dict[int, list[tuple[bytes, bytes]]]:
    """`reads` and the code itself: a redeploy of one of `modules` invalidates the query."""
    from cellstore.transaction.catalog import MODULES_BY_PATH
    from cellstore.values.index_key import encode_value

    prefixes = sorted(map(encode_value, modules))
    return {**reads, MODULES_BY_PATH: [(prefix, prefix + b"\xff") for prefix in prefixes]}


def stored_result(outcome: Outcome) -> bytes:
    """What is kept with a request so that its replay gives the same answer."""
    return b'{"value":' + outcome.value + b',"logs":' + orjson.dumps(outcome.logs) + b"}"


def replayed(stored: bytes, ts: int) -> Outcome:
    """The outcome of a request that was committed before. `ts` is a snapshot that holds its effects."""
    fields = loads(stored)
    return Outcome(True, dumps(fields["value"]), logs=fields["logs"], ts=ts)


def encoded_result(value: Any, path: str, knobs: Knobs) -> bytes:
    """What the function at `path` returned, as native JSON. Errors: ValidationError, LimitExceeded."""
    try:
        size = check_value(value, depth_max=knobs.value_depth_max)
    except ValidationError as error:
        raise ValidationError(
            f"{path} returned a value that cannot be stored or sent: {error.message}",
            path=error.path,
            expected=error.expected,
            got=error.got,
            code="ReturnsValidationError",
        ) from None
    if size > knobs.result_size_bytes:
        raise LimitExceeded(knob="result_size_bytes", limit=knobs.result_size_bytes, used=size)
    return dumps(value)
