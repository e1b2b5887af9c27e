"""The functions of the memory benchmark: a table read page by page, and a text searched in all of it."""

import cellstore as cs


@cs.query
def page(ctx, cursor: str | None, size: int):
    return ctx.db.query("items").paginate(num_items=size, cursor=cursor)


@cs.query
def last_of(ctx, low: float, high: float):
    """Goes through a part of the table by an index and keeps nothing."""
    count, last = 0, None
    for item in ctx.db.query("items").with_index("by_score", lambda q: q.gte("score", low).lt("score", high)):
        count, last = count + 1, item.no
    return [count, last]
