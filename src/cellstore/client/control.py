"""One HTTP request, one answer: deploy, bulk data, snapshots, SQL, and queries that nobody keeps watching.

    POST {base}cellstore/x/{op}      X-Cellstore-Params: JSON · body: octets
    200                              JSON, or octets with X-Cellstore-Result: JSON
    4xx 5xx                          {"code", "message", "data"?, "traceback"?, …}

Runs on the caller's own thread over kept-alive connections; an interrupt therefore ends it at once.

Order:   a request is repeated only when it cannot have been carried out (nobody listened), or does no harm twice.
Errors:  typed ones from the body; Disconnected when no server answers within `patience_s`, naming where we looked.
"""

from __future__ import annotations

import json
import select
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead
from typing import IO, Any, Protocol
from urllib.parse import quote, urlsplit

from cellstore.client.errors_render import error_from_json
from cellstore.client.transport import Address, deployment_header, explain, refusal
from cellstore.errors import CallerError, CellstoreError, StorageError, Unauthenticated
from cellstore.values import json as native

PATIENCE_S = 10.0  # a server restart takes about five seconds; a person waits about ten
CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 3600.0  # loading and SQL may take long; Ctrl-C ends the wait
RETRY_S = 0.25
READ_ONLY = frozenset(
    {"hello", "tables", "functions", "query", "snapshot_ts", "table_parquet", "diff", "sql", "check", "export", "logs"}
)
PIECE_BYTES = 1 << 20


class AddressBook:
    """The address last found to be right, and how to find it again."""

    def __init__(self, find: Callable[[], Address], known: Address | None = None) -> None:
        self._find, self._known = find, known

    def current(self) -> Address:
        """The address to use. Errors: as `refresh`, when none is known yet."""
        return self._known or self.refresh()

    def refresh(self) -> Address:
        """Look again: the server may have moved. Errors: Disconnected and what to do."""
        self._known = self._find()
        return self._known


class HttpControl:
    """The control plane of one server."""

    def __init__(self, book: AddressBook, deployment: str = "default") -> None:
        self._book = book
        self._deployment = deployment
        self._idle: dict[str, list[HTTPConnection]] = {}
        self._lock = threading.Lock()

    def __call__(
        self,
        op: str,
        params: dict[str, Any],
        body: bytes = b"",
        patience_s: float = PATIENCE_S,
        sink: IO[bytes] | None = None,
    ) -> tuple[dict[str, Any], bytes]:
        """Carry out `op`: (what JSON says, the octets that came with it). With a `sink` the octets go there instead."""
        deadline = time.monotonic() + patience_s
        while True:
            address = self._book.current()
            try:
                return self._once(address, op, params, body, sink)
            except Unauthenticated:
                if time.monotonic() >= deadline or not self._moved(address):
                    raise
            except (OSError, HTTPException) as error:
                harmless = op in READ_ONLY or isinstance(error, ConnectionRefusedError)
                if not harmless or time.monotonic() >= deadline:
                    raise explain(error, address.url) from error
                time.sleep(RETRY_S)
                self._moved(address)

    def close(self) -> None:
        """Close kept-alive connections."""
        with self._lock:
            idle, self._idle = self._idle, {}
        for connection in (c for pool in idle.values() for c in pool):
            connection.close()

    def _moved(self, address: Address) -> bool:
        """Is the server elsewhere now, or does it carry another secret?"""
        try:
            return self._book.refresh() != address
        except CellstoreError:
            return False

    def _once(
        self, address: Address, op: str, params: dict[str, Any], body: bytes, sink: IO[bytes] | None
    ) -> tuple[dict[str, Any], bytes]:
        connection = self._acquire(address.url)
        try:
            headers = {
                **address.headers,
                "Content-Type": "application/octet-stream",
                "X-Cellstore-Params": json.dumps(params),
                **deployment_header(self._deployment),
            }
            target = urlsplit(address.url).path + "cellstore/x/" + quote(op)
            connection.request("POST", target, body=body, headers=headers)
            response = connection.getresponse()
            good = sink is not None and response.status < 400
            payload = _poured(response, sink) if good and sink is not None else response.read()
        except BaseException:
            connection.close()
            raise
        self._release(address.url, connection)
        return read_answer(response, payload, address)

    def _acquire(self, url: str) -> HTTPConnection:
        with self._lock:
            pool = self._idle.get(url, [])
            while pool:
                connection = pool.pop()
                if _is_quiet(connection):
                    return connection
                connection.close()
        parts = urlsplit(url)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        connection = kind(parts.netloc, timeout=CONNECT_TIMEOUT_S)
        connection.connect()
        connection.sock.settimeout(ANSWER_TIMEOUT_S)
        return connection

    def _release(self, url: str, connection: HTTPConnection) -> None:
        if connection.sock is not None:  # else the server asked to close
            with self._lock:
                self._idle.setdefault(url, []).append(connection)


class Readable(Protocol):
    """What gives its bytes piece by piece."""

    def read(self, size_bytes: int, /) -> bytes:
        """The next bytes; empty at the end."""
        ...


def pour(source: Readable, sink: IO[bytes]) -> int:
    """Put all of `source` into an empty `sink`, a piece at a time; how many bytes."""
    sink.seek(0)
    sink.truncate()
    count = 0
    while piece := source.read(PIECE_BYTES):
        try:
            sink.write(piece)
        except OSError as error:  # not the connection's
            raise StorageError(f"cannot write what arrives: {error.strerror or error}") from error
        count += len(piece)
    return count


def _poured(response: HTTPResponse, sink: IO[bytes]) -> bytes:
    wanted, count = response.headers.get("Content-Length"), pour(response, sink)
    if wanted is not None and count != int(wanted):
        raise IncompleteRead(b"", int(wanted) - count)
    return b""


def _is_quiet(connection: HTTPConnection) -> bool:
    """Is a kept connection still open? One with something to read was closed by the other side."""
    return connection.sock is not None and not select.select([connection.sock], [], [], 0)[0]


def read_answer(response: HTTPResponse, payload: bytes, address: Address) -> tuple[dict[str, Any], bytes]:
    """(JSON part, octets) of a good answer. Errors: the typed error of any other."""
    if response.status < 400:
        header = response.headers.get("X-Cellstore-Result")
        if header is not None:
            return native.loads(header.encode("latin-1")), payload
        return native.loads(payload) if payload else {}, b""
    try:
        problem = native.loads(payload)
    except (ValueError, CallerError):
        problem = None
    ours = isinstance(problem, dict) and not str(problem.get("code", "Http")).startswith("Http")
    if not ours or problem["code"] == "Unauthenticated":
        error = refusal(response.status, address, problem.get("message", "") if ours else "")
        if error is not None:
            raise error
    raise error_from_json(problem, f"the server at {address.url} answered {response.status} {response.reason}")
