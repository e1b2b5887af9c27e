"""Jobs that are due, and crons.

A job is a row of `_scheduled_functions`, written by the transaction that scheduled it. The scheduler follows the write
log, so a commit with a new row wakes it; between commits it sleeps until the next job is due.

    mutation   the row's completion is a write of the mutation's own transaction: exactly once, whatever crashes
    action     the row says `inProgress`, durably, before the action starts: at most once; found so at start, it failed
    cron       one pending row each; the next is planned when a run is over, so runs of one cron never overlap; slots
               that went by meanwhile, or while nobody served, are skipped: said in the log stream, counted in the row
    clock      what is due is due by the wall clock, looked at every few seconds: a machine that slept a day, or whose clock
               jumps, finds out soon. A clock set back runs no slot of a cron again

A mutation whose worker died, or that found the store overloaded, is tried again after a while; one that fails is over.

Order      on the host's event loop; jobs start in order of due time, a bounded number at once
"""

from __future__ import annotations

import asyncio
import datetime as dt
import heapq
import itertools
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol
from zoneinfo import ZoneInfo

from cellstore.errors import CallerError, CellstoreError
from cellstore.functions import check_schedule
from cellstore.runtime import jobs
from cellstore.runtime.log_stream import LogStream
from cellstore.runtime.outcome import ErrorInfo, Outcome
from cellstore.runtime.registry import Deployed, Registry
from cellstore.transaction.catalog import JOBS, by_id
from cellstore.transaction.requests import Commit
from cellstore.transaction.transaction import Transaction
from cellstore.values.ids import encode_id
from cellstore.values.json import dumps

if TYPE_CHECKING:
    from cellstore.transaction.database import Engine

log = logging.getLogger(__name__)

_CLEAN_EVERY_S = 3600.0
_CLEAN_ROWS = 1000
_SLEEP_MAX_S = 10.0  # wall clocks jump; look again at least this often
_AGAIN_FIRST_S, _AGAIN_MAX_S = 0.5, 60.0
_DEATHS_MAX = 4  # of workers under one job
_COUNTED_MAX = 10_000  # missed slots; beyond that nobody cares how many


class RunsJobs(Protocol):
    """The part of a runner the scheduler needs."""

    logs: LogStream

    def mutation(
        self, path: str, args: dict[str, Any], *, internal: bool = False, job: str | None = None
    ) -> Awaitable[Outcome]:
        """Run a mutation that completes `job` in its own transaction."""
        ...

    async def action(
        self, path: str, args: dict[str, Any], *, internal: bool = False, job: str | None = None
    ) -> Outcome:
        """Run an action as `job`."""
        ...


class Scheduler:
    """Starts due jobs and plans crons."""

    def __init__(self, engine: Engine, registry: Registry, runner: RunsJobs) -> None:
        self._engine = engine
        self._registry = registry
        self._runner = runner
        self._due: list[tuple[float, str]] = []  # heap of (due ms, job id)
        self._known: set[str] = set()  # pending jobs in the heap
        self._running: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._slots: dict[str, float] = {}  # by cron: the latest slot that was served
        self._followed: dict[str, bool] = {}  # by cron: whether its schedule means something here
        self._cleaned_at = time.monotonic()
        self._listener: Callable[[Sequence[Commit]], None] = self._on_commit
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        """Take over what the store holds."""
        self._engine.committer.listeners.append(self._listener)
        with self._engine.begin() as transaction:
            for kind in ("pending", "inProgress"):
                for row in _rows(transaction, kind):
                    if kind == "pending":
                        self._remember(row["_id"], row["scheduledTime"])
                    else:
                        message = "the server stopped while this action ran; it is not started again"
                        self._finish(row["_id"], "failed", ErrorInfo("Interrupted", message))
        self._task = self._loop.create_task(self._run())
        self.plan_crons()

    async def stop(self) -> None:
        """Start nothing more. Running jobs end with the runner."""
        if self._listener in self._engine.committer.listeners:
            self._engine.committer.listeners.remove(self._listener)
        tasks = [task for task in (self._task, *self._running) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._task = None

    # What is due

    def _on_commit(self, commits: Sequence[Commit]) -> None:
        """From the committer: some job row may have changed."""
        index = by_id(JOBS)
        ids = [encode_id(JOBS, key) for commit in commits for key in commit.keys.get(index, ())]
        if ids:
            self._loop.call_soon_threadsafe(self._look_at, ids)

    def _look_at(self, ids: list[str]) -> None:
        if self._task is None:
            return
        with self._engine.begin() as transaction:
            for id in ids:
                row = transaction.get(id)
                if row is not None and row["state"]["kind"] == "pending":
                    self._remember(id, row["scheduledTime"])

    def _remember(self, id: str, due_ms: float) -> None:
        if id not in self._known:
            self._known.add(id)
            heapq.heappush(self._due, (due_ms, id))
            self._wake.set()

    async def _run(self) -> None:
        while True:
            self.begin_due()
            self._clean()
            self._wake.clear()
            try:
                # Not wait_for: it can lose a cancellation that comes together with the wake.
                async with asyncio.timeout(self._sleep_s()):
                    await self._wake.wait()
            except TimeoutError:
                pass  # something is due

    def begin_due(self) -> bool:
        """Start what is due and finds room; whether anything of it runs or waits."""
        now_ms = self._now_ms()
        while self._due and self._due[0][0] <= now_ms and len(self._running) < self._engine.knobs.jobs_running_max:
            _, id = heapq.heappop(self._due)
            self._known.discard(id)
            self._begin(id)
        return bool(self._running) or bool(self._due and self._due[0][0] <= now_ms)

    @property
    def next_due_ms(self) -> float | None:
        """When the next job is due; None when there is none."""
        return self._due[0][0] if self._due else None

    def _sleep_s(self) -> float:
        if not self._due or len(self._running) >= self._engine.knobs.jobs_running_max:
            return _SLEEP_MAX_S
        return min(_SLEEP_MAX_S, max(0.0, (self._due[0][0] - self._now_ms()) / 1000))

    def _now_ms(self) -> float:
        return self._engine.clock.now_ns() / 1e6

    # One job

    def _begin(self, id: str) -> None:
        task = self._loop.create_task(self._job(id))
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._wake.set()
        if not task.cancelled() and task.exception() is not None:
            log.error("a scheduled job could not be brought to its end", exc_info=task.exception())

    async def _job(self, id: str) -> None:
        with self._engine.begin() as transaction:
            row = transaction.get(id)
        if row is None or row["state"]["kind"] != "pending":
            return
        try:
            function = self._registry.find(row["name"])
        except CellstoreError as error:
            self._finish(id, "failed", ErrorInfo.of(error))
            return
        if function.kind == "mutation":
            await self._mutation(id, function, row["args"][0])
        elif function.kind == "action":
            await self._action(id, function, row["args"][0])
        else:
            message = f"{function.path} is of kind {function.kind}; mutations and actions can be scheduled"
            self._finish(id, "failed", ErrorInfo("UnsupportedScheduledFunctionType", message))
        if "cron" in row:
            self._slots[row["cron"]] = row["scheduledTime"]
            self._report_missed(id, row)
            self.plan_crons()

    async def _mutation(self, id: str, function: Deployed, args: dict[str, Any]) -> None:
        for attempt in range(1_000_000):
            outcome = await self._runner.mutation(function.path, args, internal=True, job=id)
            if outcome.error is None or not _is_worth_another(outcome.error.code, attempt):
                break
            await asyncio.sleep(min(_AGAIN_FIRST_S * 2 ** min(attempt, 10), _AGAIN_MAX_S))
        if not outcome.ok and outcome.error is not None and outcome.error.code not in ("JobIsOver", "Stopping"):
            self._finish(id, "failed", outcome.error)

    async def _action(self, id: str, function: Deployed, args: dict[str, Any]) -> None:
        if not self._change(id, ("pending",), jobs.started()):
            return
        outcome = await self._runner.action(function.path, args, internal=True, job=id)
        if outcome.ok:
            self._finish(id, "success", result=outcome.value)
        elif outcome.error is not None and outcome.error.code != "Stopping":
            self._finish(id, "failed", outcome.error)

    def _finish(self, id: str, kind: str, error: ErrorInfo | None = None, result: bytes = b"null") -> None:
        self._change(id, ("pending", "inProgress"), jobs.ended(kind, self._now_ms(), error, result))

    def _change(self, id: str, states: tuple[str, ...], patch: dict[str, Any]) -> bool:
        """Patch a job that is in one of `states`; whether it was."""

        def change(transaction: Transaction) -> bool:
            row = transaction.get(id)
            if row is None or row["state"]["kind"] not in states:
                return False
            transaction.patch(id, patch)
            return True

        changed, _ = self._engine.run(change, source="")
        return bool(changed)

    # Crons

    def _report_missed(self, id: str, row: dict[str, Any]) -> None:
        """Say which slots of a cron went by before its next run can be."""
        _, spec = self._crons().get(row["cron"], ("", None))
        missed = 0 if spec is None else _missed(spec, row["scheduledTime"], self._now_ms())
        if missed:
            self._change(id, tuple(jobs.ENDED), {"missed": missed})
            since = dt.datetime.fromtimestamp(row["scheduledTime"] / 1000, dt.UTC)
            many = f"{missed:,} runs" if missed < _COUNTED_MAX else f"{missed:,} runs or more"
            text = f"{many} of {row['name']} since {since:%Y-%m-%d %H:%M:%S} UTC were missed, and are skipped"
            self._runner.logs.say("WARN", text, row["name"])

    def plan_crons(self) -> None:
        """Have one pending job for every cron that is deployed and has none; drop those of crons that are gone."""
        wanted = self._crons()
        now_ms = self._now_ms()

        def plan(transaction: Transaction) -> None:
            present = set()
            for kind in ("pending", "inProgress"):
                for row in list(_rows(transaction, kind)):
                    key = row.get("cron")
                    if key is None:
                        continue
                    if key in wanted:
                        present.add(key)
                    elif kind == "pending":
                        transaction.delete(row["_id"])
            for key in wanted.keys() - present:
                path, spec = wanted[key]
                transaction.insert(
                    jobs.TABLE,
                    jobs.new_job(path, spec.get("args", {}), _next_ms(spec, now_ms, self._slots.get(key)), key),
                )

        self._engine.run(plan, source="")

    def _crons(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """Path and schedule, by its key, of every cron that can be followed."""
        deployed = _deployed_crons(self._registry)
        return {key: (path, spec) for key, path, spec in deployed if self._can_follow(key, path, spec)}

    def _can_follow(self, key: str, path: str, spec: dict[str, Any]) -> bool:
        """A store that comes from elsewhere may know time zones that this machine does not: such a cron stands still, and
        the log says so, once."""
        known = self._followed.get(key)
        if known is None:
            try:
                check_schedule(spec)
                known = True
            except CallerError as error:
                self._runner.logs.say("ERROR", f"the schedule of {path} cannot be followed here: {error}", path)
                known = False
            self._followed[key] = known
        return known

    # Old rows

    def _clean(self) -> None:
        """Forget jobs that ended a week ago, a bounded number at a time."""
        if time.monotonic() - self._cleaned_at < _CLEAN_EVERY_S:
            return
        self._cleaned_at = time.monotonic()
        before = self._now_ms() - jobs.KEEP_MS

        def clean(transaction: Transaction) -> None:
            old: list[str] = []
            for kind in sorted(jobs.ENDED):
                for row in _rows(transaction, kind):
                    if row["scheduledTime"] > before or len(old) >= _CLEAN_ROWS:
                        break
                    if row.get("completedTime", before) <= before:
                        old.append(row["_id"])
            for id in old:
                transaction.delete(id)

        self._engine.run(clean, source="")


def _rows(transaction: Transaction, kind: str) -> Any:
    """Jobs in a state, by due time."""
    from cellstore.values.index_key import END, encode_value

    prefix = encode_value(kind)
    return (row for _, row in transaction.scan(jobs.TABLE, "by_state", prefix, prefix + END))


def _deployed_crons(registry: Registry) -> list[tuple[str, str, dict[str, Any]]]:
    """(key, path, spec) of every deployed cron. The key changes with the schedule, which replans it."""
    found = []
    for unit in itertools.chain(*registry.units.values()):
        for spec in unit.crons:
            key = dumps([spec.get("name") or spec["path"], {k: spec[k] for k in sorted(spec) if k != "name"}]).decode()
            found.append((key, spec["path"], spec))
    return found


def _next_ms(spec: dict[str, Any], now_ms: float, last_ms: float | None = None) -> float:
    """When a cron is due next: {"every_s": seconds} or {"cron": five fields, "tz": name}, after its slot at `last_ms`.

    An interval counts from the slot before, so that it does not drift; the first time from now.
    """
    if "every_s" in spec:
        every_ms = float(spec["every_s"]) * 1000
        if last_ms is None:
            return now_ms + every_ms
        return last_ms + every_ms * max(1, math.floor((now_ms - last_ms) / every_ms) + 1)
    return next(_slots_after(spec, max(now_ms, last_ms or 0.0)))


def _missed(spec: dict[str, Any], slot_ms: float, now_ms: float) -> int:
    """How many slots after the one at `slot_ms` have gone by."""
    if "every_s" in spec:
        return min(_COUNTED_MAX, max(0, math.floor((now_ms - slot_ms) / (float(spec["every_s"]) * 1000))))
    gone = itertools.takewhile(lambda each: each <= now_ms, _slots_after(spec, slot_ms))
    return sum(1 for _ in itertools.islice(gone, _COUNTED_MAX))


def _slots_after(spec: dict[str, Any], from_ms: float) -> Iterator[float]:
    """The slots of a cron expression, which `check_schedule` has passed, after a moment, in ms."""
    from cronsim import CronSim

    start = dt.datetime.fromtimestamp(from_ms / 1000, ZoneInfo(spec.get("tz") or "UTC"))
    return (float(each.timestamp() * 1000) for each in CronSim(spec["cron"], start))


def _is_worth_another(code: str, attempt: int) -> bool:
    """Whether a mutation that ended so may succeed when it is run again."""
    return code in ("Overloaded", "OutOfRetention", "StorageError") or (
        code == "WorkerDied" and attempt + 1 < _DEATHS_MAX
    )


def schedule(engine: Engine, kind: str, path: str, args: dict[str, Any], parent: str | None = None) -> Outcome:
    """What an action asks of the scheduler: `schedule` a function or `cancel` a job. A transaction of its own.

    `parent` is the job that the action is: what a cancelled one schedules is recorded as canceled, and never runs.
    """
    now_ms = engine.clock.now_ns() / 1e6
    try:
        if kind == "schedule":
            row = jobs.new_job(path, args["args"], args["due_ms"])
            id, ts = engine.run(lambda transaction: jobs.scheduled(transaction, row, now_ms, parent), source="")
            return Outcome(True, dumps(id), ts=ts)
        if kind == "cancel":
            _, ts = engine.run(lambda transaction: jobs.cancel(transaction, path, now_ms), source="")
            return Outcome(True, ts=ts)
        raise CallerError(f"an action asked for {kind!r}, which does not exist")
    except CellstoreError as error:
        return Outcome.failed(error)
