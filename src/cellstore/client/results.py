"""What the server said: the newest result of every live query, all of one moment.

A transition moves all results together from one state version to the next. One that does not start where we stand
is refused whole; the connection is then begun again, which is always safe and never shows a torn state.

Invariant: every result is valid at `ts`; nothing changes unless a whole transition was understood.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cellstore.client.wire import Failure, Frame, ProtocolError, read_failure
from cellstore.protocol.delta import spliced
from cellstore.protocol.version import START, StateVersion
from cellstore.values.value import same


@dataclass(frozen=True, slots=True)
class QueryResult:
    """One query's answer: a value, or the failure that took its place."""

    value: Any = None
    failure: Failure | None = None
    logs: tuple[str, ...] = ()
    journal: str | None = None
    digest: str | None = None  # by which the server knows it again


class OutOfStep(ProtocolError):
    """A transition does not start where we stand."""


class Results:
    """The server's side of the conversation, as far as we have heard it."""

    def __init__(self) -> None:
        self.version = START
        self.ts = 0  # the newest moment shown; unlike `version`, kept over a reconnect
        self._results: dict[int, QueryResult] = {}

    def get(self, query_id: int) -> QueryResult | None:
        """The newest result; None while the first is on its way."""
        return self._results.get(query_id)

    def forget(self, query_id: int) -> None:
        """Nobody watches this query any more."""
        self._results.pop(query_id, None)

    def reset(self) -> None:
        """A new connection: the server starts from zero. Results stay, so that views do not blink."""
        self.version = START

    def apply(self, frame: Frame) -> dict[int, QueryResult]:
        """Move to the transition's end; the results that differ from what was known before, or whose runs said something else.

        Errors: OutOfStep, ProtocolError, ValidationError; nothing has changed then.
        """
        start = StateVersion.from_wire(frame.get("startVersion"))
        end = StateVersion.from_wire(frame.get("endVersion"))
        if start != self.version:
            raise OutOfStep(f"a transition from {start} arrived while at {self.version}")
        if end.ts < start.ts or end.query_set < start.query_set:
            raise OutOfStep(f"a transition goes back from {start} to {end}")
        updates, removed = read_modifications(frame.get("modifications"), self._results)
        self.version, self.ts = end, max(self.ts, end.ts)
        changed = {q: result for q, result in updates.items() if is_news(self._results.get(q), result)}
        self._results.update(updates)
        for query_id in removed:
            self._results.pop(query_id, None)
        return changed


def read_modifications(payload: Any, held: Mapping[int, QueryResult]) -> tuple[dict[int, QueryResult], list[int]]:
    """(results by query id, removed query ids); patches are of the results `held`. Errors: ProtocolError."""
    updates: dict[int, QueryResult] = {}
    removed: list[int] = []
    try:
        for one in payload:
            query_id, logs = int(one["queryId"]), tuple(one.get("logLines") or ())
            match one["type"]:
                case "QueryUpdated":
                    updates[query_id] = QueryResult(one.get("value"), None, logs, one.get("journal"), one.get("digest"))
                case "QueryPatched":
                    if query_id not in held:
                        continue  # given up while this was on its way
                    value = spliced(held[query_id].value, one["splices"])
                    updates[query_id] = QueryResult(value, None, logs, one.get("journal"), one.get("digest"))
                case "QueryFailed":
                    failure = read_failure(
                        one.get("error"), one.get("errorMessage"), one.get("errorData"), "errorData" in one
                    )
                    updates[query_id] = QueryResult(None, failure, logs, one.get("journal"))
                case "QueryRemoved":
                    removed.append(query_id)
                case other:
                    raise ProtocolError(f"unknown modification {other!r}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProtocolError(f"a transition's modifications do not parse: {error!r}") from error
    return updates, removed


def is_news(old: QueryResult | None, new: QueryResult) -> bool:
    """Is there anything to tell: a difference, or other log lines?"""
    return old is None or old.logs != new.logs or not same_result(old, new)


def same_result(old: QueryResult | None, new: QueryResult) -> bool:
    """Would a watcher see no difference? Values compare as stored: 1 and 1.0 differ."""
    return old is not None and old.failure == new.failure and same(old.value, new.value)
