"""WebSocket frames: how a text is put on the wire, and a connection of its own for a socket whose upgrade is done.

    tornado: login, origin, upgrade ─▶ takeover(stream) ─▶ Framer on the loop's own transport

After the upgrade tornado spends some 45 µs on a message in and one out, most of it in futures and tasks; a plain
transport with `websockets` to parse needs a quarter. Where TLS lies in between, tornado keeps the stream (`socket`).

What is long is cut, in the way each client can take:

    npm 1.28 and later    TransitionChunk messages, so that its own timers see the parts come in
    everybody else        fragments of one message below 16 MiB, beyond which the Rust client gives up

Invariant  texts leave in the order they were put; those of one turn of the loop leave in one write
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import cast

from tornado.iostream import IOStream
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, SEND_EOF, Protocol, Side

from cellstore.protocol.codec import CHUNK_CHARS, chunks, encode_frame
from cellstore.runtime.calls import receive_buffer

FRAGMENT_BYTES = CHUNK_CHARS  # of a frame; Rust's client takes 16 MiB
TRANSITION = b'{"type":"Transition",'
CLOSE_WAIT_S = 5.0  # how long the other side may take to agree that it is over
UNHEARD_BYTES_MAX = 1 << 20  # of answers to pings, for a client that takes nothing


def on_wire(text: bytes, chunked: bool) -> bytes:
    """The frames of one text. `chunked`: this client puts the parts of a transition together by itself."""
    if len(text) < FRAGMENT_BYTES:
        return header(True, Opcode.TEXT, len(text)) + text
    if chunked and text.startswith(TRANSITION):
        parts = chunks(text.decode(), f"{id(text):x}")
        return b"".join(fragmented(encode_frame(part)) for part in parts)
    return fragmented(text)


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
        opcode = Opcode.CONT if start else Opcode.TEXT
        frames += [header(start + FRAGMENT_BYTES >= len(text), opcode, len(piece)), piece]
    return b"".join(frames)


def takeover(stream: IOStream) -> tuple[socket.socket, bytes]:
    """The socket of a tornado stream that has sent all it had to send, and what had been read from it already."""
    stream.set_close_callback(None)
    reading = cast("asyncio.Future[bytes]", stream.read_bytes(1 << 16, partial=True))
    early = reading.result() if reading.done() else b""  # a client that did not wait for the answer to its upgrade
    ours = stream.socket.dup()
    stream.close()
    return ours, early


_thread = threading.local()


def _shared_buffer() -> memoryview:
    """What all connections of a thread receive into: a transport fills it and has it read before it does anything else."""
    if not hasattr(_thread, "received"):
        _thread.received = receive_buffer()
    return cast(memoryview, _thread.received)


class Framer(asyncio.BufferedProtocol):
    """A server's end of an upgraded connection.

    `put(text)` sends; false when it has to wait for a slow reader, and then `on_sent` is called as it leaves. `on_open()`
    is told that it may begin, `on_text(text)` what came, `on_closed()` once that it is over. A client that breaks the
    protocol, sends more than `size_max` bytes at once, pings without taking the answers, or is not heard of for two
    intervals is cut off.

    Order: all on the loop's thread.
    """

    def __init__(
        self,
        on_open: Callable[[], None],
        on_text: Callable[[bytes], None],
        on_sent: Callable[[], None],
        on_closed: Callable[[], None],
        *,
        size_max: int,
        ping_interval_s: float,
        chunked: bool = False,
    ) -> None:
        self._on_open, self._on_text, self._on_sent, self._on_closed = on_open, on_text, on_sent, on_closed
        self._chunked, self._ping_interval_s = chunked, ping_interval_s
        self._protocol = Protocol(Side.SERVER, state=OPEN, max_size=size_max)
        self._buffer = _shared_buffer()
        self._transport: asyncio.Transport
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._begun = bytearray()  # a message that comes in fragments, so far
        self._heard = True  # since the last ping
        self._turn: list[bytes] = []  # frames to be written at the end of this turn
        self._full = False  # the transport holds what the other side has not taken,
        self._unheard = 0  # and so many bytes of answers behind it
        self._waiting: deque[bytes] = deque()  # texts for when it has,
        self._is_leaving = False  # and whether the transport holds one of those

    # Out

    def put(self, text: bytes) -> bool:
        """Send one text."""
        if self._protocol.state is not OPEN:
            return True  # on_closed follows
        if self._full or self._waiting:
            self._waiting.append(text)
            return False
        if not self._turn:
            self._loop.call_soon(self._flush)
        self._turn.append(on_wire(text, self._chunked))
        return True

    def close(self, code: int, reason: str) -> None:
        """Say that it is over, and why; whoever does not answer is cut off."""
        if self._protocol.state is OPEN:
            self._waiting.clear()
            self._protocol.send_close(code, reason)
            self._answer()

    def _flush(self) -> None:
        turn, self._turn = self._turn, []
        if turn and not self._transport.is_closing():
            self._transport.write(b"".join(turn))

    def _answer(self) -> None:
        """Send what the protocol has to say: pongs, closes."""
        for data in self._protocol.data_to_send():
            self._flush()
            if data != SEND_EOF:
                self._transport.write(data)
                self._unheard = self._unheard + len(data) if self._full else 0
            elif self._transport.can_write_eof():
                self._transport.write_eof()
        if self._unheard > UNHEARD_BYTES_MAX:
            self._transport.abort()
        if self._protocol.close_expected():
            self._plan(CLOSE_WAIT_S, self._transport.abort)

    def pause_writing(self) -> None:
        """The transport: not everything could be written."""
        self._full = True

    def resume_writing(self) -> None:
        """The transport: everything is out."""
        self._full = False
        if self._is_leaving:
            self._is_leaving = False
            self._on_sent()
        while self._waiting:
            self._transport.write(on_wire(self._waiting.popleft(), self._chunked))
            if self._transport.get_write_buffer_size():  # and `_full` again
                self._is_leaving = True
                return
            self._on_sent()

    # In

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The transport has the socket."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(0)
        if self._ping_interval_s > 0:
            self._plan(self._ping_interval_s, self._ping)
        self._on_open()

    def get_buffer(self, _size_hint: int) -> memoryview:
        """The transport: where is what comes to be put?"""
        return self._buffer

    def buffer_updated(self, size: int) -> None:
        """The transport: so much has come."""
        self.data_received(self._buffer[:size].tobytes())

    def data_received(self, data: bytes) -> None:
        """Something came."""
        self._heard = True
        self._protocol.receive_data(data)
        for frame in self._protocol.events_received():
            self._received(cast(Frame, frame))
        self._answer()

    def _received(self, frame: Frame) -> None:
        if frame.opcode in (Opcode.TEXT, Opcode.CONT):
            if frame.fin and not self._begun:
                self._on_text(bytes(frame.data))
                return
            self._begun += frame.data
            if frame.fin:
                text, self._begun = bytes(self._begun), bytearray()
                self._on_text(text)
        elif frame.opcode is Opcode.BINARY:
            self.close(1003, "BadRequest: frames are text")

    def eof_received(self) -> None:
        """The other side sends no more; the transport closes."""
        self._protocol.receive_eof()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the same to us
        """It is over."""
        if self._timer is not None:
            self._timer.cancel()
        self._waiting.clear()
        self._on_closed()

    # Time

    def _ping(self) -> None:
        if not self._heard or self._protocol.state is not OPEN:
            self._transport.abort()
            return
        self._heard = False
        self._protocol.send_ping(b"")
        self._answer()
        self._plan(self._ping_interval_s, self._ping)

    def _plan(self, after_s: float, what: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(after_s, what)
