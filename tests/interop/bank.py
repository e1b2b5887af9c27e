"""Functions whose every state can be told from a state that never was."""

import cellstore as cs


@cs.query
def entries(ctx):
    return [{"who": row.who, "n": row.n, "total": row.total} for row in ctx.db.query("entries")]


@cs.query
def total(ctx):
    return sum(row.amount for row in ctx.db.query("books"))


@cs.query
def book(ctx, number: int):
    return [row.amount for row in ctx.db.query("books") if row.number == number]


@cs.mutation
def open_books(ctx):
    for number in range(4):
        ctx.db.insert("books", {"number": number, "amount": 25})


@cs.mutation
def post(ctx, who: str, n: int):
    """One more entry, and money moved: the sum of the books stays, and entries are numbered without gaps."""
    books = ctx.db.query("books").collect()
    source, target = books[int(n) % 4], books[(int(n) + 1) % 4]
    ctx.db.patch(source._id, {"amount": source.amount - 1})
    ctx.db.patch(target._id, {"amount": target.amount + 1})
    count = len(ctx.db.query("entries").collect())
    ctx.db.insert("entries", {"who": who, "n": int(n), "total": count + 1})
    return count + 1
