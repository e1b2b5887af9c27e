"""Many documents in one commit: the path of `insert_df` and imports.

The same checks, ids, keys and bytes as `Transaction.insert` makes, without its bookkeeping: nothing is read, so a bulk
insert conflicts with nothing, except a redefinition of its table. Tables with unique indexes, and imports that bring their
own ids, have to look at what is there and go through `Transaction.insert` document by document.

Cost   about ten µs for a document of twenty fields and two indexes, half of it checking and encoding
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import orjson

from cellstore.errors import CellstoreError, ValidationError
from cellstore.storage.contract import DocWrite
from cellstore.transaction.catalog import BY_CREATION_TIME, Catalog, IndexMeta, TableMeta, check_name
from cellstore.transaction.requests import CommitRequest
from cellstore.transaction.rules import SMALL_BYTES
from cellstore.transaction.transaction import Transaction
from cellstore.values.ids import Minter
from cellstore.values.index_key import encode_prefix, encode_value
from cellstore.values.json import dumps, loads
from cellstore.values.value import MISSING, check_document

Rows = bytes | Iterable[dict[str, Any]]
"""Newline-separated native JSON objects, or dicts."""

PART_ROWS = 1_000  # of a long request: enough to pay for a commit, few enough that others hardly wait for theirs

_DAY_MS = 86_400_000
_PREFIXES_KEPT = 4096  # per index and batch


def prepare_bulk(
    transaction: Transaction,
    table: str,
    rows: Rows,
    *,
    source: str = "",
    keep_system_fields: bool = False,
    first_row: int = 0,
) -> CommitRequest:
    """The commit that inserts `rows` into `table`, which is created if there is none.

    Shape    `.result` of the request is the number of documents, as JSON
    Errors   ValidationError or LimitExceeded naming the row (counted from `first_row`), its path and what is wrong; nothing
             is inserted then
    """
    check_name("table", table)
    meta = transaction.table_for_insert(table)
    made: list[DocWrite] = []
    count = 0
    if meta.unique or keep_system_fields:
        count = _insert_each(transaction, table, rows, keep_system_fields, first_row)
    else:
        made = _documents(transaction, meta, rows, first_row)
        count = len(made)
    request = transaction.freeze(source, result=dumps(count))
    request.writes.extend(made)
    return request


def parts_of(catalog: Catalog, table: str, ndjson: bytes) -> Iterator[bytes]:
    """The rows in parts that may become commits of their own, one after another, each prepared before the last is in.

    All of them at once where a part has to see the one before: in a table that is not there yet, or has unique indexes.
    """
    meta = catalog.table(table)
    lines = [line for line in ndjson.split(b"\n") if line]
    step = PART_ROWS if meta is not None and not meta.unique else max(len(lines), 1)
    for start in range(0, max(len(lines), 1), step):
        yield b"\n".join(lines[start : start + step])


def _insert_each(transaction: Transaction, table: str, rows: Rows, keep_system_fields: bool, first_row: int) -> int:
    """One by one, with all that `Transaction.insert` looks at; how many there were."""
    parse: Callable[[Any], Any] = loads if isinstance(rows, bytes) else _copied
    count = 0
    for line in rows.split(b"\n") if isinstance(rows, bytes) else rows:
        if not line and isinstance(line, bytes):
            continue
        try:
            row = parse(line)
            id = creation_time = None
            if keep_system_fields and isinstance(row, dict):
                id, creation_time = row.pop("_id", None), row.pop("_creationTime", None)
            transaction.insert(table, row, id=id, creation_time=creation_time)
        except CellstoreError as error:
            raise _in_row(error, first_row + count) from None
        count += 1
    return count


def _documents(transaction: Transaction, meta: TableMeta, rows: Rows, first_row: int) -> list[DocWrite]:
    """Every row as a write. One flat loop, because each call in it is paid for a million times."""
    lines: Sequence[Any] = [line for line in rows.split(b"\n") if line] if isinstance(rows, bytes) else list(rows)
    parse, encode = _codec(rows, meta)
    rules, catalog, knobs, number = meta.rules, transaction.catalog, transaction.knobs, meta.number
    admit, closed, defaults = rules.admit, rules.closed, rules.has_defaults
    first = next(index.number for index in meta.written if index.name == BY_CREATION_TIME)
    prefixes = [(index.number, _prefix_maker(index)) for index in meta.written if index.number != first]
    ids = Minter(transaction.random, int(transaction.now_ms // _DAY_MS)).mint_many(len(lines))
    creation_time, nextafter, up = transaction.next_creation_time(), math.nextafter, math.inf
    made: list[DocWrite] = []
    try:
        for at, line in enumerate(lines):
            row = parse(line)
            if type(row) is not dict:
                raise ValidationError(path=meta.name, expected="a document (a dict of fields)", got=type(row).__name__)
            if defaults:
                row = rules.with_defaults(row)
            document = admit(row, catalog)
            if not closed:
                check_document(document, knobs, meta.name)
            document["_creationTime"] = creation_time  # a parsed or admitted row is nobody else's
            # The copy gives back orjson's roomy buffer at once; keeping thousands of those costs ten times the encoding.
            body = b"%b" % encode(document)
            if closed and len(body) >= SMALL_BYTES:
                rules.measure(document, len(body), knobs)
            id = ids[at]
            place = encode_value(creation_time) + id
            keys: list[tuple[int, bytes | None, bytes | None]] = [(first, None, place)]
            for index, prefix in prefixes:
                keys.append((index, None, prefix(document) + place))
            made.append(DocWrite(number, id, body, "insert", keys))
            creation_time = nextafter(creation_time, up)
    except CellstoreError as error:
        raise _in_row(error, first_row + len(made)) from None
    return made


def _codec(rows: Rows, meta: TableMeta) -> tuple[Callable[[Any], Any], Callable[[Any], bytes]]:
    """How a row is read and a document written. Text without marked objects needs no walk, in or out."""
    if not isinstance(rows, bytes):
        return _copied, meta.dump
    plain = b'"$' not in rows
    return (_plain_loads if plain else loads), (orjson.dumps if plain and not meta.stored_as else meta.dump)


def _copied(row: Any) -> Any:
    return dict(row) if isinstance(row, dict) else row


def _plain_loads(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise ValidationError(f"this is not a JSON object: {error}") from None


def _prefix_maker(index: IndexMeta) -> Callable[[dict[str, Any]], bytes]:
    """The part of a key that the index's own fields make. Columns repeat themselves, so what was encoded is kept."""
    if any("." in path for path in index.fields):
        return lambda document: encode_prefix(index.values(document))
    names = index.fields
    known: dict[Any, bytes] = {}

    def prefix(document: dict[str, Any]) -> bytes:
        values = [document.get(name, MISSING) for name in names]
        same = (*values, *map(type, values))  # to a dict 1 and True are one
        try:
            found = known.get(same)
        except TypeError:  # a list or a dict among them
            return encode_prefix(values)
        if found is None:
            found = encode_prefix(values)
            if len(known) < _PREFIXES_KEPT:
                known[same] = found
        return found

    return prefix


def _in_row(error: CellstoreError, number: int) -> CellstoreError:
    """The error, saying which row."""
    error.message = f"row {number}: {error.message}"
    error.args = (error.message,)
    return error
