"""Guessed effects of mutations under way, shown until the real ones are, or the mutation failed.

    server's results   [milk]            ──────────────▶  [milk, eggs*]      the transition that shows the mutation
    guesses on top     [milk, eggs?]  replayed on every step                 and takes its guess away

A guess is a function `update(view)` that reads and replaces results of live queries. It is kept, not its effect: on
every step all guesses are replayed, in the order of their mutations, over what the server says now. So one that
failed leaves no trace, and the others stand on what is true.

Order:     on the loop thread; updates must be quick and must not block.
Invariant: with no guess left, what is shown is what the server said.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from cellstore.client.results import QueryResult, same_result
from cellstore.values import json as native

if TYPE_CHECKING:
    from cellstore.client.machine import Machine

log = logging.getLogger("cellstore.client")


class View:
    """The results of live queries, as an update sees and changes them."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.guessed: dict[int, QueryResult] = {}

    def get(self, query: Any, /, **args: Any) -> Any:
        """The present result of a live query, a copy; None when nobody watches it or it has none."""
        found = self._machine.queries.find(_path(query), args)
        if found is None:
            return None
        result = self.guessed.get(found.query_id) or self._machine.results.get(found.query_id)
        return None if result is None or result.failure else native.loads(native.dumps(result.value))

    def set(self, query: Any, value: Any, /, **args: Any) -> None:
        """Show `value` as the result of a live query. Nothing happens when nobody watches it."""
        found = self._machine.queries.find(_path(query), args)
        if found is not None:
            self.guessed[found.query_id] = QueryResult(native.loads(native.dumps(value)))


Update = Callable[[View], object]


class Optimism:
    """The guesses of one link."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._updates: dict[int, Update] = {}  # by request id, which is the order of the mutations
        self._guessed: dict[int, QueryResult] = {}  # what is shown in place of the server's results

    def shown(self, query_id: int) -> QueryResult | None:
        """The guess shown for a query, if there is one."""
        return self._guessed.get(query_id)

    def try_out(self, update: Update) -> None:
        """Run an update to see whether it works. Errors: its own."""
        view = View(self._machine)
        view.guessed = dict(self._guessed)
        update(view)

    def begin(self, request_id: int, update: Update) -> dict[int, QueryResult]:
        """A mutation was called with a guess; what now looks different."""
        self._updates[request_id] = update
        return self._replay({})

    def settle(self, changed: dict[int, QueryResult], request_ids: Iterable[int]) -> dict[int, QueryResult]:
        """The server's results changed, and these requests are over; what now looks different."""
        over = [self._updates.pop(request_id, None) for request_id in request_ids]
        if not self._updates and not self._guessed and not any(over):
            return changed
        return self._replay(changed)

    def _replay(self, changed: dict[int, QueryResult]) -> dict[int, QueryResult]:
        view = View(self._machine)
        for request_id, update in list(self._updates.items()):
            before = dict(view.guessed)
            try:
                update(view)
            except Exception:
                log.exception("an optimistic update failed on a newer state, and is dropped")
                view.guessed = before
                del self._updates[request_id]
        earlier, self._guessed = self._guessed, view.guessed
        now = {query_id: self._now(query_id) for query_id in {**changed, **earlier, **self._guessed}}
        return {
            query_id: result
            for query_id, result in now.items()
            if result is not None and not self._was_shown(query_id, result, changed, earlier)
        }

    def _now(self, query_id: int) -> QueryResult | None:
        return self._guessed.get(query_id) or self._machine.results.get(query_id)

    def _was_shown(
        self, query_id: int, result: QueryResult, changed: dict[int, QueryResult], earlier: dict[int, QueryResult]
    ) -> bool:
        """Whether a watcher has seen this already: a guess earlier on, or what the server still says."""
        if query_id in earlier:
            return same_result(earlier[query_id], result)
        return query_id not in changed and same_result(self._machine.results.get(query_id), result)


def _path(query: Any) -> str:
    return str(getattr(query, "path", query))
