"""The queries under `_system/`, answered by the host itself: what live SQL asks, and Convex's command line.

    _system/tables:changed            {tables, since}                  whether one of them was written after a moment
    _system/cli/tables                {paginationOpts}                 the names of the tables
    _system/cli/tableData             {table, order, paginationOpts}   documents of one
    _system/cli/modules:apiSpec       {}                               the deployed functions
    _system/cli/convexUrl:cloudUrl    {}                               where we are
    _system/cli/exports:getLatest     {}                               the newest export asked for
    _system/cli/queryEnvironmentVariables   {}, and :get {name}        what is set
    _system/cli/queryImport           {importId}, and :list {}         imports and how far they are

They are live like any other query where they read the store. No code of a user runs here.

Errors:  NotFound to everybody who may not call internal functions (of the first, to everybody but owners), and for a name
         that is not in this list
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from cellstore.analytics.sql import tables_changed
from cellstore.errors import CellstoreError, NotFound, ValidationError
from cellstore.runtime import variables
from cellstore.runtime.outcome import Outcome
from cellstore.schema.types import to_convex_validator
from cellstore.transaction.access import QueryBuilder
from cellstore.values import json as native

if TYPE_CHECKING:
    from cellstore.runtime.runner import Runner
    from cellstore.transaction.database import Engine
    from cellstore.transaction.transaction import Transaction

PREFIX, IMPORTS, EXPORTS = "_system/", "_snapshot_imports", "_exports"
KINDS = {"query": "Query", "mutation": "Mutation", "action": "Action"}
Query = Callable[["Transaction", Mapping[str, Any]], Any]


class SystemQueries:
    """The system queries of one deployment."""

    def __init__(self, engine: Engine, functions: Callable[[], list[dict[str, Any]]], url: str) -> None:
        """`url`: of this deployment, as its clients write it."""
        self._engine, self._functions = engine, functions
        self._queries: dict[str, Query] = {
            "_system/tables:changed": tables_changed,
            "_system/cli/tables:default": self._tables,
            "_system/cli/tableData:default": self._table_data,
            "_system/cli/modules:apiSpec": self._api_spec,
            "_system/cli/convexUrl:cloudUrl": lambda _transaction, _args: url,
            "_system/cli/exports:getLatest": lambda transaction, _args: QueryBuilder(transaction, EXPORTS).first(),
            "_system/cli/queryEnvironmentVariables:default": self._variables,
            "_system/cli/queryEnvironmentVariables:get": self._variable,
            "_system/cli/queryImport:default": self._import,
            "_system/cli/queryImport:list": lambda transaction, _args: QueryBuilder(transaction, IMPORTS).collect(),
        }

    def run(self, path: str, args: dict[str, Any], ts: int | None, journal: str | None, internal: bool) -> Outcome:
        """What one of them comes to at `ts`."""
        query = self._queries.get(path) if internal else None
        if query is None:
            return Outcome.failed(
                NotFound(f"Could not find public function for '{path}'", kind="function", name=path), function=path
            )
        with self._engine.begin(ts) as transaction:
            transaction.journal = journal
            outcome = Outcome(True, ts=transaction.begin_ts)
            try:
                outcome.value = native.dumps(query(transaction, args))
                outcome.journal = transaction.next_journal
            except CellstoreError as error:
                outcome = Outcome.failed(error, function=path, ts=transaction.begin_ts)
            outcome.reads = transaction.reads
        return outcome

    def exported(self, state: dict[str, Any]) -> None:
        """Remember how the newest export stands; whoever follows it hears of it."""

        def put(transaction: Transaction) -> None:
            row = QueryBuilder(transaction, EXPORTS).first()
            if row is None:
                transaction.insert(EXPORTS, state)
            else:
                transaction.replace(row["_id"], state)

        self._engine.run(put, EXPORTS)

    def _tables(self, transaction: Transaction, _args: Mapping[str, Any]) -> dict[str, Any]:
        QueryBuilder(transaction, "_tables").collect()  # so that a new table is heard of
        names = [{"name": table.name} for table in transaction.catalog.user_tables()]
        return {"page": names, "isDone": True, "continueCursor": "end"}

    def _table_data(self, transaction: Transaction, args: Mapping[str, Any]) -> Any:
        table, order = args.get("table"), args.get("order", "asc")
        if not isinstance(table, str):
            raise ValidationError(path="table", expected="a table's name", got=repr(table)[:60])
        return QueryBuilder(transaction, table).order(order).paginate(args.get("paginationOpts"))

    def _import(self, transaction: Transaction, args: Mapping[str, Any]) -> Any:
        key = args.get("importId")
        if not isinstance(key, str):
            raise ValidationError(path="importId", expected="the id of an import", got=repr(key)[:60])
        return transaction.get(key, IMPORTS)

    def _variables(self, transaction: Transaction, _args: Mapping[str, Any]) -> list[dict[str, str]]:
        return [{"name": name, "value": value} for name, value in variables.everything(transaction).items()]

    def _variable(self, transaction: Transaction, args: Mapping[str, Any]) -> dict[str, str] | None:
        name = args.get("name")
        value = variables.get(transaction, name) if isinstance(name, str) else None
        return None if value is None else {"name": str(name), "value": value}

    def _api_spec(self, transaction: Transaction, _args: Mapping[str, Any]) -> list[dict[str, Any]]:
        QueryBuilder(transaction, "_modules").collect()  # so that a deploy is heard of
        return [spec_of(function) for function in self._functions()]


def with_system(runner: Runner, system: SystemQueries) -> Runner:
    """`runner`, with the system queries answered by `system`."""
    return cast("Runner", _Front(runner, system))


class _Front:
    """Stands before a runner."""

    def __init__(self, runner: Runner, system: SystemQueries) -> None:
        self._runner, self._system = runner, system

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def query(self, path: str, args: dict[str, Any], **call: Any) -> Awaitable[Outcome]:
        """As the runner's, but for the paths of the system."""
        return self._answer(path, args, **call) if path.startswith(PREFIX) else self._runner.query(path, args, **call)

    async def _answer(self, path: str, args: dict[str, Any], **call: Any) -> Outcome:
        return self._system.run(path, args, call.get("ts"), call.get("journal"), call.get("internal", False))


def spec_of(function: Mapping[str, Any]) -> dict[str, Any]:
    """One deployed function in Convex's words."""
    route = function.get("route")
    if function["kind"] == "http":
        return {
            "functionType": "HttpAction",
            "method": (route or {}).get("method", "GET"),
            "path": (route or {}).get("path") or (route or {}).get("pathPrefix") or "/",
        }
    module, _, name = str(function["path"]).rpartition(":")
    return {
        "identifier": f"{module}.js:{name}",
        "functionType": KINDS[function["kind"]],
        "visibility": {"kind": function["visibility"]},
        "args": to_convex_validator(function["args"]),
        "returns": to_convex_validator(function["returns"] or {"type": "any"}),
    }
