"""Operations beside the sync protocol: what kernels, the command line and notebooks ask of a store.

    hello         who serves here, and which protocol                          signed in
    functions     what is deployed                                             read
    tables        names, numbers, schemas, indexes                             read
    snapshot_ts   the timestamp of a moment                                    read
    table_parquet one table at a timestamp, as Parquet                         read
    diff          what changed between two timestamps, as JSON lines           read
    query         one query, once, perhaps at a timestamp                      read
    export        tables at a timestamp: ZIP, JSON lines, CSV, Parquet         read
    insert        rows into a table, from JSON lines                           write
    import_…      begin, rows, file, end, abort: what keeps its ids            write
    deploy        a module's functions and tables, as one process knows them   execute
    drop          take functions away                                          execute
    drop_table    take a table away, with its documents                        execute
    logs          records of the log stream; may wait for more                  read
    sql           one SQL statement over a snapshot                            execute
    sql_tables    the tables a SQL statement reads                             execute
    env           the environment variables of functions; may change some      execute
    check         walk the whole store, report each broken invariant           execute

Every operation is for owners (users of this Jupyter server, its kernels, admin keys): they reach data without going
through a function. Strangers are told what they may do instead.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from cellstore import __version__
from cellstore.errors import Forbidden, NotFound, OutOfRetention, ValidationError
from cellstore.protocol.codec import load_json
from cellstore.reactivity.connection import Hub
from cellstore.reactivity.principal import Principal
from cellstore.reactivity.result import Query, plain
from cellstore.runtime import variables
from cellstore.server.imports import Imports
from cellstore.server.uploads import Uploads
from cellstore.values import json as native

if TYPE_CHECKING:
    from cellstore.analytics.exports import Export
    from cellstore.runtime.runner import Runner
    from cellstore.transaction.catalog import IndexMeta
    from cellstore.transaction.database import Engine

PROTOCOL = 1
Answer = tuple[dict[str, Any], "bytes | Export"]
"""What JSON says and the octets that go with it; an export is read piece by piece, and closed, by whoever gets it."""
LOGS_WAIT_MAX_S = 20
LOGS_ANSWER_MAX = 1000
Operation = Callable[[dict[str, Any], bytes, Principal], Awaitable[Answer]]


class Control:
    """The control operations of one deployment."""

    def __init__(self, name: str, engine: Engine, runner: Runner, hub: Hub, path: str) -> None:
        self._name, self._engine, self._runner, self._hub, self._path = name, engine, runner, hub, path
        self._analytics: Any = None  # started by the first operation that needs it
        self._exports: Any = None
        self._imports = Imports(engine)
        self.uploads = Uploads(engine, self._imports)
        self._operations: dict[str, tuple[str, Operation]] = {
            "hello": ("read", self._hello),
            "functions": ("read", self._functions),
            "tables": ("read", self._tables),
            "snapshot_ts": ("read", self._snapshot_ts),
            "table_parquet": ("read", self._table_parquet),
            "diff": ("read", self._diff),
            "query": ("read", self._query),
            "export": ("read", self._export),
            "logs": ("read", self._logs),
            "insert": ("write", self._insert),
            "import_begin": ("write", self._imports.begin),
            "import_rows": ("write", self._imports.rows),
            "import_file": ("write", self._imports.file),
            "import_end": ("write", self._imports.end),
            "import_abort": ("write", self._imports.abort),
            "deploy": ("execute", self._deploy),
            "drop": ("execute", self._drop),
            "drop_table": ("execute", self._imports.drop_table),
            "sql": ("execute", self._sql),
            "sql_tables": ("execute", self._sql_tables),
            "env": ("execute", self._env),
            "check": ("execute", self._check),
        }

    async def run(self, op: str, params: dict[str, Any], body: bytes, who: Principal) -> Answer:
        """Carry out `op` for `who`. Errors: NotFound, Unauthenticated, Forbidden, the operation's own."""
        known = self._operations.get(op)
        refused = who.refusal(known[0] if known is not None else "read")
        if refused is not None:
            raise refused
        if not who.owner:
            raise Forbidden("anonymous callers may call public functions only; sign in for anything else")
        if known is None:
            raise NotFound(f"there is no operation {op!r}; there are: {', '.join(self._operations)}", kind="operation")
        return await known[1](params, body, who)

    def clean_up(self) -> None:
        """Remove what an earlier run left half done, in the background."""
        self._imports.clean_up()
        self.uploads.clean_up()

    async def close(self) -> None:
        """End the analytics worker, exports and imports, if any were started."""
        analytics, self._analytics = self._analytics, None
        exports, self._exports = self._exports, None
        for started in (analytics, exports, self.uploads, self._imports):
            if started is not None:
                await started.close()

    # ── operations ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _hello(self, _params: dict[str, Any], _body: bytes, who: Principal) -> Answer:
        return {
            "name": "cellstore",
            "version": __version__,
            "protocol": PROTOCOL,
            "deployment": self._name,
            "ts": self._hub.subscriptions.catch_up(),
            "permissions": sorted(who.permissions),
            "identity": who.identity,
        }, b""

    async def _functions(self, _params: dict[str, Any], _body: bytes, _who: Principal) -> Answer:
        return {"functions": self._runner.functions()}, b""

    async def _tables(self, params: dict[str, Any], _body: bytes, _who: Principal) -> Answer:
        """Param ts: as of then."""
        ts = self._moment(params) if params.get("ts") is not None else None
        return {"tables": await asyncio.to_thread(_describe_tables, self._engine, ts)}, b""

    async def _snapshot_ts(self, params: dict[str, Any], _body: bytes, _who: Principal) -> Answer:
        """Param at (ns since 1970) or ago (ns before now, by this clock); neither: now."""
        newest = self._hub.subscriptions.catch_up()
        now = max(self._engine.clock.now_ns(), newest)
        at = _integer(params, "at", now - _integer(params, "ago", 0))
        if at > now:
            raise OutOfRetention(
                f"the moment {at} is {(at - now) / 1e9:,.1f} s in the future; a snapshot shows what has been", ts=at
            )
        at = min(at, newest)
        self._check_ts(at)
        if at < newest:
            await asyncio.to_thread(self._check_begun, at)
        return {"ts": at}, b""

    def _check_begun(self, ts: int) -> None:
        """Errors: OutOfRetention when the store is younger than that."""
        first = self._engine.first_ts
        if ts < first:
            when = dt.datetime.fromtimestamp(first / 1e9, dt.UTC)
            raise OutOfRetention(
                f"the moment {ts} is {(first - ts) / 1e9:,.1f} s before this store's first commit; its history begins at "
                f"{when:%Y-%m-%d %H:%M:%S} UTC, timestamp {first}",
                ts=ts,
                min_snapshot_ts=first,
            )

    async def _table_parquet(self, params: dict[str, Any], _body: bytes, _who: Principal) -> Answer:
        ts = self._moment(params)
        octets = await self._service().table_parquet(_text(params, "table"), ts)
        return {"ts": ts}, octets

    async def _diff(self, params: dict[str, Any], _body: bytes, _who: Principal) -> Answer:
        octets = await self._service().diff(_integer(params, "ts0"), _integer(params, "ts1"))
        return {}, octets

    async def _sql(self, params: dict[str, Any], body: bytes, _who: Principal) -> Answer:
        ts = self._moment(params)
        octets = await self._service().sql(_utf8(body), ts, params.get("format", "parquet"))
        return {"ts": ts}, octets

    async def _sql_tables(self, _params: dict[str, Any], body: bytes, _who: Principal) -> Answer:
        return {"tables": await self._service().sql_tables(_utf8(body))}, b""

    async def _query(self, params: dict[str, Any], body: bytes, who: Principal) -> Answer:
        """Params path, ts; arguments in the body, or `args`. A function that failed is an answer, under `error`."""
        args = native.loads(body) if body else native.decode(params.get("args") or {})
        if not isinstance(args, dict):
            raise ValidationError(path="args", expected="an object", got=type(args).__name__)
        ts = _integer(params, "ts", 0) or None
        if ts is not None:
            self._check_ts(ts)
        outcome = await self._hub.query(Query.of(_text(params, "path"), args), who, ts)
        answer: dict[str, Any] = {"ts": outcome.ts, "logLines": outcome.logs}
        if outcome.error is not None:
            return {**answer, "error": plain(outcome.error)}, b""
        return answer, outcome.value

    async def _export(self, params: dict[str, Any], _body: bytes, _who: Principal) -> Answer:
        """Params format, tables (None: all), ts, files. All in one file, which a ZIP alone has room for several tables in,
        and for the files of ctx.storage; these go with all tables, unless `files` is false."""
        ts, tables = self._moment(params), params.get("tables")
        if tables is not None and not (isinstance(tables, list) and all(isinstance(name, str) for name in tables)):
            raise ValidationError(path="tables", expected="a list of names", got=repr(tables)[:60])
        if self._exports is None:
            from cellstore.analytics.exports import Exports

            self._exports = Exports(self._engine)
        export = await self._exports.make(tables, _text(params, "format"), ts, params.get("files") is not False)
        return {"ts": ts, "tables": export.counts, "size": export.size_bytes}, export

    async def _logs(self, params: dict[str, Any], _body: bytes, _who: Principal) -> Answer:
        """Params stream, after: go on after that record of that stream; or tail: the newest. wait: seconds for more."""
        logs = self._runner.logs
        after, wait_s = _integer(params, "after", -1), min(_integer(params, "wait", 0), LOGS_WAIT_MAX_S)
        if after < 0:
            records = logs.tail(min(_integer(params, "tail", 100), LOGS_ANSWER_MAX))
            after = logs.last
        else:
            after = after if params.get("stream") == logs.name else 0
            await logs.more(after, wait_s)
            records = logs.after(after, LOGS_ANSWER_MAX)
            after = records[-1]["number"] if records else after
        return {"stream": logs.name, "records": records, "after": after}, b""

    async def _insert(self, params: dict[str, Any], body: bytes, _who: Principal) -> Answer:
        table = _text(params, "table")
        _utf8(body)
        created = self._engine.catalog.table(table) is None
        count, ts = await self._runner.bulk(table, body)
        return {"count": count, "ts": ts, "created": created}, b""

    async def _deploy(self, _params: dict[str, Any], body: bytes, _who: Principal) -> Answer:
        from cellstore.deploy.unit import Unit

        return await self._runner.deploy(Unit.from_outside(load_json(body, "unit"))), b""

    async def _env(self, params: dict[str, Any], _body: bytes, _who: Principal) -> Answer:
        """Param changes: [{"name", "value" or null}], if any. All that are set then."""
        changes = params.get("changes", [])
        if not isinstance(changes, list) or not all(isinstance(each, dict) for each in changes):
            raise ValidationError(path="changes", expected='a list of {"name", "value"}', got=repr(changes)[:60])
        if changes:
            self._engine.run(lambda transaction: variables.change(transaction, changes, self._engine.knobs), "env")
        with self._engine.begin() as transaction:
            return {"variables": variables.everything(transaction)}, b""

    async def _drop(self, params: dict[str, Any], _body: bytes, _who: Principal) -> Answer:
        """Param functions: paths."""
        paths = params.get("functions")
        if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
            raise ValidationError(path="functions", expected="a list of paths", got=repr(paths)[:60])
        return await self._runner.drop(paths), b""

    async def _check(self, _params: dict[str, Any], _body: bytes, _who: Principal) -> Answer:
        problems = await asyncio.to_thread(lambda: list(self._engine.check()))
        return {"problems": problems, "ts": self._hub.subscriptions.catch_up()}, b""

    # ── helpers ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _service(self) -> Any:
        if self._analytics is None:
            from cellstore.analytics.service import Analytics

            self._analytics = Analytics(self._engine)
        return self._analytics

    def _moment(self, params: dict[str, Any]) -> int:
        newest = self._hub.subscriptions.catch_up()
        ts = _integer(params, "ts", newest)
        self._check_ts(ts)
        return ts

    def _check_ts(self, ts: int) -> None:
        newest = self._hub.subscriptions.catch_up()
        if ts > newest:
            raise OutOfRetention(f"timestamp {ts} is in the future; the newest is {newest}", ts=ts)
        if ts < newest:
            self._engine.begin(ts).close()  # refuses what is no longer kept


def _describe_tables(engine: Engine, ts: int | None = None) -> list[dict[str, Any]]:
    """Name, number, schema, indexes and number of documents of every user table at `ts` or now, by name."""
    with engine.begin(ts) as transaction:
        return [
            {
                "name": table.name,
                "number": table.number,
                "count": transaction.count(table.name),
                "schema": table.schema,
                "fields": fields_of(table.schema),
                "indexes": {label: _describe_index(engine, index) for label, index in table.indexes.items()},
            }
            for table in transaction.catalog.user_tables()
        ]


def _describe_index(engine: Engine, index: IndexMeta) -> dict[str, Any]:
    """Fields, uniqueness and state; of one that is being built also how many documents it has, of how many."""
    described = {"fields": list(index.fields), "unique": index.unique, "state": index.state}
    backfill = engine.backfills.get(index.number)
    return described if backfill is None else {**described, "documents": backfill.done, "of": backfill.of}


def fields_of(schema: Any) -> dict[str, Any] | None:
    """The declared fields of a table; None when it declares none."""
    return schema.get("fields") if isinstance(schema, dict) else None


def _integer(params: dict[str, Any], name: str, default: int | None = None) -> int:
    value = params.get(name)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValidationError(path=name, expected="an integer", got=repr(value)[:60])
    return value


def _text(params: dict[str, Any], name: str) -> str:
    value = params.get(name)
    if not isinstance(value, str) or not value:
        raise ValidationError(path=name, expected="a string", got=repr(value)[:60])
    return value


def _utf8(body: bytes) -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as wrong:
        raise ValidationError(path="body", expected="UTF-8 text", got=str(wrong)) from wrong
