"""Files over HTTP: the address is the permission.

    POST api/storage/upload?token=…     the body as it is, with Content-Type, perhaps Digest: sha-256=…   → {"storageId"}
    GET  api/storage/<uuid>             the file; one Range of it; nothing, if the copy at the other end is still good

Neither holds more than a piece of a file in memory. An upload that nobody feeds for IDLE_S is given up.

What a file holds is not a page of this Jupyter server: browsers are told to keep scripts in it away from the login of who
looks at it.
"""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from typing import IO, Any

from jupyter_server.auth.decorator import allow_unauthenticated
from tornado.iostream import StreamClosedError

from cellstore.errors import CellstoreError, Corruption, ValidationError
from cellstore.server.actions import SANDBOX
from cellstore.server.handlers import PIECE_BYTES, HttpHandler
from cellstore.transaction.files import Incoming, opened

CACHED_S = 30 * 86_400
IDLE_S = 120.0  # between two pieces of an upload: a computer that fell asleep does not hang up
_LAST = 10**18  # no file has so many bytes
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})\Z")


class UploadHandler(HttpHandler):
    """One file on its way in."""

    _incoming: Incoming | None = None
    _patience: asyncio.TimerHandle | None = None

    async def expect(self) -> None:
        """Before the body: whether it is wanted."""
        if self.request.method != "POST":
            return
        try:
            self.bound_body(self.app.limits.file_size_bytes, " (knob file_size_bytes)")
            stranger = self.app.doorkeeper(self.deployment_name).stranger
            deployment = await self.deployment(stranger)
            self._incoming = deployment.incoming(
                self.get_query_argument("token", ""), self.request.headers.get("Content-Type")
            )
            self._wait_for_more()
        except CellstoreError as error:
            self.hang_up(error)

    async def data_received(self, chunk: bytes) -> None:
        """A piece of it."""
        self._stop_waiting()
        incoming, problem = self._incoming, None
        if incoming is None:
            return
        try:
            await asyncio.to_thread(incoming.write, chunk)
        except CellstoreError as error:
            problem = error
        if self._incoming is not incoming:
            return  # it was given up meanwhile, and nobody listens
        if problem is None:
            self._wait_for_more()
        else:
            self.hang_up(problem)

    @allow_unauthenticated
    async def post(self, **_named: str) -> None:
        """All of it is here."""
        self._stop_waiting()
        with self.refusing():
            incoming, self._incoming = self._incoming, None
            assert incoming is not None
            try:
                arrived = await asyncio.to_thread(incoming.finish, digest_of(self.request.headers.get("Digest")))
            except BaseException:
                incoming.drop()
                raise
            deployment = await self.deployment(self.app.doorkeeper(self.deployment_name).stranger)
            self.answer({"storageId": deployment.keep_file(arrived)})

    def _wait_for_more(self) -> None:
        connection: Any = self.request.connection
        self._stop_waiting()
        self._patience = asyncio.get_running_loop().call_later(IDLE_S, connection.stream.close)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()

    def on_finish(self) -> None:
        """It has been answered."""
        self._drop()
        super().on_finish()

    def on_connection_close(self) -> None:
        """The other side went away in the middle."""
        self._drop()
        super().on_connection_close()

    def _drop(self) -> None:
        self._stop_waiting()
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            incoming.drop()


class FileHandler(HttpHandler):
    """One file on its way out."""

    SUPPORTED_METHODS = ("GET", "HEAD", "OPTIONS")

    @allow_unauthenticated
    async def get(self, name: str, **_named: str) -> None:
        """All of it, or the range that was asked for."""
        with self.refusing():
            deployment = await self.deployment(self.app.doorkeeper(self.deployment_name).stranger)
            path, known = deployment.file(name)
            with await asyncio.to_thread(_opened, path, int(known["size"])) as file:
                self._describe(known)
                if self.check_etag_header():
                    self.set_status(304)
                    self.finish()
                    return
                begin, end = self._range(int(known["size"]))
                self.set_header("Content-Length", str(end - begin))
                await self._pass_on(file, begin, end)

    head = get

    def compute_etag(self) -> None:
        """None: `_describe` says it, without looking at the bytes."""

    def _describe(self, known: dict[str, Any]) -> None:
        for name, value in SANDBOX.items():
            self.set_header(name, value)
        self.set_header("Content-Type", known.get("contentType") or "application/octet-stream")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Digest", f"sha-256={known['sha256']}")
        self.set_header("Etag", f'"{known["sha256"]}"')
        self.set_header("Cache-Control", f"private, max-age={CACHED_S}")
        self.set_header("Accept-Ranges", "bytes")

    def _range(self, size: int) -> tuple[int, int]:
        """Begin and end of what was asked for; all of it where no range makes sense of what was said."""
        asked = self._asked_range()
        if asked is None:
            return 0, size
        first, last = asked
        begin = max(0, size - last) if first is None else first
        end = size if first is None else min(size, last + 1)
        if begin >= end:
            for name in ("Cache-Control", "Digest", "Etag"):
                self.clear_header(name)  # they are the file's, and this is none of it
            self.set_header("Content-Range", f"bytes */{size}")
            raise RangeNotSatisfiable(f"the file has {size:,} bytes and none in the range that was asked for")
        self.set_status(206)
        self.set_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
        return begin, end

    def _asked_range(self) -> tuple[int | None, int] | None:
        """First and last byte, or None and how many of the end; None for all of it."""
        headers = self.request.headers
        asked = _RANGE.match(headers.get("Range", ""))
        is_same = headers.get("If-Range") in (None, self._headers["Etag"])
        if asked is None or asked[0] == "bytes=-" or self.request.method != "GET" or not is_same:
            return None
        first = int(asked[1]) if asked[1] else None
        last = int(asked[2]) if asked[2] else _LAST
        return None if first is not None and last < first else (first, last)

    async def _pass_on(self, file: IO[bytes], begin: int, end: int) -> None:
        if self.request.method == "HEAD":
            self.finish()
            return
        file.seek(begin)
        try:
            while piece := await asyncio.to_thread(file.read, min(PIECE_BYTES, end - begin)):
                begin += len(piece)
                self.write(piece)
                await self.flush()
        except StreamClosedError:
            return  # the other side has enough
        self.finish()


def _opened(path: Path, size: int) -> IO[bytes]:
    """The bytes of a file, before anything is said of them. Errors: NotFound; Corruption when they are not all there."""
    file = opened(path)
    there = os.fstat(file.fileno()).st_size
    if there != size:
        file.close()
        raise Corruption(
            f"of the {size:,} bytes of this file {there:,} are on the disk: bring {path.name} back from a copy"
        )
    return file


class RangeNotSatisfiable(ValidationError):
    """No byte of the file is in the range that was asked for."""

    http_status = 416


def digest_of(header: str | None) -> str | None:
    """The SHA-256 that a Digest header promises. Errors: ValidationError."""
    if header is None:
        return None
    for each in header.split(","):
        algorithm, _, digest = each.strip().partition("=")
        if algorithm.lower() == "sha-256":
            return digest
    raise ValidationError(path="Digest", expected="sha-256=<base64>", got=header[:60])
