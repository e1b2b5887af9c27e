"""`Database` for code that awaits: the same calls, on the caller's own event loop.

    db = cs.connect().aio
    await db.mutation(add_task, text="milk")
    async for tasks in db.subscribe(open_tasks): …

Nothing here blocks the loop: what needs a thread (shipping a function, one HTTP request) gets one. A task that is
cancelled stops waiting at once; a mutation it had sent may have happened, one it had not sent never will.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellstore.client.database import Callee, Database
    from cellstore.client.pages import Page
    from cellstore.client.subscription import Subscription, Together


class AsyncDatabase:
    """A database, awaited. Errors: those of the same method of `Database`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def query(self, path_or_fn: Callee, /, **args: Any) -> Any:
        """Run a query once, on the newest state."""
        return await asyncio.to_thread(self._database.query, path_or_fn, **args)

    async def mutation(self, path_or_fn: Callee, /, **args: Any) -> Any:
        """Run a mutation exactly once; returns when it is durable and every live view here shows it."""
        pending = await asyncio.to_thread(self._database.enqueue, path_or_fn, **args)
        return await pending

    async def action(self, path_or_fn: Callee, /, **args: Any) -> Any:
        """Run an action at most once."""
        return await asyncio.to_thread(self._database.action, path_or_fn, **args)

    def subscribe(
        self, path_or_fn: Callee, callback: Callable[[Any], object] | None = None, /, **args: Any
    ) -> Subscription:
        """Follow a query: `async for value in …`, `await ….auntil(predicate)`."""
        return self._database.subscribe(path_or_fn, callback, **args)

    def together(self, callback: Callable[[Any], object] | None = None, /, **queries: Any) -> Together:
        """Follow several queries as one."""
        return self._database.together(callback, **queries)

    async def pages(
        self, path_or_fn: Callee, size: int = 100, cursor: str | None = None, /, **args: Any
    ) -> AsyncIterator[Page]:
        """Every page of a paginated query, one after the other, all of one moment."""
        pages = await asyncio.to_thread(self._database.pages, path_or_fn, size, cursor, **args)
        while (page := await asyncio.to_thread(next, pages, None)) is not None:
            yield page

    async def close(self) -> None:
        """As `Database.close`."""
        await asyncio.to_thread(self._database.close)

    async def __aenter__(self) -> AsyncDatabase:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
