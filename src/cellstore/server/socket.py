"""The sync protocol on a WebSocket: frames to a connection, its frames to the wire.

Jupyter's login decides at the upgrade; whoever comes without credentials may open a socket and authenticate in band.
A socket that carries a login cookie from a foreign origin is refused. One writer per socket: the connection; it is told
when a frame it sent was only buffered, and when that frame has left.

Once open, the socket is taken from tornado and served by a `Framer`, unless TLS lies in between.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable
from typing import Any, cast

from jupyter_server.auth.decorator import allow_unauthenticated
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from tornado import web
from tornado.iostream import SSLIOStream, StreamClosedError
from tornado.websocket import WebSocketHandler, WebSocketProtocol

from cellstore.errors import CellstoreError, Overloaded
from cellstore.protocol.messages import Authenticate
from cellstore.reactivity.connection import CloseSocket, Connection, SendFrame
from cellstore.reactivity.principal import NOBODY, Principal
from cellstore.reactivity.session import close_reason
from cellstore.server.framing import Framer, on_wire, takeover
from cellstore.server.handlers import Door


@web.stream_request_body
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

    def get_websocket_protocol(self) -> WebSocketProtocol | None:
        """Without tornado's pings: Jupyter has its own, and counts in milliseconds what tornado takes for seconds."""
        protocol = super().get_websocket_protocol()
        if protocol is not None:
            cast(Any, protocol).params.ping_interval = None
        return protocol

    def open(self, *args: Any, **kwargs: Any) -> Awaitable[None] | None:
        """The socket is open."""
        self.set_nodelay(True)
        if not self._is_encrypted:
            return self._serve_by_ourselves()
        super().open(*args, **kwargs)
        self._connect(self._put, self.close)
        return None

    @property
    def _is_encrypted(self) -> bool:
        return isinstance(self._wire.stream, SSLIOStream)

    @property
    def _wire(self) -> Any:
        """Tornado's end of the connection."""
        return cast(Any, self.ws_connection)

    def _connect(self, send: SendFrame, close: CloseSocket) -> None:
        try:
            self._connection = self._deployment.connect(send, close, self._who, self._verify)
        except Overloaded as full:
            close(1013, close_reason(f"{full.code}: {full.message}"))
        except CellstoreError as error:  # it stopped in between
            close(1013, error.code)

    async def _serve_by_ourselves(self) -> None:
        """Until either side closes; tornado has nothing left to do then."""
        wire, over = self._wire, asyncio.get_running_loop().create_future()

        def opened() -> None:
            self._connect(framer.put, framer.close)
            if early:
                framer.data_received(early)

        framer = Framer(
            opened,
            self._received,
            self._sent,
            lambda: over.set_result(None),
            size_max=self.max_message_size,
            ping_interval_s=self.ping_interval / 1000,
            chunked=self._knows_chunks,
        )
        wire.client_terminated = wire.server_terminated = True  # as far as tornado is concerned
        try:
            await wire.stream.write(b"")  # the answer to the upgrade has left
            ours, early = takeover(wire.stream)
        except StreamClosedError:  # so has the client
            return
        await asyncio.get_running_loop().connect_accepted_socket(lambda: framer, ours)
        await over

    def _received(self, text: str | bytes) -> None:
        if self._connection is not None:
            self._connection.receive(text)

    def _sent(self) -> None:
        if self._connection is not None:
            self._connection.sent()

    def on_message(self, message: str | bytes) -> None:
        """One frame."""
        if isinstance(message, bytes):
            self.close(1003, "BadRequest: frames are text")
        else:
            self._received(message)

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
        connection = cast(Any, self.ws_connection)
        if connection is None or connection.is_closing():
            return True  # on_close follows
        try:
            written = connection.stream.write(on_wire(frame, self._knows_chunks))
        except StreamClosedError:
            return True
        if written.done():
            _done(written)
            return True
        written.add_done_callback(self._left)
        return False

    @property
    def _knows_chunks(self) -> bool:
        """Whether this is npm's client of a version that puts parts of a transition together: its path says so."""
        version = re.search(r"/api/(\d+)\.(\d+)\.[^/]*/sync$", self.request.path)
        return version is not None and (int(version[1]), int(version[2])) >= (1, 28)

    def _left(self, written: asyncio.Future[None]) -> None:
        _done(written)
        self._sent()


def _done(written: asyncio.Future[None]) -> None:
    """Look at the outcome, so that a socket that closed meanwhile is not reported as a lost exception."""
    if not written.cancelled():
        written.exception()
