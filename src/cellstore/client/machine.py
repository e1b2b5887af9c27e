"""One client as a pure machine: an event goes in, effects come out, and a thin shell performs them.

It knows no sockets, threads or clocks. Events are what the user wants (`subscribe`, `unsubscribe`, `request`,
`abandon`) and what happens on the wire (`opened`, `received`, `lost`). Every method returns the effects in the order
they are to be performed:

    Send      a frame, to be written as text
    Stepped   one consistent moment: its timestamp and every result that differs from before
    Settled   a request is over; its outcome
    Progressed  how far a running action says it is
    Restart   the server is out of step: drop this connection and dial again
    Stop      dialling again cannot help (a refused identity, a fatal error)

Order:     effects of one transition are one `Stepped`, then the mutations it made visible: who waits for a mutation
           and then looks at a live value sees the effect.
Invariant: frames are sent only between `opened` and `lost`; on opening, everything the server must know is said again.
Source:    wire-protocol of Convex's sync clients, with `"exact": true`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cellstore.client.query_set import QuerySet, add, remove
from cellstore.client.requests import Request, Requests
from cellstore.client.results import QueryResult, Results
from cellstore.client.wire import (
    Arguments,
    Frame,
    Kind,
    Outcome,
    ProtocolError,
    decode_frame,
    read_response,
)
from cellstore.errors import CellstoreError, FatalError, Unauthenticated, ValidationError
from cellstore.protocol.version import encode_ts

REQUESTS_ON_THE_WIRE = 500  # half of what the server queues per connection, so a resend never overflows it


@dataclass(frozen=True, slots=True)
class Send:
    """Write this frame."""

    frame: Frame


@dataclass(frozen=True, slots=True)
class Stepped:
    """Everything on screen is now of `ts`; `changed` holds the results that look different."""

    ts: int
    changed: dict[int, QueryResult]


@dataclass(frozen=True, slots=True)
class Settled:
    """A request is over."""

    request_id: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Restart:
    """Drop the connection and dial again."""

    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Dialling again cannot help."""

    error: CellstoreError


@dataclass(frozen=True, slots=True)
class Progressed:
    """How far a running action is."""

    request_id: int
    done: float
    total: float | None
    note: str


Effect = Send | Stepped | Settled | Restart | Stop | Progressed


@dataclass(slots=True)
class Machine:
    """The state of one client over all its connections."""

    session_id: str  # a uuid, fixed for the client's life: the store recognises resent mutations by it
    now_ms: Callable[[], int]
    queries: QuerySet = field(default_factory=QuerySet)
    results: Results = field(default_factory=Results)
    requests: Requests = field(default_factory=lambda: Requests(REQUESTS_ON_THE_WIRE))
    is_open: bool = False
    connection_count: int = 0  # successful openings before the present one
    last_close_reason: str = "InitialConnect"
    observed_ts: int = 0  # the newest timestamp any frame told us; the server never answers from before it
    _chunks: list[str] = field(default_factory=list)

    # what the user wants

    def subscribe(self, path: str, args: dict[str, Any]) -> tuple[int, list[Effect]]:
        """Watch a query; (its id, effects). Equal (path, args) share an id."""
        query, is_new = self.queries.acquire(path, args)
        if not (is_new and self.is_open):
            return query.query_id, []
        return query.query_id, [Send(self.queries.modify([add(query)]))]

    def unsubscribe(self, query_id: int) -> list[Effect]:
        """One watcher of the query is gone."""
        if not self.queries.release(query_id):
            return []
        self.results.forget(query_id)
        return [Send(self.queries.modify([remove(query_id)]))] if self.is_open else []

    def request(self, kind: Kind, path: str, args: Arguments) -> tuple[int, list[Effect]]:
        """Call a mutation or action; (request id, effects). Held back while there is no connection."""
        request = self.requests.start(kind, path, args)
        return request.request_id, self._send_ready()

    def stop(self, request_id: int) -> list[Effect]:
        """Have a running action stopped. Its answer comes all the same; a mutation cannot be stopped."""
        request = self.requests.get(request_id)
        if request is None or request.kind != "action" or request.state != "sent" or not self.is_open:
            return []
        return [Send({"type": "CancelAction", "requestId": request_id})]

    def abandon(self, request_id: int) -> bool:
        """The caller no longer waits: a request not sent yet never will be. True when it may have happened."""
        return self.requests.abandon(request_id)

    # what happens on the wire

    def opened(self) -> list[Effect]:
        """A connection stands: say everything the server must know."""
        assert not self.is_open, "a connection was opened while another stands"
        self.is_open = True
        connect: Frame = {
            "type": "Connect",
            "sessionId": self.session_id,
            "connectionCount": self.connection_count,
            "lastCloseReason": self.last_close_reason,
            "clientTs": self.now_ms(),
            "exact": True,
            "deltas": True,
        }
        if self.observed_ts:
            connect["maxObservedTimestamp"] = encode_ts(self.observed_ts)
        return [Send(connect), Send(self.queries.everything(self.results)), *self._send_ready()]

    def lost(self, reason: str) -> list[Effect]:
        """The connection is gone. Results stay; actions in flight end in doubt."""
        if not self.is_open:
            return []
        self.is_open = False
        self.connection_count += 1
        self.last_close_reason = reason
        self.queries.reset()
        self.results.reset()
        self._chunks.clear()
        return settled(self.requests.lost())

    def received(self, text: str | bytes) -> list[Effect]:
        """A message arrived."""
        try:
            return self._understand(decode_frame(text))
        except (ProtocolError, ValidationError) as error:
            return [Restart(str(error))]

    def _understand(self, frame: Frame) -> list[Effect]:
        match frame["type"]:
            case "Transition":
                return self._transition(frame)
            case "TransitionChunk":
                return self._chunk(frame)
            case "MutationResponse" | "ActionResponse":
                return self._response(frame)
            case "ActionProgress":
                return [Progressed(frame["requestId"], frame["done"], frame.get("total"), str(frame.get("note") or ""))]
            case "AuthError":
                return [Stop(Unauthenticated(str(frame.get("error") or "the server refused our credentials")))]
            case "FatalError":
                return [Stop(FatalError(str(frame.get("error") or "the server gave up on this connection")))]
            case _:  # Ping, and whatever a newer server adds: being heard is enough
                return []

    def _transition(self, frame: Frame) -> list[Effect]:
        changed = self.results.apply(frame)
        self.observed_ts = max(self.observed_ts, self.results.ts)
        for query_id in [q for q in changed if self.queries.get(q) is None]:  # released while this was under way
            del changed[query_id]
            self.results.forget(query_id)
        return [
            Stepped(self.results.ts, changed),
            *settled(self.requests.visible(self.results.version.ts)),
            *self._send_ready(),
        ]

    def _chunk(self, frame: Frame) -> list[Effect]:
        part, total = frame.get("partNumber"), frame.get("totalParts")
        if part != len(self._chunks) or not isinstance(frame.get("chunk"), str) or not isinstance(total, int):
            raise ProtocolError(f"chunk {part} of {total} arrived out of order")
        self._chunks.append(frame["chunk"])
        if len(self._chunks) < total:
            return []
        text = "".join(self._chunks)
        self._chunks.clear()
        return self._understand(decode_frame(text))

    def _response(self, frame: Frame) -> list[Effect]:
        outcome = read_response(frame)
        self.observed_ts = max(self.observed_ts, outcome.ts or 0)
        request_id = frame.get("requestId")
        if not isinstance(request_id, int):
            raise ProtocolError(f"a response names no request: {request_id!r}")
        request = self.requests.answer(request_id, outcome)
        done = settled([request]) if request is not None else []
        if request is None and outcome.ts is not None:  # its transition may already be here
            done = settled(self.requests.visible(self.results.version.ts))
        return [*done, *self._send_ready()]

    def _send_ready(self) -> list[Effect]:
        return [Send(frame) for frame in self.requests.send_ready()] if self.is_open else []

    def check(self) -> None:
        """Walks the whole machine; AssertionError when an invariant is broken."""
        self.queries.check()
        self.requests.check()
        assert self.is_open or self.queries.version == 0


def settled(requests: list[Request]) -> list[Effect]:
    """What to tell those who wait for these requests."""
    return [Settled(r.request_id, r.outcome) for r in requests if r.outcome is not None]
