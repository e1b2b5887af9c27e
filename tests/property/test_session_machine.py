"""Whatever happens in whatever order, a session shows its client moments of the store, whole and in order.

The world is a store of a few cells, each written now and then; a query reads one. The machine under test says what to do;
the test does it some time later, or never, and checks every frame as a strict client would.
"""

from __future__ import annotations

import json
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cellstore.knobs import Knobs
from cellstore.protocol import messages as wire
from cellstore.protocol.codec import encode_frame
from cellstore.protocol.version import StateVersion, decode_ts
from cellstore.reactivity import session as machine
from cellstore.reactivity.principal import EMBEDDED
from cellstore.reactivity.result import Result
from cellstore.reactivity.session import Session
from cellstore.runtime.outcome import Outcome

CELLS = st.integers(0, 3)


class Conversation(RuleBasedStateMachine):
    """A store, a session, and a client that believes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.ts = 10
        self.written: dict[int, list[int]] = {cell: [0] for cell in range(4)}  # when each cell was written
        self.session = Session(EMBEDDED, Knobs(unsent_transitions_max=2))
        self.asked: dict[int, int] = {}  # what the client follows: query id to cell
        self.sets: list[dict[int, int]] = [{}]  # the same, by version of the query set
        self.identity = 0
        self.version = StateVersion()
        self.shown: dict[int, Any] = {}
        self.refreshes: list[tuple[int, machine.Refresh]] = []
        self.running: list[int] = []
        self.committed: dict[int, int] = {}
        self.verifying: list[machine.Verify] = []
        self.unsent = self.requests = self.ids = 0
        self.owed = False  # an answer went out, and no transition since
        self.unanswered = 0  # mutations
        self.repeats = self.listened_to = False  # a client that came back to say again what may have been answered

    @initialize(repeats=st.booleans())
    def client_connects(self, repeats: bool) -> None:
        self.repeats = repeats
        connect = {"type": "Connect", "sessionId": "s", "lastCloseReason": "InactiveServer" if repeats else None}
        self.do(self.session.received(wire.parse(connect)))

    def value(self, cell: int, ts: int) -> int:
        """What a query of a cell comes to at `ts`: when it was last written, in tens."""
        return max(when for when in self.written[cell] if when <= ts) // 10 // 3  # writes may change nothing

    # ── the other side of the machine ─────────────────────────────────────────────────────────────────────────────────

    def do(self, effects: machine.Effects) -> None:
        for effect in effects:
            match effect:
                case machine.Send():
                    self.hear(json.loads(encode_frame(effect.message)), effect.transition)
                case machine.Refresh():
                    self.refreshes.append((self.ts, effect))
                case machine.RunMutation():
                    self.running.append(effect.call.request_id)
                case machine.HearOut():
                    self.listened_to = True
                case machine.Verify():
                    self.verifying.append(effect)
                case machine.Close():
                    raise AssertionError(f"closed: {effect.reason}")

    def hear(self, message: dict[str, Any], transition: bool) -> None:
        if transition:
            self.unsent += 1
            self.step(message)
        elif message["type"] == "MutationResponse":
            self.owed = True
            self.unanswered -= 1
            assert decode_ts(message["ts"]) > self.version.ts, "its effects were shown before it was answered"

    def step(self, message: dict[str, Any]) -> None:
        start, end = (StateVersion.from_wire(message[side]) for side in ("startVersion", "endVersion"))
        assert start == self.version
        if self.repeats and self.version == StateVersion():
            assert not self.listened_to
            assert not self.unanswered
        assert end.ts >= start.ts
        self.version, self.owed = end, False
        for change in message["modifications"]:
            if change["type"] == "QueryRemoved":
                self.shown.pop(change["queryId"], None)  # perhaps it was never shown
            else:
                assert self.shown.get(change["queryId"]) != change["value"], "it looked the same before"
                self.shown[change["queryId"]] = change["value"]
        followed = {query_id: cell for query_id, cell in self.sets[end.query_set].items() if query_id in self.asked}
        held = {query_id: value for query_id, value in self.shown.items() if query_id in self.asked}
        assert held == {query_id: self.value(cell, end.ts) for query_id, cell in followed.items()}

    def write(self, cell: int) -> None:
        self.ts += 10
        self.written[cell].append(self.ts)

    def mark(self, cell: int) -> None:
        self.session.mark(query_id for query_id, of in self.asked.items() if of == cell)
        self.do(self.session.advance())

    # ── what happens ──────────────────────────────────────────────────────────────────────────────────────────────────

    @rule(cells=st.lists(CELLS, max_size=3), leaves=st.integers(0, 5))
    def client_follows_and_leaves(self, cells: list[int], leaves: int) -> None:
        """Ids are not used twice."""
        modifications = []
        for query_id in list(self.asked)[leaves : leaves + 1]:
            del self.asked[query_id]
            modifications.append({"type": "Remove", "queryId": query_id})
        for cell in cells:
            self.asked[self.ids] = cell
            modifications.append({"type": "Add", "queryId": self.ids, "udfPath": "m:f", "args": [{"cell": cell}]})
            self.ids += 1
        base = len(self.sets) - 1
        self.sets.append(dict(self.asked))
        new = {"type": "ModifyQuerySet", "baseVersion": base, "newVersion": base + 1, "modifications": modifications}
        self.do(self.session.received(wire.parse(new)))

    @rule(cell=CELLS)
    def client_mutates(self, cell: int) -> None:
        call = {"type": "Mutation", "requestId": self.requests, "udfPath": "m:f", "args": [{"cell": cell}]}
        self.requests += 1
        self.unanswered += 1
        self.do(self.session.received(wire.parse(call)))

    @rule()
    def client_signs_in_again(self) -> None:
        token = {"type": "Authenticate", "baseVersion": self.identity, "tokenType": "Admin", "value": "k"}
        self.identity += 1
        self.do(self.session.received(wire.parse(token)))

    @precondition(lambda self: self.listened_to)
    @rule()
    def client_is_heard_out(self) -> None:
        self.listened_to = False
        self.do(self.session.heard_out())

    @precondition(lambda self: self.verifying)
    @rule()
    def token_is_good(self) -> None:
        self.verifying.pop()
        self.do(self.session.verified(EMBEDDED))

    @rule(cell=CELLS)
    def somebody_writes(self, cell: int) -> None:
        self.write(cell)
        self.mark(cell)

    @precondition(lambda self: self.running and not self.committed)
    @rule(cell=CELLS)
    def mutation_commits(self, cell: int) -> None:
        self.write(cell)
        self.committed[self.running[0]] = self.ts
        self.do(self.session.committed(self.ts))
        self.mark(cell)

    @precondition(lambda self: self.committed)
    @rule()
    def mutation_is_answered(self) -> None:
        request = self.running.pop(0)
        self.do(self.session.mutation_done(request, Outcome(True, ts=self.committed.pop(request))))

    @precondition(lambda self: self.refreshes)
    @rule()
    def queries_have_run(self) -> None:
        ts, refresh = self.refreshes.pop(0)
        found = {
            query_id: Result(Outcome(True, b"%d" % self.value(query.args["cell"], ts), ts=ts), ts)
            for query_id, query in refresh.queries.items()
        }
        self.do(self.session.refreshed(ts, found))

    @precondition(lambda self: self.unsent)
    @rule()
    def a_transition_leaves(self) -> None:
        self.unsent -= 1
        self.do(self.session.flushed())

    # ── what always holds ─────────────────────────────────────────────────────────────────────────────────────────────

    @invariant()
    def no_more_is_under_way_than_may_be(self) -> None:
        assert self.unsent <= 2
        assert len(self.refreshes) <= 1
        assert len(self.running) <= 1

    def teardown(self) -> None:
        """Everything that is under way comes to its end: the client is up to date, and nothing is owed to it."""
        while self.refreshes or self.running or self.unsent or self.verifying or self.listened_to:
            if self.listened_to:
                self.client_is_heard_out()
            if self.verifying:
                self.token_is_good()
            if self.running and not self.committed:
                self.mutation_commits(0)
            if self.committed:
                self.mutation_is_answered()
            if self.refreshes:
                self.queries_have_run()
            if self.unsent:
                self.a_transition_leaves()
        assert not self.owed
        assert self.version[:2] == (len(self.sets) - 1, self.identity)
        assert self.shown == {query_id: self.value(cell, self.ts) for query_id, cell in self.asked.items()}


Conversation.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestAnyConversation = Conversation.TestCase
