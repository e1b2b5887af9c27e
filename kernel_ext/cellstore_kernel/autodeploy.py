"""After every cell: what changed is packed and shipped, one unit per module.

Packing compares code and captured values, so a helper or a constant redefined in another cell ships its functions
again, and a cell that changed nothing sends nothing. What is refused changes nothing: the version deployed before serves
on, the rest of the module is shipped, and the cell that caused it fails with the reason.

What an earlier kernel of the notebook deployed serves on until a cell replaces it or takes it away (see `removals`).

Another notebook, or a file, may deploy the same function: the one that takes it is told from whom, and the one that had it
is told after a later cell, by a look at the store every few seconds.

Invariant: the same refusal is shown once, not under every later cell, until something about the module changes; a cell
that defines something meanwhile is reminded of it.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from cellstore.client import connect
from cellstore.client.database import Database
from cellstore.client.shipping import same_objects
from cellstore.errors import CellstoreError, Disconnected, NotFound
from cellstore_kernel.removals import Removal, Removals, handles_of_cells

LOOK_EVERY_S = 2.0


class AutoDeploy:
    """The hook that ships what cells define."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._refused: dict[str, tuple[str, list[Any]]] = {}  # module → what was shown last, what was defined then
        self._waiting = False  # the server was away, and that was said
        self._bound: dict[str, str] = {}  # module → what was said of its being bound to this Python
        self._mine: dict[str, str] = {}  # path → where we deployed it from
        self._of_cells: set[str] = set()  # modules of which cells have defined anything
        self._looked_at = 0.0
        self.removals = Removals(shell)
        self.shipped: list[tuple[str, dict[str, Any]]] = []  # what the latest cell deployed: (module, report)

    def after_cell(self, result: Any = None) -> None:
        """IPython's post_run_cell."""
        database = usable()
        if database is None:
            return
        for removal in self.removals.after_cell(result, database):
            take_away(database, removal)
        modules = modules_of_cells()
        self._of_cells.update(modules)
        shipped_before = (path.rpartition(":")[0] for path in self._mine)
        for module in dict.fromkeys([*modules, *shipped_before]):
            if module in self._of_cells:  # others were imported, and shipped by their calls
                self._ship(database, module, result)
        self.shipped = database.shipped()
        for module, report in self.shipped:
            self._tell(module, report)
        self._look(database)

    def _ship(self, database: Database, module: str, result: Any) -> None:
        if database.state not in ("connecting", "connected"):  # it answered a moment ago, or it does now
            self._say_waiting(module)
            return
        try:
            database.ship(module)
        except Disconnected:
            self._say_waiting(module)
        except CellstoreError as error:
            self._refuse(module, error, result)
        else:
            self._waiting = False
            self._refused.pop(module, None)

    def _tell(self, module: str, report: dict[str, Any]) -> None:
        origin = unit_origin(module)
        self._mine.update(dict.fromkeys(report["functions"], origin))
        bound = report.get("only_here", "")
        if bound and bound != self._bound.get(module):
            say(bound)
        self._bound[module] = bound
        took = report.get("took_over")
        if took:
            say(
                f"{', '.join(took['functions'])} was deployed from {took['from']} until now; this is another version. To have "
                "both, rename one of the notebooks, or the function, or say module= where it is defined"
            )

    def _refuse(self, module: str, error: CellstoreError, result: Any) -> None:
        """Show it in the cell, and have the cell count as failed."""
        defined = definitions_of(module)
        shown, then = self._refused.get(module, ("", None))
        self._refused[module] = error.message, defined
        if shown == error.message:
            if not same_objects(defined, then):
                say(f"still not deployed: {error.message}")
            return
        failed = getattr(result, "error_in_exec", None)
        if isinstance(failed, CellstoreError) and failed.message == error.message:
            return  # a call in the cell has met it already
        self._shell.showtraceback((type(error), error, error.__traceback__))
        if result is not None and failed is None and result.error_before_exec is None:
            result.error_in_exec = error

    def _look(self, database: Database) -> None:
        """Say so, once, when something we deployed has been taken over by somebody else."""
        now = time.monotonic()
        if not self._mine or self.shipped or now - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = now
        try:
            origins = {each["path"]: each.get("origin") for each in database.functions()}
        except CellstoreError:
            return
        lost = [path for path, mine in self._mine.items() if origins.get(path) and origins[path] != mine]
        if lost:
            others = ", ".join(dict.fromkeys(str(origins[path]) for path in lost))
            say(f"{', '.join(lost)} is now deployed from {others}. Change a function here to take it back")
        for path in lost:
            del self._mine[path]

    def _say_waiting(self, module: str) -> None:
        if not self._waiting:
            self._waiting = True
            said = f"cellstore: the server is away; {module} is deployed after a later cell, when it is back"
            print(said, file=sys.stderr)


def say(text: str) -> None:
    """A line under the cell, beside its output."""
    print(f"cellstore: {text}", file=sys.stderr)


def take_away(database: Database, removal: Removal) -> None:
    """Have the store forget a function; one this kernel defines is left out when its module is shipped."""
    from cellstore.functions import registry

    registry.discard(removal.path)
    if not removal.known:
        try:
            database.drop(removal.path)
        except NotFound:
            return
        except CellstoreError as error:
            say(f"{removal.path} is not taken away: {error.message}")
            return
    say(f"{removal.path} is taken away: {removal.why}")


def unit_origin(module: str) -> str:
    """Where this process deploys a module from."""
    from cellstore.deploy.pack import origin_of
    from cellstore.functions import registry

    return origin_of(registry.handles(module))


def definitions_of(module: str) -> list[Any]:
    """The same objects as long as no function or table of a module is defined anew."""
    from cellstore.functions import registry

    return [*registry.handles(module), *registry.tables(module)]


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
    registry, own = functions.registry, {handle.module for handle in handles_of_cells()}
    return [module for module in registry.modules() if module == registry.notebook or module in own]
