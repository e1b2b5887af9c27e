"""What counts as a change of a function, seen without packing it; and what is shipped when part of it cannot be."""

from __future__ import annotations

import sys
import threading
import tracemalloc
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import cellstore
from cellstore.client import shipping
from cellstore.client.shipping import Shipper, same_objects, watched
from cellstore.deploy.unit import Unit
from cellstore.errors import DeployError, ValidationError
from cellstore.functions import registry

SOURCE = """
RATE = 2
def helper(x): return x * RATE
def unused(): return 0
def outer(n=3):
    def inner(ctx): return helper(n) + len([SIZE for _ in ()])
    return inner
f = outer()
"""


def namespace(size: object = 1) -> dict[str, object]:
    env: dict[str, object] = {"__name__": "nb", "SIZE": size}
    exec(SOURCE, env)
    return env


def changed(env: dict, statement: str) -> bool:
    before = list(watched([env["f"]]))
    assert same_objects(list(watched([env["f"]])), before)
    exec(statement, env)
    return not same_objects(list(watched([env["f"]])), before)


def test_a_constant_read_by_a_helper_counts():
    assert changed(namespace(), "RATE = 30000")


def test_a_helper_defined_again_counts():
    assert changed(namespace(), "def helper(x): return -x")


def test_a_name_read_in_a_nested_function_counts():
    assert changed(namespace(), "SIZE = 'large'")


@pytest.mark.parametrize("change", ["SIZE['a'].append(2)", "SIZE['b'] = 1", "SIZE['a'][0].n = 5", "SIZE['c'].clear()"])
def test_a_container_or_an_object_changed_in_place_counts(change: str) -> None:
    env = namespace()
    exec("class Own:\n    n = 0\nOwn.__module__ = '__main__'\nSIZE = {'a': [Own(), 1], 'c': {1}}", env)
    assert changed(env, change)


RELOADED = {
    "a function of a module": "SIZE.far.__code__ = (lambda: 2).__code__",
    "a name of a module": "SIZE.LIMIT = 2",
    "a method of a class": "SIZE.Own.read = lambda self: 2",
    "what a method of a class runs": "SIZE.Own.read.__code__ = (lambda self: 2).__code__",
    "what a static method runs": "SIZE.Own.still.__code__ = (lambda: 2).__code__",
}


@pytest.mark.parametrize("name", RELOADED)
def test_what_changes_inside_a_module_or_a_class_counts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("beside")
    text = "LIMIT = 1\ndef far(): ...\nclass Own:\n    def read(self): ...\n    @staticmethod\n    def still(): ..."
    monkeypatch.setitem(sys.modules, "beside", module)
    module.__file__ = "/nowhere/beside.py"
    exec(text, vars(module))
    assert changed(namespace(module), RELOADED[name])


def test_comparing_a_large_container_costs_no_more_than_a_look_at_its_beginning() -> None:
    env = namespace([[n] * 50 for n in range(10_000)] * 20)
    tracemalloc.start()
    try:
        assert len(list(watched([env["f"]]))) < 1100  # type: ignore[list-item]
        assert tracemalloc.get_traced_memory()[1] < 500_000, "nor is it copied"
    finally:
        tracemalloc.stop()


def test_what_the_function_does_not_read_does_not_count():
    assert not changed(namespace(), "OTHER = 5\ndef unused(): return 1")


def test_functions_that_call_each_other_end():
    env: dict[str, object] = {"__name__": "nb"}
    exec("def f(n): return g(n)\ndef g(n): return f(n)", env)
    assert len(list(watched([env["f"]]))) == 4  # two functions, two codes


@pytest.fixture
def told() -> Iterator[list[Unit]]:
    """The units that a store is given which refuses tables with a field `no`."""
    yield []
    registry.forget("shipped")


@pytest.fixture
def shipper(told: list[Unit]) -> Shipper:
    def deploy(unit: Unit) -> dict[str, Any]:
        if any("no" in table.fields["fields"] for table in unit.tables):
            raise ValidationError("the table cannot take the new schema")
        if any(path.endswith(":strange") for path in names(unit)):
            raise DeployError("the module cannot be loaded where functions run")
        told.append(unit)
        return {}

    return Shipper(deploy)


def define(source: str) -> dict[str, Any]:
    env: dict[str, Any] = {"__name__": "shipped", "cs": cellstore, "LOCK": threading.Lock()}
    exec(source, env)
    return env


GOOD = "@cs.query\ndef good(ctx): return 1\n"
BAD = "@cs.query\ndef bad(ctx): return LOCK\n"


def names(unit: Unit) -> list[str]:
    return [spec.path for spec in unit.functions]


def test_a_function_that_cannot_travel_holds_up_no_other(shipper, told):
    env = define(GOOD + BAD)
    with pytest.raises(DeployError, match="bad uses `LOCK`"):
        shipper.ready(env["bad"])
    shipper.ready(env["good"])
    assert [names(unit) for unit in told] == [["shipped:good"]]
    later = define("@cs.query\ndef later(ctx): return 2")
    shipper.ready(later["later"])
    assert names(told[-1]) == ["shipped:good", "shipped:later"]


def test_a_function_that_the_store_cannot_load_holds_up_no_other(shipper, told):
    shipper.ready(define(GOOD)["good"])
    strange = define("@cs.query\ndef strange(ctx): return 1")["strange"]
    with pytest.raises(DeployError, match="cannot be loaded where"):
        shipper.ready(strange)
    later = define("@cs.query\ndef later(ctx): return 2\n@cs.query\ndef last(ctx): return 3")
    shipper.ready(later["later"])
    assert names(told[-1]) == ["shipped:good", "shipped:later", "shipped:last"]
    with pytest.raises(DeployError, match="cannot be loaded where"):
        shipper.ready(strange)


def test_of_two_functions_that_cannot_travel_neither_hides_the_other(shipper, told):
    with pytest.raises(DeployError, match="bad uses `LOCK`"):
        shipper.ready(define(GOOD + BAD)["bad"])
    worse = define("@cs.query\ndef worse(ctx): return LOCK")["worse"]
    with pytest.raises(DeployError, match=r"bad uses `LOCK`.*\nworse uses `LOCK`"):
        shipper.ready(worse)


def test_a_form_that_cannot_travel_leaves_the_one_before_in_place(shipper, told):
    shipper.ready(define(GOOD + "@cs.query\ndef bad(ctx): return 0")["bad"])
    hashes = told[-1].hashes
    with pytest.raises(DeployError, match="bad uses `LOCK`"):
        shipper.ready(define(BAD)["bad"])
    shipper.ready(define("@cs.query\ndef later(ctx): return 2")["later"])
    assert told[-1].hashes["bad"] == hashes["bad"]


def test_when_a_schema_is_refused_functions_that_could_mend_the_data_still_go(shipper, told):
    shipper.ready(define(GOOD + "class T(cs.Table, name='t'):\n    a: int")["good"])
    mend = define("class T(cs.Table, name='t'):\n    no: int\n@cs.mutation\ndef mend(ctx): pass")["mend"]
    shipper.ready(mend)
    assert names(told[-1]) == ["shipped:good", "shipped:mend"]
    assert [list(table.fields["fields"]) for table in told[-1].tables] == [["a"]]
    with pytest.raises(ValidationError, match="cannot take"):
        shipper.ensure("shipped")


@pytest.mark.parametrize("cell", [None, "", "c1"], ids=["no cells", "a cell without an id", "a cell"])
def test_a_refusal_that_stops_nobody_and_that_no_cell_has_defined_is_logged_once(
    shipper, told, caplog, monkeypatch, cell
):
    monkeypatch.setattr(registry, "cell", cell)
    good = define(GOOD + "class T(cs.Table, name='t'):\n    a: int")["good"]
    shipper.ready(good)
    define("class T(cs.Table, name='t'):\n    no: int")
    for _ in range(2):
        shipper.ready(good)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == "shipped is served as it was before: the table cannot take the new schema"


def test_a_call_of_a_known_function_compares_its_module_once(shipper, told, monkeypatch):
    good, looks = define(GOOD)["good"], []
    shipper.ready(good)
    monkeypatch.setattr(shipping, "watched", lambda functions: looks.append(1) or watched(functions))
    shipper.ready(good)
    assert looks == [1]


def test_a_table_that_was_renamed_is_not_declared_under_its_old_name_any_more(shipper, told):
    define("class T(cs.Table, name='t'):\n    a: int\nclass U(cs.Table, name='u', renamed_from='t'):\n    a: int")
    shipper.ensure("shipped")
    assert [table.name for table in told[-1].tables] == ["u"]


def test_a_function_that_was_taken_away_is_defined_again_by_being_called(shipper, told):
    env = define(GOOD + "@cs.query\ndef other(ctx): return 2")
    registry.discard("shipped:good")
    shipper.ready(env["other"])
    assert names(told[-1]) == ["shipped:other"]
    shipper.ready(env["good"])
    assert names(told[-1]) == ["shipped:other", "shipped:good"]


def test_a_table_defined_again_is_told_again_for_somebody_may_have_dropped_it(
    told: list[Unit], shipper: Shipper
) -> None:
    table = "class T(cs.Table, name='t'):\n    a: int\n"
    shipper.ready(define(GOOD + table)["good"])
    shipper.ready(define(GOOD)["good"])
    assert len(told) == 1, "a function defined again as it was is not"
    define(table)
    shipper.ensure("shipped")
    assert [unit.hash for unit in told] == [told[0].hash] * 2
