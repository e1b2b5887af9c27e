"""HTTP actions: routes, requests, responses, bodies in pieces, limits, and who may ask."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from tornado.simple_httpclient import HTTPStreamClosedError

SITE = """
import asyncio
import time
import cellstore as cs

@cs.mutation
def record(ctx, kind: str):
    ctx.db.insert("events", {"kind": kind})

@cs.query
def kinds(ctx):
    return [row["kind"] for row in ctx.db.query("events")]

@cs.http("/hook", methods=["POST"])
def hook(ctx, request: cs.Request):
    print("got", request.method)
    ctx.run_mutation(record, kind=request.json()["type"])
    return {"seen": ctx.run_query(kinds)}

@cs.http("/files/", prefix=True)
async def files(ctx, request):
    return f"{request.path} {request.query.get('v', '')} {request.headers['X-Thing']} {'token' in request.url}"

@cs.http("/files/special")
def special(ctx, request):
    return cs.Response("teapot", status=418, headers=[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("X-Own", "yes")])

@cs.http("/files/deep/", prefix=True)
def deep(ctx, request):
    return b"deep"

@cs.http("/pieces")
def pieces(ctx, request):
    return cs.Response((f"piece {n}\\n" for n in range(50)), content_type="text/plain")

@cs.http("/gently")
async def gently(ctx, request):
    async def body():
        for n in range(3):
            yield f"{n},"
    return cs.Response(body())

@cs.http("/large")
def large(ctx, request):
    return cs.Response(b"x" * 100_000 for _ in range(int(request.query["n"])))

@cs.http("/nothing", methods=["DELETE", "OPTIONS"])
def nothing(ctx, request):
    return None

@cs.http("/broken")
def broken(ctx, request):
    return 1 / 0

@cs.http("/unfit")
def unfit(ctx, request):
    what = request.query["what"]
    if what == "status":
        return cs.Response(status=101)
    if what == "name":
        return cs.Response("x", headers={"X Own:": "1"})
    if what == "line":
        return cs.Response("x", headers={"X-Own": "1\\r\\nX-More: 2"})
    return {"json": [{1}], "number": float("nan")}[what]

@cs.http("/endless")
async def endless(ctx, request):
    async def ticks():
        try:
            while True:
                yield "tick\\n"
                await asyncio.sleep(0.01)
        finally:
            await ctx.run_mutation(record, kind="the listener went away")
    return cs.Response(ticks(), content_type="text/plain")

@cs.http("/refuses")
def refuses(ctx, request):
    raise cs.ApplicationError({"why": "closed"})

@cs.http("/whoami")
def whoami(ctx, request):
    return ctx.auth.identity()

@cs.http("/echo", methods=["POST"])
def echo(ctx, request):
    return cs.Response(request.body, headers={"X-Length": str(len(request.body))})

@cs.http("/shout", methods=["POST"])
async def shout(ctx, request):
    async def louder():
        async for piece in request.stream():
            yield piece.upper()
    return cs.Response(louder())

@cs.http("/lines", methods=["POST"])
def lines(ctx, request):
    total = 0
    for piece in request.stream():
        total += piece.count(b"\\n")
    if total > 10_000:
        raise cs.ApplicationError("too many lines")
    return total

@cs.http("/sip", methods=["POST"])
def sip(ctx, request):
    pieces = iter(request.stream())
    first = next(pieces)
    ctx.run_mutation(record, kind="sipped")
    deadline = time.monotonic() + 5
    while "drink" not in ctx.run_query(kinds) and time.monotonic() < deadline:
        time.sleep(0.01)
    return len(first) + sum(map(len, pieces))

@cs.http("/patient", methods=["POST"])
def patient(ctx, request):
    try:
        return len(request.body)
    except Exception as error:
        ctx.run_mutation(record, kind=f"{type(error).__name__}: {error}")
        raise
"""


class Sender:
    """A client that sends a chunked body by hand, to see what happens in the middle of it."""

    def __init__(self, site: Any, path: str) -> None:
        self._site, self._path = site, path

    async def __aenter__(self) -> Sender:
        port = int(self._site.origin.rpartition(":")[2])
        self.reader, self.writer = await asyncio.open_connection("localhost", port)
        # else the kernel takes megabytes that nobody reads
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 << 10)
        token = self._site.token_header["Authorization"]
        head = f"POST {self._site.base_url}cellstore/{self._path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {token}\r\n"
        self.writer.write(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def send(self, piece: bytes) -> None:
        """A chunk; returns when the server's side of the socket has taken most of it. An empty one is the end."""
        self.writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        await self.writer.drain()

    async def until(self, end: bytes) -> bytes:
        async with asyncio.timeout(20):
            return await self.reader.readuntil(end)


async def seen(site: Any, wanted: str) -> None:
    """Wait until an event begins so."""
    async with asyncio.timeout(20):
        while True:
            body = {"path": "site_actions:kinds", "args": {}, "format": "json"}
            answer = await site.fetch("api/query", body, site.token_header)
            if any(kind.startswith(wanted) for kind in answer.json["value"]):
                return
            await asyncio.sleep(0.01)


@pytest.fixture
def site(served: Any, jp_asyncio_loop: Any, tmp_path: Path) -> Any:
    file = tmp_path / "site_actions.py"
    file.write_text(SITE)
    jp_asyncio_loop.run_until_complete(served.deploy(file))
    return served


@pytest.fixture
def extension_config() -> dict[str, Any]:
    return {"knobs": {"http_body_bytes": 1_000_000, "http_stream_bytes": 8_000_000}}


async def test_a_hook_reads_json_and_answers_with_json(site: Any) -> None:
    answer = await site.fetch("http/hook", {"type": "paid"}, site.token_header)
    assert (answer.status, answer.json) == (200, {"seen": ["paid"]})
    assert answer.headers["Content-Type"] == "application/json"
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    deployment = await site.app.deployment("default")
    said: list[dict[str, Any]] = []
    while len(said) < 2:  # the record of the end follows the response
        await asyncio.sleep(0.01)
        records = (await deployment.control("logs", {"tail": 10}))[0]["records"]
        said = [each for each in records if each["function"].endswith(":hook")]
    assert [each["lines"] for each in said] == [["[LOG] got POST"], []]
    assert said[0]["request_id"] == said[1]["request_id"]
    assert said[1]["ok"]


async def test_an_exact_path_goes_before_a_prefix_and_a_longer_prefix_before_a_shorter(site: Any) -> None:
    headers = {**site.token_header, "X-Thing": "t"}
    one = await site.fetch("http/files/a%20b?v=2", headers=headers)
    assert one.body == b"/files/a b 2 t False"
    special = await site.fetch("http/files/special", headers=headers)
    assert (special.status, special.body, special.headers["X-Own"]) == (418, b"teapot", "yes")
    assert special.headers.get_list("Set-Cookie") == ["a=1", "b=2"]
    assert (await site.fetch("http/files/deep/x", headers=headers)).body == b"deep"
    assert (await site.fetch("http/files", headers=headers)).status == 404


async def test_a_method_that_no_route_at_the_path_has_is_405_and_told_which_there_are(site: Any) -> None:
    for method, path, allowed in (
        ("GET", "http/hook", "POST"),
        ("HEAD", "http/hook", "POST"),
        ("PUT", "http/nothing", "DELETE, OPTIONS"),
        ("DELETE", "http/files/deep/x", "GET"),
    ):
        answer = await site.fetch(path, headers=site.token_header, method=method, allow_nonstandard_methods=True)
        assert (answer.status, answer.headers["Allow"]) == (405, allowed)
        assert method == "HEAD" or f"is not for {method}, but for {allowed}" in answer.json["message"]
    assert (await site.fetch("http/nowhere", headers=site.token_header)).status == 404


async def test_a_body_comes_in_pieces_and_head_comes_without_one(site: Any) -> None:
    heard: list[bytes] = []
    answer = await site.fetch("http/pieces", headers=site.token_header, streaming_callback=heard.append)
    assert answer.status == 200
    assert b"".join(heard) == b"".join(b"piece %d\n" % n for n in range(50))
    assert (await site.fetch("http/gently", headers=site.token_header)).body == b"0,1,2,"
    head = await site.fetch("http/files/special", headers=site.token_header, method="HEAD")
    assert (head.status, head.body, head.headers["Content-Length"]) == (418, b"", "6")
    gone = await site.fetch("http/nothing", headers=site.token_header, method="DELETE")
    assert (gone.status, gone.body) == (204, b"")


async def test_bodies_have_limits_both_ways(site: Any) -> None:
    small = await site.fetch("http/echo", b"x" * 999_999, site.token_header)
    assert (small.status, small.headers["X-Length"]) == (200, "999999")
    large = await site.fetch("http/echo", b"x" * 1_000_001, site.token_header)
    assert (large.status, large.json["code"]) == (413, "LimitExceeded")
    assert (await site.fetch("http/large?n=9", headers=site.token_header)).status == 200
    with pytest.raises(HTTPStreamClosedError):  # what is cut off must not look whole
        await site.fetch("http/large?n=30", headers=site.token_header)


async def test_an_error_is_a_response_that_says_what_the_reader_may_know(site: Any) -> None:
    broken = await site.fetch("http/broken", headers=site.token_header)
    assert broken.status == 500
    assert broken.json["message"] == "ZeroDivisionError: division by zero"
    assert "return 1 / 0" in broken.json["trace"]
    refused = await site.fetch("http/refuses", headers=site.token_header)
    assert (refused.status, refused.json["data"]) == (400, {"why": "closed"})
    wrong = await site.fetch("http/hook", b"{", site.token_header)
    assert (wrong.status, wrong.json["code"]) == (400, "ValidationError")


@pytest.mark.parametrize("what", ["status", "name", "line", "json", "number"])
async def test_what_is_no_response_is_the_functions_mistake(site: Any, what: str) -> None:
    answer = await site.fetch(f"http/unfit?what={what}", headers=site.token_header)
    assert (answer.status, answer.json["code"]) == (500, "ReturnsValidationError")
    assert "expected" in answer.json["message"]


async def test_an_endless_response_ends_with_its_listener_and_its_head_comes_alone(site: Any) -> None:
    head = await site.fetch("http/endless", headers=site.token_header, method="HEAD")
    assert (head.status, head.headers["Content-Type"]) == (200, "text/plain")
    port = int(site.origin.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("localhost", port)
    token = site.token_header["Authorization"]
    ask = f"GET {site.base_url}cellstore/http/endless HTTP/1.1\r\nHost: localhost\r\nAuthorization: {token}\r\n\r\n"
    writer.write(ask.encode())
    async with asyncio.timeout(20):
        await reader.readuntil(b"tick\n\r\n5\r\ntick")
    writer.close()
    await seen(site, "the listener went away")


async def test_strangers_are_turned_away_and_a_hook_may_carry_its_token_in_the_url(site: Any) -> None:
    assert (await site.fetch("http/hook", {"type": "x"})).status == 401
    assert (await site.fetch("http/hook", {"type": "x"}, {"Authorization": "token wrong"})).status == 401
    assert (await site.fetch(f"http/hook?token={site.token}", {"type": "x"})).status == 200
    who = await site.fetch("http/whoami", headers=site.token_header)
    assert "subject" in json.loads(who.body)


async def test_an_http_action_is_no_function_that_clients_call(site: Any) -> None:
    body = {"path": "site_actions:hook", "args": {}, "format": "json"}
    answer = await site.fetch("api/action", body, site.token_header)
    assert answer.json["status"] == "error"
    assert "Could not find" in answer.json["errorMessage"]


async def test_a_function_reads_a_body_while_it_arrives_and_answers_in_the_middle_of_it(site: Any) -> None:
    async with Sender(site, "http/shout") as sender:
        await sender.send(b"first")
        assert b"200 OK" in await sender.until(b"FIRST")
        await sender.send(b"second")
        assert (await sender.until(b"SECOND")).startswith(b"\r\n")
        await sender.send(b"")
        await sender.until(b"0\r\n\r\n")


async def test_a_body_far_beyond_what_is_taken_whole_goes_through_a_function_that_streams(site: Any) -> None:
    line = b"x" * 99 + b"\n"
    answer = await site.fetch("http/lines", line * 10_000 * 5, site.token_header)  # five times http_body_bytes
    assert (answer.status, answer.json["data"]) == (400, "too many lines")
    assert (await site.fetch("http/lines", line * 10_000, site.token_header)).json == 10_000
    taken = await site.fetch("http/patient", line * 15_000, site.token_header)
    assert (taken.status, taken.json["code"]) == (413, "LimitExceeded")
    assert "request.stream()" in taken.json["message"]
    refused = await site.fetch("http/lines", line * 100_000, site.token_header, expect_100_continue=True)
    assert (refused.status, refused.json["code"]) == (413, "LimitExceeded")
    assert "http_stream_bytes" in refused.json["message"]


async def test_a_client_sends_no_faster_than_the_function_reads(site: Any) -> None:
    async with Sender(site, "http/sip") as sender:
        sent = 0

        async def pour() -> None:
            nonlocal sent
            for _ in range(64):
                await sender.send(b"x" * 100_000)
                sent += 1
            await sender.send(b"")

        pouring = asyncio.create_task(pour())
        await seen(site, "sipped")
        await asyncio.sleep(0.5)
        assert sent < 55, "most of it still waits at the client's side"
        body = {"path": "site_actions:record", "args": {"kind": "drink"}, "format": "json"}
        await site.fetch("api/mutation", body, site.token_header)
        assert (await sender.until(b"6400000")).startswith(b"HTTP/1.1 200")
        await pouring


async def test_a_function_hears_that_its_client_went_away_in_the_middle(site: Any) -> None:
    async with Sender(site, "http/patient") as sender:
        await sender.send(b"only the beginning")
    await seen(site, "Disconnected: the client went away")


async def test_an_answer_before_the_end_of_the_body_reaches_a_client_that_still_sends(site: Any) -> None:
    async with Sender(site, "http/refuses-uploads") as sender:
        await sender.send(b"x" * 1000)
        await sender.send(b"")
        assert (await sender.until(b"\r\n")).startswith(b"HTTP/1.1 404")
