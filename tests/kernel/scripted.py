"""Widgets without a kernel: a comm that records, and a link whose server is the test."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from comm.base_comm import BaseComm

from cellstore.client.loop import LoopThread
from cellstore.client.subscription import CallbackThread, Subscription
from cellstore.client.transport import Link
from cellstore.protocol.version import encode_ts


class RecordedComm(BaseComm):
    """A channel to a page that only listens."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.messages: list[tuple[str, dict[str, Any], list[bytes]]] = []
        super().__init__(*args, **kwargs)

    def publish_msg(self, msg_type: str, data: Any = None, metadata: Any = None, buffers: Any = None, **_: Any) -> None:
        self.messages.append((msg_type, data or {}, [bytes(b) for b in buffers or []]))

    def state(self) -> dict[str, Any]:
        """The traits the page was opened with."""
        return dict(next(data["state"] for kind, data, _ in self.messages if kind == "comm_open"))

    def custom(self) -> list[tuple[dict[str, Any], Any]]:
        """Custom messages since: (content, decoded body)."""
        return [
            (data["content"], json.loads(buffers[0]) if buffers and buffers[0] else None)
            for kind, data, buffers in self.messages
            if kind == "comm_msg" and data.get("method") == "custom"
        ]


class ScriptedLink(Link):
    """A link whose server is the test."""

    def __init__(self, thread: LoopThread) -> None:
        super().__init__(thread)
        self.sent: list[dict[str, Any]] = []
        self.at = {"querySet": 0, "identity": 0, "ts": encode_ts(0)}
        self.on_loop(self._opened)

    def _send(self, text: str) -> None:
        self.sent.append(json.loads(text))

    def on_loop(self, function: Callable[..., None], *args: Any) -> None:
        """Run on the link's thread, and wait."""

        async def run() -> None:
            function(*args)

        self.thread.run(run())

    def step(self, ts: int, **values: Any) -> None:
        """A transition at `ts`; queries are named by their function. A dict with `code` fails the query, one with `logLines`
        says something beside its `value`."""
        self.on_loop(lambda: None)  # what was asked before has been sent
        ids = {
            each["udfPath"].partition(":")[2]: each["queryId"]
            for frame in self.sent
            for each in frame.get("modifications", ())
            if each["type"] == "Add"
        }
        newest = max((frame.get("newVersion", 0) for frame in self.sent), default=0)
        end = {"querySet": newest, "identity": 0, "ts": encode_ts(ts)}
        modifications = [modification(ids[name], value) for name, value in values.items()]
        frame = {"type": "Transition", "startVersion": self.at, "endVersion": end, "modifications": modifications}
        self.at = end
        self.on_loop(self._received, json.dumps(frame))


def modification(query_id: int, value: Any) -> dict[str, Any]:
    common = {"queryId": query_id, "logLines": [], "journal": None}
    if isinstance(value, dict) and "code" in value:
        return {"type": "QueryFailed", "errorMessage": value["message"], "error": value, **common}
    if isinstance(value, dict) and "logLines" in value:
        return {"type": "QueryUpdated", **common, **value}
    return {"type": "QueryUpdated", "value": value, **common}


class ScriptedDatabase:
    """What widgets ask of a Database, over a scripted link."""

    def __init__(self, link: ScriptedLink, rung: str, where: str) -> None:
        self.link, self.rung, self.where, self.deployment = link, rung, where, "default"
        self.dispatch = CallbackThread()
        self.on_closed: list[Any] = []

    def subscribe(self, path: str, /, **args: Any) -> Subscription:
        return Subscription(self.link, path, args, None, self.dispatch)


def eventually(check: Callable[[], object], seconds: float = 5.0) -> Any:
    """Wait for something that another thread does."""
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)
    return found
