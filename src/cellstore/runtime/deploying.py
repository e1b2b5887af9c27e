"""Deploying a unit: try it, change the tables, write its row, then make it current. And finding it again at start.

    try in a worker ─▶ schemas and indexes ─▶ rows of `_modules` commit ─▶ registry and workers switch

A module may consist of several units, see `deploy.merge`: one deployed takes the place of those it replaces, and the rest
of the module serves on.

Order      one deploy at a time; live traffic goes on between its steps
Invariant  the registry shows what `_modules` holds
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from cellstore.deploy.merge import merged, without
from cellstore.deploy.unit import Unit
from cellstore.errors import DeployError
from cellstore.runtime.registry import Registry, unit_of_row, unit_row
from cellstore.transaction.database import Engine
from cellstore.transaction.transaction import Transaction
from cellstore.values.index_key import END, encode_value

_QUIET_S = 0.0002  # a turn of the loop in which nobody does anything is shorter
_OTHERS_SHARE = 2  # of a step's time is theirs then

Try = Callable[[Unit], Awaitable[str | None]]
"""Loads a unit where functions run; the reason why it does not load, or None."""

Install = Callable[[str, list[Unit]], None]
"""Has a module consist of these units, here and wherever functions run."""


class Deploying:
    """Deploys into one engine."""

    def __init__(self, engine: Engine, registry: Registry) -> None:
        self._engine = engine
        self._registry = registry
        self._lock = asyncio.Lock()

    def stored_modules(self) -> dict[str, list[Unit]]:
        """Every deployed module, from the store."""
        with self._engine.begin() as transaction:
            rows = [dict(row) for _, row in transaction.scan("_modules", "by_path")]
        modules: dict[str, list[Unit]] = {}
        for row in sorted(rows, key=lambda row: float(row["_creationTime"])):
            modules.setdefault(row["path"], []).append(unit_of_row(row))
        return modules

    async def deploy(self, unit: Unit, attempt: Try, install: Install) -> dict[str, Any]:
        """Have `unit` join its module. Errors: DeployError, ValidationError from a schema check; functions stay as they were."""
        async with self._lock:
            before = self._registry.units.get(unit.module, [])
            units = merged(before, unit)
            self._registry.check_routes(unit.module, units)
            rows = self._rows(before, units)
            change = self._registry.change(unit.module, units)
            took = _taken_over(before, unit)
            if unit.functions:
                problem = await attempt(unit)
                if problem is not None:
                    raise DeployError(f"the module {unit.module!r} cannot be loaded where functions run:\n{problem}")
            tables = await self._apply_tables(unit)
            _, ts = self._engine.run(lambda transaction: _write_rows(transaction, unit.module, units, rows), source="")
            install(unit.module, units)
        return {
            "module": unit.module,
            "hash": unit.hash,
            "ts": ts,
            "functions": sorted(spec.path for spec in unit.functions),
            "added": change.added,
            "changed": change.changed,
            "removed": change.removed,
            "tables": tables,
            **({"took_over": took} if took else {}),
        }

    async def drop(self, paths: Sequence[str], install: Install) -> dict[str, Any]:
        """Take functions away, with their schedules. Errors: NotFound for one that is not deployed; then all are left."""
        async with self._lock:
            dropped = [self._registry.find(path).path for path in paths]
            for module in dict.fromkeys(path.rpartition(":")[0] for path in dropped):
                self._drop(module, set(dropped), install)
        return {"removed": sorted(set(dropped))}

    def _drop(self, module: str, paths: set[str], install: Install) -> None:
        before = self._registry.units.get(module, [])
        units = without(before, paths)
        rows = self._rows(before, units)
        self._engine.run(lambda transaction: _write_rows(transaction, module, units, rows), source="")
        install(module, units)

    def _rows(self, before: list[Unit], units: list[Unit]) -> dict[str, dict[str, Any]]:
        """The rows to write, by key: of units that are not there as they are. Errors: DeployError for one too large."""
        limit = self._engine.knobs.document_size_bytes
        return {unit.key: unit_row(unit, limit) for unit in units if not any(unit is each for each in before)}

    async def _apply_tables(self, unit: Unit) -> Any:
        """Change schemas and indexes step by step, giving way in between."""
        if not unit.tables:
            return {}
        steps = self._engine.apply_definitions(unit.tables)
        while True:
            begun = time.perf_counter()
            try:
                next(steps)
            except StopIteration as end:
                return end.value
            await _give_way(time.perf_counter() - begun)


async def _give_way(took_s: float) -> None:
    """Let others have the loop; if they have something to do, most of the time of such steps."""
    begun = time.perf_counter()
    await asyncio.sleep(0)
    if time.perf_counter() - begun > _QUIET_S:
        await asyncio.sleep(_OTHERS_SHARE * took_s)


def _taken_over(before: Iterable[Unit], unit: Unit) -> dict[str, Any] | None:
    """What a deploy takes from other notebooks or files, if anything."""
    theirs = {spec.path: other for other in before if other.origin != unit.origin for spec in other.functions}
    mine = {spec.path: unit.hashes.get(spec.name) for spec in unit.functions}
    taken = [
        path
        for path, other in sorted(theirs.items())
        if other.origin and path in mine and mine[path] != other.hashes.get(path.rpartition(":")[2])
    ]
    if not taken:
        return None
    origins = ", ".join(dict.fromkeys(theirs[path].origin for path in taken))
    return {"from": origins, "to": unit.origin, "functions": taken}


def _write_rows(transaction: Transaction, module: str, units: list[Unit], rows: dict[str, dict[str, Any]]) -> None:
    """Have the module's rows be those of `units`; `rows` are those that are new, by key."""
    prefix = encode_value(module)
    standing = (row for _, row in transaction.scan("_modules", "by_path", prefix, prefix + END))
    found = {row.get("key") or unit_of_row(dict(row)).key: row["_id"] for row in standing}  # an older store knew no key
    for key in found.keys() - {unit.key for unit in units}:
        transaction.delete(found[key])
    for key, row in rows.items():
        if key in found:
            transaction.replace(found[key], row)
        else:
            transaction.insert("_modules", row)


def taken_over_text(report: dict[str, Any]) -> str:
    """A sentence for both sides."""
    took = report["took_over"]
    what = ", ".join(took["functions"])
    return f"{what} was deployed from {took['from']} and is now from {took['to'] or 'elsewhere'}"
