"""A schema that certainly allows all that another allows: then no document need be looked at."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellstore.errors import ValidationError
from cellstore.schema.expr import includes, union
from cellstore.schema.types import check_plain
from cellstore.values.value import same

INT, STRING, NULL, ANY = ({"type": kind} for kind in ("int", "string", "null", "any"))
SCALARS = [INT, STRING, NULL, ANY, {"type": "boolean"}, {"type": "float"}, {"type": "bytes"}, {"type": "int", "ge": 1}]
SCALARS += [{"type": "literal", "value": value} for value in (1, True, 1.0, "x")] + [
    {"type": "string", "max_length": 1}
]


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    field = st.builds(lambda kind, optional: {"type": kind, "optional": optional}, inner, st.booleans())
    plain = st.builds(
        lambda fields: {"type": "object", "fields": fields}, st.dictionaries(st.sampled_from("ab"), field)
    )
    return plain | st.builds(lambda closed, extra: {**closed, "extra": extra}, plain, inner)


EXPRS: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from(SCALARS),
    lambda inner: st.one_of(
        objects(inner),
        st.builds(lambda items: {"type": "array", "items": items}, inner),
        st.builds(lambda values: {"type": "record", "values": values}, inner),
        st.lists(inner, min_size=1, max_size=3).map(union),
    ),
    max_leaves=6,
)
FEW: list[Any] = [None, True, False, 0, 1, 2, 1.0, 1.5, "", "x", "xy", b"x"]
SOME: list[Any] = [*FEW, [], {}, *([each] for each in FEW), *({name: each} for name in "abc" for each in FEW)]
VALUES: list[Any] = [*SOME, *([each] for each in SOME), *({"a": a, "b": b} for a in SOME for b in (1, "x", None))]


def stored(expr: Any, value: Any) -> list[Any]:
    """The value as it is stored by this type; nothing if it does not fit."""
    try:
        return [check_plain(expr, value)]
    except ValidationError:
        return []


@given(EXPRS, EXPRS)
def test_what_fits_a_type_fits_every_type_that_includes_it(wide: Any, narrow: Any) -> None:
    if includes(wide, narrow):
        for value in [each for given in VALUES for each in stored(narrow, given)]:
            (again,) = stored(wide, value)
            assert same(again, value)


@given(EXPRS)
def test_a_type_includes_itself_and_any_includes_all(expr: Any) -> None:
    assert includes(expr, expr)
    assert includes(ANY, expr)
    assert includes(union([expr, NULL]), expr)


def made_of(**fields: Any) -> dict[str, Any]:
    """`a=INT` is required, `a_=INT` is not."""
    kinds = {name.rstrip("_"): {"type": kind, "optional": name.endswith("_")} for name, kind in fields.items()}
    return {"type": "object", "fields": kinds}


@pytest.mark.parametrize(
    ("narrow", "wide", "expected"),
    [
        (made_of(a=INT), made_of(a=INT, b_=STRING), True),
        (made_of(a=INT), made_of(a_=INT), True),
        (made_of(a=INT), made_of(a=union([INT, NULL])), True),
        (made_of(a={"type": "literal", "value": "x"}), made_of(a=STRING), True),
        (made_of(a={"type": "int", "ge": 1}), made_of(a=INT), True),
        (made_of(a=made_of(b=INT)), made_of(a=made_of(b=INT, c_=INT)), True),
        (made_of(a=INT), made_of(a=INT, b=STRING), False),
        (made_of(a_=INT), made_of(a=INT), False),
        (made_of(a=INT, b=INT), made_of(a=INT), False),
        (made_of(a=INT), made_of(a={"type": "int", "ge": 1}), False),
        (made_of(a={"type": "literal", "value": 1}), made_of(a={"type": "literal", "value": True}), False),
        (made_of(a={"type": "id", "table": "t"}), made_of(a={"type": "id", "table": "u"}), False),
        ({**made_of(), "extra": ANY}, {**made_of(a_=INT), "extra": ANY}, False),
    ],
)
def test_which_changes_of_a_table_only_allow_more(narrow: Any, wide: Any, expected: bool) -> None:
    assert includes(wide, narrow) is expected
