"""What travels: one module's functions and tables, and everything needed to run them elsewhere.

Invariant  `hash` and `hashes` depend on what the functions do, not on where or when they were packed: executing an
           unchanged cell again, in another kernel too, gives the same ones. They do depend on the Python version.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, get_type_hints

from cellstore.errors import ValidationError
from cellstore.functions import check_schedule
from cellstore.schema.arguments import FunctionSpec
from cellstore.schema.definition import TableDefinition
from cellstore.values.json import dumps, loads

STAMP = f"{sys.version_info.major}.{sys.version_info.minor}"
"""The Python version whose bytecode this process understands."""


@dataclass(frozen=True)
class Unit:
    """A module, packed. Everything in it is data; nothing is executed before `load`."""

    module: str
    functions: list[FunctionSpec] = field(default_factory=list)
    tables: list[TableDefinition] = field(default_factory=list)
    crons: list[dict[str, Any]] = field(default_factory=list)  # {path, name?} and {cron, tz} or {every_s}
    source: str = ""  # text that defines the functions in an empty namespace
    source_missing: list[str] = field(default_factory=list)  # why that text is not whole; empty when it is
    sources: dict[str, str] = field(default_factory=dict)  # file name to text, for tracebacks
    payload: str | None = None  # base64 of a cloudpickle; only for Pythons of this stamp
    stamp: str = STAMP
    python: str = ""  # the interpreter to run it
    cwd: str = ""
    path_entries: list[str] = field(default_factory=list)  # of sys.path, beyond the interpreter's own
    imports: list[str] = field(default_factory=list)  # files next to the notebook that functions import by themselves
    hashes: dict[str, str] = field(default_factory=dict)  # function name to the hash of its code and captures
    cells: dict[str, str] = field(default_factory=dict)  # file name to "Cell In[3]"
    origin: str = ""  # the notebook or file it was deployed from
    session: str = ""  # the process whose cells define it; empty for a file, which is whole
    cell_ids: dict[str, str] = field(default_factory=dict)  # function name to the id of the notebook's cell

    @property
    def key(self) -> str:
        """What tells it apart from the other units of its module."""
        return f"{self.module}@{self.session or self.origin}"

    @cached_property
    def hash(self) -> str:
        """The version of the whole module: hex digits."""
        parts = [
            self.module,
            [
                [spec.path, spec.kind, spec.visibility, spec.args, spec.returns, spec.doc, spec.route]
                for spec in self.functions
            ],
            [table.to_json() for table in self.tables],
            self.crons,
            sorted(self.hashes.items()),
            [self.stamp, self.python, self.cwd, self.path_entries],
        ]
        return hashlib.sha256(dumps(_listed(parts))).hexdigest()[:32]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON. What may hold any stored value (defaults) is native JSON, as text inside."""
        definitions = {
            "functions": [spec.to_json() for spec in self.functions],
            "tables": [table.to_json() for table in self.tables],
        }
        plain = {name: getattr(self, name) for name in _PLAIN}
        return {**plain, "definitions": dumps(definitions).decode(), "hash": self.hash}

    @classmethod
    def from_outside(cls, data: Any) -> Unit:
        """As `from_json`, of what anybody may have sent: kept as it is, it would be in the way of the next start.

        Errors: ValidationError naming what is not as `to_json` makes it; CallerError for a schedule nobody can follow
        """
        try:
            unit = cls.from_json(_checked(data))
        except (KeyError, TypeError, AttributeError) as wrong:
            raise _no_unit(f"{type(wrong).__name__}: {wrong}") from wrong
        paths = {spec.path for spec in unit.functions}
        for each in unit.crons:
            if each.get("path") not in paths:
                raise _no_unit(f"a schedule of {each.get('path')!r:.60}, which is not in it")
            check_schedule(each)
        return unit

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Unit:
        """What `to_json` made."""
        definitions = loads(data["definitions"].encode())
        return cls(
            functions=[FunctionSpec.from_json(spec) for spec in definitions["functions"]],
            tables=[TableDefinition.from_json(table) for table in definitions["tables"]],
            **{name: data[name] for name in _PLAIN if name in data},  # an older store knows fewer
        )


_PLAIN = (
    "module",
    "crons",
    "source",
    "source_missing",
    "sources",
    "payload",
    "stamp",
    "python",
    "cwd",
    "path_entries",
    "imports",
    "hashes",
    "cells",
    "origin",
    "session",
    "cell_ids",
)


def _checked(data: Any) -> dict[str, Any]:
    import pydantic

    if not isinstance(data, dict) or not data.get("module"):
        raise _no_unit("no object with a module")
    hints = get_type_hints(Unit)
    for name in _PLAIN:
        if name in data:
            try:
                pydantic.TypeAdapter(hints[name]).validate_python(data[name], strict=True)
            except pydantic.ValidationError as wrong:
                raise _no_unit(f"{name}: {wrong.errors()[0]['msg']}") from None
    return data


def _no_unit(got: str) -> ValidationError:
    return ValidationError(path="unit", expected="a module as `cellstore deploy` sends it", got=got)


def _listed(value: Any) -> Any:
    """Tuples as lists, for the JSON."""
    return [_listed(each) for each in value] if isinstance(value, list | tuple) else value
