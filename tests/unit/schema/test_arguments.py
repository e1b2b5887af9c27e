"""What a function takes, as its signature says it: what is refused when it is defined, and when it is called."""

from __future__ import annotations

import dataclasses
import enum
from typing import Annotated, Any, Literal, TypedDict

import annotated_types as at
import pydantic
import pytest

import cellstore as cs
from cellstore.testing.store import StoreUnderTest


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Size:
    width: int
    depth: float = 1.0


class Line(TypedDict):
    name: str
    sizes: list[Size]


class Person(pydantic.BaseModel):
    name: str
    age: Annotated[int, at.Ge(0)] = 0


class Order(cs.Table, name="argument_orders"):
    title: str


@cs.query
def order(
    ctx: Any,
    lines: list[Line],
    who: Person | None = None,
    colour: Colour = Colour.RED,
    mode: Literal["fast", "slow"] = "fast",
    size: Size | None = None,
    of: cs.Id["argument_orders"] | None = None,  # noqa: F821, UP037 — a name, not an annotation
    extra: dict[str, float] | None = None,
) -> list[Any]:
    return [
        [each["sizes"][0].width for each in lines],
        who and who.age,
        colour.name,
        mode,
        size and size.depth,
        of,
        extra,
    ]


LINE = {"name": "wood", "sizes": [{"width": 1}]}
DEEP = [LINE, {"name": "x", "sizes": [{"width": 1}, {"width": "2"}]}]


@pytest.mark.parametrize(
    ("args", "path", "expected", "got"),
    [
        ({}, "order.lines", "list", "nothing"),
        ({"lines": DEEP}, "order.lines[1].sizes[1].width", "int", "str '2'"),
        ({"lines": [{"name": 5, "sizes": []}]}, "order.lines[0].name", "str", "int 5"),
        ({"lines": [{"sizes": []}]}, "order.lines[0].name", "str", "nothing"),
        ({"lines": (LINE,)}, "order.lines", "list", "make it a list"),
        ({"lines": [], "who": {"name": "Ann", "age": -1}}, "order.who.age", "int >= 0", "int -1"),
        ({"lines": [], "who": {"name": "Ann", "tall": True}}, "order.who.tall", "one of name, age", "'tall'"),
        ({"lines": [], "colour": "green"}, "order.colour", "'red' or 'blue'", "str 'green'"),
        ({"lines": [], "mode": True}, "order.mode", "'fast' or 'slow'", "bool True"),
        ({"lines": [], "size": {"width": True}}, "order.size.width", "int", "bool True"),
        ({"lines": [], "extra": {"a": 1, "b": "2"}}, "order.extra.b", "float", "str '2'"),
        ({"lines": [], "of": "milk"}, "order.of", "id of table 'argument_orders'", "str 'milk'"),
    ],
)  # fmt: skip
def test_one_error_names_the_path_what_was_expected_and_what_came(
    args: dict[str, Any], path: str, expected: str, got: str
) -> None:
    with pytest.raises(cs.ValidationError) as refused:
        order.bind((), args)
    error = refused.value
    assert error.path == path
    assert expected in error.expected
    assert got in error.got
    assert error.code == "ArgumentValidationError"
    assert error.message.startswith(f"{path}: ")


def test_an_argument_is_called_one_and_a_field_inside_of_it_a_field() -> None:
    with pytest.raises(
        cs.ValidationError, match=r"there is no argument 'line' \(did you mean 'lines'\?\); the arguments are"
    ):
        order.bind((), {"line": []})
    with pytest.raises(cs.ValidationError, match=r"order\.lines: .* got nothing: the argument is required"):
        order.bind((), {})
    with pytest.raises(cs.ValidationError, match=r"order\.lines\[0\]\.sizes: .* got nothing: the field is required"):
        order.bind((), {"lines": [{"name": "x"}]})


def test_defaults_apply_and_objects_come_as_they_were_declared() -> None:
    with StoreUnderTest() as store:
        assert order(lines=[]) == [[], None, "RED", "fast", None, None, None]
        made = order([LINE], who=Person(name="Ann", age=3), colour=Colour.BLUE, size=Size(1))  # type: ignore[list-item]
        assert made == [[1], 3, "BLUE", "fast", 1.0, None, None]
        assert store.query("test_arguments:order", lines=[], extra={"a": 1})[-1] == {"a": 1.0}
        with pytest.raises(cs.ValidationError, match=r"test_arguments:order: line: there is no argument 'line'"):
            store._query("test_arguments:order", {"line": []})  # as a client that knows no signature


def test_what_cannot_travel_by_name_is_refused_with_a_reason() -> None:
    with pytest.raises(cs.DeployError, match=r"star: \*rest cannot be: arguments travel by name; take a list instead"):

        @cs.query
        def star(ctx: Any, *rest: int) -> None: ...

    with pytest.raises(
        cs.DeployError, match=r"slash, parameter 'a': positional-only parameters cannot be: .* drop the `/`"
    ):

        @cs.query
        def slash(ctx: Any, a: int, /) -> None: ...

    with pytest.raises(cs.DeployError, match=r"pair, parameter 'two': .*tuples are stored as lists"):

        @cs.query
        def pair(ctx: Any, two: tuple[int, int]) -> None: ...


def test_more_arguments_than_there_are_names_for_are_refused_by_number_and_name() -> None:
    with pytest.raises(cs.ValidationError, match=r"order got 8 arguments by position and takes 7"):
        order.bind(tuple(range(8)), {})
    with pytest.raises(cs.ValidationError, match="order got the argument 'lines' twice"):
        order.bind(([],), {"lines": []})


@cs.mutation
def misdeclared(ctx: Any, title: str) -> int:
    return ctx.db.insert("argument_orders", {"title": title})


@cs.mutation
def calls_misdeclared(ctx: Any) -> str:
    try:
        return str(ctx.run_mutation(misdeclared, title="inner"))
    except cs.ValidationError as error:
        return error.message


@cs.query
def titles(ctx: Any) -> list[str]:
    return [each.title for each in ctx.db.query("argument_orders").collect()]


def test_a_result_that_breaks_its_annotation_commits_nothing() -> None:
    with StoreUnderTest():
        with pytest.raises(cs.ValidationError, match=r"misdeclared: .*expected int, got") as refused:
            misdeclared(title="outer")
        assert refused.value.code == "ReturnsValidationError"
        assert "expected int" in calls_misdeclared()
        assert titles() == []
