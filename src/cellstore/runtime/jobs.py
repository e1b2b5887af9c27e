"""Rows of `_scheduled_functions`: what a job looks like and how it moves. Pure.

    pending ──▶ inProgress (actions only) ──▶ success | failed | canceled
       └──────────────────────────────────────▲

Fields     name, args, scheduledTime (ms), completedTime (ms, once ended), state {kind, error?}, result (of a success) and
           errorData (of an ApplicationError), each when it is not large, cron (whose slot it is), missed (slots after it
           that nobody served)
Units      milliseconds since the epoch, as `_creationTime`
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from cellstore.errors import CallerError
from cellstore.runtime.outcome import ErrorInfo
from cellstore.values.json import dumps, loads

if TYPE_CHECKING:
    from cellstore.transaction.transaction import Transaction

TABLE = "_scheduled_functions"
HORIZON_MS = 5 * 366 * 86_400_000.0
KEEP_MS = 7 * 86_400_000.0
KEPT_BYTES_MAX = 16 << 10
ENDED = frozenset({"success", "failed", "canceled"})


def new_job(path: str, args: dict[str, Any], due_ms: float, cron: str | None = None) -> dict[str, Any]:
    """A pending job."""
    row = {"name": path, "args": [args], "scheduledTime": due_ms, "state": {"kind": "pending"}}
    return row if cron is None else {**row, "cron": cron}


def started() -> dict[str, Any]:
    """The patch that marks an action's job as begun; it will never be begun again."""
    return {"state": {"kind": "inProgress"}}


def ended(kind: str, now_ms: float, error: ErrorInfo | None = None, result: bytes = b"null") -> dict[str, Any]:
    """The patch that ends a job.

    `result` is native JSON. It is kept when it is not large, and so is the data of an application error: as `errorData`,
    not in `state`, whose shape is the same in every row.
    """
    state = {"kind": kind}
    patch: dict[str, Any] = {"state": state, "completedTime": now_ms}
    if error is not None:
        state["error"] = error.traceback or error.message
        if error.has_data and len(dumps(error.data)) <= KEPT_BYTES_MAX:
            patch["errorData"] = error.data
    if result != b"null" and len(result) <= KEPT_BYTES_MAX:
        patch["result"] = loads(result)
    return patch


def scheduled(transaction: Transaction, row: dict[str, Any], now_ms: float, parent: str | None) -> str:
    """Insert a job. `parent`: the job of the action that wants it; when that was cancelled, this one is from the start."""
    if parent is not None:
        job = transaction.get(parent, TABLE)
        if job is not None and job["state"]["kind"] == "canceled":
            row = {**row, **ended("canceled", now_ms)}
    return str(transaction.insert(TABLE, row))


def cancel(transaction: Transaction, job: str, now_ms: float) -> None:
    """A pending job will not run, an action in progress is marked; a finished job stays as it is."""
    row = transaction.get(job, TABLE)
    if row is not None and row["state"]["kind"] not in ENDED:
        transaction.patch(job, ended("canceled", now_ms))


def due_after(now_ms: float, delay: float | dt.timedelta) -> float:
    """When a job is due that was scheduled `delay` (seconds or a timedelta) from now."""
    seconds = delay.total_seconds() if isinstance(delay, dt.timedelta) else float(delay)
    if seconds < 0:
        raise CallerError(f"the delay is {seconds:g} s; it cannot be negative", code="InvalidScheduledFunctionDelay")
    return _within(now_ms, now_ms + seconds * 1000)


def due_at(now_ms: float, when: float | dt.datetime) -> float:
    """When a job is due that was scheduled for `when` (aware datetime or seconds). The past means at once."""
    if isinstance(when, dt.datetime):
        if when.tzinfo is None:
            raise CallerError(f"{when!r} has no time zone; use datetime.now(UTC) or when.astimezone()")
        when = when.timestamp()
    return _within(now_ms, float(when) * 1000)


def _within(now_ms: float, due_ms: float) -> float:
    if not abs(due_ms - now_ms) <= HORIZON_MS:
        raise CallerError("a job can be scheduled five years ahead at most", code="InvalidScheduledFunctionDelay")
    return due_ms
