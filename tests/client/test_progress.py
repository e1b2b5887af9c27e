"""What a cell is told about a call that waits: nothing for a moment, then what for, then how long it was."""

from __future__ import annotations

import pytest

from cellstore.client import progress


class Screen:
    """A cell's output, as the texts it showed."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def draw(self, shown: progress.WaitingLine) -> None:
        assert "<progress" not in progress._bar(shown)
        self.texts.append(shown.text)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    made = Screen()
    monkeypatch.setattr(progress, "_notebook", lambda: made)
    return made


def test_a_call_that_waits_long_says_what_for_and_in_the_end_how_long(
    screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_PATIENT_S", 0.0)
    reasons = iter(["waits for the server", "sent"])
    line = progress.WaitingLine("m:add", lambda: next(reasons))
    line.draw()
    line.draw()
    line.close()
    assert screen.texts[:2] == ["m:add: waits for the server (0 s)", "m:add: sent (0 s)"]
    assert screen.texts[2].startswith("m:add: waited 0.")


def test_a_call_that_is_soon_answered_says_nothing(screen: Screen) -> None:
    line = progress.WaitingLine("m:add", lambda: "sent")
    line.draw()
    line.close()
    assert screen.texts == []
