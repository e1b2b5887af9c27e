"""One SQL statement: what it reads, by DuckDB's own parser, and its result in a file.

    read_statement      SELECT-like or refused, and the tables it names
    write_result        run it over views named as the tables, into a Parquet or CSV file
    tables_changed      whether the tables it names were written since: what makes SQL live

A statement cannot change anything: it is parsed as a SELECT and run in a read-only transaction, on a connection that
reaches no file outside the scratch directory and whose configuration is locked.

Errors     ValidationError with DuckDB's words and the place in the statement; its first line names the mistake
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from cellstore.analytics.columns import quoted, text_of
from cellstore.errors import CellstoreError, LimitExceeded, ValidationError
from cellstore.transaction.access import QueryBuilder

if TYPE_CHECKING:
    import duckdb

    from cellstore.transaction.transaction import Transaction

FORMATS = {"parquet": "FORMAT parquet", "csv": "FORMAT csv, HEADER true"}
RESULT = "cellstore_result"
_OTHER_SCHEMAS = frozenset({"information_schema", "pg_catalog"})  # DuckDB's own, harmless
_WIDE = frozenset({"HUGEINT", "UHUGEINT"})
_FITS_DECIMAL = 10**38


class Statement(NamedTuple):
    """A statement that may run. `tables` may name more than is read: what a WITH gives a name to is in it too."""

    text: str
    tables: list[str]
    own: frozenset[str]  # the names that WITH defines


def read_statement(duck: duckdb.DuckDBPyConnection, text: str) -> Statement:
    """What `text` is. Errors: ValidationError for anything but one SELECT-like statement."""
    import duckdb

    try:
        found = duck.extract_statements(text)
    except duckdb.Error as error:
        raise sql_error(error) from error
    if not found:
        raise _refused("there is no SQL statement in it")
    if len(found) > 1:  # a PIVOT without values is several, because DuckDB looks for them first
        raise (
            _not_a_select("MULTI")
            if "PIVOT" in text.upper()
            else _refused(f"one SQL statement at a time, not {len(found)}")
        )
    (only,) = found
    if only.type != duckdb.StatementType.SELECT:
        raise _not_a_select(only.type.name)
    if only.named_parameters:
        raise _refused("parameters (?, $1, $name) have nothing to stand for here; write the values into the statement")
    query = only.query.strip().rstrip(";")
    tree = _tree(duck, query)
    refs = [node for node in _nodes(tree) if node.get("type") == "BASE_TABLE"]
    for node in refs:
        _check_place(node)
    own = {entry["key"] for node in _nodes(tree) if "cte_map" in node for entry in node["cte_map"]["map"]}
    names = dict.fromkeys(node["table_name"] for node in refs if not node["schema_name"])
    return Statement(query, list(names), frozenset(own))


def _not_a_select(kind: str) -> ValidationError:
    if kind == "MULTI":
        return _refused("a PIVOT has to list its values here: PIVOT … ON column IN ('a', 'b') USING …")
    if kind == "EXPLAIN":
        return _refused(
            "EXPLAIN shows DuckDB's plan over the mirror, which is not part of the data; write the SELECT alone"
        )
    return _refused(
        f"only statements that read are possible (SELECT, FROM, WITH, VALUES …), not {kind}; write by a mutation"
    )


def _tree(duck: duckdb.DuckDBPyConnection, query: str) -> Any:
    """The statement as DuckDB's parser sees it."""
    row = duck.execute("SELECT json_serialize_sql(?)", [query]).fetchone()
    tree = orjson.loads(row[0]) if row else {}
    if tree.get("error"):
        raise _refused(f"this statement cannot be read as a SELECT: {tree.get('error_message')}")
    return tree


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object in the tree."""
    todo = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            yield node
            todo.extend(node.values())
        elif isinstance(node, list):
            todo.extend(node)


def _check_place(node: dict[str, Any]) -> None:
    """A table is named without database and schema: a store has none."""
    if node["catalog_name"] or (node["schema_name"] and node["schema_name"].lower() not in _OTHER_SCHEMAS):
        full = ".".join(filter(None, (node["catalog_name"], node["schema_name"], node["table_name"])))
        raise _refused(f"{full}: tables have no schema here; write {node['table_name']}")


# ── live ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def tables_changed(transaction: Transaction, args: Mapping[str, Any]) -> bool:
    """Whether one of `tables` was written or defined anew after `since` (digits). A query: it turns true when one is.

    Names are those of a statement, so upper and lower case are one; a name that is no table yet waits for any table to
    appear. Errors: ValidationError
    """
    asked, since = args.get("tables"), args.get("since")
    if not isinstance(asked, list) or not isinstance(since, str) or not since.isdecimal():
        raise ValidationError("the arguments are the names of tables, and a timestamp as digits", path="tables")
    wanted = {str(name).lower() for name in asked}
    found = [table.name for table in transaction.catalog.tables() if table.name.lower() in wanted]
    if len({name.lower() for name in found}) < len(wanted):
        QueryBuilder(transaction, "_tables").collect()
    answers = [transaction.changed_since(name, int(since)) for name in found]  # all of them are depended on
    return any(answers)


# ── running ────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_result(duck: duckdb.DuckDBPyConnection, query: str, path: Path, options: str) -> None:
    """Run `query` and write its rows to `path`. The views it reads exist on `duck`.

    Sums of ints come as 128-bit ints, which Parquet would round: they are written as 64-bit ints if they all fit, else
    as decimals without a fraction, exactly.
    """
    import duckdb

    began = False  # before that DuckDB points into the user's own text
    try:
        duck.execute("BEGIN TRANSACTION READ ONLY")
        try:
            types = set(map(str, duck.sql(query).types))  # nothing runs yet, but wrong names and types are found
            began = True
            if types & _WIDE:
                duck.execute(f"CREATE OR REPLACE TEMP TABLE {RESULT} AS {query}")
                query = _narrowed(duck)
            duck.execute(f"COPY (\n{query}\n) TO {text_of(str(path))} ({options})")
        finally:
            duck.execute("ROLLBACK")
    except duckdb.Error as error:
        path.unlink(missing_ok=True)
        raise sql_error(error, ours=began) from error


def _narrowed(duck: duckdb.DuckDBPyConnection) -> str:
    """The query that reads the kept result with every wide column as a type Parquet has."""
    relation = duck.sql(f"FROM {RESULT}")
    shown = []
    for name, kind in zip(relation.columns, relation.types, strict=True):
        column = quoted(name)
        if str(kind) in _WIDE:
            row = duck.execute(f"SELECT min({column}), max({column}) FROM {RESULT}").fetchone()
            shown.append(f"CAST({column} AS {_narrow_type(*(row or (None, None)))}) AS {column}")
        else:
            shown.append(column)
    return f"SELECT {', '.join(shown)} FROM {RESULT}"


def _narrow_type(low: int | None, high: int | None) -> str:
    if low is None or high is None or (low >= -(1 << 63) and high < 1 << 63):
        return "BIGINT"
    return "DECIMAL(38, 0)" if max(abs(low), abs(high)) < _FITS_DECIMAL else "VARCHAR"


# ── errors ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _refused(why: str) -> ValidationError:
    return ValidationError(f"SQL: {why}", path="sql")


def sql_error(error: duckdb.Error, ours: bool = False) -> CellstoreError:
    """What DuckDB's complaint means for the caller. `ours`: the text it points into is not what the user wrote."""
    import duckdb

    text = str(error).strip()
    if ours:
        text = text.partition("\n\nLINE ")[0]
    if isinstance(error, duckdb.InterruptException):
        return ValidationError("the SQL statement was given up before it was done", path="sql")
    if isinstance(error, duckdb.OutOfMemoryException):
        return LimitExceeded(
            f"the SQL statement needs more memory than analytics_memory_bytes allows; read less, or raise it. {text}",
            knob="analytics_memory_bytes",
        )
    if isinstance(error, duckdb.PermissionException):
        text += "\nFiles and the network cannot be reached from SQL; load data with insert_df, save it with to_parquet"
    return ValidationError(f"SQL: {text}", path="sql")
