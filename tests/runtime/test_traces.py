"""Tracebacks show the user's own lines, named by cell."""

from __future__ import annotations

import linecache

from cellstore.runtime.traces import from_dump, user_traceback

CELL = "/tmp/ipykernel_1/22.py"
SOURCE = "def f(d):\n    return d['balence']\n"


def failing() -> BaseException:
    linecache.cache[CELL] = (len(SOURCE), None, SOURCE.splitlines(True), CELL)
    space: dict = {}
    exec(compile(SOURCE, CELL, "exec"), space)
    try:
        space["f"]({})
    except KeyError as error:
        return error
    raise AssertionError


def test_a_traceback_holds_the_users_frames_only_and_names_the_cell() -> None:
    text = user_traceback(failing(), {CELL}.__contains__, {CELL: "Cell In[5]"})
    assert text.splitlines() == [
        "Traceback (most recent call last):",
        "  Cell In[5], line 2, in f",
        "    return d['balence']",
        "           ~^^^^^^^^^^^",
        "KeyError: 'balence'",
    ]


def test_a_dump_of_a_stuck_process_becomes_a_traceback_of_the_users_frames() -> None:
    dump = (
        f'Current thread 0x1 (most recent call first):\n  File "{CELL}", line 2 in f\n  File "/lib/x.py", line 9 in g\n'
    )
    text = from_dump(dump, {CELL}.__contains__, {CELL: "Cell In[5]"}, {CELL: "def f():\n    wait()\n"})
    assert text.splitlines() == ["Traceback (most recent call last):", "  Cell In[5], line 2, in f", "    wait()"]
    text = from_dump(dump, {CELL}.__contains__, {CELL: "Cell In[5]"}, {CELL: "# another text by now"})
    assert text.splitlines() == ["Traceback (most recent call last):", "  Cell In[5], line 2, in f"]
