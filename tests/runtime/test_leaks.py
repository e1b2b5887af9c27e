"""What a call leaves behind in its module is undone and refused: by name, with the line, before anything is committed."""

from __future__ import annotations

from pathlib import Path

import pytest
from runtime_harness import Stage, play, unit_of, value_of

SOURCE = """
    import collections, functools

    COUNT = 0
    CACHE = {"a": 1}
    NESTED = {"inner": [1, 2]}
    SEEN = set()
    RECENT = collections.deque([1], maxlen=3)

    class Config:
        debug = False

    class Box:
        def __init__(self):
            self.n = 1

    BOX = Box()

    def remember(key):
        CACHE[key] = 2

    @functools.cache
    def slow(n):
        return n * 2

    def make():
        total = 0
        @cs.mutation(name="closure")
        def closure(ctx):
            nonlocal total
            total += 1
        return closure
    closure = make()

    @cs.mutation
    def rebind(ctx):
        global COUNT
        ctx.db.insert("t", {"n": 1})
        COUNT += 1

    @cs.mutation
    def new_name(ctx):
        global APPEARED
        APPEARED = 1

    @cs.mutation
    def in_helper(ctx):
        remember("b")

    @cs.mutation
    def nested(ctx):
        NESTED["inner"].append(3)

    @cs.mutation
    def grow(ctx):
        SEEN.add(1)

    @cs.mutation
    def push(ctx):
        RECENT.append(5)

    @cs.mutation
    def klass(ctx):
        Config.debug = True

    @cs.mutation
    def instance(ctx):
        BOX.n = 2

    @cs.mutation
    def default(ctx, seen: list = []):
        return len(seen)

    @cs.mutation
    def array(ctx):
        ARRAY[0] = 5

    import numpy
    ARRAY = numpy.arange(3)

    @cs.query
    def everything(ctx):
        return [COUNT, CACHE, NESTED, sorted(SEEN), list(RECENT), Config.debug, BOX.n, slow(4), ctx.db.query("t").count()]

    @cs.query
    def harmless(ctx):
        CACHE["a"] = 1
        local = dict(CACHE)
        local["x"] = slow(3)
        return local

    import random
    DICE = random.Random(7)
    MORE_DICE = numpy.random.default_rng(7)

    class Lazy:
        @functools.cached_property
        def costly(self):
            return 42

    LAZY = Lazy()

    @cs.query
    def rolls(ctx):
        return [DICE.random(), float(MORE_DICE.random()), LAZY.costly]

    @cs.mutation
    def fails(ctx):
        CACHE["c"] = 3
        raise ValueError("no")

    @cs.action
    def freely(ctx):
        global COUNT
        COUNT += 1
        return COUNT
"""

CHANGES = {
    "rebind": ("COUNT", "COUNT += 1"),
    "new_name": ("APPEARED", "APPEARED = 1"),
    "in_helper": ("CACHE", "CACHE[key] = 2"),
    "nested": ("NESTED", 'NESTED["inner"].append(3)'),
    "grow": ("SEEN", "SEEN.add(1)"),
    "push": ("RECENT", "RECENT.append(5)"),
    "klass": ("Config", "Config.debug = True"),
    "instance": ("BOX", "BOX.n = 2"),
    "closure": ("total", "total += 1"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


def test_state_that_would_leak_is_refused_by_name_and_line_and_undone(place: Path) -> None:
    async def scenario(stage: Stage) -> None:
        before = await stage.query("everything")
        for name, (variable, line) in CHANGES.items():
            outcome = await stage.runner.mutation(f"m:{name}", {})
            assert outcome.error is not None, name
            assert outcome.error.code == "NotDeterministic", name
            assert f"m:{name} changed `{variable}" in outcome.error.message
            assert "@cs.action" in outcome.error.message
            assert line in outcome.error.traceback, name
        assert await stage.query("everything") == before
        refused = await stage.runner.mutation("m:array", {})
        assert refused.error is not None
        assert "read-only" in refused.error.message

    play(place, SOURCE, scenario)


def test_what_a_failed_call_changed_is_undone_and_its_own_error_is_told(place: Path) -> None:
    async def scenario(stage: Stage) -> None:
        outcome = await stage.runner.mutation("m:fails", {})
        assert outcome.error is not None
        assert outcome.error.message == "ValueError: no"
        assert (await stage.query("everything"))[1] == {"a": 1}

    play(place, SOURCE, scenario, workers_max=1, workers_min=1)


def test_reading_copying_caching_and_writing_the_same_are_no_changes(place: Path) -> None:
    async def scenario(stage: Stage) -> None:
        for _ in range(3):
            assert await stage.query("harmless") == {"a": 1, "x": 6}
        rolled = [await stage.query("rolls") for _ in range(4)]
        assert rolled == [rolled[0]] * 4, "captured dice stand where they stood"
        assert await stage.mutate("default") == 0
        first = value_of(await stage.runner.action("m:freely", {}))
        assert value_of(await stage.runner.action("m:freely", {})) == first + 1, "actions may remember"

    play(place, SOURCE, scenario)
    assert unit_of(SOURCE).functions
