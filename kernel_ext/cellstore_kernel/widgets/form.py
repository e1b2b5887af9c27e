"""`cs.form` and `cs.button`: call a mutation or an action from the page.

The page calls through its own socket where it has one, so a push works while the kernel is busy. Types are checked by
the store; the form only knows which field suits which type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cellstore.client.database import Database
from cellstore.client.errors_render import doorway
from cellstore.errors import CallerError
from cellstore.values import json as native
from cellstore.values.value import check_value
from cellstore_kernel.widgets.base import StoreWidget, bound, deployed, handle_of, label_of
from cellstore_kernel.widgets.live import current

if TYPE_CHECKING:
    from cellstore.functions import Function


class Form(StoreWidget):
    """A mutation's arguments as fields."""

    def _fallback(self) -> tuple[Any, int | None, str]:
        return None, None, "a form; it needs a running notebook"


class Button(StoreWidget):
    """A mutation behind a push."""

    def _fallback(self) -> tuple[Any, int | None, str]:
        return None, None, "a button; it needs a running notebook"


def form(function: str | Function[..., Any], /, label: str | None = None) -> Form:
    """Fields for the arguments of a mutation or an action, and a button that calls it.

    Errors: CallerError when it is a query or no function; NotFound for an unknown path; DeployError.
    """
    with doorway():
        database = current()
        called = described(handle_of(function, "mutation", "action"), database)
        fields = [field_json(name, each) for name, each in called["args"]["fields"].items()]
        text = label or called["name"].replace("_", " ").capitalize()
        options = {
            "path": called["path"],
            "kind": called["kind"],
            "fields": native.dumps(fields).decode(),  # types and defaults hold stored values
            "text": text,
        }
        return Form(database, kind="form", label=called["path"], options=options)


def button(function: str | Function[..., Any], /, label: str | None = None, **args: Any) -> Button:
    """A button that calls a mutation or an action with these arguments.

    Errors: as `form`; ValidationError when an argument is no stored value.
    """
    with doorway():
        database = current()
        pushed = handle_of(function, "mutation", "action")
        called = described(pushed, database)
        args = bound(pushed, args)
        for name, value in args.items():
            check_value(value, name)
        options = {
            "path": called["path"],
            "kind": called["kind"],
            "args": native.dumps(args).decode(),
            "text": label or called["name"].replace("_", " ").capitalize(),
        }
        return Button(database, kind="button", label=label_of(called["path"], args), options=options)


def editing(function: str | Function[..., Any], database: Database) -> dict[str, Any]:
    """How a grid calls the mutation that edits a cell. Errors: CallerError when the row's id finds no argument."""
    called = described(function, database)
    fields: dict[str, Any] = called["args"]["fields"]
    ids = [name for name, each in fields.items() if each["type"].get("type") == "id"]
    named = [name for name in fields if name in ("id", "_id") or name.endswith("_id")]
    row = next(iter(ids or named), None)
    if row is None:
        raise CallerError(
            f"{called['path']} cannot edit rows: none of its arguments ({', '.join(fields) or 'there are none'}) "
            "takes the row's id; annotate one as cs.Id[…]",
            code="NotAnEditor",
        )
    by_name = {"field", "value"} <= fields.keys()
    return {
        "path": called["path"],
        "kind": "mutation",
        "id": row,
        "field": "field" if by_name else None,
        "value": "value" if by_name else None,
        "columns": [name for name in fields if name != row],
    }


def described(function: str | Function[..., Any], database: Database) -> dict[str, Any]:
    """Path, kind, name and argument types of a function; a handle is shipped first.

    Errors: NotFound, CallerError, DeployError.
    """
    if not isinstance(function, str):
        database.deploy(function)
        spec = function.spec
        return {"path": function.path, "kind": function.kind, "name": function.name, "args": spec.args}
    return {**deployed(function, database, "mutation", "action"), "name": function.rpartition(":")[2]}


def field_json(name: str, each: dict[str, Any]) -> dict[str, Any]:
    """One field of the form: {name, type, optional, default?}."""
    return {"name": name, **each}
