"""The sync protocol on a WebSocket: frames to a connection, its frames to the wire.

Jupyter's login decides at the upgrade; whoever comes without credentials may open a socket and authenticate in band.
A socket that carries a login cookie from a foreign origin is refused. One writer per socket: the connection; it is told
when a frame it sent was only buffered, and when that frame has left.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from jupyter_server.auth.decorator import allow_unauthenticated
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from tornado import web
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from cellstore.errors import CellstoreError
from cellstore.protocol.messages import Authenticate
from cellstore.reactivity.connection import Connection
from cellstore.reactivity.principal import NOBODY, Principal
from cellstore.server.handlers import Door


class SyncSocket(Door, WebSocketMixin, WebSocketHandler, JupyterHandler):
    """`api/sync` and `api/<client version>/sync`."""

    auth_resource = "cellstore"
    _connection: Connection | None = None
    _who: Principal = NOBODY

    def set_default_headers(self) -> None:
        """Meaningless on a socket."""

    def check_xsrf_cookie(self) -> None:
        """An upgrade is a GET; the origin is checked instead."""

    @property
    def max_message_size(self) -> int:
        """Bytes of one message; arguments up to 16 MiB must fit."""
        return self.app.limits.frame_size_bytes

    def check_origin(self, origin: str | None = None) -> bool:
        """Foreign origins may come with nothing, or with credentials no browser sends by itself."""
        if self._who.kind != "user" or self.token_authenticated:
            return True
        return bool(super().check_origin(origin))

    @allow_unauthenticated
    async def get(self, *args: Any, **kwargs: Any) -> None:
        """The upgrade."""
        try:
            self._who = await self.identify()
            self._deployment = await self.deployment(self._who)
        except CellstoreError as error:
            status = 403 if error.http_status == 401 else error.http_status
            raise web.HTTPError(status, "%s", error.message, reason=error.code) from error
        await super().get(*args, **kwargs)

    def open(self, *args: Any, **kwargs: Any) -> None:
        """The socket is open."""
        super().open(*args, **kwargs)
        self.set_nodelay(True)
        try:
            self._connection = self._deployment.connect(self._put, self._shut, self._who, self._verify)
        except CellstoreError as error:  # it stopped in between
            self.close(1013, error.code)

    def on_message(self, message: str | bytes) -> None:
        """One frame."""
        if isinstance(message, bytes):
            self.close(1003, "BadRequest: frames are text")
        elif self._connection is not None:
            self._connection.receive(message)

    def on_close(self) -> None:
        """Either side closed it, or it broke."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.closed()
        super().on_close()

    def write_error(self, status_code: int, **kwargs: Any) -> None:  # noqa: ARG002 - tornado's signature
        """A refused upgrade: plain text, no page."""
        error = kwargs.get("exc_info", (None, None))[1]
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        said = error.log_message % error.args if isinstance(error, web.HTTPError) and error.log_message else ""
        self.finish(said or "the upgrade was refused")

    async def _verify(self, request: Authenticate) -> Principal:
        return await self.app.doorkeeper(self.deployment_name).verify(self, request)

    def _put(self, frame: bytes) -> bool:
        """Send one text frame; false when it is only buffered."""
        try:
            written = self.write_message(frame)
        except WebSocketClosedError:
            return True  # on_close follows
        if self.ws_connection is None or not cast(Any, self.ws_connection).stream.writing():
            written.add_done_callback(_done)
            return True
        written.add_done_callback(self._left)
        return False

    def _left(self, written: asyncio.Future[None]) -> None:
        _done(written)
        if self._connection is not None:
            self._connection.sent()

    def _shut(self, code: int, reason: str) -> None:
        self.close(code, reason)


def _done(written: asyncio.Future[None]) -> None:
    """Look at the outcome, so that a socket that closed meanwhile is not reported as a lost exception."""
    if not written.cancelled():
        written.exception()
