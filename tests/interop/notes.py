"""What our own client calls: rows that are added, a long table, values that come back, a call that takes its time."""

import asyncio

import cellstore as cs


@cs.query
def rows(ctx):
    return [row.n for row in ctx.db.query("rows")]


@cs.query
def count(ctx):
    return ctx.db.query("rows").count()


@cs.query
def long(ctx):
    return [{"n": row.n, "text": row.text} for row in ctx.db.query("long")]


@cs.query
def echo(ctx, value: cs.Any):
    return value


@cs.mutation
def add(ctx, n: int):
    return ctx.db.insert("rows", {"n": n})


@cs.mutation
def clear(ctx):
    for row in ctx.db.query("rows"):
        ctx.db.delete(row._id)


@cs.mutation
def refuse(ctx):
    raise cs.ApplicationError({"code": 7})


@cs.mutation
def touch(ctx, n: int):
    for row in ctx.db.query("long").filter(lambda row: row["n"] == n):
        ctx.db.patch(row._id, {"text": row.text + "!"})


@cs.action
async def add_slowly(ctx, n: int, seconds: float):
    await asyncio.sleep(seconds)
    await ctx.run_mutation(add, n=n)
    return await ctx.run_query(count)
