"""Which column a field becomes."""

import os

import pytest

from cellstore.analytics.columns import Looker, declared, duckdb_type, kind_of, merged, settled, sql_names
from cellstore.analytics.feed import encode_ids, plain_floats
from cellstore.schema.types import from_hint
from cellstore.values.ids import encode_id
from cellstore.values.json import dumps

WIDE = 2**53 + 1


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2], "small"),
        ([1, WIDE], "wide"),
        ([1, 2.5], "float"),
        ([WIDE, 2.5], "json"),
        ([True, None], "boolean"),
        ([True, 1], "json"),
        (["a", None], "string"),
        ([{"$float": "AAAAAAAA+H8="}, 1.5], "float"),
        ([{"$bytes": "AAE="}], "bytes"),
        ([[1], [None, 2]], ("list", "small")),
        ([{"a": 1}, {"b": "x"}], ("struct", {"a": "small", "b": "string"})),
        ([[1], "x"], "json"),
    ],
)
def test_a_column_has_the_one_kind_that_holds_all_its_values(values, kind):
    found = "null"
    for value in values:
        found = merged(found, kind_of(value))
    assert found == kind


def test_merging_does_not_depend_on_the_order():
    kinds = ["null", "boolean", "small", "int", "wide", "mix", "float", "string", "bytes", "json", ("list", "small")]
    for a in kinds:
        for b in kinds:
            assert merged(a, b) == merged(b, a), (a, b)


@pytest.mark.parametrize(
    "kind",
    [
        ("struct", {}),
        ("struct", {"a": "small", "A": "small"}),
        ("list", "null"),
        ("list", "bytes"),
        ("struct", {"": "int"}),
    ],
)
def test_what_has_no_type_in_sql_is_kept_as_json(kind):
    assert settled(kind) == "json"


def test_ints_and_floats_are_floats_unless_an_int_would_be_rounded():
    assert settled("mix") == "float"
    assert settled("mix", has_wide=True) == "json"


def test_a_schema_names_the_columns_before_any_document_is_seen():
    fields = {"n": int | None, "tags": list[str], "by": dict[str, float], "any": int | str}
    schema = {
        "type": "object",
        "fields": {name: {"type": from_hint(hint), "optional": False} for name, hint in fields.items()},
    }
    kinds = declared(schema)
    assert kinds == {"n": "int", "tags": ("list", "string"), "by": ("map", "float"), "any": None}
    assert [duckdb_type(kind) for kind in kinds.values() if kind] == ["BIGINT", "VARCHAR[]", "MAP(VARCHAR, DOUBLE)"]


def test_names_that_differ_in_case_only_get_a_number():
    assert sql_names(["a", "A", "b"], taken=["_id"]) == {"a": "a", "A": "A_1", "b": "b"}


def test_looking_at_documents_finds_what_each_alone_would_say():
    looker = Looker()
    looker.look([{"a": 1, "b": "x"}, {"a": 2, "b": "y"}, {"a": 2.5}, {"a": None, "c": [1]}, {"c": [2, "z"]}])
    assert looker.kinds == {"a": "mix", "b": "string", "c": ("list", "json")}


@pytest.mark.parametrize("number", [1, 127, 128, 10_001, 20_000, 3_000_000])
def test_ids_encoded_together_are_those_encoded_one_by_one(number):
    ids = [os.urandom(16) for _ in range(200)]
    assert encode_ids(number, ids) == [encode_id(number, id).encode() for id in ids]


def test_marked_floats_are_spelt_out_where_a_float_stands_and_nowhere_else():
    import orjson

    value = orjson.loads(dumps({"f": [float("nan"), float("-inf"), 1.5], "j": float("inf")}))
    kind = ("struct", {"f": ("list", "float"), "j": "json"})
    assert plain_floats(value, kind) == {"f": ["NaN", "-Infinity", 1.5], "j": value["j"]}
