"""Each dialogue is a story about one connection; the session must tell it word for word."""

from pathlib import Path

import pytest
from session_dialogue import play

DIALOGUES = sorted((Path(__file__).parent / "dialogues").glob("*.txt"))


@pytest.mark.parametrize("script", DIALOGUES, ids=lambda path: path.stem)
def test_the_session_keeps_to_its_script(script: Path) -> None:
    text = script.read_text()
    assert play(text) == text
