"""`Database` for code that awaits: the same calls, on the caller's own event loop.

    db = cs.connect().aio
    await db.mutation(add_task, text="milk")
    async for tasks in db.subscribe(open_tasks): …

Nothing that waits blocks the loop. Mutations and actions wait on the connection itself; what needs a thread (shipping a function,
one HTTP request) gets one, which nobody waits for at the end. A task that is cancelled, by Ctrl-C too, stops waiting at
once; a call it had sent may have happened, one it had not sent never will.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from cellstore.client.errors_render import doorway
from cellstore.client.pending import WAIT_STEP_S, Patience
from cellstore.client.progress import ActionBar

if TYPE_CHECKING:
    from cellstore.client.database import Callee, Database
    from cellstore.client.optimism import Update
    from cellstore.client.pages import Page
    from cellstore.client.pending import Pending
    from cellstore.client.subscription import Subscription, Together
    from cellstore.client.wire import Outcome

T = TypeVar("T")

THREADS_MAX = 32  # at work for one event loop at a time


class AsyncDatabase:
    """A database, awaited. Errors: those of the same method of `Database`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __repr__(self) -> str:
        return f"<{self._database!r}.aio: the same methods, awaited>"

    async def query(self, path_or_fn: Callee, /, **args: Any) -> Any:
        """Run a query once, on the newest state."""
        return await aside(self._database.query, path_or_fn, **args)

    async def mutation(self, path_or_fn: Callee, /, **args: Any) -> Any:
        """Run a mutation exactly once; returns when it is durable and every live view here shows it."""
        return await self._call("mutation", path_or_fn, args)

    async def action(self, path_or_fn: Callee, /, **args: Any) -> Any:
        """Run an action at most once."""
        return await self._call("action", path_or_fn, args)

    async def enqueue(self, path_or_fn: Callee, update: Update | None = None, /, **args: Any) -> Pending:
        """Call a mutation and go on, with its effects shown before it has happened; `await` what this returns for its end."""
        return await aside(self._database.enqueue, path_or_fn, update, **args)

    def subscribe(
        self, path_or_fn: Callee, callback: Callable[[Any], object] | None = None, /, **args: Any
    ) -> Subscription:
        """Follow a query: `async for value in …`, `await ….auntil(predicate)`.

        A function that the store does not know in its present form is shipped first, on a thread; when that fails, the
        subscription's error says why.
        """
        from cellstore.client.subscription import Subscription

        db = self._database
        with doorway():
            path, bound, handle = db._bound(path_or_fn, "query", args)
            db._check_open()
            before = None if handle is None else lambda: db._ship(handle)
            return Subscription(db.link, path, bound, callback, db.dispatch, before)

    def together(self, callback: Callable[[Any], object] | None = None, /, **queries: Any) -> Together:
        """Follow several queries as one; what is not shipped yet is, as in `subscribe`."""
        from cellstore.client.subscription import Together

        db = self._database
        with doorway():
            bound, ship = db._bound_together(queries)
            return Together(db.link, bound, callback, db.dispatch, ship)

    async def pages(
        self, path_or_fn: Callee, size: int = 100, cursor: str | None = None, /, **args: Any
    ) -> AsyncIterator[Page]:
        """Every page of a paginated query, one after the other, all of one moment."""
        pages = await aside(self._database.pages, path_or_fn, size, cursor, **args)
        while (page := await aside(next, pages, None)) is not None:
            yield page

    async def close(self) -> None:
        """As `Database.close`."""
        await aside(self._database.close)

    async def __aenter__(self) -> AsyncDatabase:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _call(self, kind: Literal["mutation", "action"], path_or_fn: Callee, args: dict[str, Any]) -> Any:
        db = self._database
        with doorway():
            path, checked = await aside(db._prepared, path_or_fn, kind, args)
            db._check_open()
            bar = ActionBar(path)
            future = db.link.request(kind, path, checked, bar.heard if kind == "action" else None)
            try:
                outcome = await self._answer(future, path, bar)
            finally:
                bar.close()
            if outcome.failure is None:
                return db._value(path, outcome)
            return await aside(db._value, path, outcome)  # raises; a missing function is looked for

    async def _answer(self, future: Future[Outcome], path: str, bar: ActionBar) -> Outcome:
        """As `Database._await`, without a thread."""
        db, patience, answer = self._database, Patience(self._database.link), asyncio.wrap_future(future)
        try:
            while not (await asyncio.wait([answer], timeout=WAIT_STEP_S))[0]:
                bar.draw()
                if patience.is_over():
                    raise await aside(db._given_up, future, path) from db.link.problem
            return answer.result()
        except asyncio.CancelledError:
            db.link.abandon(future)
            raise


_limits: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = weakref.WeakKeyDictionary()


async def aside(work: Callable[..., T], /, *args: Any, **named: Any) -> T:
    """`work(…)` on a thread, in the caller's context. Unlike an executor's, the thread holds up nobody's end."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()
    context = contextvars.copy_context()

    def tell(finish: Callable[[Any], None], what: Any) -> None:
        if not answer.done():  # else nobody waits any more
            finish(what)

    def run() -> None:
        finish: Callable[[Any], None]
        what: Any
        try:
            finish, what = answer.set_result, context.run(work, *args, **named)
        except BaseException as error:  # noqa: BLE001 - the thread's task ends here; whoever awaits hears of it
            finish, what = answer.set_exception, error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(tell, finish, what)

    async with _limits.setdefault(loop, asyncio.Semaphore(THREADS_MAX)):
        threading.Thread(target=run, name="cellstore-aside", daemon=True).start()
        return await answer
