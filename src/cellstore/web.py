"""HTTP requests and responses as functions of the store meet them.

    @cs.http("/hook", methods=["POST"])
    def hook(ctx, request: cs.Request):
        event = request.json()
        ctx.run_mutation(record, kind=event["type"])
        return cs.Response("thanks", status=202)

What a function returns is made a response: a `Response` as it is, str as text, bytes as octets, None as 204 without a
body, anything else as JSON. A body that is an iterator, or an async one, is sent piece by piece, no faster than the other
side takes it.
"""

from __future__ import annotations

import json as plain_json
from collections.abc import AsyncIterable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import parse_qsl, urlsplit

from cellstore.errors import ValidationError

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""What a route may be for; HEAD is served by GET."""

Body: TypeAlias = "str | bytes | Iterable[str | bytes] | AsyncIterable[str | bytes] | None"


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
            raise ValidationError(path=f"header {name!r}", expected="one line", got=repr(value)[:60])
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


class Request:
    """What a client asks. The body is all there, so nothing here has to be awaited.

    `method`; `path` below the extension's `http`, decoded; `url` as it came, path and query; `headers`; `query`, the last value
    of each name; `body`, bytes.
    """

    def __init__(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        path: str | None = None,
    ) -> None:
        from urllib.parse import unquote

        self.method, self.url, self.body = method.upper(), url, body
        self.headers = Headers(headers)
        parts = urlsplit(url)
        self.path = unquote(parts.path) if path is None else path
        self.query_items = parse_qsl(parts.query, keep_blank_values=True)
        self.query = dict(self.query_items)

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

    def stream(self, size_bytes: int = 1 << 16) -> Iterator[bytes]:
        """The body in pieces."""
        return (self.body[at : at + size_bytes] for at in range(0, len(self.body), size_bytes))

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.url}, {len(self.body):,} bytes>"


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
        if not 100 <= status <= 599:
            raise ValidationError(path="status", expected="an HTTP status, 100 to 599", got=str(status))
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
            raise ValidationError(path="the response", expected="a value of JSON", got=str(wrong)) from None
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
    raise ValidationError(path="the response's body", expected="str or bytes", got=type(piece).__name__)
