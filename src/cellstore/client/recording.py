"""Which queries a block of code asks, SQL among them, and what it was told.

    with recording() as asked:
        chart()
    asked                        one `Recorded` per question, in order

A view runs its block inside of this and follows what was asked. Answers are kept as native JSON, because the block may
change the objects it was given. Only the present context records; other threads and tasks do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellstore.client.database import Database


TABLES_CHANGED = "_system/tables:changed"


@dataclass(slots=True)
class Recorded:
    """One question. `answer` is None while it is open and when it failed."""

    database: Database
    path: str
    args: dict[str, Any]
    answer: bytes | None = None  # native JSON


_asked: ContextVar[list[Recorded] | None] = ContextVar("cellstore_asked", default=None)


@contextmanager
def recording() -> Iterator[list[Recorded]]:
    """Collect the queries asked inside. Nested recordings each see their own."""
    asked: list[Recorded] = []
    token = _asked.set(asked)
    try:
        yield asked
    finally:
        _asked.reset(token)


def note_sql(database: Database, statement: str, ts: int) -> None:
    """A SQL statement is about to be asked at `ts`: written down as the question whether its tables changed since.

    Errors: ValidationError for what is no statement.
    """
    if _asked.get() is not None:
        tables = database._control("sql_tables", {}, statement.encode())[0]["tables"]
        call = note(database, TABLES_CHANGED, {"tables": tables, "since": str(ts)})
        assert call is not None
        call.answer = b"false"


def note(database: Database, path: str, args: dict[str, Any]) -> Recorded | None:
    """A query is about to be asked; set `answer` on what this returns. None when nobody records."""
    asked = _asked.get()
    if asked is None:
        return None
    call = Recorded(database, path, args)
    asked.append(call)
    return call
