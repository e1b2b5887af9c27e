"""Frames: a stream cut anywhere gives the same messages."""

from __future__ import annotations

import pytest

from cellstore.errors import InvariantError
from cellstore.runtime import calls
from cellstore.runtime.outcome import ErrorInfo, Outcome


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_a_stream_cut_anywhere_gives_the_same_messages(size: int) -> None:
    stream = calls.frame([["a", 1], ["b", "ü"]]) + calls.frame([["c", [1.0, None]]])
    reader = calls.FrameReader()
    found = [m for at in range(0, len(stream), size) for m in reader.feed(stream[at : at + size])]
    assert found == [["a", 1], ["b", "ü"], ["c", [1.0, None]]]


def test_text_that_is_no_unicode_takes_no_other_message_down_with_it() -> None:
    messages = [["log", 1, "\ud800"], ["done", 2, ["ü", {"\udfff": None}], 3.5]]
    read = list(calls.FrameReader().feed(calls.frame(messages)))
    assert read == [["log", 1, "\\ud800"], ["done", 2, ["ü", {"\\udfff": None}], 3.5]]


def test_a_frame_beyond_reason_ends_the_connection() -> None:
    reader = calls.FrameReader()
    with pytest.raises(InvariantError, match="announced"):
        list(reader.feed(b"\xff\xff\xff\xff{"))


def test_an_outcome_survives_the_wire_with_its_error_data_and_reads() -> None:
    error = ErrorInfo("ApplicationError", "no", data={"n": 1, "b": b"\0"}, has_data=True, traceback="t", function="m:f")
    outcome = Outcome(False, b"null", error, ["[LOG] x"], 7, {3: [(b"\1", b"\2"), (b"\5", b"\6")]}, "j", True, 1.5)
    assert calls.outcome_from_wire(calls.outcome_to_wire(outcome)) == outcome


def test_a_foreign_client_sees_application_errors_whole_and_bugs_by_request_id_only() -> None:
    bug = ErrorInfo("FunctionError", "KeyError: 'secret'", traceback="…", function="m:f", request_id="r1")
    assert "secret" not in bug.redacted().message
    assert "r1" in bug.redacted().message
    told = ErrorInfo("ApplicationError", "no", data=[1], has_data=True, traceback="…")
    assert (told.redacted().data, told.redacted().traceback) == ([1], "")
    wrong = ErrorInfo("ArgumentValidationError", "m:f: n: expected int, got str")
    assert wrong.redacted().message == wrong.message
    taken = ErrorInfo("NotUnique", "'j57…' has the same email", kind="ValidationError", traceback="Cell In[3]")
    told = taken.redacted()
    assert (told.code, told.message, told.traceback) == (
        "NotUnique",
        "there is another document like it, where there may be only one",
        "",
    )
    misspelt = ErrorInfo("IndexNotFound", "there is no index 'by_secret'", kind="ValidationError").redacted()
    assert (misspelt.code, "secret" in misspelt.message) == ("ServerError", False)
    broken = ErrorInfo("ReturnsValidationError", "expected int, got 'secret'", kind="ValidationError", request_id="r2")
    assert (broken.redacted().code, "secret" in broken.redacted().message) == ("ServerError", False)
