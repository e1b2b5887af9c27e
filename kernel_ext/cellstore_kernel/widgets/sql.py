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
        self._seen = 0  # the moment of the newest answer, in ns
        super().__init__(self._answer, database)
        self.label = " ".join(statement.split())[:80]
        database.on_closed.append(lambda _: self._ended.set())
        threading.Thread(target=self._look, name="cellstore-live-sql", daemon=True).start()

    def close(self) -> None:
        """Look no more."""
        if hasattr(self, "_ended"):
            self._ended.set()
        super().close()

    def _answer(self) -> Any:
        result = self._database.sql(self.statement)
        self._seen = result.ts
        return result.df()

    def _look(self) -> None:
        while not self._ended.wait(LOOK_S):
            try:
                newest = self._database.snapshot().ts
            except CellstoreError:  # the server is away; the badge says so
                continue
            if newest > self._seen:
                self._seen = newest  # seen, if not answered: a statement that fails is not run twice for one commit
                self._changed()


def live_sql(statement: str) -> SqlView:
    """A live view of a SQL statement, shown at the end of the cell. Errors: those of its first run."""
    database = current()
    database.sql(statement)  # a typing error belongs into the cell
    made = SqlView(statement, database)
    show_at_cell_end(made)
    return made
