"""A mutation that was called and not waited for: `db.enqueue(add_task, text="milk")`.

waiting    there is no connection, or others go first; it goes out as soon as it may
sent       on the wire; sent again under the same number should the connection break, and run once all the same
answered   durable; its effects are about to be visible here
done       `result()` gives its value or raises its error
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any

from cellstore.client.control import PATIENCE_S
from cellstore.client.loop import wait
from cellstore.client.transport import Link
from cellstore.client.wire import Outcome
from cellstore.errors import CallerError

WAIT_STEP_S = 0.25


class Patience:
    """How long one call waits for a connection that is away: not at all for one that cannot come back."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._away_since: float | None = None

    def is_over(self) -> bool:
        """Asked every `WAIT_STEP_S`."""
        now = time.monotonic()
        self._away_since = None if self._link.state == "connected" else self._away_since or now
        most = 0.0 if isinstance(self._link.problem, CallerError) else PATIENCE_S
        return self._away_since is not None and now - self._away_since >= most


class Pending:
    """A mutation on its way. Waits in a blocking call or by `await`; nobody needs to wait for it at all."""

    def __init__(self, path: str, link: Link, future: Future[Outcome], read: Callable[[str, Outcome], Any]) -> None:
        self.path = path
        self._link, self._future, self._read = link, future, read

    @property
    def state(self) -> str:
        """waiting, sent, answered, done."""
        return self._link.progress(self._future)

    @property
    def done(self) -> bool:
        """Whether `result` returns at once."""
        return self._future.done()

    def result(self, timeout: float | None = None) -> Any:
        """What the mutation returned, once its effects are visible here.

        Errors: the mutation's own; TimeoutError; Disconnected when the database is closed before.
        """
        self._link.check_process()
        return self._read(self.path, wait(self._future, timeout))

    def cancel(self) -> bool:
        """Never send it, or send it again: it is done, in error. True when it may have happened all the same."""
        return wait(self._link.abandon(self._future))

    def __await__(self) -> Generator[Any, None, Any]:
        return self._awaited().__await__()

    async def _awaited(self) -> Any:
        self._link.check_process()
        try:
            return self._read(self.path, await asyncio.shield(asyncio.wrap_future(self._future)))
        except asyncio.CancelledError:
            self._link.abandon(self._future)
            raise

    def __repr__(self) -> str:
        return f"<Pending {self.path} {self.state}>"
