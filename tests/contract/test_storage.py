"""What every storage promises (`storage/contract.py`), promise by promise."""

from dataclasses import replace

import pytest

from cellstore.errors import InvariantError, OutOfRetention, StorageError
from cellstore.storage.contract import RequestRecord, by_id_index
from cellstore.testing.revisions import (
    BY_A,
    BY_B,
    INDEXES,
    TABLE,
    Scribe,
    assert_same_as_scribe,
    doc_id,
    key_of,
    keys_of,
    seen,
)
from cellstore.values.index_key import END, encode_prefix
from cellstore.values.json import loads


@pytest.fixture
def scribe():
    return Scribe()


def sound(storage):
    assert list(storage.check(keys_of)) == []


def test_an_empty_store_holds_nothing(storage, reader):
    assert storage.last_ts == reader.ts == 0
    assert reader.get(TABLE, doc_id(1)) is None
    assert list(reader.scan(BY_A, TABLE, b"", END)) == []
    assert reader.count(BY_A, b"", END) == 0
    assert reader.log(0, 1 << 62, 10) == []
    sound(storage)


def test_what_was_written_is_read(storage, reader, scribe):
    storage.append([scribe.record({1: {"a": 5}, 2: {"a": 3, "b": "x"}})])
    reader.refresh()
    row = reader.get(TABLE, doc_id(1))
    assert row.key == row.id == doc_id(1)
    assert row.ts == storage.last_ts == scribe.ts
    assert loads(row.body)["a"] == 5
    assert [row.id for row in reader.scan(BY_A, TABLE, b"", END)] == [doc_id(2), doc_id(1)]
    assert_same_as_scribe(reader, scribe, [scribe.ts])


def test_a_group_can_be_seen_before_append_returns(storage, reader, scribe):
    seen = []
    storage.append([scribe.record({1: {"a": 5}})], lambda: seen.append(reader.refresh()))
    assert seen == [scribe.ts]
    storage.append([], lambda: seen.append("nothing"))
    with pytest.raises(InvariantError):
        storage.append([scribe.record({1: {"a": 5}}, step=-10)], lambda: seen.append("refused"))
    assert seen == [storage.last_ts]


def test_a_view_does_not_move_until_it_is_refreshed(storage, reader, scribe):
    storage.append([scribe.record({1: {"a": 1}})])
    reader.refresh()
    storage.append([scribe.record({1: {"a": 2}, 2: {"a": 0}})])
    assert_same_as_scribe(reader, scribe, [10])
    assert loads(reader.get(TABLE, doc_id(1)).body)["a"] == 1
    assert reader.count(BY_A, b"", END) == 1
    assert reader.refresh() == 20
    assert loads(reader.get(TABLE, doc_id(1)).body)["a"] == 2
    assert reader.count(BY_A, b"", END) == 2


def test_a_scan_under_way_does_not_see_later_commits(storage, reader, scribe):
    storage.append([scribe.record({n: {"a": n} for n in range(1000)})])
    reader.refresh()
    scan = reader.scan(BY_A, TABLE, b"", END)
    first = [next(scan) for _ in range(10)]
    storage.append([scribe.record({n: None if n % 2 else {"a": -n} for n in range(1000)})])
    assert seen([*first, *scan]) == scribe.expected(BY_A, 10, b"", END)


def test_every_moment_stays_readable(storage, reader, scribe):
    storage.append([scribe.record({1: {"a": 1}, 2: {"a": 2, "b": 7}})])
    storage.append([scribe.record({1: {"a": 9}})])
    storage.append([scribe.record({2: None, 3: {"b": None}})])
    storage.append([scribe.record({2: {"a": 2, "b": 7}, 1: {"a": 1}})])
    storage.append([scribe.record({1: None, 2: None, 3: None})])
    reader.refresh()
    assert_same_as_scribe(reader, scribe, range(5, scribe.ts + 15, 5))
    sound(storage)


def test_a_group_that_writes_one_document_often_keeps_each_step(storage, reader, scribe):
    storage.append([scribe.record({1: {"a": 0, "b": 1}, 7: {"a": 4}})])
    steps = [
        {1: {"a": 1}},
        {1: {"a": 2}, 2: {"a": 1}},
        {1: {"a": 1}},
        {1: None, 2: {"a": 1}},
        {1: {"a": 0, "b": 1}},
        {2: None},
    ]
    storage.append([scribe.record(step) for step in steps])
    storage.append([scribe.record({1: {"a": 5}, 7: None})])
    reader.refresh()
    assert_same_as_scribe(reader, scribe, range(0, scribe.ts + 10, 5))
    sound(storage)


def test_a_document_born_and_gone_within_a_group_is_history(storage, reader, scribe):
    storage.append([scribe.record({1: {"a": 1}}), scribe.record({1: None}), scribe.record({2: {"a": 1}})])
    reader.refresh()
    assert reader.get(TABLE, doc_id(1)) is None
    assert loads(reader.get(TABLE, doc_id(1), 10).body)["a"] == 1
    assert_same_as_scribe(reader, scribe, [0, 10, 20, 30])
    sound(storage)


def test_an_update_that_keeps_a_key_keeps_the_entry_since_it_began(storage, reader, scribe):
    storage.append([scribe.record({1: {"a": 1, "c": 1}})])
    storage.append([scribe.record({1: {"a": 1, "c": 2}})])
    reader.refresh()
    assert seen(list(reader.scan(BY_A, TABLE, b"", END, ts=10))) == scribe.expected(BY_A, 10, b"", END)
    [row] = reader.scan(BY_A, TABLE, b"", END)
    assert row.ts == 20
    assert loads(row.body)["c"] == 2


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("ts", [10, 20, 30])
@pytest.mark.parametrize("index", [by_id_index(TABLE), *INDEXES])
def test_a_range_is_half_open_and_honours_its_limit(storage, reader, scribe, index, ts, descending):
    storage.append([scribe.record({n: {"a": n % 7, "b": n // 3} for n in range(40)})])
    storage.append([scribe.record({n: {"a": n % 5} for n in range(0, 40, 4)})])
    storage.append([scribe.record(dict.fromkeys(range(0, 40, 9)))])
    reader.refresh()
    keys = [key for key, _, _ in scribe.expected(index, ts, b"", END)]
    for lo, hi in [
        (keys[3], keys[20]),
        (keys[0], keys[0] + b"\0"),
        (b"", keys[5]),
        (keys[30], END),
        (keys[9], keys[3]),
    ]:
        for limit in (None, 0, 1, 5, 1000):
            found = reader.scan(index, TABLE, lo, hi, ts=ts, descending=descending, limit=limit)
            assert seen(list(found)) == scribe.expected(index, ts, lo, hi, descending=descending, limit=limit)
        assert reader.count(index, lo, hi, ts) == len(scribe.expected(index, ts, lo, hi))


def test_a_prefix_bounds_its_documents(storage, reader, scribe):
    storage.append([scribe.record({n: {"b": n % 3, "a": n} for n in range(12)})])
    reader.refresh()
    prefix = encode_prefix([1])
    rows = list(reader.scan(BY_B, TABLE, prefix, prefix + END))
    assert [loads(row.body)["a"] for row in rows] == [1, 4, 7, 10]


def test_tables_do_not_meet(storage, reader, scribe):
    storage.append([scribe.record({1: {"a": 1}})])
    reader.refresh()
    assert reader.get(TABLE + 1, doc_id(1)) is None
    assert list(reader.scan(by_id_index(TABLE + 1), TABLE + 1, b"", END)) == []
    assert reader.count(by_id_index(TABLE + 1), b"", END) == 0


def test_a_reader_knows_which_tables_hold_documents(storage, reader, scribe):
    assert reader.tables() == []
    for table in (7, 3, 499_999):
        other = Scribe()
        other.ts = scribe.ts
        record = other.record({1: {"a": 1}})
        storage.append([record._replace(writes=[replace(write, table=table, keys=[]) for write in record.writes])])
        scribe.ts = other.ts
    storage.append([scribe.record({1: {"a": 1}}), scribe.record({1: None})])
    assert reader.tables() == [], "the view is older"
    reader.refresh()
    assert reader.tables() == [3, 7, 499_999]


def test_the_log_tells_every_revision_in_order(storage, reader, scribe):
    storage.append([scribe.record({1: {"a": 1}, 2: {"a": 1}}), scribe.record({1: {"a": 2}})])
    storage.append([scribe.record({1: None}), scribe.record({1: {"a": 3}})])
    reader.refresh()
    entries = reader.log(0, reader.ts, 100)
    told = [(e.ts, e.id, loads(e.body)["a"] if e.body else None, e.prev_ts) for e in entries]
    one, two = doc_id(1), doc_id(2)
    assert told == [(10, one, 1, None), (10, two, 1, None), (20, one, 2, 10), (30, one, None, 20), (40, one, 3, None)]
    assert [e.ts for e in reader.log(10, 30, 100)] == [20, 30]
    assert [e.ts for e in reader.log(15, 25, 100)] == [20]
    assert reader.log(40, 1 << 62, 100) == []


def test_the_log_never_cuts_a_commit_in_two(storage, reader, scribe):
    storage.append([scribe.record({n: {} for n in range(5)}), scribe.record({n: {"a": 1} for n in range(5)})])
    reader.refresh()
    assert [e.ts for e in reader.log(0, reader.ts, 2)] == [10] * 5
    assert [e.ts for e in reader.log(10, reader.ts, 2)] == [20] * 5


def test_an_empty_commit_moves_time_and_nothing_else(storage, reader, scribe):
    storage.append([scribe.record({1: {"a": 1}}), scribe.record({})])
    assert reader.refresh() == storage.last_ts == 20
    assert len(reader.log(0, 20, 10)) == 1
    assert reader.log(10, 20, 10) == []


def test_a_request_is_answered_again_from_the_store(storage, reader, scribe):
    storage.append([scribe.record({1: {"a": 1}}, request=RequestRecord("s1", 7, b"null"))])
    assert reader.request("s1", 7) is None, "the view is older"
    reader.refresh()
    assert reader.request("s1", 7) == b"null"
    assert reader.request("s1", 8) is None
    assert reader.request("s2", 7) is None
    sound(storage)


def test_a_reader_learns_when_the_catalog_changed(storage, reader, scribe):
    storage.append([scribe.record({1: {}}, catalog=True)])
    storage.append([scribe.record({1: {"a": 1}})])
    reader.refresh()
    assert (reader.ts, reader.catalog_ts) == (20, 10)


@pytest.mark.parametrize("step", [0, -5])
def test_time_must_rise(storage, scribe, step):
    storage.append([scribe.record({1: {}})])
    with pytest.raises(InvariantError, match="does not rise"):
        storage.append([scribe.record({2: {}}, step=step)])


def test_writes_that_do_not_fit_are_refused_whole(storage, reader, scribe):
    storage.append([scribe.record({1: {"a": 1}})])
    other = Scribe()
    other.ts = scribe.ts
    good, again = other.record({5: {"a": 1}}), other.record({1: {"a": 2}})
    with pytest.raises(InvariantError):
        storage.append([good, again])  # inserts what is there
    other.now.pop(doc_id(1))
    other.now[doc_id(9)] = {"_creationTime": 1.0}
    with pytest.raises(InvariantError):
        storage.append([other.record({9: {"a": 1}})])  # updates what is not there
    reader.refresh()
    assert reader.ts == 10
    assert reader.get(TABLE, doc_id(5)) is None
    sound(storage)
    storage.append([scribe.record({5: {"a": 5}})])
    sound(storage)


def test_trimming_forgets_what_no_one_may_read_and_nothing_else(storage, reader, scribe):
    for n in range(1, 30):
        changes = {k: {"a": n} for k in range(n % 4, 12, 4)} | {20 + n % 3: None if n % 2 else {"a": n}}
        storage.append([scribe.record(changes)])
    storage.append([scribe.record({0: {"a": 5}}, request=RequestRecord("s", 1, b"1"))])
    reader.release()  # a storage may keep history as long as a view may need it
    steps = 0
    while storage.trim(155, 7):
        sound(storage)
        steps += 1
    assert steps > 5
    reader.refresh()
    assert_same_as_scribe(reader, scribe, range(155, scribe.ts + 5, 5))
    reader.check_retention(155)
    with pytest.raises(OutOfRetention) as told:
        reader.check_retention(154)
    assert told.value.min_snapshot_ts == 155
    assert reader.request("s", 1) == b"1"
    dead = [e for e in reader.log(0, 150, 1000) if e.ts < 150 and e.id not in scribe.at(150)]
    assert dead == [], "tombstones and revisions nobody can read are gone"


def test_an_idle_store_stays_readable_however_old_its_newest_commit(storage, reader, scribe):
    storage.append([scribe.record({1: {"a": 1}}), scribe.record({1: {"a": 2}})])
    reader.release()
    while storage.trim(1 << 61, 100):
        pass
    reader.refresh()
    reader.check_retention(reader.ts)
    assert_same_as_scribe(reader, scribe, [scribe.ts])


def test_trimming_everything_leaves_the_living(storage, reader, scribe):
    for n in range(20):
        storage.append([scribe.record({1: {"a": n}, 2: None if n % 2 else {"b": n}})])
    reader.release()
    while storage.trim(scribe.ts, 1000):
        pass
    reader.refresh()
    assert len(reader.log(0, reader.ts, 1000)) == 1
    assert_same_as_scribe(reader, scribe, [scribe.ts])
    storage.append([scribe.record({1: None, 2: {"b": 1}})])
    reader.refresh()
    assert_same_as_scribe(reader, scribe, [scribe.ts - 10, scribe.ts])
    sound(storage)


def test_the_outcome_of_a_request_is_kept_as_long_as_history(storage, reader, scribe):
    for n in range(1, 6):
        storage.append([scribe.record({1: {"a": n}}, request=RequestRecord("s", n, b"%d" % n))])
    reader.release()
    while storage.trim(35, 3):
        pass
    reader.refresh()
    assert [reader.request("s", n) for n in (1, 2, 4, 5)] == [None, None, b"4", b"5"]
    sound(storage)


def test_what_a_client_may_ask_again_outlives_history(storage, reader, scribe):
    for n in range(1, 11):
        storage.append([scribe.record({1: {"a": n}}, request=RequestRecord("busy", n, b"%d" % n))])
    storage.append([scribe.record({1: {"a": 0}}, request=RequestRecord("away", 1, b"away"))])
    storage.append([scribe.record({1: {"a": 1}}), scribe.record({1: {"a": 2}})])
    reader.release()

    def trim(**requests):
        while storage.trim(scribe.ts, 3, **requests):
            sound(storage)
        reader.refresh()
        kept = [n for n in range(1, 11) if reader.request("busy", n)]
        away = reader.request("away", 1)
        reader.release()
        return kept, away

    assert trim(requests_before_ts=0, requests_kept=3) == ([8, 9, 10], b"away")
    assert trim(requests_before_ts=85, requests_kept=3) == ([9, 10], b"away")
    assert trim(requests_before_ts=scribe.ts, requests_kept=3) == ([], None)
    reader.refresh()
    assert_same_as_scribe(reader, scribe, [scribe.ts])


def test_a_view_outlives_the_trimming_of_what_it_shows(storage, reader, scribe):
    storage.append([scribe.record({n: {"a": n} for n in range(600)})])
    reader.refresh()
    storage.append([scribe.record(dict.fromkeys(range(600)))])
    scan = reader.scan(BY_A, TABLE, b"", END)
    next(scan)
    while storage.trim(scribe.ts, 10_000):
        pass
    assert len(list(scan)) == 599
    assert_same_as_scribe(reader, scribe, [10])


def test_backfill_adds_what_is_missing_and_keeps_what_is_there(storage, reader, scribe):
    late = 1_048_600
    storage.append([scribe.record({n: {"a": n} for n in range(5)})])
    reader.refresh()
    keys = {id: key_of(BY_A, id, fields) for id, fields in scribe.now.items()}
    storage.put_entries(late, [(keys[doc_id(n)], 10) for n in (0, 1, 2)])
    storage.put_entries(late, [(keys[doc_id(n)], 10) for n in (2, 3, 4)])
    reader.refresh()
    assert [row.id for row in reader.scan(late, TABLE, b"", END)] == [doc_id(n) for n in range(5)]
    assert reader.count(late, b"", END) == 5
    assert list(reader.scan(late, TABLE, b"", END, ts=5)) == []


def test_an_index_leaves_in_slices_and_takes_no_other_with_it(storage, reader, scribe):
    storage.append([scribe.record({n: {"a": n} for n in range(25)})])
    storage.append([scribe.record({n: {"a": -n} for n in range(1, 6)})])
    assert [storage.drop_index(BY_A, 10) for _ in range(4)] == [10, 10, 10, 0]
    reader.refresh()
    assert list(reader.scan(BY_A, TABLE, b"", END)) == []
    assert list(reader.scan(BY_A, TABLE, b"", END, ts=10)) == []
    assert reader.count(BY_B, b"", END) == 25
    assert storage.drop_index(BY_B) == 25 + 5
    assert storage.drop_index(BY_B) == 0


def test_a_closed_store_says_so(storage, scribe):
    storage.close()
    with pytest.raises(StorageError, match="closed"):
        storage.append([scribe.record({1: {}})])


def test_a_scan_ends_with_its_view(storage, reader, scribe):
    storage.append([scribe.record({n: {"a": n} for n in range(10)})])
    reader.refresh()
    scan = reader.scan(BY_A, TABLE, b"", END)
    next(scan)
    reader.release()
    reader.refresh()
    assert reader.count(BY_A, b"", END) == 10
