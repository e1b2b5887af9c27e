"""Every error a caller can meet, in one tree. The branch is the retry policy.

    CellstoreError                    .code stable CamelCase · .message for people · .data for programs
    ├─ CallerError                    asking again will not help                                  HTTP
    │  ├─ ValidationError             a value, argument or document does not fit                  400
    │  ├─ DeployError                 a function or definition cannot travel to the store         400
    │  ├─ NotFound                    no such table, index, function, document                    404
    │  │  └─ MethodNotAllowed         an HTTP action is there for other methods                   405
    │  ├─ Unauthenticated             who are you?                                                401
    │  ├─ Forbidden                   you may not                                                 403
    │  ├─ LimitExceeded               a knob was hit                                              413
    │  ├─ NotDeterministic            a query or mutation tried what only an action may do        400
    │  └─ ApplicationError            raised by user code on purpose; .data reaches every client  400
    ├─ FunctionError                  user code broke; .traceback shows the user's own lines      500
    ├─ StorageError                   the disk refused; nothing was written; fix that and try again       507
    ├─ TransientError                 the same request may succeed
    │  ├─ ConflictError               another commit touched what this transaction read           409
    │  ├─ OutOfRetention              the snapshot is older than the retention window             410
    │  ├─ Overloaded                  a bounded queue is full                                     503
    │  └─ Disconnected                client side: the server is away                             503
    └─ FatalError                     only the deployment's top may catch it; it stops           503
       ├─ LeaseLost                   another process owns the store
       │  └─ StoreLocked              … already when we tried to open it
       ├─ Corruption                  stored bytes disagree
       └─ InvariantError              our bug, with the story that led to it

The runner re-runs queries and mutations on `TransientError`, nothing else, and actions never.
A class's docstring is its default message. HTTP status sits on the class, here and nowhere else.
"""

from __future__ import annotations

from typing import Any, ClassVar


class CellstoreError(Exception):
    """Something went wrong in cellstore."""

    http_status: ClassVar[int] = 500
    inserted: int = 0  # documents that a bulk insert had committed when this ended it

    def __init__(self, message: str | None = None, *, code: str | None = None, data: Any = None) -> None:
        self.message = message if message is not None else (type(self).__doc__ or "").strip().splitlines()[0]
        self.code = code or type(self).__name__
        self.data = data
        super().__init__(self.message)


class CallerError(CellstoreError):
    """The request is wrong; asking again will not help."""

    http_status = 400


class ValidationError(CallerError):
    """A value does not fit."""

    def __init__(
        self,
        message: str | None = None,
        *,
        path: str = "",
        expected: str = "",
        got: str = "",
        code: str | None = None,
    ) -> None:
        self.path, self.expected, self.got = path, expected, got
        if message is None:
            where = f"{path}: " if path else ""
            message = f"{where}expected {expected}, got {got}"
        super().__init__(message, code=code)


class DeployError(CallerError):
    """A function or definition cannot travel to the store."""


class NotFound(CallerError):
    """There is no such thing."""

    http_status = 404

    def __init__(self, message: str | None = None, *, kind: str = "", name: str = "", code: str | None = None) -> None:
        self.kind, self.name = kind, name
        super().__init__(message if message is not None else f"there is no {kind} {name!r}", code=code)


class MethodNotAllowed(NotFound):
    """There is something at this path, for other methods."""

    http_status = 405


class Unauthenticated(CallerError):
    """Sign in first: no valid token, cookie or key came with this request."""

    http_status = 401


class Forbidden(CallerError):
    """You are signed in, but you may not do this."""

    http_status = 403


class LimitExceeded(CallerError):
    """A limit was reached."""

    http_status = 413

    def __init__(
        self, message: str | None = None, *, knob: str = "", limit: float = 0, used: float = 0, code: str | None = None
    ) -> None:
        self.knob, self.limit, self.used = knob, limit, used
        if message is None:
            message = f"{knob} allows {limit:,.15g}, this call used {used:,.15g}"
        super().__init__(message, code=code)


class NotDeterministic(CallerError):
    """A query or mutation tried what only an action may do."""

    traceback: str = ""  # where, when no frame tells


class ApplicationError(CallerError):
    """The function refused, on purpose. `.data` (any stored value) reaches every client."""

    def __init__(self, data: Any = None, message: str | None = None) -> None:
        if message is None:
            message = data if isinstance(data, str) else f"the function refused: {data!r}"
        super().__init__(message, data=data)


class FunctionError(CellstoreError):
    """The function raised an error."""

    def __init__(
        self,
        message: str | None = None,
        *,
        function: str = "",
        traceback: str = "",
        code: str | None = None,
        request_id: str = "",
    ) -> None:
        self.function, self.traceback, self.request_id = function, traceback, request_id
        super().__init__(message, code=code)


class StorageError(CellstoreError):
    """The disk refused; nothing was written. Free space or fix it, then try again."""

    http_status = 507


class TransientError(CellstoreError):
    """It did not work this time; the same request may succeed."""

    http_status = 503


class ConflictError(TransientError):
    """Another commit changed what this transaction read."""

    http_status = 409

    def __init__(self, message: str | None = None, *, index: int = 0, write_ts: int = 0, writer: str = "") -> None:
        self.index, self.write_ts, self.writer = index, write_ts, writer
        super().__init__(message)


class OutOfRetention(TransientError):
    """The snapshot is older than the store keeps; begin again on a newer one."""

    http_status = 410

    def __init__(self, message: str | None = None, *, ts: int = 0, min_snapshot_ts: int = 0) -> None:
        self.ts, self.min_snapshot_ts = ts, min_snapshot_ts
        super().__init__(message)


class Overloaded(TransientError):
    """A queue is full; try again in a moment."""

    def __init__(self, message: str | None = None, *, queue: str = "", retry_after_s: float = 1.0) -> None:
        self.queue, self.retry_after_s = queue, retry_after_s
        super().__init__(message)


class Disconnected(TransientError):
    """The server cannot be reached."""


class FatalError(CellstoreError):
    """The store must stop."""

    http_status = 503


class LeaseLost(FatalError):
    """Another process owns this store; nothing more may be written from here."""


class StoreLocked(LeaseLost):
    """Another process has this store open."""

    http_status = 409


class Corruption(FatalError):
    """Stored bytes disagree with each other."""

    http_status = 500


class InvariantError(FatalError):
    """A promise cellstore makes to itself was broken; this is a bug in cellstore."""


INSIDE = "In the function"
"""Begins the heading over a function's lines."""


def function_lines(traceback: str, function: str, reason: str = "") -> str:
    """The function's own lines under a heading that says where it ran; not the `reason` they end with, said anyway."""
    heading = f"{INSIDE} {function}:" if function else f"{INSIDE}:"
    lines = traceback.rstrip().removeprefix("Traceback (most recent call last):\n").split("\n")
    last = max((at for at, line in enumerate(lines) if line[:1].strip()), default=0)
    if reason and "\n".join(lines[last:]).endswith(reason):
        del lines[last:]
    return "\n".join([heading, *lines])
