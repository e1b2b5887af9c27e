"""The functions of the push benchmark: one live query per group, one row changed at a time."""

import cellstore as cs


class Item(cs.Table, name="items"):
    group: int
    rank: int
    value: float
    by_group = cs.Index("group", "rank")


@cs.query
def top(ctx, group: int):
    return ctx.db.query("items").with_index("by_group", group=group).take(20)


@cs.mutation
def touch(ctx, group: int, value: float):
    first = ctx.db.query("items").with_index("by_group", group=group).first()
    ctx.db.patch(first._id, {"value": value})
