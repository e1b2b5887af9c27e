"""A test's end of the wire: what the machine under test sends, in short, and what a server would answer."""

from __future__ import annotations

from typing import Any

from cellstore.client.machine import Effect, Machine, Restart, Send, Settled, Stepped, Stop
from cellstore.client.wire import encode_frame
from cellstore.protocol.version import encode_ts


def machine() -> Machine:
    """A machine with a fixed session and clock."""
    return Machine("session", now_ms=lambda: 1_000)


def said(effects: list[Effect]) -> list[str]:
    """Effects as lines a person can read."""
    return [_say(effect) for effect in effects]


def _say(effect: Effect) -> str:
    match effect:
        case Send(frame):
            return _say_frame(frame)
        case Stepped(ts, changed):
            shown = [f"{q}={r.failure.code}" if r.failure else f"{q}={r.value!r}" for q, r in changed.items()]
            return " ".join([f"step @{ts}", *shown])
        case Settled(request_id, outcome):
            what = outcome.failure.code if outcome.failure else repr(outcome.value)
            return f"settled {request_id}: {what}"
        case Restart(reason):
            return f"restart: {reason}"
        case Stop(error):
            return f"stop: {type(error).__name__}: {error.message}"


def _say_frame(frame: dict[str, Any]) -> str:
    match frame["type"]:
        case "Connect":
            return f"Connect #{frame['connectionCount']} {frame['lastCloseReason']}"
        case "ModifyQuerySet":
            steps = [
                f"+{m['queryId']} {m['udfPath']}{m['args'][0]}" if m["type"] == "Add" else f"-{m['queryId']}"
                for m in frame["modifications"]
            ]
            return " ".join([f"ModifyQuerySet {frame['baseVersion']}→{frame['newVersion']}", *steps])
        case kind:
            return f"{kind} {frame['requestId']} {frame['udfPath']}{frame['args'][0]}"


def version(query_set: int, ts: int) -> dict[str, Any]:
    """A state version as the server writes it."""
    return {"querySet": query_set, "identity": 0, "ts": encode_ts(ts)}


def transition(start: tuple[int, int], end: tuple[int, int], **values: Any) -> str:
    """A Transition from (query set, ts) to (query set, ts); `q0=value` updates query 0, an Exception fails it."""
    modifications = [_modification(int(name[1:]), value) for name, value in values.items()]
    return encode_frame(
        {
            "type": "Transition",
            "startVersion": version(*start),
            "endVersion": version(*end),
            "modifications": modifications,
        }
    )


def patch(start: tuple[int, int], end: tuple[int, int], modification: dict[str, Any]) -> str:
    """A Transition with this one modification."""
    versions = {"startVersion": version(*start), "endVersion": version(*end)}
    return encode_frame({"type": "Transition", **versions, "modifications": [modification]})


def _modification(query_id: int, value: Any) -> dict[str, Any]:
    base = {"queryId": query_id, "logLines": [], "journal": f"journal of {query_id}"}
    if isinstance(value, Exception):
        error = {"code": "FunctionError", "message": str(value), "traceback": "line 1"}
        return {**base, "type": "QueryFailed", "errorMessage": str(value), "error": error}
    return {**base, "type": "QueryUpdated", "value": value}


def committed(request_id: int, ts: int, result: Any = None) -> str:
    """A MutationResponse of a success."""
    return encode_frame(
        {
            "type": "MutationResponse",
            "requestId": request_id,
            "success": True,
            "result": result,
            "ts": encode_ts(ts),
            "logLines": [],
        }
    )


def refused(request_id: int, code: str, kind: str = "MutationResponse") -> str:
    """A response that tells a failure."""
    error = {"code": code, "message": "no"}
    return encode_frame(
        {"type": kind, "requestId": request_id, "success": False, "result": "no", "logLines": [], "error": error}
    )
