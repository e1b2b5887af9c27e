"""Many documents in one commit: the path of `insert_df` and imports.

The same checks, ids, keys and bytes as `Transaction.insert` makes, without its bookkeeping: nothing is read, so a bulk
insert conflicts with nothing, except a redefinition of its table. Tables with unique indexes, and imports that bring their
own ids, have to look at what is there and go through `Transaction.insert` document by document.

Cost   about ten µs for a document of twenty fields and two indexes, half of it checking and encoding
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import orjson

from cellstore.errors import CellstoreError, ValidationError
from cellstore.storage.contract import DocWrite
from cellstore.transaction.catalog import BY_CREATION_TIME, IndexMeta, TableMeta, check_name, value_at
from cellstore.transaction.requests import CommitRequest
from cellstore.transaction.transaction import Transaction
from cellstore.values.index_key import encode_key, encode_prefix
from cellstore.values.json import dumps, loads
from cellstore.values.value import MISSING, check_document

Rows = bytes | Iterable[dict[str, Any]]
"""Newline-separated native JSON objects, or dicts."""

_DAY_MS = 86_400_000


def prepare_bulk(
    transaction: Transaction, table: str, rows: Rows, *, source: str = "", keep_system_fields: bool = False
) -> CommitRequest:
    """The commit that inserts `rows` into `table`, which is created if there is none.

    Shape    `.result` of the request is the number of documents, as JSON
    Errors   ValidationError or LimitExceeded naming the row (from 0), its path and what is wrong; nothing is inserted then
    """
    check_name("table", table)
    meta = transaction.table_for_insert(table)
    made: list[DocWrite] = []
    count = 0
    if meta.unique or keep_system_fields:
        for count, row in enumerate(_parsed(rows), 1):
            _insert(transaction, table, row, count - 1, keep_system_fields)
    else:
        made = _documents(transaction, meta, rows)
        count = len(made)
    request = transaction.freeze(source, result=dumps(count))
    request.writes.extend(made)
    return request


def _insert(transaction: Transaction, table: str, row: Any, number: int, keep_system_fields: bool) -> None:
    try:
        if not isinstance(row, dict):
            raise ValidationError(path=table, expected="a document (a dict of fields)", got=f"a {type(row).__name__}")
        id = creation_time = None
        if keep_system_fields:
            row = dict(row)
            id, creation_time = row.pop("_id", None), row.pop("_creationTime", None)
        transaction.insert(table, row, id=id, creation_time=creation_time)
    except CellstoreError as error:
        raise _in_row(error, number) from None


def _documents(transaction: Transaction, meta: TableMeta, rows: Rows) -> list[DocWrite]:
    """Every row as a write. One loop, because each call in it is paid for a million times."""
    encode = orjson.dumps if isinstance(rows, bytes) and b'"$' not in rows else dumps
    rules, catalog, knobs, number = meta.rules, transaction.catalog, transaction.knobs, meta.number
    admit, with_defaults, closed = rules.admit, rules.with_defaults, rules.closed
    first = next(index.number for index in meta.written if index.name == BY_CREATION_TIME)
    prefixes = [(index.number, _prefix_maker(index)) for index in meta.written if index.number != first]
    random, day = transaction.random, (int(transaction.now_ms // _DAY_MS) & 0xFFFF).to_bytes(2, "big")
    creation_time, nextafter, up = transaction.next_creation_time(), math.nextafter, math.inf
    made: list[DocWrite] = []
    for row in _parsed(rows):
        try:
            fields = admit(with_defaults(row), catalog)
            if not closed:
                check_document(fields, knobs, meta.name)
            document = {**fields, "_creationTime": creation_time}
            body = encode(document)
            if closed:
                rules.measure(document, len(body), knobs)
            id = random(14) + day
            place = encode_key((), creation_time, id)
            keys: list[tuple[int, bytes | None, bytes | None]] = [(first, None, place)]
            for index, prefix in prefixes:
                keys.append((index, None, prefix(fields) + place))
        except CellstoreError as error:
            raise _in_row(error, len(made)) from None
        made.append(DocWrite(number, id, body, "insert", keys))
        creation_time = nextafter(creation_time, up)
    return made


def _prefix_maker(index: IndexMeta) -> Callable[[dict[str, Any]], bytes]:
    """The part of a key that the index's own fields make."""
    if any("." in path for path in index.fields):
        paths = [tuple(path.split(".")) for path in index.fields]
        return lambda fields: encode_prefix([value_at(fields, path) for path in paths])
    names = index.fields
    return lambda fields: encode_prefix([fields.get(name, MISSING) for name in names])


def _parsed(rows: Rows) -> Iterator[Any]:
    """Each row as a dict the caller may keep."""
    if not isinstance(rows, bytes):
        yield from rows
        return
    parse = loads if b'"$' in rows else orjson.loads
    for number, line in enumerate(line for line in rows.split(b"\n") if line):
        try:
            yield parse(line)
        except (ValidationError, orjson.JSONDecodeError) as error:
            raise ValidationError(f"row {number} is not a JSON object: {error}", path=f"[{number}]") from None


def _in_row(error: CellstoreError, number: int) -> CellstoreError:
    """The error, saying which row."""
    error.message = f"row {number}: {error.message}"
    error.args = (error.message,)
    return error
