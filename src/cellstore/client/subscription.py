"""What `subscribe` returns: the newest value of a query, for as long as somebody holds it.

    sub = db.subscribe(open_tasks, limit=5)
    sub.value                                   the newest result, None before the first
    sub.wait(lambda tasks: len(tasks) > 3)      blocks until a result satisfies
    for tasks in sub: …                         every new result; states may be skipped, never torn
    sub.close()                                 or leave its `with` block, or forget the object

Order:     values arrive on the client's loop thread; callbacks run one at a time on a thread of their own (or where
           `dispatch` puts them), so user code never blocks the connection. A slow callback sees only the newest value.
Invariant: a subscription without callback ends when nobody refers to it; one with a callback ends by `close`.
"""

from __future__ import annotations

import contextvars
import logging
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Self

from cellstore.client.errors_render import doorway, error_from
from cellstore.client.loop import WAIT_TICK_S
from cellstore.client.results import QueryResult
from cellstore.client.transport import Link, Watch
from cellstore.errors import CellstoreError, Disconnected

log = logging.getLogger("cellstore.client")

Status = Literal["loading", "live", "stale", "error", "closed"]
Dispatch = Callable[[Callable[[], None]], None]
"""Where callbacks run: takes a function and has it called soon, elsewhere."""


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
        self.is_closed = False

    def deliver(self, result: QueryResult) -> None:
        from cellstore.values.document import documents

        if result.failure is not None:
            error = error_from(result.failure, self.path)
            new = _State(self.state.number + 1, self.state.value, error)
        else:
            # the next patch is of the list the machine holds: what callers get, and may change, is another
            value = list(result.value) if type(result.value) is list else result.value
            new = _State(self.state.number + 1, documents(value))
        with self.changed:
            self.state = new
            self.changed.notify_all()
        if self.notify is not None:
            self.notify()


class Subscription:
    """A live query result."""

    def __init__(
        self,
        link: Link,
        path: str,
        args: dict[str, Any],
        callback: Callable[[Any], object] | None,
        dispatch: Dispatch,
    ) -> None:
        self.path, self.args = path, args
        self._link = link
        self._inbox = _Inbox(path)
        if callback is not None:
            self._inbox.notify = _Caller(self, self._inbox, callback, dispatch).poke
        self._watch: Watch = link.watch(path, args, self._inbox.deliver)
        self._finalizer = weakref.finalize(self, _end, self._inbox, self._watch)
        self._finalizer.atexit = False

    @property
    def value(self) -> Any:
        """The newest good result; None before the first."""
        return self._inbox.state.value

    @property
    def error(self) -> CellstoreError | None:
        """Why the newest run failed; None when it did not."""
        return self._inbox.state.error

    @property
    def ts(self) -> int | None:
        """A moment at which the value is valid: the newest the client stands at. None before the first result."""
        return self._link.ts if self._inbox.state.number else None

    @property
    def status(self) -> Status:
        """loading, live, stale (the connection is away), error, closed."""
        if self._inbox.is_closed or self._link.state == "closed":
            return "closed"
        if self._inbox.state.number == 0:
            return "loading"
        if self._link.state != "connected":
            return "stale"
        return "error" if self._inbox.state.error is not None else "live"

    def wait(self, predicate: Callable[[Any], object] | None = None, timeout: float | None = None) -> Any:
        """The first value (the present one included) that satisfies `predicate`; any, without one.

        Errors: TimeoutError after `timeout` seconds; the query's own error when its run fails meanwhile; Disconnected
        when the subscription is closed.
        """
        seen, deadline = -1, None if timeout is None else time.monotonic() + timeout
        with doorway():
            while True:
                state = self._newer_than(max(seen, 0), deadline) if seen >= 0 else self._first(deadline)
                if state.error is not None:
                    raise state.error
                if predicate is None or predicate(state.value):
                    return state.value
                seen = state.number

    def __iter__(self) -> Iterator[Any]:
        """The present value, then every new one; ends when the subscription is closed. Errors: the query's own."""
        seen = 0
        while True:
            try:
                state = self._newer_than(seen, None)
            except Disconnected:
                return
            if state.error is not None:
                with doorway():
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

    def _first(self, deadline: float | None) -> _State:
        state = self._inbox.state
        return state if state.number else self._newer_than(0, deadline)

    def _newer_than(self, number: int, deadline: float | None) -> _State:
        """The next state after `number`, waited for in steps that Ctrl-C can interrupt."""
        inbox = self._inbox
        with inbox.changed:
            while inbox.state.number <= number:
                if inbox.is_closed or self._link.state == "closed":
                    raise self._link.problem or Disconnected("this subscription is closed")
                left = WAIT_TICK_S if deadline is None else min(WAIT_TICK_S, deadline - time.monotonic())
                if left <= 0:
                    raise TimeoutError(f"{self.path}: no such value came in time; status is {self.status}")
                inbox.changed.wait(left)
            return inbox.state


def _end(inbox: _Inbox, watch: Watch) -> None:
    inbox.is_closed, inbox.notify = True, None
    watch.close()
    with inbox.changed:
        inbox.changed.notify_all()


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
        if state.error is not None:
            self._context.run(log.warning, "live query %s failed: %s", self._inbox.path, state.error.message)
            return
        try:
            self._context.run(self._callback, state.value)
        except Exception as error:  # the callback's task ends here; the subscription goes on
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
