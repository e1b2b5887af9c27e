"""What a person sees of an error: their own lines and the reason."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cellstore.client.errors_render import doorway, error_from
from cellstore.client.wire import Failure, read_failure
from cellstore.errors import ApplicationError, Disconnected, FatalError, FunctionError, LimitExceeded


def fail(error: Exception) -> None:
    with doorway():
        raise error


def test_an_application_error_carries_its_data_even_none():
    error = error_from(read_failure({"code": "ApplicationError", "message": "full", "data": None}))
    assert isinstance(error, ApplicationError)
    assert error.data is None
    assert error.message == "full"


def test_a_plain_convex_failure_becomes_an_error_too():
    assert isinstance(error_from(read_failure(None, "Server Error")), FunctionError)
    error = error_from(read_failure(None, "Uncaught", {"code": 7}, has_data=True))
    assert isinstance(error, ApplicationError)
    assert error.data == {"code": 7}


def test_a_code_we_know_becomes_its_class_and_any_other_a_function_error():
    assert isinstance(error_from(Failure("LimitExceeded", "too many rows")), LimitExceeded)
    error = error_from(Failure("UserTimeout", "too slow", "line 3", request_id="r1"), "tasks:slow")
    assert isinstance(error, FunctionError)
    assert (error.code, error.function, error.request_id) == ("UserTimeout", "tasks:slow", "r1")
    assert "In the function tasks:slow:\nline 3" in error.__notes__[0]


def test_a_cell_shows_the_callers_line_the_functions_lines_and_the_reason():
    with pytest.raises(FunctionError) as caught:
        fail(
            error_from(Failure("FunctionError", "ZeroDivisionError: division by zero", "Cell In[2], line 3\n    1 / 0"))
        )
    lines = "\n".join(caught.value._render_traceback_())
    assert "in fail\n    raise error" in lines
    assert "Cell In[2], line 3\n    1 / 0" in lines
    assert lines.endswith("FunctionError: ZeroDivisionError: division by zero")
    assert "cellstore/client" not in lines


def test_an_error_of_an_inline_run_shows_its_lines_once():
    error = FunctionError("boom", function="tasks:add", traceback="line 9")
    for _ in range(2):
        with pytest.raises(FunctionError):
            fail(error)
    assert error.__notes__ == ["In the function tasks:add:\nline 9"]


def test_the_functions_lines_say_neither_that_they_are_a_traceback_nor_the_reason_again():
    trace = (
        "Traceback (most recent call last):\n  Cell In[2], line 3, in f\n    1 / 0\nZeroDivisionError: division by zero"
    )
    error = error_from(Failure("FunctionError", "ZeroDivisionError: division by zero", trace, function="tasks:f"))
    assert error.__notes__ == ["In the function tasks:f:\n  Cell In[2], line 3, in f\n    1 / 0"]


SCRIPT = """
import cellstore as cs

@cs.query
def half(ctx, of: int):
    return of / 0

def main():
    with cs.open(":memory:"):
        half(of=1)

main()
"""


def ended(script: str, path: Path) -> list[str]:
    """What a script that fails says, without the lines of marks (which differ between Pythons)."""
    path.write_text(script)
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    return [line.strip() for line in done.stderr.splitlines() if line.strip(" ~^")]


def test_a_plain_script_ends_with_the_users_lines_the_functions_and_the_reason(tmp_path: Path):
    assert ended(SCRIPT, tmp_path / "halves.py") == [
        "Traceback (most recent call last):",
        f'File "{tmp_path}/halves.py", line 12, in <module>',
        "main()",
        f'File "{tmp_path}/halves.py", line 10, in main',
        "half(of=1)",
        "In the function halves:half:",
        f'File "{tmp_path}/halves.py", line 6, in half',
        "return of / 0",
        "FunctionError: ZeroDivisionError: division by zero",
    ]


def test_a_plain_script_shows_other_errors_as_python_does(tmp_path: Path):
    assert ended("import cellstore\n{}['x']", tmp_path / "other.py")[-1] == "KeyError: 'x'"
    ours = ended("import cellstore as cs\nraise cs.InvariantError('a bug')", tmp_path / "bug.py")
    assert ours[-1] == "cellstore.errors.InvariantError: a bug"


def test_our_own_bugs_show_everything():
    error = FatalError("stop")
    with pytest.raises(FatalError):
        fail(error)
    assert not hasattr(error, "_render_traceback_")


def test_ordinary_errors_pass_through_untouched():
    with pytest.raises(KeyError):
        fail(KeyError("x"))
    with pytest.raises(Disconnected):
        fail(Disconnected())


def test_an_error_that_no_line_of_the_users_raised_has_no_heading_without_lines():
    failure = Failure("ReturnsValidationError", "got a frame", "Traceback (most recent call last):\ngot a frame")
    assert not hasattr(error_from(failure, "tasks:act"), "__notes__")


def test_an_error_without_a_traceback_has_no_heading_either():
    assert not hasattr(error_from(Failure("NotFound", "there is no function 'm:f'")), "__notes__")
