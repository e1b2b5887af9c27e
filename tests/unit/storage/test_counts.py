"""Counts by buckets: exact after whatever happens to the entries, at every moment, and without walking them."""

import random

import pytest

from cellstore import faults
from cellstore.storage import counts, sql, sqlite
from cellstore.storage.contract import by_id_index
from cellstore.storage.sqlite import SqliteStorage
from cellstore.testing.revisions import BY_A, BY_B, INDEXES, TABLE, Scribe, doc_id, key_of, keys_of, work_of
from cellstore.values.index_key import END

ALL = (by_id_index(TABLE), *INDEXES)


@pytest.fixture
def storage(tmp_path):
    made = SqliteStorage.open(tmp_path / "store.db")
    yield made
    made.close()


@pytest.fixture
def scribe():
    return Scribe()


@pytest.fixture
def small(monkeypatch):
    """Buckets of four, so that a few dozen documents make several levels."""
    monkeypatch.setattr(counts, "LEAF_MAX", 4)
    monkeypatch.setattr(counts, "FANOUT", 4)
    monkeypatch.setattr(counts, "LEVELS_MAX", 12)
    monkeypatch.setattr(counts, "WAITING_MAX", 0)


def levels(storage, index):
    return [
        n for (n,) in storage._connection.execute("SELECT count(*) FROM counts WHERE idx = ? GROUP BY level", (index,))
    ]


def fields(dice):
    return {"a": dice.randrange(50), "b": dice.choice(("", "x", None))}


def group(dice, scribe, ids=120):
    """Some commits of inserts, moves, updates that move nothing, and deletes."""
    change = {n: None if dice.random() < 0.35 else fields(dice) for n in dice.sample(range(ids), dice.randrange(1, 30))}
    return [scribe.record({n: each}) for n, each in change.items()] + [scribe.record(change)]


def assert_counts(storage, scribe, dice, stamps):
    reader = storage.reader()
    reader.refresh()
    for ts in stamps:
        for index in ALL:
            keys = [key for key, _, _ in scribe.expected(index, ts, b"", END)] or [b"\5"]
            for lo, hi in [(b"", END), *(sorted((dice.choice(keys), dice.choice(keys) + b"\0")) for _ in range(4))]:
                wanted = sum(lo <= key < hi for key, _, _ in scribe.expected(index, ts, b"", END))
                assert reader.count(index, lo, hi, ts) == wanted, (ts, index, lo, hi)
    reader.close()


@pytest.mark.parametrize("waiting", [0, 5, 80])
@pytest.mark.parametrize("seed", range(4))
def test_counts_are_exact_at_every_moment(storage, scribe, small, monkeypatch, seed, waiting):
    monkeypatch.setattr(counts, "WAITING_MAX", waiting)
    monkeypatch.setattr(sqlite, "_SOON_ROWS", 40)
    dice = random.Random(seed)
    for _ in range(12):
        storage.append(group(dice, scribe))
        stamps = [scribe.ts, scribe.ts - 5, *(dice.randrange(scribe.ts) for _ in range(3))]
        assert_counts(storage, scribe, dice, stamps)
        assert list(storage.check(keys_of)) == []


def test_levels_come_and_go_with_the_documents(storage, scribe, small):
    dice = random.Random(1)
    for start in range(0, 400, 40):
        storage.append([scribe.record({n: fields(dice) for n in range(start, start + 40)})])
    tall = levels(storage, BY_A)
    assert len(tall) >= 3
    assert tall[-1] == 1, "one bucket holds them all"
    assert list(storage.check(keys_of)) == []
    for start in range(0, 400, 10):
        storage.append([scribe.record(dict.fromkeys(range(start, start + 10)))])
        assert list(storage.check(keys_of)) == []
    assert levels(storage, BY_A) == [], "an empty index leaves nothing behind"


def test_emptied_buckets_are_joined(storage, scribe, monkeypatch):
    monkeypatch.setattr(counts, "LEAF_MAX", 16)
    monkeypatch.setattr(counts, "FANOUT", 8)
    monkeypatch.setattr(counts, "WAITING_MAX", 50)
    storage.append([scribe.record({n: {"a": n} for n in range(2000)})])
    before = levels(storage, BY_A)
    dice = random.Random(3)
    gone = dice.sample(range(2000), 1900)
    for start in range(0, 1900, 100):
        storage.append([scribe.record(dict.fromkeys(gone[start : start + 100]))])
    assert levels(storage, BY_A)[0] < before[0] / 4
    assert list(storage.check(keys_of)) == []


@pytest.mark.parametrize("waiting", [0, 150, 400])
def test_a_group_that_is_rolled_back_counts_nothing(storage, scribe, small, monkeypatch, waiting):
    monkeypatch.setattr(counts, "WAITING_MAX", waiting)
    storage.append([scribe.record({n: {"a": n} for n in range(40)})])
    kept = dict(scribe.now), scribe.ts
    faults.install("storage.written", lambda: (_ for _ in ()).throw(OSError("no")))
    try:
        with pytest.raises(OSError, match="no"):
            storage.append([scribe.record({n: {"a": -n} for n in range(20, 80)})])
    finally:
        faults.clear()
    scribe.now, scribe.ts = kept
    scribe.past.pop()
    storage.append([scribe.record({n: None if n % 2 else {"a": n + 100} for n in range(30)})])
    assert list(storage.check(keys_of)) == []
    assert_counts(storage, scribe, random.Random(1), [scribe.ts])


def test_a_full_disk_leaves_counts_as_they_were(storage, scribe, small):
    storage.append([scribe.record({n: {"a": n} for n in range(40)})])
    kept = dict(scribe.now), scribe.ts
    connection = storage._connection
    connection.pragma("max_page_count", connection.pragma("page_count"))
    with pytest.raises(sqlite.StorageError, match="full"):
        storage.append([scribe.record({n: {"a": n, "pad": "x" * 9000} for n in range(40, 90)})])
    connection.pragma("max_page_count", 1 << 30)
    scribe.now, scribe.ts = kept
    scribe.past.pop()
    storage.append([scribe.record({n: {"a": n} for n in range(40, 60)})])
    assert list(storage.check(keys_of)) == []


def test_backfill_behind_moving_entries_counts_each_once(storage, scribe, small):
    storage.append([scribe.record({n: {"a": n} for n in range(50)})])
    entries = [
        (key, ts) for key, ts in storage._connection.execute("SELECT key, ts FROM entries WHERE idx = ?", (BY_A,))
    ]
    storage.drop_index(BY_A)
    assert levels(storage, BY_A) == []
    storage.append([scribe.record({n: {"a": n + 200} for n in range(0, 20, 2)})])  # of these no old entry was there
    storage.append([scribe.record(dict.fromkeys(range(1, 20, 2)))])
    still = {row[0] for row in scribe.expected(BY_A, scribe.ts, b"", END)}
    storage.put_entries(BY_A, [(key, ts) for key, ts in entries if key in still])
    storage.put_entries(BY_A, [(key, ts) for key, ts in entries if key in still])  # again: nothing is counted twice
    assert list(storage.check(keys_of)) == []
    assert_counts(storage, scribe, random.Random(1), [scribe.ts])


def test_an_index_that_leaves_in_slices_is_counted_at_every_step(storage, scribe, small):
    storage.append([scribe.record({n: {"a": n} for n in range(60)})])
    while storage.drop_index(BY_B, 7) == 7:
        assert [line for line in storage.check() if "count" in line] == []
    assert levels(storage, BY_B) == []
    assert list(storage.check(lambda *doc: [each for each in keys_of(*doc) if each[0] != BY_B])) == []


def test_a_store_written_before_there_were_counts_is_counted_at_its_opening(storage, scribe, tmp_path):
    storage.append([scribe.record({n: {"a": n % 9} for n in range(2000)})])
    storage._connection.execute(
        "DROP TABLE counts; DROP TABLE uncounted; DELETE FROM globals WHERE key = 'trimmed_ts'; PRAGMA user_version = 1"
    )
    storage.close()
    again = SqliteStorage.open(tmp_path / "store.db")
    assert list(again.check(keys_of)) == []
    assert_counts(again, scribe, random.Random(1), [scribe.ts])
    again.close()


def test_a_count_does_not_walk_what_it_counts(storage, scribe):
    def work(count):
        reader.refresh()
        return work_of(reader, count)

    reader = storage.reader()
    storage.append([scribe.record({n: {"a": n} for n in range(2000)})])
    lo, hi = (key_of(BY_A, doc_id(n), {"a": n, "_creationTime": 0.0}) for n in (300, 1700))
    small = [work(lambda i=i: reader.count(i, b"", END)) for i in ALL] + [work(lambda: reader.count(BY_A, lo, hi))]
    for start in range(2000, 62_000, 10_000):
        storage.append([scribe.record({n: {"a": n % 2000 + n / 1e5} for n in range(start, start + 10_000)})])
    large = [work(lambda i=i: reader.count(i, b"", END)) for i in ALL] + [work(lambda: reader.count(BY_A, lo, hi))]
    assert all(b <= a * 2 + 200 for a, b in zip(small, large, strict=True)), (small, large)
    assert reader.count(BY_A, lo, hi) == sum(lo <= key < hi for key, _, _ in scribe.expected(BY_A, scribe.ts, b"", END))
    reader.close()


def test_a_moment_ago_costs_no_more_for_all_that_died_before(storage, scribe):
    """A queue: a million came and went at the same place; what was there a moment ago is still found at once."""
    for n in range(40):
        storage.append([scribe.record({k: {"a": n} for k in range(100)})])
    for _ in range(40):
        storage.append([scribe.record({k: {"a": 0} for k in range(50)}), scribe.record(dict.fromkeys(range(50)))])
    storage.append([scribe.record({n: {"a": 0, "b": n} for n in range(200, 260)})])
    storage.append([scribe.record({200: None, 201: {"a": 7}})])
    reader = storage.reader()
    reader.refresh()
    for sql_name, index in (("dead_entries", BY_A), ("dead_docs", 2 * TABLE)):
        steps = sum(1 for _ in reader._connection.execute(f"SELECT 1 FROM {sql_name}"))
        assert steps > 4000, "there is something to stumble over"
        work = []
        for ts in (scribe.ts, scribe.ts - 10):
            rows = []
            work.append(work_of(reader, lambda i=index, t=ts, r=rows: r.extend(reader.scan(i, TABLE, b"", END, ts=t))))
            assert len(rows) == reader.count(index, b"", END, ts) == len(scribe.at(ts))
        assert work[1] <= work[0] * 3 + 500, (sql_name, work)
        counting = work_of(reader, lambda i=index: reader.count(i, b"", END, scribe.ts - 10))
        assert counting < work[1], "nor does a count"
    reader.close()


def test_of_much_that_has_died_since_only_what_is_wanted_is_looked_up(storage, scribe):
    storage.append([scribe.record({n: {"a": n} for n in range(500)})])
    storage.append([scribe.record({n: {"a": -n} for n in range(500)})])
    reader = storage.reader()
    reader.refresh()
    few, many = (
        work_of(reader, lambda n=limit: list(reader.scan(BY_A, TABLE, b"", END, ts=10, limit=n))) for limit in (5, 500)
    )
    assert few < many / 2
    reader.close()


@pytest.mark.parametrize("name", ["SCAN_AT_SOON", "SCAN_IDS_AT_SOON"])
def test_what_has_died_since_is_found_by_time(storage, name):
    for statement in sql.both_ways(getattr(sql, name)):
        steps = [row[3] for row in storage._connection.execute("EXPLAIN QUERY PLAN " + statement, (1,) * 6)]
        assert "MERGE (UNION ALL)" in steps
        left, right = steps[: steps.index("RIGHT")], steps[steps.index("RIGHT") :]
        assert not any("TEMP B-TREE" in step for step in left), "the living come in order"
        assert any("dead_entries_by_time (to_ts>?" in step or "INTEGER PRIMARY KEY (rowid>?" in step for step in right)
