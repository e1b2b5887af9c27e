"""Environment variables of a deployment: rows of `_environment_variables`, as functions see them.

    ctx.env["KEY"], ctx.env.get("KEY")     in every function
    os.environ["KEY"], os.getenv("KEY")    the same in worker processes; what is not set here, the process's own

In queries and mutations a look at a variable is a read like any other: a query that asked for KEY runs again when KEY is
set, changed or removed, and for no other. Actions see what was set when they began.

Limits     knobs variables_max, variable_name_chars, variable_value_bytes; as in Convex
Errors     of `change`: ValidationError, LimitExceeded; then nothing is changed
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cellstore.errors import LimitExceeded, ValidationError
from cellstore.functions import running
from cellstore.knobs import Knobs
from cellstore.transaction.access import QueryBuilder
from cellstore.transaction.transaction import Transaction

TABLE = "_environment_variables"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


class Variables(Mapping[str, str]):
    """What a query or mutation sees of them; each is read at most once."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._seen: dict[str, str | None] = {}

    def __getitem__(self, name: str) -> str:
        if name not in self._seen:
            self._seen[name] = get(self._transaction, name)
        value = self._seen[name]
        if value is None:
            raise KeyError(f"there is no variable {name!r}; set it with: cellstore env {name}=VALUE")
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(everything(self._transaction))

    def __len__(self) -> int:
        return len(everything(self._transaction))

    def __repr__(self) -> str:
        return f"<environment variables {', '.join(self) or '(none)'}>"  # values may be secrets


def get(transaction: Transaction, name: str) -> str | None:
    """One variable."""
    row = QueryBuilder(transaction, TABLE).with_index("by_name", name=name).first()
    return None if row is None else str(row["value"])


def everything(transaction: Transaction) -> dict[str, str]:
    """All of them, by name."""
    return {row["name"]: row["value"] for row in QueryBuilder(transaction, TABLE).with_index("by_name").collect()}


def change(transaction: Transaction, changes: Sequence[Mapping[str, Any]], knobs: Knobs) -> None:
    """Set `{"name", "value"}`, or remove where the value is None. Errors: ValidationError, LimitExceeded."""
    for each in changes:
        name, value = _checked(each, knobs)
        row = QueryBuilder(transaction, TABLE).with_index("by_name", name=name).first()
        if row is None and value is not None:
            transaction.insert(TABLE, {"name": name, "value": value})
        elif row is not None and value is None:
            transaction.delete(row["_id"])
        elif row is not None:
            transaction.patch(row["_id"], {"value": value})
    count, most = len(everything(transaction)), knobs.variables_max
    if count > most:
        raise LimitExceeded(
            f"there would be {count} environment variables and the limit variables_max is {most}: remove some",
            knob="variables_max",
            limit=most,
            used=count,
        )


def _checked(change: Mapping[str, Any], knobs: Knobs) -> tuple[str, str | None]:
    name, value = change.get("name"), change.get("value")
    if not isinstance(name, str) or not _NAME.match(name) or len(name) > knobs.variable_name_chars:
        expected = f"up to {knobs.variable_name_chars} letters, digits and underscores, not beginning with a digit"
        raise ValidationError(path="name", expected=expected, got=repr(name)[:60], code="EnvVarNameInvalid")
    if value is not None and not isinstance(value, str):
        raise ValidationError(path=name, expected="text, or null to remove it", got=type(value).__name__)
    if value is not None and len(value.encode()) > knobs.variable_value_bytes:
        raise LimitExceeded(
            f"the value of {name} is {len(value.encode()):,} bytes and the limit variable_value_bytes is "
            f"{knobs.variable_value_bytes:,}: keep larger things in a table",
            knob="variable_value_bytes",
            limit=knobs.variable_value_bytes,
            used=len(value.encode()),
        )
    return name, value


class Environ(os._Environ):  # type: ignore[type-arg]
    """`os.environ` of a worker: inside a function its deployment's variables come first."""

    def __getitem__(self, key: Any) -> Any:
        found = _here().get(key) if isinstance(key, str) else None
        return super().__getitem__(key) if found is None else found

    def __iter__(self) -> Iterator[Any]:
        yield from dict.fromkeys([*_here(), *super().__iter__()])

    def __len__(self) -> int:
        return len({*_here(), *super().__iter__()})


def _here() -> Mapping[str, str]:
    """The variables of the function that runs here."""
    found = getattr(running.get(), "env", None)
    return {} if found is None else found  # not `or`: to ask for its length is to read them all


def install() -> None:
    """Put them into `os.environ` of this process. Once, in a worker; a user's own process keeps what it has."""
    own = os.environ
    ours = Environ(own._data, own.encodekey, own.decodekey, own.encodevalue, own.decodevalue)  # type: ignore[attr-defined]
    os.environ = ours  # noqa: B003 - nothing is to be cleared: it holds the very same data
