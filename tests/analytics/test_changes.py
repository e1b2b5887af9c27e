"""What is different between two moments, from the log."""

import pytest

from cellstore.analytics import changes
from cellstore.errors import OutOfRetention
from cellstore.schema.definition import TableDefinition
from cellstore.transaction.hidden import drop_table, leftovers, purge
from cellstore.transaction.importing import Import, Wanted
from cellstore.values import json as native


def differences(desk, ts0, ts1):
    return [native.loads(line) for line in desk.ask("diff", ts0=ts0, ts1=ts1).splitlines()]


@pytest.fixture
def moments(desk):
    """Before and after one of each: kept, changed, removed, inserted, passing through, changed back."""
    _, changed, removed, back = desk.write(lambda tx: [tx.insert("t", {"n": n}) for n in range(4)])
    before = desk.now
    desk.write(lambda tx: tx.patch(changed, {"n": 10, "raw": b"x"}))
    desk.write(lambda tx: tx.delete(removed))
    desk.write(lambda tx: tx.patch(back, {"n": 99}))
    passing = desk.write(lambda tx: tx.insert("t", {"n": 5}))
    desk.write(lambda tx: tx.patch(back, {"n": 3}))
    inserted = desk.write(lambda tx: tx.insert("a", {"n": float("inf")}))
    desk.write(lambda tx: tx.delete(passing))
    return before, desk.now, {"changed": changed, "removed": removed, "inserted": inserted}


def test_each_kind_of_difference_is_told_and_nothing_else(desk, moments):
    before, after, ids = moments
    found = differences(desk, before, after)
    assert [(each["table"], each["_id"], each["change"]) for each in found] == [
        ("a", ids["inserted"], "inserted"),
        ("t", ids["changed"], "changed"),
        ("t", ids["removed"], "removed"),
    ]


def test_documents_are_whole_on_both_sides(desk, moments):
    before, after, ids = moments
    inserted, changed, removed = differences(desk, before, after)
    assert inserted["before"] is None
    assert inserted["after"]["n"] == float("inf")
    assert changed["before"]["n"] == 1
    assert (changed["after"]["n"], changed["after"]["raw"]) == (10, b"x")
    assert changed["before"]["_id"] == changed["after"]["_id"] == ids["changed"]
    assert changed["before"]["_creationTime"] == changed["after"]["_creationTime"]
    assert (removed["before"]["n"], removed["after"]) == (2, None)


def test_the_order_of_the_two_moments_does_not_matter(desk, moments):
    before, after, _ = moments
    assert differences(desk, after, before) == differences(desk, before, after)
    assert differences(desk, after, after) == []


def test_a_long_log_is_read_in_batches(desk, moments, monkeypatch):
    before, after, _ = moments
    at_once = differences(desk, before, after)
    monkeypatch.setattr(changes, "BATCH", 1)
    assert differences(desk, before, after) == at_once


def test_a_moment_that_is_not_kept_is_refused(desk, moments):
    before, after, _ = moments
    while desk.engine.storage.trim(after, 1000):
        pass
    with pytest.raises(OutOfRetention):
        differences(desk, before, after)


def test_a_renamed_field_is_no_change(desk):
    _, changed = desk.write(lambda tx: [tx.insert("t", {"n": n}) for n in range(2)])
    before = desk.now
    fields = {"label": {"type": {"type": "any"}, "optional": True}}
    desk.engine.define(TableDefinition("t", {"type": "object", "fields": fields}, {}, None, {"n": "label"}))
    assert differences(desk, before, desk.now) == []
    desk.write(lambda tx: tx.patch(changed, {"label": 10}))
    (found,) = differences(desk, before, desk.now)
    assert (found["before"]["label"], found["after"]["label"]) == (1, 10), "by the name the field has now"


@pytest.mark.parametrize("purged", [False, True])
def test_a_dropped_or_replaced_table_takes_its_documents_along(desk, purged):
    old = desk.write(lambda tx: [tx.insert(table, {"n": n}) for table in ("t", "u") for n in range(2)])
    before = desk.now
    drop_table(desk.engine, "t")
    replacement = Import(desk.engine, "replace", [Wanted("u")])
    replacement.load("u", b'{"n": 9}')
    replacement.finish()
    for number in leftovers(desk.engine) if purged else ():
        purge(desk.engine, number)
    told = [(each["table"], each["change"], each["_id"]) for each in differences(desk, before, desk.now)]
    assert told[:4] == [("t", "removed", id) for id in old[:2]] + [("u", "removed", id) for id in old[2:]]
    assert [each[:2] for each in told[4:]] == [("u", "inserted")]
    (new,) = differences(desk, before, desk.now)[4:]
    assert (new["before"], new["after"]["n"]) == (None, 9)


@pytest.mark.parametrize("name", ["t", "others"])
def test_the_number_of_a_dropped_table_given_to_another_mixes_up_nothing(desk, name):
    kept, gone = desk.write(lambda tx: [tx.insert("t", {"n": n}) for n in range(2)])
    before, number = desk.now, desk.engine.catalog.table("t").number
    drop_table(desk.engine, "t")
    coming = Import(desk.engine, "fail", [Wanted(name, number)])
    coming.load(name, native.dumps({"_id": kept, "n": 7}))
    coming.finish()
    assert desk.engine.catalog.table(name).number == number
    told = {(each["table"], each["change"], each["_id"]) for each in differences(desk, before, desk.now)}
    if name == "t":  # it came back
        assert told == {("t", "changed", kept), ("t", "removed", gone)}
    else:
        assert told == {("others", "inserted", kept), ("t", "removed", kept), ("t", "removed", gone)}
