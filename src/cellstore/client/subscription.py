"""What `subscribe` returns: the newest value of a query, for as long as somebody holds it.

    sub = db.subscribe(open_tasks, limit=5)
    sub.value                                   the newest result, None before the first
    sub.until(lambda tasks: len(tasks) > 3)     blocks until a result satisfies; also `wait`, and `await sub.auntil(…)`
    for tasks in sub: …                         every new result; states may be skipped, never torn
    async for tasks in sub: …                   the same on the caller's own event loop
    sub.close()                                 or leave its `with` block, or forget the object

Order:     values arrive on the client's loop thread; callbacks run one at a time on a thread of their own (or where
           `dispatch` puts them), so user code never blocks the connection. A slow callback sees only the newest value.
Invariant: a subscription without callback ends when nobody refers to it; one with a callback ends by `close`. Whoever
           waits is woken by every new result and by every change of `status`.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import queue
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Self

from cellstore.client.errors_render import doorway, error_from
from cellstore.client.loop import WAIT_TICK_S
from cellstore.client.results import QueryResult, same_result
from cellstore.client.transport import Link, Watch
from cellstore.errors import CallerError, CellstoreError, Disconnected

log = logging.getLogger("cellstore.client")

Status = Literal["loading", "live", "stale", "error", "closed"]
Dispatch = Callable[[Callable[[], None]], None]
"""Where callbacks run: takes a function and has it called soon, elsewhere."""
on_made: list[
    Callable[[Subscription], object]
] = []  # hear of every new subscription; a kernel ends them with their cell


@dataclass(slots=True)
class _State:
    """What the loop thread writes and everybody reads, replaced as a whole."""

    number: int = 0  # results so far
    value: Any = None
    error: CellstoreError | None = None


class _Inbox:
    """Receives results on the loop thread; holds nothing that keeps the subscription alive."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.state = _State()
        self.changed = threading.Condition()
        self.notify: Callable[[], None] | None = None
        self.wakers: set[Callable[[], None]] = set()  # of those who wait on an event loop
        self.turns = 0  # results and changes of status so far
        self.is_closed = False
        self.newest: QueryResult | None = None

    def deliver(self, result: QueryResult) -> None:
        """A new result; or only the log lines are new, which nobody waits for."""
        before, self.newest = self.newest, result
        if same_result(before, result):
            return
        if result.failure is not None:
            self.put(self.state.value, error_from(result.failure, self.path))
        else:
            self.put(presented(result.value))

    def put(self, value: Any, error: CellstoreError | None = None) -> None:
        """A new state."""
        with self.changed:
            self.state = _State(self.state.number + 1, value, error)
        self.wake()
        if self.notify is not None:
            self.notify()

    def wake(self) -> None:
        """Something may look different: have everybody who waits look again."""
        with self.changed:
            self.turns += 1
            self.changed.notify_all()
            wakers = tuple(self.wakers)
        for waker in wakers:
            waker()


def presented(value: Any) -> Any:
    """A result as callers get it. The next patch is of the list the machine holds; this one they may change."""
    from cellstore.values.document import documents

    return documents(list(value) if type(value) is list else value)


class Subscription:
    """A live query result."""

    def __init__(
        self,
        link: Link,
        path: str,
        args: dict[str, Any],
        callback: Callable[[Any], object] | None,
        dispatch: Dispatch,
        before: Callable[[], None] | None = None,
    ) -> None:
        """`before` is done first, on a thread; what it raises is the subscription's error, and nothing is followed."""
        self.path, self.args = path, args
        self._link = link
        self._inbox = _Inbox(path)
        if callback is not None:
            self._inbox.notify = _Caller(self, self._inbox, callback, dispatch).poke
        watches: list[Watch] = []
        if before is None:
            self._follow(watches)
        else:
            context = contextvars.copy_context()
            threading.Thread(target=context.run, args=(self._follow_after, before, watches), daemon=True).start()
        self._finalizer = weakref.finalize(self, _end, self._inbox, watches)
        self._finalizer.atexit = False
        for listener in tuple(on_made):
            listener(self)

    def _follow_after(self, before: Callable[[], None], watches: list[Watch]) -> None:
        try:
            before()
            self._follow(watches)
        except CellstoreError as error:
            self._inbox.put(None, error)
        except Exception as error:
            log.exception("%s cannot be followed", self.path)
            self._inbox.put(None, CellstoreError(f"{self.path} cannot be followed: {type(error).__name__}: {error}"))

    def _follow(self, watches: list[Watch]) -> None:
        with self._inbox.changed:
            if not self._inbox.is_closed:
                watches += self._begin(self._link)
            for watch in watches:
                watch.on_state = self._inbox.wake

    def _begin(self, link: Link) -> list[Watch]:
        """What is followed, from here on."""
        return [link.watch(self.path, self.args, self._inbox.deliver)]

    @property
    def value(self) -> Any:
        """The newest good result; None before the first."""
        return self._inbox.state.value

    @property
    def error(self) -> CellstoreError | None:
        """Why the newest run failed; None when it did not."""
        return self._inbox.state.error

    @property
    def logs(self) -> tuple[str, ...]:
        """What the newest run printed, logged and warned of: `"[LEVEL] text"`, as in the log stream. Printed before `callback`
        is called."""
        newest = self._inbox.newest
        return () if newest is None else newest.logs

    @property
    def ts(self) -> int | None:
        """A moment at which the value is valid: the newest the client stands at. None before the first result."""
        return self._link.ts if self._inbox.state.number else None

    @property
    def status(self) -> Status:
        """loading, live, stale (the connection is away), error, closed."""
        if self._inbox.is_closed or self._link.is_closed:
            return "closed"
        if self._inbox.state.number == 0:
            return "loading"
        if self._link.state != "connected":
            return "stale"
        return "error" if self._inbox.state.error is not None else "live"

    def wait(self, predicate: Callable[[Any], object] | None = None, timeout: float | None = None) -> Any:
        """The first value (the present one included) that satisfies `predicate`; any, without one.

        The predicate is asked again with every new value and whenever `status` changes. It runs on the caller's thread.
        Errors: TimeoutError after `timeout` seconds; the query's own error when its run fails meanwhile; Disconnected
        when the subscription is closed.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with doorway():
            while True:
                turn, state = self._inbox.turns, self._inbox.state
                if self._satisfied(state, predicate):
                    return state.value
                self._turned(turn, deadline)

    def until(self, predicate: Callable[[Any], object], timeout: float | None = None) -> Any:
        """`wait`, with something to wait for."""
        return self.wait(predicate, timeout)

    async def auntil(self, predicate: Callable[[Any], object] | None = None, timeout: float | None = None) -> Any:
        """As `wait`, on the caller's event loop."""
        with doorway():
            async with asyncio.timeout(timeout):
                with self._bell() as bell:
                    while True:
                        state = self._inbox.state
                        if self._satisfied(state, predicate):
                            return state.value
                        self._check_open()
                        await bell.wait()
                        bell.clear()

    def __iter__(self) -> Iterator[Any]:
        """The present value, then every new one; ends when the subscription is closed. Errors: the query's own."""
        seen = 0
        while True:
            turn, state = self._inbox.turns, self._inbox.state
            if state.number == seen:
                try:
                    self._turned(turn, None)
                except Disconnected:
                    return
                continue
            if state.error is not None:
                with doorway():
                    raise state.error
            seen = state.number
            yield state.value

    async def __aiter__(self) -> AsyncIterator[Any]:
        """As iteration, on the caller's event loop."""
        seen = 0
        with self._bell() as bell:
            while True:
                state = self._inbox.state
                if state.number == seen:
                    if self._is_over():
                        return
                    await bell.wait()
                    bell.clear()
                    continue
                if state.error is not None:
                    raise state.error
                seen = state.number
                yield state.value

    def close(self) -> None:
        """Hear no more. Again is fine."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Subscription {self.path} {self.status}: {self.value!r}>"

    def _satisfied(self, state: _State, predicate: Callable[[Any], object] | None) -> bool:
        if predicate is not None and not callable(predicate):
            raise CallerError(
                f"a condition is a function of the value, not {predicate!r}; seconds go by name: timeout=10"
            )
        if state.error is not None:
            raise state.error
        return state.number > 0 and (predicate is None or bool(predicate(state.value)))

    def _is_over(self) -> bool:
        return self._inbox.is_closed or self._link.is_closed

    def _check_open(self) -> None:
        if self._is_over():
            self._link.check_process()
            raise self._link.problem or Disconnected("this subscription is closed")

    def _turned(self, turn: int, deadline: float | None) -> None:
        """Wait until something happens after `turn`, in steps that Ctrl-C can interrupt."""
        inbox = self._inbox
        self._link.check_process()  # before the lock, which may be held for ever there
        with inbox.changed:
            while inbox.turns == turn:
                self._check_open()
                left = WAIT_TICK_S if deadline is None else min(WAIT_TICK_S, deadline - time.monotonic())
                if left <= 0:
                    raise TimeoutError(f"{self.path}: no such value came in time; status is {self.status}")
                inbox.changed.wait(left)
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"{self.path}: no such value came in time; status is {self.status}")

    @contextlib.contextmanager
    def _bell(self) -> Iterator[asyncio.Event]:
        """An event of the running loop, set whenever something happens."""
        bell, loop = asyncio.Event(), asyncio.get_running_loop()

        def ring() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(bell.set)

        self._inbox.wakers.add(ring)
        try:
            yield bell
        finally:
            self._inbox.wakers.discard(ring)


class Together(Subscription):
    """Several queries as one: `value` is a dict of their values, always of one moment.

    A commit that changes several of them is one new value. None before all of them have their first result; while one
    fails, `error` is its error.
    """

    def __init__(
        self,
        link: Link,
        queries: dict[str, tuple[str, dict[str, Any]]],
        callback: Callable[[Any], object] | None,
        dispatch: Dispatch,
        before: Callable[[], None] | None = None,
    ) -> None:
        self.queries = queries
        super().__init__(link, " + ".join(path for path, _ in queries.values()), {}, callback, dispatch, before)

    def _begin(self, link: Link) -> list[Watch]:
        heard = _Heard(self._inbox, dict.fromkeys(self.queries))
        watches = [link.watch(path, args, heard.listener(name)) for name, (path, args) in self.queries.items()]
        watches[0].on_step = heard.stepped
        link.thread.call_soon(heard.stepped)  # for what came before we listened
        return watches


class _Heard:
    """What the queries of a set came to; becomes one state when a step is complete."""

    def __init__(self, inbox: _Inbox, results: dict[str, QueryResult | None]) -> None:
        self._inbox, self._results, self._is_new = inbox, results, False

    def listener(self, name: str) -> Callable[[QueryResult], None]:
        """Takes the results of one query."""

        def deliver(result: QueryResult) -> None:
            self._is_new = self._is_new or not same_result(self._results[name], result)
            self._results[name] = result

        return deliver

    def stepped(self) -> None:
        """All results are of one moment now."""
        heard = {name: result for name, result in self._results.items() if result is not None}
        if not self._is_new or len(heard) < len(self._results):
            return
        self._is_new = False
        failed = [result.failure for result in heard.values() if result.failure is not None]
        if failed:
            self._inbox.put(self._inbox.state.value, error_from(failed[0], self._inbox.path))
        else:
            self._inbox.put({name: presented(result.value) for name, result in heard.items()})


def _end(inbox: _Inbox, watches: list[Watch]) -> None:
    with inbox.changed:  # nothing more is followed from here on
        inbox.is_closed, inbox.notify = True, None
    for watch in watches:
        watch.close()
    inbox.wake()


class _Caller:
    """Calls a user's callback with the newest value, never twice at once, in the context of the subscriber."""

    def __init__(
        self, owner: Subscription, inbox: _Inbox, callback: Callable[[Any], object], dispatch: Dispatch
    ) -> None:
        self._owner = owner  # so that it lives until it is closed, held or not
        self._inbox, self._callback, self._dispatch = inbox, callback, dispatch
        self._context = contextvars.copy_context()  # so that what it prints appears under the cell that subscribed
        self._lock = threading.Lock()
        self._scheduled = False
        self._called = 0

    def poke(self) -> None:
        """A new state is there."""
        with self._lock:
            if self._scheduled:
                return
            self._scheduled = True
        self._dispatch(self._run)

    def _run(self) -> None:
        with self._lock:
            self._scheduled = False
        state = self._inbox.state
        if self._inbox.is_closed or state.number == self._called:
            return
        self._called = state.number
        for line in self._owner.logs:
            self._context.run(print, line.removeprefix("[LOG] "))
        if state.error is not None:
            self._context.run(log.warning, "live query %s failed: %s", self._inbox.path, state.error.message)
            return
        try:
            self._context.run(self._callback, state.value)
        except Exception as error:  # noqa: BLE001 - the callback's task ends here; the subscription goes on
            said_by(self._context, error, f"the callback of live query {self._inbox.path} raised")


def said_by(context: contextvars.Context, error: Exception, what: str) -> None:
    """Log what user code raised, its own frames only, where the output of `context` goes: under the subscribing cell."""
    below = error.__traceback__.tb_next if error.__traceback__ is not None else None
    context.run(log.error, what, exc_info=(type(error), error, below))


class CallbackThread:
    """The default `dispatch`: one daemon thread, started at the first callback."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def __call__(self, job: Callable[[], None]) -> None:
        """Have `job` called soon."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="cellstore-callbacks", daemon=True)
                self._thread.start()
        self._jobs.put(job)

    def stop(self) -> None:
        """No more callbacks after those already queued."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
