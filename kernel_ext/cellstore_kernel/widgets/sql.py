"""`%%cellstore sql --live`: a SQL statement run again when a table it reads changes.

A view whose block is the statement. What it depends on is one question to the server, live like any query: has one of these
tables been written since? So a commit elsewhere costs nothing, and several commits while it rests are one run.
"""

from __future__ import annotations

from cellstore.client.database import Database
from cellstore_kernel.widgets.live import current
from cellstore_kernel.widgets.view import View, show_at_cell_end


class SqlView(View):
    """A statement and its latest result."""

    def __init__(self, statement: str, database: Database) -> None:
        super().__init__(lambda: database.sql(statement).df(), database)
        self.statement = statement
        self.label = " ".join(statement.split())[:80]


def live_sql(statement: str) -> SqlView:
    """A live view of a SQL statement, shown at the end of the cell. Errors: those of its first run."""
    database = current()
    database.sql(statement)  # a typing error belongs into the cell
    made = SqlView(statement, database)
    show_at_cell_end(made)
    return made
