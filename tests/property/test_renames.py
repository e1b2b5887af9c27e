"""Whatever is renamed, and whatever is written in between: each moment shows its documents by the names of that moment."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cellstore.errors import ValidationError
from cellstore.schema.definition import IndexDefinition, TableDefinition
from cellstore.transaction.database import Engine
from cellstore.values.index_key import encode_value

NAMES = "abcd"
FIELDS = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 2), max_size=3)
STEP = st.one_of(
    st.tuples(st.just("insert"), FIELDS, st.just(0)),
    st.tuples(st.just("replace"), FIELDS, st.integers(0, 3)),
    st.tuples(st.just("delete"), st.none(), st.integers(0, 3)),
    st.tuples(st.just("rename"), st.permutations(NAMES), st.integers(0, 3)),
    st.tuples(st.just("allow"), st.none(), st.just(0)),
)
Documents = dict[str, dict[str, int]]


class Model:
    """The table as dictionaries, and the name its index goes by."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.documents, self.indexed = engine, {}, "a"
        self.moments: list[tuple[int, Documents, str]] = []
        self.define(list(NAMES))

    def define(self, declared: list[str], **renames: str) -> None:
        fields = {name: {"type": {"type": "int"}, "optional": True} for name in declared}
        made = TableDefinition("t", {"type": "object", "fields": fields}, {"by_it": IndexDefinition((self.indexed,))})
        self.engine.define(replace(made, renamed_fields=renames))
        self.declared = declared

    def take(self, what: str, given: Any, place: int) -> None:
        id = list(self.documents)[place % len(self.documents)] if self.documents else None
        if what == "insert":
            self.write(lambda tx: tx.insert("t", given), given)
        elif what == "allow":
            self.define(list(NAMES))
        elif what == "rename":
            self.rename(given[0], given[1])
        elif id is not None and what == "replace":
            self.write(lambda tx: tx.replace(id, given) or id, given)
        elif id is not None:
            self.engine.run(lambda tx: tx.delete(id))
            del self.documents[id]
        self.moments.append((self.engine.published_ts, dict(self.documents), self.indexed))

    def write(self, work: Any, fields: dict[str, int]) -> None:
        if fields.keys() <= set(self.declared):
            self.documents[self.engine.run(work)[0]] = fields

    def rename(self, old: str, new: str) -> None:
        if old not in self.declared:
            return
        taken = self.indexed == new or any(new in fields for fields in self.documents.values())
        before, self.indexed = self.indexed, new if self.indexed == old else self.indexed
        if taken:
            with pytest.raises(ValidationError):
                self.define([name for name in NAMES if name != old], **{old: new})
            self.indexed = before
            return
        self.define([name for name in NAMES if name != old], **{old: new})
        self.documents = {
            id: {new if name == old else name: value for name, value in fields.items()}
            for id, fields in self.documents.items()
        }

    def agrees(self) -> None:
        for ts, documents, indexed in self.moments:
            with self.engine.begin(ts) as tx:
                rows = [row for _, row in tx.scan("t", "by_it")]
                shown = {row["_id"]: {k: v for k, v in row.items() if k[0] != "_"} for row in rows}
                assert shown == documents
                assert [row.get(indexed, -1) for row in rows] == sorted(row.get(indexed, -1) for row in rows)
                ones = sum(fields.get(indexed) == 1 for fields in documents.values())
                assert tx.count("t", "by_it", encode_value(1), encode_value(2)) == ones


@pytest.mark.parametrize("storage", ["memory", "sqlite"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEP, max_size=12))
def test_each_moment_shows_the_names_of_that_moment(storage, steps, tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "s.db"
    with Engine.memory() if storage == "memory" else Engine.open(path) as engine:
        model = Model(engine)
        for step in steps:
            model.take(*step)
        model.agrees()
        assert [*engine.check(), *engine.storage.check(engine.catalog.keys_of)] == []
