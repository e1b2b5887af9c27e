"""Shared runs, shared results, and exactly how long they hold."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest
from fakes import FakeStore, settle

from cellstore.knobs import DEFAULTS
from cellstore.reactivity.connection import Hub
from cellstore.reactivity.principal import EMBEDDED, Principal, identity_of
from cellstore.reactivity.query_cache import LiveQuery
from cellstore.reactivity.result import Query
from cellstore.runtime.outcome import Outcome

ANN, BO = (Principal("user", frozenset({"read"}), identity_of("test", name)) for name in ("ann", "bo"))


def query(name: str, **args: Any) -> Query:
    return Query.of(f"m:{name}", args)


def with_hub(test: Callable[[FakeStore, Hub], Coroutine[Any, Any, None]], **knobs: Any) -> Callable[[], None]:
    async def run() -> None:
        store = FakeStore()
        hub = Hub(store, 0, replace(DEFAULTS, **knobs))
        store.listeners.append(hub.subscriptions.on_commit)
        try:
            await test(store, hub)
        finally:
            await hub.close()

    def wrapped() -> None:
        asyncio.run(run())

    wrapped.__name__ = test.__name__
    return wrapped


@with_hub
async def test_a_result_is_reused_until_a_commit_touches_what_it_read(store: FakeStore, hub: Hub) -> None:
    store.set("a", 1)
    for _ in range(3):
        assert (await hub.query(query("get", key="a"), EMBEDDED)).value == b"1"
    store.set("b", 5)
    await hub.query(query("get", key="a"), EMBEDDED)
    assert store.runs == ["m:get@10"]
    store.set("a", 2)
    assert (await hub.query(query("get", key="a"), EMBEDDED)).value == b"2"
    assert store.runs == ["m:get@10", "m:get@30"]


@with_hub
async def test_a_thousand_callers_at_once_cost_one_run(store: FakeStore, hub: Hub) -> None:
    store.set("a", 1)
    answers = await asyncio.gather(*(hub.query(query("all"), EMBEDDED) for _ in range(1000)))
    assert len(store.runs) == 1
    assert {answer.value for answer in answers} == {b'{"a":1}'}


@with_hub
async def test_a_run_is_on_its_way_before_whoever_asks_goes_on(store: FakeStore, hub: Hub) -> None:
    begun: list[str] = []
    answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def begin(path: str, *_args: Any, **_call: Any) -> asyncio.Future[Outcome]:
        begun.append(path)
        return answer

    store.query = begin  # type: ignore[method-assign,assignment]
    asking = asyncio.ensure_future(hub.query(query("get", key="a"), EMBEDDED))
    hub.cache.request(query("get", key="b"), 0, lambda *_: None, EMBEDDED)
    assert begun == ["m:get"], "no turn of the loop has gone by"
    answer.set_result(Outcome(True, b"1"))
    assert (await asking).value == b"1"


@with_hub
async def test_argument_order_does_not_matter(store: FakeStore, hub: Hub) -> None:
    await hub.query(Query.of("m:get", {"key": "a", "x": 1}), EMBEDDED)
    await hub.query(Query.of("m.js:get", {"x": 1, "key": "a"}), EMBEDDED)
    assert len(store.runs) == 1


@with_hub
async def test_one_and_one_point_zero_are_different_arguments(store: FakeStore, hub: Hub) -> None:
    await hub.query(Query.of("m:get", {"key": "a", "x": 1}), EMBEDDED)
    await hub.query(Query.of("m:get", {"key": "a", "x": 1.0}), EMBEDDED)
    assert len(store.runs) == 2


@with_hub
async def test_a_run_overtaken_by_a_commit_answers_only_for_its_own_moment(store: FakeStore, hub: Hub) -> None:
    store.set("a", 1)
    store.gate = asyncio.Event()
    early = asyncio.ensure_future(hub.query(query("get", key="a"), EMBEDDED))
    await settle()
    store.set("a", 2)
    late = asyncio.ensure_future(hub.query(query("get", key="a"), EMBEDDED))
    await settle()
    assert len(store.runs) == 1  # the late caller waits: the run might prove valid for it, too
    store.gate.set()
    assert ((await early).value, (await late).value) == (b"1", b"2")
    assert store.runs == ["m:get@10", "m:get@20"]


@with_hub
async def test_a_run_overtaken_by_a_commit_elsewhere_answers_for_both(store: FakeStore, hub: Hub) -> None:
    store.set("a", 1)
    store.gate = asyncio.Event()
    early = asyncio.ensure_future(hub.query(query("get", key="a"), EMBEDDED))
    await settle()
    store.set("b", 2)
    late = asyncio.ensure_future(hub.query(query("get", key="a"), EMBEDDED))
    await settle()
    store.gate.set()
    assert ((await early).value, (await late).value) == (b"1", b"1")
    assert len(store.runs) == 1


@with_hub
async def test_a_result_that_depends_on_the_caller_is_not_shared(store: FakeStore, hub: Hub) -> None:
    answers = await asyncio.gather(*(hub.query(query("who"), who) for who in (ANN, BO, ANN, BO)))
    assert [answer.value for answer in answers] == [b'"ann"', b'"bo"', b'"ann"', b'"bo"']
    runs = len(store.runs)
    await hub.query(query("who"), ANN)
    assert len(store.runs) == runs  # but each caller's is kept


@with_hub
async def test_a_result_that_does_not_depend_on_the_caller_is_shared_by_all(store: FakeStore, hub: Hub) -> None:
    await hub.query(query("all"), ANN)
    await hub.query(query("all"), BO)
    assert len(store.runs) == 1


@with_hub
async def test_an_old_moment_can_be_asked_for_without_disturbing_the_newest(store: FakeStore, hub: Hub) -> None:
    store.set("a", 1)
    store.set("a", 2)
    assert (await hub.query(query("get", key="a"), EMBEDDED)).value == b"2"
    assert (await hub.query(query("get", key="a"), EMBEDDED, ts=10)).value == b"1"
    assert (await hub.query(query("get", key="a"), EMBEDDED)).value == b"2"
    assert store.runs == ["m:get@20", "m:get@10"]


@with_hub
async def test_watchers_hear_of_the_end_of_a_result_once(store: FakeStore, hub: Hub) -> None:
    heard: list[LiveQuery] = []
    await hub.query(query("get", key="a"), EMBEDDED)
    entry = hub.cache.find(query("get", key="a"), EMBEDDED)
    hub.cache.watch(entry, heard.append)
    store.set("b", 1)
    store.set("a", 1)
    store.set("a", 2)
    await settle()
    assert heard == [entry]


@with_hub
async def test_a_query_that_cannot_be_run_is_an_answer_and_is_not_kept(store: FakeStore, hub: Hub) -> None:
    for _ in range(2):
        outcome = await hub.query(query("broken"), EMBEDDED)
        assert outcome.error is not None
        assert "the worker fell over" in outcome.error.message
    assert len(store.runs) == 2


@with_hub
async def test_nothing_is_left_registered_when_nobody_watches_an_ended_result(store: FakeStore, hub: Hub) -> None:
    await hub.query(query("get", key="a"), EMBEDDED)
    store.set("a", 1)
    await settle()
    assert not hub.cache._entries
    assert not hub.subscriptions._indexes


@with_hub
async def test_who_waits_while_the_hub_closes_is_told_so(store: FakeStore, hub: Hub) -> None:
    store.gate = asyncio.Event()
    asking = [asyncio.ensure_future(hub.query(query("get", key="a"), EMBEDDED)) for _ in range(2)]
    await settle()
    await hub.close()
    async with asyncio.timeout(20):
        for outcome in await asyncio.gather(*asking):
            assert outcome.error is not None
            assert outcome.error.code == "Overloaded"


async def many(store: FakeStore, hub: Hub) -> None:
    store.set("a", "x" * 1000)
    for number in range(50):
        await hub.query(query("get", key="a", number=number), EMBEDDED)
    assert 0 < len(hub.cache._entries) < 10
    assert hub.cache._idle_bytes <= 20_000


test_the_least_recently_used_results_go_when_the_budget_is_spent = with_hub(many, query_cache_bytes=20_000)


@pytest.mark.parametrize("permissions", [frozenset(), frozenset({"write"})])
def test_who_may_not_read_is_refused_before_anything_runs(permissions: frozenset[str]) -> None:
    async def test(store: FakeStore, hub: Hub) -> None:
        outcome = await hub.query(query("all"), Principal("user", permissions))
        assert outcome.error is not None
        assert outcome.error.code == "Forbidden"
        assert not store.runs

    with_hub(test)()
