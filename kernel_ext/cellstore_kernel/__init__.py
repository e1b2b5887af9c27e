"""The kernel half of cellstore: what happens in a notebook.

    extension   %load_ext cellstore: find the server, connect, hook the cells
    autodeploy  after every cell, what changed is shipped; removals  what the cell has taken away
    cells       what a cell made ends when the cell runs again
    magics      %cellstore, %%cellstore sql
    bridge      from subscriptions to widgets: thread hops, one step per commit, relays
    display     static HTML and text of live values, for readers without us
    assets      the browser's half, and how a widget carries it where no server serves it
    widgets     live, grid, view, form, button

Order:     the client's thread delivers values; user code runs on the kernel's main loop, never beside a cell.
Invariant: no thread of ours prints. Whatever touches a widget's traits holds that widget's lock.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellstore_kernel.widgets.form import button, form
    from cellstore_kernel.widgets.live import grid, live
    from cellstore_kernel.widgets.view import view

_HOMES = {
    "live": "cellstore_kernel.widgets.live",
    "grid": "cellstore_kernel.widgets.live",
    "view": "cellstore_kernel.widgets.view",
    "form": "cellstore_kernel.widgets.form",
    "button": "cellstore_kernel.widgets.form",
}

__all__ = ["button", "form", "grid", "live", "load_ipython_extension", "unload_ipython_extension", "view"]


def __getattr__(name: str) -> Any:
    """A public name, imported at its first use: ipywidgets takes its time."""
    if name not in _HOMES:
        raise AttributeError(f"module 'cellstore_kernel' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def load_ipython_extension(ipython: Any) -> None:
    """`%load_ext cellstore`. Again is fine."""
    from cellstore_kernel import extension

    extension.load(ipython)


def unload_ipython_extension(ipython: Any) -> None:
    """`%unload_ext cellstore`: hooks, magics and connections are gone; deployed functions stay."""
    from cellstore_kernel import extension

    extension.unload(ipython)
