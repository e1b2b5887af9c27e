"""HTTP requests and responses as functions of the store meet them.

    @cs.http("/hook", methods=["POST"])
    def hook(ctx, request: cs.Request):
        event = request.json()
        ctx.run_mutation(record, kind=event["type"])
        return cs.Response("thanks", status=202)

What a function returns is made a response: a `Response` as it is, str as text, bytes as octets, None as 204 without a
body, anything else as JSON. A body that is an iterator, or an async one, is sent piece by piece, no faster than the other
side takes it; and `request.stream()` gives a large body while it arrives, no faster than the function takes it.
"""

from __future__ import annotations

import asyncio
import json as plain_json
import re
import threading
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping, MutableMapping
from concurrent.futures import Future, wait
from typing import Any, NamedTuple, TypeAlias, TypeVar
from urllib.parse import parse_qsl, urlsplit

from cellstore.errors import CallerError, LimitExceeded, ValidationError
from cellstore.knobs import DEFAULTS

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""What a route may be for; HEAD is served by GET."""

Body: TypeAlias = "str | bytes | Iterable[str | bytes] | AsyncIterable[str | bytes] | None"


T = TypeVar("T")
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LOOK_UP_S = 0.1


def waited(future: Future[T]) -> T:
    """The result of `future`. Looks up now and then: what is raised into a thread is met between two waits only.

    Whoever is interrupted so does not want it any more: the future is cancelled.
    """
    try:
        while not future.done():
            wait((future,), _LOOK_UP_S)
    except BaseException:
        future.cancel()
        raise
    return future.result()


class Headers(MutableMapping[str, str]):
    """Header fields: names without regard to case, in order; one that came several times reads as one, by commas."""

    def __init__(self, fields: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> None:
        items = fields.items() if isinstance(fields, Mapping) else fields
        self.raw: list[tuple[str, str]] = []
        for name, value in items:
            self.add(str(name), str(value))

    def __getitem__(self, name: str) -> str:
        values = self.getlist(name)
        if not values:
            raise KeyError(name)
        return ", ".join(values)

    def getlist(self, name: str) -> list[str]:
        """Every value of a field, as they came."""
        return [value for key, value in self.raw if key.lower() == name.lower()]

    def add(self, name: str, value: str) -> None:
        """One more value of a field: Set-Cookie, say. Errors: ValidationError for what would begin another line."""
        if any(each in f"{name}{value}" for each in "\r\n\0"):
            raise _unfit(f"header {name!r}", "one line", repr(value)[:60])
        if not _FIELD_NAME.fullmatch(name):
            raise _unfit("the name of a header", "letters, digits and hyphens", repr(name)[:60])
        self.raw.append((name, str(value)))

    def __setitem__(self, name: str, value: str) -> None:
        if name in self:
            del self[name]
        self.add(name, value)

    def __delitem__(self, name: str) -> None:
        if name not in self:
            raise KeyError(name)
        self.raw = [(key, value) for key, value in self.raw if key.lower() != name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and any(key.lower() == name.lower() for key, _ in self.raw)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(key.lower() for key, _ in self.raw))

    def __len__(self) -> int:
        return len(set(self))

    def __repr__(self) -> str:
        return f"Headers({self.raw!r})"


class Arriving:
    """A body on its way: fed in one thread, taken in another, which waits or awaits.

    Whoever feeds it keeps few pieces in it: `on_taken` is called, in the taker's thread, when one has gone.
    """

    def __init__(self, on_taken: Callable[[], None]) -> None:
        self._on_taken = on_taken
        self._pieces: deque[bytes] = deque()
        self._ended: Exception | bool = False
        self._taker: Future[bytes | None] | None = None
        self._lock = threading.Lock()

    def feed(self, piece: bytes) -> None:
        """One more piece."""
        self._pieces.append(piece)
        self._hand_over()

    def end(self, error: Exception | None = None) -> None:
        """There is no more; or there will be no more, for this reason. Again is fine."""
        self._ended = self._ended or error or True
        self._hand_over()

    def take(self) -> Future[bytes | None]:
        """The next piece, None after the last. One taker at a time. Errors: in the future, what it ended with."""
        taker: Future[bytes | None] = Future()
        self._taker = taker
        self._hand_over()
        return taker

    def _hand_over(self) -> None:
        with self._lock:
            taker = self._taker
            if taker is None or not (self._pieces or self._ended):
                return
            self._taker = None
            piece = self._pieces.popleft() if self._pieces else None
        if not taker.set_running_or_notify_cancel():
            return  # it no longer waits, so nobody does
        if piece is None and isinstance(self._ended, Exception):
            taker.set_exception(self._ended)
            return
        taker.set_result(piece)
        if piece is not None:
            self._on_taken()


class BodyStream:
    """A request's body piece by piece: `for piece in …` in a plain function, `async for piece in …` in an `async def`."""

    def __init__(self, pieces: Iterator[bytes | Future[bytes | None]]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            octets = piece if isinstance(piece, bytes) else waited(piece)
            if octets is None:
                return
            yield octets

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            octets = piece if isinstance(piece, bytes) else await asyncio.wrap_future(piece)
            if octets is None:
                return
            yield octets


class Request:
    """What a client asks.

    `method`; `path` below the extension's `http`, decoded; `url` as it came, path and query; `headers`; `query`, the last value
    of each name; `body`, bytes. A large body may still be arriving: `body`, and what reads it, waits for all of it, up to
    `whole_max` bytes; `stream()` does not. It can be read once, by one of the two.
    """

    def __init__(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        body: bytes | Arriving = b"",
        path: str | None = None,
        whole_max: int = DEFAULTS.http_body_bytes,
    ) -> None:
        from urllib.parse import unquote

        self.method, self.url = method.upper(), url
        self.headers = Headers(headers)
        parts = urlsplit(url)
        self.path = unquote(parts.path) if path is None else path
        self.query_items = parse_qsl(parts.query, keep_blank_values=True)
        self.query = dict(self.query_items)
        self._body = body
        self._whole_max = whole_max
        self._is_read = False

    @property
    def arriving(self) -> Arriving | None:
        """The body, if it is not all there."""
        return None if isinstance(self._body, bytes) else self._body

    @property
    def body(self) -> bytes:
        """All of the body. Errors: LimitExceeded; Disconnected when the client goes away; CallerError after `stream`."""
        if not isinstance(self._body, bytes):
            whole = bytearray()
            for piece in self.stream():
                whole += piece
                self._check_size(len(whole))
            self._body = bytes(whole)
        return self._body

    def _check_size(self, size: int) -> None:
        if size > self._whole_max:
            raise LimitExceeded(
                f"the request's body is more than {self._whole_max:,} bytes (knob http_body_bytes); read it piece by "
                "piece with request.stream()",
                knob="http_body_bytes",
                limit=self._whole_max,
                used=size,
            )

    def stream(self, size_bytes: int = 1 << 16) -> BodyStream:
        """The body in pieces, as they come if it is not all there, else of `size_bytes`.

        Errors: CallerError when it has been read so; while it is read, Disconnected when the client goes away.
        """
        body = self._body
        if isinstance(body, bytes):
            return BodyStream(body[at : at + size_bytes] for at in range(0, len(body), size_bytes))
        if self._is_read:
            raise CallerError("the request's body has been read by request.stream() and is not kept", code="BodyIsRead")
        self._is_read = True
        return BodyStream(iter(body.take, None))

    def text(self) -> str:
        """The body as text. Errors: ValidationError when it is none."""
        try:
            return self.body.decode("utf-8")
        except UnicodeDecodeError as wrong:
            raise ValidationError(path="body", expected="UTF-8 text", got=str(wrong)) from None

    def json(self) -> Any:
        """The body as JSON. Errors: ValidationError when it is none."""
        try:
            return plain_json.loads(self.text())
        except ValueError as wrong:
            raise ValidationError(path="body", expected="JSON", got=str(wrong)) from None

    def form(self) -> dict[str, str]:
        """The fields of a form sent as application/x-www-form-urlencoded, the last value of each name."""
        return dict(parse_qsl(self.text(), keep_blank_values=True))

    def __repr__(self) -> str:
        size = f"{len(self._body):,} bytes" if isinstance(self._body, bytes) else "its body arrives"
        return f"<Request {self.method} {self.url}, {size}>"


class Head(NamedTuple):
    """What goes before a body: status, header fields, and how many bytes follow, None when only the end will tell."""

    status: int
    fields: list[tuple[str, str]]
    length: int | None


class Response:
    """What a client is told: a body, a status, header fields."""

    def __init__(
        self,
        body: Body = None,
        status: int = 200,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        content_type: str | None = None,
    ) -> None:
        if not 200 <= status <= 599:  # what is below announces another response, which would never come
            raise _unfit("status", "an HTTP status, 200 to 599", str(status))
        self.body, self.status = body, status
        self.headers = Headers(headers)
        if content_type is not None:
            self.headers["Content-Type"] = content_type
        elif "Content-Type" not in self.headers and body is not None:
            text = isinstance(body, str)
            self.headers["Content-Type"] = "text/plain; charset=utf-8" if text else "application/octet-stream"

    @classmethod
    def json(
        cls, value: Any, status: int = 200, headers: Mapping[str, str] | Iterable[tuple[str, str]] = ()
    ) -> Response:
        """A value as JSON. Errors: ValidationError when it is none."""
        try:
            text = plain_json.dumps(value, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as wrong:
            raise _unfit("the response", "a value of JSON", str(wrong)) from None
        return cls(text, status, headers, content_type="application/json")

    @classmethod
    def redirect(cls, url: str, status: int = 302) -> Response:
        """Go there instead."""
        return cls(None, status, {"Location": url})

    @classmethod
    def of(cls, value: Any) -> Response:
        """What a function returned, as a response."""
        if isinstance(value, cls):
            return value
        if value is None:
            return cls(None, 204)
        if isinstance(value, str | bytes):
            return cls(value)
        if isinstance(value, Iterator | AsyncIterable):
            return cls(value)
        return cls.json(value)

    @property
    def head(self) -> Head:
        """Everything but the body."""
        whole = self.body is None or isinstance(self.body, str | bytes)
        return Head(self.status, self.headers.raw, len(octets(self.body or b"")) if whole else None)

    def __repr__(self) -> str:
        return f"<Response {self.status}>"


def octets(piece: Any) -> bytes:
    """A piece of a body. Errors: ValidationError for anything but text and bytes."""
    if isinstance(piece, str):
        return piece.encode()
    if isinstance(piece, bytes | bytearray | memoryview):
        return bytes(piece)
    raise _unfit("the response's body", "str or bytes", type(piece).__name__)


def _unfit(path: str, expected: str, got: str) -> ValidationError:
    """What a function answers is no response: its own mistake, not that of who asks."""
    return ValidationError(path=path, expected=expected, got=got, code="ReturnsValidationError")
