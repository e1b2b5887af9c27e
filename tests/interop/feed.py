"""The functions of the React page."""

import cellstore as cs


class Post(cs.Table, name="posts"):
    n: int
    by_n = cs.Index("n")


@cs.query
def count(ctx):
    return ctx.db.query("posts").count()


@cs.query
def page(ctx, paginationOpts: cs.Any):
    return ctx.db.query("posts").with_index("by_n").paginate(paginationOpts)


@cs.mutation
def post(ctx, n: int):
    return ctx.db.insert("posts", {"n": n})


@cs.mutation
def drop(ctx, n: int):
    for row in ctx.db.query("posts").with_index("by_n", n=n):
        ctx.db.delete(row._id)


@cs.mutation
def refuse(ctx):
    raise cs.ApplicationError({"why": "no"})
