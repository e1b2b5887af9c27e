"""Tables from type hints, as a writer meets them: what fits, what does not and how it is told."""

import datetime as dt
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import pytest

import cellstore as cs
from cellstore.errors import ValidationError
from cellstore.transaction.access import DatabaseReader
from cellstore.transaction.database import Engine
from cellstore.values.ids import Id

SUMMER = dt.timezone(dt.timedelta(hours=2))


class Size(TypedDict):
    width: int
    unit: NotRequired[str]


class Cat(TypedDict):
    kind: Literal["cat"]
    lives: int


class Dog(TypedDict):
    kind: Literal["dog"]
    name: str


class Thing(cs.Table, name="gadgets"):
    n: int
    maybe: int | None
    absent: int = 7
    either: int | str = 0
    kind: Literal["x", "y", 3] = "x"
    size: Size | None = None
    tags: list[str] = []  # noqa: RUF012
    rates: dict[str, float] = {}  # noqa: RUF012
    at: dt.datetime | None = None
    day: dt.date | None = None
    owner: cs.Id["users"] | None = None  # noqa: F821
    pet: Cat | Dog | None = None
    by_at = cs.Index("at")
    by_day = cs.Index("day")
    by_width = cs.Index("size.width")


@pytest.fixture
def gadgets(engine: Engine) -> Engine:
    engine.define(Thing.__cellstore__)
    return engine


def put(engine: Engine, **fields: Any) -> dict[str, Any]:
    id = engine.run(lambda tx: tx.insert("gadgets", {"n": 1, "maybe": None, **fields}))[0]
    with engine.begin() as tx:
        found = tx.get(id)
    assert found is not None
    return {name: value for name, value in found.items() if name in fields}


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ({"n": 2.0}, {"n": 2}),
        ({"maybe": 5}, {"maybe": 5}),
        ({"either": "s"}, {"either": "s"}),
        ({"kind": 3}, {"kind": 3}),
        ({"size": {"width": 3}}, {"size": {"width": 3}}),
        ({"size": {"width": 3, "unit": "cm"}}, {"size": {"width": 3, "unit": "cm"}}),
        ({"tags": ["a", "b"]}, {"tags": ["a", "b"]}),
        ({"rates": {"usd": 1}}, {"rates": {"usd": 1.0}}),
        ({"at": dt.datetime(2026, 1, 2, 3, 4, 5, 6, SUMMER)}, {"at": "2026-01-02T01:04:05.000006Z"}),
        ({"day": dt.date(2026, 1, 2)}, {"day": "2026-01-02"}),
    ],
)
def test_what_fits_is_stored(gadgets: Engine, given: dict[str, Any], stored: dict[str, Any]) -> None:
    found = put(gadgets, **given)
    assert found == stored
    assert [type(value) for value in found.values()] == [type(value) for value in stored.values()]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n": 1.5}, r"gadgets\.n: expected int, got float 1\.5"),
        ({"n": "1"}, r"gadgets\.n: expected int, got str '1'"),
        ({"n": True}, r"gadgets\.n: expected int, got bool True"),
        ({"n": None}, r"gadgets\.n: expected int, got None"),
        ({"absent": None}, r"gadgets\.absent: expected int, got None"),
        ({"either": 1.5}, r"gadgets\.either: expected int or str"),
        ({"kind": "z"}, r"gadgets\.kind: expected 'x' or 'y' or 3|gadgets\.kind: expected 'x', 'y' or 3"),
        ({"size": {"unit": "cm"}}, r"gadgets\.size\.width: .*required"),
        ({"size": {"width": 1, "depth": 2}}, r"gadgets\.size\.depth: there is no field 'depth'"),
        ({"tags": ["a", 2]}, r"gadgets\.tags\[1\]: expected str, got int 2"),
        ({"rates": {"usd": "x"}}, r"gadgets\.rates\.usd: expected float|gadgets\.rates\['usd'\]: expected float"),
        ({"at": dt.datetime(2026, 1, 2)}, "without a time zone"),
        ({"at": "tomorrow"}, r"gadgets\.at: expected datetime or None"),
        ({"owner": "nobody"}, r"gadgets\.owner: expected an id of table 'users' or None"),
        ({"pet": {"kind": "dog", "name": 1}}, r"gadgets\.pet\.name: expected str, got int 1"),
        ({"pet": {"kind": "cow"}}, r"gadgets\.pet\.kind: expected 'cat' or 'dog', got str 'cow'"),
        ({"pet": {"kind": "cat"}}, r"gadgets\.pet\.lives: .*required"),
        ({"colour": "red"}, r"gadgets\.colour: there is no field 'colour'; the fields are n, maybe"),
    ],
)
def test_what_does_not_fit_is_named_by_its_path(gadgets: Engine, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        put(gadgets, **given)
    with gadgets.begin() as tx:
        assert tx.count("gadgets") == 0


def test_optional_is_not_none(gadgets: Engine) -> None:
    with pytest.raises(ValidationError, match=r"gadgets\.maybe: expected int or None, got nothing"):
        gadgets.run(lambda tx: tx.insert("gadgets", {"n": 1}))
    assert put(gadgets, absent=1) == {"absent": 1}


def test_an_id_is_of_the_table_its_field_names(gadgets: Engine) -> None:
    user, stranger = gadgets.run(lambda tx: [tx.insert("users", {}), tx.insert("others", {})])[0]
    assert put(gadgets, owner=user) == {"owner": user}
    gadgets.run(lambda tx: tx.delete(user))
    assert put(gadgets, owner=user) == {"owner": user}, "that it exists is not asked"
    with pytest.raises(ValidationError, match=r"an id of table 'users'.*'others'"):
        put(gadgets, owner=str(stranger))


def test_patch_and_replace_are_checked_as_a_whole(gadgets: Engine) -> None:
    id: Id = gadgets.run(lambda tx: tx.insert("gadgets", {"n": 1, "maybe": None}))[0]
    for write in (
        lambda tx: tx.patch(id, {"n": cs.UNSET}),
        lambda tx: tx.patch(id, {"size": {}}),
        lambda tx: tx.replace(id, {"n": 2}),
    ):
        with pytest.raises(ValidationError, match="required"):
            gadgets.run(write)
    gadgets.run(lambda tx: tx.patch(id, {"absent": cs.UNSET}))


def test_moments_and_days_sort_and_are_asked_for_as_such(gadgets: Engine) -> None:
    moments = [dt.datetime(2026, 1, 1, 0, 0, n, tzinfo=SUMMER) for n in (0, 5, 2, 9)]
    for moment in moments:
        put(gadgets, at=moment, day=moment.date() + dt.timedelta(days=moment.second))
    later = dt.datetime(2025, 12, 31, 22, 0, 2, tzinfo=dt.UTC)
    with gadgets.begin() as tx:
        query = DatabaseReader(tx).query("gadgets")
        found = query.with_index("by_at", lambda q: q.gte("at", later)).collect()
        assert [thing["at"][17:19] for thing in found] == ["02", "05", "09"]
        assert query.with_index("by_day", day=dt.date(2026, 1, 6)).unique()["at"] == found[1]["at"]  # type: ignore[index]


def test_an_index_reaches_inside_objects(gadgets: Engine) -> None:
    for width in (3, None, 1):
        put(gadgets, size=None if width is None else {"width": width})
    with gadgets.begin() as tx:
        query = DatabaseReader(tx).query("gadgets").with_index("by_width")
        assert [thing["size"] and thing["size"]["width"] for thing in query] == [None, 1, 3]
        missing = DatabaseReader(tx).query("gadgets").with_index("by_width", lambda q: q.eq("size.width", cs.UNSET))
        assert missing.count() == 1


def test_sixteen_fields_make_an_index_and_seventeen_do_not(engine: Engine, define: Any) -> None:
    names = [f"f{n:02}" for n in range(17)]
    engine.define(define("wide", by_all=",".join(names[:16])))
    engine.run(lambda tx: [tx.insert("wide", dict.fromkeys(names, n)) for n in (2, 1)])
    with engine.begin() as tx:
        query = DatabaseReader(tx).query("wide")
        assert [row["f00"] for row in query.with_index("by_all")] == [1, 2]
        equal = dict.fromkeys(names[:16], 2)
        assert query.with_index("by_all", lambda q: q.gt("_creationTime", 0), **equal).count() == 1
    with pytest.raises(ValidationError, match="17 fields; at most 16"):
        engine.define(define("wide", by_all=",".join(names)))


def test_limits_in_hints_are_kept(engine: Engine) -> None:
    from pydantic import Field

    class Limited(cs.Table, name="limited"):
        share: Annotated[float, Field(ge=0, le=1)]

    engine.define(Limited.__cellstore__)
    engine.run(lambda tx: tx.insert("limited", {"share": 0.5}))
    with pytest.raises(ValidationError, match=r"limited\.share"):
        engine.run(lambda tx: tx.insert("limited", {"share": 1.5}))
