"""Our own client against a real server, waiting and awaiting, on a line that goes away and comes back."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from published import serving
from rough_proxy import RoughProxy
from server_process import TOKEN, ServerProcess

import cellstore as cs
from cellstore.client.database import Database
from cellstore.client.pending import Pending

PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(tmp_path_factory.mktemp("ours"), "notes.py") as server:
        yield server


@pytest.fixture
def line(server: ServerProcess) -> Iterator[RoughProxy]:
    server.call("mutation", "notes:clear")
    line = RoughProxy(server.port, seed=1)
    yield line
    line.stop()


@pytest.fixture
def db(line: RoughProxy) -> Iterator[Database]:
    with cs.connect(f"http://127.0.0.1:{line.port}", token=TOKEN) as db:
        yield db


def eventually(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def one_more(n: int) -> Callable[[Any], None]:
    """The guess of `notes:add`."""
    return lambda view: view.set("notes:rows", [*view.get("notes:rows"), n])


def test_calls_callbacks_iterators_and_conditions(db: Database) -> None:
    assert isinstance(db.mutation("notes:add", n=1), str)
    assert db.query("notes:rows") == [1]
    assert db.action("notes:add_slowly", n=2, seconds=0.0) == 2
    heard: list[Any] = []
    with db.subscribe("notes:count", heard.append) as counted:
        assert counted.wait(timeout=PATIENCE_S) == 2
        following = iter(db.subscribe("notes:rows"))
        assert next(following) == [1, 2]
        db.mutation("notes:add", n=3)
        assert next(following) == [1, 2, 3]
        eventually(lambda: heard == [2, 3])
        db.enqueue("notes:add", n=4)
        assert counted.until(lambda count: count == 4, timeout=PATIENCE_S) == 4
        with pytest.raises(TimeoutError, match="notes:count: no such value came in time; status is live"):
            counted.until(lambda count: count == 99, timeout=0.1)


def test_the_same_for_those_who_await(db: Database) -> None:
    async def all_of_it() -> None:
        ours = db.aio
        await ours.mutation("notes:add", n=1)
        assert await ours.query("notes:rows") == [1]
        assert await ours.action("notes:add_slowly", n=2, seconds=0.0) == 2
        heard: list[Any] = []
        counted, seen = ours.subscribe("notes:count", heard.append), []
        async for rows in ours.subscribe("notes:rows"):
            seen.append(rows)
            if len(rows) == 3:
                break
            await ours.mutation("notes:add", n=3)
        assert seen == [[1, 2], [1, 2, 3]]
        pending = await ours.enqueue("notes:add", n=4)
        assert await counted.auntil(lambda count: count == 4, timeout=PATIENCE_S) == 4
        assert isinstance(await pending, str)
        both = await ours.together(rows="notes:rows", count="notes:count").auntil(timeout=PATIENCE_S)
        assert both == {"rows": [1, 2, 3, 4], "count": 4}
        with pytest.raises(TimeoutError):
            await counted.auntil(lambda count: count == 99, timeout=0.1)
        await asyncio.to_thread(eventually, lambda: heard[-1:] == [4])
        counted.close()

    asyncio.run(all_of_it())


def test_without_a_line_views_say_stale_guesses_are_shown_and_mutations_wait(db: Database, line: RoughProxy) -> None:
    rows = db.subscribe("notes:rows")
    assert rows.wait(timeout=PATIENCE_S) == []
    line.leave()
    eventually(lambda: rows.status == "stale")
    queued = [db.enqueue("notes:add", one_more(n), n=n) for n in range(3)]
    wrong, unwanted = db.enqueue("notes:refuse", one_more(99)), db.enqueue("notes:add", one_more(7), n=7)
    assert rows.value == [0, 1, 2, 99, 7]
    assert unwanted.cancel() is False  # it was never sent, and never will be
    with pytest.raises(cs.CellstoreError, match="given up"):
        unwanted.result(timeout=PATIENCE_S)
    assert (rows.value, [each.state for each in db.pending]) == ([0, 1, 2, 99], ["waiting"] * 4)
    line.come_back()
    for each in queued:
        each.result(timeout=PATIENCE_S)
    with pytest.raises(cs.ApplicationError) as refused:
        wrong.result(timeout=PATIENCE_S)
    assert refused.value.data == {"code": 7}
    assert (rows.value, rows.status, db.query("notes:rows")) == ([0, 1, 2], "live", [0, 1, 2])


def test_so_do_those_who_await(db: Database, line: RoughProxy) -> None:
    async def all_of_it() -> None:
        rows = db.aio.subscribe("notes:rows")
        assert await rows.auntil(timeout=PATIENCE_S) == []
        line.leave()
        await asyncio.to_thread(eventually, lambda: rows.status == "stale")
        pending = await db.aio.enqueue("notes:add", one_more(1), n=1)
        given_up = asyncio.create_task(db.aio.mutation("notes:add", n=2))
        await asyncio.sleep(0.05)
        given_up.cancel()
        await asyncio.wait([given_up])
        assert (given_up.cancelled(), rows.value, pending.state) == (True, [1], "waiting")
        line.come_back()
        await pending
        assert (rows.value, rows.status) == ([1], "live")
        assert await db.aio.query("notes:rows") == [1]

    asyncio.run(all_of_it())


def test_an_action_whose_line_is_cut_ends_in_doubt_at_once(db: Database, line: RoughProxy) -> None:
    assert db.query("notes:rows") == []  # the line is up, so the call is soon under way
    threading.Timer(0.3, line.cut).start()
    with pytest.raises(cs.Disconnected, match="may or may not have finished"):
        db.action("notes:add_slowly", n=1, seconds=15.0)


NUMBERS = [1, 1.0, -0.0, 2**53 + 1, 2**63 - 1, -(2**63), 1e300, float("inf"), float("nan")]
OTHERS = [b"\0\xff", None, True, "ü\0", [1, 1.0, {"a": 2**60, "b": [1e-300, float("-inf")]}]]


@pytest.mark.parametrize("value", [*NUMBERS, *OTHERS], ids=repr)
def test_values_come_back_exactly_however_they_are_asked_for(db: Database, value: Any) -> None:
    with db.subscribe("notes:echo", value=value) as followed:
        for answer in (db.query("notes:echo", value=value), followed.wait(timeout=PATIENCE_S)):
            assert (repr(answer), type(answer)) == (repr(value), type(value))


def test_one_changed_row_of_ten_thousand_costs_a_few_hundred_bytes_after_a_cut_too(
    db: Database, line: RoughProxy, server: ServerProcess
) -> None:
    db.insert_df("long", [{"n": n, "text": "x" * 40} for n in range(10_000)], progress=False)
    long = db.subscribe("notes:long")
    long.wait(lambda rows: len(rows) == 10_000, PATIENCE_S)
    sizes: list[int] = []
    received = db.link._received
    db.link._received = lambda text: (sizes.append(len(text)), received(text))[1]  # type: ignore[method-assign]
    db.mutation("notes:touch", n=5_000)
    assert long.value[5_000]["text"].endswith("x!")
    assert sum(sizes) < 1_000
    line.leave()
    eventually(lambda: long.status == "stale")
    server.call("mutation", "notes:touch", {"n": 7_000})
    sizes.clear()
    line.come_back()
    assert len(long.until(lambda rows: rows[7_000]["text"].endswith("x!"), timeout=PATIENCE_S)) == 10_000
    assert sum(sizes) < 1_000


WAITS: dict[str, Callable[[Database], object]] = {
    "action": lambda db: db.action("notes:add_slowly", n=1, seconds=30.0),
    "condition": lambda db: db.subscribe("notes:rows").until(lambda _: False),
    "iteration": lambda db: list(db.subscribe("notes:rows")),
    "mutation under way": lambda db: db.enqueue("notes:add", n=1).result(),
    "mutation": lambda db: db.mutation("notes:add", n=1),
    "query": lambda db: db.query("notes:rows"),
}


@pytest.mark.parametrize("what", WAITS)
def test_ctrl_c_ends_every_wait_at_once(db: Database, line: RoughProxy, what: str) -> None:
    assert db.query("notes:rows") == []  # so that nothing has to be deployed first
    if what in ("mutation under way", "mutation", "query"):  # which are soon over, if there is a line
        line.leave()
        eventually(lambda: db.link.state != "connected")
    interrupted: list[float] = []

    def interrupt() -> None:
        interrupted.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(0.4, interrupt)
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            WAITS[what](db)
    finally:
        timer.cancel()
    assert time.monotonic() - interrupted[0] < 0.5


def test_when_it_is_closed_nothing_waits_any_more(db: Database, line: RoughProxy) -> None:
    rows = db.subscribe("notes:rows")
    rows.wait(timeout=PATIENCE_S)
    line.leave()
    eventually(lambda: rows.status == "stale")
    pending = db.enqueue("notes:add", n=1)
    threading.Timer(0.1, db.close).start()
    waits: list[Callable[[], object]] = [pending.result, lambda: rows.until(lambda _: False)]
    for each in [*waits, lambda: awaited(pending), lambda: db.query("notes:rows")]:
        with pytest.raises(cs.Disconnected, match="closed"):
            each()
    assert (rows.status, list(rows)) == ("closed", [[]])


def awaited(pending: Pending) -> Any:
    async def wait() -> Any:
        return await pending

    made: Awaitable[Any] = wait()
    return asyncio.run(made)  # type: ignore[arg-type]
