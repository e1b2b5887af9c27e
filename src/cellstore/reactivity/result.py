"""What a query wants to know, what it came to, and how that looks to one connection.

A `Result` is shared by every connection that watches the same query: its encodings are made once. How much of a failure
a connection may see depends on who is on the other end, so failures are worded here, per principal.

Invariant: equal digests look the same to every client; request ids, tracebacks and timings do not count
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import orjson

from cellstore.protocol import delta
from cellstore.protocol.messages import DIGEST_BYTES, Failure, Message, fragment
from cellstore.protocol.path import canonical
from cellstore.reactivity.principal import Principal
from cellstore.runtime.outcome import ErrorInfo, Outcome
from cellstore.values import json as native
from cellstore.values.convex import to_convex

INVALID_CURSOR = orjson.dumps({"isConvexSystemError": True, "paginationError": "InvalidCursor"})
"""The error data by which Convex's hooks know that they must begin again at the first page."""

PATCH_FROM_BYTES = 8 << 10  # below it finding the difference takes longer than sending everything


@dataclass(frozen=True, slots=True)
class Query:
    """What somebody wants to know. Arguments are plain values; `journal` comes from an earlier run of the same page."""

    path: str
    args: dict[str, Any]
    args_key: bytes
    journal: str | None = None

    @classmethod
    def of(cls, path: str, args: dict[str, Any], journal: str | None = None) -> Query:
        """A query spelt in the one way that makes equal questions equal keys."""
        ordered = {name: args[name] for name in sorted(args)}
        return cls(canonical(path), ordered, native.dumps(ordered), journal)

    def rerun(self, journal: str | None) -> Query:
        """The same question, with the choices of its latest run."""
        return self if journal == self.journal else Query(self.path, self.args, self.args_key, journal)


@dataclass(slots=True, eq=False)
class Result:
    """An outcome, and for how long it holds."""

    outcome: Outcome
    ts: int = 0  # valid from here
    invalid_at: int | None = None  # set by the first commit that touches the read set; None while it holds
    unsettled: bool = False  # the system failed, not the function: nothing was read, it will be tried again
    _convex: bytes | None = None
    _digest: bytes | None = None
    _shown_digest: bytes | None = None
    _rows: delta.Rows | None = None
    _patch: tuple[bytes, bytes | None] | None = None  # the digest of an earlier result, and how to come from it to this

    def valid_at(self, ts: int) -> bool:
        """Whether this is the answer at `ts`."""
        return self.ts <= ts and (self.invalid_at is None or ts < self.invalid_at)

    def value(self, exact: bool) -> bytes:
        """The value's JSON in a connection's format."""
        if exact:
            return self.outcome.value
        if self._convex is None:
            self._convex = convex_json(self.outcome.value)
        return self._convex

    @property
    def digest(self) -> bytes:
        """16 bytes, equal for results that look the same to an owner."""
        if self._digest is None:
            self._digest = _digest(self.outcome)
        return self._digest

    @property
    def shown_digest(self) -> bytes:
        """16 bytes, equal for results that look the same to everybody. Nothing is in it that some are not shown: they could
        try out what it is."""
        if self._shown_digest is None:
            hides = self.outcome.logs or self.outcome.error
            self._shown_digest = _digest(_redacted(self.outcome)) if hides else self.digest
        return self._shown_digest

    def digest_for(self, who: Principal) -> bytes:
        """By which `who` knows it again."""
        return self.digest if who.owner else self.shown_digest

    def patch_from(self, earlier: Result) -> bytes | None:
        """How who holds `earlier` comes to this: JSON of splices. None when it is hardly shorter than the value itself.

        Made once for all who come from the same result, as they do unless one of them is slow.
        """
        if len(self.outcome.value) < PATCH_FROM_BYTES:
            return None
        if self._patch is None or self._patch[0] != earlier.shown_digest:
            self._patch = (earlier.shown_digest, self._patched(earlier))
        return self._patch[1]

    def patch_known(self, digest: bytes | None) -> bytes | None:
        """As `patch_from`, for who came back with a result of this digest, if that is where others have come from."""
        return self._patch[1] if self._patch is not None and self._patch[0] == digest else None

    def _patched(self, earlier: Result) -> bytes | None:
        old, new = earlier.outcome.value, self.outcome.value
        if earlier._rows is None:
            earlier._rows = delta.rows_of(old)
        if earlier._rows is None:
            return None
        if self._rows is None:
            self._rows = delta.next_rows(earlier._rows, old, new)
        if self._rows is None:
            return None
        patch = delta.encoded(delta.splices(earlier._rows, self._rows))
        return patch if len(patch) * 2 < len(new) else None

    def share(self, earlier: Result) -> None:
        """Keep one copy of bytes known to be equal."""
        self.outcome.value, self._convex, self._rows = earlier.outcome.value, earlier._convex, earlier._rows


def _digest(out: Outcome) -> bytes:
    error = out.error
    head = [out.ok, out.journal, out.logs, error and [error.code, error.message, error.has_data]]
    data = native.dumps(error.data) if error is not None and error.has_data else b""
    return hashlib.blake2b(orjson.dumps(head) + data + out.value, digest_size=DIGEST_BYTES).digest()


def _redacted(out: Outcome) -> Outcome:
    """The outcome as foreign callers see it, whichever run it was."""
    error = out.error and replace(out.error, request_id="").redacted()
    return Outcome(out.ok, out.value, error=error, journal=out.journal)


def convex_json(value: bytes) -> bytes:
    """Native JSON to Convex's encoding of the same value."""
    return native.snug(orjson.dumps(to_convex(native.loads(value))))


def value_json(outcome: Outcome, exact: bool) -> bytes:
    """An outcome's value in a connection's format."""
    return outcome.value if exact else convex_json(outcome.value)


def logs_for(outcome: Outcome, who: Principal) -> list[str]:
    """The log lines `who` may see: those of functions they own."""
    return outcome.logs if who.owner else []


def failure_for(outcome: Outcome, who: Principal, exact: bool) -> Failure:
    """Why a call failed, in the words and the detail that are right for `who`.

    Owners see the user's own traceback lines; foreign callers see what they did wrong, application errors whole, and of
    bugs nothing but the request id.
    """
    error = outcome.error or ErrorInfo("InternalServerError", "the call failed and left no reason")
    if error.code == "InvalidCursor" and not exact:
        return Failure(f"InvalidCursor: {error.message}", INVALID_CURSOR)
    if not who.owner:
        error = error.redacted()
    data = None
    if error.has_data:
        data = native.dumps(error.data) if exact else orjson.dumps(to_convex(error.data))
    return Failure(failure_text(error), data, structured(error) if exact else None)


def failure_text(error: ErrorInfo) -> str:
    """One string for clients that know no structure, in the shape Convex gives its errors."""
    prefix = f"[Request ID: {error.request_id}] " if error.request_id else ""
    if error.has_data:
        return f"{prefix}Server Error\nUncaught ConvexError: {error.message}"
    if error.code == "ServerError":
        return f"{prefix}Server Error"
    if error.code == "FunctionError" or error.traceback:
        return f"{prefix}Server Error\n{error.traceback or error.message}"
    return f"{prefix}{error.message}"


def structured(error: ErrorInfo) -> Message:
    """The error as a JSON object, for connections that asked for exact values."""
    message = plain(error)
    if error.has_data:
        message["data"] = fragment(native.dumps(error.data))
    return message


def plain(error: ErrorInfo) -> dict[str, Any]:
    """The error as a value: code, message, data if the function gave some, and whatever else is known."""
    message: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.has_data:
        message["data"] = error.data
    more = {
        "traceback": error.traceback, "function": error.function, "request_id": error.request_id, "class": error.kind
    }  # fmt: skip
    return message | {name: text for name, text in more.items() if text}
