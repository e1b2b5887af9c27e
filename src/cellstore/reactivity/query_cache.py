"""One run per query and moment, its result shared by everybody who asks.

    (path, arguments, identity if read, journal) ─▶ LiveQuery ─▶ result, valid in [ts, invalidated_ts)

A request names the timestamp it needs. A held result valid there answers at once; a run under way that began no later
is waited for, and answers when its result proves valid; else the query runs at exactly that timestamp. Whether a result
is still valid is never checked by time: a commit that touches its read set ends its validity, nothing else does.

    who read no identity     shares one result with all callers
    watched results          are kept for as long as they are watched, and their watchers told when they end
    unwatched results        are kept while they are valid and the byte budget lasts, least recently used go first
    failures of the system   are not kept; a watched one is tried again after a growing delay

Order:     everything happens on the event loop's thread.
Invariant: a LiveQuery that is `fresh` holds a result valid from its ts up to the newest processed commit, and its
           read set is registered with the subscriptions; others may still be registered, which is harmless
Source:    Convex's query cache and subscription manager, with one shared entry for both
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cellstore.errors import FatalError, Overloaded
from cellstore.knobs import Knobs
from cellstore.reactivity.principal import Principal
from cellstore.reactivity.result import Query, Result
from cellstore.reactivity.subscriptions import Subscriptions
from cellstore.runtime.outcome import ErrorInfo, Outcome, ReadIntervals
from cellstore.transaction.catalog import MODULES_BY_PATH
from cellstore.values.index_key import END, encode_value

if TYPE_CHECKING:
    from cellstore.runtime.runner import Runner

log = logging.getLogger(__name__)

RETRY_FIRST_S, RETRY_MAX_S = 0.5, 60.0
_AHEAD_MAX = 8  # runs begun while a commit becomes durable: what workers can begin with meanwhile, at little delay


Done = Callable[["LiveQuery", Result], None]
Landed = Callable[[Result], None]
OnStale = Callable[["LiveQuery"], "Principal | None"]
Key = tuple[str, bytes, bytes | None, str | None, bool]


TABLES_CHANGED = "_system/tables:changed"  # what live SQL follows; owners may run any SQL
NO_SUCH_FUNCTION = frozenset({"NotFound", "WrongFunctionKind"})


def is_inside(query: Query, who: Principal) -> bool:
    """Whether `who` may ask what is closed to the outside: an admin anything, an owner whether tables changed."""
    return who.internal or (who.owner and query.path == TABLES_CHANGED)


def module_reads(path: str) -> ReadIntervals:
    """What the answer "there is no such function" depends on: a deploy of its module revives the query."""
    prefix = encode_value(path.rpartition(":")[0])
    return {MODULES_BY_PATH: [(prefix, prefix + END)]}


@dataclass(slots=True, eq=False)
class LiveQuery:
    """One query of the cache: the result everybody shares."""

    key: Key
    query: Query
    who: Principal
    result: Result | None = None
    fresh: bool = False  # result holds at every processed timestamp from its own on
    registered: ReadIntervals = field(default_factory=dict)  # what the subscriptions watch for us
    flights: dict[int, list[Landed]] = field(default_factory=dict)  # runs under way, by timestamp, with who waits
    watchers: set[OnStale] = field(default_factory=set)  # told when a result ends
    failures: int = 0  # of the system, in a row
    retry: asyncio.TimerHandle | None = None


class QueryCache:
    """All queries of a deployment, asked for once or watched."""

    def __init__(self, runner: Runner, subscriptions: Subscriptions[LiveQuery], knobs: Knobs) -> None:
        self._runner, self._subscriptions, self._knobs = runner, subscriptions, knobs
        self._entries: dict[Key, LiveQuery] = {}
        self._idle: OrderedDict[LiveQuery, int] = OrderedDict()  # unwatched and fresh, with their size in bytes
        self._idle_bytes = 0
        self._personal: set[str] = set()  # paths seen to look at who calls
        self._running: set[asyncio.Future[Outcome]] = set()
        self._wanted: dict[LiveQuery, Principal] | None = None  # in `ahead`: what ended, and who is about to ask again

    # ── asking ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def find(self, query: Query, who: Principal) -> LiveQuery:
        """The entry that answers `query` for `who`; made when there is none."""
        key = self._key(query, who)
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = LiveQuery(key, query, who)
        return entry

    def request(self, query: Query, ts: int, done: Done, who: Principal) -> None:
        """Call `done` with a result valid at `ts` and the entry it came from, at once when one is held."""
        entry = self.find(query, who)
        held = entry.result
        if held is not None and held.valid_at(ts):
            self._touch(entry)
            done(entry, held)
            return
        early = [begun for begun in entry.flights if begun <= ts]
        if early:
            entry.flights[max(early)].append(lambda result: self._landed(entry, result, ts, done, who))
        else:
            entry.flights[ts] = [lambda result: self._landed(entry, result, ts, done, who)]
            self._fly(entry, ts, who)

    async def ask(self, query: Query, who: Principal, ts: int | None = None) -> Result:
        """The answer at `ts` (the newest moment when None), once."""
        if ts is None:
            ts = self._subscriptions.catch_up()
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

        def done(_entry: LiveQuery, result: Result) -> None:
            if not answer.done():  # else nobody waits any more
                answer.set_result(result)

        self.request(query, ts, done, who)
        return await answer

    def watch(self, entry: LiveQuery, on_stale: OnStale) -> None:
        """Tell `on_stale` each time a result of `entry` ends."""
        entry.watchers.add(on_stale)
        self._forget_idle(entry)

    def release(self, entry: LiveQuery, on_stale: OnStale) -> None:
        """Undo `watch`."""
        entry.watchers.discard(on_stale)
        if not entry.watchers:
            self._settle(entry)

    async def close(self) -> None:
        """End every run under way."""
        for run in list(self._running):
            run.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        for entry in self._entries.values():
            if entry.retry is not None:
                entry.retry.cancel()

    @contextmanager
    def ahead(self) -> Iterator[None]:
        """What ends during the block is run again right after it, if a watcher is about to ask: `request` joins that run."""
        wanted: dict[LiveQuery, Principal] = {}
        self._wanted = wanted
        try:
            yield
        finally:
            self._wanted = None
        ts = self._subscriptions.processed_ts
        for entry, who in wanted.items():
            if not entry.flights:
                entry.flights[ts] = []
                self._fly(entry, ts, who)

    # ── runs ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _fly(self, entry: LiveQuery, ts: int, who: Principal) -> None:
        """Begin a run at `ts`. No task: it is on its way to a worker before this returns."""
        query = entry.query
        run = asyncio.ensure_future(
            self._runner.query(
                query.path,
                query.args,
                identity=who.identity,
                ts=ts,
                journal=query.journal,
                internal=is_inside(query, who),
            )
        )
        self._running.add(run)
        run.add_done_callback(lambda run: self._flown(entry, ts, run))

    def _flown(self, entry: LiveQuery, ts: int, run: asyncio.Future[Outcome]) -> None:
        """A run has ended: its result goes to everybody waiting for it."""
        self._running.discard(run)
        if run.cancelled():  # the hub closes
            stopping = Outcome.failed(Overloaded("the store is stopping"), function=entry.query.path)
            for waiting in entry.flights.pop(ts):
                waiting(Result(stopping, ts, unsettled=True))
            return
        error = run.exception()
        result = self._accept(entry, Result(run.result() if error is None else _not_run(entry.query.path, error), ts))
        for waiting in entry.flights.pop(ts):
            waiting(result)
        if not entry.watchers:
            self._settle(entry)

    def _accept(self, entry: LiveQuery, result: Result) -> Result:
        """Find out how long `result` holds; keep it when it is the newest."""
        outcome = result.outcome
        if outcome.used_identity and entry.key[2] is None:
            self._personal.add(entry.query.path)
            result.invalid_at = result.ts  # it answers one caller alone, so nobody who waits here
            self._let_go(entry)
            return result
        if outcome.error is not None and not outcome.reads:
            if outcome.error.code not in NO_SUCH_FUNCTION:
                return self._accept_system_failure(entry, result)
            outcome.reads = module_reads(entry.query.path)
        entry.failures = 0
        result.invalid_at = self._subscriptions.ended(outcome.reads, result.ts)
        if entry.result is None or result.ts >= entry.result.ts:
            if entry.result is not None and entry.result.digest == result.digest:
                result.share(entry.result)
            entry.result = result
            entry.fresh = result.invalid_at is None
            if entry.fresh:
                self._register(entry, outcome.reads)
        return result

    def _accept_system_failure(self, entry: LiveQuery, result: Result) -> Result:
        """It failed without reading anything, so no commit will ever revive it: try again by and by."""
        entry.failures += 1
        result.unsettled, result.invalid_at = True, result.ts
        if entry.retry is None:
            delay_s = min(RETRY_FIRST_S * 2 ** (entry.failures - 1), RETRY_MAX_S)
            entry.retry = asyncio.get_running_loop().call_later(delay_s, self._try_again, entry)
        return result

    def _try_again(self, entry: LiveQuery) -> None:
        entry.retry = None
        self._tell(entry)

    def _landed(self, entry: LiveQuery, result: Result, ts: int, done: Done, who: Principal) -> None:
        """A run somebody waited for has ended: take its result, or ask again at the moment they need."""
        if result.unsettled or result.valid_at(ts):
            done(entry, result)
        else:
            self.request(entry.query, ts, done, who)

    # ── validity ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def invalidate(self, entry: LiveQuery, ts: int) -> None:
        """A commit at `ts` touched what the entry's result read."""
        if not entry.fresh or entry.result is None or ts <= entry.result.ts:
            return
        entry.fresh = False
        entry.result.invalid_at = ts
        if entry.watchers:
            self._tell(entry)
        elif not entry.flights:
            self._drop(entry)

    def _tell(self, entry: LiveQuery) -> None:
        for on_stale in list(entry.watchers):
            who = on_stale(entry)
            if who is not None and self._wanted is not None and len(self._wanted) < _AHEAD_MAX and _is_steady(entry):
                self._wanted[entry] = who

    def _register(self, entry: LiveQuery, reads: ReadIntervals) -> None:
        if reads != entry.registered:
            self._subscriptions.discard(entry.registered, entry)
            self._subscriptions.add(reads, entry)
            entry.registered = reads

    # ── what is kept ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _key(self, query: Query, who: Principal) -> Key:
        personal = who.cache_key if query.path in self._personal else None
        return (query.path, query.args_key, personal, query.journal, is_inside(query, who))

    def _settle(self, entry: LiveQuery) -> None:
        """Nobody watches any more: keep the result while it is good for something."""
        if entry.flights or self._entries.get(entry.key) is not entry:
            return
        if not entry.fresh or entry.result is None:
            self._drop(entry)
            return
        size = 500 + len(entry.query.args_key) + len(entry.result.outcome.value) * 2
        self._forget_idle(entry)
        self._idle[entry] = size
        self._idle_bytes += size
        while self._idle_bytes > self._knobs.query_cache_bytes:
            self._drop(next(iter(self._idle)))

    def _touch(self, entry: LiveQuery) -> None:
        if entry in self._idle:
            self._idle.move_to_end(entry)

    def _forget_idle(self, entry: LiveQuery) -> None:
        self._idle_bytes -= self._idle.pop(entry, 0)

    def _let_go(self, entry: LiveQuery) -> None:
        """The shared entry of a query that looks at who calls: nothing here may answer anybody."""
        entry.result, entry.fresh = None, False
        self._subscriptions.discard(entry.registered, entry)
        entry.registered = {}
        if self._entries.get(entry.key) is entry:
            del self._entries[entry.key]

    def _drop(self, entry: LiveQuery) -> None:
        self._forget_idle(entry)
        if entry.retry is not None:
            entry.retry.cancel()
            entry.retry = None
        self._subscriptions.discard(entry.registered, entry)
        entry.registered = {}
        if self._entries.get(entry.key) is entry:
            del self._entries[entry.key]


def _is_steady(entry: LiveQuery) -> bool:
    """Whether its watchers will ask for this entry again, and not with the journal of its latest result."""
    return entry.result is not None and entry.result.outcome.journal == entry.query.journal


def _not_run(path: str, error: BaseException) -> Outcome:
    """What those who wait are told when a run raised, which is not what queries do when they fail."""
    if isinstance(error, FatalError):
        return Outcome.failed(FatalError(f"{path}: the store stopped before this was answered"), function=path)
    return broken("query", path, error)


def broken(what: str, path: str, error: BaseException) -> Outcome:
    """Nobody has foreseen this error: the log has all of it. `what`: a query, a call."""
    log.error("%s %s could not be run", what, path, exc_info=error)
    message = f"the {what} could not be run: {type(error).__name__}: {error}"
    return Outcome.failed(ErrorInfo("InternalServerError", message), function=path)
