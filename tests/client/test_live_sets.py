"""Live values as scripts use them: sets of one moment, guesses, mutations not waited for, pages, and event loops."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import cellstore as cs


@cs.query
def left(ctx):
    return [row.n for row in ctx.db.query("ledger") if row.side == "left"]


@cs.query
def total(ctx):
    return sum(row.n for row in ctx.db.query("ledger"))


@cs.query
def many(ctx):
    return ctx.db.query("many").collect()


@cs.query
def some(ctx, opts: dict):
    return ctx.db.query("many").paginate(opts)


@cs.mutation
def put(ctx, side: str, n: int):
    return ctx.db.insert("ledger", {"side": side, "n": n})


@cs.mutation
def refuse(ctx):
    raise cs.ApplicationError("no")


@cs.mutation
def fill(ctx, count: int):
    for number in range(count):
        ctx.db.insert("many", {"n": number, "text": "x" * 40})


@cs.mutation
def bump(ctx, n: int):
    for row in ctx.db.query("many").filter(lambda row: row["n"] == n):
        ctx.db.patch(row._id, {"text": row.text + "!"})


@pytest.fixture
def db() -> Iterator[cs.Database]:
    with cs.open(":memory:") as made:
        yield made


def test_several_queries_are_always_of_one_moment(db: cs.Database) -> None:
    seen: list[dict[str, Any]] = []
    with db.together(seen.append, all=total, left=left) as both:
        for n in range(20):
            db.mutation(put, side="left", n=n)
        both.until(lambda value: value["all"] == 190, timeout=10)
        assert both.value == {"all": 190, "left": list(range(20))}
    assert seen
    assert all(sum(value["left"]) == value["all"] for value in seen)


def test_a_set_tells_the_error_of_the_query_that_fails(db: cs.Database) -> None:
    with db.together(a=total, b=("nowhere:nothing", {})) as both, pytest.raises(cs.NotFound):
        both.wait(timeout=10)


def test_a_guess_is_shown_at_once_and_gives_way_to_what_is_true(db: cs.Database) -> None:
    seen: list[Any] = []
    with db.subscribe(left) as sub:
        sub.until(lambda value: value == [], timeout=10)
        tell = sub._inbox.put
        sub._inbox.put = lambda value, error=None: (seen.append(value), tell(value, error))
        pending = db.enqueue(put, lambda view: view.set(left, [*view.get(left), 99]), side="left", n=1)
        pending.result(timeout=10)
        assert pending.state == "done"
        assert sub.value == [1]
    assert seen == [[99], [1]]


def test_a_guess_is_taken_back_when_its_mutation_fails(db: cs.Database) -> None:
    with db.subscribe(total) as sub:
        sub.until(lambda value: value == 0, timeout=10)
        seen = []
        tell = sub._inbox.put
        sub._inbox.put = lambda value, error=None: (seen.append(value), tell(value, error))
        with pytest.raises(cs.ApplicationError):
            db.enqueue(refuse, lambda view: view.set(total, 7)).result(timeout=10)
        assert seen == [7, 0]


def test_of_two_guesses_the_first_may_fail_and_the_second_does_not_flicker(db: cs.Database) -> None:
    seen: list[Any] = []
    with db.subscribe(total) as sub:
        sub.until(lambda value: value == 0, timeout=10)
        tell = sub._inbox.put
        sub._inbox.put = lambda value, error=None: (seen.append(value), tell(value, error))
        first = db.enqueue(refuse, lambda view: view.set(total, view.get(total) + 100))
        second = db.enqueue(put, lambda view: view.set(total, view.get(total) + 1), side="left", n=1)
        with pytest.raises(cs.ApplicationError):
            first.result(timeout=10)
        second.result(timeout=10)
        assert sub.value == 1
    shown = [value for value, after in zip(seen, [*seen[1:], None], strict=True) if value != after]
    assert shown in ([100, 101, 1], [100, 0, 1]), "the second is shown from its call on, and never taken back"


def test_guesses_stand_on_what_is_true_by_now(db: cs.Database) -> None:
    with db.subscribe(total) as sub:
        sub.until(lambda value: value == 0, timeout=10)
        waiting = [
            db.enqueue(put, lambda view, n=n: view.set(total, view.get(total) + n), side="left", n=n) for n in (1, 10)
        ]
        assert [each.result(timeout=10) is not None for each in waiting] == [True, True]
        assert sub.value == 11
    assert db.pending == []


def test_a_guess_that_raises_calls_nothing(db: cs.Database) -> None:
    with pytest.raises(ZeroDivisionError):
        db.enqueue(put, lambda view: 1 / 0, side="left", n=1)
    assert db.query(total) == 0


def test_one_changed_row_of_many_crosses_as_a_patch(db: cs.Database) -> None:
    db.mutation(fill, count=3000)
    with db.subscribe(many) as sub:
        before = sub.wait(timeout=10)
        sizes: list[int] = []
        received = db.link._received
        db.link._received = lambda text: (sizes.append(len(text)), received(text))
        db.mutation(bump, n=1234)
        after = sub.until(lambda rows: rows[1234].text.endswith("!"), timeout=10)
    assert sum(sizes) < 1000
    assert [row for row in after if row["n"] != 1234] == [row for row in before if row["n"] != 1234]


def test_callers_may_change_what_they_got(db: cs.Database) -> None:
    db.mutation(fill, count=100)
    with db.subscribe(many) as sub:
        rows = sub.wait(timeout=10)
        rows[3]["text"] = "mine"
        rows.clear()
        db.mutation(bump, n=7)
        after = sub.until(lambda value: len(value) == 100, timeout=10)
    assert after[3].text == "x" * 40


def test_pages_are_of_one_moment_and_miss_nothing(db: cs.Database) -> None:
    db.mutation(fill, count=25)
    found = []
    for page in db.pages(some, 10):
        found.append([row.n for row in page])
        db.mutation(fill, count=3)
    assert found == [list(range(10)), list(range(10, 20)), list(range(20, 25))]


def test_a_walk_goes_on_where_it_was_left(db: cs.Database) -> None:
    db.mutation(fill, count=25)
    pages = db.pages(some, 10)
    first = next(pages)
    db.mutation(fill, count=3)
    rest = list(db.pages(some, 10, first.cursor))
    assert [[row.n for row in page] for page in rest] == [list(range(10, 20)), [*range(20, 25), 0, 1, 2]]
    assert [page.is_last for page in (first, *rest)] == [False, False, True]

    async def script() -> list[int]:
        return [row.n async for page in db.aio.pages(some, 20, first.cursor) for row in page]

    assert asyncio.run(script()) == [row.n for page in rest for row in page]
    with pytest.raises(cs.ValidationError, match="belongs to another query"):
        list(db.pages(some, 10, "made.up"))


def test_a_waiter_hears_of_a_change_of_status(db: cs.Database) -> None:
    with db.subscribe(total) as sub:
        sub.wait(timeout=10)
        db.link.thread.call_soon(db.link._set_state, "reconnecting")
        sub.until(lambda _: sub.status == "stale", timeout=10)
        threading.Timer(0.1, lambda: db.link.thread.call_soon(db.link._set_state, "connected")).start()
        assert sub.until(lambda _: sub.status == "live", timeout=10) == 0


def test_the_same_on_an_event_loop(db: cs.Database) -> None:
    async def script() -> list[int]:
        seen = []
        sub = db.aio.subscribe(total)
        async for value in sub:
            seen.append(value)
            if value == 3:
                break
            await db.aio.mutation(put, side="left", n=1)
        assert await sub.auntil(lambda value: value == 3, timeout=10) == 3
        assert await db.aio.query(total) == 3
        with pytest.raises(cs.ApplicationError):
            await db.aio.mutation(refuse)
        return seen

    assert asyncio.run(script()) == [0, 1, 2, 3]


def test_following_what_was_never_shipped_does_not_hold_the_loop(
    db: cs.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go, ship, waited = threading.Event(), db._shipper.ready, []

    def slowly(handle: Any) -> None:
        waited.append(let_go.wait(5))
        ship(handle)

    async def script() -> Any:
        with db.aio.subscribe(total) as sub, db.aio.subscribe(left) as closed:
            assert sub.status == "loading"
            closed.close()
            both = db.aio.together(total=total, left=left)
            let_go.set()
            return await sub.auntil(timeout=10), await both.auntil(timeout=10)

    monkeypatch.setattr(db._shipper, "ready", slowly)
    assert asyncio.run(script()) == (0, {"total": 0, "left": []})
    assert all(waited)


def test_following_what_cannot_be_shipped_says_why(db: cs.Database) -> None:
    lock = threading.Lock()

    @cs.query(name="unshippable")
    def locked(ctx):
        return str(lock)

    async def script() -> Any:
        return await db.aio.subscribe(locked).auntil(timeout=10)

    with pytest.raises(cs.DeployError, match="lock"):
        asyncio.run(script())


def test_guesses_and_sets_on_an_event_loop(db: cs.Database) -> None:
    async def script() -> list[Any]:
        aio, seen = db.aio, []
        both = aio.together(all=total, left=left)
        await both.auntil(lambda value: value == {"all": 0, "left": []}, timeout=10)
        pending = await aio.enqueue(put, lambda view: view.set(total, 5), side="left", n=5)
        assert await pending is not None
        seen.append(await both.auntil(lambda value: value["all"] == 5, timeout=10))
        guess = await aio.enqueue(refuse, lambda view: view.set(total, 99))
        with pytest.raises(cs.ApplicationError):
            await guess
        seen.append(await both.auntil(timeout=10))
        both.close()
        return seen

    assert asyncio.run(script()) == [{"all": 5, "left": [5]}] * 2


def test_an_async_wait_ends_in_time_and_with_the_subscription(db: cs.Database) -> None:
    async def script() -> None:
        sub = db.aio.subscribe(total)
        with pytest.raises(TimeoutError):
            await sub.auntil(lambda value: value == 1, timeout=0.1)
        asyncio.get_running_loop().call_later(0.1, sub.close)
        assert [value async for value in sub] == [0]

    asyncio.run(script())
