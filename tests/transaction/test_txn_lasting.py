"""Another thread's commit can be seen before the disk has it: whoever reads meanwhile is told nothing that may be lost."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from slow_disk import disk_at_work

from cellstore.errors import ValidationError
from cellstore.knobs import Knobs
from cellstore.schema.definition import TableDefinition
from cellstore.transaction.database import Engine
from cellstore.transaction.requests import Committed


@pytest.fixture
def engine(tmp_path: Path, define: Any) -> Iterator[Engine]:
    with Engine.open(tmp_path / "store.db") as engine:
        engine.define(define("users", by_mail="mail!"))
        engine.run(lambda tx: tx.insert("users", {"mail": "old"}))
        yield engine


def insert(engine: Engine, mail: str) -> Callable[[], object]:
    return lambda: engine.run(lambda tx: tx.insert("users", {"mail": mail}))


def test_who_only_reads_sees_what_lasts(engine: Engine) -> None:
    with disk_at_work(engine, insert(engine, "new")), engine.begin() as tx:
        assert (tx.begin_ts, tx.count("users")) == (engine.published_ts, 1)
        assert [user["mail"] for _, user in tx.scan("users", "by_mail")] == ["old"]
    with engine.begin() as tx:
        assert tx.count("users") == 2


def test_a_table_that_may_be_lost_is_not_there_yet(engine: Engine, define: Any) -> None:
    with disk_at_work(engine, lambda: engine.define(define("posts", by_n="n"))), engine.begin() as tx:
        assert tx.catalog.table("posts") is None
    assert engine.catalog.table("posts") is not None


def answered_when_it_lasts(engine: Engine, ask: Callable[[], object]) -> object:
    """What `ask` comes to, which must not be before the disk is done."""
    answers: list[object] = []
    with disk_at_work(engine, insert(engine, "new")) as done:
        asking = threading.Thread(target=lambda: answers.append(ask()))
        asking.start()
        asking.join(0.2)
        assert answers == []
        done.set()
        asking.join()
    return answers[0]


def test_who_writes_sees_it_and_is_answered_after_it(engine: Engine) -> None:
    seen = answered_when_it_lasts(engine, lambda: engine.run(lambda tx: tx.count("users")))
    assert seen == (2, engine.published_ts)


def insert_one(engine: Engine) -> object:
    return engine.run(lambda tx: tx.insert("users", {"mail": "new"}))


def insert_many(engine: Engine) -> object:
    return engine.bulk_insert("users", [{"mail": "newer"}, {"mail": "new"}])


@pytest.mark.parametrize("ask", [insert_one, insert_many])
def test_an_error_about_it_is_told_after_it(engine: Engine, ask: Callable[[Engine], object]) -> None:
    def taken() -> object:
        with pytest.raises(ValidationError, match="is unique") as refused:
            ask(engine)
        return refused.value.code

    assert answered_when_it_lasts(engine, taken) == "NotUnique"


def test_a_schema_is_refused_for_a_document_that_lasts(engine: Engine, define: Any) -> None:
    mail = {"type": {"type": "literal", "value": "old"}, "optional": False}
    users = TableDefinition(
        "users", {"type": "object", "fields": {"mail": mail}}, define("users", by_mail="mail!").indexes
    )

    def refused() -> object:
        with pytest.raises(ValidationError, match="got str 'new'") as told:
            engine.define(users)
        return told.value.code

    assert answered_when_it_lasts(engine, refused) == "SchemaMismatch"


def test_a_reader_who_goes_on_to_write_is_judged_from_where_he_read(engine: Engine) -> None:
    with disk_at_work(engine, insert(engine, "new")), engine.begin() as tx:
        tx.insert("log", {"users": tx.count("users")})
        request = tx.freeze()
    assert not isinstance(engine.commit([request])[0], Committed)


def test_what_lasts_stays_readable_however_little_history_is_kept(tmp_path: Path) -> None:
    with Engine.open(tmp_path / "store.db", knobs=Knobs(retention_s=0.0)) as engine:
        id, _ = engine.run(lambda tx: tx.insert("users", {"mail": "old"}))
        with disk_at_work(engine, lambda: engine.run(lambda tx: tx.patch(id, {"mail": "new"}))):
            while engine.retention.slice() < 0.01:
                pass
            with engine.begin() as tx:
                assert tx.get(id)["mail"] == "old"  # type: ignore[index]


def test_a_transaction_that_outlives_its_engine_leaves_no_file_open(tmp_path: Path) -> None:
    engine = Engine.open(tmp_path / "store.db")
    tx = engine.begin()
    engine.close()
    tx.close()
    held = [str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    assert [path for path in held if path.startswith(str(tmp_path))] == []
