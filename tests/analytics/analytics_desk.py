"""An analyst over an engine, as tests ask it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cellstore.analytics.analyst import Analyst
from cellstore.client.frames import Result
from cellstore.knobs import DEFAULTS, Knobs
from cellstore.transaction.database import Engine


class Desk:
    """An engine and an analyst over it; answers as rows."""

    def __init__(self, engine: Engine, scratch: Path, knobs: Knobs = DEFAULTS) -> None:
        self.engine = engine
        self.analyst = Analyst(engine.storage.reader, scratch, knobs)
        self._calls = itertools.count()

    @property
    def now(self) -> int:
        return self.engine.published_ts

    def ask(self, op: str, **params: Any) -> bytes:
        path = self.analyst.run(op, params, next(self._calls))
        octets = path.read_bytes()
        path.unlink()
        return octets

    def table(self, name: str, ts: int | None = None) -> list[dict[str, Any]]:
        moment = self.now if ts is None else ts
        return Result(self.ask("table_parquet", table=name, ts=moment), {}, moment).rows()

    def sql(self, statement: str, ts: int | None = None) -> list[dict[str, Any]]:
        moment = self.now if ts is None else ts
        return Result(self.ask("sql", statement=statement, ts=moment, format="parquet"), {}, moment).rows()

    def write(self, work: Callable[[Any], Any]) -> Any:
        return self.engine.run(work)[0]

    def close(self) -> None:
        self.analyst.close()
        self.engine.close()
