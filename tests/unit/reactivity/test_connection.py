"""Connections over a fake store: what clients hold is always some moment of the store, whole."""

import asyncio
import json
import random
from typing import Any

import pytest
from fakes import FakeStore, settle
from test_query_cache import with_hub

from cellstore.errors import Overloaded
from cellstore.protocol.version import StateVersion
from cellstore.reactivity.connection import Hub, VerifyToken, no_tokens
from cellstore.reactivity.principal import EMBEDDED, Principal


class Client:
    """The other end: applies transitions as strictly as the official clients do."""

    def __init__(
        self, hub: Hub, flushes: bool = True, who: Principal = EMBEDDED, verify: VerifyToken = no_tokens
    ) -> None:
        self.frames: list[dict[str, Any]] = []
        self.version = StateVersion()
        self.results: dict[int, Any] = {}
        self.versions: list[tuple[int, dict[int, Any]]] = []
        self.answers: dict[int, Any] = {}
        self.closed: tuple[int, str] | None = None
        self._query_set = self._requests = 0
        self._flushes = flushes
        self.connection = hub.connect(self._take, self._end, who, verify)

    def say(self, kind: str, **fields: Any) -> None:
        self.connection.receive(json.dumps({"type": kind, **fields}))

    def subscribe(self, **queries: dict[str, Any]) -> None:
        """`q0={"key": …}` subscribes query 0 to `m:get`; without a key, to `m:all`."""
        adds = [
            {"type": "Add", "queryId": int(name[1:]), "udfPath": f"m:{'get' if args else 'all'}", "args": [args]}
            for name, args in queries.items()
        ]
        base, self._query_set = self._query_set, self._query_set + 1
        self.say("ModifyQuerySet", baseVersion=base, newVersion=self._query_set, modifications=adds)

    def set(self, key: str, value: Any) -> int:
        request, self._requests = self._requests, self._requests + 1
        self.say("Mutation", requestId=request, udfPath="m:set", args=[{"key": key, "value": value}])
        return request

    def _take(self, frame: bytes) -> bool:
        message = json.loads(frame)
        self.frames.append(message)
        if message["type"] == "Transition":
            self._apply(message)
        elif message["type"] == "MutationResponse":
            self.answers[message["requestId"]] = StateVersion.from_wire(
                {"querySet": 0, "identity": 0, "ts": message["ts"]}
            ).ts
        return self._flushes

    def _apply(self, message: dict[str, Any]) -> None:
        assert StateVersion.from_wire(message["startVersion"]) == self.version
        end = StateVersion.from_wire(message["endVersion"])
        assert end.ts >= self.version.ts
        self.version = end
        for change in message["modifications"]:
            if change["type"] == "QueryRemoved":
                self.results.pop(change["queryId"], None)
            else:
                self.results[change["queryId"]] = change.get("value", change.get("errorMessage"))
        self.versions.append((end.ts, dict(self.results)))

    def _end(self, code: int, reason: str) -> None:
        self.closed = (code, reason)


def foreseeing(store: FakeStore, hub: Hub, *clients: Client) -> list[tuple[int, int]]:
    """Have commits take their time to become durable. Of each: how many runs had begun by then, frames left the hub."""
    seen: list[tuple[int, int]] = []
    store.on_visible = hub.foresee
    store.on_durable = lambda: seen.append((len(store.runs), sum(len(client.frames) for client in clients)))
    return seen


@with_hub
async def test_what_a_commit_touches_runs_while_it_becomes_durable_and_nothing_is_told(
    store: FakeStore, hub: Hub
) -> None:
    watcher, writer = Client(hub), Client(hub)
    watcher.subscribe(q0={"key": "a"}, q1={"key": "b"})
    await settle()
    before = sum(len(client.frames) for client in (watcher, writer))
    seen, store.runs = foreseeing(store, hub, watcher, writer), []
    writer.set("a", 1)
    await settle()
    assert store.runs == ["m:set", "m:get@10"], "one run, joined by the watcher when it asked"
    assert seen == [(2, before)]
    assert watcher.results == {0: 1.0, 1: None}


@with_hub
async def test_a_reader_that_has_no_room_for_more_has_nothing_run_for_it(store: FakeStore, hub: Hub) -> None:
    slow = Client(hub, flushes=False)
    slow.subscribe(q0={"key": "a"})
    await settle()
    foreseeing(store, hub)
    for n in range(hub.knobs.unsent_transitions_max + 5):
        store.set("a", n)
        await settle()
    assert len(store.runs) == hub.knobs.unsent_transitions_max


@with_hub
async def test_few_of_many_runs_are_begun_before_a_commit_is_durable(store: FakeStore, hub: Hub) -> None:
    client = Client(hub)
    client.subscribe(**{f"q{n}": {"key": "a", "n": n} for n in range(100)})
    await settle()
    seen, store.runs = foreseeing(store, hub), []
    store.set("a", 1)
    await settle()
    assert len(store.runs) == 100
    assert 0 < seen[0][0] < 10
    assert set(client.results.values()) == {1.0}


@with_hub
async def test_a_mutation_is_answered_before_it_is_shown(store: FakeStore, hub: Hub) -> None:
    client = Client(hub)
    client.subscribe(q0={"key": "a"})
    await settle()
    client.set("a", 1)
    await settle()
    kinds = [frame["type"] for frame in client.frames]
    assert kinds == ["Transition", "MutationResponse", "Transition"]
    assert client.results == {0: 1.0}
    assert client.version.ts >= client.answers[0]


@with_hub
async def test_a_mutation_that_touches_no_query_is_still_followed_by_a_transition(store: FakeStore, hub: Hub) -> None:
    client = Client(hub)
    client.set("a", 1)
    await settle()
    assert [frame["type"] for frame in client.frames] == ["MutationResponse", "Transition"]
    assert client.version.ts >= client.answers[0]


@with_hub
async def test_an_action_that_is_cancelled_in_the_same_breath_is_answered(store: FakeStore, hub: Hub) -> None:
    store.gate = asyncio.Event()  # it would never end
    client = Client(hub)
    client.say("Action", requestId=3, udfPath="m:work", args=[{}])
    client.say("CancelAction", requestId=3)
    await settle()
    [answer] = [frame for frame in client.frames if frame["type"] == "ActionResponse"]
    assert (answer["requestId"], answer["success"]) == (3, False)
    assert hub.running_calls == 0


@with_hub
async def test_one_commit_is_one_frame_per_client_and_one_run_per_query(store: FakeStore, hub: Hub) -> None:
    clients = [Client(hub) for _ in range(100)]
    for client in clients:
        client.subscribe(q0={}, q1={"key": "a"}, q2={"key": "b"})
    await settle()
    store.runs.clear()
    store.set("a", 1)
    await settle()
    assert sorted(run.partition("@")[0] for run in store.runs) == ["m:all", "m:get"]
    assert {len(client.frames) for client in clients} == {2}
    assert all(client.results == {0: {"a": 1.0}, 1: 1.0, 2: None} for client in clients)


@with_hub
async def test_a_commit_elsewhere_sends_nothing(store: FakeStore, hub: Hub) -> None:
    client = Client(hub)
    client.subscribe(q0={"key": "a"})
    await settle()
    store.set("b", 1)
    await settle()
    assert len(client.frames) == 1


@with_hub
async def test_no_client_ever_holds_what_no_moment_held(store: FakeStore, hub: Hub) -> None:
    dice = random.Random(3)
    clients = [Client(hub) for _ in range(5)]
    for number, client in enumerate(clients):
        client.subscribe(q0={}, q1={"key": "a"}, q2={"key": "b"})
        client.subscribe(q3={"key": f"own{number}"})
    for turn in range(200):
        if dice.random() < 0.5:
            store.set(dice.choice("ab"), float(turn))
        else:
            number = dice.randrange(5)
            clients[number].set(f"own{number}" if dice.random() < 0.5 else "a", float(turn))
        for _ in range(dice.randrange(4)):
            await asyncio.sleep(0)
    await settle()
    for number, client in enumerate(clients):
        for ts, shown in client.versions:
            truth = store.at(ts)
            expected = {0: truth, 1: truth.get("a"), 2: truth.get("b"), 3: truth.get(f"own{number}")}
            assert {query_id: expected[query_id] for query_id in shown} == shown
        assert client.results[0] == store.at(store.ts)
        assert client.version.ts >= max(client.answers.values(), default=0)


@with_hub
async def test_a_slow_reader_skips_to_the_newest_state(store: FakeStore, hub: Hub) -> None:
    client = Client(hub, flushes=False)
    client.subscribe(q0={"key": "a"})
    await settle()
    for value in range(20):
        store.set("a", float(value))
        await settle()
    assert len(client.frames) == 2  # the bound on unsent transitions
    client.connection.sent()
    await settle()
    assert client.results == {0: 19.0}
    assert len(client.frames) == 3


@with_hub
async def test_who_reads_nothing_at_all_is_cut_off(store: FakeStore, hub: Hub) -> None:
    hub.knobs = type(hub.knobs)(unsent_bytes_max=2000)
    client = Client(hub, flushes=False)
    for turn in range(100):
        client.set("a", turn)
        await settle()
    assert client.closed == (1013, "SlowReader: too much was waiting to be read (knob unsent_bytes_max)")


@with_hub
async def test_a_malformed_frame_closes_only_its_own_connection(store: FakeStore, hub: Hub) -> None:
    good, bad = Client(hub), Client(hub)
    good.subscribe(q0={"key": "a"})
    await settle()
    bad.connection.receive("{nonsense")
    store.set("a", 1.0)
    await settle()
    assert bad.closed is not None
    assert bad.closed[0] == 1008
    assert good.results == {0: 1.0}


@with_hub
async def test_closing_a_connection_releases_its_queries(store: FakeStore, hub: Hub) -> None:
    client = Client(hub)
    client.subscribe(q0={"key": "a"}, q1={})
    await settle()
    client.connection.closed()
    store.set("a", 1)
    await settle()
    assert not hub.cache._entries
    assert not hub.connections


@with_hub
async def test_closing_while_a_query_runs_leaves_nothing_behind(store: FakeStore, hub: Hub) -> None:
    store.gate = asyncio.Event()
    client = Client(hub)
    client.subscribe(q0={"key": "a"})
    await settle()
    client.connection.closed()
    store.gate.set()
    await settle()
    store.set("a", 1)
    await settle()
    assert not hub.cache._entries
    assert not client.frames


@with_hub
async def test_actions_run_while_mutations_wait(store: FakeStore, hub: Hub) -> None:
    client = Client(hub)
    client.say("Action", requestId=5, udfPath="m:act", args=[{}])
    await settle()
    assert [frame["type"] for frame in client.frames] == ["ActionResponse", "Transition"]


@with_hub
async def test_who_talks_too_fast_is_cut_off_and_nobody_else(store: FakeStore, hub: Hub) -> None:
    hub.knobs = type(hub.knobs)(frames_per_s_max=3)
    hub.monotonic_s = lambda: now
    now = 0.0
    patient, hasty = Client(hub), Client(hub)
    for turn in range(5):
        hasty.say("Event")
        now = float(turn)
        patient.say("Event")
        now = 0.0
    assert hasty.closed == (1013, "TooManyRequests: frames came faster than frames_per_s_max allows")
    assert patient.closed is None


@with_hub
async def test_more_clients_than_there_is_room_for_are_told_to_come_back(store: FakeStore, hub: Hub) -> None:
    hub.knobs = type(hub.knobs)(connections_max=1)
    first = Client(hub)
    with pytest.raises(Overloaded, match="come back later"):
        Client(hub)
    first.connection.closed()
    Client(hub).subscribe(q0={"key": "a"})


@with_hub
async def test_among_thousands_of_live_queries_a_commit_runs_the_one_it_touches(store: FakeStore, hub: Hub) -> None:
    client = Client(hub)
    client.subscribe(**{f"q{number}": {"key": f"k{number}"} for number in range(3000)})
    await settle()
    store.runs.clear()
    store.set("k1234", 1)
    await settle()
    assert [run.partition("@")[0] for run in store.runs] == ["m:get"]
    assert [change["queryId"] for change in client.frames[-1]["modifications"]] == [1234]
    assert len(client.frames) == 2


@with_hub
async def test_a_result_that_came_out_as_before_is_not_sent_again(store: FakeStore, hub: Hub) -> None:
    client = Client(hub)
    client.subscribe(q0={"key": "a"}, q1={})
    store.set("a", 1)
    await settle()
    store.runs.clear()
    store.set("a", 1)
    store.set("b", 2)
    await settle()
    assert sorted(run.partition("@")[0] for run in store.runs) == ["m:all", "m:get"]
    assert [change["queryId"] for change in client.frames[-1]["modifications"]] == [1]


@with_hub
async def test_a_client_that_comes_back_finds_the_results_kept_for_it(store: FakeStore, hub: Hub) -> None:
    first = Client(hub)
    first.subscribe(q0={"key": "a"}, q1={})
    await settle()
    first.connection.closed()
    store.runs.clear()
    again = Client(hub)
    again.subscribe(q0={"key": "a"}, q1={})
    await settle()
    assert store.runs == []
    assert again.results == first.results
