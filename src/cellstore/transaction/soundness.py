"""What must hold of a store's definitions and documents, beyond what its storage knows; for `cellstore check`.

    definitions   names and numbers of tables and indexes are each used once; an index is of a table that is there
    documents     each is of a table that is there, and fits its schema
    claims        no two documents have equal fields in a unique index

Each walk is as of one moment and holds one document in memory. A store may be checked while it is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from cellstore.errors import CellstoreError
from cellstore.transaction.catalog import Catalog, IndexMeta, TableMeta, by_id, load_catalog
from cellstore.values.ids import encode_id
from cellstore.values.index_key import END, encode_prefix
from cellstore.values.value import MISSING

if TYPE_CHECKING:
    from cellstore.storage.contract import Reader, Storage


def broken(storage: Storage) -> Iterator[str]:
    """A sentence for each document and definition that is not as it must be."""
    with closing(storage.reader()) as reader:
        reader.refresh()
        catalog = load_catalog(reader)
        yield from _definitions(catalog)
        yield from _strays(reader, catalog)
        for table in catalog.user_tables():
            yield from _documents(reader, catalog, table)
            for index in table.unique:
                yield from _claims(reader, table, index)


def _definitions(catalog: Catalog) -> Iterator[str]:
    tables = list(catalog.rows())
    indexes = [row for _, row in catalog.index_rows()]
    for number in _twice(row["number"] for row in tables):
        yield f"two tables have the number {number}"
    for name in _twice(row["name"] for row in tables):
        yield f"two tables have the name {name!r}"
    for number in _twice(row["number"] for row in indexes):
        yield f"two indexes have the number {number}"
    known = {row["number"] for row in tables}
    for row in indexes:
        if row["table"] not in known and row["state"] != "dropped":
            yield f"the index {row['name']!r} is of the table number {row['table']}, which there is not"


def _twice(values: Iterable[Any]) -> Iterator[Any]:
    seen: set[Any] = set()
    for value in values:
        if value in seen:
            yield value
        seen.add(value)


def _strays(reader: Reader, catalog: Catalog) -> Iterator[str]:
    """Documents of no table."""
    for number in reader.tables():
        if catalog.by_number(number) is None:
            count = reader.count(by_id(number), b"", END)
            yield f"{count} documents are of the table number {number}, which there is not"


def _documents(reader: Reader, catalog: Catalog, table: TableMeta) -> Iterator[str]:
    if table.schema is None:
        return
    for row in reader.scan(by_id(table.number), table.number, b"", END):
        try:
            fields = table.load(row.body)
            del fields["_creationTime"]
            table.rules.admit(fields, catalog)
        except (CellstoreError, KeyError) as error:
            yield f"the document {encode_id(table.number, row.id)!r} does not fit its table's schema: {error}"


def _claims(reader: Reader, table: TableMeta, index: IndexMeta) -> Iterator[str]:
    """Equal fields are neighbours. A document without one of the fields, or with None in it, claims nothing."""
    before, holder = b"", b""
    for row in reader.scan(index.number, table.number, b"", END):
        values = index.values(table.load(row.body))
        if any(value is None or value is MISSING for value in values):
            continue
        prefix = encode_prefix(values)
        if prefix == before:
            both = " and ".join(repr(encode_id(table.number, id)) for id in (holder, row.id))
            yield f"the index {table.name}.{index.name} is unique, and the documents {both} are equal in it"
        before, holder = prefix, row.id
