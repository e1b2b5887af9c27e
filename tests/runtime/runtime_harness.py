"""A runner with functions in it, for one test: `play(tmp_path, SOURCE, scenario)`."""

from __future__ import annotations

import asyncio
import linecache
import textwrap
import types
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cellstore as cs
from cellstore.clock import Clock
from cellstore.deploy.pack import pack
from cellstore.deploy.unit import Unit
from cellstore.knobs import DEFAULTS
from cellstore.runtime.inline import InlineRunner
from cellstore.runtime.outcome import Outcome
from cellstore.runtime.pool import PoolRunner
from cellstore.transaction.database import Engine
from cellstore.values.json import loads

Scenario = Callable[[Any], Awaitable[None]]


def unit_of(source: str, module: str = "m") -> Unit:
    """Run `source` as a cell of the notebook `module` and pack what it defines."""
    text = textwrap.dedent(source).lstrip("\n")
    filename = f"<cell {module} {abs(hash(text)):x}>"
    linecache.cache[filename] = (len(text), None, text.splitlines(True), filename)
    namespace = types.ModuleType(module)
    namespace.__dict__.update({"cs": cs, "__file__": f"{module}.py"})
    exec(compile(text, filename, "exec"), namespace.__dict__)
    handles = [value for value in vars(namespace).values() if hasattr(value, "spec")]
    tables = [value.__cellstore__ for value in vars(namespace).values() if hasattr(value, "__cellstore__")]
    return pack(module, handles, tables)


class Stage:
    """What a scenario plays on."""

    def __init__(self, engine: Engine, runner: PoolRunner | InlineRunner) -> None:
        self.engine, self.runner = engine, runner

    async def query(self, name: str, **args: Any) -> Any:
        """The value of a query that must succeed."""
        return value_of(await self.runner.query(f"m:{name}", args))

    async def mutate(self, name: str, **args: Any) -> Any:
        """The value of a mutation that must succeed."""
        return value_of(await self.runner.mutation(f"m:{name}", args))


def value_of(outcome: Outcome) -> Any:
    """The decoded value of an outcome that must be a success."""
    assert outcome.ok, outcome.error
    return loads(outcome.value)


def play(
    path: Path,
    source: str | None,
    scenario: Scenario,
    *,
    inline: bool = False,
    timeout_s: float = 60,
    clock: Clock | None = None,
    **knobs: Any,
) -> None:
    """Open the store at `path`, deploy `source`, run `scenario`, close everything."""

    async def main() -> None:
        engine = Engine.open(path / "store.db", clock=clock, knobs=replace(DEFAULTS, **knobs))
        runner = InlineRunner(engine) if inline else PoolRunner(engine)
        try:
            await runner.start()
            if source is not None:
                await runner.deploy(unit_of(source))
            await asyncio.wait_for(scenario(Stage(engine, runner)), timeout_s)
            assert list(engine.check()) == [], "whatever happened to workers, the store is sound"
        finally:
            async with asyncio.timeout(20):
                await runner.stop()
            engine.close()

    asyncio.run(main())
