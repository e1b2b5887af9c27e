"""Unique indexes, and upsert by them."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from cellstore.errors import CallerError, CellstoreError, ConflictError, Forbidden, NotFound, ValidationError
from cellstore.transaction.access import DatabaseReader, DatabaseWriter
from cellstore.transaction.database import Engine
from cellstore.transaction.requests import Committed
from cellstore.transaction.transaction import Transaction
from cellstore.values.ids import Id


@pytest.fixture
def users(engine: Engine, define: Any) -> Engine:
    engine.define(define("users", by_email="email!", by_place="at.city,at.street!", by_name="name"))
    return engine


def upsert(engine: Engine, *args: Any) -> Id:
    return engine.run(lambda tx: DatabaseWriter(tx).upsert("users", *args))[0]


def get(engine: Engine, id: Id) -> dict[str, Any]:
    with engine.begin() as tx:
        found = tx.get(id)
    assert found is not None
    return {name: value for name, value in found.items() if not name.startswith("_")}


def test_upsert_inserts_then_changes(users: Engine) -> None:
    first = upsert(users, {"email": "ann@x"}, {"name": "Ann", "age": 3})
    again = upsert(users, {"email": "ann@x"}, {"name": "Anna"})
    other = upsert(users, {"email": "bo@x"})
    assert first == again != other
    assert type(again) is Id["users"]
    assert get(users, first) == {"email": "ann@x", "name": "Anna", "age": 3}
    assert get(users, other) == {"email": "bo@x"}


def test_an_upsert_that_changes_nothing_writes_nothing(users: Engine) -> None:
    upsert(users, {"email": "ann@x"}, {"name": "Ann"})
    before = users.published_ts
    upsert(users, {"email": "ann@x"}, {"name": "Ann"})
    assert users.published_ts == before


def test_upsert_by_paths_inside_objects_and_in_any_order(users: Engine) -> None:
    place = {"at.street": "Elm", "at.city": "Bonn"}
    first = upsert(users, place, {"at": {"floor": 2}, "name": "Ann"})
    assert get(users, first) == {"at": {"floor": 2, "street": "Elm", "city": "Bonn"}, "name": "Ann"}
    assert upsert(users, place, {"name": "Anna"}) == first
    assert get(users, first)["at"] == {"floor": 2, "street": "Elm", "city": "Bonn"}
    assert upsert(users, place, {"at": {"floor": 3}}) == first
    assert get(users, first)["at"] == {"floor": 3, "street": "Elm", "city": "Bonn"}, "replaced whole, and in its place"


def test_upsert_sees_the_transactions_own_writes(users: Engine) -> None:
    def twice(tx: Transaction) -> tuple[Id, Id, Id]:
        db = DatabaseWriter(tx)
        first = db.upsert("users", {"email": "a"}, {"n": 1})
        second = db.upsert("users", {"email": "a"}, {"n": 2})
        db.delete(first)
        return first, second, db.upsert("users", {"email": "a"}, {"n": 3})

    first, second, third = users.run(twice)[0]
    assert first == second != third
    assert get(users, third) == {"email": "a", "n": 3}


def test_one_and_one_point_zero_are_one_key(users: Engine) -> None:
    assert upsert(users, {"email": 1}) == upsert(users, {"email": 1.0}, {"name": "same"})


@pytest.mark.parametrize(
    ("args", "kind", "message"),
    [
        (
            ("users", {"name": "Ann"}),
            NotFound,
            r"unique index on name.*by_email \(email\), by_place \(at.city, at.street\)",
        ),
        (("users", {"at.city": "Bonn"}), NotFound, "unique index on at.city"),
        (("users", {}), NotFound, "unique index on some fields"),
        (("nobody", {"email": "a"}), NotFound, "no table 'nobody'.*unique index on email"),
        (("users", {"email": None}), ValidationError, "email.*None is equal to nothing"),
        (("users", {"email": "a"}, {"email": "b"}), CallerError, "'email' twice"),
        (("users", "email", "a"), CallerError, "call it as upsert"),
        (("_tables", {"name": "a"}), Forbidden, "cannot be written"),
    ],
)
def test_an_upsert_that_cannot_be_is_refused_by_name(
    users: Engine, args: Any, kind: type[CellstoreError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        users.run(lambda tx: DatabaseWriter(tx).upsert(*args))


def test_two_upserts_of_a_new_key_make_one_document(users: Engine) -> None:
    requests = []
    for n in range(2):
        with users.begin() as tx:
            DatabaseWriter(tx).upsert("users", {"email": "ann@x"}, {"n": n})
            requests.append(tx.freeze())
    first, second = users.commit(requests)
    assert isinstance(first, Committed)
    assert isinstance(second, ConflictError)


def test_threads_that_claim_the_same_names_leave_one_each(users: Engine) -> None:
    def claim(n: int) -> None:
        for k in range(20):
            users.run(lambda tx, k=k: DatabaseWriter(tx).upsert("users", {"email": k}, {f"by{n}": True}))

    threads = [threading.Thread(target=claim, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with users.begin() as tx:
        found = DatabaseReader(tx).query("users").with_index("by_email").collect()
    assert [user["email"] for user in found] == list(range(20))
    assert all(user.keys() >= {f"by{n}" for n in range(4)} for user in found), "and no claim was lost"


def test_a_second_document_with_equal_fields_is_refused_naming_the_first(users: Engine) -> None:
    first = upsert(users, {"email": "ann@x"})
    for write in (
        lambda tx: tx.insert("users", {"email": "ann@x"}),
        lambda tx: tx.patch(tx.insert("users", {"email": "bo@x"}), {"email": "ann@x"}),
        lambda tx: tx.replace(tx.insert("users", {}), {"email": "ann@x"}),
    ):
        with pytest.raises(ValidationError, match=r"users\.by_email is unique") as refused:
            users.run(write)
        assert first in str(refused.value)
        assert refused.value.code == "NotUnique"


def test_absent_and_none_are_equal_to_nothing(users: Engine) -> None:
    rows = ({}, {}, {"email": None}, {"email": None}, {"at": {"city": "Bonn"}}, {"at": {"city": "Bonn"}})
    users.run(lambda tx: [tx.insert("users", row) for row in rows])
    with users.begin() as tx:
        assert tx.count("users", "by_email") == tx.count("users") == 6


def test_a_key_is_free_again_once_its_document_is_gone_or_changed(users: Engine) -> None:
    def swap(tx: Transaction) -> None:
        tx.delete(first)
        tx.patch(second, {"email": "free"})
        tx.insert("users", {"email": "a"})
        tx.insert("users", {"email": "b"})

    first, second = upsert(users, {"email": "a"}), upsert(users, {"email": "b"})
    users.run(swap)
    with users.begin() as tx:
        assert tx.count("users") == 3
