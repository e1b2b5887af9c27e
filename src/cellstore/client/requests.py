"""Mutations and actions in flight, and what becomes of them when the connection is lost.

    waiting ──send──▶ sent ──response──▶ answered ──transition with ts >= commit──▶ settled
       ▲               │ │                  (mutations only: its effects must be visible first)
       └── lost ───────┘ └── failure, or any action's answer ─────────────────────▶ settled

A lost connection sends mutations back to `waiting`: they go out again under the same session and request id, and the
store runs each at most once. Actions that were sent are over, in doubt: they touch the world, so nobody may repeat
them but the caller. An answered mutation is durable and is not sent again; it waits for the first transition.

Invariant: at most `window` requests of a kind are on the wire, fewer than the server's queue holds; requests of a
           kind are sent in the order they were made.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Literal

from cellstore.client.wire import Arguments, Failure, Frame, Kind, Outcome

State = Literal["waiting", "sent", "answered"]


@dataclass(slots=True)
class Request:
    """One call of a mutation or action."""

    request_id: int
    kind: Kind
    path: str
    args: Arguments = field(repr=False)
    state: State = "waiting"
    outcome: Outcome | None = None  # known once answered
    was_sent: bool = False  # on this or an earlier connection: it may have happened

    def frame(self) -> Frame:
        """What goes over the wire, the same at every attempt."""
        return {
            "type": "Mutation" if self.kind == "mutation" else "Action",
            "requestId": self.request_id,
            "udfPath": self.path,
            "args": [self.args],
        }


class Requests:
    """The calls whose end the caller has not heard yet."""

    def __init__(self, window: int) -> None:
        self.window = window
        self._open: dict[int, Request] = {}  # in the order of request ids, which is the order they were made
        self._waiting: dict[Kind, deque[Request]] = {"mutation": deque(), "action": deque()}
        self._answered: dict[int, Request] = {}
        self._sent: Counter[Kind] = Counter()
        self._next_id = 0

    def __len__(self) -> int:
        return len(self._open)

    def get(self, request_id: int) -> Request | None:
        """The request, while its end has not been heard."""
        return self._open.get(request_id)

    def start(self, kind: Kind, path: str, args: Arguments) -> Request:
        """A new request, not yet sent."""
        request = Request(self._next_id, kind, path, args)
        self._next_id += 1
        self._open[request.request_id] = request
        self._waiting[kind].append(request)
        return request

    def send_ready(self) -> list[Frame]:
        """The frames that may go out now; each counts as sent from here on."""
        frames = []
        for kind, queue in self._waiting.items():
            while queue and self._sent[kind] < self.window:
                request = queue.popleft()
                if request.request_id in self._open:  # not abandoned meanwhile
                    request.state, request.was_sent = "sent", True
                    self._sent[kind] += 1
                    frames.append(request.frame())
        return frames

    def answer(self, request_id: int, outcome: Outcome) -> Request | None:
        """The server answered; the request if it is settled by that. Answers nobody waits for are ignored."""
        request = self._open.get(request_id)
        if request is None or request.state != "sent":
            return None
        self._sent[request.kind] -= 1
        request.state, request.outcome = "answered", outcome
        if request.kind == "action" or outcome.failure is not None or outcome.ts is None:
            return self._open.pop(request_id)
        self._answered[request_id] = request
        return None

    def visible(self, ts: int) -> list[Request]:
        """Everything up to `ts` is on screen; the mutations settled by that."""
        done = [r for r in self._answered.values() if r.outcome is not None and (r.outcome.ts or 0) <= ts]
        for request in done:
            del self._open[request.request_id], self._answered[request.request_id]
        return done

    def lost(self) -> list[Request]:
        """The connection is gone; the actions that ended in doubt with it."""
        self._sent.clear()
        doubtful = [r for r in self._open.values() if r.kind == "action" and r.state == "sent"]
        for request in doubtful:
            request.outcome = Outcome(
                failure=Failure(
                    "Disconnected",
                    f"the connection was lost while the action {request.path} ran; it may or may not have finished. "
                    "Look at what it changed before you call it again.",
                )
            )
            del self._open[request.request_id]
        again = [r for r in self._open.values() if r.state == "sent"]
        for request in reversed(again):
            request.state = "waiting"
            self._waiting[request.kind].appendleft(request)
        return doubtful

    def abandon(self, request_id: int) -> bool:
        """The caller gave up: never send it again. True when it may have happened all the same."""
        request = self._open.pop(request_id, None)
        if request is None:
            return True
        self._answered.pop(request_id, None)
        if request.state == "sent":
            self._sent[request.kind] -= 1
        return request.was_sent

    def check(self) -> None:
        """The counters agree with the states, and the window holds."""
        for kind in self._waiting:
            sent = sum(r.kind == kind and r.state == "sent" for r in self._open.values())
            assert sent == self._sent[kind] <= self.window
            waiting = [r.request_id for r in self._waiting[kind] if r.request_id in self._open]
            assert waiting == [r.request_id for r in self._open.values() if r.kind == kind and r.state == "waiting"]
        assert {r.request_id for r in self._open.values() if r.state == "answered"} == set(self._answered)
        assert list(self._open) == sorted(self._open)
