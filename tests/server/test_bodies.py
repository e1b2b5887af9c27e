"""Bodies of requests: who may not ask, or says too much, is told so before it has cost memory."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from served_harness import Served
from server_process import ServerProcess

CLOSED = (
    "/api/query /api/run/m/f /api/query_batch x/insert x/deploy /api/list_snapshot /api/import /api/import/upload_part"
)
HUGE = 400_000_000  # less than Jupyter takes


class Talk:
    """A request sent by hand."""

    def __init__(
        self, served: Served, path: str, *, method: str = "POST", size: int | None = HUGE, **headers: str
    ) -> None:
        self.port = int(served.origin.rpartition(":")[2])
        where = path if path.startswith("/") else f"{served.base_url}cellstore/{path}"
        length = "Transfer-Encoding: chunked" if size is None else f"Content-Length: {size}"
        more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.head = f"{method} {where} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n{more}\r\n".encode()

    async def __aenter__(self) -> Talk:
        self.reader, self.writer = await asyncio.open_connection("localhost", self.port)
        self.writer.write(self.head)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def answer(self) -> tuple[int, str]:
        """Status, and the code in the body."""
        async with asyncio.timeout(20):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            length = re.search(r"Content-Length: (\d+)", head)
            body = await self.reader.readexactly(int(length[1])) if length else b""
        return int(head.split()[1]), json.loads(body)["code"] if body.startswith(b"{") else ""


@pytest.mark.parametrize("path", CLOSED.split())
@pytest.mark.parametrize("size", [HUGE, None], ids=["announced", "chunked"])
async def test_nobody_is_turned_away_before_sending_anything(served: Served, path: str, size: int | None) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"X-Cellstore-Kernel": "wrong"}):
        async with Talk(served, path, size=size, **headers) as talk:
            assert await talk.answer() == (401, "Unauthenticated")


async def test_a_short_body_is_heard_out_so_that_its_sender_hears_why_it_is_refused(served: Served) -> None:
    async with Talk(served, "/api/query", size=100_000, Authorization="Bearer wrong") as talk:
        for _ in range(10):
            talk.writer.write(b"x" * 10_000)
            await talk.writer.drain()
            await served.fetch("/instance_name")  # a turn of the server
        assert await talk.answer() == (401, "Unauthenticated")


@pytest.mark.parametrize("path", ["/echo", "/api/debug_event", "/api/query_ts"])
async def test_what_anybody_may_send_is_short(served: Served, path: str) -> None:
    async with Talk(served, path, size=9 << 20) as talk:
        assert await talk.answer() == (413, "LimitExceeded")


class TestStrangers:
    """Who may call public functions without credentials says no more at once than on a socket."""

    @pytest.fixture
    def extension_config(self) -> dict[str, Any]:
        return {"allow_anonymous": True, "knobs": {"frame_size_bytes": 100_000}}

    async def test_a_call_is_no_longer_than_a_frame(self, chat: Served) -> None:
        async with Talk(chat, "/api/query", size=HUGE) as talk:
            assert await talk.answer() == (413, "LimitExceeded")
        body = {"path": "chat:echo", "args": {"value": "x" * 99_000}}
        assert len((await chat.fetch("/api/query", body)).json["value"]) == 99_000
        async with Talk(chat, "/api/query", size=None) as talk:  # which says nothing of its length
            said = b""
            with suppress(ConnectionError):  # cut off
                for _ in range(20):
                    talk.writer.write(b"2710\r\n%b\r\n" % (b"x" * 10_000))
                    await talk.writer.drain()
                async with asyncio.timeout(20):
                    said = await talk.reader.read()
            assert said in (b"", b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async def test_an_owner_may_say_more(self, chat: Served) -> None:
        body = {"path": "chat:echo", "args": {"value": "x" * 200_000}}
        assert (await chat.fetch("/api/query", body, chat.token_header)).json["status"] == "success"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path).start()
    yield server
    server.stop()


def memory_bytes(server: ServerProcess) -> int:
    assert server.process is not None
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) << 10


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize("head", ["POST /api/query", "POST /cellstore/x/insert", "GET /api/sync", "OPTIONS /api/query"])
def test_bodies_of_nobody_take_no_memory(server: ServerProcess, head: str) -> None:
    before, held = memory_bytes(server), []
    for size in (900_000, HUGE, HUGE):
        for _ in range(30):
            client = socket.create_connection(("127.0.0.1", server.port))
            client.settimeout(5)
            held.append(client)
            with suppress(OSError):  # hung up on
                client.sendall(f"{head} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n".encode())
                for _ in range(min(size, 5_000_000) // 100_000 - 1):
                    client.sendall(b"x" * 100_000)
    server.control("hello")  # after what came before
    assert memory_bytes(server) - before < 40 << 20
    for client in held:
        client.close()
