"""A reactive document database under your notebook cells.

    import cellstore as cs

    class Task(cs.Table, name="tasks"):
        text: str
        completed: bool = False
        by_completed = cs.Index("completed")

    @cs.query
    def open_tasks(ctx, limit: int = 100):
        return ctx.db.query("tasks").with_index("by_completed", completed=False).take(limit)

    @cs.mutation
    def add_task(ctx, text: str) -> cs.Id["tasks"]:
        return ctx.db.insert("tasks", {"text": text})

    with cs.open("tasks.db"):                       # or %load_ext cellstore in a notebook, or cs.connect(url)
        add_task(text="milk")
        open_tasks()

How the package is laid out; each layer imports only what stands to its left:

    ground      errors, clock, knobs, faults        values      what may be stored, its order and its keys
    schema      tables and types from hints         storage     the document log on disk
    transaction snapshots, conflicts, commits       deploy      functions on their way to the store
    runtime     user functions in worker processes  reactivity  which live queries a commit touches
    server      the Jupyter server extension        analytics   SQL and dataframes at a timestamp
    protocol    the wire, known to both sides       client      beyond the wire

This file is the front door: the names in `__all__` and nothing else. They are imported when first used, so that
`import cellstore` is quick.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellstore.client.connect import (
        connect,
        current,
        deploy,
        drop,
        drop_table,
        export,
        functions,
        import_,
        insert_df,
        open,
        snapshot,
        sql,
        subscribe,
        tables,
    )
    from cellstore.client.database import Database
    from cellstore.client.snapshot import Snapshot
    from cellstore.client.subscription import Subscription
    from cellstore.errors import (
        ApplicationError,
        CallerError,
        CellstoreError,
        ConflictError,
        Corruption,
        DeployError,
        Disconnected,
        FatalError,
        Forbidden,
        FunctionError,
        InvariantError,
        LeaseLost,
        LimitExceeded,
        NotDeterministic,
        NotFound,
        OutOfRetention,
        Overloaded,
        StoreLocked,
        TransientError,
        Unauthenticated,
        ValidationError,
    )
    from cellstore.functions import action, cron, every, http, mutation, query
    from cellstore.schema.definition import Index, Table
    from cellstore.values.document import Document
    from cellstore.values.ids import Id
    from cellstore.values.value import UNSET
    from cellstore.web import Request, Response
    from cellstore_kernel import button, form, grid, live, view

__version__ = "0.1.0"

_HOMES = {
    "cellstore.functions": ("query", "mutation", "action", "http", "cron", "every"),
    "cellstore.web": ("Request", "Response"),
    "cellstore.schema.definition": ("Table", "Index"),
    "cellstore.values.ids": ("Id",),
    "cellstore.values.value": ("UNSET",),
    "cellstore.values.document": ("Document",),
    "cellstore.client.database": ("Database",),
    "cellstore.client.subscription": ("Subscription",),
    "cellstore.client.snapshot": ("Snapshot",),
    "cellstore.client.connect": (
        "connect",
        "open",
        "current",
        "deploy",
        "drop",
        "drop_table",
        "subscribe",
        "snapshot",
        "sql",
        "insert_df",
        "tables",
        "functions",
        "export",
        "import_",
    ),
    "cellstore_kernel": ("live", "grid", "view", "form", "button"),
    "cellstore.errors": (
        "CellstoreError",
        "CallerError",
        "ValidationError",
        "DeployError",
        "NotFound",
        "Unauthenticated",
        "Forbidden",
        "LimitExceeded",
        "NotDeterministic",
        "ApplicationError",
        "FunctionError",
        "TransientError",
        "ConflictError",
        "OutOfRetention",
        "Overloaded",
        "Disconnected",
        "FatalError",
        "LeaseLost",
        "StoreLocked",
        "Corruption",
        "InvariantError",
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "UNSET",
    "ApplicationError",
    "CallerError",
    "CellstoreError",
    "ConflictError",
    "Corruption",
    "Database",
    "DeployError",
    "Disconnected",
    "Document",
    "FatalError",
    "Forbidden",
    "FunctionError",
    "Id",
    "Index",
    "InvariantError",
    "LeaseLost",
    "LimitExceeded",
    "NotDeterministic",
    "NotFound",
    "OutOfRetention",
    "Overloaded",
    "Request",
    "Response",
    "Snapshot",
    "StoreLocked",
    "Subscription",
    "Table",
    "TransientError",
    "Unauthenticated",
    "ValidationError",
    "action",
    "button",
    "connect",
    "cron",
    "current",
    "deploy",
    "drop",
    "drop_table",
    "every",
    "export",
    "form",
    "functions",
    "grid",
    "http",
    "import_",
    "insert_df",
    "live",
    "mutation",
    "open",
    "query",
    "snapshot",
    "sql",
    "subscribe",
    "tables",
    "view",
]


def __getattr__(name: str) -> Any:
    """A public name, imported at its first use."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'cellstore' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _FrontDoor(ModuleType):
    """Keeps public names public: importing the package `cellstore.deploy` must not replace the function `cs.deploy`."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME_OF and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return importlib.import_module, (__name__,)  # functions that say `cs.…` take it along by name


sys.modules[__name__].__class__ = _FrontDoor


_excepthook = sys.excepthook


def _show_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """What ends a plain script: the user's lines and the reason, as in a cell."""
    if kind is KeyboardInterrupt or kind.__module__.startswith(f"{__name__}."):
        from cellstore.client.errors_render import report

        if told := report(error):
            print(told, end="", file=sys.stderr)
            return
    _excepthook(kind, error, traceback)


sys.excepthook = _show_uncaught


def load_ipython_extension(ipython: Any) -> None:
    """`%load_ext cellstore`: find the server, connect, register magics and the deploy hook."""
    import cellstore_kernel

    cellstore_kernel.load_ipython_extension(ipython)


def unload_ipython_extension(ipython: Any) -> None:
    """`%unload_ext cellstore`: undo all of it."""
    import cellstore_kernel

    cellstore_kernel.unload_ipython_extension(ipython)


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    """Where Jupyter Server finds the extension."""
    from cellstore.server.extension import CellstoreApp

    return [{"module": "cellstore", "app": CellstoreApp}]
