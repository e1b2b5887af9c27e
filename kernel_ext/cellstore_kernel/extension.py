"""`%load_ext cellstore`: find the store, say which, and hook the cells.

    1  the server, by the ladder of `cellstore.client.discovery`; what is said names the rung
    2  no server: the engine in this process, over `.cellstore/default/store.db`; said aloud, with the reason
    3  that store is open elsewhere: said too, and nothing is used

Loading again connects again if the connection was closed, and otherwise only says where we are.

Invariant: `unload` takes back everything `load` did: hooks, magics, the connection. What was deployed stays.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellstore import __version__
from cellstore.client import connect
from cellstore.client.database import Database
from cellstore.client.subscription import CallbackThread, on_made
from cellstore.errors import CellstoreError, StoreLocked
from cellstore_kernel.autodeploy import AutoDeploy
from cellstore_kernel.bridge import main_loop
from cellstore_kernel.cells import cells
from cellstore_kernel.magics import CellstoreMagics

EMBEDDED_STORE = Path(".cellstore/default/store.db")


@dataclass(slots=True)
class Loaded:
    """What `load` did to one shell."""

    database: Database | None
    autodeploy: AutoDeploy
    magics: CellstoreMagics


_loaded: dict[int, Loaded] = {}  # by id of the shell, of which a process has one


def load(shell: Any) -> None:
    """Load into a shell, and print one line that says what is used."""
    known = _loaded.get(id(shell))
    if known is not None and known.database is not None and known.database.state != "closed":
        print(describe(known.database))
        return
    if known is not None:
        unload(shell)
    name_notebook(shell)
    database, said = open_database()
    if database is not None:
        adopt(database)
    autodeploy, magics = AutoDeploy(shell), CellstoreMagics(shell)
    shell.events.register("pre_run_cell", autodeploy.removals.before_cell)
    shell.events.register("post_run_cell", autodeploy.after_cell)
    cells.install(shell)
    on_made.append(cells.hold)
    shell.register_magics(magics)
    _loaded[id(shell)] = Loaded(database, autodeploy, magics)
    print(said)


def unload(shell: Any) -> None:
    """Undo `load`."""
    known = _loaded.pop(id(shell), None)
    if known is None:
        return
    shell.events.unregister("pre_run_cell", known.autodeploy.removals.before_cell)
    shell.events.unregister("post_run_cell", known.autodeploy.after_cell)
    cells.uninstall(shell)
    on_made.remove(cells.hold)
    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop("cellstore", None)
    if known.database is not None:
        known.database.close()


def open_database() -> tuple[Database | None, str]:
    """(the database to use, if there is one; the line that says so)."""
    try:
        found = connect.connect()
    except CellstoreError as error:
        reason = error.message.partition(". Start one")[0]
    else:
        return found, describe(found)
    try:
        opened = connect.open(EMBEDDED_STORE)
    except StoreLocked as error:
        return None, (
            f"cellstore {__version__} · not connected: {reason}; and the store of this directory cannot be opened "
            f"here: {error.message} Connect to the server that has it: %cellstore connect URL --token T"
        )
    except CellstoreError as error:
        return None, f"cellstore {__version__} · not connected: {reason}; {EMBEDDED_STORE}: {error.message}"
    return opened, f"{describe(opened)}\n  ({reason})"


def describe(database: Database) -> str:
    """One line: version, where, and how it was found."""
    if database.rung == "embedded":
        return f"cellstore {__version__} · embedded: the store runs in this kernel, in {database.where}"
    deployment = "" if database.deployment == "default" else f" · deployment {database.deployment}"
    return f"cellstore {__version__} · {database.where} · {database.rung}{deployment}"


def adopt(database: Database) -> None:
    """Have callbacks of a database run on the kernel's main loop, where user code runs."""
    loop = main_loop()
    if loop is not None and isinstance(database.dispatch, CallbackThread):
        database.dispatch = loop


def name_notebook(shell: Any) -> None:
    """Functions of this kernel live in the module named after its notebook, where we can tell."""
    from cellstore.functions import registry

    path = os.environ.get("JPY_SESSION_NAME") or shell.user_ns.get("__vsc_ipynb_file__")
    if path:
        registry.notebook = Path(str(path)).stem
