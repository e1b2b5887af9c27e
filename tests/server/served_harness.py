"""What tests ask of a running server: requests, sockets, deployments."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tornado.httpclient import HTTPRequest, HTTPResponse
from tornado.websocket import WebSocketClientConnection, websocket_connect

PATIENCE_S = 20.0  # for one message


class Served:
    """What tests ask of a running server."""

    def __init__(self, app: Any, serverapp: Any, origin: str, base_url: str) -> None:
        self.app, self.serverapp, self.origin, self.base_url = app, serverapp, origin, base_url
        self.token = serverapp.identity_provider.token
        self.wires: list[Wire] = []

    async def deploy(self, path: Path) -> dict[str, Any]:
        from cellstore.client.sources import modules_of
        from cellstore.deploy.pack import pack
        from cellstore.functions import registry

        (module,) = modules_of(path)
        unit = pack(module, registry.handles(module), registry.tables(module))
        deployment = await self.app.deployment("default")
        report, _ = await deployment.control("deploy", {}, json.dumps(unit.to_json()).encode())
        return report

    def url(self, path: str) -> str:
        """An address: absolute paths at the origin's root, others under the extension's prefix."""
        return self.origin + (path if path.startswith("/") else f"{self.base_url}cellstore/{path}")

    @property
    def token_header(self) -> dict[str, str]:
        return {"Authorization": f"token {self.token}"}

    @property
    def kernel_header(self) -> dict[str, str]:
        return {"X-Cellstore-Kernel": self.app._secret}

    async def fetch(self, path: str, body: Any = None, headers: dict[str, str] | None = None, **more: Any) -> Answer:
        """POST JSON (GET without a body); never raises for a status."""
        from tornado.httpclient import AsyncHTTPClient

        octets = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        method = more.pop("method", "GET" if body is None else "POST")
        request = HTTPRequest(self.url(path), method, headers=headers or {}, body=octets, **more)
        return Answer(await AsyncHTTPClient().fetch(request, raise_error=False))

    async def socket(self, path: str = "api/sync", headers: dict[str, str] | None = None) -> Wire:
        """A WebSocket. Raises HTTPClientError when the upgrade is refused."""
        address = self.url(path).replace("http", "ws", 1)
        wire = Wire(await websocket_connect(HTTPRequest(address, headers=headers or {}), max_message_size=64 << 20))
        self.wires.append(wire)
        return wire


class Answer:
    """An HTTP response, read."""

    def __init__(self, response: HTTPResponse) -> None:
        self.status, self.headers, self.body = response.code, response.headers, response.body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """A client's end of a socket."""

    def __init__(self, socket: WebSocketClientConnection) -> None:
        self.socket = socket
        self._query_set = self._requests = 0
        self._updates: dict[int, deque[dict[str, Any]]] = defaultdict(
            deque
        )  # by query: what came and was not asked for

    async def say(self, kind: str, **fields: Any) -> None:
        await self.socket.write_message(json.dumps({"type": kind, **fields}))

    async def subscribe(self, query_id: int, path: str, args: dict[str, Any] | None = None) -> None:
        base, self._query_set = self._query_set, self._query_set + 1
        add = {"type": "Add", "queryId": query_id, "udfPath": path, "args": [args or {}]}
        await self.say("ModifyQuerySet", baseVersion=base, newVersion=self._query_set, modifications=[add])

    async def call(self, kind: str, path: str, args: dict[str, Any] | None = None) -> dict[str, Any]:
        """A mutation or action; its response."""
        request, self._requests = self._requests, self._requests + 1
        await self.say(kind, requestId=request, udfPath=path, args=[args or {}])
        return await self.until(lambda m: m["type"] == f"{kind}Response" and m["requestId"] == request)

    async def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next message that is wanted; of others the updates of queries are kept."""
        while True:
            message = await self._next()
            if wanted(message):
                return message

    async def result(self, query_id: int) -> dict[str, Any]:
        """The next update of a query."""
        while not self._updates[query_id]:
            await self._next()
        return self._updates[query_id].popleft()

    async def _next(self) -> dict[str, Any]:
        text = await asyncio.wait_for(self.socket.read_message(), PATIENCE_S)
        assert text is not None, f"closed with {self.socket.close_code} {self.socket.close_reason}"
        message: dict[str, Any] = json.loads(text)
        if message["type"] == "Transition":
            for change in message["modifications"]:
                self._updates[change["queryId"]].append(change)
        return message

    async def closed(self) -> tuple[int | None, str | None]:
        """Wait for the other side to close: code and reason."""
        while await asyncio.wait_for(self.socket.read_message(), PATIENCE_S) is not None:
            pass
        return self.socket.close_code, self.socket.close_reason

    def close(self) -> None:
        self.socket.close()
