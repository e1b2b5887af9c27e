"""`cs.live` and `cs.grid`: one query's result, in the cell and in Python.

    board = cs.live(open_tasks, limit=5)
    board.value   board.ts   board.status   board.error        always the newest, also inside a running cell
    board.observe(lambda change: …, "value")                   called on the main loop, between cells

The page follows the query by itself; the kernel follows it too, for these four and for the static fallbacks.
"""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, Any

import traitlets

from cellstore.client.database import Database
from cellstore.client.errors_render import doorway
from cellstore.client.results import QueryResult
from cellstore.client.subscription import said_by
from cellstore.errors import CellstoreError
from cellstore.values import json as native
from cellstore_kernel.bridge import failure_json, main_loop, query_key
from cellstore_kernel.cells import cells
from cellstore_kernel.widgets.base import Saved, StoreWidget, bound, deployed, handle_of, label_of

if TYPE_CHECKING:
    from cellstore.client.transport import LinkState
    from cellstore.functions import Function

FIRST_RESULT_S = 2.0  # a cell waits this long, so that what is saved with the notebook shows data
OBSERVED = ("value", "ts", "status", "error")


class LiveWidget(StoreWidget):
    """A live query. `value`, `ts`, `status` and `error` are read-only and observable."""

    value = traitlets.Any(read_only=True)
    ts = traitlets.Int(None, allow_none=True, read_only=True)
    status = traitlets.Unicode("loading", read_only=True)
    error = traitlets.Any(read_only=True)

    def __init__(
        self, database: Database, query: str | Function[..., Any], args: dict[str, Any], **traits: Any
    ) -> None:
        self._sub = sub = database.subscribe(query, **args)
        cells.let_go(sub)  # it ends with us, who may be shown elsewhere too
        try:
            sub.wait(timeout=FIRST_RESULT_S)
        except (TimeoutError, CellstoreError):
            pass  # the widget shows it
        text = native.dumps(sub.args).decode()
        self._key = query_key(sub.path, text)
        self._context = contextvars.copy_context()  # what observers print appears under this cell
        self._dispatch = main_loop() or database.dispatch
        self._pending: dict[str, Any] = {}  # trait → value before, of changes observers have not heard of
        super().__init__(database, label=label_of(sub.path, sub.args), queries=[[sub.path, text]], **traits)
        self._trait_values.update(self._now())
        self._watch = database.link.watch(sub.path, sub.args, self._arrived)
        database.link.on_state.append(self._state_changed)

    def close(self) -> None:
        """Hear no more; the last value stays."""
        if not hasattr(self, "_watch") or self._sub.status == "closed":
            return
        self._watch.close()
        self._sub.close()
        if self._state_changed in self._database.link.on_state:
            self._database.link.on_state.remove(self._state_changed)
        super().close()
        self._refresh()

    # on the client's loop thread

    def _arrived(self, result: QueryResult) -> None:
        self._relay.deliver(self._key, result)
        self._refresh()

    def _state_changed(self, _state: LinkState) -> None:
        self._refresh()

    def _refresh(self) -> None:
        """Take over the newest state; observers hear of it on the main loop."""
        new = self._now()
        with self._lock:
            must_tell = not self._pending
            for name, value in new.items():
                old = self._trait_values.get(name)
                if old is not value and (name == "value" or old != value):
                    self._pending.setdefault(name, old)
            self._trait_values.update(new)
            must_tell = must_tell and bool(self._pending)
        if must_tell:
            self._dispatch(self._tell)

    def _now(self) -> dict[str, Any]:
        sub = self._sub
        return {"value": sub.value, "ts": sub.ts, "status": sub.status, "error": sub.error}

    # on the main loop

    def _tell(self) -> None:
        with self._lock:
            pending, self._pending = self._pending, {}
            new = {name: self._trait_values[name] for name in pending}
        for name, old in pending.items():
            change = traitlets.Bunch(name=name, old=old, new=new[name], owner=self, type="change")
            try:
                self._context.run(self.notify_change, change)
            except Exception as error:  # noqa: BLE001 - an observer's task ends here; the view stays live
                said_by(self._context, error, f"an observer of {self.label} raised")

    # what readers without us, and pages that open, see

    def _fallback(self) -> tuple[Any, int | None, str]:
        error = self._sub.error
        if error is None:
            return self._sub.value, self._sub.ts, ""
        lines = [f"{type(error).__name__}: {error.message}", *getattr(error, "__notes__", ())]
        return self._sub.value, self._sub.ts, "\n".join(lines)

    def _saved(self) -> Saved:
        error = self._sub.error
        failure = failure_json(error) if error is not None else None
        return Saved(self._sub.value, self._sub.ts, failure, self._sub.logs)


class Grid(LiveWidget):
    """A live table: sorted, filtered and scrolled in the page."""


def live(query: str | Function[..., Any], /, **args: Any) -> LiveWidget:
    """A live view of a query's result: scalars, dicts, lists of documents.

    Errors: CallerError, NotFound, DeployError at once; a query that fails says so in the view, and recovers there.
    """
    with doorway():
        database = current()
        asked = asked_of(query, database)
        return LiveWidget(database, asked, bound(asked, args), kind="live")


def grid(
    query: str | Function[..., Any], /, edit: str | Function[..., Any] | None = None, height: int = 420, **args: Any
) -> Grid:
    """A live table of a query's result, quick with ten thousand rows; `height` in pixels.

    `edit` is a mutation that takes a row's id and either `field` and `value`, or the fields by name:
    `set_completed(ctx, task_id, completed)` makes the column `completed` editable.
    Errors: as `live`; CallerError when `edit` has no argument for the row's id.
    """
    from cellstore_kernel.widgets.form import editing

    with doorway():
        database = current()
        options: dict[str, Any] = {"height": height}
        if edit is not None:
            options["edit"] = editing(handle_of(edit, "mutation"), database)
        asked = asked_of(query, database)
        return Grid(database, asked, bound(asked, args), kind="grid", options=options)


def asked_of(query: str | Function[..., Any], database: Database) -> Any:
    """The query meant: a handle, or a path that the store knows. Errors: CallerError, NotFound."""
    asked = handle_of(query, "query")
    if isinstance(asked, str):
        deployed(asked, database, "query")
    return asked


def current() -> Database:
    """The current database."""
    from cellstore.client import connect

    return connect.current()
