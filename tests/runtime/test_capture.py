"""print, logging and warnings inside a call become its log lines, and nobody else's."""

from __future__ import annotations

import logging
import threading
import warnings

from cellstore.knobs import Knobs
from cellstore.runtime.capture import LogLines, current, installed


def test_what_a_call_prints_logs_and_warns_becomes_lines_with_levels() -> None:
    lines = LogLines()
    with installed():
        shown = warnings.showwarning
        token = current.set(lines)
        print("one", 2)
        print("three", end="")
        logging.getLogger("mine").warning("careful")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = shown
            warnings.warn("old", UserWarning, stacklevel=1)
        current.reset(token)
    assert lines.finish() == ["[LOG] one 2", "[WARN] careful", "[WARN] UserWarning: old", "[LOG] three"]


def test_another_thread_prints_where_it_always_did(capsys) -> None:
    lines = LogLines()
    with installed():
        token = current.set(lines)
        other = threading.Thread(target=print, args=("elsewhere",))
        other.start()
        other.join()
        current.reset(token)
    assert lines.finish() == []
    assert capsys.readouterr().out == "elsewhere\n"


def test_lines_beyond_the_limit_are_dropped_and_said_to_be() -> None:
    lines = LogLines(Knobs(log_lines_max=2, log_line_chars=3))
    for text in ("a", "abcdef", "c", "d"):
        lines.write("LOG", text)
    assert lines.finish() == [
        "[LOG] a",
        "[LOG] abc … (cut)",
        "[WARN] more than 2 log lines; the rest of this call's lines is dropped",
    ]
