"""The functions of the transfer benchmark: money moves between accounts and none is made."""

import cellstore as cs


class Account(cs.Table, name="accounts"):
    number: int
    balance: int


@cs.mutation
def transfer(ctx, source: cs.Id["accounts"], target: cs.Id["accounts"], amount: int):
    a, b = ctx.db.get(source), ctx.db.get(target)
    ctx.db.patch(source, {"balance": a.balance - amount})
    ctx.db.patch(target, {"balance": b.balance + amount})


@cs.mutation
def slow_transfer(ctx, source: cs.Id["accounts"], target: cs.Id["accounts"], rounds: int):
    """Reads what everybody changes, computes for seconds, then writes."""
    a, b = ctx.db.get(source), ctx.db.get(target)
    waste = 0
    for n in range(rounds):
        waste += n * n % 7
    ctx.db.patch(source, {"balance": a.balance - 1})
    ctx.db.patch(target, {"balance": b.balance + 1})
    return waste


@cs.query
def ids(ctx):
    return [account._id for account in ctx.db.query("accounts")]


@cs.query
def total(ctx):
    return sum(account.balance for account in ctx.db.query("accounts"))
