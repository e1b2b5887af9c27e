"""From the client's thread to where things may happen.

    client thread ── result ──▶ newest state kept, traits readable at once
                     ├─▶ main loop: observers, blocks of views         between cells, never beside one
                     └─▶ relay: one message per commit                 where the page cannot hear the server itself

A relay's step holds every result that one commit changed, so widgets of a page move together. Steps are numbered: a
page that misses one asks for all. At most one every 50 ms; Jupyter drops messages beyond a rate.

Order:     `deliver` and `flush` run on the client's loop thread; `want` and `call` on whatever thread Jupyter chose for
           a widget's message, and they do not block.
Invariant: a step is built and sent under the relay's lock, so no page is ever sent an older state after a newer one.
"""

from __future__ import annotations

import sys
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from cellstore.client.database import Database
from cellstore.client.discovery import RUNGS
from cellstore.client.results import QueryResult
from cellstore.client.wire import Failure, Outcome
from cellstore.errors import CellstoreError
from cellstore.values import json as native

if TYPE_CHECKING:
    from cellstore.client.transport import LinkState

STEP_INTERVAL_S = 0.05
OWN_RUNGS = frozenset(RUNGS[name] for name in ("environment", "parent", "kernel id"))
Job = Callable[[], None]


class MainLoop:
    """Runs jobs on the kernel's main loop, between cells."""

    def __init__(self, io_loop: Any) -> None:
        self._loop = io_loop

    def __call__(self, job: Job) -> None:
        """Have `job` called soon. From any thread."""
        self._loop.add_callback(job)

    def later(self, delay_s: float, job: Job) -> None:
        """Have `job` called after `delay_s`. From the main loop only."""
        self._loop.call_later(delay_s, job)


def main_loop() -> MainLoop | None:
    """The main loop of the kernel we are in; None in a script or a terminal."""
    kernel = getattr(shell(), "kernel", None)
    io_loop = getattr(kernel, "io_loop", None)
    return MainLoop(io_loop) if io_loop is not None else None


def shell() -> Any:
    """The IPython shell we are in, if any, without importing IPython for the question."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None


def query_key(path: str, args: str) -> str:
    """What names a query in steps; `args` is native JSON. The page builds the same."""
    return f"{path}\0{args}"


def failure_json(error: CellstoreError | Failure) -> dict[str, Any]:
    """An error as pages read it: code, message, data?, traceback, function, class where the code is a finer one."""
    if isinstance(error, Failure):
        body: dict[str, Any] = {
            "code": error.code,
            "message": error.message,
            "traceback": error.traceback,
            "function": error.function,
            "class": error.kind,
        }
        return {**body, "data": error.data} if error.has_data else body
    body = {
        "code": error.code,
        "message": error.message,
        "traceback": getattr(error, "traceback", "") or "\n".join(getattr(error, "__notes__", ())),
        "function": getattr(error, "function", ""),
        "class": type(error).__name__ if error.code != type(error).__name__ else "",
    }
    return {**body, "data": error.data} if error.data is not None else body


class Carrier(Protocol):
    """A widget that can carry a relay's messages to its page."""

    def carry(self, content: dict[str, Any], octets: bytes) -> bool:
        """Send; False when its channel is closed."""
        ...


@dataclass(slots=True)
class Relay:
    """Carries one database's values to pages that cannot hear its server, and their calls back."""

    database: Database
    eager: bool  # send from the start; else only once a page has asked
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _carriers: list[Carrier] = field(default_factory=list)
    _newest: dict[str, QueryResult] = field(default_factory=dict)
    _changed: set[str] = field(default_factory=set)
    _calls: dict[str, Future[Outcome]] = field(default_factory=dict)  # of pages, by their ids
    _number: int = 0
    _planned: bool = False
    _sent_at: float = 0.0

    def join(self, carrier: Carrier) -> None:
        """One more widget lives off this relay."""
        with self._lock:
            self._carriers.append(carrier)

    def leave(self, carrier: Carrier) -> None:
        """One fewer. With the last one the results go too."""
        with self._lock:
            self._carriers = [each for each in self._carriers if each is not carrier]
            if not self._carriers:
                self._newest.clear()
                self._changed.clear()

    def deliver(self, key: str, result: QueryResult) -> None:
        """A query has a new result."""
        with self._lock:
            self._newest[key] = result
            self._changed.add(key)
            self._plan()

    def state_changed(self, _state: LinkState) -> None:
        """The database's connection came or went."""
        with self._lock:
            self._plan()

    def want(self, keys: list[str] | None) -> None:
        """A page asks for the newest results of `keys`, or of all: it missed something, or has just come."""
        with self._lock:
            self.eager = True
            wanted = [key for key in (self._newest if keys is None else keys) if key in self._newest]
            self._send(wanted, full=True)

    def say_gone(self) -> None:
        """The database is closed: pages that live off this relay show it."""
        with self._lock:
            for carrier in reversed(self._carriers):
                if carrier.carry({"kind": "gone"}, b""):
                    return

    def call(self, carrier: Carrier, call_id: str, kind: str, path: str, args: str) -> None:
        """A page calls a function; the answer goes back to it when its effects are visible."""

        def answered(future: Future[Outcome]) -> None:
            self._calls.pop(call_id, None)
            carrier.carry({"kind": "reply"}, native.dumps({"id": call_id, **reply_of(future)}))

        def report(done: float, total: float | None, note: str) -> None:
            far = {"id": call_id, "done": done, "total": total, "note": note}
            carrier.carry({"kind": "progress"}, native.dumps(far))

        link = self.database.link
        try:
            future = link.request("action" if kind == "action" else "mutation", path, native.loads(args), report)
            self._calls[call_id] = future
        except CellstoreError as error:
            future = Future()
            future.set_exception(error)
        future.add_done_callback(answered)

    def stop(self, call_id: str) -> None:
        """A page wants an action to stop that it called; its answer comes all the same."""
        if call_id in self._calls:
            self.database.link.stop(self._calls[call_id])

    def _plan(self) -> None:
        """Flush soon: everything of this commit, and no more often than every `STEP_INTERVAL_S`."""
        if self._planned or not self.eager or not self._carriers or not self.database.link.thread.is_usable:
            return
        self._planned = True
        delay = max(0.0, self._sent_at + STEP_INTERVAL_S - time.monotonic())
        loop = self.database.link.thread.loop
        loop.call_soon_threadsafe(lambda: loop.call_later(delay, self._flush) if delay else loop.call_soon(self._flush))

    def _flush(self) -> None:
        with self._lock:
            self._planned = False
            self._sent_at = time.monotonic()
            changed, self._changed = self._changed, set()
            self._number += 1
            self._send([key for key in changed if key in self._newest], full=False)

    def _send(self, keys: list[str], full: bool) -> None:
        body = {
            "number": self._number,
            "full": full,
            "ts": str(self.database.link.ts),
            "link": self.database.link.state,
            "results": [result_json(key, self._newest[key]) for key in keys],
        }
        octets = native.dumps(body)
        for carrier in reversed(self._carriers):
            if carrier.carry({"kind": "step"}, octets):
                return


def result_json(key: str, result: QueryResult) -> dict[str, Any]:
    """One result in a step."""
    return {"key": key, **_told(result)}


def reply_of(future: Future[Outcome]) -> dict[str, Any]:
    """What a call came to."""
    error = future.exception()
    if isinstance(error, CellstoreError):
        return {"error": failure_json(error)}
    if error is not None:
        return {"error": {"code": "InternalError", "message": f"the call could not be made: {error!r}"}}
    return _told(future.result())


def _told(came: QueryResult | Outcome) -> dict[str, Any]:
    """What a run came to, and what it said."""
    body = {"value": came.value} if came.failure is None else {"error": failure_json(came.failure)}
    return {**body, "logs": list(came.logs)} if came.logs else body


def is_own(database: Database) -> bool:
    """Was this kernel started by the server it uses? Then the notebook's page comes from there too."""
    return database.rung in OWN_RUNGS


_relays: dict[Database, Relay] = {}
_relays_lock = threading.Lock()


def relay_of(database: Database) -> Relay:
    """The one relay of a database."""
    with _relays_lock:
        relay = _relays.get(database)
        if relay is None:
            relay = _relays[database] = Relay(database, eager=not is_own(database))
            database.link.on_state.append(relay.state_changed)
            database.on_closed.append(_forget)
        return relay


def _forget(database: Database) -> None:
    with _relays_lock:
        relay = _relays.pop(database, None)
    if relay is not None:
        relay.say_gone()
