"""`LiveWidget` over a scripted link, with a recorded comm."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from scripted import ScriptedDatabase, eventually
from traitlets import TraitError

from cellstore_kernel.widgets.live import LiveWidget


def made(database: ScriptedDatabase, path: str = "m:board", kind: str = "live", **args: Any) -> LiveWidget:
    return LiveWidget(database, path, args, kind=kind)  # type: ignore[arg-type]


def test_value_timestamp_and_status_follow_the_query(own: ScriptedDatabase) -> None:
    widget = made(own, origin="JFK")
    assert (widget.value, widget.ts, widget.status) == (None, None, "loading")
    own.link.step(10, board=[{"_id": "a", "n": 1}])
    assert widget.value == [{"_id": "a", "n": 1}]
    assert widget.value[0].n == 1
    assert (widget.ts, widget.status, widget.error) == (10, "live", None)


def test_a_failing_query_keeps_its_last_value_and_names_the_users_line(own: ScriptedDatabase) -> None:
    widget = made(own)
    own.link.step(10, board=1)
    trouble = {"code": "FunctionError", "message": "KeyError: 'x'", "traceback": "Cell In[3], line 7\n    f['x']"}
    own.link.step(20, board=trouble)
    assert (widget.value, widget.status) == (1, "error")
    assert "KeyError" in widget.error.message
    assert "Cell In[3], line 7" in widget._repr_mimebundle_()[0]["text/plain"]
    own.link.step(30, board=2)
    assert (widget.value, widget.status, widget.error) == (2, "live", None)


def test_an_error_has_one_name_in_the_cell_and_in_the_page(own: ScriptedDatabase) -> None:
    widget = made(own)
    own.link.step(10, board={"code": "NotUnique", "class": "ValidationError", "message": "taken"})
    assert "ValidationError: taken" in widget._repr_mimebundle_()[0]["text/plain"]
    assert json.loads(widget.get_state()["snapshot"]["error"])["class"] == "ValidationError"


def test_observers_hear_of_changes_elsewhere_than_on_the_clients_thread(own: ScriptedDatabase) -> None:
    widget = made(own)
    heard: list[tuple[Any, Any, str]] = []
    widget.observe(lambda change: heard.append((change.old, change.new, threading.current_thread().name)), "value")
    own.link.step(10, board=1)
    eventually(lambda: heard)
    assert heard == [(None, 1, "cellstore-callbacks")]


def test_a_slow_observer_skips_states_and_meets_the_newest(own: ScriptedDatabase) -> None:
    widget = made(own)
    go = threading.Event()
    heard: list[Any] = []

    def slow(change: Any) -> None:
        heard.append(change.new)
        go.wait(5)

    widget.observe(slow, "value")
    for number in range(1, 50):
        own.link.step(number, board=number)
    go.set()
    eventually(lambda: heard[-1] == 49)
    assert len(heard) <= 3


def test_values_are_not_for_setting(own: ScriptedDatabase) -> None:
    with pytest.raises(TraitError):
        made(own).value = 5


def test_where_the_page_hears_the_server_no_value_crosses_the_kernel(own: ScriptedDatabase) -> None:
    widget = made(own)
    for number in range(1, 5):
        own.link.step(number, board=number)
    assert widget.comm.custom() == []
    state = widget.comm.state()
    assert state["server"]["own"] is True
    assert state["source"] == ""
    assert state["queries"] == [["m:board", "{}"]]
    assert "secret" not in str(state).lower()
    assert "token" not in str({name: each for name, each in state.items() if name != "_esm"}).lower()


def test_elsewhere_one_commit_is_one_message_for_all_widgets(elsewhere: ScriptedDatabase) -> None:
    one, two = made(elsewhere, "m:board"), made(elsewhere, "m:ranking", day=1)
    elsewhere.link.step(10, board=[1], ranking=[2])
    carried = eventually(lambda: one.comm.custom() + two.comm.custom())
    steps = [body for content, body in carried if content["kind"] == "step"]
    assert len(steps) == 1
    assert {each["key"]: each["value"] for each in steps[0]["results"]} == {
        "m:board\0{}": [1],
        'm:ranking\0{"day":1}': [2],
    }
    assert steps[0]["ts"] == "10"


def test_steps_are_numbered_and_never_faster_than_twenty_a_second(elsewhere: ScriptedDatabase) -> None:
    widget = made(elsewhere)
    for number in range(1, 200):
        elsewhere.link.step(number, board=number)
    eventually(lambda: widget.comm.custom() and widget.comm.custom()[-1][1]["results"][0]["value"] == 199)
    numbers = [body["number"] for _, body in widget.comm.custom()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) < 100


def test_what_the_query_said_goes_to_the_page_also_when_its_value_stays(elsewhere: ScriptedDatabase) -> None:
    widget = made(elsewhere)
    elsewhere.link.step(10, board={"value": 1, "logLines": ["[LOG] first"]})
    assert widget.get_state()["snapshot"]["logs"] == ["[LOG] first"]
    elsewhere.link.step(20, board={"value": 1, "logLines": ["[WARN] stale"]})
    [shown] = eventually(lambda: widget.comm.custom() and widget.comm.custom()[-1][1]["results"])
    eventually(lambda: widget.comm.custom()[-1][1]["results"][0]["logs"] == ["[WARN] stale"])
    assert widget.value == shown["value"] == 1


def test_a_page_that_missed_something_gets_everything_again(elsewhere: ScriptedDatabase) -> None:
    widget = made(elsewhere)
    elsewhere.link.step(10, board="x")
    eventually(widget.comm.custom)
    widget.comm.handle_msg({"content": {"data": {"method": "custom", "content": {"kind": "want"}}}, "buffers": []})
    content, body = widget.comm.custom()[-1]
    assert (content["kind"], body["full"], body["results"][0]["value"]) == ("step", True, "x")


def test_a_call_from_the_page_is_answered_when_its_effects_are_visible(elsewhere: ScriptedDatabase) -> None:
    widget = made(elsewhere)
    call = {"kind": "call", "id": "c1", "call": "mutation", "path": "m:add", "args": '{"n": 1}'}
    widget.comm.handle_msg({"content": {"data": {"method": "custom", "content": call}}, "buffers": []})
    sent = eventually(lambda: [f for f in elsewhere.link.sent if f["type"] == "Mutation"])[0]
    assert (sent["udfPath"], sent["args"]) == ("m:add", [{"n": 1}])


def test_what_is_not_understood_harms_nobody(elsewhere: ScriptedDatabase) -> None:
    widget = made(elsewhere)
    for content in ({"kind": "call"}, {"kind": "?"}, [], {"kind": "want", "keys": 5}):
        widget.comm.handle_msg({"content": {"data": {"method": "custom", "content": content}}, "buffers": []})


def test_what_is_saved_with_the_notebook_is_bounded(own: ScriptedDatabase) -> None:
    widget = made(own)
    rows = [{"n": number, "text": "x" * 90} for number in range(5000)]
    own.link.step(10, board=rows)
    snapshot = widget.get_state()["snapshot"]
    assert len(snapshot["value"]) < 33_000
    assert (snapshot["partial"], snapshot["total"]) == (True, 5000)


def test_readers_without_us_see_escaped_data_and_its_moment(own: ScriptedDatabase) -> None:
    widget = made(own)
    own.link.step(1_763_950_000_000_000_000, board=[{"name": "<b>Ada</b>", "n": 3}])
    data, _ = widget._repr_mimebundle_()
    assert "&lt;b&gt;Ada" in data["text/html"]
    assert "<script" not in data["text/html"]
    assert "as of 2025-11-24 02:06:40 UTC" in data["text/html"]
    assert data["text/plain"].splitlines()[1].split() == ["name", "n"]
    assert "0x" not in data["text/plain"]
    assert "application/vnd.jupyter.widget-view+json" in data


def test_a_closed_widget_leaves_the_query(own: ScriptedDatabase) -> None:
    widget = made(own)
    own.link.step(10, board=1)
    widget.close()
    own.link.on_loop(lambda: None)
    removed = [each for frame in own.link.sent for each in frame.get("modifications", ()) if each["type"] == "Remove"]
    assert len(removed) == 1
    assert (widget.status, widget.value) == ("closed", 1)
