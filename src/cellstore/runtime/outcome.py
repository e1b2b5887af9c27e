"""What one function call came to: a value or an error, the lines it logged, and what it read.

An `Outcome` is an answer, never an exception: a function that raised is an ordinary outcome with `ok` false. The value
stays native JSON bytes all the way from the worker to the socket; nobody on the host decodes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cellstore import errors
from cellstore.errors import ApplicationError, CellstoreError, FunctionError

Identity = Mapping[str, Any]
"""Who calls: claims as plain values (`subject`, `name`, …). `None` stands for nobody."""

ReadIntervals = dict[int, list[tuple[bytes, bytes]]]
"""Index number to sorted, disjoint, half-open spans of index keys: what a call depended on."""


# which one, and in which index, is not for strangers
_TAKEN = "there is another document like it, where there may be only one"


@dataclass(slots=True)
class ErrorInfo:
    """Why a call failed, as data.

    `data` is meaningful only where `has_data`: then user code raised `ApplicationError(data)` on purpose and every
    client may see it. `traceback` shows the user's own lines and is for the owner of the function.
    """

    code: str
    message: str
    data: Any = None
    has_data: bool = False
    traceback: str = ""
    function: str = ""
    request_id: str = ""
    kind: str = ""  # the class of the error, where the code is a finer one: ValidationError

    @property
    def is_transient(self) -> bool:
        """Whether nothing of the call has happened and the same call may succeed: too much to do, too many conflicts."""
        kind = None if self.has_data else _class_of(self.kind or self.code)
        return kind is not None and issubclass(kind, errors.TransientError)

    @property
    def is_fatal(self) -> bool:
        """Whether the store stopped: what a call came to is not known, so this is no answer to it."""
        kind = None if self.has_data else _class_of(self.kind or self.code)
        return kind is not None and issubclass(kind, errors.FatalError)

    def redacted(self) -> ErrorInfo:
        """What a foreign client may know: application errors whole, caller mistakes by message, bugs by request id."""
        if self.code == "NotUnique" and not self.has_data:
            return replace(self, message=_TAKEN, traceback="")
        if self.has_data or (self.code != "FunctionError" and _is_callers_fault(self.code)):
            return replace(self, traceback="")
        message = f"the function failed on the server; its owner finds the reason under request id {self.request_id}"
        return ErrorInfo(code="ServerError", message=message, function=self.function, request_id=self.request_id)

    def to_exception(self) -> CellstoreError:
        """The exception this error stands for, as our own clients raise it."""
        if self.has_data:
            return ApplicationError(self.data, self.message)
        kind = _class_of(self.kind or self.code)
        if kind is not None and not issubclass(kind, FunctionError):
            error = kind(self.message)
            error.code = self.code
            return error
        return FunctionError(
            self.message,
            function=self.function,
            traceback=self.traceback,
            code=self.code,
            request_id=self.request_id,
        )

    @classmethod
    def of(cls, error: CellstoreError, *, function: str = "", request_id: str = "") -> ErrorInfo:
        """An error of ours as data."""
        application = isinstance(error, ApplicationError)
        return cls(
            code=error.code,
            message=error.message,
            data=error.data if application else None,
            has_data=application,
            traceback=getattr(error, "traceback", ""),
            function=function,
            request_id=request_id,
            kind=type(error).__name__ if error.code != type(error).__name__ else "",
        )


def _is_callers_fault(code: str) -> bool:
    """Whether `code` names a mistake in the request, which the caller must be told about."""
    if code == "ArgumentValidationError":
        return True
    kind = _class_of(code)
    return kind is not None and issubclass(kind, errors.CallerError | errors.TransientError)


def _class_of(name: str) -> type[CellstoreError] | None:
    """The error class of ours that has this name."""
    kind = getattr(errors, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, CellstoreError) else None


@dataclass(slots=True)
class Outcome:
    """The answer to one call.

    Shape      value is native JSON (`b"null"` when there is none); logs are lines like `"[LOG] text"`
    Units      ts in ns: the snapshot of a query, the commit of a mutation, the end of an action; duration in ms
    Invariant  a mutation's outcome with `ok` true is durable; `reads` is filled for queries only
    """

    ok: bool
    value: bytes = b"null"
    error: ErrorInfo | None = None
    logs: list[str] = field(default_factory=list)
    ts: int = 0
    reads: ReadIntervals = field(default_factory=dict)
    journal: str | None = None
    used_identity: bool = False
    duration_ms: float = 0.0

    @classmethod
    def failed(cls, error: ErrorInfo | CellstoreError, *, function: str = "", ts: int = 0) -> Outcome:
        """An outcome that is an error and nothing else."""
        info = error if isinstance(error, ErrorInfo) else ErrorInfo.of(error, function=function)
        return cls(ok=False, error=info, ts=ts)


def cancelled(path: str, ran_s: float = 0.0) -> Outcome:
    """The outcome of an action whose caller does not want it any more."""
    info = ErrorInfo("Cancelled", f"{path} was stopped by its caller", function=path)
    return Outcome(False, error=info, duration_ms=ran_s * 1000)
