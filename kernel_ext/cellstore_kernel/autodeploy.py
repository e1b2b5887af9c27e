"""After every cell: what changed is packed and shipped, one unit per module.

Packing compares code and captured values, so a helper or a constant redefined in another cell ships its functions
again, and a cell that changed nothing sends nothing. A unit that is refused changes nothing: the versions deployed
before serve on, and the cell that caused it fails with the reason.

Invariant: the same refusal is shown once, not under every later cell, until something about the module changes.
"""

from __future__ import annotations

import sys
from typing import Any

from cellstore.client import connect
from cellstore.client.database import Database
from cellstore.errors import CellstoreError, Disconnected


class AutoDeploy:
    """The hook that ships what cells define."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._refused: dict[str, str] = {}  # module → the refusal shown last
        self._waiting = False  # the server was away, and that was said
        self.shipped: list[tuple[str, dict[str, Any]]] = []  # what the latest cell deployed: (module, report)

    def after_cell(self, result: Any = None) -> None:
        """IPython's post_run_cell."""
        self.shipped = []
        database = usable()
        if database is None:
            return
        for module in modules_of_cells():
            self._ship(database, module, result)

    def _ship(self, database: Database, module: str, result: Any) -> None:
        if database.state not in ("connecting", "connected"):  # it answered a moment ago, or it does now
            self._say_waiting(module)
            return
        try:
            report = database.ship(module)
        except Disconnected:
            self._say_waiting(module)
        except CellstoreError as error:
            self._refuse(module, error, result)
        else:
            self._waiting = False
            self._refused.pop(module, None)
            if report is not None:
                self.shipped.append((module, report))

    def _refuse(self, module: str, error: CellstoreError, result: Any) -> None:
        """Show it in the cell, and have the cell count as failed."""
        if self._refused.get(module) == error.message:
            return
        self._refused[module] = error.message
        failed = getattr(result, "error_in_exec", None)
        if isinstance(failed, CellstoreError) and failed.message == error.message:
            return  # a call in the cell has met it already
        self._shell.showtraceback((type(error), error, error.__traceback__))
        if result is not None and failed is None and result.error_before_exec is None:
            result.error_in_exec = error

    def _say_waiting(self, module: str) -> None:
        if not self._waiting:
            self._waiting = True
            said = f"cellstore: the server is away; {module} is deployed after a later cell, when it is back"
            print(said, file=sys.stderr)


def usable() -> Database | None:
    """The current database, if there is one."""
    try:
        return connect.current()
    except CellstoreError:
        return None


def modules_of_cells() -> list[str]:
    """The registered modules whose functions or tables were defined in cells."""
    functions = sys.modules.get("cellstore.functions")
    if functions is None:  # nothing was ever decorated
        return []
    registry = functions.registry
    return [
        module
        for module in registry.modules()
        if module == registry.notebook or any(handle.fn.__module__ == "__main__" for handle in registry.handles(module))
    ]
