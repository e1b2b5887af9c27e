"""Performs what sessions ask for: follows queries, runs functions, sends frames.

    frame in ─▶ Connection.receive ─▶ Session ─▶ effects ─▶ Hub: cache, runner ─▶ events ─▶ Session ─▶ … ─▶ frame out

A `Connection` is a session and its ends, whatever carries the frames: a WebSocket, a thread of the same process. The
`Hub` is what all connections of a deployment share.

Order:     everything happens on the event loop's thread, except the committer's call to `Subscriptions.on_commit`.
Invariant: what the subscriptions have processed has been marked in every session before any session begins a step;
           so a step's timestamp is `processed_ts`, and all queries not marked are valid at it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, assert_never

from cellstore.errors import CellstoreError, FatalError, Overloaded, Unauthenticated, ValidationError
from cellstore.knobs import Knobs
from cellstore.protocol.codec import decode_frame, encode_frame
from cellstore.protocol.messages import Action, Authenticate, Mutation
from cellstore.protocol.path import canonical
from cellstore.reactivity import session as machine
from cellstore.reactivity.parted import Parted
from cellstore.reactivity.principal import Principal
from cellstore.reactivity.query_cache import LiveQuery, QueryCache, broken
from cellstore.reactivity.result import Query, Result
from cellstore.reactivity.session import Effects, Session
from cellstore.reactivity.subscriptions import Subscriptions
from cellstore.runtime.outcome import Outcome, cancelled

if TYPE_CHECKING:
    from cellstore.runtime.runner import HttpSend, ProgressSink, Runner
    from cellstore.transaction.requests import Commit
    from cellstore.web import Request

log = logging.getLogger(__name__)

STOPPED = "InternalServerError: the store stopped; whether what was not answered has happened is unknown"
UNKNOWN = "the store stopped while this was under way: whether it happened is unknown; look when it is open again"

SendFrame = Callable[[bytes], "bool | None"]
"""Put one text frame on the wire. False: it is buffered, and `Connection.sent` will be called when it has left."""
CloseSocket = Callable[[int, str], None]
OnDone = Callable[[Outcome], None]
VerifyToken = Callable[[Authenticate], Awaitable[Principal]]
"""Who presents this token? Raises Unauthenticated."""


async def no_tokens(_request: Authenticate) -> Principal:
    """The verifier of a store that checks no tokens."""
    raise Unauthenticated("this store checks no tokens; connect to it through its server")


class Hub:
    """What the connections of one deployment share.

    Errors: functions that fail come back as outcomes; `FatalError` goes to `on_fatal`, which must stop the deployment. No
            connection is told of it as the end of its call: it is closed, and its client asks again once the store is back.
    """

    def __init__(
        self,
        runner: Runner,
        published_ts: int,
        knobs: Knobs,
        *,
        observe: Callable[[int, Principal], str | None] = lambda _ts, _who: None,
        on_fatal: Callable[[FatalError], None] = lambda _stop: None,
    ) -> None:
        self.knobs, self.runner = knobs, runner
        self.observe, self.on_fatal = observe, on_fatal
        self.subscriptions: Subscriptions[LiveQuery] = Subscriptions(self._wake, published_ts, knobs)
        self.cache = QueryCache(runner, self.subscriptions, knobs)
        self.subscriptions.listen(self.cache.invalidate, self._committed)
        self.connections: set[Connection] = set()
        self.parted = Parted(knobs.parted_results_bytes)
        self.running_calls = 0
        self.now_s: Callable[[], float] = time.time  # tokens expire by it
        self.monotonic_s: Callable[[], float] = time.monotonic  # frames are counted by it
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self._dirty: set[Connection] = set()
        self._awaiting_wake = False
        self._mutating: dict[tuple[str, int] | str, list[Connection]] = {}  # whose mutations are running: see `mutate`
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticker = self._loop.call_later(knobs.ping_interval_s, self._tick)

    def connect(
        self, send: SendFrame, close: CloseSocket, who: Principal, verify: VerifyToken = no_tokens
    ) -> Connection:
        """A new connection, let in as `who`. Errors: Overloaded when there are `connections_max` already."""
        if len(self.connections) >= self.knobs.connections_max:
            most = self.knobs.connections_max
            raise Overloaded(f"{most} clients are connected already (knob connections_max); come back later")
        connection = Connection(self, send, close, who, verify)
        self.connections.add(connection)
        return connection

    async def close(self) -> None:
        """Close every connection and end everything that runs for one."""
        self._ticker.cancel()
        for connection in list(self.connections):
            connection.close(1012, "ServerRestart")
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.cache.close()

    # ── calls ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def query(self, query: Query, who: Principal, ts: int | None = None) -> Outcome:
        """Ask once, at the newest moment or at `ts`; shares runs and results with live queries."""
        refused = who.refusal("read")
        if refused is not None:
            return Outcome.failed(refused, function=query.path)
        return (await self.cache.ask(query, who, ts)).outcome

    async def mutation(self, path: str, args: dict[str, Any], who: Principal) -> Outcome:
        """Run a mutation. Whoever asked may go, the mutation goes on."""
        answer: asyncio.Future[Outcome] = self._loop.create_future()

        def done(outcome: Outcome) -> None:
            if not answer.done():
                answer.set_result(outcome)

        self._start_mutation(path, args, who, None, done)
        return await answer

    def mutate(self, connection: Connection, call: Mutation, session: str | None, who: Principal, done: OnDone) -> None:
        """Run a mutation of a connection; it hears of the commit that may be it before `done` is told its outcome.

        A commit names the request it answers; where a client has no session, that it ran the same function must do.
        """
        path = canonical(call.path)
        request = None if session is None else (session, call.request_id)
        key = request or path
        self._mutating.setdefault(key, []).append(connection)

        def ended(outcome: Outcome) -> None:
            waiting = self._mutating[key]
            waiting.remove(connection)
            if not waiting:
                del self._mutating[key]
            done(outcome)

        self._start_mutation(path, call.args, who, request, ended)

    def _start_mutation(
        self, path: str, args: dict[str, Any], who: Principal, request: tuple[str, int] | None, done: OnDone
    ) -> None:
        """No task and no coroutine: thousands a second come this way."""
        refused = who.refusal("write")
        if refused is not None:
            done(Outcome.failed(refused, function=path))
            return
        self.running_calls += 1
        answer = asyncio.ensure_future(
            self.runner.mutation(path, args, identity=who.identity, request=request, internal=who.internal)
        )

        def ended(answer: asyncio.Future[Outcome]) -> None:
            self.running_calls -= 1
            if answer.cancelled():
                done(Outcome.failed(Overloaded("the store is stopping"), function=path))
                return
            error = answer.exception()
            done(answer.result() if error is None else self._failed(path, error))

        answer.add_done_callback(ended)

    async def action(
        self, path: str, args: dict[str, Any], who: Principal, on_progress: ProgressSink | None = None
    ) -> Outcome:
        """Run an action."""
        refused = who.refusal("write")
        if refused is not None:
            return Outcome.failed(refused, function=path)
        running = self.runner.action(path, args, identity=who.identity, on_progress=on_progress, internal=who.internal)
        return await self._guard(path, running)

    async def http(self, request: Request, who: Principal, send: HttpSend) -> Outcome:
        """Have an HTTP action answer."""
        refused = who.refusal("write")
        if refused is not None:
            return Outcome.failed(refused)
        return await self._guard(request.path, self.runner.http(request, identity=who.identity, send=send))

    async def _guard(self, path: str, running: Coroutine[Any, Any, Outcome]) -> Outcome:
        """What `running` comes to, whatever happens to it."""
        self.running_calls += 1
        try:
            return await running
        except Exception as error:  # noqa: BLE001 - whatever it was, its caller is told
            return self._failed(path, error)
        finally:
            self.running_calls -= 1

    def _failed(self, path: str, error: BaseException) -> Outcome:
        """What a caller is told whose call raised, which is not what functions do when they fail."""
        if isinstance(error, FatalError):
            self.halt()
            self.on_fatal(error)
            return Outcome.failed(FatalError(f"{path}: {UNKNOWN}", code="OutcomeUnknown"), function=path)
        if isinstance(error, CellstoreError):
            return Outcome.failed(error, function=path)
        return broken("call", path, error)

    def foresee(self, commits: Sequence[Commit]) -> None:
        """Commits are written, and the disk is still at work: begin the runs they call for.

        No session takes a step and no frame is made before they are durable and `_react` finds those runs under way.
        To be called on the loop's thread, from no session's step.
        """
        self.subscriptions.on_commit(commits)
        with self.cache.ahead():
            self.subscriptions.catch_up()

    def halt(self) -> None:
        """Whether the newest commits have happened is unknown: answer nobody, show nobody a moment that may never have been."""
        for connection in list(self.connections):
            connection.close(1011, STOPPED)

    # ── what connections need ─────────────────────────────────────────────────────────────────────────────────────────

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` in a task that `close` ends."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def dirty(self, connection: Connection) -> None:
        """`connection` holds marked queries; let it advance soon."""
        self._dirty.add(connection)
        self._wake()

    def _committed(self, commit: Commit) -> None:
        for connection in self._mutating.get(commit.request or commit.source, ()):
            connection.committed(commit.ts)

    def _wake(self) -> None:
        """Have `_react` called soon, once. Safe from any thread."""
        if self._awaiting_wake or self._loop.is_closed():
            return
        self._awaiting_wake = True
        if threading.get_ident() == self._thread:
            self._loop.call_soon(self._react)
        else:
            self._loop.call_soon_threadsafe(self._react)

    def _react(self) -> None:
        self._awaiting_wake = False
        self.subscriptions.catch_up()
        dirty, self._dirty = self._dirty, set()
        for connection in dirty:
            connection.advance()

    def _tick(self) -> None:
        self._ticker = self._loop.call_later(self.knobs.ping_interval_s, self._tick)
        for connection in list(self.connections):
            connection.tick()


class Connection:
    """A session and its ends. Frames go in by `receive`; what leaves goes through the `send` it was made with."""

    def __init__(self, hub: Hub, send: SendFrame, close: CloseSocket, who: Principal, verify: VerifyToken) -> None:
        self._hub, self._send, self._close_socket, self._verify = hub, send, close, verify
        self._session = Session(who, hub.knobs)
        self._followed: dict[int, LiveQuery] = {}  # query id to the entry whose end we want to hear of
        self._ids: dict[LiveQuery, set[int]] = {}  # and back
        self._acting: dict[int, asyncio.Task[None]] = {}  # running actions by request id
        self._effects: deque[machine.Effect] = deque()
        self._performing = False
        self._buffered: deque[tuple[int, bool]] = deque()  # frames not yet on the wire: bytes, is a transition
        self._buffered_bytes = 0
        self._second, self._frames = float("-inf"), 0  # when the present second began, and the frames in it

    @property
    def who(self) -> Principal:
        """On whose behalf messages are handled now."""
        return self._session.who

    def receive(self, frame: str | bytes) -> None:
        """A frame arrived. A malformed one closes the connection with a reason and harms nobody else."""
        if self._is_too_fast():
            self.close(1013, "TooManyRequests: frames came faster than frames_per_s_max allows")
            return
        try:
            message = decode_frame(frame, self._session.exact)
        except ValidationError as wrong:
            self._event(self._session.malformed, wrong.message)
            return
        self._event(self._session.received, message)

    def _is_too_fast(self) -> bool:
        now_s = self._hub.monotonic_s()
        if now_s - self._second >= 1.0:
            self._second, self._frames = now_s, 0
        self._frames += 1
        return self._frames > self._hub.knobs.frames_per_s_max

    def sent(self) -> None:
        """The oldest buffered frame has left."""
        if not self._buffered:
            return
        size, transition = self._buffered.popleft()
        self._buffered_bytes -= size
        if transition:
            self._event(self._session.flushed)

    def closed(self) -> None:
        """The other side is gone."""
        self._hub.connections.discard(self)
        self._event(self._session.gone)

    def close(self, code: int, reason: str) -> None:
        """Close from our side."""
        if not self._session.closed:
            self.closed()
            self._close_socket(code, reason)

    # ── called by the hub ─────────────────────────────────────────────────────────────────────────────────────────────

    def advance(self) -> None:
        self._event(self._session.advance)

    def committed(self, ts: int) -> None:
        self._session.committed(ts)

    def tick(self) -> None:
        self._event(self._session.tick)

    def on_stale(self, entry: LiveQuery) -> Principal | None:
        """The cache: a result we follow has ended. Who will ask for the next one at once, if somebody will."""
        self._session.mark(self._ids.get(entry, ()))
        self._hub.dirty(self)
        return self._session.who if self._session.has_room else None

    # ── events and effects ────────────────────────────────────────────────────────────────────────────────────────────

    def _event(self, event: Callable[..., Effects], *details: Any) -> None:
        """Tell the session, then do what it says; events met on the way queue behind."""
        self._hub.subscriptions.catch_up()
        expires_s = self._session.who.expires_s
        if expires_s is not None and self._hub.now_s() > expires_s and not self._session.closed:
            event, details = self._session.expired, ()
        effects = event(*details)
        if self._performing or not effects:
            self._effects.extend(effects)
            return
        self._effects.extend(effects)
        self._performing = True
        try:
            while self._effects:
                self._perform(self._effects.popleft())
        finally:
            self._performing = False

    def _perform(self, effect: machine.Effect) -> None:
        match effect:
            case machine.Send():
                self._put(encode_frame(effect.message), effect.transition)
            case machine.Refresh():
                self._refresh(effect)
            case machine.RunMutation():
                self._mutate(effect)
            case machine.RunAction():
                self._acting[effect.call.request_id] = self._hub.start(self._action(effect.call, effect.who))
            case machine.StopAction():
                running = self._acting.pop(effect.request_id, None)
                if running is not None:  # soon: a task that is cancelled before it began would never answer
                    asyncio.get_running_loop().call_soon(running.cancel)
            case machine.Release():
                for query_id in effect.query_ids:
                    self._unfollow(query_id)
            case machine.Part():
                self._hub.parted.keep(effect.session, effect.who, effect.shown)
            case machine.Recall():
                self._session.recalled(self._hub.parted.take(effect.session, effect.who))
            case machine.Verify():
                self._hub.start(self._authenticate(effect.request))
            case machine.HearOut():
                asyncio.get_running_loop().call_later(
                    self._hub.knobs.repeats_wait_s, self._event, self._session.heard_out
                )
            case machine.Observed():
                refused = self._hub.observe(effect.ts, self._session.who)
                if refused is not None:
                    self.close(1008, refused)
            case machine.Close():
                self._hub.connections.discard(self)
                self._close_socket(effect.code, effect.reason)
            case _:
                assert_never(effect)

    def _put(self, frame: bytes, transition: bool) -> None:
        if self._send(frame) is not False:
            if transition:
                self._effects.extend(self._session.flushed())  # `_event` performs them: it has called us
            return
        self._buffered.append((len(frame), transition))
        self._buffered_bytes += len(frame)
        if self._buffered_bytes > self._hub.knobs.unsent_bytes_max:
            self.close(1013, "SlowReader: too much was waiting to be read (knob unsent_bytes_max)")

    def _refresh(self, effect: machine.Refresh) -> None:
        """Bring some queries to the newest processed moment; the session hears of it when the last one is there."""
        ts = self._hub.subscriptions.processed_ts
        if not effect.queries:  # as after every mutation of a client that watches nothing
            self._effects.extend(self._session.refreshed(ts, {}))
            return
        results: dict[int, Result] = {}
        missing = set(effect.queries)

        def arrived(query_id: int, entry: LiveQuery, result: Result) -> None:
            results[query_id] = result
            missing.discard(query_id)
            self._follow(query_id, entry, result)
            if not missing and started:
                self._event(self._session.refreshed, ts, results)

        started = False
        for query_id, query in effect.queries.items():
            self._hub.cache.request(query, ts, _partial(arrived, query_id), effect.who)
        started = True
        if not missing:
            self._event(self._session.refreshed, ts, results)

    def _follow(self, query_id: int, entry: LiveQuery, result: Result) -> None:
        if not self._session.holds(query_id):
            return
        if self._followed.get(query_id) is not entry:
            self._unfollow(query_id)
            self._followed[query_id] = entry
            self._ids.setdefault(entry, set()).add(query_id)
            self._hub.cache.watch(entry, self.on_stale)
        if result.invalid_at is not None and not result.unsettled:  # true at the moment asked for, but no longer
            self._session.mark((query_id,))
            self._hub.dirty(self)

    def _unfollow(self, query_id: int) -> None:
        entry = self._followed.pop(query_id, None)
        if entry is None:
            return
        ids = self._ids[entry]
        ids.discard(query_id)
        if not ids:
            del self._ids[entry]
            self._hub.cache.release(entry, self.on_stale)

    def _mutate(self, effect: machine.RunMutation) -> None:
        request_id, done = effect.call.request_id, self._session.mutation_done
        self._hub.mutate(
            self, effect.call, effect.session, effect.who, lambda outcome: self._event(done, request_id, outcome)
        )

    async def _action(self, call: Action, who: Principal) -> None:
        def report(done: float, total: float | None, note: str) -> None:
            far = {"type": "ActionProgress", "requestId": call.request_id, "done": done, "total": total, "note": note}
            if not self._session.closed:
                self._put(encode_frame(far), False)

        sink = report if self._session.exact else None  # ours; others would not know what to make of it
        path = canonical(call.path)
        try:
            outcome = await self._hub.action(path, call.args, who, sink)
        except asyncio.CancelledError:
            if call.request_id in self._acting:  # not by its caller: the hub closes
                raise
            outcome = cancelled(path)
        self._acting.pop(call.request_id, None)
        self._event(self._session.action_done, call.request_id, outcome)

    async def _authenticate(self, request: Authenticate) -> None:
        try:
            who = await self._verify(request)
        except CellstoreError as refused:
            self._event(self._session.rejected, refused.message)
        except Exception:
            log.exception("a token could not be verified")
            self._event(self._session.rejected, "the token could not be verified; see the server's log")
        else:
            self._event(self._session.verified, who)


def _partial(arrived: Callable[[int, LiveQuery, Result], None], query_id: int) -> Callable[[LiveQuery, Result], None]:
    return lambda entry, result: arrived(query_id, entry, result)
