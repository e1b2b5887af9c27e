"""What counts as a change of a function, seen without packing it."""

from __future__ import annotations

from cellstore.client.shipping import same_objects, watched

SOURCE = """
RATE = 2
def helper(x): return x * RATE
def unused(): return 0
def outer(n=3):
    def inner(ctx): return helper(n) + len([SIZE for _ in ()])
    return inner
f = outer()
"""


def namespace() -> dict[str, object]:
    env: dict[str, object] = {"__name__": "nb", "SIZE": 1}
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


def test_what_the_function_does_not_read_does_not_count():
    assert not changed(namespace(), "OTHER = 5\ndef unused(): return 1")


def test_functions_that_call_each_other_end():
    env: dict[str, object] = {"__name__": "nb"}
    exec("def f(n): return g(n)\ndef g(n): return f(n)", env)
    assert len(list(watched([env["f"]]))) == 4  # two functions, two codes
