"""Frames as this side writes and reads them.

One JSON object per text message, told apart by `type`, as Convex's sync protocol has it. `Connect` carries
`"exact": true`, so values cross in native JSON (int and float tokens distinct) and failures carry an `error` object
with code, message, data and the user's own traceback. A frame is itself a stored value: one codec does it all.

Errors:  a frame that does not parse raises `ProtocolError`; the connection is then restarted, nothing is lost
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import orjson

from cellstore.errors import ValidationError
from cellstore.protocol.version import decode_ts
from cellstore.values import json as native

Kind = Literal["mutation", "action"]
Frame = dict[str, Any]
Arguments: TypeAlias = dict[str, Any] | orjson.Fragment
"""Of a call, by name; or their JSON."""

PROTOCOL = 1  # raised when kernel and server halves can no longer understand each other


class ProtocolError(Exception):
    """The server said something that does not fit; start the connection again from zero."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a function or a request did not succeed, as the server tells it."""

    code: str
    message: str
    traceback: str = ""  # the user's own lines; empty when the reader may not see them
    data: Any = None
    has_data: bool = False  # ApplicationError(None) carries data too
    function: str = ""
    request_id: str = ""
    kind: str = ""  # the class of the error, where the code is a finer one


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one function run. `ts` is the commit timestamp of a mutation."""

    value: Any = None
    failure: Failure | None = None
    logs: tuple[str, ...] = ()
    ts: int | None = None


def encode_frame(frame: Frame) -> str:
    """The text of a frame. Errors: ValidationError when an argument is no stored value."""
    return native.dumps(frame).decode()


def sealed(args: dict[str, Any]) -> orjson.Fragment:
    """Arguments as they will cross, whatever their owner does with the objects meanwhile.

    Errors: ValidationError when one is no stored value.
    """
    return orjson.Fragment(native.dumps(args))


def decode_frame(text: str | bytes) -> Frame:
    """A frame from its text. Errors: ProtocolError."""
    try:
        frame = native.loads(text.encode() if isinstance(text, str) else text)
    except (ValueError, ValidationError) as error:
        raise ProtocolError(f"a frame is no JSON: {error}") from error
    if not isinstance(frame, dict) or not isinstance(frame.get("type"), str):
        raise ProtocolError("a frame has no type")
    return frame


def read_failure(payload: Any, message: object = None, data: Any = None, has_data: bool = False) -> Failure:
    """A failure from the `error` object of an exact server, or from the plain Convex fields of any other."""
    if not isinstance(payload, dict):
        return Failure("ApplicationError" if has_data else "FunctionError", str(message or ""), "", data, has_data)
    return Failure(
        code=str(payload.get("code") or "FunctionError"),
        message=str(payload.get("message") or message or ""),
        traceback=str(payload.get("traceback") or ""),
        data=payload.get("data", data),
        has_data="data" in payload or has_data,
        function=str(payload.get("function") or ""),
        request_id=str(payload.get("requestId") or payload.get("request_id") or ""),
        kind=str(payload.get("class") or ""),
    )


def read_response(frame: Frame) -> Outcome:
    """The outcome in a MutationResponse or ActionResponse."""
    logs = tuple(str(line) for line in frame.get("logLines") or ())
    if frame.get("success"):
        ts = decode_ts(frame["ts"]) if frame.get("ts") is not None else None
        return Outcome(value=frame.get("result"), logs=logs, ts=ts)
    failure = read_failure(frame.get("error"), frame.get("result"), frame.get("errorData"), "errorData" in frame)
    return Outcome(failure=failure, logs=logs)
