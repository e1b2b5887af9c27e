"""The functions the published clients call."""

import os

import cellstore as cs


@cs.query(name="list")
def list_messages(ctx, author: str | None = None):
    found = ctx.db.query("messages").collect()
    return [{"author": m.author, "body": m.body} for m in found if author is None or m.author == author]


@cs.query
def count(ctx):
    return ctx.db.query("messages").count()


@cs.query
def echo(ctx, value: cs.Any):
    return value


@cs.query
def large(ctx, size: int):
    return "x" * size


@cs.query
def octets(ctx, size: int):
    return bytes(size)


@cs.query
def who(ctx):
    identity = ctx.auth.identity()
    return identity and identity["subject"]


@cs.query
def colour(ctx):
    return os.environ.get("COLOUR")


@cs.query(internal=True)
def rows(ctx, table: str):
    return [{k: v for k, v in row.items() if k[0] != "_"} for row in ctx.db.query(table)]


@cs.query
def broken_query(ctx):
    return {}["missing"]


@cs.query(internal=True)
def secret(ctx):
    return "secret"


@cs.mutation
def send(ctx, author: str, body: str):
    print("sending", body)
    return ctx.db.insert("messages", {"author": author, "body": body})


@cs.mutation
def fail(ctx):
    raise ValueError("a bug on line such and such")


@cs.mutation
def refuse(ctx, data: cs.Any):
    raise cs.ApplicationError(data)


@cs.action
def act(ctx, author: str):
    ctx.run_mutation(send, author=author, body="from an action")
    return "acted"


@cs.action
def refuse_action(ctx):
    raise cs.ApplicationError({"code": 7})
