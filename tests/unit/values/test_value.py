"""What may be stored."""

import collections
import copy
import dataclasses
import datetime
import decimal
import enum
import pickle
import uuid

import pytest

from cellstore.errors import LimitExceeded, ValidationError
from cellstore.knobs import Knobs
from cellstore.transaction.access import QueryBuilder
from cellstore.values.document import Document
from cellstore.values.ids import Id
from cellstore.values.value import MISSING, UNSET, check_document, check_value, kind_of, same


class Color(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    LOW = 1


@dataclasses.dataclass
class Point:
    x: int


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (None, 1),
        (True, 1),
        (7, 9),
        (7.5, 9),
        (float("nan"), 9),
        ((1 << 63) - 1, 9),
        (-(1 << 63), 9),
        ("", 2),
        ("abc", 5),
        ("é😀", 2 + 2 + 4),
        (b"\0\xff", 4),
        ([], 2),
        ([1, "a"], 2 + 9 + 3),
        ({}, 2),
        ({"ab": 1, "": None}, 2 + (2 + 1 + 9) + (0 + 1 + 1)),
        ({"a": {"b": [True]}}, 2 + 2 + (2 + 2 + (2 + 1))),
        (Id["users"]("j57"), 5),
        (Document({"a": 1}), 2 + 2 + 9),
        (collections.OrderedDict(a=1), 2 + 2 + 9),
    ],
)
def test_a_value_has_the_size_of_the_accounting_rule(value, size):
    assert check_value(value) == size


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        ((1, 2), "use a list"),
        ({1}, "use a list"),
        (range(3), r"use list\(…\)"),
        (bytearray(b"x"), r"use bytes\(…\)"),
        (decimal.Decimal("1.5"), r"use str\(…\)"),
        (uuid.UUID(int=1), r"use str\(…\)"),
        (datetime.datetime(2024, 1, 1), "annotate it as datetime"),
        (Color.RED, "use .value"),
        (Level.LOW, "use .value"),
        (Point(1), "dataclasses.asdict"),
        (QueryBuilder(object(), "t"), r"end the query with \.collect\(\)"),
        (collections.namedtuple("Pair", "a b")(1, 2), r"list"),
        (MISSING, "leave the field out"),
        (object(), "expected None, bool, int"),
        (1 << 63, "64 bits"),
        (-(1 << 63) - 1, "64 bits"),
        ("a\ud800b", "lone surrogate"),
    ],
)
def test_what_is_not_a_value_is_refused_with_advice(value, advice):
    for wrapped, path in ((value, "args"), ({"f": [value]}, "args.f[0]"), ([{"f": value}], "args[0].f")):
        with pytest.raises(ValidationError, match=advice) as told:
            check_value(wrapped, "args")
        assert told.value.path == path
        assert str(told.value).startswith(path)


@pytest.mark.parametrize("scalar", ["float64", "int64", "bool_", "str_", "float32"])
def test_numpy_scalars_are_refused_even_where_they_are_floats(scalar):
    numpy = pytest.importorskip("numpy")
    with pytest.raises(ValidationError, match=r"use .item\(\)"):
        check_value([getattr(numpy, scalar)(1)])


@pytest.mark.parametrize(
    ("name", "why"),
    [("$a", "does not begin with"), (3, r"use str\(3\)"), ("é", "ASCII"), ("x" * 1025, "1024"), ("a\n", "ASCII")],
)
def test_a_name_that_cannot_be_one_is_refused(name, why):
    with pytest.raises(ValidationError, match=why):
        check_value({"ok": {name: 1}})


@pytest.mark.parametrize("name", ["_id", "_creationTime", "_mine", "two words", "", "9a", "a-b", "x" * 65, "é", "$a"])
def test_fields_of_documents_have_stricter_names(name):
    with pytest.raises(ValidationError):
        check_document({name: 1})


def test_nested_names_may_be_any_printable_text():
    assert check_document({"a": {"two words": 1, "_x": 2, "": 3}})


def test_nesting_ends_somewhere():
    nested: object = 1
    for _ in range(63):
        nested = [nested]
    assert check_value({"a": nested})
    with pytest.raises(ValidationError, match="shallower"):
        check_value({"a": [nested]})
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(ValidationError, match="shallower"):
        check_value(loop)


def test_documents_are_bounded_and_results_are_not():
    assert check_value(list(range(10_000))) > 90_000
    with pytest.raises(ValidationError, match="8,192"):
        check_document({"a": list(range(8193))})
    with pytest.raises(ValidationError, match="1,024 fields"):
        check_document({f"f{n}": n for n in range(1025)})
    with pytest.raises(LimitExceeded) as told:
        check_document({"a": "x" * (1 << 20)})
    assert told.value.knob == "document_size_bytes"
    assert check_document({"a": "x" * (1 << 20)}, Knobs(document_size_bytes=1 << 21))


def test_a_document_is_a_dict():
    with pytest.raises(ValidationError, match="a document"):
        check_document([1])  # type: ignore[arg-type]


def test_identical_is_stricter_than_equal():
    nan = float("nan")
    distinct = [
        1,
        1.0,
        True,
        0.0,
        -0.0,
        0,
        False,
        None,
        nan,
        "",
        b"",
        [],
        {},
        [1],
        [1.0],
        {"a": 1},
        {"a": 1.0},
        {"b": 1},
    ]
    for i, a in enumerate(distinct):
        for j, b in enumerate(distinct):
            assert same(a, copy.deepcopy(b)) == (i == j), (a, b)
    assert same({"a": 1, "b": [float("nan")]}, {"b": [float("nan")], "a": 1})
    assert same(Id["t"]("x"), "x")


def test_sentinels_are_one_object_everywhere():
    for sentinel in (UNSET, MISSING):
        assert pickle.loads(pickle.dumps(sentinel)) is sentinel
        assert copy.deepcopy(sentinel) is sentinel
        assert not sentinel
    assert repr(UNSET) == "UNSET"


def test_kinds():
    assert kind_of(True) is bool
    assert kind_of(Document()) is dict
    assert kind_of(Id["t"]("x")) is str
    assert kind_of(Level.LOW) is None


def test_a_value_of_many_lines_is_described_on_one():
    class Frame:
        def __repr__(self) -> str:
            return "a\n0  1"

    with pytest.raises(ValidationError, match=r"Frame a 0 1$"):
        check_value(Frame(), "args")
