"""What we asked for: the live queries of one client, each once, however many watch it.

The server holds nothing for us across connections, so this is also what is said again after a reconnect, with the
journal of each query so that pages keep their edges, and the digest of the result we hold so that it is not told again.

Invariant: `version` is what the server has been sent on this connection; equal (path, args) share one query id; an id
           is never used for another query.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from cellstore.client.results import QueryResult, Results
from cellstore.client.wire import Frame
from cellstore.values import json as native


@dataclass(slots=True)
class LiveQuery:
    """One question, asked on behalf of `watchers` subscriptions."""

    query_id: int
    path: str
    args: dict[str, Any]
    key: bytes
    watchers: int = 1


class QuerySet:
    """The queries this client wants to hear about."""

    def __init__(self) -> None:
        self.version = 0
        self._by_id: dict[int, LiveQuery] = {}
        self._by_key: dict[bytes, LiveQuery] = {}
        self._next_id = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, query_id: int) -> LiveQuery | None:
        """The query of this id, if somebody still watches it."""
        return self._by_id.get(query_id)

    def find(self, path: str, args: dict[str, Any]) -> LiveQuery | None:
        """The query for (path, args), if somebody watches it."""
        return self._by_key.get(query_key(path, args))

    def acquire(self, path: str, args: dict[str, Any]) -> tuple[LiveQuery, bool]:
        """The query for (path, args), one watcher more; True when it is new and the server must be told."""
        key = query_key(path, args)
        query = self._by_key.get(key)
        if query is not None:
            query.watchers += 1
            return query, False
        query = LiveQuery(self._next_id, path, args, key)
        self._next_id += 1
        self._by_id[query.query_id] = self._by_key[key] = query
        return query, True

    def release(self, query_id: int) -> bool:
        """One watcher fewer; True when that was the last one and the server must be told."""
        query = self._by_id.get(query_id)
        if query is None:
            return False
        query.watchers -= 1
        if query.watchers:
            return False
        del self._by_id[query_id], self._by_key[query.key]
        return True

    def reset(self) -> None:
        """A new connection: the server knows nothing."""
        self.version = 0

    def everything(self, results: Results) -> Frame:
        """The frame that asks for the whole set, the first of a connection, with what is known of each result."""
        return self.modify([add(query, results.get(query.query_id)) for query in self._by_id.values()])

    def modify(self, modifications: list[Frame]) -> Frame:
        """The frame for these modifications; the version moves with it."""
        self.version += 1
        return {
            "type": "ModifyQuerySet",
            "baseVersion": self.version - 1,
            "newVersion": self.version,
            "modifications": modifications,
        }

    def check(self) -> None:
        """The two indexes agree and every query is watched."""
        assert {id(q) for q in self._by_id.values()} == {id(q) for q in self._by_key.values()}
        assert all(q.watchers > 0 and q.query_id < self._next_id for q in self._by_id.values())


def add(query: LiveQuery, result: QueryResult | None = None) -> Frame:
    """The modification that asks for a query of which `result` is here already."""
    frame: Frame = {
        "type": "Add",
        "queryId": query.query_id,
        "udfPath": query.path,
        "args": [query.args],
        "journal": None if result is None else result.journal,
    }
    return frame if result is None or result.digest is None else {**frame, "holds": result.digest}


def remove(query_id: int) -> Frame:
    """The modification that ends a query."""
    return {"type": "Remove", "queryId": query_id}


def query_key(path: str, args: dict[str, Any]) -> bytes:
    """Equal exactly for the same path and identical arguments; field order does not matter, 1 and 1.0 differ."""
    jsonable = orjson.loads(native.dumps(args))
    return path.encode() + b"\0" + orjson.dumps(jsonable, option=orjson.OPT_SORT_KEYS)
