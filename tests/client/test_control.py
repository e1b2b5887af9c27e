"""The request-and-answer door, against a small HTTP server."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from cellstore.client.control import AddressBook, HttpControl
from cellstore.client.listing import Tables
from cellstore.client.transport import Address
from cellstore.errors import (
    ApplicationError,
    CellstoreError,
    Disconnected,
    Forbidden,
    NotFound,
    StoreLocked,
    Unauthenticated,
    ValidationError,
)

Reply = tuple[int, dict[str, str], bytes]


class Door:
    """An HTTP server that answers with `reply(path, headers, body)` and remembers what it was asked."""

    def __init__(self, reply: Callable[..., Reply], port: int = 0) -> None:
        self.asked: list[tuple[str, dict[str, str], bytes]] = []
        self.connections = 0
        door = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                door.connections += 1
                super().setup()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                door.asked.append((self.path, dict(self.headers), body))
                status, headers, payload = reply(self.path, dict(self.headers), body)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(payload))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/a%40b/"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@contextmanager
def door(status: int = 200, payload: Any = None, headers: dict[str, str] | None = None) -> Iterator[tuple[Door, Any]]:
    octets = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    made = Door(lambda *_: (status, headers or {}, octets))
    control = HttpControl(AddressBook(lambda: Address(made.url, {"Authorization": "token t"})))
    try:
        yield made, control
    finally:
        control.close()
        made.stop()


def test_an_operation_is_one_post_under_the_base_url():
    with door(payload={"ts": 5}) as (made, control):
        assert control("snapshot_ts", {"at": None, "é": 1}, b"body") == ({"ts": 5}, b"")
    path, headers, body = made.asked[0]
    assert path == "/a%40b/cellstore/x/snapshot_ts"
    assert headers["Authorization"] == "token t"
    assert json.loads(headers["X-Cellstore-Params"]) == {"at": None, "é": 1}
    assert "X-Cellstore-Deployment" not in headers
    assert body == b"body"


def test_octets_come_with_what_json_says_in_a_header():
    with door(payload=b"PAR1", headers={"X-Cellstore-Result": '{"ts": 7}'}) as (_, control):
        assert control("table_parquet", {"table": "t"}) == ({"ts": 7}, b"PAR1")


def test_connections_are_kept():
    with door(payload={}) as (made, control):
        for _ in range(3):
            control("hello", {})
    assert made.connections == 1


@pytest.mark.parametrize(
    ("status", "body", "error", "words"),
    [
        (400, {"code": "ValidationError", "message": "args.n: wrong", "path": "args.n"}, ValidationError, "wrong"),
        (404, {"code": "NotFound", "message": "no table 'x'", "kind": "table"}, NotFound, "no table"),
        (400, {"code": "ApplicationError", "message": "full", "data": {"seats": 0}}, ApplicationError, "full"),
        (409, {"code": "StoreLocked", "message": "held by 7"}, StoreLocked, "held by 7"),
        (500, {"code": "UserTimeout", "message": "too slow", "traceback": "line 1"}, CellstoreError, "too slow"),
        (401, {"message": "Unauthorized"}, Unauthenticated, "refused our credentials"),
        (401, {"code": "Unauthenticated", "message": "that token is unknown"}, Unauthenticated, "unknown.*token='…'"),
        (403, {"code": "Forbidden", "message": "you may not write"}, Forbidden, "may not write"),
        (403, b"<html>", Unauthenticated, "token='…'"),
        (404, {"message": "Not Found"}, NotFound, "without cellstore"),
        (502, b"bad gateway", CellstoreError, "answered 502"),
    ],
)
def test_errors_come_back_as_their_own_type(status, body, error, words):
    with door(status, body) as (_, control), pytest.raises(error, match=words) as caught:
        control("query", {}, patience_s=0)
    if isinstance(body, dict):
        for name in ("path", "kind", "data"):
            assert getattr(caught.value, name, None) == body.get(name, getattr(caught.value, name, None))


def test_a_server_that_restarts_meanwhile_is_waited_for():
    with door(payload={"n": 1}) as (made, control):
        assert control("hello", {}) == ({"n": 1}, b"")
        control.close()  # this little server would go on serving a kept connection
        made.stop()
        port = made.server.server_port
        later: list[Door] = []
        timer = threading.Timer(0.3, lambda: later.append(Door(lambda *_: (200, {}, b'{"n": 2}'), port)))
        timer.start()
        assert control("insert", {"table": "t"}, b"{}") == ({"n": 2}, b"")
        timer.join()
        later[0].stop()


def test_a_server_that_stays_away_is_named_with_what_to_do():
    control = HttpControl(AddressBook(lambda: Address("http://127.0.0.1:9/")))
    with pytest.raises(Disconnected, match=r"http://127\.0\.0\.1:9/.*cellstore serve"):
        control("hello", {}, patience_s=0)


def test_a_load_that_was_cut_off_is_not_repeated():
    listener = socket.create_server(("127.0.0.1", 0))
    asked: list[bytes] = []

    def cut() -> None:
        connection, _ = listener.accept()
        asked.append(connection.recv(65536))
        connection.close()

    thread = threading.Thread(target=cut)
    thread.start()
    control = HttpControl(AddressBook(lambda: Address(f"http://127.0.0.1:{listener.getsockname()[1]}/")))
    with pytest.raises(Disconnected):
        control("insert", {"table": "t"}, b"{}")
    thread.join()
    listener.close()
    assert len(asked) == 1


def test_a_new_secret_is_looked_up_once_the_old_one_is_refused():
    secrets = iter(["old", "new"])
    made = Door(lambda _p, headers, _b: (200, {}, b"{}") if headers["X"] == "new" else (403, {}, b""))
    control = HttpControl(AddressBook(lambda: Address(made.url, {"X": next(secrets)})))
    assert control("hello", {}) == ({}, b"")
    assert [headers["X"] for _, headers, _ in made.asked] == ["old", "new"]
    control.close()
    made.stop()


def test_a_listing_says_how_far_an_index_is_that_is_being_built() -> None:
    built = {"fields": ["n"], "unique": False, "state": "enabled"}
    building = {**built, "state": "backfilling", "documents": 3000, "of": 10_000}
    tables = Tables([{"name": "t", "count": 10_000, "indexes": {"by_id": built, "by_n": built, "by_m": building}}])
    assert tables.shown[0]["indexes"] == "by_n, by_m (3,000 of 10,000)"
