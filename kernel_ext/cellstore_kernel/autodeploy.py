"""After every cell: what changed is packed and shipped, one unit per module.

Packing compares code and captured values, so a helper or a constant redefined in another cell ships its functions
again, and a cell that changed nothing sends nothing. A unit that is refused changes nothing: the versions deployed
before serve on, and the cell that caused it fails with the reason.

Another notebook, or a file, may deploy the same module: the one that takes it is told from whom, and the one that had it is
told after a later cell, by a look at the store every few seconds.

Invariant: the same refusal is shown once, not under every later cell, until something about the module changes.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from cellstore.client import connect
from cellstore.client.database import Database
from cellstore.errors import CellstoreError, Disconnected

LOOK_EVERY_S = 2.0


class AutoDeploy:
    """The hook that ships what cells define."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._refused: dict[str, str] = {}  # module → the refusal shown last
        self._waiting = False  # the server was away, and that was said
        self._mine: dict[str, str] = {}  # module → where we deployed it from
        self._looked_at = 0.0
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
                self._mine[module] = unit_origin(module)
                took = report.get("took_over")
                if took:
                    gone = f", and {', '.join(report['removed'])} gone" if report["removed"] else ""
                    both = "to have both, rename one of the notebooks, or say module= where its functions are defined"
                    say(f"{module} was deployed from {took['from']} until now; these are other versions{gone}; {both}")
            else:
                self._look(database, module)

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

    def _look(self, database: Database, module: str) -> None:
        """Say so, once, when what we deployed has been taken over by somebody else."""
        now = time.monotonic()
        if module not in self._mine or now - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = now
        origins = {each["path"]: each.get("origin") for each in database.functions() if each["module"] == module}
        other = next((origin for origin in origins.values() if origin and origin != self._mine[module]), None)
        if other is not None:
            say(
                f"{module} is now deployed from {other}: calls run its versions. Change a function here to take it back"
            )
            del self._mine[module]

    def _say_waiting(self, module: str) -> None:
        if not self._waiting:
            self._waiting = True
            said = f"cellstore: the server is away; {module} is deployed after a later cell, when it is back"
            print(said, file=sys.stderr)


def say(text: str) -> None:
    """A line under the cell, beside its output."""
    print(f"cellstore: {text}", file=sys.stderr)


def unit_origin(module: str) -> str:
    """Where this process deploys a module from."""
    from cellstore.deploy.pack import origin_of
    from cellstore.functions import registry

    return origin_of(registry.handles(module))


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
