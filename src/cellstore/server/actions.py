"""HTTP actions: any request below `{base}cellstore/http/` goes to the function whose route fits.

A small body is taken first, then the function is called; a large one, or one of unknown length, arrives while it runs, no
faster than it reads. What it answers is passed on as it comes, no faster than the client reads. Credentials that prove
nothing are ignored, as in Convex: the function is then called for whoever anonymous callers are, which is nobody at all
unless they are switched on.

Pages that functions make are not pages of this Jupyter server: unless the function says otherwise they are sandboxed, so
that a script in one cannot act with the login of who looks at it, nor pass for one of this server's own by its Referer,
which Jupyter goes by.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from jupyter_server.auth.decorator import allow_unauthenticated
from tornado.iostream import StreamClosedError

from cellstore.errors import CallerError, CellstoreError, Disconnected
from cellstore.reactivity.principal import Principal
from cellstore.reactivity.result import failure_text
from cellstore.runtime.outcome import ErrorInfo
from cellstore.server.handlers import HttpHandler
from cellstore.web import METHODS, Arriving, Head, Request

TAKEN_FIRST_BYTES = 1 << 18  # a body up to this size is there before its function is called
PIECES_MAX = 8  # of a larger one between the socket and the function; tornado makes them 64 KiB
SANDBOX = {
    "Content-Security-Policy": "sandbox allow-scripts allow-forms allow-popups allow-downloads",
    "Referrer-Policy": "no-referrer",
}
_NOT_THEIRS = {"connection", "content-length", "keep-alive", "transfer-encoding", "upgrade", "trailer"}


class Upload:
    """A body between the socket and the function: a few pieces, then the socket is not read."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Semaphore(PIECES_MAX)
        self._has_reader = True
        self.arriving = Arriving(self._taken)
        self.wasted = 0  # bytes that came when nobody wanted them any more

    async def put(self, piece: bytes) -> None:
        """Hand over a piece when there is room."""
        if self._has_reader:
            await self._room.acquire()
            self.arriving.feed(piece)
        else:
            self.wasted += len(piece)

    def _taken(self) -> None:
        """From the reader's thread: there is room for one more."""
        self._loop.call_soon_threadsafe(self._room.release)

    def leave(self) -> None:
        """The function is over: what still comes is dropped."""
        self._has_reader = False
        self._room.release()


class HttpActionHandler(HttpHandler):
    """One request, one HTTP action."""

    SUPPORTED_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    _upload: Upload | None = None  # a body that arrives while the function runs

    async def expect(self) -> None:
        """Before the body: turn strangers away, refuse one that says that it is too large, and cut off one that only is."""
        self._body = bytearray()
        self._began = self._is_torn = False
        self._refusal: Callable[[], None] | None = None
        self._who = await self._caller()
        try:
            if self.request.method != "OPTIONS" and (refused := self._who.refusal("write")) is not None:
                raise refused
            self.bound_body(self.app.limits.http_stream_bytes, " (knob http_stream_bytes)")
        except CellstoreError as refused:
            self.set_header("Connection", "close")  # the body is not waited for
            self.fail(ErrorInfo.of(refused), owner=False)
            return
        size = self.announced_bytes()
        if (size is None or size > TAKEN_FIRST_BYTES) and self.request.method != "OPTIONS":
            self._upload = Upload()
            self._answering = asyncio.ensure_future(self._answer(*self.path_args, **self.path_kwargs))

    async def data_received(self, chunk: bytes) -> None:
        """A piece of the request's body; returns when the next may come."""
        if self._upload is None:
            super().data_received(chunk)
        else:
            await self._upload.put(chunk)
            if self._upload.wasted > self.app.limits.http_body_bytes:
                self._end()  # without hearing them out

    def on_connection_close(self) -> None:
        """The client has gone, perhaps in the middle of its body."""
        if self._upload is not None:
            self._upload.arriving.end(Disconnected("the client went away before its request was whole"))
        super().on_connection_close()

    async def serve(self, path: str) -> None:
        """The body is here, or the last of it: see to it that it is answered."""
        if self._upload is None:
            await self._answer(path)
        else:
            self._upload.arriving.end()
            await self._answering
        self._end()

    def _end(self) -> None:
        """Everything was said on both sides. A refusal waits until here: who is still sending does not listen."""
        if self._finished:
            return
        if self._is_torn:  # half a response is out: all that can be said is that it ends here
            connection: Any = self.request.connection
            connection.close()
        elif self._refusal is not None:
            self._refusal()
        else:
            self.finish()

    async def _answer(self, path: str, **_named: str) -> None:
        """Ask the function; pass on what it answers."""
        try:
            who = self._who
            deployment = await self.deployment(who)
            outcome = await deployment.http(self._request(path), who, self._send)
        except StreamClosedError:
            self._is_torn = True  # the client has gone, and the function was told
        except CellstoreError as error:
            self._refusal = partial(self.refuse, error.http_status, {"code": error.code, "message": error.message})
        else:
            if outcome.error is not None and not self._began:
                if outcome.error.code == "MethodNotAllowed":
                    self.set_header("Allow", ", ".join(each for each in METHODS if deployment.has_route(each, path)))
                self._refusal = partial(self.fail, outcome.error, owner=who.owner)
            self._is_torn = outcome.error is not None and self._began
        finally:
            if self._upload is not None:
                self._upload.leave()

    async def _caller(self) -> Principal:
        try:
            return await self.identify()
        except CallerError:
            return self.app.doorkeeper(self.deployment_name).stranger

    def _request(self, path: str) -> Request:
        query = "&".join(each for each in self.request.query.split("&") if each and not each.startswith("token="))
        raw = (
            self.request.path[self.request.path.index("/http") + len("/http") :]
            if "/http" in self.request.path
            else path
        )
        headers = [(name, value) for name, value in self.request.headers.get_all() if name.lower() != "cookie"]
        url = f"{raw or '/'}?{query}" if query else raw or "/"
        body = self.body if self._upload is None else self._upload.arriving
        whole_max = self.app.limits.http_body_bytes
        return Request(self.request.method or "GET", url, headers, body, path=path or "/", whole_max=whole_max)

    async def _send(self, piece: Head | bytes) -> None:
        if isinstance(piece, bytes):
            if piece and self.request.method != "HEAD":
                self.write(piece)
                await self.flush()
            return
        self._began = True
        self.set_status(piece.status)
        self.clear_header("Content-Type")
        vars(self).pop("_new_cookie", None)  # a login by token is remembered for our own pages only
        for name, value in SANDBOX.items():
            self.set_header(name, value)
        if piece.length is not None and piece.status not in (204, 304) and piece.status >= 200:
            self.set_header("Content-Length", str(piece.length))
        seen: set[str] = set()
        for name, value in piece.fields:
            if name.lower() not in _NOT_THEIRS:
                (self.add_header if name.lower() in seen else self.set_header)(name, value)
                seen.add(name.lower())
        if piece.length is None:
            await self.flush()  # who listens to a stream wants to know that it has begun

    def fail(self, error: ErrorInfo, *, owner: bool) -> None:
        """An error in place of a response."""
        seen = error if owner else error.redacted()
        is_functions_own = error.code == "ReturnsValidationError" and not error.has_data
        status = 500 if is_functions_own else error.to_exception().http_status
        problem: dict[str, Any] = {"code": seen.code, "message": failure_text(seen).splitlines()[0]}
        if seen.has_data:
            problem["data"] = seen.data
        if owner:
            problem |= {"message": seen.message, "trace": seen.traceback}
        if seen.request_id:
            problem["request_id"] = seen.request_id
        self.refuse(status, problem)

    def compute_etag(self) -> None:
        """None: what a function answers is its own business."""

    @allow_unauthenticated
    async def get(self, path: str, **_named: str) -> None:
        """To the function."""
        await self.serve(path)

    @allow_unauthenticated
    async def options(self, path: str, **_named: str) -> None:  # type: ignore[override]
        """To the function, if it takes OPTIONS; else what configured origins may do."""
        deployment = await self.deployment(self.app.doorkeeper(self.deployment_name).stranger)
        if deployment.has_route("OPTIONS", path):
            await self.serve(path)
        else:
            super().options()

    head = post = put = patch = delete = get
