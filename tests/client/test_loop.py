"""The loop thread: waits that can be interrupted, and forks that know what they lost."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from concurrent.futures import Future

import pytest

from cellstore.client.loop import LoopThread, wait
from cellstore.errors import CallerError, Disconnected


@pytest.fixture
def thread():
    made = LoopThread("test")
    yield made
    made.stop()


async def nothing():
    return 1


def test_a_wait_is_interrupted_at_once():
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        wait(Future())
    assert time.monotonic() - began < 1
    timer.join()


def test_a_wait_ends_after_its_time():
    with pytest.raises(TimeoutError):
        wait(Future(), 0.05)


def test_a_timeout_that_is_the_result_is_raised(thread):
    async def slow():
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        thread.run(slow())


def test_a_blocking_call_on_the_loop_itself_is_refused(thread):
    async def bad():
        thread.run(nothing())

    with pytest.raises(CallerError, match="own thread"):
        thread.run(bad())


def test_after_stop_calls_say_so(thread):
    thread.stop()
    with pytest.raises(Disconnected, match="closed"):
        thread.run(nothing())
    thread.stop()


def test_stop_cancels_what_runs(thread):
    future = thread.submit(asyncio.sleep(60))
    assert thread.run(nothing()) == 1
    thread.stop()
    assert future.cancelled()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_owns_no_connection(thread):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            thread.submit(nothing())
            answer = "no error"
        except Disconnected as error:
            answer = error.message
        os.write(writer, answer.encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert b"forked" in os.read(reader, 1000)
    os.close(reader)
    os.close(writer)
    assert thread.run(nothing()) == 1
