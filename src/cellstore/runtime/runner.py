"""The contract of everything that runs user functions.

    outcome = await runner.mutation("tasks:add_task", {"text": "…"}, identity=None)

Two implementations keep it: `PoolRunner` (worker processes) and `InlineRunner` (this process). A call always comes to
an `Outcome`, also when its worker dies; only `FatalError` and cancellation of the waiting task are raised.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from cellstore.deploy.unit import Unit
from cellstore.runtime.log_stream import LogStream
from cellstore.runtime.outcome import Identity, Outcome
from cellstore.web import Head, Request

if TYPE_CHECKING:
    from cellstore.transaction.requests import Commit

LogSink = Callable[[str], None]
"""Told each log line of a running action, as it is written."""


ProgressSink = Callable[[float, "float | None", str], None]
"""Told how far a running action is: done, total if known, note."""

HttpSend = Callable[["Head | bytes"], Awaitable[None]]
"""Takes the head of a response, then the pieces of its body; returns when the next may come."""


OnVisible = Callable[["Sequence[Commit]"], None]
"""Told on the loop of commits of mutations that are written, while they become durable; see `Committer.commit`."""


class Runner(Protocol):
    """Runs deployed functions by path (`module:name`).

    Paths    the canonical `module:name`; also `module.py:name`, `module.name`, and `module` for `module:default`
    Order    mutations of one caller that must not overtake each other are awaited one after another by the caller
    Errors   as outcomes; a full queue is the outcome `Overloaded`, an unknown path the outcome `NotFound`
    Access   internal functions answer `NotFound` unless `internal=True`; only trusted callers pass it
    """

    logs: LogStream
    on_visible: OnVisible | None

    async def start(self) -> None:
        """Load the deployed functions, start workers and the scheduler. Calls before this fail."""
        ...

    async def stop(self) -> None:
        """Finish nothing more: running calls get an error outcome, processes end, threads are joined."""
        ...

    def query(
        self,
        path: str,
        args: dict[str, Any],
        *,
        identity: Identity | None = None,
        ts: int | None = None,
        journal: str | None = None,
        internal: bool = False,
    ) -> Awaitable[Outcome]:
        """Run a query at `ts` (the newest snapshot when None). `.reads` tells what would change the answer."""
        ...

    def mutation(
        self,
        path: str,
        args: dict[str, Any],
        *,
        identity: Identity | None = None,
        request: tuple[str, int] | None = None,
        internal: bool = False,
    ) -> Awaitable[Outcome]:
        """Run a mutation and commit it; durable once the outcome is there, with `ok`.

        `request` is (session id, request number): the same pair again returns the first outcome and changes nothing.
        """
        ...

    async def action(
        self,
        path: str,
        args: dict[str, Any],
        *,
        identity: Identity | None = None,
        on_log: LogSink | None = None,
        on_progress: ProgressSink | None = None,
        internal: bool = False,
    ) -> Outcome:
        """Run an action, at most once. Cancelling the awaiting task cancels the action."""
        ...

    async def http(self, request: Request, *, identity: Identity | None = None, send: HttpSend) -> Outcome:
        """Have the HTTP action of the request's route answer it; the response goes to `send`.

        An outcome that is an error before anything was sent is the caller's to word; afterwards the response is torn.
        """
        ...

    def has_route(self, method: str, path: str) -> bool:
        """Whether an HTTP action takes such a request."""
        ...

    async def bulk(self, table: str, ndjson: bytes) -> tuple[int, int]:
        """Insert newline-separated native JSON objects into `table`, in order: (count, timestamp of the last commit).

        Parts of a thousand rows are commits of their own where they can be (see `parts_of`): one is prepared, in a worker,
        while the one before it is written. Raises on refusal, at a row counted from 0, with `.inserted` documents in.
        """
        ...

    async def deploy(self, unit: Unit) -> dict[str, Any]:
        """Have `unit` join its module, see `deploy.merge`. Raises `DeployError` or `ValidationError`; then nothing changed."""
        ...

    async def drop(self, paths: Sequence[str]) -> dict[str, Any]:
        """Take functions away, with their schedules. Raises `NotFound` for one that is not there; then nothing changed."""
        ...

    def functions(self) -> list[dict[str, Any]]:
        """Every deployed function: path, kind, visibility, args, returns, doc, hash, module."""
        ...
