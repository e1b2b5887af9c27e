"""`db.pages(…)`: a paginated query from one page to the last, all of one moment.

    for page in db.pages(all_tasks, 500):
        keep(page)
        note(page.cursor)
    for page in db.pages(all_tasks, 500, noted): …      goes on behind that page, another day or in another process

A cursor is a place in the index, not a number of documents: what came or went before it since moves nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cellstore.client.errors_render import doorway
from cellstore.errors import CallerError

if TYPE_CHECKING:
    from cellstore.client.database import Callee, Database


class Page(list[Any]):
    """The documents of one page. `cursor` is where the next one begins."""

    def __init__(self, documents: list[Any], cursor: str, is_last: bool) -> None:
        super().__init__(documents)
        self.cursor = cursor
        self.is_last = is_last


def pages(db: Database, path_or_fn: Callee, size: int, cursor: str | None, args: dict[str, Any]) -> Iterator[Page]:
    """The pages behind `cursor`, None: all. Errors: see `Database.pages`; arguments are checked before the first."""
    argument = _argument(path_or_fn)
    path, _ = db._prepared(path_or_fn, "query", {**args, argument: _opts(size, cursor)})
    return _walk(db, path, argument, size, cursor, args)


def _walk(
    db: Database, path: str, argument: str, size: int, cursor: str | None, args: dict[str, Any]
) -> Iterator[Page]:
    ts: int | None = None
    while True:
        with doorway():
            outcome = db._ask(path, {**args, argument: _opts(size, cursor)}, ts)
            found = db._value(path, outcome)
            if not isinstance(found, dict) or "page" not in found:
                raise CallerError(f"{path} returns no page; return what .paginate(…) gives", code="NoPage")
        ts, cursor = outcome.ts, found["continueCursor"]
        page = Page(found["page"], str(cursor), bool(found["isDone"]))
        if page:  # a filter may have passed over a whole one
            yield page
        if page.is_last:
            return


def _argument(path_or_fn: Callee) -> str:
    """Which argument takes the options of a page: `paginationOpts` as in Convex, unless the function says `opts`."""
    from cellstore.functions import Function, registry

    handle = registry.find(path_or_fn) if isinstance(path_or_fn, str) else path_or_fn
    takes = inspect.signature(handle.fn).parameters if isinstance(handle, Function) else {}
    return "opts" if "opts" in takes else "paginationOpts"


def _opts(size: int, cursor: str | None) -> dict[str, Any]:
    return {"numItems": size, "cursor": cursor}
