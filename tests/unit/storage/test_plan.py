"""Which rows a group writes: decided without a store."""

import pytest

from cellstore.errors import InvariantError
from cellstore.storage.contract import CommitRecord, DocWrite, RequestRecord
from cellstore.storage.plan import must_exist, plan

T, IDX = 10_001, 1_048_576
A, B = b"a" * 16, b"b" * 16


def write(id, op, old=None, new=None, body=b"{}"):
    return DocWrite(T, id, None if op == "delete" else body, op, [(IDX, old, new)])


def commit(ts, *writes, **more):
    return CommitRecord(ts, "m:f", list(writes), **more)


def test_an_insert_looks_nothing_up_and_leaves_nothing_dead():
    group = [commit(5, write(A, "insert", None, b"k"))]
    assert must_exist(group) == []
    made = plan(group, 100, {})
    assert made.log == [(101, 5, T, A, None, b"{}")]
    assert made.docs_new == [(T, A, 101, 5)]
    assert made.entries_new == [(IDX, b"k", 5)]
    assert made.docs_dead == made.docs_moved == made.entries_die == made.entries_gone == []
    assert made.commits == [(5, 101, "m:f", None, None)]


def test_an_update_that_keeps_its_key_touches_no_entry():
    group = [commit(5, write(A, "update", b"k", b"k"))]
    assert must_exist(group) == [(T, A)]
    made = plan(group, 100, {(T, A): (7, 3)})
    assert made.log == [(101, 5, T, A, 3, b"{}")]
    assert made.docs_dead == [(T, A, 5, 3, 7)]
    assert made.docs_moved == [(101, 5, T, A)]
    assert made.entries_new == made.entries_die == made.entries_dead == made.entries_gone == []


def test_an_update_that_changes_its_key_moves_the_entry():
    made = plan([commit(5, write(A, "update", b"k", b"l"))], 0, {(T, A): (7, 3)})
    assert made.entries_die == [(5, IDX, b"k")]
    assert made.entries_gone == [(IDX, b"k")]
    assert made.entries_new == [(IDX, b"l", 5)]


def test_many_updates_of_one_document_cost_one_update_of_docs():
    group = [commit(ts, write(A, "update", b"k", b"k")) for ts in range(5, 21)]
    made = plan(group, 0, {(T, A): (-1, 3)})
    assert len(made.log) == 16
    assert made.docs_moved == [(16, 20, T, A)]
    assert [(to, since) for _, _, to, since, _ in made.docs_dead] == [
        (ts, ts - 1 if ts > 5 else 3) for ts in range(5, 21)
    ]
    assert [row[4] for row in made.log] == [3, *range(5, 20)]


def test_a_key_that_comes_and_goes_within_a_group_is_dead_with_its_exact_span():
    group = [
        commit(5, write(A, "update", b"k", b"l")),
        commit(6, write(A, "update", b"l", b"k"), write(B, "insert", None, b"m")),
        commit(7, write(A, "update", b"k", b"n")),
    ]
    made = plan(group, 0, {(T, A): (-1, 3)})
    assert made.entries_die == [(5, IDX, b"k")]
    assert made.entries_dead == [(IDX, b"l", 6, 5), (IDX, b"k", 7, 6)]
    assert made.entries_gone == [(IDX, b"k")]
    assert sorted(made.entries_new) == [(IDX, b"m", 6), (IDX, b"n", 7)]
    assert [row[0] for row in made.log] == [1, 2, 3, 4]


def test_born_and_gone_within_a_group_leaves_docs_alone():
    made = plan([commit(5, write(A, "insert", None, b"k")), commit(6, write(A, "delete", b"k"))], 0, {})
    assert made.docs_new == made.docs_moved == made.docs_gone == made.entries_new == made.entries_gone == []
    assert made.docs_dead == [(T, A, 6, 5, 1)]
    assert made.entries_dead == [(IDX, b"k", 6, 5)]


def test_deleted_and_born_again_within_a_group_moves_the_document():
    group = [commit(5, write(A, "delete", b"k")), commit(6, write(A, "insert", None, b"k"))]
    made = plan(group, 0, {(T, A): (-1, 3)})
    assert made.docs_moved == [(2, 6, T, A)]
    assert made.docs_dead == [(T, A, 5, 3, -1)]
    assert made.entries_gone == [(IDX, b"k")]
    assert made.entries_new == [(IDX, b"k", 6)]


def test_commits_carry_their_requests_and_the_catalog():
    group = [commit(5, request=RequestRecord("s", 1, b"r"), catalog=True), commit(6)]
    made = plan(group, 9, {})
    assert made.commits == [(5, 9, "m:f", "s", 1), (6, 9, "m:f", None, None)]
    assert made.requests == [("s", 1, 5, b"r")]
    assert made.catalog_ts == 5


@pytest.mark.parametrize(
    "group",
    [
        [commit(5, write(A, "update", b"k", b"k"))],
        [commit(5, write(A, "delete", b"k"))],
        [commit(5, write(A, "insert", None, b"k")), commit(6, write(A, "insert", None, b"k"))],
        [
            commit(5, write(A, "insert", None, b"k")),
            commit(6, write(A, "delete", b"k")),
            commit(7, write(A, "update", b"k", b"k")),
        ],
    ],
)
def test_a_write_that_does_not_fit_is_our_bug(group):
    with pytest.raises(InvariantError, match="document 6161"):
        plan(group, 0, {})
