# ruff: noqa: E501, E402 — cells stand in tables
"""Every shape of function people write in cells, in a real kernel, run by the worker processes of a real server.

Each case defines something, in one cell or several, and calls it; then what cannot travel, refused by name.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "kernel")]

from server_process import TOKEN, ServerProcess
from test_kernel import Kernel
from test_shapes import SHAPES as PLAIN_SHAPES

SHAPES = {
    "helpers and constants from other cells": (
        ["RATE = 1.5", "def scaled(x):\n    return x * RATE", "@cs.query\ndef shape(ctx):\n    return scaled(4)"],
        "6.0",
    ),
    "a closure": (
        [
            "def counter(step):\n    @cs.query(name='shape')\n    def inner(ctx):\n        return step + 1\n    return inner",
            "shape = counter(41)",
        ],
        "42",
    ),
    "a lambda with a name": (["shape = cs.query(name='shape')(lambda ctx: [n * n for n in range(3)])"], "[0, 1, 4]"),
    "a decorator on top": (
        [
            "import functools\ndef twice(fn):\n    @functools.wraps(fn)\n    def wrapper(ctx):\n        return [fn(ctx), fn(ctx)]\n"
            "    return wrapper",
            "@cs.query\n@twice\ndef shape(ctx):\n    return 7",
        ],
        "[7, 7]",
    ),
    "a decorator that is an object": (
        [
            "class Adding:\n    def __init__(self, n): self.n = n\n    def __call__(self, fn):\n        import functools\n"
            "        return functools.wraps(fn)(lambda ctx: fn(ctx) + self.n)",
            "@cs.query\n@Adding(2)\ndef shape(ctx):\n    return 7",
        ],
        "9",
    ),
    "a class with inheritance and super": (
        [
            "class Base:\n    def __init__(self, n): self.n = n\n    def value(self): return self.n",
            "class Double(Base):\n    def value(self): return 2 * super().value()",
            "@cs.query\ndef shape(ctx):\n    return Double(21).value()",
        ],
        "42",
    ),
    "properties, class methods and cached properties": (
        [
            "import functools\nclass Shelf:\n    @property\n    def a(self): return 1\n    @classmethod\n    def b(cls): return 2\n"
            "    @staticmethod\n    def c(): return 3\n    @functools.cached_property\n    def d(self): return 4",
            "@cs.query\ndef shape(ctx):\n    s = Shelf()\n    return [s.a, s.b(), s.c(), s.d, s.d]",
        ],
        "[1, 2, 3, 4, 4]",
    ),
    "an instance of one's own class": (
        [
            "class Rates:\n    def __init__(self, **each): self.each = each\n    def of(self, name): return self.each[name]",
            "rates = Rates(a=2)",
            "@cs.query\ndef shape(ctx):\n    return rates.of('a')",
        ],
        "2",
    ),
    "a named tuple and a typed dict": (
        [
            "from typing import NamedTuple\nfrom typing_extensions import TypedDict\nclass Pair(NamedTuple):\n    a: int\n    b: int\n"
            "class Row(TypedDict):\n    n: int",
            "@cs.query\ndef shape(ctx) -> Row:\n    return {'n': sum(Pair(1, 2))}",
        ],
        "{'n': 3}",
    ),
    "a dataclass": (
        [
            "from dataclasses import dataclass, asdict\n@dataclass\nclass Point:\n    x: int\n    y: int = 2",
            "@cs.query\ndef shape(ctx):\n    return asdict(Point(1))",
        ],
        "{'x': 1, 'y': 2}",
    ),
    "an enum": (
        [
            "import enum\nclass Color(enum.Enum):\n    RED = 'r'\n    BLUE = 'b'",
            "@cs.query\ndef shape(ctx):\n    return [Color('r').name, len(Color)]",
        ],
        "['RED', 2]",
    ),
    "a pydantic model": (
        [
            "import pydantic\nclass Order(pydantic.BaseModel):\n    n: int\n    tag: str = 'x'",
            "@cs.query\ndef shape(ctx):\n    return Order(n=3).model_dump()",
        ],
        "{'n': 3, 'tag': 'x'}",
    ),
    "async def": (
        ["async def helper():\n    return 5", "@cs.query\nasync def shape(ctx):\n    return await helper() + 1"],
        "6",
    ),
    "coroutines that run together": (
        [
            "import asyncio\nasync def half(n):\n    await asyncio.sleep(0)\n    return n / 2",
            "@cs.query\nasync def shape(ctx):\n    return await asyncio.gather(half(1), half(2))",
        ],
        "[0.5, 1.0]",
    ),
    "a query that calls itself": (["@cs.query\ndef shape(ctx, n: int = 6):\n    return n if n < 2 else shape(n - 1) + shape(n - 2)"], "8"),
    "a generator, a context manager and a nonlocal": (
        [
            "import contextlib\n@contextlib.contextmanager\ndef held():\n    yield 5\ndef numbers(n):\n    yield from range(n)",
            "@cs.query\ndef shape(ctx):\n    total = 0\n    def add(n):\n        nonlocal total\n        total += n\n"
            "    with held() as five:\n        add(five)\n    add(sum(numbers(4)))\n    return total",
        ],
        "11",
    ),
    "names imported from random and numpy": (
        [
            "from random import choice, Random\nfrom numpy.random import default_rng, rand",
            "@cs.query\ndef shape(ctx):\n    return [choice([1]), 0 <= Random().random() < 1, bool(rand() < 1), int(default_rng(3).integers(1))]",
        ],
        "[1, True, True, 0]",
    ),
    "a time zone": (
        [
            "import zoneinfo, datetime as dt\nHOME = zoneinfo.ZoneInfo('Asia/Kolkata')",
            "@cs.query\ndef shape(ctx):\n    there = zoneinfo.ZoneInfo('America/Lima')\n"
            "    return dt.datetime(2024, 7, 1, tzinfo=HOME).astimezone(there).isoformat()",
        ],
        "'2024-06-30T13:30:00-05:00'",
    ),
    "patterns, dates, decimals and paths": (
        [
            "import re, datetime as dt, decimal, uuid, pathlib\nWORD = re.compile('a+')\nDAY = dt.date(2024, 1, 1)\n"
            "PRICE = decimal.Decimal('1.50')\nROOT = pathlib.PurePath('/x')",
            "@cs.query\ndef shape(ctx):\n    return [bool(WORD.match('aa')), str(DAY), str(PRICE), str(ROOT)]",
        ],
        "[True, '2024-01-01', '1.50', '/x']",
    ),
    "lambdas in a dict, a default dict and a named tuple": (
        [
            "from collections import defaultdict, namedtuple\nOPS = {'add': lambda a, b: a + b}\nSEEN = defaultdict(list, a=[1])\n"
            "Pair = namedtuple('Pair', 'a b')",
            "@cs.query\ndef shape(ctx):\n    return [OPS['add'](1, 2), SEEN['a'], Pair(1, 2).b]",
        ],
        "[3, [1], 2]",
    ),
    "an abstract class, a generic one and a protocol": (
        [
            "import abc\nfrom typing import Generic, Protocol, TypeVar\nT = TypeVar('T')\nclass Sized(Protocol):\n    def size(self) -> int: ...\n"
            "class Base(abc.ABC):\n    @abc.abstractmethod\n    def size(self): ...\nclass Box(Base, Generic[T]):\n"
            "    def __init__(self, v: T): self.v = v\n    def size(self): return len(self.v)\ndef measure(x: Sized): return x.size()",
            "@cs.query\ndef shape(ctx):\n    return measure(Box[str]('abc'))",
        ],
        "3",
    ),
    "arguments that are objects": (
        [
            "import enum, pydantic\nfrom dataclasses import dataclass\nclass Size(enum.Enum):\n    S = 's'\n@dataclass\nclass Spot:\n    x: int\n"
            "class Order(pydantic.BaseModel):\n    n: int",
            "@cs.query(name='taken')\ndef taken(ctx, size: Size, spot: Spot, order: Order) -> Order:\n"
            "    return Order(n=order.n + spot.x + len(size.name))\n@cs.query\ndef shape(ctx):\n"
            "    return taken(size=Size.S, spot=Spot(1), order=Order(n=2))",
        ],
        "{'n': 4}",
    ),
    "arguments of classes that are named in annotations before they are there": (
        [
            "import typing as t\nfrom dataclasses import dataclass\n@dataclass\nclass First:\n    x: 'int'\n    second: 't.Optional[Second]' = None",
            "@dataclass\nclass Second:\n    z: int\n    third: 'list[Third]'\nclass Third(t.TypedDict):\n    last: 'Last'\n@dataclass\nclass Last:\n    n: int",
            "@cs.query(name='taken')\ndef taken(ctx, f: First, g: 'list[Second]') -> int:\n"
            "    return f.second.third[0]['last'].n + g[0].z\n@cs.query\ndef shape(ctx):\n"
            "    return taken(f=First(1, Second(2, [{'last': Last(40)}])), g=[Second(2, [])])",
        ],
        "42",
    ),
    "arguments of classes with literals and notes that are no names": (
        [
            "import typing as t\nfrom dataclasses import dataclass\n@dataclass\nclass Job:\n    state: t.Literal['in progress', 'done!']\n"
            "    says: t.Annotated['list[Word]', 'what a person says'] = ()",
            "@dataclass\nclass Word:\n    text: str",
            "@cs.query(name='taken')\ndef taken(ctx, job: Job) -> str:\n    return job.state + job.says[0].text\n"
            "@cs.query\ndef shape(ctx):\n    return taken(job=Job('in progress', [Word('?')]))",
        ],
        "'in progress?'",
    ),
    "a context manager as a decorator": (
        [
            "import contextlib\nSAID = 'in'\n@contextlib.contextmanager\ndef said(n):\n    print(SAID, n)\n    yield n",
            "@cs.query\n@said(2)\ndef shape(ctx):\n    return 3",
        ],
        "3",
    ),
    "functions in a class": (["class Api:\n    @cs.query\n    def shape(ctx):\n        return 3"], "3"),
    "a package next to the notebook": (["from pack.inner import deep", "@cs.query\ndef shape(ctx):\n    return deep(2)"], "20"),
    "a module next to the notebook, imported inside": (
        ["@cs.query\ndef shape(ctx):\n    import beside\n    from pack.inner import deep\n    return beside.BASE + deep(1)"],
        "31",
    ),
    "recursion": (["@cs.query\ndef shape(ctx):\n    def fib(n): return n if n < 2 else fib(n-1) + fib(n-2)\n    return fib(10)"], "55"),
    "mutual recursion": (
        [
            "def even(n): return n == 0 or odd(n - 1)\ndef odd(n): return n != 0 and even(n - 1)",
            "@cs.query\ndef shape(ctx):\n    return [even(10), odd(10)]",
        ],
        "[True, False]",
    ),
    "an import outside": (["import math\nfrom collections import Counter", "@cs.query\ndef shape(ctx):\n    return [math.floor(2.5), Counter('aab')['a']]"], "[2, 2]"),
    "an import inside": (["@cs.query\ndef shape(ctx):\n    import colorsys\n    from json import dumps\n    return dumps([1])"], "'[1]'"),
    "a library": (["import numpy as np", "@cs.query\ndef shape(ctx):\n    return float(np.arange(4).sum())"], "6.0"),
    "a module next to the notebook": (["import beside", "@cs.query\ndef shape(ctx):\n    return beside.doubled(beside.BASE)"], "42"),
    "a name from a module next to the notebook": (["from beside import doubled", "@cs.query\ndef shape(ctx):\n    return doubled(4)"], "8"),
    "defaults from a constant": (["TOP = 3", "@cs.query\ndef shape(ctx, n: int = TOP):\n    return n"], "3"),
    "functools.partial and cache": (
        [
            "import functools\n@functools.cache\ndef slow(n): return n * 2\nplus = functools.partial(pow, 2)",
            "@cs.query\ndef shape(ctx):\n    return [slow(4), plus(3)]",
        ],
        "[8, 8]",
    ),
    "a small frame": (
        ["import pandas as pd\nLOOKUP = pd.DataFrame({'a': [1, 2]})", "@cs.query\ndef shape(ctx):\n    return int(LOOKUP.a.sum())"],
        "3",
    ),
    "an enum with attributes and methods": (
        [
            "import enum\nclass Planet(enum.Enum):\n    EARTH = (1, 2)\n    MARS = (3, 4)\n    def __init__(self, a, b): self.a, self.b = a, b\n"
            "    @property\n    def total(self): return self.a + self.b",
            "@cs.query\ndef shape(ctx):\n    return [Planet.EARTH.total, Planet.MARS.b, Planet((1, 2)).name]",
        ],
        "[3, 4, 'EARTH']",
    ),
    "a call of another function": (
        ["@cs.query\ndef other(ctx):\n    return 20", "@cs.query\ndef shape(ctx):\n    return other() + ctx.run_query(other) + 2"],
        "42",
    ),
}  # fmt: skip

REFUSALS = {
    "a connection": ("import sqlite3\nconn = sqlite3.connect(':memory:')", "conn", "conn.execute('select 1')", "sqlite3.Connection"),
    "a lock": ("import threading\nguard = threading.Lock()", "guard", "guard.locked()", "guards nothing"),
    "an open file": ("log_file = open('beside.py')", "log_file", "log_file.read()", "open it inside an action"),
    "a generator": ("numbers = (n for n in range(3))", "numbers", "list(numbers)", "make it a list"),
    "a thread": ("import threading\nworker = threading.Thread(target=print)", "worker", "worker.name", "start it inside an action"),
    "a large frame": (
        "import pandas as pd\nbig = pd.DataFrame({'a': range(1_000_000)})",
        "big",
        "len(big)",
        "load it into a table",
    ),
    "the kernel itself": ("shell = get_ipython()", "shell", "shell.execution_count", "belongs to this kernel"),
    "a database": ("db = cs.current()", "db", "db.tables()", "ctx.db"),
    "a coroutine": ("import asyncio\nsoon = asyncio.sleep(0)", "soon", "soon is None", "await it, and capture what it gives"),
    "what only pickle refuses": ("import re\nfound = re.match('a', 'a')", "found", "found.group()", "make it inside the function"),
    "an iterator": ("import itertools\nids = itertools.count(5)", "ids", "next(ids)", "make it a list"),
    "an executor": ("from concurrent.futures import ThreadPoolExecutor\nhands = ThreadPoolExecutor(1)", "hands", "hands.submit(print)", "start it inside an action"),
    "a queue": ("import queue\ninbox = queue.Queue()", "inbox", "inbox.qsize()", "keep it in a table"),
    "a client": ("import httpx\nclient = httpx.Client()", "client", "client.timeout.read", "open it inside the function"),
    "a list in a list in a list": ("deep = []\nfor _ in range(5000): deep = [deep]", "deep", "len(deep)", "nested too deeply"),
    "a log handler": ("import logging\nhandler = logging.StreamHandler()", "handler", "handler.level", "reach its caller by themselves"),
    "through what a function dispatches to": (
        "import functools, threading\nheld = threading.Lock()\n@functools.singledispatch\ndef kind(x): return 0\n"
        "@kind.register\ndef kind_of_int(x: int): return held.locked()",
        "kind, which uses kind_of_int, which uses `held`",
        "kind(1)",
        "guards nothing",
    ),
    "through a helper": ("import threading\ninner = threading.Lock()\ndef helper():\n    return inner.locked()", "helper, which uses `inner`", "helper()", "guards nothing"),
}  # fmt: skip

SIGNATURES = {
    "*args": ("@cs.query\ndef bad(ctx, *numbers):\n    return 1", "*numbers cannot be: arguments travel by name; take a list"),
    "positional-only": ("@cs.query\ndef bad(ctx, a, /):\n    return 1", "drop the `/`"),
    "no context": ("@cs.query\ndef bad():\n    return 1", "its first one is the context"),
    "a generator function": ("@cs.query\ndef bad(ctx):\n    yield 1", "collect it in a list"),
    "two kinds": ("@cs.query\n@cs.mutation\ndef bad(ctx):\n    return 1", "is a mutation already"),
    "a wrapper that does not say what it wraps": (
        "def timed(fn):\n    def wrapper(*args, **named): return fn(*args, **named)\n    return wrapper\n"
        "@cs.query\n@timed\ndef bad(ctx):\n    return 1",
        "wrapper: the first parameter is the context and an ordinary one: @cs.query def wrapper(ctx, …), or @functools.wraps(fn) on it",
    ),
    "a partial": ("import functools\nbad = cs.query(functools.partial(print, 1))", "write a def that calls it"),
    "a bound method": ("class Own:\n    def read(self, ctx): return 1\nbad = cs.query(Own().read)", "write a def that calls it"),
    "a class": ("@cs.query\nclass Bad: ...", "decorates a function, not type"),
    "a context with a default": ("@cs.query\ndef bad(n=1):\n    return n", "'n' is none"),
    "a name with an accent": ("@cs.query\ndef größe(ctx):\n    return 1", "ASCII letters"),
    "a hint that is no value": ("@cs.query\ndef bad(ctx, when: complex):\n    return 1", "'when'"),
    "an unnamed lambda": ("bad = cs.query(lambda ctx: 1)", "a lambda has no name"),
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    started = ServerProcess(tmp_path_factory.mktemp("server")).start()
    yield started
    started.stop()


def kernel_of(server: ServerProcess, cwd: Path) -> Kernel:
    kernel = Kernel(cwd)
    (cwd / "pack").mkdir(exist_ok=True)
    (cwd / "pack" / "__init__.py").write_text("")
    (cwd / "pack" / "inner.py").write_text("from .outer import TEN\ndef deep(n):\n    return n * TEN\n")
    (cwd / "pack" / "outer.py").write_text("TEN = 10\n")
    (cwd / "beside.py").write_text("BASE = 21\ndef doubled(n):\n    return n * 2\n")
    assert kernel.run("%load_ext cellstore\nimport cellstore as cs").errors == []
    assert kernel.run(f"%cellstore connect {server.url} --token {TOKEN}").errors == []
    return kernel


@pytest.fixture(scope="module")
def kernel(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    started = kernel_of(server, tmp_path_factory.mktemp("cells"))
    yield started
    started.stop()


FROM_SOURCE = """
from dataclasses import replace as _replace
from cellstore.deploy.pack import pack as _pack
from cellstore.functions import registry as _registry
_handles = [each for each in _registry.handles('tasks') if each.name in ('shape', 'other', 'taken')]
_unit = _replace(_pack('tasks', _handles, []), stamp='2.7', session='of another Python')
assert _unit.source_missing == [], _unit.source_missing
cs.current()._deploy_unit(_unit)['changed']
"""


@pytest.mark.parametrize("name", SHAPES)
def test_a_definition_works_where_functions_run_as_pickle_and_as_source(kernel: Kernel, name: str) -> None:
    cells, expected = SHAPES[name]
    for cell in cells:
        assert kernel.run(cell).errors == []
    called = kernel.run("cs.current().query('tasks:shape')")
    assert called.errors == []
    assert called.text == expected
    assert kernel.run(FROM_SOURCE).errors == []
    again = kernel.run("cs.current().query('tasks:shape')")
    assert again.errors == []
    assert again.text == expected


MADE_AGAIN = {
    "a function that dispatches on a type": (
        [
            "import functools\n@functools.singledispatch\ndef kind(x): return 'any'\n@kind.register\ndef _(x: int): return [kind(str(x)), 'int']",
            "class Shower:\n    @functools.singledispatchmethod\n    def show(self, x): return 'any'\n"
            "    @show.register\n    def _(self, x: str): return 'str'\n    five = functools.partialmethod(show, 5)",
            "@cs.query\ndef shape(ctx):\n    return [kind(1), kind(2.0), Shower().show('a'), Shower().five()]",
        ],
        "[['any', 'int'], 'any', 'str', 'any']",
    ),
    "new types, parameters of types and context variables": (
        [
            "from typing import NewType, ParamSpec, Callable\nimport contextvars, dataclasses\nUid = NewType('Uid', str)\nP = ParamSpec('P')\n"
            "LEVEL = contextvars.ContextVar('LEVEL', default=3)\nNOTHING = dataclasses.MISSING\n"
            "def same(fn: Callable[P, int]) -> Callable[P, int]: return fn",
            "@cs.query\ndef shape(ctx, u: Uid = 'u'):\n    return [Uid(u), LEVEL.get(), same(len)('ab'), NOTHING is dataclasses.MISSING]",
        ],
        "['u', 3, 2, True]",
    ),
}  # fmt: skip


ASKED = """
import inspect, json
@cs.query
async def asked(ctx) -> str:
    value = shape(ctx)
    return json.dumps(await value if inspect.iscoroutine(value) else value, default=repr)
"""
HERE = """
value = shape(None)
json.dumps(await value if inspect.iscoroutine(value) else value, default=repr) == cs.current().query("tasks:asked")
"""


@pytest.fixture(scope="module")
def shadowed_kernel(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """For cells that give names like `len` another meaning."""
    started = kernel_of(server, tmp_path_factory.mktemp("shadowed"))
    yield started
    started.stop()


@pytest.mark.parametrize("name", PLAIN_SHAPES)
def test_a_plain_function_gives_a_query_what_it_gives_in_its_kernel(shadowed_kernel: Kernel, name: str) -> None:
    kernel = shadowed_kernel
    kernel.run("get_ipython().compile.reset_compiler_flags()")  # one shape begins with `from __future__`
    for cell in (textwrap.dedent(PLAIN_SHAPES[name]), ASKED):
        assert kernel.run(cell).errors == []
    compared = kernel.run(HERE)
    assert (compared.errors, [each["text/plain"] for each in compared.shown]) == ([], ["True"])


@pytest.mark.parametrize("name", MADE_AGAIN)
def test_what_pickle_does_not_know_is_made_again_where_functions_run(kernel: Kernel, name: str) -> None:
    cells, expected = MADE_AGAIN[name]
    for cell in cells:
        assert kernel.run(cell).errors == []
    assert kernel.run("cs.current().query('tasks:shape')").text == expected


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_travel_is_refused_in_its_cell_by_name_and_reason(kernel: Kernel, name: str) -> None:
    setup, variable, use, reason = REFUSALS[name]
    assert kernel.run(setup).errors == []
    cell = kernel.run(f"@cs.query\ndef refused(ctx):\n    return {use}")
    assert cell.status == "error"
    [error] = cell.errors
    assert "DeployError" in error
    assert variable in error
    assert reason in error
    assert kernel.run("@cs.query\ndef refused(ctx):\n    return 1\nrefused()").text == "1"


SCRIPT = """
import cellstore as cs
class Rates:
    low = 2
def helper(n): return n * Rates.low
@cs.query
def scripted(ctx, n: int):
    return 60 / helper(n)
if __name__ == "__main__": print("it ran")
"""


def test_a_script_that_is_run_in_a_cell_deploys_under_its_own_name(kernel: Kernel) -> None:
    kernel.run(f"%%writefile script.py\n{SCRIPT}")
    ran = kernel.run("%run script.py")
    assert (ran.errors, ran.printed) == ([], "it ran\n")
    assert kernel.run("scripted(3), scripted.path").text == "(10.0, 'script:scripted')"
    [error] = kernel.run("scripted(0)").errors
    assert 'script.py", line 8, in scripted\n    return 60 / helper(n)\n' in error
    kernel.run(f"%%writefile script.py\n{SCRIPT.replace('60', '600')}")
    assert kernel.run("%run script.py\nscripted(3)").text == "100.0"
    kernel.run("cs.drop('script')")


def test_an_argument_of_a_class_that_was_defined_again_says_which_cell_to_run(kernel: Kernel) -> None:
    point = "from dataclasses import dataclass\n@dataclass\nclass Dot:\n    x: int"
    uses = "@cs.query\ndef dotted(ctx, dot: Dot):\n    return dot.x"
    kernel.run(point)
    kernel.run(uses)
    kernel.run(point + "\n    y: int = 0")
    [error] = kernel.run("dotted(Dot(1))").errors
    assert "dotted.dot.y: there is no field 'y'; the fields are x" in error
    assert "Dot was defined again after dotted was: run the cell of dotted once more" in error
    kernel.run(uses)
    assert kernel.run("dotted(Dot(1))").text == "1"


def test_what_the_store_cannot_load_is_said_in_its_cell_and_holds_up_no_other_function(kernel: Kernel) -> None:
    setup = (
        "class Picky:\n    def __setstate__(self, state): raise ValueError('not there')\npicky = Picky()\npicky.n = 1"
    )
    kernel.run(setup)
    [error] = kernel.run("@cs.query\ndef strange(ctx):\n    return picky.n").errors
    assert "cannot be loaded where functions run" in error
    assert "in __setstate__" in error
    assert "ValueError: not there" in error
    later = kernel.run("@cs.query\ndef untouched(ctx):\n    return 5\nuntouched()")
    assert (later.errors, later.text) == ([], "5")
    assert "cannot be loaded where" in kernel.run("strange()").errors[0]
    kernel.run("del strange")


def test_a_cell_whose_function_has_no_text_says_so_once_with_name_and_reason(kernel: Kernel) -> None:
    said = kernel.run("@cs.query\ndef unread(ctx):\n    return made(1)\nmade = eval('lambda x: x + 1')").printed
    assert "cellstore: tasks runs under Python 3" in said
    assert "unread uses `made`: the text of <lambda> is not available" in said
    assert "runs under" not in kernel.run("@cs.query\ndef besides(ctx):\n    return 1\nunread()").printed
    assert kernel.run("def made(x):\n    return x\nunread()").text == "1"
    assert "unread uses `made`" in kernel.run("made = eval('lambda x: x + 1')").printed


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_signature_that_cannot_be_is_refused_with_a_reason(kernel: Kernel, name: str) -> None:
    cell, reason = SIGNATURES[name]
    [error] = kernel.run(cell).errors
    assert reason in error


def test_a_cell_run_again_unchanged_ships_nothing_and_a_changed_one_its_module_once(kernel: Kernel) -> None:
    cell = "@cs.query\ndef same(ctx):\n    return 1"
    shipped = (
        "from cellstore_kernel import extension\n"
        "[module for loaded in extension._loaded.values() for module, _ in loaded.autodeploy.shipped]"
    )
    kernel.run(cell)
    before = kernel.run("[f['hash'] for f in cs.current().functions() if f['path'] == 'tasks:same']").text
    kernel.run("# a comment above\n\n" + cell)
    assert kernel.run(shipped).text == "[]"
    assert kernel.run("[f['hash'] for f in cs.current().functions() if f['path'] == 'tasks:same']").text == before
    kernel.run(cell.replace("1", "2"))
    assert kernel.run(shipped).text == "['tasks']"
    assert kernel.run("[f['hash'] for f in cs.current().functions() if f['path'] == 'tasks:same']").text != before


def test_a_helper_redefined_runs_live_views_of_its_functions_again_at_once(kernel: Kernel) -> None:
    kernel.run("def factor():\n    return 2\n@cs.query\ndef scaled(ctx):\n    return 21 * factor()")
    kernel.run(
        "@cs.query\ndef outer(ctx):\n    return ctx.run_query(scaled) + 1\nviews = [cs.live(scaled), cs.live(outer)]"
    )
    assert kernel.run("[view.value for view in views]").text == "[42, 43]"
    kernel.run("def factor():\n    return 3")
    waited = kernel.run(
        "for view, wanted in zip(views, [63, 64]):\n    view._sub.wait(lambda value: value == wanted, timeout=5)\n"
        "[view.value for view in views]"
    )
    assert waited.text == "[63, 64]"


def test_a_module_next_to_the_notebook_that_changed_is_shipped_again(server: ServerProcess, tmp_path: Path) -> None:
    kernel = kernel_of(server, tmp_path)
    try:
        kernel.run("import beside\n@cs.query\ndef outside(ctx):\n    return beside.BASE")
        kernel.run(
            "@cs.query\ndef inside(ctx):\n    from pack.inner import deep\n    return deep(1)\nwatched = cs.live(inside)"
        )
        assert kernel.run("outside(), inside()").text == "(21, 10)"
        (tmp_path / "beside.py").write_text("BASE = 22  # another\n")
        (tmp_path / "pack" / "outer.py").write_text("TEN = 1000\n")
        kernel.run("import importlib\nimportlib.reload(beside)")
        assert kernel.run("watched._sub.wait(lambda value: value == 1000, timeout=5)").errors == []
        assert kernel.run("outside(), inside()").text == "(22, 1000)"
    finally:
        kernel.stop()


def plain(text: str) -> str:
    """Without colours and cells' numbers; with one kind of marks, as which is which differs between Pythons."""
    return re.sub(r"\x1b\[\d+m|\[\d+\]", "", text).replace("~", "^")


OWN_LINES = """\
Cell In, line 1
    cs.current().query('tasks:shape')
In the function tasks:shape:
  Cell In, line 5, in shape
    return 'x' + helper({'name': 'x'})
                 ^^^^^^^^^^^^^^^^^^^^^
  Cell In, line 2, in helper
    return row['nmae'].upper()
           ^^^^^^^^^^^
FunctionError: KeyError: 'nmae'"""


@pytest.mark.parametrize("form", ["pickle", "source"])
def test_the_users_own_line_is_shown_with_its_marks_and_none_of_ours(kernel: Kernel, form: str) -> None:
    kernel.run(
        "def helper(row):\n    return row['nmae'].upper()\n@cs.query\ndef shape(ctx):\n    return 'x' + helper({'name': 'x'})"
    )
    if form == "source":
        assert kernel.run(FROM_SOURCE).errors == []
    [error] = kernel.run("cs.current().query('tasks:shape')").errors
    assert plain(error) == OWN_LINES


NESTED = """
import logging
@cs.mutation
def innermost(ctx, row: dict):
    return row["nmae"]
@cs.action
async def between(ctx):
    return await ctx.run_mutation(innermost, row={})
@cs.action
def outermost(ctx, log: bool = False):
    try:
        return ctx.run_action(between)
    except Exception:
        if log: logging.getLogger("mine").exception("here")
        raise
"""
NESTED_LINES = """\
  Cell In, line 11, in outermost
    return ctx.run_action(between)
           ^^^^^^^^^^^^^^^^^^^^^^^
In the function tasks:between:
  Cell In, line 7, in between
    return await ctx.run_mutation(innermost, row={})
           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
In the function tasks:innermost:
  Cell In, line 4, in innermost
    return row["nmae"]
           ^^^^^^^^^^^
FunctionError: KeyError: 'nmae'"""


def test_the_lines_of_what_an_action_calls_stand_below_its_own_in_the_cell_and_in_the_log(kernel: Kernel) -> None:
    kernel.run(NESTED.strip())
    failed = kernel.run("outermost(log=True)")
    error, printed = plain(failed.errors[0]), plain(failed.printed)
    assert error == f"Cell In, line 1\n    outermost(log=True)\nIn the function tasks:outermost:\n{NESTED_LINES}"
    assert printed == f"[ERROR] here\nTraceback (most recent call last):\n{NESTED_LINES}\n"


def test_a_call_that_computes_too_long_is_stopped_at_its_line_and_called_so_in_the_log(kernel: Kernel) -> None:
    kernel.run("@cs.query\ndef endless(ctx):\n    while True:\n        pass")
    [error] = kernel.run("endless()").errors
    assert "in endless\n" in error
    assert "LimitExceeded" in error
    assert "computed longer than 1 s and was stopped at Cell In[" in error
    logged = kernel.run("%cellstore logs -n 1").printed
    assert "LimitExceeded: tasks:endless computed longer than 1 s" in logged
    assert "OutOfTime" not in logged


def test_a_call_that_waits_says_what_for_in_its_cell(kernel: Kernel, server: ServerProcess) -> None:
    assert server.process is not None
    kernel.run("@cs.mutation\ndef note_it(ctx):\n    return 1\nnote_it()")
    asleep = kernel.run(
        f"import os, signal, threading\nos.kill({server.process.pid}, signal.SIGSTOP)\n"
        f"threading.Timer(2.5, os.kill, ({server.process.pid}, signal.SIGCONT)).start()\nnote_it()"
    )
    assert asleep.errors == []
    said = [shown.get("text/plain", "") for shown in asleep.shown]
    assert any("note_it: sent; it runs, or waits for a worker process" in text for text in said), said


def test_progress_is_a_bar_in_the_calling_cell(kernel: Kernel) -> None:
    kernel.run(
        "@cs.action\ndef long(ctx):\n    import time\n    for n in range(8):\n        ctx.progress(n + 1, 8, f'part {n + 1}')\n"
        "        time.sleep(0.15)\n    return 'done'"
    )
    cell = kernel.run("long()")
    assert cell.text == "'done'"
    bars = [shown["text/html"] for shown in cell.shown if "text/html" in shown]
    assert any("<progress" in bar for bar in bars)
    assert any("tasks:long" in bar for bar in bars)


def test_what_functions_say_is_in_the_log_stream(kernel: Kernel) -> None:
    kernel.run(
        "import logging, warnings\n@cs.mutation\ndef talk(ctx):\n    print('printed')\n"
        "    logging.getLogger('mine').warning('careful')\n    warnings.warn('old')\n"
    )
    said = kernel.run("talk()").printed
    assert "printed" in said
    assert "[WARN] careful" in said
    assert "[WARN] UserWarning: old" in said
    stream = kernel.run("%cellstore logs -n 20").printed
    [line] = [line for line in stream.splitlines() if "careful" in line]
    assert " WARN " in line
    assert "tasks:talk" in line
    assert "mutation, " in stream
    assert " ms" in stream


@pytest.mark.parametrize("kind", ["query", "action"])
def test_a_traceback_in_the_log_names_the_cell(kernel: Kernel, kind: str) -> None:
    kernel.run(
        f"import logging\n@cs.{kind}\ndef logs_it(ctx):\n    try:\n        1 / 0\n    except ZeroDivisionError:\n"
        "        logging.getLogger('mine').exception('went on')\n"
    )
    said = kernel.run("logs_it()").printed
    assert "[ERROR] went on\nTraceback" in said
    assert "Cell In[" in said
    assert ", line 5, in logs_it\n    1 / 0\n    ~~^~~\n" in said
    assert "ipykernel" not in said
    stream = kernel.run("%cellstore logs -n 2").printed.splitlines()
    [at] = [at for at, line in enumerate(stream) if line.endswith("went on")]
    assert stream[at + 1] == " " * 14 + "Traceback (most recent call last):"


def test_a_badge_shows_path_kind_version_origin_and_the_last_error(kernel: Kernel) -> None:
    kernel.run("@cs.query\ndef badged(ctx, n: int = 1):\n    return 1 // n")
    assert kernel.run("badged(0)").status == "error"
    shown = kernel.run("badged").shown[-1]
    assert "query tasks:badged(n: int = 1), version " in shown["text/plain"]
    assert "tasks:badged" in shown["text/html"]
    assert "from tasks.ipynb" in shown["text/html"]
    assert "last error: ZeroDivisionError" in shown["text/html"]


@pytest.mark.parametrize("calls", ["", "\ncontested()"], ids=["by its cell", "by a call in its cell"])
def test_two_notebooks_that_deploy_the_same_path_are_told_about_each_other(
    server: ServerProcess, kernel: Kernel, tmp_path: Path, calls: str
) -> None:
    kernel.run("@cs.query\ndef contested(ctx):\n    return 'first'")
    other = kernel_of(server, tmp_path)
    try:
        second = other.run("@cs.query\ndef contested(ctx):\n    return 'second'" + calls)
        assert "tasks:contested was deployed from" in second.printed
        assert "cells0/tasks.ipynb until now" in second.printed
        assert "To have both, rename one of the notebooks" in second.printed
        told = kernel.run("import time; time.sleep(2.1)").printed + kernel.run("1 + 1").printed
        assert f"tasks:contested is now deployed from {tmp_path}/tasks.ipynb" in told
        assert kernel.run("1 + 1").printed == ""
    finally:
        other.stop()
        kernel.run("@cs.query\ndef contested(ctx):\n    return 'again'")


def test_the_log_stream_is_followed_until_the_cell_is_interrupted(kernel: Kernel) -> None:
    kernel.run("@cs.mutation\ndef chatter(ctx, n: int):\n    print('chatter', n)")
    kernel.run(
        "import threading, time\ndef later():\n    time.sleep(1)\n    chatter(7)\nthreading.Thread(target=later, daemon=True).start()"
    )
    interrupting = threading.Timer(3.0, lambda: os.kill(kernel.manager.provisioner.pid, signal.SIGINT))
    interrupting.start()
    followed = kernel.run("%cellstore logs -f -n 1")
    assert followed.errors == []
    assert any("chatter 7" in line and "tasks:chatter" in line for line in followed.printed.splitlines())
    assert kernel.run("1 + 1").text == "2"
