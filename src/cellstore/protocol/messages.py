"""The messages of the sync protocol.

    client ▸ server    Connect · Authenticate · ModifyQuerySet · Mutation · Action · CancelAction · Event
    server ▸ client    Transition (QueryUpdated, QueryPatched, QueryFailed, QueryRemoved) · MutationResponse · ActionResponse
                       · AuthError · Ping

Client messages are parsed strictly into frozen dataclasses: a missing or mistyped field is a `ValidationError` that
names it, and the connection is closed with that text. Unknown extra fields are ignored, and so are unknown message
types, because newer clients may send them. Arguments are decoded to plain values here, in the connection's format.

Server messages are built as dicts ready for `codec.encode`; values are spliced in as already encoded JSON.

Source: Convex sync protocol as spoken by npm `convex` 1.48 and PyPI `convex` 0.8.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import orjson

from cellstore.errors import ValidationError
from cellstore.protocol.path import PATH_LENGTH_MAX
from cellstore.protocol.version import StateVersion, decode_ts, encode_ts
from cellstore.values import convex
from cellstore.values import json as native

U32_MAX = (1 << 32) - 1
MODIFICATIONS_MAX = 100_000  # in one frame; the frame size bounds it too
DIGEST_BYTES = 16  # of a result
TEXT_MAX = 1 << 20  # journals, tokens: bounded so that nothing per query can grow without limit


class Format(enum.Enum):
    """How values travel on one connection."""

    CONVEX = "convex"  # official clients: every plain number is a float
    EXACT = "exact"  # our clients: native JSON, ints and floats distinct


@dataclass(frozen=True, slots=True)
class Connect:
    """Normally first on a socket, but may be missing altogether."""

    session: str
    connection_count: int = 0
    last_close_reason: str | None = None
    max_observed_ts: int | None = None
    exact: bool = False
    deltas: bool = False  # lists may come as patches of the list before; only with `exact`
    repeats: bool = False  # Convex's client in Rust is back: it takes no answer to a call that a transition has ended


@dataclass(frozen=True, slots=True)
class Authenticate:
    """From here on the connection acts as somebody else."""

    base_version: int
    token_type: str  # "User" | "Admin" | "None"
    value: str | None = None
    impersonating: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Add:
    """Subscribe `query_id` to a query."""

    query_id: int
    path: str
    args: dict[str, Any]
    journal: str | None = None
    component: str | None = None
    holds: bytes | None = None  # the digest of the result the client has from an earlier connection


@dataclass(frozen=True, slots=True)
class Remove:
    """End the subscription `query_id`."""

    query_id: int


@dataclass(frozen=True, slots=True)
class ModifyQuerySet:
    """The query set moves from `base_version` to `new_version`."""

    base_version: int
    new_version: int
    modifications: tuple[Add | Remove, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """What a mutation and an action have in common."""

    request_id: int
    path: str
    args: dict[str, Any]
    component: str | None = None


@dataclass(frozen=True, slots=True)
class Mutation(Call):
    """Run a mutation, exactly once per (session, request_id)."""


@dataclass(frozen=True, slots=True)
class Action(Call):
    """Run an action, at most once."""


@dataclass(frozen=True, slots=True)
class CancelAction:
    """The caller of a running action wants it to stop. It is answered all the same. Our clients' own."""

    request_id: int


@dataclass(frozen=True, slots=True)
class Ignored:
    """Telemetry, or a type we do not know."""

    type: str


ClientMessage: TypeAlias = Connect | Authenticate | ModifyQuerySet | Mutation | Action | CancelAction | Ignored


def parse(obj: Any, exact: bool = False) -> ClientMessage:
    """One client message out of parsed JSON. `exact` is the value format agreed in Connect.

    Errors: ValidationError naming the field, or the argument that is no value.
    """
    if not isinstance(obj, dict):
        raise ValidationError(path="message", expected="a JSON object", got=type(obj).__name__)
    kind = _field(obj, "type", str)
    parser = _PARSERS.get(kind)
    return parser(obj, exact) if parser is not None else Ignored(kind[:60])


def decode_args(raw: object, exact: bool) -> dict[str, Any]:
    """The `args` of a call: an array holding one object, or the object itself.

    Errors: ValidationError.
    """
    if isinstance(raw, list):
        if len(raw) > 1:
            raise ValidationError(path="args", expected="an array of one object", got=f"{len(raw)} elements")
        raw = raw[0] if raw else {}
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise ValidationError(path="args", expected="an object", got=type(raw).__name__)
    args = native.decode(raw) if exact else convex.from_convex(raw)
    if not isinstance(args, dict):
        raise ValidationError(path="args", expected="an object", got=type(args).__name__)
    return args


def _connect(obj: dict[str, Any], _exact: bool) -> Connect:
    observed = obj.get("maxObservedTimestamp")
    return Connect(
        session=_text(obj, "sessionId", 200),
        connection_count=_count(obj, "connectionCount", default=0),
        last_close_reason=_optional_text(obj, "lastCloseReason"),
        max_observed_ts=None if observed is None else decode_ts(observed, "maxObservedTimestamp"),
        exact=obj.get("exact") is True,
        deltas=obj.get("deltas") is True,
        repeats=not obj.get("clientTs") and obj.get("lastCloseReason") not in (None, "InitialConnect"),
    )


def _authenticate(obj: dict[str, Any], _exact: bool) -> Authenticate:
    token_type = _field(obj, "tokenType", str)
    if token_type not in ("User", "Admin", "None"):
        raise ValidationError(path="tokenType", expected="User, Admin or None", got=repr(token_type)[:60])
    acting = obj.get("impersonating", obj.get("acting_as"))
    if acting is not None and not isinstance(acting, dict):
        raise ValidationError(path="impersonating", expected="an object", got=type(acting).__name__)
    value = None if token_type == "None" else _text(obj, "value", TEXT_MAX)
    return Authenticate(_count(obj, "baseVersion"), token_type, value, acting)


def _modify_query_set(obj: dict[str, Any], exact: bool) -> ModifyQuerySet:
    base, new = _count(obj, "baseVersion"), _count(obj, "newVersion")
    if new <= base:
        raise ValidationError(path="newVersion", expected=f"a version above {base}", got=str(new))
    modifications = _field(obj, "modifications", list)
    if len(modifications) > MODIFICATIONS_MAX:
        raise ValidationError(path="modifications", expected=f"≤ {MODIFICATIONS_MAX}", got=str(len(modifications)))
    return ModifyQuerySet(base, new, tuple(_modification(each, exact) for each in modifications))


def _modification(obj: Any, exact: bool) -> Add | Remove:
    if not isinstance(obj, dict):
        raise ValidationError(path="modifications", expected="objects", got=type(obj).__name__)
    kind = _field(obj, "type", str)
    query_id = _count(obj, "queryId")
    if kind == "Remove":
        return Remove(query_id)
    if kind != "Add":
        raise ValidationError(path="modifications.type", expected="Add or Remove", got=repr(kind)[:60])
    path, args = _text(obj, "udfPath", PATH_LENGTH_MAX), decode_args(obj.get("args"), exact)
    holds = _digest(obj.get("holds")) if exact else None
    return Add(query_id, path, args, _optional_text(obj, "journal"), _optional_text(obj, "componentPath"), holds)


def _digest(text: object) -> bytes | None:
    """What `query_updated` told; what is no such thing is of a result nobody has."""
    try:
        return bytes.fromhex(text) if isinstance(text, str) and len(text) == 2 * DIGEST_BYTES else None
    except ValueError:
        return None


def _call(message: type[Mutation] | type[Action]) -> Callable[[dict[str, Any], bool], Mutation | Action]:
    def parser(obj: dict[str, Any], exact: bool) -> Mutation | Action:
        path, args = _text(obj, "udfPath", PATH_LENGTH_MAX), decode_args(obj.get("args"), exact)
        return message(_count(obj, "requestId"), path, args, _optional_text(obj, "componentPath"))

    return parser


_PARSERS: dict[str, Callable[[dict[str, Any], bool], ClientMessage]] = {
    "Connect": _connect,
    "Authenticate": _authenticate,
    "ModifyQuerySet": _modify_query_set,
    "Mutation": _call(Mutation),
    "Action": _call(Action),
    "CancelAction": lambda obj, _exact: CancelAction(_count(obj, "requestId")),
}


def _field(obj: dict[str, Any], name: str, kind: type) -> Any:
    value = obj.get(name)
    if not isinstance(value, kind):
        expected = {"str": "a string", "list": "an array"}.get(kind.__name__, kind.__name__)
        raise ValidationError(path=name, expected=expected, got="nothing" if value is None else type(value).__name__)
    return value


def _text(obj: dict[str, Any], name: str, length_max: int) -> str:
    text: str = _field(obj, name, str)
    if len(text) > length_max:
        raise ValidationError(path=name, expected=f"at most {length_max} characters", got=str(len(text)))
    return text


def _optional_text(obj: dict[str, Any], name: str) -> str | None:
    return None if obj.get(name) is None else _text(obj, name, TEXT_MAX)


def _count(obj: dict[str, Any], name: str, default: int | None = None) -> int:
    value = obj.get(name, default)
    if isinstance(value, float) and value.is_integer():  # a client that writes every number as a float
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= U32_MAX:
        raise ValidationError(path=name, expected="an integer in [0, 2**32)", got=repr(value)[:60])
    return value


# ── server messages ──────────────────────────────────────────────────────────────────────────────────────────────────

Message: TypeAlias = dict[str, Any]

PING: Message = {"type": "Ping"}


def fragment(json: bytes) -> orjson.Fragment:
    """Already encoded JSON, to be spliced in as it is."""
    return orjson.Fragment(json)


@dataclass(frozen=True, slots=True)
class Failure:
    """A function's failure as one connection may see it.

    `data` is present (possibly null) only when the function raised an ApplicationError; JSON in the format agreed.
    """

    message: str
    data: bytes | None = None
    error: Message | None = None  # the structured form, for exact connections


def query_updated(
    query_id: int, value: bytes, logs: list[str], journal: str | None, digest: bytes | None = None
) -> Message:
    """A query's new result; `value` is JSON in the connection's format.

    Clients that asked for `deltas` are told its `digest` too: who says that it `holds` it, when it comes back with a new
    connection, is not told the same again.
    """
    message: Message = {
        "type": "QueryUpdated",
        "queryId": query_id,
        "value": fragment(value),
        "logLines": logs,
        "journal": journal,
    }
    return message if digest is None else {**message, "digest": digest.hex()}


def query_patched(query_id: int, splices: bytes, logs: list[str], journal: str | None, digest: bytes) -> Message:
    """A query's new result, a list, as changes of the one before: `[[place, removed, [rows…]], …]` by rising places of
    the old list. Sent only to clients that asked for `deltas`."""
    return {
        "type": "QueryPatched",
        "queryId": query_id,
        "splices": fragment(splices),
        "logLines": logs,
        "journal": journal,
        "digest": digest.hex(),
    }


def query_failed(query_id: int, failure: Failure, logs: list[str], journal: str | None) -> Message:
    """A query that failed; it stays subscribed."""
    message: Message = {
        "type": "QueryFailed",
        "queryId": query_id,
        "errorMessage": failure.message,
        "logLines": logs,
        "journal": journal,
    }
    return _with_failure(message, failure)


def query_removed(query_id: int) -> Message:
    """The acknowledgement of a Remove."""
    return {"type": "QueryRemoved", "queryId": query_id}


def transition(start: StateVersion, end: StateVersion, modifications: list[Message]) -> Message:
    """One atomic step of a client. `clientClockSkew` and `serverTs` are left out together, as the protocol allows."""
    return {
        "type": "Transition",
        "startVersion": start.to_wire(),
        "endVersion": end.to_wire(),
        "modifications": modifications,
    }


def mutation_response(request_id: int, value: bytes, ts: int, logs: list[str]) -> Message:
    """The mutation committed at `ts`."""
    return {
        "type": "MutationResponse",
        "requestId": request_id,
        "success": True,
        "result": fragment(value),
        "ts": encode_ts(ts),
        "logLines": logs,
    }


def action_response(request_id: int, value: bytes, logs: list[str]) -> Message:
    """The action returned."""
    return {
        "type": "ActionResponse",
        "requestId": request_id,
        "success": True,
        "result": fragment(value),
        "logLines": logs,
    }


def call_failed(kind: str, request_id: int, failure: Failure, logs: list[str]) -> Message:
    """A mutation or action that failed; `kind` is the response's type."""
    message: Message = {
        "type": kind,
        "requestId": request_id,
        "success": False,
        "result": failure.message,
        "logLines": logs,
    }
    return _with_failure(message, failure)


def auth_error(text: str, base_version: int, attempted: bool) -> Message:
    """The token was refused (`attempted`), or an accepted identity expired. The socket closes right after."""
    return {"type": "AuthError", "error": text, "baseVersion": base_version, "authUpdateAttempted": attempted}


def _with_failure(message: Message, failure: Failure) -> Message:
    if failure.data is not None:
        message["errorData"] = fragment(failure.data)
    if failure.error is not None:
        message["error"] = failure.error
    return message
