"""The same engine in this process: a deployment on a thread of its own, and a link to it without a socket.

Frames are the very bytes a WebSocket would carry, so everything above the link is the same as with a server.

Order:   the deployment starts before `open_embedded` returns and stops, store closed and lease given back, before
         `close` returns.
Errors:  StoreLocked, as the storage raises it, when another process has the store open; CallerError from `close` when a
         function does not end.
"""

from __future__ import annotations

from contextlib import closing
from typing import IO, Any

from cellstore.client.control import pour
from cellstore.client.loop import LoopThread
from cellstore.client.transport import Link
from cellstore.errors import CallerError, FatalError

STOP_TIMEOUT_S = 30.0
REDIAL_S = 0.1  # the session closed itself (a queue overflowed, a frame did not fit); begin another, not in a rush


class Embedded:
    """A deployment inside this process."""

    def __init__(self, path: str) -> None:
        from cellstore.server.deployment import Deployment

        self.thread = LoopThread("cellstore-embedded")
        try:
            self._deployment: Any = self.thread.run(_start(Deployment, path))
        except BaseException:
            self.thread.stop()
            raise
        self.link = EmbeddedLink(self.thread, self._deployment)

    def control(
        self, op: str, params: dict[str, Any], body: bytes = b"", *, sink: IO[bytes] | None = None
    ) -> tuple[dict[str, Any], bytes]:
        """One control operation, as the HTTP door offers it."""
        answer, octets = self.thread.run(self._deployment.control(op, params, body))
        if isinstance(octets, bytes):
            return answer, octets
        with closing(octets):
            if sink is None:
                return answer, octets.read(-1)
            pour(octets, sink)
            return answer, b""

    def close(self) -> None:
        """Stop the deployment and its thread. Again is fine."""
        if self.thread.is_usable:
            self.link.close()
            try:
                self.thread.run(self._deployment.stop(), STOP_TIMEOUT_S)
            except TimeoutError:
                raise CallerError(
                    f"a function still runs after {STOP_TIMEOUT_S:g} s, an endless loop perhaps; it runs in this process, "
                    "which does not end before it: end the process (a server would have ended the function)",
                    code="StillRunning",
                ) from None
            finally:
                self.thread.stop()


async def _start(deployment: Any, path: str) -> Any:
    made = deployment(path, runner="inline")
    await made.start()
    return made


class EmbeddedLink(Link):
    """A link that hands frames over on the loop both sides share."""

    def __init__(self, loop: LoopThread, deployment: Any) -> None:
        super().__init__(loop)
        self._deployment = deployment
        self._connection: Any = None
        loop.run(self._dial())

    async def _dial(self) -> None:
        try:
            self._connection = self._deployment.connect(self._arrived, self._ended)
        except FatalError as stopped:
            self._stop(stopped)  # it is not opened again in this process
        else:
            self._opened()

    def _send(self, text: str) -> None:
        if self._connection is not None:
            self._connection.receive(text)

    def _arrived(self, text: str | bytes) -> None:
        self.thread.loop.call_soon(self._received, text)  # never inside our own `_perform`

    def _ended(self, code: int, reason: str) -> None:
        self._drop(reason or f"closed with code {code}")

    def _drop(self, reason: str) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and self.state != "closed":
            connection.closed()
            self._lost(reason)
            self.thread.loop.call_later(REDIAL_S, lambda: self.thread.loop.create_task(self._dial()))

    async def _close(self) -> None:
        await super()._close()
        if self._connection is not None:
            self._connection.closed()
