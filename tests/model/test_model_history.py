"""The checker on histories made by hand: what it must accept, and each thing it must object to."""

from __future__ import annotations

from typing import Any

import pytest

from cellstore.storage.contract import LogEntry
from cellstore.testing.history import FOREVER, Fate, History, Recorded, Violation, shortest
from cellstore.testing.model import State, replay
from cellstore.values.ids import decode_id, encode_id
from cellstore.values.json import dumps

X, Y = (encode_id(10_001, bytes([number]) * 16) for number in (1, 2))


def doc(id: str, n: Any) -> dict[str, Any]:
    return {"_id": id, "_creationTime": 1.0, "n": n}


def insert(id: str, n: Any) -> list[Any]:
    return ["insert", "t", doc(id, n)]


def get(id: str, n: Any) -> list[Any]:
    return ["get", id, None if n is None else doc(id, n)]


def put(id: str, n: Any) -> list[Any]:
    return ["patch", id, {"n": n}, []]


def scan(*found: dict[str, Any], done: bool = True) -> list[Any]:
    return ["range", "t", ["n"], [["gte", "n", 0]], False, list(found), done]


def history(*transactions: tuple[Any, ...]) -> History:
    """(label, ts, trace[, began, ended]); without times each follows the one before."""
    made = History("by hand")
    for at, (label, ts, trace, *times) in enumerate(transactions):
        began, ended = times or (10 * at, 10 * at + 5)
        changed = any(op[0] in ("insert", "patch", "delete") for op in trace)
        made.add(Recorded(label, trace, began, ended, "committed", ts, changed))
    return made


SETUP = ("setup", 10, [insert(X, 1), insert(Y, 1)])


def objection(made: History, **how: Any) -> str:
    with pytest.raises(Violation) as caught:
        made.check(**how)
    return str(caught.value)


def test_a_serial_history_is_accepted() -> None:
    made = history(
        SETUP, ("a", 20, [get(X, 1), put(X, 2)]), ("b", 20, [get(X, 2)]), ("c", 30, [scan(doc(Y, 1), doc(X, 2))])
    )
    assert made.check() == {X: ("t", doc(X, 2)), Y: ("t", doc(Y, 1))}


def test_a_lost_update_is_told_with_the_commit_that_was_overlooked() -> None:
    made = history(
        SETUP,
        ("a", 20, [get(X, 1), put(X, 2)], 11, 30),
        ("other", 21, [put(Y, 9)], 11, 30),
        ("b", 22, [get(X, 1), put(X, 3)], 11, 30),
    )
    told = objection(made)
    assert "up to @10 b would have been right; then came" in told
    assert "a committed @20" in told
    assert "other" not in told


def test_write_skew_is_found() -> None:
    both = [get(X, 1), get(Y, 1)]
    told = objection(history(SETUP, ("a", 20, [*both, put(X, 0)], 11, 30), ("b", 21, [*both, put(Y, 0)], 11, 30)))
    assert "these reads fit no order" in told


@pytest.mark.parametrize(
    "read",
    [
        get(X, None),
        scan(doc(X, 1)),
        [*scan()[:5], [doc(Y, 1), doc(X, 1)], False],
        ["count", "t", ["n"], [], 3],
    ],
    ids=["miss", "range", "first", "count"],
)
def test_every_kind_of_read_is_compared(read: list[Any]) -> None:
    assert "alone it would have seen" in objection(history(SETUP, ("a", 20, [read])))


def test_a_prefix_of_a_range_may_be_read_but_not_any_subset() -> None:
    made = history(SETUP, ("a", 20, [scan(doc(X, 1), done=False)]))
    made.check()
    page = ["page", "t", ["n"], [], False, None, "end", [doc(Y, 1)]]
    assert "page t (n)" in objection(history(SETUP, ("a", 20, [page])))


def test_one_and_one_point_zero_are_two_values() -> None:
    assert "saw" in objection(history(SETUP, ("a", 20, [get(X, 1.0)])))


def test_a_read_from_nowhere_names_who_wrote_the_document() -> None:
    told = objection(history(SETUP, ("a", 20, [get(X, 77)])))
    assert "at no moment would it have been right" in told
    assert "setup" in told


def test_what_a_savepoint_took_back_is_gone_and_its_reads_count() -> None:
    nested = [["savepoint"], get(X, 1), put(X, 5), ["rollback"], get(X, 1)]
    history(SETUP, ("a", 20, nested)).check()
    assert "get" in objection(history(SETUP, ("w", 15, [put(X, 3)]), ("a", 20, nested[:4])))


def test_real_time_is_kept() -> None:
    stale = history(SETUP, ("w", 20, [put(X, 2)], 10, 20), ("r", 10, [get(X, 1)], 21, 30))
    assert "had ended before the other began" in objection(stale)
    overlapping = history(SETUP, ("w", 20, [put(X, 2)], 10, 20), ("r", 10, [get(X, 1)], 19, 30))
    overlapping.check()


def test_two_commits_have_two_timestamps() -> None:
    assert "two commits have the timestamp 20" in objection(
        history(SETUP, ("a", 20, [put(X, 2)]), ("b", 20, [put(Y, 2)]))
    )


def test_a_rule_holds_in_every_state() -> None:
    def total(state: State) -> str | None:
        amount = sum(found["n"] for _, found in state.values())
        return None if amount == 2 else f"the sum is {amount}"

    there_and_back = history(SETUP, ("a", 20, [put(X, 2)]), ("b", 30, [put(X, 1)]))
    assert "the sum is 3" in objection(there_and_back, rule=total)


def entry(ts: int, id: str, n: Any) -> LogEntry:
    number, internal = decode_id(id)
    body = None if n is None else dumps({"_creationTime": 1.0, "n": n})
    return LogEntry(ts, number, internal, body, None)


LOG = [entry(10, X, 1), entry(10, Y, 1)]


def fated(made: History, label: str, fate: Fate, trace: list[Any]) -> History:
    made.add(Recorded(label, trace, 20, FOREVER, fate, None, True))
    return made


def test_what_was_acknowledged_is_in_the_log() -> None:
    made = history(SETUP, ("a", 20, [put(X, 2)]))
    assert "an acknowledged commit is not in the log" in objection(made, log=LOG)
    history(SETUP, ("a", 20, [put(X, 2)])).check(log=[*LOG, entry(20, X, 2)])


def test_what_is_in_the_log_was_asked_for() -> None:
    assert "that nobody asked for" in objection(history(SETUP), log=[*LOG, entry(20, X, 2)])
    half = [*LOG[:1], entry(20, X, 2)]
    assert "is stored as" in objection(history(SETUP, ("a", 20, [put(X, 2)])), log=half)


def test_a_request_without_an_answer_may_have_happened_or_not() -> None:
    fated(history(SETUP), "gone", "unknown", [get(X, 1), put(X, 2)]).check(log=LOG)
    made = fated(history(SETUP), "gone", "unknown", [get(X, 1), put(X, 2)])
    assert made.check(log=[*LOG, entry(20, X, 2)])[X][1]["n"] == 2
    replayed = fated(history(SETUP), "again", "replayed", [put(X, 2)])
    assert "an answered request is not in the log" in objection(replayed, log=LOG)


def test_a_live_query_shows_moments_in_order_and_ends_up_to_date() -> None:
    def live(*shown: tuple[int, Any]) -> History:
        made = history(SETUP, ("a", 20, [put(X, 2)]), ("b", 30, [put(X, 3)]))
        for ts, n in shown:
            made.show("q", [get(X, n)], ts)
        return made

    live((10, 1), (30, 3)).check()
    assert "q went back" in objection(live((30, 3), (20, 2)))
    assert "showed as of @20 what was not so" in objection(live((20, 1), (30, 3)))
    assert "stands still at @20" in objection(live((10, 1), (20, 2)))


def test_a_failed_transaction_too_saw_one_moment() -> None:
    made = history(SETUP, ("w", 20, [put(X, 2), put(Y, 2)]))
    made.add(Recorded("torn", [get(X, 1), get(Y, 2)], 11, 30, "refused", 10))
    assert "saw no single moment" in objection(made)


def test_a_history_crosses_processes_as_lines() -> None:
    [one] = history(("a", 20, [get(X, float("inf")), put(Y, b"\0")])).transactions
    back = Recorded.from_json(one.to_json())
    assert (back.label, back.trace, back.ts, back.fate) == (one.label, one.trace, one.ts, one.fate)


def test_replaying_leaves_the_state_as_it_was() -> None:
    state: State = {X: ("t", doc(X, 1))}
    after, wrong = replay([put(X, 2), ["delete", X]], state)
    assert (after, wrong, state) == ({}, None, {X: ("t", doc(X, 1))})


def test_the_shortest_failing_list_is_found() -> None:
    assert shortest(range(100), lambda kept: {17, 61} <= set(kept)) == [17, 61]
