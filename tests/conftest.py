"""What all tests share. `pytest_jupyter` brings a real Jupyter server in this process (fixtures `jp_…`).

Nothing may hang: each step of a test that takes longer than DEADLINE_S, or than its mark `deadline(seconds)` allows, fails
where it stands.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator
from types import FrameType

import pytest
from hypothesis import settings

pytest_plugins = ["pytest_jupyter.jupyter_server"]

# A landing is judged by the same examples each time; on a developer's machine hypothesis looks for new ones.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

DEADLINE_S = 180  # of a set-up, a test or a tear-down; far above what any needs on a busy machine


def _within_the_deadline(item: pytest.Item) -> Iterator[None]:
    mark = item.get_closest_marker("deadline")
    deadline_s = DEADLINE_S if mark is None else mark.args[0]

    def too_long(_signum: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"this step of the test took longer than {deadline_s} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(deadline_s)
    try:
        return (yield)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    return (yield from _within_the_deadline(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    return (yield from _within_the_deadline(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    return (yield from _within_the_deadline(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where all that tests need is promised to be there (CELLSTORE_REQUIRE_ALL), a test that lacks something has failed."""
    report = yield
    if report.skipped and "needs " in str(report.longrepr) and os.environ.get("CELLSTORE_REQUIRE_ALL"):
        report.outcome = "failed"
    return report


@pytest.fixture(autouse=True)
def nothing_stays_defined() -> Iterator[None]:
    """The modules a test defines go with it: what a process has defined is shipped together."""
    from cellstore.functions import registry

    before = set(registry.modules())
    yield
    for module in set(registry.modules()) - before:
        registry.forget(module)
