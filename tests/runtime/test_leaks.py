"""What a call leaves behind in its module is undone and refused: by name, with the line, before anything is committed."""

from __future__ import annotations

import contextlib
import math
import operator
import time
from pathlib import Path

import pytest
from runtime_harness import Stage, play, unit_of, value_of

from cellstore.errors import NotDeterministic
from cellstore.runtime.leaks import Watch
from cellstore.runtime.patches import patches, set_packages

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

    import json, math

    @cs.mutation
    def library(ctx):
        math.tau2 = 6.3

    @cs.mutation
    def library_class(ctx):
        from json import JSONEncoder as Encoder
        del Encoder.default

    @cs.mutation
    def library_by_name(ctx):
        import json.decoder
        setattr(json.decoder.JSONDecoder, "loud", len)

    @cs.mutation
    def library_by_computed_name(ctx):
        for owner, name in ((math, "t" + "au3"), (json.JSONEncoder, "lo" + "ud")):
            setattr(owner, name, 9)

    @cs.mutation
    def library_without_a_name(ctx):
        for name in ["sqrt"]:
            delattr(math, name)

    @cs.mutation
    def library_setting(ctx):
        math.pi = 3
        for name in ["tau", "e"]:
            setattr(math, name, 3)
        assert math.tau == math.e == 3
        return math.pi

    @cs.mutation
    def library_for_a_moment(ctx):
        sqrt = math.sqrt
        for name in ["tau3"]:
            setattr(math, name, 3)
            found = math.tau3
            delattr(math, name)
        for name in ["sqrt"]:
            delattr(math, name)
            setattr(math, name, sqrt)
        return found

    @cs.mutation
    def library_setting_that_fails(ctx):
        setattr(math, "".join("tau"), 4)
        assert math.tau != 4, "it took"

    @cs.query
    def libraries(ctx):
        import json
        assert not hasattr(math, "tau3") and not hasattr(json.JSONEncoder, "loud") and math.sqrt(4) == 2
        assert math.tau > 6 and math.e < 3, "settings are as they were"
        return [math.pi > 3, hasattr(math, "tau2"), hasattr(json.JSONEncoder, "default"), hasattr(json.JSONDecoder, "loud")]

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
    "library": ("math.tau2", "math.tau2 = 6.3"),
    "library_class": ("Encoder.default", "del Encoder.default"),
    "library_by_computed_name": ("math.tau3", "setattr(owner, name, 9)"),
    "library_without_a_name": ("math.sqrt", "delattr(math, name)"),
    "library_by_name": ("json.decoder.JSONDecoder.loud", 'setattr(json.decoder.JSONDecoder, "loud", len)'),
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


def test_what_a_call_did_to_a_library_is_gone_in_the_next(place: Path) -> None:
    async def scenario(stage: Stage) -> None:
        for name in (each for each in CHANGES if each.startswith("library")):
            assert not (await stage.runner.mutation(f"m:{name}", {})).ok
        failed = (await stage.runner.mutation("m:library_setting_that_fails", {})).error
        assert failed is not None
        assert "it took" in failed.message
        assert await stage.mutate("library_setting") == 3
        assert await stage.mutate("library_for_a_moment") == 3, "it put all back itself"
        assert await stage.query("libraries") == [True, False, True, False]

    play(place, SOURCE, scenario, workers_max=1, workers_min=1)


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


ASKED = """
    @cs.query
    def settings(ctx):
        return found()

    @cs.mutation
    def change(ctx, what: str, fail: bool = False):
        before = found()
        CHANGES[what]()
        if fail:
            raise ValueError("no")
        return before[what] != found()[what]
"""


def changes_last_as_long_as_their_call(place: Path, source: str, fail: bool) -> None:
    """`source`: `CHANGES` by name, and `found`, which tells what each of them is to change."""

    async def scenario(stage: Stage) -> None:
        before = await stage.query("settings")
        for what, setting in before.items():
            outcome = await stage.runner.mutation("m:change", {"what": what, "fail": fail})
            assert outcome.ok is not fail, outcome.error
            assert fail or value_of(outcome) is True, f"{what} could be changed"
            assert (await stage.query("settings"))[what] == setting, what

    play(place, source + ASKED, scenario, workers_max=1, workers_min=1)


SETTINGS = """
    import contextvars, decimal, gc, io, locale, logging, sys, warnings
    import numpy as np, pandas as pd
    import matplotlib
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    WORD = contextvars.ContextVar("word", default="")

    def of_pandas():
        pd.set_option("display.max_rows", 7)
        pd.options.display.html.border = 3

    def of_warnings():
        warnings.simplefilter("error")
        warnings.catch_warnings().__enter__()
        warnings.showwarning = print

    def of_logging():
        logging.disable(logging.ERROR)
        logging.getLogger().setLevel(logging.CRITICAL)
        logging.getLogger().addHandler(logging.StreamHandler())
        logging.getLogger().handlers[0].setLevel(logging.CRITICAL)
        logging.getLogger("of.the.call").propagate = False

    def of_sys():
        sys.path.append("elsewhere")
        sys.setrecursionlimit(4321)
        sys.stdout = io.StringIO()
        gc.disable()

    def of_locale():
        locale.setlocale(locale.LC_ALL, "C" if locale.setlocale(locale.LC_ALL) != "C" else "C.UTF-8")

    def of_matplotlib():
        plt.rcParams["lines.linewidth"] = 9
        plt.plot([1, 2])

    def of_context():
        WORD.set("said")
        decimal.getcontext().prec = 3
        np.seterr(all="raise")
        np.set_printoptions(precision=2)

    CHANGES = {
        "pandas": of_pandas, "warnings": of_warnings, "logging": of_logging, "sys": of_sys, "locale": of_locale,
        "matplotlib": of_matplotlib, "context": of_context,
    }

    def found():
        root = logging.getLogger()
        propagates = getattr(root.manager.loggerDict.get("of.the.call"), "propagate", True)
        return {
            "pandas": repr([pd.get_option(each) for each in ("display.max_rows", "display.html.border")]),
            "warnings": repr([warnings.filters, warnings.showwarning]),
            "logging": repr([root.level, root.manager.disable, root.handlers, root.handlers[0].level, propagates]),
            "sys": repr([sys.path, sys.getrecursionlimit(), sys.stdout, gc.isenabled()]),
            "locale": locale.setlocale(locale.LC_ALL),
            "matplotlib": repr([plt.rcParams["lines.linewidth"], plt.get_fignums()]),
            "context": repr([WORD.get(), decimal.getcontext().prec, np.geterr(), np.get_printoptions()["precision"]]),
        }
"""


@pytest.mark.parametrize("fail", [False, True])
def test_a_setting_of_a_library_lasts_as_long_as_the_call_that_changed_it(place: Path, fail: bool) -> None:
    changes_last_as_long_as_their_call(place, SETTINGS, fail)


def test_inline_a_context_variable_lasts_as_long_as_the_call_that_set_it(place: Path) -> None:
    async def scenario(stage: Stage) -> None:
        before = await stage.query("settings")
        assert await stage.mutate("change", what="context") is True
        assert (await stage.query("settings"))["context"] == before["context"]

    play(place, SETTINGS + ASKED, scenario, inline=True)


TOLD = """
    import copyreg, email.charset, shutil
    import xml.etree.ElementTree as ET
    from shutil import register_archive_format as register

    def pack(base_name, base_dir): ...

    def of_xml():
        ET.register_namespace("said", "urn:of-the-call")

    def of_shutil():
        register("said", pack)
        shutil.unregister_archive_format("tar")

    def of_email():
        email.charset.add_charset("said", email.charset.QP)
        email.charset.add_alias("utf_8", "said")

    CHANGES = {"xml": of_xml, "shutil": of_shutil, "email": of_email}

    def found():
        return {
            "xml": "urn:of-the-call" in ET._namespace_map,
            "shutil": sorted(shutil._ARCHIVE_FORMATS),
            "email": ["said" in email.charset.CHARSETS, email.charset.ALIASES.get("utf_8")],
        }
"""


@pytest.mark.parametrize("fail", [False, True])
def test_what_a_library_is_told_by_functions_of_its_own_lasts_as_long_as_the_call(place: Path, fail: bool) -> None:
    changes_last_as_long_as_their_call(place, TOLD, fail)


def test_of_which_libraries_a_text_sets_something_is_found() -> None:
    def text(frame):  # type: ignore[no-untyped-def]
        import json as j
        import xml.dom.minidom
        from email import charset

        j.decoder.set_something(1)
        xml.dom.registerDOMImplementation("a", None)
        xml.dom.minidom.use(2)
        charset.add_charset("a")
        frame.set_index("a")
        math.isclose(1, 2)
        return math.settle

    assert set(set_packages(text.__code__, {"math": math, "plus": operator.add})) == {"json", "xml", "email"}


LATE = """
    import json

    @cs.query
    def late(ctx):
        import patching_module
        return hasattr(json, patching_module.NAME)
"""


def test_what_a_module_sets_in_a_library_while_it_is_imported_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "import json\nNAME = 'shouts'\nsetattr(json, NAME, 1)\n"
    (tmp_path / "patching_module.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))

    async def scenario(stage: Stage) -> None:
        assert [await stage.query("late"), await stage.query("late")] == [True, True]

    play(tmp_path, LATE, scenario, workers_max=1, workers_min=1)


def test_to_remember_many_containers_takes_no_longer_for_each_than_to_remember_few() -> None:
    rows = [[n] for n in range(40_000)]

    def function(ctx):  # type: ignore[no-untyped-def]
        return rows

    function.__module__ = "__main__"
    began = time.process_time()
    state = Watch().state_of("m:function", function)
    assert time.process_time() - began < 3, "a quarter of a second, or a dozen where each looks at all others"
    assert len(state.kept) > 40_000


FRAMES = """
    import collections
    import pandas as pd

    FRAME = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    SERIES = pd.Series([1, 2], name="s")
    COUNTER = collections.Counter("aab")
    ORDERED = collections.OrderedDict(a=1, b=2)

    def in_place():
        FRAME.loc[0, "a"] = 9

    def labels():
        FRAME.columns = ["c", "d"]

    def index():
        FRAME.index.name = "i"

    def values():
        SERIES.iloc[0] = 9

    CHANGES = {
        "FRAME of a column": lambda: FRAME.__setitem__("c", 1), "FRAME in place": in_place, "FRAME of labels": labels,
        "FRAME of a row": lambda: FRAME.drop(0, inplace=True), "FRAME of its index": index,
        "FRAME of notes": lambda: FRAME.attrs.update(note=1), "SERIES in place": values,
        "SERIES by name": lambda: setattr(SERIES, "name", "t"), "COUNTER": lambda: COUNTER.update("a"),
        "ORDERED": lambda: ORDERED.move_to_end("a"),
    }

    @cs.query
    def found(ctx):
        frame = [FRAME.to_dict("list"), FRAME.index.tolist(), FRAME.index.name, FRAME.attrs]
        return [*frame, SERIES.tolist(), SERIES.name, dict(COUNTER), list(ORDERED)]

    @cs.mutation
    def change(ctx, what: str, fail: bool):
        CHANGES[what]()
        if fail:
            raise ValueError("no")

    @cs.query
    def of_copies(ctx):
        frame = FRAME.assign(c=1).sort_values("a", ascending=False)
        frame.loc[0, "a"] = 7
        copied, part = FRAME.copy(), FRAME[["a"]].reset_index()
        copied["a"] = part["a"] = 5
        return [frame["a"].tolist(), FRAME.groupby("b")["a"].sum().tolist(), (SERIES * 2).tolist()]

    @cs.query
    def changes(ctx):
        return list(CHANGES)
"""


@pytest.mark.parametrize("fail", [False, True])
def test_a_captured_frame_or_container_of_any_class_is_found_as_it_was(place: Path, fail: bool) -> None:
    async def scenario(stage: Stage) -> None:
        before = await stage.query("found")
        for what in await stage.query("changes"):
            outcome = await stage.runner.mutation("m:change", {"what": what, "fail": fail})
            assert outcome.error is not None, what
            assert outcome.error.code == ("FunctionError" if fail else "NotDeterministic")
            assert fail or f"m:change changed `{what.split()[0]}`" in outcome.error.message
            assert await stage.query("found") == before, what
        assert await stage.query("of_copies") == [[2, 7], [1, 2], [2, 4]]

    play(place, FRAMES, scenario, workers_max=1, workers_min=1)


TYPED = """
import pandas as pd

FRAME = pd.DataFrame({
    "when": pd.to_datetime(["2020-01-01", "2020-01-02"]), "kind": pd.Categorical(["a", "b"]),
    "count": pd.array([1, None], "Int64"), "text": pd.array(["x", "y"], "string"), "plain": [1, 2],
})

def function(ctx):
    return FRAME
"""
TYPED_WRITES = {
    "cell": "FRAME.loc[0, '{}'] = FRAME.loc[1, '{}']",
    "array": "FRAME['{}'].array[0] = FRAME.loc[1, '{}']",
    "column": "FRAME['{}'] = 5; FRAME['{}']",
}


@pytest.mark.parametrize("column", ["when", "kind", "count", "text", "plain"])
@pytest.mark.parametrize("write", TYPED_WRITES)
def test_every_kind_of_column_of_a_captured_frame_is_as_it_was(column: str, write: str) -> None:
    space = {"__name__": "__main__"}
    exec(TYPED, space)
    frame = space["FRAME"]
    before = frame.copy(deep=True)
    state = Watch().state_of("m:function", space["function"])
    with contextlib.suppress(ValueError, AssertionError):  # of pandas, whose arrays can be read only
        exec(TYPED_WRITES[write].format(column, column), {"FRAME": frame})
        with pytest.raises(NotDeterministic, match="changed `FRAME`"):
            state.settle({}, 0)
    state.undo(0)
    assert frame.equals(before)
    assert frame[column].equals(before[column])


POLARS = """
    import polars as pl

    FRAME, SERIES = pl.DataFrame({"a": [1, 2]}), pl.Series("s", [1, 2])

    @cs.query
    def found(ctx):
        return [FRAME.to_dict(as_series=False), SERIES.to_list(), SERIES.name]

    @cs.mutation
    def change(ctx):
        FRAME.insert_column(0, pl.Series("b", [3, 4]))
        FRAME[0, "a"] = 9
        SERIES[0] = 9
        SERIES.rename("t")
        return [FRAME.columns, SERIES.to_list()]
"""


def test_a_captured_frame_of_polars_is_as_it_was_in_the_next_call(place: Path) -> None:
    async def scenario(stage: Stage) -> None:
        before = await stage.query("found")
        assert await stage.mutate("change") == [["b", "a"], [9, 2]]
        assert await stage.query("found") == before

    play(place, POLARS, scenario, workers_max=1, workers_min=1)


IMPORTING = """
    @cs.query
    def filters(ctx):
        import warnings
        return [str(pattern and pattern.pattern) for _, pattern, *_ in warnings.filters]

    @cs.query
    def imports(ctx):
        import warnings
        import sets_a_filter
        warnings.filterwarnings("error", "of the call")
        assert warnings.filters[0][0] == "error"
"""


def test_what_an_import_inside_a_call_sets_stays_because_it_is_done_once(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "sets_a_filter.py").write_text("import warnings\nwarnings.filterwarnings('once', 'of the module')\n")

    async def scenario(stage: Stage) -> None:
        before = await stage.query("filters")
        for _ in range(2):
            await stage.query("imports")
            assert await stage.query("filters") == ["of the module", *before]

    play(place, IMPORTING, scenario, workers_max=1, workers_min=1)


PROCESS = """
    import os, resource

    @cs.mutation
    def change(ctx, what: str):
        changes = {
            "os.umask": lambda: os.umask(0),
            "os.chdir": lambda: os.chdir("/"),
            "os.putenv": lambda: os.environ.update(WORD="said"),
            "resource.setrlimit": lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
        }
        changes[what]()
"""


def test_what_belongs_to_the_whole_process_is_refused_by_name(place: Path) -> None:
    async def scenario(stage: Stage) -> None:
        for call in ("os.umask", "os.chdir", "os.putenv", "resource.setrlimit"):
            outcome = await stage.runner.mutation("m:change", {"what": call})
            assert outcome.error is not None, call
            assert f"{call}(" in outcome.error.message
            assert "@cs.action" in outcome.error.message
            assert f'"{call}": lambda' in outcome.error.traceback

    play(place, PROCESS, scenario)


def test_what_a_text_assigns_to_in_libraries_is_found() -> None:
    def text(v):  # type: ignore[no-untyped-def]
        import json as j
        import os.path
        from json import JSONEncoder as Encoder

        math.tau2 = v
        j.x, os.path.y = v
        del Encoder.default
        setattr(math, "tau3", 4)  # noqa: B010
        delattr(math, "tau")
        math.count += 1
        v.own = 1
        setattr(v, "own", 1)  # noqa: B010

    found = [name for name, _ in patches(text.__code__, {"math": math})]
    assert found == ["math.tau2", "j.x", "os.path.y", "Encoder.default", "math.tau3", "math.tau", "math.count"]
