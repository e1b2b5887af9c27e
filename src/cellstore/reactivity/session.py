"""One connection as a pure machine: something happens, it says what to do.

    client      server                    the version the client stands at
    Add 0    ▶                            (0,0,t0)
                Refresh {0}   ─ effect
                refreshed t1  ─ event
             ◀  Transition                (0,0,t0) → (1,0,t1), QueryUpdated 0
    Mutation ▶  RunMutation   ─ effect
                mark, advance ─ events    a commit touched query 0: ours
                Refresh {0}   ─ effect
                refreshed t2  ─ event     held back: our mutation may be in t2 and is not answered yet
                mutation_done ─ event
             ◀  MutationResponse t2
             ◀  Transition                (1,0,t1) → (1,0,t2), QueryUpdated 0

Every method is an event and returns effects, in the order they must be performed. There is no clock, no socket and no
task in here, so a dialogue can be replayed and asserted on word for word (tests/unit/reactivity).

Invariants
    · each Transition starts where the last one ended; its ts never falls, and every result of the client is valid at it
    · a MutationResponse precedes any Transition whose ts covers the mutation; a Transition follows every response
    · mutations run one at a time, in the order they came; actions run as they come
    · at most `unsent_transitions_max` Transitions wait in the socket: a slow reader skips states, never sees a torn one
    · a mutation that may succeed later is no failure to a client of Convex's: it is closed, comes back and asks again
    · nothing is done for a principal who may not have it done; the refusal is an answer, not silence

Source: Convex sync protocol; wire rules in its order of precedence: answer, then show, then ping.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import orjson

from cellstore.errors import CellstoreError, LimitExceeded, NotFound
from cellstore.knobs import DEFAULTS, Knobs
from cellstore.protocol import messages as wire
from cellstore.protocol.messages import Message
from cellstore.protocol.version import START, StateVersion
from cellstore.reactivity.principal import NOBODY, Principal
from cellstore.reactivity.result import Query, Result, failure_for, logs_for, value_json
from cellstore.runtime.outcome import Outcome

FRAME_BYTES = 200  # of a message, or of a change in one, beside its value, logs and journal

# ── effects ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Send(NamedTuple):
    """Put a message on the wire. A transition counts as unsent until `flushed`."""

    message: Message
    transition: bool = False


class Close(NamedTuple):
    """Close the connection; reasons are short codes that clients choose their backoff by."""

    code: int
    reason: str


class Verify(NamedTuple):
    """Find out who presents this token; answer with `verified` or `rejected`."""

    request: wire.Authenticate


class Refresh(NamedTuple):
    """Bring these queries to one moment, the newest there is, and answer with `refreshed`."""

    queries: Mapping[int, Query]
    who: Principal


class Release(NamedTuple):
    """Nobody here is interested in these queries any more."""

    query_ids: tuple[int, ...]


class RunMutation(NamedTuple):
    """Run a mutation; answer with `mutation_done`. `session` is None when the client never said Connect."""

    call: wire.Mutation
    session: str | None
    who: Principal


class RunAction(NamedTuple):
    """Run an action; answer with `action_done`."""

    call: wire.Action
    who: Principal


class StopAction(NamedTuple):
    """Cancel a running action; `action_done` follows."""

    request_id: int


class Part(NamedTuple):
    """The client is gone, and holds these results: it may come back."""

    session: str
    who: Principal
    shown: Mapping[bytes, Result]


class Recall(NamedTuple):
    """The client may have been here before: answer with `recalled`, what it holds, before anything else of it."""

    session: str
    who: Principal


class HearOut(NamedTuple):
    """Answer with `heard_out` when what the client has to say again has had time to come."""


class Observed(NamedTuple):
    """The client has seen this timestamp, perhaps of an earlier life of the store: never go below it."""

    ts: int


Effect: TypeAlias = (
    Send
    | Close
    | Verify
    | Refresh
    | Release
    | Part
    | Recall
    | RunMutation
    | RunAction
    | StopAction
    | HearOut
    | Observed
)
Effects: TypeAlias = list[Effect]


# ── state ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True, eq=False)
class Live:
    """A subscribed query."""

    query: Query  # replaced by every run, which may leave a new journal in it
    refused: CellstoreError | None = None  # never run: why
    digest: bytes | None = None  # of what the client holds: an equal result sends nothing
    shown: Result | None = None  # what the client holds, where it understands patches of it


@dataclass(slots=True)
class Step:
    """A transition in the making."""

    query_set: int  # versions as received when it began
    identity: int
    who: Principal
    asked: dict[int, Live]
    removed: list[int]
    floor_ts: int  # what is shown is at least as new as our answered mutations were when it began
    must_send: bool  # an answer waits to be followed by a transition begun after it
    ts: int = 0  # with `results`, once refreshed
    results: Mapping[int, Result] | None = None


@dataclass(slots=True)
class Session:
    """The state of one connection. `base` is who the door let in; Authenticate may change that, and back."""

    base: Principal = NOBODY
    knobs: Knobs = DEFAULTS
    who: Principal = field(init=False)
    exact: bool = False
    deltas: bool = False  # the client understands patches of lists
    closed: bool = False
    _id: str | None = None  # set by Connect
    _current: StateVersion = START  # where the client stands
    _query_set: int = 0  # versions received
    _identity: int = 0
    _queries: dict[int, Live] = field(default_factory=dict)
    _stale: set[int] = field(default_factory=set)
    _removed: list[int] = field(default_factory=list)  # to be acknowledged
    _recalled: Mapping[bytes, Result] = field(default_factory=dict)  # held from before; until the first step
    _owed: bool = False  # an answer went out; a transition begun after it must follow
    _owed_ts: int | None = None  # a mutation was answered; a transition at this ts or later must follow
    _floor_ts: int = 0  # the newest mutation of ours that was answered
    _step: Step | None = None
    _unsent: int = 0
    _mutations: deque[tuple[wire.Mutation, Principal]] = field(default_factory=deque)
    _running: tuple[wire.Mutation, Principal] | None = None
    _running_ts: int | None = None  # its commit may have happened at this ts, though we have no answer yet
    _repeats: bool = False  # what this client says again, though it was answered, is answered before any transition;
    _listening: bool = False  # and is still awaited
    _actions: dict[int, Principal] = field(default_factory=dict)
    _verifying: bool = False
    _inbox: deque[wire.ClientMessage] = field(default_factory=deque)  # what came behind a token being verified
    _quiet: bool = True  # nothing was sent since the last tick

    def __post_init__(self) -> None:
        self.who = self.base

    # ── events from the client ────────────────────────────────────────────────────────────────────────────────────────

    def received(self, message: wire.ClientMessage) -> Effects:
        """A message arrived."""
        if self.closed:
            return []
        if self._verifying:
            if len(self._inbox) >= self.knobs.queued_mutations_max:
                return self._close(
                    1013, "TooManyConcurrentRequests: too much behind a token (knob queued_mutations_max)"
                )
            self._inbox.append(message)
            return []
        match message:
            case wire.ModifyQuerySet():
                return self._modify(message)
            case wire.Mutation():
                return self._enqueue(message)
            case wire.Action():
                return self._start_action(message)
            case wire.CancelAction():
                return [StopAction(message.request_id)] if message.request_id in self._actions else []
            case wire.Connect():
                return self._connect(message)
            case wire.Authenticate():
                return self._authenticate(message)
            case wire.Ignored():
                return []

    def malformed(self, why: str) -> Effects:
        """A frame arrived that is no message."""
        return self._close(1008, f"BadRequest: {why}")

    def flushed(self, transitions: int = 1) -> Effects:
        """So many transitions have left the socket's buffer."""
        self._unsent -= transitions
        return self._advance([])

    def gone(self) -> Effects:
        """The connection ended. Whatever runs, runs on: its client will ask again and be told."""
        self.closed = True
        self._mutations.clear()
        ids, shown = tuple(self._queries), self.shown()
        self._queries.clear()
        effects: Effects = [Release(ids)] if ids else []
        is_theirs = self._current.identity == self._identity  # else some of it was shown to whom they were before
        return [*effects, Part(self._id, self.who, shown)] if self._id is not None and shown and is_theirs else effects

    def shown(self) -> dict[bytes, Result]:
        """What the client holds, by the digests it was told; of those that understand patches."""
        return {live.digest: live.shown for live in self._queries.values() if live.digest and live.shown}

    def recalled(self, shown: Mapping[bytes, Result]) -> Effects:
        """What the client held when it was here before."""
        self._recalled = shown
        return []

    # ── events from the store ─────────────────────────────────────────────────────────────────────────────────────────

    def mark(self, query_ids: Iterable[int]) -> None:
        """Commits touched what these queries read; `advance` follows once all that is known has been marked."""
        self._stale.update(query_id for query_id in query_ids if query_id in self._queries)

    def advance(self) -> Effects:
        """Begin a step if there is cause for one."""
        return self._advance([])

    @property
    def has_room(self) -> bool:
        """Whether a step would begin now if there were cause for one."""
        if self.closed or self._step is not None:
            return False
        return self._unsent < self.knobs.unsent_transitions_max

    def holds(self, query_id: int) -> bool:
        """Whether the client is subscribed to this query."""
        return query_id in self._queries

    def refreshed(self, ts: int, results: Mapping[int, Result]) -> Effects:
        """The queries of the latest Refresh, all as of `ts`."""
        step = self._step
        if self.closed or step is None:
            return []
        step.ts, step.results = ts, results
        return self._advance(self._take_step(step)) if self._may_be_shown(step) else []

    def _may_be_shown(self, step: Step) -> bool:
        """Whether no answer has to go before what this step shows."""
        if self._repeats and (self._listening or self._verifying or self._running is not None or self._mutations):
            return False
        return self._running_ts is None or step.ts < self._running_ts  # else our own mutation may be seen in it

    def _take_held(self, effects: Effects) -> Effects:
        """Take the step that was held back, if it may be shown now."""
        step = self._step
        if step is not None and step.results is not None and self._may_be_shown(step):
            effects += self._take_step(step)
        return effects

    def heard_out(self) -> Effects:
        """What a client that came back had to say again has come, or never will."""
        self._listening = False
        return [] if self.closed else self._advance(self._take_held([]))

    def committed(self, ts: int) -> Effects:
        """A commit at `ts` may be the mutation that is running for us."""
        if self._running is not None and self._running_ts is None:
            self._running_ts = ts
        return []

    def mutation_done(self, request_id: int, outcome: Outcome) -> Effects:
        """The running mutation came to `outcome`; if it is a success, it is durable."""
        running, self._running, self._running_ts = self._running, None, None
        if self.closed or running is None or running[0].request_id != request_id:
            return []
        error = outcome.error
        if error is not None and error.is_transient and not self.exact:
            return self._close(1013, error.code)  # Convex's clients send again what is not answered, and only that
        effects = self._take_held(self._answer_mutation(request_id, outcome, running[1]))
        return self._advance(self._take_held(self._next_mutation(effects)))

    def action_done(self, request_id: int, outcome: Outcome) -> Effects:
        """A running action came to `outcome`."""
        who = self._actions.pop(request_id, None)
        if self.closed or who is None:
            return []
        return self._advance(self._answer_action(request_id, outcome, who))

    def verified(self, who: Principal) -> Effects:
        """The token presented is good."""
        if self.closed:
            return []
        self.who, self._verifying, self._recalled = who, False, {}
        self._identity += 1
        self._stale.update(self._queries)
        return self._advance(self._take_held(self._drain_inbox(self._advance([]))))

    def rejected(self, why: str) -> Effects:
        """The token presented is not good."""
        if self.closed:
            return []
        refusal = Send(wire.auth_error(why, self._identity, attempted=True))
        return [refusal, *self._close(1000, "AuthError")]

    def expired(self) -> Effects:
        """The accepted token is good no longer: the client will come back with a newer one."""
        if self.closed:
            return []
        refusal = Send(wire.auth_error("the token has expired", self._identity, attempted=False))
        return [refusal, *self._close(1000, "AuthError")]

    def tick(self) -> Effects:
        """Some time has passed: a quiet connection is shown that we live."""
        quiet, self._quiet = self._quiet, True
        return [Send(wire.PING)] if quiet and not self.closed else []

    # ── one message each ──────────────────────────────────────────────────────────────────────────────────────────────

    def _connect(self, message: wire.Connect) -> Effects:
        if self._id is not None:
            return self._close(1008, "BadRequest: Connect came twice")
        self._id, self.exact, self.deltas = message.session, message.exact, message.exact and message.deltas
        effects: Effects = [] if message.max_observed_ts is None else [Observed(message.max_observed_ts)]
        if self.deltas:
            effects.append(Recall(message.session, self.who))
        if message.repeats:
            self._repeats = self._listening = True
            effects.append(HearOut())
        return effects

    def _authenticate(self, message: wire.Authenticate) -> Effects:
        if message.base_version != self._identity:
            return self._close(1011, "IdentityVersionMismatch")
        if message.token_type == "None":
            return self.verified(self.base)
        self._verifying = True
        return [Verify(message)]

    def _modify(self, message: wire.ModifyQuerySet) -> Effects:
        if message.base_version != self._query_set:
            return self._close(1008, "BaseVersionMismatch")
        dropped: list[int] = []
        for change in message.modifications:
            if isinstance(change, wire.Remove):
                self._removed.append(change.query_id)
                if self._queries.pop(change.query_id, None) is not None:
                    dropped.append(change.query_id)
            elif change.query_id in self._queries:
                return self._close(1008, f"BadRequest: query {change.query_id} was added twice")
            else:
                self._queries[change.query_id] = self._live(change)
                self._stale.add(change.query_id)
        if len(self._queries) > self.knobs.live_queries_max:
            return self._close(1013, "TooManyQueries: too many on one connection (knob live_queries_max)")
        self._query_set = message.new_version
        return self._advance([Release(tuple(dropped))] if dropped else [])

    def _live(self, add: wire.Add) -> Live:
        refused, query = _no_components(add.component), Query.of(add.path, add.args, add.journal)
        if not self.deltas or add.holds is None:
            return Live(query, refused)
        return Live(query, refused, add.holds, self._recalled.get(add.holds))

    def _enqueue(self, call: wire.Mutation) -> Effects:
        if len(self._mutations) >= self.knobs.queued_mutations_max:
            full = "mutations are queued faster than they run (knob queued_mutations_max)"
            return self._close(1013, f"TooManyConcurrentRequests: {full}")
        self._mutations.append((call, self.who))
        return self._advance(self._next_mutation([]))

    def _next_mutation(self, effects: Effects) -> Effects:
        """Start the next mutation; those that may not run are answered in their turn."""
        while self._running is None and self._mutations:
            call, who = self._mutations.popleft()
            refused = _refusal(call.component, who, "write")
            if refused is not None:
                effects += self._answer_mutation(call.request_id, Outcome.failed(refused, function=call.path), who)
            else:
                self._running = (call, who)
                effects.append(RunMutation(call, self._id, who))
        return effects

    def _start_action(self, call: wire.Action) -> Effects:
        if call.request_id in self._actions:
            return self._close(1008, f"BadRequest: action {call.request_id} was asked for twice")
        if len(self._actions) >= self.knobs.running_actions_max:
            return self._close(
                1013, "TooManyConcurrentRequests: too many actions are running (knob running_actions_max)"
            )
        refused = _refusal(call.component, self.who, "write")
        if refused is not None:
            outcome = Outcome.failed(refused, function=call.path)
            return self._advance(self._answer_action(call.request_id, outcome, self.who))
        self._actions[call.request_id] = self.who
        return [RunAction(call, self.who)]

    def _drain_inbox(self, effects: Effects) -> Effects:
        while self._inbox and not self._verifying and not self.closed:
            effects += self.received(self._inbox.popleft())
        return effects

    # ── transitions ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _advance(self, effects: Effects) -> Effects:
        """Begin the next step when there is cause and room for one."""
        moved = self._query_set != self._current.query_set or self._identity != self._current.identity
        cause = moved or self._stale or self._owed or self._owed_ts is not None
        if not cause or not self.has_room:
            return effects
        asked = {query_id: self._queries[query_id] for query_id in self._stale if query_id in self._queries}
        self._step = Step(
            self._query_set, self._identity, self.who, asked, self._removed, self._floor_ts, must_send=self._owed
        )
        self._stale, self._removed, self._owed = set(), [], False
        wanted = {i: live.query for i, live in asked.items() if self._refused(live) is None}
        effects.append(Refresh(wanted, self.who))
        return effects

    def _take_step(self, step: Step) -> Effects:
        """Tell the client what changed, if anything did; it then stands at the end of this step."""
        self._step, self._repeats, self._recalled = None, False, {}
        results, room = step.results or {}, self.knobs.frame_size_bytes
        changes = [wire.query_removed(query_id) for query_id in step.removed if query_id not in self._queries]
        for query_id, live in step.asked.items():
            if self._queries.get(query_id) is not live:
                continue  # removed meanwhile
            refused = self._refused(live, step.who)
            result = results[query_id] if refused is None else Result(Outcome.failed(refused, function=live.query.path))
            live.query = live.query.rerun(result.outcome.journal)
            digest = result.digest_for(step.who)
            if live.digest == digest:
                if self.deltas and result.outcome.ok:
                    live.shown = result  # what it held from an earlier connection is this
                continue
            change, size = self._show(query_id, live, result, step.who)
            if size > room:
                result = Result(Outcome.failed(self._too_large(live.query.path, size), function=live.query.path))
                digest, (change, size) = result.digest_for(step.who), self._show(query_id, live, result, step.who)
            room -= size
            if live.digest != digest:
                changes.append(change)
                live.digest = digest
        end = StateVersion(step.query_set, step.identity, max(step.ts, step.floor_ts, self._current.ts))
        owed = step.must_send
        if self._owed_ts is not None and end.ts >= self._owed_ts:
            owed, self._owed_ts = True, None
        moved = (end.query_set, end.identity) != (self._current.query_set, self._current.identity)
        if not (changes or moved or owed):
            return []
        message = wire.transition(self._current, end, changes)
        self._current, self._quiet = end, False
        self._unsent += 1
        return [Send(message, transition=True)]

    def _show(self, query_id: int, live: Live, result: Result, who: Principal) -> tuple[Message, int]:
        """How the client is told of a result, and how many bytes that takes."""
        outcome = result.outcome
        held, live.shown = live.shown, result if outcome.ok and self.deltas else None
        logs = logs_for(outcome, who)
        if outcome.ok:
            patch = result.patch_known(live.digest) if held is None else result.patch_from(held)
            if patch is not None and self.deltas:
                told = wire.query_patched(query_id, patch, logs, outcome.journal, result.digest_for(who))
                return told, _size(patch, logs, outcome.journal)
            digest, value = result.digest_for(who) if self.deltas else None, result.value(self.exact)
            told = wire.query_updated(query_id, value, logs, outcome.journal, digest)
            return told, _size(value, logs, outcome.journal)
        failure = failure_for(outcome, who, self.exact)
        return wire.query_failed(query_id, failure, logs, outcome.journal), _size(b"", logs)

    def _too_large(self, path: str, size: int) -> LimitExceeded:
        beside = "one message to a client, with all that changed at the same moment,"
        return self._no_message_holds(f"the result of {path}", size, beside, "return less, or a page at a time")

    def _no_message_holds(self, what: str, size: int, message: str, advice: str) -> LimitExceeded:
        most = self.knobs.frame_size_bytes
        text = f"{what} takes {size:,} bytes, and {message} {most:,} at most (knob frame_size_bytes): {advice}"
        return LimitExceeded(text, knob="frame_size_bytes", limit=most, used=size)

    def _refused(self, live: Live, who: Principal | None = None) -> CellstoreError | None:
        return live.refused or _refusal(None, who or self.who, "read")

    # ── responses ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _answer_mutation(self, request_id: int, outcome: Outcome, who: Principal) -> Effects:
        self._quiet = False
        logs = logs_for(outcome, who)
        if not outcome.ok:
            self._owed_ts = self._owed_ts or 0
            failure = failure_for(outcome, who, self.exact)
            return [Send(wire.call_failed("MutationResponse", request_id, failure, logs))]
        self._floor_ts = max(self._floor_ts, outcome.ts)
        self._owed_ts = self._floor_ts
        value = value_json(outcome, self.exact)
        if (size := _size(value, logs)) > self.knobs.frame_size_bytes:
            return self._not_told("Mutation", request_id, "the mutation has happened, but", size, who)
        return [Send(wire.mutation_response(request_id, value, outcome.ts, logs))]

    def _answer_action(self, request_id: int, outcome: Outcome, who: Principal) -> Effects:
        """What the action's mutations changed is older than its answer, so a step begun now shows it."""
        self._owed, self._quiet = True, False
        logs = logs_for(outcome, who)
        if not outcome.ok:
            failure = failure_for(outcome, who, self.exact)
            return [Send(wire.call_failed("ActionResponse", request_id, failure, logs))]
        value = value_json(outcome, self.exact)
        if (size := _size(value, logs)) > self.knobs.frame_size_bytes:
            return self._not_told("Action", request_id, "the action has ended well, but", size, who)
        return [Send(wire.action_response(request_id, value, logs))]

    def _not_told(self, kind: str, request_id: int, what: str, size: int, who: Principal) -> Effects:
        """The answer to a call whose result no message holds."""
        advice = "do not call it again for that; return less, an id or a file"
        error = self._no_message_holds(f"{what} its result", size, "one message", advice)
        failure = failure_for(Outcome.failed(error), who, self.exact)
        return [Send(wire.call_failed(f"{kind}Response", request_id, failure, []))]

    def _close(self, code: int, reason: str) -> Effects:
        if self.closed:
            return []
        return [*self.gone(), Close(code, close_reason(reason))]


def _refusal(component: str | None, who: Principal, permission: str) -> CellstoreError | None:
    """Why `who` may not have this done; None when they may."""
    return who.refusal(permission) or _no_components(component)


def _no_components(component: str | None) -> CellstoreError | None:
    return NotFound(kind="component", name=component) if component else None


def _size(value: bytes, logs: list[str], journal: str | None = None) -> int:
    """Bytes of a message around a value, or of a change in one; a little more than it takes."""
    return len(value) + (len(orjson.dumps(logs)) if logs else 0) + len(journal or "") + FRAME_BYTES


def close_reason(reason: str) -> str:
    """As much of why a socket closes as the protocol has room for: 123 bytes of UTF-8."""
    return reason.encode("utf-8")[:123].decode("utf-8", "ignore")
