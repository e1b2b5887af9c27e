"""Two storages side by side, and a dict that remembers every moment: they must never disagree."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cellstore.errors import OutOfRetention
from cellstore.storage import counts, sqlite
from cellstore.storage.contract import by_id_index
from cellstore.storage.memory import MemoryStorage
from cellstore.storage.sqlite import SqliteStorage
from cellstore.testing.revisions import BY_B, INDEXES, TABLE, Scribe, doc_id, key_of, keys_of, seen
from cellstore.values.index_key import END
from cellstore.values.json import loads

FIELDS = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {}, optional={"a": st.sampled_from((0, 1, 1.0, None)), "b": st.sampled_from(("", "x")), "c": st.integers(0, 3)}
    ),
)
CHANGES = st.dictionaries(st.integers(0, 5), FIELDS, max_size=4)
STEPS = st.one_of(
    st.tuples(st.just("append"), st.lists(CHANGES, min_size=1, max_size=5)),
    st.tuples(st.just("trim"), st.tuples(st.integers(0, 100), st.integers(1, 30))),
    st.tuples(st.just("reopen"), st.none()),
    st.tuples(st.just("rebuild"), st.tuples(st.integers(1, 9), st.integers(0, 6), CHANGES)),
)


class Mirror:
    def __init__(self, path):
        self.path = path
        self.scribe = Scribe()
        self.memory, self.sqlite = MemoryStorage(), SqliteStorage.open(path)
        self.floor, self.began, self.rebuilt_ts = 0, None, 0

    def step(self, what, how):
        if what == "append":
            records = [self.scribe.record(changes) for changes in how]
            self.began = self.began or (records[0].ts if records else None)
            self.memory.append(records)
            self.sqlite.append(records)
        elif what == "trim":
            share, budget = how
            before = self.scribe.ts * share // 100
            if self.began is not None and self.began <= before:  # of a store younger than it all is kept
                self.floor = max(self.floor, before)
            self.memory.trim(before, budget)
            self.sqlite.trim(before, budget)
        elif what == "rebuild":
            self.rebuild(*how)
        else:
            self.sqlite.close()
            self.sqlite = SqliteStorage.open(self.path)

    def rebuild(self, budget, first, changes):
        """An index goes and is built again, with a commit in between: of its past nothing is left."""
        for storage in (self.memory, self.sqlite):
            while storage.drop_index(BY_B, budget):
                pass
        self.backfill(first)
        self.step("append", [changes])
        self.backfill(None)
        self.rebuilt_ts = self.scribe.ts

    def backfill(self, count):
        reader = self.memory.reader()
        reader.refresh()
        rows = list(reader.scan(by_id_index(TABLE), TABLE, b"", END, limit=count))
        reader.close()
        entries = [(key_of(BY_B, row.id, loads(row.body)), row.ts) for row in rows]
        for storage in (self.memory, self.sqlite):
            storage.put_entries(BY_B, entries)

    def compare(self):
        assert self.memory.last_ts == self.sqlite.last_ts == self.scribe.ts
        readers = [self.memory.reader(), self.sqlite.reader()]
        for reader in readers:
            reader.refresh()
            for ts in {0, self.floor, self.floor + 5, self.scribe.ts // 2, self.scribe.ts}:
                self.compare_at(reader, ts)
            reader.close()
        assert list(self.memory.check(keys_of)) == list(self.sqlite.check(keys_of)) == []

    def compare_at(self, reader, ts):
        if ts < self.floor:
            with pytest.raises(OutOfRetention):
                reader.check_retention(ts)
            return
        state = self.scribe.at(ts)
        assert {n for n in range(6) if reader.get(TABLE, doc_id(n), ts)} == {n for n in range(6) if doc_id(n) in state}
        for index in (by_id_index(TABLE), *INDEXES):
            if index == BY_B and ts < self.rebuilt_ts:
                continue
            middle = key_of(index, doc_id(2), {"a": 1, "_creationTime": 0.0}) if index in INDEXES else doc_id(2)
            for lo, hi in ((b"", END), (middle, END), (b"", middle)):
                for descending, limit in ((False, None), (True, None), (False, 2), (True, 1)):
                    rows = reader.scan(index, TABLE, lo, hi, ts=ts, descending=descending, limit=limit)
                    assert seen(list(rows)) == self.scribe.expected(
                        index, ts, lo, hi, descending=descending, limit=limit
                    )
                assert reader.count(index, lo, hi, ts) == len(self.scribe.expected(index, ts, lo, hi))
        later = [(entry.ts, entry.id) for entry in reader.log(ts, self.scribe.ts, 1000)]
        assert {id for _, id in later} >= {id for id in self.scribe.now if self.scribe.now[id] != state.get(id)}


@pytest.fixture
def small_buckets(monkeypatch):
    """Counts on several levels although there are few documents, and moments that soon are long ago."""
    monkeypatch.setattr(counts, "LEAF_MAX", 2)
    monkeypatch.setattr(counts, "FANOUT", 4)
    monkeypatch.setattr(counts, "WAITING_MAX", 5)
    monkeypatch.setattr(sqlite, "_SOON_ROWS", 6)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STEPS, min_size=1, max_size=8))
def test_storages_agree_with_each_other_and_with_history(tmp_path_factory, small_buckets, steps):
    mirror = Mirror(tmp_path_factory.mktemp("mirror") / "store.db")
    try:
        for what, how in steps:
            mirror.step(what, how)
            mirror.compare()
    finally:
        mirror.sqlite.close()
