"""The functions of the push benchmark: one live query per group, one row changed at a time."""

import cellstore as cs


class Small(cs.Table, name="small"):
    group: int
    rank: int
    value: float
    by_group = cs.Index("group", "rank")


class Large(cs.Table, name="large"):
    group: int
    rank: int
    value: float
    by_group = cs.Index("group", "rank")


@cs.query
def top(ctx, table: str, group: int):
    return ctx.db.query(table).with_index("by_group", group=group).take(20)


@cs.query
def many(ctx, table: str, count: int):
    return ctx.db.query(table).with_index("by_group").take(count)


@cs.mutation
def touch(ctx, table: str, group: int, value: float):
    first = ctx.db.query(table).with_index("by_group", group=group).first()
    ctx.db.patch(first._id, {"value": value})
