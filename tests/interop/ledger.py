"""Two documents whose amounts are always 200 together."""

import cellstore as cs


@cs.mutation
def open_accounts(ctx):
    for name in ("left", "right"):
        ctx.db.insert("accounts", {"name": name, "amount": 100})


@cs.query
def amounts(ctx):
    return {account.name: account.amount for account in ctx.db.query("accounts")}


@cs.query
def amount(ctx, name: str):
    found = [account.amount for account in ctx.db.query("accounts") if account.name == name]
    return found[0] if found else None


@cs.mutation
def transfer(ctx, amount: int):
    left, right = ctx.db.query("accounts").collect()
    ctx.db.patch(left["_id"], {"amount": left["amount"] - amount})
    ctx.db.patch(right["_id"], {"amount": right["amount"] + amount})
