"""`%%cellstore sql --live`: a SQL statement run again as data change.

A thread of this view looks at the newest timestamp; when it has moved, the statement runs again on the main loop, as
any view does. Several commits between two looks are one run.

Cost:  one small request per `LOOK_S`; one run of the statement per look at most, and only while data change.
"""

from __future__ import annotations

import threading
from typing import Any

from cellstore.client.database import Database
from cellstore.errors import CellstoreError
from cellstore_kernel.widgets.live import current
from cellstore_kernel.widgets.view import View, show_at_cell_end

LOOK_S = 0.5


class SqlView(View):
    """A statement and its latest result."""

    def __init__(self, statement: str, database: Database) -> None:
        self.statement = statement
        self._ended = threading.Event()
        super().__init__(self._answer, database)
        self.label = " ".join(statement.split())[:80]
        threading.Thread(target=self._look, name="cellstore-live-sql", daemon=True).start()

    def close(self) -> None:
        """Look no more."""
        if hasattr(self, "_ended"):
            self._ended.set()
        super().close()

    def _answer(self) -> Any:
        return self._database.sql(self.statement).df()

    def _look(self) -> None:
        seen: int | None = None
        while not self._ended.wait(LOOK_S) and self._database.state != "closed":
            try:
                newest = self._database.snapshot().ts
            except CellstoreError:  # the server is away; the badge says so
                continue
            if seen is not None and newest != seen:
                self._changed()
            seen = newest


def live_sql(statement: str) -> SqlView:
    """A live view of a SQL statement, shown at the end of the cell. Errors: those of its first run."""
    database = current()
    database.sql(statement)  # a typing error belongs into the cell
    made = SqlView(statement, database)
    show_at_cell_end(made)
    return made
