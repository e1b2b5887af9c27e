"""A subscription as its holder sees it, on a link that a test drives by hand."""

from __future__ import annotations

import gc
import queue
import threading
from typing import Any

import pytest

from cellstore.client.results import QueryResult
from cellstore.client.subscription import CallbackThread, Subscription
from cellstore.client.wire import Failure
from cellstore.errors import CallerError, FunctionError


class HandLink:
    """Stands where a link stands; `tell` is the server."""

    def __init__(self) -> None:
        self.state, self.ts, self.problem = "connected", 0, None
        self.deliver: Any = None
        self.watching = 0

    @property
    def is_closed(self) -> bool:
        return self.state == "closed"

    def check_process(self) -> None:
        """It is the process of the test."""

    def watch(self, path: str, args: dict[str, Any], deliver: Any) -> HandLink:
        self.deliver = deliver
        self.watching += 1
        return self

    def close(self) -> None:
        self.watching -= 1

    def tell(self, value: Any, ts: int = 1, logs: tuple[str, ...] = ()) -> None:
        self.ts = ts
        self.deliver(QueryResult(value, logs=logs))

    def fail(self, message: str) -> None:
        self.deliver(QueryResult(failure=Failure("FunctionError", message)))


@pytest.fixture
def link():
    return HandLink()


def subscribe(link: HandLink, callback: Any = None, dispatch: Any = lambda job: job()) -> Subscription:
    return Subscription(link, "tasks:open", {}, callback, dispatch)


def test_a_subscription_goes_from_loading_to_live_to_closed(link):
    sub = subscribe(link)
    assert (sub.status, sub.value, sub.ts) == ("loading", None, None)
    link.tell([1], ts=5)
    assert (sub.status, sub.value, sub.ts) == ("live", [1], 5)
    link.state = "reconnecting"
    assert (sub.status, sub.value) == ("stale", [1])
    sub.close()
    sub.close()
    assert (sub.status, link.watching) == ("closed", 0)


def test_a_failed_run_keeps_the_last_good_value_and_tells_why(link):
    sub = subscribe(link)
    link.tell([1])
    link.fail("boom")
    assert (sub.status, sub.value, sub.error.message) == ("error", [1], "boom")
    link.tell([2])
    assert (sub.status, sub.value, sub.error) == ("live", [2], None)


def test_documents_come_as_documents(link):
    sub = subscribe(link)
    link.tell([{"_id": "x", "text": "milk"}])
    assert sub.value[0].text == "milk"


def test_a_callback_gets_every_value_it_keeps_up_with(link):
    seen: list[Any] = []
    subscribe(link, seen.append)
    for n in (1, 2, 3):
        link.tell(n)
    assert seen == [1, 2, 3]


def test_what_a_run_printed_comes_before_the_callback_and_alone_calls_nobody(link, capsys):
    sub = subscribe(link, print)
    link.tell(1, logs=("[LOG] counted", "[WARN] slowly"))
    assert capsys.readouterr().out.splitlines() == ["counted", "[WARN] slowly", "1"]
    link.tell(1, logs=("[LOG] again",))
    assert capsys.readouterr().out == ""
    assert sub.logs == ("[LOG] again",)
    sub.close()


def test_a_slow_callback_skips_to_the_newest(link):
    seen: list[Any] = []
    jobs: list[Any] = []
    sub = subscribe(link, seen.append, jobs.append)
    for n in (1, 2, 3):
        link.tell(n)
    for job in jobs:
        job()
    assert seen == [3]
    sub.close()


def test_a_callback_that_raises_is_logged_and_called_again(link, caplog):
    seen: list[Any] = []

    def callback(value: Any) -> None:
        seen.append(value)
        raise RuntimeError("mine")

    sub = subscribe(link, callback)
    link.tell(1)
    link.tell(2)
    assert seen == [1, 2]
    assert "tasks:open raised" in caplog.text
    sub.close()


def test_nothing_is_called_after_close(link):
    seen: list[Any] = []
    jobs: list[Any] = []
    sub = subscribe(link, seen.append, jobs.append)
    link.tell(1)
    sub.close()
    jobs[0]()
    assert seen == []


def test_waiting_ends_with_the_first_value_that_satisfies(link):
    sub = subscribe(link)
    link.tell(1)
    timer = threading.Timer(0.05, lambda: [link.tell(n) for n in (2, 3)])
    timer.start()
    assert sub.wait(lambda n: n >= 3, timeout=5) == 3
    assert sub.wait() == 3
    timer.join()


def test_waiting_ends_in_time_and_with_the_querys_own_error(link):
    sub = subscribe(link)
    with pytest.raises(TimeoutError, match="status is loading"):
        sub.wait(timeout=0.05)
    link.fail("boom")
    with pytest.raises(FunctionError, match="boom"):
        sub.wait(timeout=1)


def test_seconds_in_place_of_a_condition_are_told_their_name(link):
    with pytest.raises(CallerError, match="timeout=10"):
        subscribe(link).wait(10)


def test_iteration_yields_new_values_until_closed(link):
    sub = subscribe(link)
    link.tell(1)
    values = iter(sub)
    assert next(values) == 1
    threading.Timer(0.05, link.tell, [2]).start()
    assert next(values) == 2
    threading.Timer(0.05, sub.close).start()
    assert list(values) == []


def test_a_subscription_nobody_holds_ends(link):
    sub = subscribe(link)
    link.tell(1)
    assert link.watching == 1
    del sub
    gc.collect()
    assert link.watching == 0


def test_callbacks_have_a_thread_of_their_own():
    dispatch, threads = CallbackThread(), queue.SimpleQueue()
    for _ in range(2):
        dispatch(lambda: threads.put(threading.current_thread()))
    thread = threads.get(timeout=5)
    assert threads.get(timeout=5) is thread
    assert thread is not threading.current_thread()
    assert thread.name == "cellstore-callbacks"
    dispatch.stop()
    thread.join(5)
    assert not thread.is_alive()
