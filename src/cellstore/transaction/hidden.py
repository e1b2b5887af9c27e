"""Tables nobody sees: those that are being imported, were replaced, or were dropped.

    drop       one small commit takes the table's name away: from then on its documents are gone for every reader
    purge      its documents leave, a slice in each commit, behind live traffic
    leftovers  what is still to be purged, after a crash too

A hidden table's name begins with an underscore and its row says what it stands for. Ids of it read as absent and count as
ids of the table it stands for. The row stays, so that its number is not given to a new table; its indexes stay, so that
moments before can be read as long as history is kept. Only an import whose ids carry the number gets it again.

Invariant  nobody writes to a hidden table but whoever fills or empties it: a transaction that knew its name conflicts
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from cellstore.errors import CallerError, CellstoreError, InvariantError, NotFound, TransientError
from cellstore.schema.explain import near
from cellstore.schema.expr import with_table_renamed
from cellstore.storage.contract import DocWrite
from cellstore.transaction.catalog import BY_ID, Catalog, TableMeta
from cellstore.transaction.requests import CommitRequest, Committed

if TYPE_CHECKING:
    from cellstore.transaction.database import Engine
    from cellstore.transaction.transaction import Transaction

PURGE_DOCUMENTS = 500  # in one commit: others hardly wait for it
REPLACED = "_replaced_"  # and the number: what a table is called that had its name taken away


def drop_table(engine: Engine, name: str) -> int:
    """Take a table away, with its schema and indexes; when. Its documents are still to be purged.

    The name is free at once. Errors: NotFound; CallerError for one that other tables' schemas have ids of
    """

    def prepare(transaction: Transaction) -> CommitRequest:
        table = transaction.catalog.table(name)
        users = transaction.catalog.user_tables()
        if table is None or table.is_system:
            hint = near(name, [each.name for each in users])
            raise NotFound(f"there is no table {name!r}{hint}; nothing was dropped", kind="table", name=name)
        mentions = [each.name for each in users if each is not table and _refers(each, name)]
        if mentions:
            raise CallerError(
                f"the table {name!r} was not dropped: documents of {mentions[0]!r} have ids of it by their schema; drop "
                "that table first, or change its schema",
                code="TableConflict",
            )
        hide(transaction, table)
        return transaction.freeze("drop")

    return committed(engine, prepare)[1]


def purge(engine: Engine, number: int, steps_max: int | None = None) -> int:
    """Delete every document of a hidden table, or so many commits of them; how many."""
    deleted, steps = 0, 0
    while steps_max is None or steps < steps_max:
        steps += 1
        count = 0

        def prepare(transaction: Transaction) -> CommitRequest:
            nonlocal count
            table = transaction.catalog.by_number(number)
            if table is None or not table.stands_for:
                raise InvariantError(f"the table {number} is not hidden: its documents stay")
            request = transaction.freeze("purge")  # nobody else writes here, so it depends on nothing
            for id, document in transaction.scan(table.name, BY_ID, want=PURGE_DOCUMENTS):
                keys: list[tuple[int, bytes | None, bytes | None]] = [
                    (index, key, None) for index, key in table.keys(document, id).items()
                ]
                request.writes.append(DocWrite(number, id, None, "delete", keys))
            count = len(request.writes)
            return request

        committed(engine, prepare)
        deleted += count
        if count < PURGE_DOCUMENTS:
            break
    return deleted


def leftovers(engine: Engine) -> list[int]:
    """The numbers of hidden tables that hold documents."""
    with engine.begin() as transaction:
        hidden = [table for table in transaction.catalog.tables() if table.stands_for]
        return [table.number for table in hidden if filled(transaction, table.name)]


# ── for those who fill and empty them ──────────────────────────────────────────────────────────────────────────────


def hide(transaction: Transaction, table: TableMeta) -> None:
    """Take a table's name away. Its indexes stay, so that earlier moments can be read."""
    transaction.place_table(table.row, hidden_row(table))


def is_unneeded(catalog: Catalog, table: TableMeta) -> bool:
    """Whether nothing can mean a hidden table's number any more: it was dropped, and no schema speaks of its name."""
    if not table.name.startswith(REPLACED) or catalog.table(table.stands_for) is not None:
        return False
    return not any(_refers(each, table.stands_for) for each in catalog.user_tables())


def hidden_row(table: TableMeta) -> dict[str, Any]:
    """The row of a table once its name is taken away."""
    return table.row_with(name=f"{REPLACED}{table.number}", stands_for=table.name)


def follow(transaction: Transaction, old: str, new: str) -> None:
    """Those that a renamed table has replaced stand for it by its new name: ids of them are ids of it."""
    for table in list(transaction.catalog.tables()):
        if table.stands_for == old and table.name.startswith(REPLACED):
            transaction.place_table(table.row, table.row_with(stands_for=new))


def filled(transaction: Transaction, name: str) -> bool:
    """Whether a table holds documents."""
    return any(True for _ in transaction.scan(name, BY_ID, want=1))


def committed(engine: Engine, prepare: Callable[[Transaction], CommitRequest]) -> tuple[CommitRequest, int]:
    """Prepare and commit; again after a conflict, the last time alone. (What was committed, when)"""
    answer: Any = None
    for left in range(engine.knobs.commit_retries_max, -1, -1):
        with nullcontext() if left else engine.committer.exclusive():
            with engine.begin() as transaction:
                request = prepare(transaction)
            (answer,) = engine.commit([request])
        if isinstance(answer, Committed):
            return request, answer.ts
        if not isinstance(answer, TransientError):
            break
    raise answer if isinstance(answer, CellstoreError) else InvariantError(f"a commit was answered with {answer!r}")


def _refers(table: TableMeta, name: str) -> bool:
    """Whether a table's schema has ids of the table `name`."""
    return table.schema is not None and with_table_renamed(table.schema, name, "") is not table.schema
