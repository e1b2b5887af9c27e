"""The sync protocol on a WebSocket: frames to a connection, its frames to the wire.

Jupyter's login decides at the upgrade; whoever comes without credentials may open a socket and authenticate in band.
A socket that carries a login cookie from a foreign origin is refused. One writer per socket: the connection; it is told
when a frame it sent was only buffered, and when that frame has left.

Text goes straight into the stream, with a header made here: tornado's own way makes a task for each message, which costs
more than sending it. What is long is cut, in the way each client can take:

    npm 1.28 and later    TransitionChunk messages, so that its own timers see the parts come in
    everybody else        fragments of one message below 16 MiB, beyond which the Rust client gives up
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, cast

from jupyter_server.auth.decorator import allow_unauthenticated
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from tornado import web
from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketHandler

from cellstore.errors import CellstoreError
from cellstore.protocol.codec import CHUNK_CHARS, chunks, encode_frame
from cellstore.protocol.messages import Authenticate
from cellstore.reactivity.connection import Connection
from cellstore.reactivity.principal import NOBODY, Principal
from cellstore.server.handlers import Door

CONTINUATION, TEXT = 0x0, 0x1
FRAGMENT_BYTES = CHUNK_CHARS  # of a frame; Rust's client takes 16 MiB
TRANSITION = b'{"type":"Transition",'


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
        connection = cast(Any, self.ws_connection)
        if connection is None or connection.is_closing():
            return True  # on_close follows
        try:
            written = connection.stream.write(self._on_wire(frame))
        except StreamClosedError:
            return True
        if written.done():
            _done(written)
            return True
        written.add_done_callback(self._left)
        return False

    def _on_wire(self, frame: bytes) -> bytes:
        if len(frame) < FRAGMENT_BYTES:
            return header(True, TEXT, len(frame)) + frame
        if self._knows_chunks and frame.startswith(TRANSITION):
            parts = chunks(frame.decode(), f"{id(self):x}")
            return b"".join(fragmented(encode_frame(part)) for part in parts)
        return fragmented(frame)

    @property
    def _knows_chunks(self) -> bool:
        """Whether this is npm's client of a version that puts parts of a transition together: its path says so."""
        version = re.search(r"/api/(\d+)\.(\d+)\.[^/]*/sync$", self.request.path)
        return version is not None and (int(version[1]), int(version[2])) >= (1, 28)

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


def header(final: bool, opcode: int, size_bytes: int) -> bytes:
    """The header of a frame from a server: not masked."""
    first = (0x80 if final else 0) | opcode
    if size_bytes < 126:
        return bytes((first, size_bytes))
    if size_bytes < 1 << 16:
        return bytes((first, 126)) + size_bytes.to_bytes(2, "big")
    return bytes((first, 127)) + size_bytes.to_bytes(8, "big")


def fragmented(text: bytes) -> bytes:
    """One text message, in as many frames as it takes."""
    frames: list[bytes] = []
    for start in range(0, max(len(text), 1), FRAGMENT_BYTES):
        piece = text[start : start + FRAGMENT_BYTES]
        frames += [header(start + FRAGMENT_BYTES >= len(text), CONTINUATION if start else TEXT, len(piece)), piece]
    return b"".join(frames)
