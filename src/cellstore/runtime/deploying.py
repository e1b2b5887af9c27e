"""Deploying a unit: try it, change the tables, write its row, then make it current. And finding it again at start.

    try in a worker ─▶ schemas and indexes ─▶ row of `_modules` commits ─▶ registry and workers switch

Order      one deploy at a time; live traffic goes on between its steps
Invariant  the registry shows what `_modules` holds
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from cellstore.deploy.unit import Unit
from cellstore.errors import DeployError
from cellstore.runtime.registry import Change, Registry, module_row, unit_of_row
from cellstore.transaction.database import Engine
from cellstore.transaction.transaction import Transaction
from cellstore.values.index_key import END, encode_value

Try = Callable[[Unit], Awaitable[str | None]]
"""Loads a unit where functions run; the reason why it does not load, or None."""


class Deploying:
    """Deploys into one engine."""

    def __init__(self, engine: Engine, registry: Registry) -> None:
        self._engine = engine
        self._registry = registry
        self._lock = asyncio.Lock()

    def stored_units(self) -> Iterator[Unit]:
        """Every deployed unit, from the store."""
        with self._engine.begin() as transaction:
            rows = [dict(row) for _, row in transaction.scan("_modules", "by_path")]
        return (unit_of_row(row) for row in rows)

    async def deploy(self, unit: Unit, attempt: Try, install: Callable[[Unit], None]) -> dict[str, Any]:
        """Replace the module. Errors: DeployError, ValidationError from a schema check; functions stay as they were."""
        async with self._lock:
            self._registry.check_routes(unit)
            row = module_row(unit, self._engine.knobs.document_size_bytes)
            change = self._registry.change(unit)
            if unit.functions:
                problem = await attempt(unit)
                if problem is not None:
                    raise DeployError(f"the module {unit.module!r} cannot be loaded where functions run:\n{problem}")
            tables = await self._apply_tables(unit)
            _, ts = self._engine.run(lambda transaction: _write_row(transaction, row), source="")
            before = self._registry.units.get(unit.module)
            install(unit)
        return {
            "module": unit.module,
            "hash": unit.hash,
            "ts": ts,
            "functions": sorted(spec.path for spec in unit.functions),
            "added": change.added,
            "changed": change.changed,
            "removed": change.removed,
            "tables": tables,
            **_taken_over(before, unit, change),
        }

    async def _apply_tables(self, unit: Unit) -> Any:
        """Change schemas and indexes step by step, letting the loop turn in between."""
        if not unit.tables:
            return {}
        steps = self._engine.apply_definitions(unit.tables)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value
            await asyncio.sleep(0)


def _taken_over(before: Unit | None, unit: Unit, change: Change) -> dict[str, Any]:
    """What a deploy took from another notebook or file, if it did."""
    if before is None or not before.origin or before.origin == unit.origin or not (change.changed or change.removed):
        return {}
    return {"took_over": {"from": before.origin, "to": unit.origin}}


def _write_row(transaction: Transaction, row: dict[str, Any]) -> None:
    prefix = encode_value(row["path"])
    found = next(transaction.scan("_modules", "by_path", prefix, prefix + END), None)
    if found is None:
        transaction.insert("_modules", row)
    else:
        transaction.replace(found[1]["_id"], row)


def taken_over_text(module: str, report: dict[str, Any]) -> str:
    """A sentence for both sides."""
    took = report["took_over"]
    parts = [(report["changed"], "other versions now"), (report["removed"], "gone")]
    what = "; ".join(f"{', '.join(paths)}: {fate}" for paths, fate in parts if paths)
    return f"{module} was deployed from {took['from']} and is now from {took['to'] or 'elsewhere'} ({what})"
