"""Fixtures for widgets: with recorded comms and a scripted server, or over a real embedded store."""

from __future__ import annotations

from collections.abc import Iterator

import comm
import pytest
from ipywidgets import Widget
from scripted import RecordedComm, ScriptedDatabase, ScriptedLink

from cellstore.client.loop import LoopThread


@pytest.fixture(scope="session")
def loop_thread() -> Iterator[LoopThread]:
    thread = LoopThread("test")
    yield thread
    thread.stop()


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Widgets made in this test talk to recorded comms, and are closed at its end."""
    monkeypatch.setattr(comm, "create_comm", RecordedComm)
    yield
    Widget.close_all()


@pytest.fixture
def link(loop_thread: LoopThread) -> ScriptedLink:
    return ScriptedLink(loop_thread)


@pytest.fixture
def elsewhere(link: ScriptedLink, monkeypatch: pytest.MonkeyPatch, recorded: None) -> Iterator[ScriptedDatabase]:
    """A database on a server that did not start this kernel: values are relayed."""
    yield from current(ScriptedDatabase(link, "the address you gave", "http://host:3210/"), monkeypatch)


@pytest.fixture
def own(link: ScriptedLink, monkeypatch: pytest.MonkeyPatch, recorded: None) -> Iterator[ScriptedDatabase]:
    """A database on the server that started this kernel: the page hears it by itself."""
    from cellstore.client.discovery import RUNGS

    yield from current(ScriptedDatabase(link, RUNGS["environment"], "http://127.0.0.1:8888/"), monkeypatch)


def current(database: ScriptedDatabase, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedDatabase]:
    from cellstore_kernel.widgets import live

    monkeypatch.setattr(live, "FIRST_RESULT_S", 0.0)
    monkeypatch.setattr(live, "current", lambda: database)
    yield database
    database.dispatch.stop()
