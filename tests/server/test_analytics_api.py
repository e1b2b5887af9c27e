"""Snapshots and SQL through the HTTP door."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from served_harness import Served


async def ask(served: Served, op: str, body: bytes = b"", **params: Any) -> Any:
    head = {**served.token_header, "X-Cellstore-Params": json.dumps(params)}
    return await served.fetch(f"x/{op}", body, head)


async def filled(served: Served) -> int:
    rows = b"\n".join(json.dumps({"author": "bulk", "body": str(n)}).encode() for n in range(10))
    ts: int = (await ask(served, "insert", rows, table="messages")).json["ts"]
    return ts


async def test_a_statement_at_a_moment_answers_with_octets(chat: Served) -> None:
    ts = await filled(chat)
    await filled(chat)
    then = await ask(chat, "sql", b"select count(*) as n from messages", ts=ts, format="csv")
    assert then.body == b"n\n10\n"
    now = await ask(chat, "sql", b"select count(*) as n from messages", format="csv")
    assert now.body == b"n\n20\n"
    assert json.loads(now.headers["X-Cellstore-Result"])["ts"] > ts


async def test_a_table_comes_as_parquet_and_a_difference_as_lines(chat: Served) -> None:
    ts = await filled(chat)
    assert (await ask(chat, "table_parquet", table="messages", ts=ts)).body[:4] == b"PAR1"
    lines = (await ask(chat, "diff", ts0=0, ts1=ts)).body.splitlines()
    assert {json.loads(line)["change"] for line in lines} == {"inserted"}
    assert len(lines) == 10


async def test_mistakes_come_back_as_errors_of_the_caller(chat: Served) -> None:
    ts = await filled(chat)
    wrong = await ask(chat, "sql", b"selec 1")
    assert (wrong.status, wrong.json["code"]) == (400, "ValidationError")
    assert (await ask(chat, "sql", b"select 1", format="xlsx")).status == 400
    missing = await ask(chat, "table_parquet", table="nope")
    assert (missing.status, missing.json["code"]) == (404, "NotFound")
    assert (await ask(chat, "sql", b"select 1", ts=ts + 10**18)).status == 410


async def test_tables_and_moments_of_the_past(chat: Served) -> None:
    empty = (await ask(chat, "snapshot_ts")).json["ts"]
    ts = await filled(chat)
    assert (await ask(chat, "tables", ts=empty)).json["tables"] == []
    assert [table["count"] for table in (await ask(chat, "tables", ts=ts)).json["tables"]] == [10]
    assert (await ask(chat, "snapshot_ts", ago=0)).json["ts"] == ts
    assert (await ask(chat, "snapshot_ts", at=ts + 10**18)).status == 410
