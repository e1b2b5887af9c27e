"""A store made of a dict, for tests of everything above it: one table, keys are names, a query reads some of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import orjson

from cellstore.errors import NotFound
from cellstore.runtime.outcome import Outcome
from cellstore.transaction.requests import Commit

TABLE = 7
Interval = tuple[bytes, bytes]


@dataclass
class FakeStore:
    """The history of a dict; also the runner.

    Queries: `get` {"key"} reads one key, `all` every key; `who` returns the caller's subject; `broken` never works.
    Mutations: `set` {"key", "value"}. `gate` holds queries back until the test lets them go.
    """

    history: list[tuple[int, str, Any]] = field(default_factory=list)
    ts: int = 0
    listeners: list[Callable[[list[Commit]], None]] = field(default_factory=list)
    on_visible: Callable[[list[Commit]], None] | None = None  # called while a commit becomes durable
    on_durable: Callable[[], None] = lambda: None
    runs: list[str] = field(default_factory=list)
    gate: asyncio.Event | None = None

    def set(self, key: str, value: Any, source: str = "") -> int:
        """Commit one key."""
        self.ts += 10
        self.history.append((self.ts, key, value))
        commit = Commit(self.ts, {TABLE: [key.encode()]}, source)
        if self.on_visible is not None:
            self.on_visible([commit])
            self.on_durable()
        for listener in self.listeners:
            listener([commit])
        return self.ts

    def at(self, ts: int) -> dict[str, Any]:
        """The dict as of `ts`."""
        return {key: value for when, key, value in self.history if when <= ts}

    def query(
        self, path: str, args: dict[str, Any], *, identity: Any, ts: int, journal: str | None, internal: bool
    ) -> Coroutine[Any, Any, Outcome]:
        """The runner. A run has begun when this returns."""
        self.runs.append(f"{path}@{ts}")
        return self._run(path, args, identity, ts, journal)

    async def _run(self, path: str, args: dict[str, Any], identity: Any, ts: int, journal: str | None) -> Outcome:
        await asyncio.sleep(0)
        if self.gate is not None:
            await self.gate.wait()
        now = self.at(ts)
        match path.partition(":")[2]:
            case "get":
                key = args["key"].encode()
                value, reads = now.get(args["key"]), [(key, key + b"\0")]
            case "all":
                value, reads = now, [(b"", b"\xff")]
            case "who":
                subject = identity["subject"] if identity else None
                return Outcome(
                    True, orjson.dumps(subject), ts=ts, reads={TABLE: [(b"me", b"me\0")]}, used_identity=True
                )
            case "broken":
                raise RuntimeError("the worker fell over")
            case _:
                return Outcome.failed(NotFound(kind="function", name=path))
        return Outcome(True, orjson.dumps(value), ts=ts, reads={TABLE: reads}, journal=journal)

    async def mutation(
        self, path: str, args: dict[str, Any], *, identity: Any, request: Any = None, internal: bool = False
    ) -> Outcome:
        self.runs.append(path)
        ts = self.set(args["key"], args["value"], source=path)
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # the answer takes longer than the news
        return Outcome(True, ts=ts)

    async def action(
        self, path: str, args: dict[str, Any], *, identity: Any, on_progress: Any = None, internal: bool = False
    ) -> Outcome:
        self.runs.append(path)
        if self.gate is not None:
            await self.gate.wait()
        return Outcome(True, b'"done"', ts=self.ts)


async def settle() -> None:
    """Let everything that is ready happen."""
    for _ in range(30):
        await asyncio.sleep(0)
