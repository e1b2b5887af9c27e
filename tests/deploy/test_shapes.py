# ruff: noqa: E501 — cells stand in a table
"""Every shape of function, as plain Python runs it, as the pickle does, as the source does, and under another Python.

A shape is a cell's text that defines `shape`; what it returns here is what it must return there.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import json
import linecache
import os
import subprocess
import sys
import textwrap
import traceback
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import cellstore as cs
from cellstore.deploy.hashing import function_hash
from cellstore.deploy.load import load
from cellstore.deploy.pack import pack
from cellstore.deploy.unit import Unit

SHAPES = {
    "a helper, a constant and a default": """
        TOP = 3
        def helper(x, by=TOP, *, more=(1, 2)):
            '''Documented.'''
            return [x * by, more, helper.__doc__, helper.__name__]
        TOP = 4
        def shape(ctx): return [helper(2), helper(2, more=5), TOP]
    """,
    "a partial of one's own function": """
        import functools
        def add(a, b, *, c=0): return a + b + c
        plus = functools.partial(add, 2, c=5)
        nested = functools.partial(plus, b=1)
        def shape(ctx): return [plus(3), nested(), plus.args, plus.keywords]
    """,
    "a class attribute that was changed later": """
        class Config:
            debug = False
            levels = [1]
            def level(self): return 1
            gone = 3
        Config.debug = True
        Config.levels.append(2)
        Config.level = lambda self: 7
        Config.added = {"a": (1, 2)}
        del Config.gone
        def shape(ctx): return [Config.debug, Config.levels, Config().level(), Config.added, hasattr(Config, "gone")]
    """,
    "a class whose body computed, from what has changed since": """
        BASE = 1
        class Config:
            twice = BASE * 2
            def times(self, n=BASE): return n
            @staticmethod
            def of(n=BASE): return n
        BASE = 50
        def shape(ctx): return [Config.twice, Config().times(), Config.of(), BASE]
    """,
    "closures that call each other": """
        def make(limit):
            def even(n): return n == 0 or odd(n - 1)
            def odd(n): return n != 0 and even(n - 1)
            def both(n): return [even(n), odd(n), limit]
            return both
        both = make(9)
        def shape(ctx): return both(4)
    """,
    "closures that share a variable": """
        def make():
            total = 10
            def add(n):
                nonlocal total
                total += n
                return total
            def read(): return total
            return add, read
        add, read = make()
        add(5)
        def shape(ctx):
            before = read()
            add(1)
            add(-1)
            return [before, read()]
    """,
    "lambdas with a loop's defaults": """
        adders = [lambda x, i=i: x + i for i in range(3)]
        table = {name: (lambda x, name=name: name + x) for name in "ab"}; first, second = (lambda: 1), (lambda: 2)
        def shape(ctx): return [[each(10) for each in adders], table["a"]("x"), table["b"]("x"), first(), second()]
    """,
    "functions from a loop": """
        made = []
        for i in range(3):
            def each(x, i=i): return x * i
            made.append(each)
        def shape(ctx): return [each(2) for each in made]
    """,
    "a decorator that registers": """
        REGISTRY, ORDER = {}, []
        def register(fn):
            REGISTRY[fn.__name__] = fn
            ORDER.append(fn.__name__)
            return fn
        def named(name):
            def inner(fn):
                REGISTRY[name] = fn
                return fn
            return inner
        @register
        def one(): return 1
        @named("zwei")
        @register
        def two(): return REGISTRY["one"]() + 1
        def shape(ctx): return [[name, fn()] for name, fn in REGISTRY.items()] + ORDER
    """,
    "a class that registers itself": """
        KINDS = []
        class Base:
            known = {}
            def __init_subclass__(cls, **more):
                Base.known[cls.__name__] = cls
        def kind(cls):
            KINDS.append(cls)
            cls.marked = True
            return cls
        @kind
        class A(Base):
            def name(self): return "a"
        @kind
        class B(A):
            pass
        def shape(ctx): return [list(Base.known), Base.known["B"]().name(), [each.__name__ for each in KINDS], A.marked]
    """,
    "decorators on top, with and without wraps": """
        import functools
        def twice(fn):
            @functools.wraps(fn)
            def wrapper(*args, **kwargs): return [fn(*args, **kwargs)] * 2
            return wrapper
        def bare(extra):
            def deco(fn):
                return lambda *args: (fn(*args), extra)
            return deco
        def counted(fn):
            fn.calls = 5
            return fn
        @twice
        @bare("x")
        @counted
        def inner(n): return n
        @twice
        def doubled(n): return n + 1
        plain = twice(len)
        def shape(ctx): return [inner(1), doubled(2), doubled.__name__, doubled.__wrapped__(2), plain([])]
    """,
    "attributes of a function": """
        def helper(): return helper.table[1]
        helper.table = {1: "one"}
        helper.also = helper
        def shape(ctx): return [helper(), helper.also.table]
    """,
    "a pydantic dataclass, a model and a validator": """
        import pydantic
        from pydantic.dataclasses import dataclass
        @dataclass
        class Spot:
            x: int
            tags: list[str] = pydantic.Field(default_factory=list)
        class Order(pydantic.BaseModel):
            model_config = pydantic.ConfigDict(frozen=True)
            spot: Spot
            n: int = 2
            @pydantic.field_validator("n")
            @classmethod
            def positive(cls, value): return abs(value)
            @pydantic.computed_field
            @property
            def double(self) -> int: return self.n * 2
        DEFAULT = Order(spot=Spot(1, ["a"]), n=-4)
        def shape(ctx): return [DEFAULT.model_dump(), Order(spot={"x": 3}).n, Spot("3").x]
    """,
    "dataclasses": """
        import dataclasses
        from dataclasses import dataclass, field
        from typing import ClassVar
        def start(): return [1]
        @dataclass(frozen=True, order=True)
        class Point:
            x: int
            y: int = 2
            seen: list = field(default_factory=start, compare=False)
            count: ClassVar[int] = 7
            @property
            def total(self): return self.x + self.y
        @dataclass(slots=True)
        class Slim:
            a: int
        @dataclass(frozen=True)
        class Deep(Point):
            z: "int" = 3
        ORIGIN, SLIM = Point(0, 0), Slim(4)
        def shape(ctx): return [Point(1).total, sorted([Point(2), ORIGIN])[0].x, SLIM.a, Deep(1).seen, Point.count, dataclasses.asdict(Deep(1))]
    """,
    "enums": """
        import enum
        class Planet(enum.Enum):
            EARTH = (1, 2)
            MARS = (3, 4)
            ALIAS = (1, 2)
            def __init__(self, a, b): self.a, self.b = a, b
            @property
            def total(self): return self.a + self.b
        class Mode(enum.IntFlag):
            R = enum.auto()
            W = enum.auto()
        Made = enum.Enum("Made", "X Y")
        HOME, BOTH = Planet.MARS, Mode.R | Mode.W
        NAMES = {Planet.EARTH: "e"}
        def shape(ctx):
            return [HOME.total, Planet.ALIAS.name, int(BOTH), Mode.W in BOTH, Made.Y.value, NAMES[Planet((1, 2))], len(Planet), HOME is Planet.MARS]
    """,
    "named tuples": """
        from collections import namedtuple
        from typing import NamedTuple
        Pair = namedtuple("Pair", "a b", defaults=[5])
        class Spot(NamedTuple):
            x: int
            y: int = 3
            def sum(self): return self.x + self.y
        HERE, THERE = Spot(1), Pair(1)
        def shape(ctx): return [HERE.sum(), THERE.b, Pair(2)._asdict(), Spot(2)]
    """,
    "inheritance, super, properties and class methods": """
        import abc, functools
        class Base(abc.ABC):
            __private = 3
            def __init__(self, n): self.n = n
            @abc.abstractmethod
            def value(self): ...
            def hidden(self): return self.__private
        class Double(Base):
            __slots__ = ("extra",)
            def value(self): return 2 * self.n
            @classmethod
            def made(cls): return cls(4)
            @functools.cached_property
            def cached(self): return 8
            class Inner:
                def n(self): return 6
        class Third(Double):
            def __init__(self, n):
                super().__init__(n + 1)
            def value(self): return super().value() + 1
        KEPT = Third(1)
        KEPT.extra = 5
        def shape(ctx): return [Third(2).value(), Double.made().value(), KEPT.hidden(), KEPT.extra, Double(1).cached, Double.Inner().n()]
    """,
    "a metaclass and a descriptor": """
        class Meta(type):
            def __new__(meta, name, bases, body):
                cls = super().__new__(meta, name, bases, body)
                cls.made_by = meta.__name__
                return cls
        class Positive:
            def __init__(self, least): self.least = least
            def __set_name__(self, owner, name): self.name = name
            def __get__(self, it, owner=None): return self if it is None else it.__dict__.get(self.name, self.least)
        class Thing(metaclass=Meta):
            size = Positive(3)
        def shape(ctx): return [Thing.made_by, Thing().size, Thing.size.name]
    """,
    "classes made by a function": """
        def make(start, Base=dict):
            class Counter(Base):
                first = 1
                def value(self): return [start, self.first, len(self), __class__.__name__, Counter.__name__]
            return Counter
        Five, Six = make(5), make(6)
        Five.first = 2
        def shape(ctx): return [Five().value(), Six().value()]
    """,
    "instances in containers, cycles and shared objects": """
        class Node:
            def __init__(self, name): self.name, self.others = name, []
        a, b = Node("a"), Node("b")
        a.others.append(b); b.others.append(a)
        RING = {"a": a, "all": [a, b], "t": (a, {"b": b})}
        SELF = []
        SELF.append(SELF)
        class Slots:
            __slots__ = ("x", "y")
        SLIM = Slots()
        SLIM.x = a
        def shape(ctx):
            return [RING["a"].others[0].others[0] is a, RING["all"][0] is RING["t"][0], SELF[0] is SELF, SLIM.x is a, hasattr(SLIM, "y")]
    """,
    "bound methods, default dicts, counters and ordered dicts": """
        from collections import Counter, OrderedDict, defaultdict, deque
        class Scale:
            def __init__(self, by): self.by = by
            def of(self, n): return n * self.by
        of = Scale(3).of
        GROUPS = defaultdict(lambda: [0], a=[1])
        ORDERED = OrderedDict(f=of)
        QUEUE = deque([of, 1], maxlen=4)
        COUNTS = Counter("aab")
        class Bag(dict):
            def total(self): return sum(self.values())
        BAG = Bag(a=1, b=2)
        def shape(ctx): return [of(2), GROUPS["a"], GROUPS.copy()["z"], ORDERED["f"](1), QUEUE[0](5), QUEUE.maxlen, COUNTS["a"], BAG.total(), type(BAG).__name__]
    """,
    "keys made of comparisons": """
        import functools
        SIGN = 1
        def compare(a, b): return SIGN * (a - b)
        by = functools.cmp_to_key(compare)
        @functools.cmp_to_key
        def shorter(a, b): return len(a) - len(b)
        def shape(ctx): return [sorted([3, 1, 2], key=by), sorted(["aaa", "b"], key=shorter), by(1) < by(2)]
    """,
    "dispatch, caches and context variables": """
        import functools, contextvars, operator
        @functools.singledispatch
        def kind(x): return "any"
        @kind.register
        def _(x: int): return ["int", kind(str(x))]
        @kind.register(list)
        def kind_of_list(x): return [kind(each) for each in x]
        @functools.lru_cache(maxsize=8)
        def slow(n): return n if n < 2 else slow(n - 1) + slow(n - 2)
        LEVEL = contextvars.ContextVar("LEVEL", default=3)
        by = operator.itemgetter(1)
        class Shower:
            @functools.singledispatchmethod
            def show(self, x): return "any"
            @show.register
            def _(self, x: str): return "str"
            five = functools.partialmethod(show, 5)
        def shape(ctx): return [kind(1), kind([2.0]), slow(10), LEVEL.get(), by([1, 2]), Shower().show("a"), Shower().five()]
    """,
    "generators, context managers, async helpers": """
        import asyncio, contextlib
        @contextlib.contextmanager
        def held():
            yield 5
        def numbers(n):
            yield from range(n)
        async def later(n):
            await asyncio.sleep(0)
            return n
        @contextlib.asynccontextmanager
        async def opened():
            yield 6
        async def both():
            async with opened() as six:
                return [six, *await asyncio.gather(later(1), later(2))]
        async def shape(ctx):
            with held() as five:
                return [five, list(numbers(3)), await both()]
    """,
    "a text of several lines inside a closure": '''
        def make():
            def inner(ctx):
                """Two
            lines."""
                text = """
        a
            b"""
                return [inner.__doc__.split(), text, f"""{1
        }
          c"""]
            return inner
        shape = make()
    ''',
    "annotations that name what is not there": """
        from __future__ import annotations
        from dataclasses import dataclass, field
        import pydantic
        @dataclass
        class Tree:
            left: Tree | None = None
            names: list[str] = field(default_factory=list)
        class Leaf(pydantic.BaseModel):
            n: int
            inner: Leaf | None = None
        def helper(x: Missing, *, y: int = 3) -> list[Nowhere]:
            z: Unknown = 4
            return [x, y, z]
        def shape(ctx): return [helper(1), Tree(Tree()).left.names, Leaf(n=1, inner={"n": 2}).inner.n, helper.__annotations__["x"]]
    """,
    "annotations that are read": """
        import inspect, typing
        class Money(float): pass
        def cast(fn):
            def wrapper(**given):
                hints = fn.__annotations__
                return fn(**{name: hints[name](value) for name, value in given.items()})
            return wrapper
        @cast
        def pay(n: int, much: Money): return [n, type(much).__name__]
        def shape(ctx): return [pay(n="3", much="2.5"), str(inspect.signature(pay.__closure__[0].cell_contents))[:7]]
    """,
    "a helper redefined while an older one is held": """
        def helper(): return "old"
        OLD = helper
        HELD = [helper]
        def helper(): return "new"
        class C:
            n = 1
        FIRST = C()
        class C:
            n = 2
        def shape(ctx): return [OLD(), HELD[0](), helper(), FIRST.n, C.n, C().n]
    """,
    "names of Python's own that are taken": """
        def len(x): return "mine"
        sum = 5
        def make():
            def max(x): return "local"
            return max
        biggest = make()
        def shape(ctx): return [len([]), sum, biggest(1), max(1, 2)]
    """,
    "numbers, texts and bytes of every kind": """
        import datetime as dt, decimal, fractions, pathlib, re, uuid, zoneinfo
        import numpy as np
        VALUES = [float("inf"), 1e300, -0.0, 10**30, "\\u2028\\n'", b"\\x00'", {1, 2}, frozenset([3]), (), (1,), {None: ...}, 2j, range(3), slice(1)]
        RICH = [dt.date(2024, 1, 1), dt.timedelta(1), decimal.Decimal("1.50"), fractions.Fraction(1, 3), pathlib.PurePosixPath("/x"),
                re.compile("a+", re.I), uuid.UUID(int=5), zoneinfo.ZoneInfo("Asia/Kolkata"), np.arange(3), np.float32(1.5), int, None, dict[str, int]]
        NAN = float("nan")
        def shape(ctx): return [repr(VALUES), repr(RICH), NAN != NAN, bytearray(b"a").hex()]
    """,
}  # fmt: skip


def ran(name: str, text: str) -> types.ModuleType:
    """The cell's names."""
    text = textwrap.dedent(text).strip("\n") + "\n"
    file = f"<cell {abs(hash(name)):x}>"
    linecache.cache[file] = (len(text), None, text.splitlines(True), file)
    module = types.ModuleType("__main__")
    exec(compile(text, file, "exec", dont_inherit=True), module.__dict__)
    return module


def unit_of(name: str, module: types.ModuleType) -> Unit:
    handle = cs.query(name="shape", module="shapes")(module.shape)
    return pack("shapes", [handle], [])


def as_source(unit: Unit) -> Unit:
    """The unit as another Python sees it."""
    assert unit.source_missing == [], unit.source
    return replace(unit, stamp="2.7")


def plain(value: Any) -> Any:
    if inspect.iscoroutine(value):
        value = asyncio.run(value)
    return json.loads(json.dumps(value, default=repr))


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_gives_what_plain_python_gives_as_pickle_and_as_source(name: str) -> None:
    module = ran(name, SHAPES[name])
    expected = plain(module.shape(None))
    unit = unit_of(name, module)
    assert plain(load(unit)["shape"](None)) == expected, "by the pickle"
    assert plain(load(as_source(unit))["shape"](None)) == expected, f"by the source\n{unit.source}"


CHANGES = {
    "a partial of one's own function": ("return a + b + c", "return a - b + c"),
    "a class attribute that was changed later": ("Config.debug = True", "Config.debug = 5"),
    "a class whose body computed, from what has changed since": ("BASE * 2", "BASE * 3"),
    "closures that share a variable": ("add(5)", "add(6)"),
    "lambdas with a loop's defaults": ("lambda x, i=i: x + i", "lambda x, i=i: x - i"),
    "a decorator that registers": ("def one(): return 1", "def one(): return 2"),
    "a class that registers itself": ('return "a"', 'return "b"'),
    "decorators on top, with and without wraps": ("fn.calls = 5", "fn.calls = 6"),
    "attributes of a function": ('{1: "one"}', '{1: "eins"}'),
    "a pydantic dataclass, a model and a validator": ("abs(value)", "-abs(value)"),
    "dataclasses": ("def start(): return [1]", "def start(): return [2]"),
    "enums": ("self.a + self.b", "self.a - self.b"),
    "named tuples": ("self.x + self.y", "self.x - self.y"),
    "inheritance, super, properties and class methods": ("KEPT.extra = 5", "KEPT.extra = 6"),
    "a metaclass and a descriptor": ("size = Positive(3)", "size = Positive(4)"),
    "classes made by a function": ("Five.first = 2", "Five.first = 3"),
    "instances in containers, cycles and shared objects": ('Node("b")', 'Node("c")'),
    "bound methods, default dicts, counters and ordered dicts": ("lambda: [0]", "lambda: [1]"),
    "keys made of comparisons": ("a - b", "b - a"),
    "dispatch, caches and context variables": ('return ["int"', 'return ["integer"'),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_version_follows_what_a_function_does_and_nothing_else(name: str) -> None:
    first, again = (function_hash(ran(name, SHAPES[name]).shape) for _ in range(2))
    assert first == again == function_hash(ran("elsewhere", "# moved\n\n" + textwrap.dedent(SHAPES[name])).shape)
    if name in CHANGES:
        assert CHANGES[name][0] in SHAPES[name]
        assert function_hash(ran(name, SHAPES[name].replace(*CHANGES[name])).shape) != first


PLAIN_CHANGES = {
    "an int that becomes a float": "TABLE['a'][0] = 1.0",
    "the sign of a zero": "TABLE['a'][1] = -0.0",
    "True that becomes 1": "TABLE['a'][2] = 1",
    "a list that becomes a tuple": "TABLE['a'] = tuple(TABLE['a'])",
    "the order of a dict": "TABLE['a'] = TABLE.pop('a')",
    "text that becomes bytes": "TABLE['b'] = b'x'",
    "one more in a set": "TABLE['c'].add('z')",
}


@pytest.mark.parametrize("change", PLAIN_CHANGES)
def test_every_change_of_captured_data_is_another_version(change: str) -> None:
    text = "TABLE = {'a': [1, 0.0, True], 'b': 'x', 'c': {'p', 'q', 'r'}}\ndef shape(ctx): return TABLE"
    module = ran(change, text)
    before = function_hash(module.shape)
    module.TABLE["c"] = {"r", "q", "p"}
    assert function_hash(module.shape) == before == function_hash(ran(change, text).shape)
    exec(PLAIN_CHANGES[change], vars(module))
    assert function_hash(module.shape) != before


BESIDE = """
import functools
LIMIT, NAMES, REGISTRY = 3, ["a"], {}
class Config:
    debug = False
    def shown(self): return [self.debug, LIMIT]
def register(fn):
    REGISTRY[fn.__name__] = fn
    return fn
def twice(fn):
    @functools.wraps(fn)
    def wrapper(*args): return [fn(*args), LIMIT]
    return wrapper
@register
@twice
def own(n): return n
def limit(): return LIMIT, NAMES, Config.debug
def other(): return "other"
"""


def test_a_module_next_to_the_notebook_is_as_it_is_by_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "beside_the_cell.py").write_text(BESIDE)
    monkeypatch.syspath_prepend(str(tmp_path))
    text = """
        import beside_the_cell as beside
        from beside_the_cell import limit, twice, register, Config as Settings
        beside.LIMIT = 50
        beside.NAMES.append("b")
        Settings.debug = True
        beside.other = lambda: "mine"
        @register
        @twice
        def mine(n): return n * 2
        kept = beside.own
        def shape(ctx):
            return [limit(), mine(2), kept(1), sorted(beside.REGISTRY), beside.REGISTRY["mine"](1), beside.other(), Settings().shown()]
    """
    try:
        module = ran("a module beside", text)
        expected, unit = plain(module.shape(None)), unit_of("a module beside", module)
        monkeypatch.delitem(sys.modules, "beside_the_cell")
        assert plain(load(unit)["shape"](None)) == expected, "by the pickle"
        assert plain(load(as_source(unit))["shape"](None)) == expected, unit.source
    finally:
        sys.modules.pop("beside_the_cell", None)


def test_a_text_is_searched_once_however_many_functions_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    many = "".join(f"def f{n}(): return {n}\n" for n in range(30))
    module = ran("many", f"{many}def shape(ctx): return [{', '.join(f'f{n}()' for n in range(30))}]")
    walked, walk = [], ast.walk
    monkeypatch.setattr(ast, "walk", lambda node: walked.append(type(node)) or walk(node))
    assert unit_of("many", module).source_missing == []
    assert 0 < walked.count(ast.Module) < 5


EDITED = {
    "and executed anew": (True, ["second", "new"]),
    "and not executed anew": (False, ["first", "old"]),
}


@pytest.mark.parametrize("case", EDITED)
def test_a_file_that_was_edited_travels_as_it_was_executed_last(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again, expected = EDITED[case]
    text = "def one(): return 'first'\nclass Box:\n    def said(self): return 'old'\n"
    (tmp_path / "edited_file.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    shape = "import edited_file\ndef shape(ctx): return [edited_file.one(), edited_file.Box().said()]"
    try:
        assert plain(load(as_source(unit_of(case, ran(case, shape))))["shape"](None)) == ["first", "old"]
        (tmp_path / "edited_file.py").write_text(text.replace("first", "second").replace("old", "new"))
        if again:
            importlib.reload(sys.modules["edited_file"])
        unit = unit_of(case, ran(case, shape))
        assert plain(load(unit)["shape"](None)) == expected, "by the pickle"
        assert plain(load(as_source(unit))["shape"](None)) == expected, unit.source
    finally:
        del sys.modules["edited_file"]


FAILS = """
K = 3
def kept(fn): return fn
class Box:
    def __init__(self, n: "int" = K, *rest: dict[
        str, int
    ]): self.n = n
    @property
    def half(self): return [self.n,
        self.n / 0]
def make(step: K = K):
    if step:
        text = '''
 of several lines'''
        @kept
        def inner(n, more=[
            K,
        ]):
            return len(text) + Box(n).half[0]
        return lambda m: (
            inner(m)
        )
made = make()
@kept
async def shape(ctx, n=K): return await later(n) + 1
async def later(n): return [made(each) for each in (n,)]
"""


def places(fn: Any) -> list[tuple[Any, ...]]:
    """Where an error of a coroutine function passes, to the column."""
    try:
        asyncio.run(fn(None))
    except ZeroDivisionError as error:
        passed = traceback.extract_tb(error.__traceback__)
        own = [each for each in passed if each.filename.startswith("<ce")]
        return [(each.filename, each.name, each.lineno, each.end_lineno, each.colno, each.end_colno) for each in own]
    raise AssertionError("no error")


def test_an_error_of_the_source_form_passes_the_users_own_lines_to_the_column() -> None:
    module = ran("fails", FAILS)
    expected = places(module.shape)
    assert [each[1] for each in expected][-3:] == ["<lambda>", "inner", "half"]
    unit = unit_of("fails", module)
    assert places(load(as_source(unit))["shape"]) == expected, unit.source
    without = replace(as_source(unit), sources={})
    assert {each[0] for each in places(load(without)["shape"])} == {"<cellstore shapes>"}


MISSING = {
    "code that has no text": (
        "made = {}\nexec('def hidden(): return 1', made)\nhidden = made['hidden']\ndef shape(ctx): return hidden()",
        "shape uses `hidden`: the text of hidden is not available",
    ),
    "a class that reads a variable of the function around it": (
        "def make(n):\n    class Local:\n        twice = n * 2\n    return Local\nLocal = make(2)\ndef shape(ctx): return Local.twice",
        "shape uses `Local`: the class make.<locals>.Local reads `n` of the function it is defined in",
    ),
    "a class without a statement": (
        "Made = type('Made', (), {})\ndef shape(ctx): return Made",
        "shape uses `Made`: the text of the class Made is not available",
    ),
}


@pytest.mark.parametrize("name", MISSING)
def test_what_has_no_text_is_named_with_the_reason_and_refused_by_another_python(name: str) -> None:
    text, reason = MISSING[name]
    unit = unit_of(name, ran(name, text))
    assert unit.source_missing == [reason]
    assert load(unit)
    with pytest.raises(cs.DeployError, match="cannot be rebuilt under"):
        load(replace(unit, stamp="2.7"))


RUN = """
import asyncio, inspect, json, sys
from cellstore.deploy.load import load
from cellstore.deploy.unit import Unit
for line in sys.stdin:
    try:
        said = load(Unit.from_json(json.loads(line)))["shape"](None)
        said = asyncio.run(said) if inspect.iscoroutine(said) else said
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
    print(json.dumps(said, default=repr))
"""


SUBMODULES = """
import multiprocessing.shared_memory
import wsgiref.simple_server
def helper(): return [multiprocessing.shared_memory.SharedMemory.__name__ for _ in range(1)]
def shape(ctx): return [(lambda: wsgiref.simple_server.ServerHandler.__name__)(), *helper()]
"""


def test_a_submodule_is_there_where_only_its_package_is_named() -> None:
    unit = unit_of("submodules", ran("submodules", SUBMODULES))
    lines = [json.dumps(each.to_json()) for each in (unit, as_source(unit))]
    done = subprocess.run(
        [sys.executable, "-c", RUN], input="\n".join(lines), capture_output=True, text=True, timeout=120, check=True
    )
    assert [json.loads(line) for line in done.stdout.splitlines()] == [["ServerHandler", "SharedMemory"]] * 2


def test_every_shape_gives_the_same_under_another_python() -> None:
    other = os.environ.get("CELLSTORE_OTHER_PYTHON", "")
    if not other:
        pytest.skip("CELLSTORE_OTHER_PYTHON names no second interpreter with cellstore")
    modules = {name: ran(name, text) for name, text in SHAPES.items()}
    expected = {name: plain(module.shape(None)) for name, module in modules.items()}
    lines = [json.dumps(unit_of(name, module).to_json()) for name, module in modules.items()]
    done = subprocess.run(
        [other, "-c", RUN], input="\n".join(lines), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert dict(zip(SHAPES, map(json.loads, done.stdout.splitlines()), strict=True)) == expected
    assert Path(other).samefile(sys.executable) is False
