"""The store written down as of one timestamp: what exports are made of.

    zip        Convex's snapshot: `<table>/documents.jsonl`, one document a line with `_id` and `_creationTime`, in order of
               ids; `_tables/documents.jsonl` with the tables' numbers; `_storage/…`, the files. Readable by Convex's own
               tools
    jsonl      one table, the same lines, in order of creation
    csv        one table, in order of creation, a column for each field any document has
    parquet    one table, in order of creation, columns as SQL sees them

Lines are stored bodies with their ids glued on: no document is parsed, and what comes back is the same to the bit.
In CSV every text is quoted and nothing else need be, so that cells tell what they are:

    (nothing)  no such field        null        None              ""           the empty text
    1  1.0     int, float           NaN         also Infinity     "a"          text
    true       bool                 "[1,2]"     lists, dicts, bytes: native JSON

A text that begins with [ or { or a quotation mark is written as JSON text, so that it is not taken for one of those.
Parquet has no missing fields: they are nulls, as None is.

Cost       one or two µs a line for zip and jsonl besides compression and the disk; memory stays flat
Errors     NotFound naming the tables there are; OutOfRetention; StorageError when the scratch directory is full
"""

from __future__ import annotations

import mimetypes
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import orjson

from cellstore.analytics.feed import encode_ids
from cellstore.errors import NotFound, StorageError, ValidationError
from cellstore.knobs import DEFAULTS, Knobs
from cellstore.storage.contract import Row
from cellstore.transaction.catalog import Catalog, TableMeta, by_creation_time, by_id, load_catalog
from cellstore.values.index_key import END
from cellstore.values.json import dumps, loads
from cellstore.values.value import MISSING

if TYPE_CHECKING:
    from cellstore.storage.contract import Reader

FORMATS = ("zip", "jsonl", "csv", "parquet")
SUFFIXES = {"zip": "zip", "jsonl": "jsonl", "csv": "csv", "parquet": "parquet"}
BATCH = 1000
BATCH_BYTES = 1 << 20  # documents may be large
PARQUET_MEMORY_BYTES = 512 << 20  # DuckDB spills what does not fit
_UNIFORM = b'"uniform"\n'  # the mark of exact values in a Convex snapshot
_LOOKS_LIKE_JSON = ("[", "{", '"')

Check = Callable[[], None]


def never() -> None:
    """The check of somebody who never gives up."""


def write_archive(
    open_reader: Callable[[], Reader],
    tables: Sequence[str] | None,
    format: str,
    ts: int,
    scratch: Path,
    knobs: Knobs = DEFAULTS,
    check: Check = never,
    files: Path | None = None,
) -> tuple[Path, dict[str, int]]:
    """(a file in `scratch`, documents by table) of the named tables, all of them for None, as of `ts`.

    `files`: where the files of ctx.storage lie, if a ZIP of all tables is to hold them too.
    """
    from cellstore.analytics.analyst import check_known

    path = scratch / f"export.{SUFFIXES[format]}"
    with closing(open_reader()) as reader:
        reader.refresh()
        check_known(reader, ts)
        catalog = load_catalog(reader, ts)
        chosen = chosen_tables(catalog, tables)
        if format != "zip" and len(chosen) != 1:
            raise ValidationError(
                f"a {format} file holds one table and {len(chosen)} were asked for: name one, or export to a .zip file or "
                "a directory",
                path="tables",
                code="OneTable",
            )
        source = _Source(reader, ts, check)
        try:
            if format == "parquet":
                _write_parquet(open_reader, chosen[0].name, ts, path, scratch, knobs)
            else:
                with path.open("wb") as file:
                    _WRITERS[format](source, chosen, file)
                if format == "zip" and tables is None and files is not None and files.is_dir():
                    _add_files(source, catalog, files, path)
        except OSError as error:
            raise StorageError(f"the export could not be written to {scratch}: {error.strerror or error}") from error
        counts = {table.name: reader.count(by_id(table.number), b"", END, ts) for table in chosen}
    return path, counts


def chosen_tables(catalog: Catalog, names: Sequence[str] | None) -> list[TableMeta]:
    """The user tables of these names, by name; all for None. Errors: NotFound."""
    known = {table.name: table for table in catalog.user_tables()}
    for name in names or ():
        if name not in known:
            there = f"there are: {', '.join(known)}" if known else "there are none yet"
            raise NotFound(f"there is no table {name!r} to export; {there}", kind="table", name=name)
    return [table for name, table in known.items() if names is None or name in names]


class _Source:
    """The documents of one moment."""

    def __init__(self, reader: Reader, ts: int, check: Check) -> None:
        self._reader, self._ts, self._check = reader, ts, check

    def batches(self, table: TableMeta, *, by_age: bool) -> Iterator[list[Row]]:
        """Every document of a table, in order of creation or of ids."""
        index = by_creation_time(table.number) if by_age else by_id(table.number)
        batch: list[Row] = []
        size = 0
        for row in self._reader.scan(index, table.number, b"", END, ts=self._ts):
            batch.append(row if not table.stored_as else row._replace(body=table.text(row.body)))
            size += len(row.body)
            if len(batch) == BATCH or size >= BATCH_BYTES:
                self._check()
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def lines(self, table: TableMeta, *, by_age: bool) -> Iterator[bytes]:
        """The lines of a table, many at a time."""
        for batch in self.batches(table, by_age=by_age):
            ids = encode_ids(table.number, [row.id for row in batch])
            yield b"".join([b'{"_id":"%b",%b\n' % (id, row.body[1:]) for id, row in zip(ids, batch, strict=True)])

    @property
    def moment(self) -> str:
        """The timestamp, for people."""
        return f"{datetime.fromtimestamp(self._ts // 10**9, UTC):%Y-%m-%d %H:%M:%S} UTC (timestamp {self._ts})"


def _write_zip(source: _Source, tables: Sequence[TableMeta], file: IO[bytes]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=4) as archive:
        archive.writestr("README.md", _readme(source, tables))
        numbers = [dumps({"name": table.name, "id": table.number}) + b"\n" for table in tables]
        archive.writestr("_tables/documents.jsonl", b"".join(numbers))
        for table in tables:
            archive.writestr(f"{table.name}/generated_schema.jsonl", _UNIFORM)
            with archive.open(f"{table.name}/documents.jsonl", "w", force_zip64=True) as entry:
                for lines in source.lines(table, by_age=False):
                    entry.write(lines)


def _add_files(source: _Source, catalog: Catalog, home: Path, path: Path) -> None:
    """What `_storage` tells, and the bytes of each file, as far as they are still there."""
    known, names = catalog.table("_storage"), catalog.table("_file_storage")
    assert known is not None
    assert names is not None
    rows = [loads(row.body) for batch in source.batches(names, by_age=True) for row in batch]
    places = {row["storageId"]: home / row["file"] for row in rows}
    lines: list[bytes] = []
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=4) as archive:
        for batch in source.batches(known, by_age=False):
            for id, row in zip(encode_ids(known.number, [row.id for row in batch]), batch, strict=True):
                place, about = places.get(id.decode()), loads(row.body)
                suffix = mimetypes.guess_extension(about.get("contentType", "").partition(";")[0]) or ""
                if place is not None and _add_file(archive, f"_storage/{id.decode()}{suffix}", place):
                    lines.append(dumps({"_id": id.decode(), **about, "internalId": place.name}) + b"\n")
        if lines:
            archive.writestr("_storage/documents.jsonl", b"".join(lines))


def _add_file(archive: zipfile.ZipFile, entry: str, place: Path) -> bool:
    """Copy it, a piece at a time. Whether it is still there: what was deleted is swept at any moment."""
    try:
        file = place.open("rb")
    except FileNotFoundError:
        return False
    with file, archive.open(entry, "w", force_zip64=True) as sink:
        shutil.copyfileobj(file, sink, BATCH_BYTES)
    return True


def _readme(source: _Source, tables: Sequence[TableMeta]) -> str:
    names = "".join(f"- `{table.name}/documents.jsonl`\n" for table in tables)
    return (
        f"# Snapshot of a cellstore database\n\nEvery document as of {source.moment}, one a line, with its id and its "
        f"creation time.\n\n{names}\nThe layout is Convex's: `cellstore import` and `npx convex import` read it.\n"
    )


def _write_jsonl(source: _Source, tables: Sequence[TableMeta], file: IO[bytes]) -> None:
    for lines in source.lines(tables[0], by_age=True):
        file.write(lines)


def _write_parquet(
    open_reader: Callable[[], Reader], table: str, ts: int, path: Path, scratch: Path, knobs: Knobs
) -> None:
    """As `snapshot.to_parquet` makes it, without the limits of an answer that travels through memory."""
    from cellstore.analytics.analyst import Analyst

    memory = min(PARQUET_MEMORY_BYTES, knobs.analytics_memory_bytes)
    limits = replace(knobs, analytics_result_bytes=1 << 62, analytics_memory_bytes=memory)
    with closing(Analyst(open_reader, scratch, limits)) as analyst:
        analyst.run("table_parquet", {"table": table, "ts": ts}, 1).rename(path)


# ── CSV ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _write_csv(source: _Source, tables: Sequence[TableMeta], file: IO[bytes]) -> None:
    (table,) = tables
    names = _columns(source, table)
    file.write(",".join(map(_head, ("_id", *names, "_creationTime"))).encode() + b"\n")
    columns = [*names, "_creationTime"]
    for batch in source.batches(table, by_age=True):
        ids = encode_ids(table.number, [row.id for row in batch])
        lines = []
        for id, row in zip(ids, batch, strict=True):
            get = loads(row.body).get
            lines.append(f'"{id.decode()}",' + ",".join([cell(get(name, MISSING)) for name in columns]) + "\n")
        file.write("".join(lines).encode())


def _columns(source: _Source, table: TableMeta) -> list[str]:
    """The names of all fields: as declared, then as they are first met. Documents of one shape are looked at once."""
    fields = {} if table.schema is None else table.schema.get("fields", {})
    names: dict[str, None] = dict.fromkeys(fields)
    seen: set[tuple[str, ...]] = set()
    for batch in source.batches(table, by_age=True):
        shapes = {tuple(orjson.loads(row.body)) for row in batch} - seen
        for shape in sorted(shapes):
            names.update(dict.fromkeys(shape))
        if len(seen) < BATCH:
            seen |= shapes
    return [name for name in names if name not in ("_id", "_creationTime")]


def cell(value: Any) -> str:
    """One cell; the page above tells how."""
    kind = type(value)
    if kind is str:
        return _quoted(orjson.dumps(value).decode() if value.startswith(_LOOKS_LIKE_JSON) else value)
    if value is MISSING:
        return ""
    if kind is float and not isfinite(value):
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    text = dumps(value).decode()
    return _quoted(text) if kind in (list, dict, bytes) else text


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _head(name: str) -> str:
    return name if name.isidentifier() else _quoted(name)


_WRITERS: dict[str, Callable[[_Source, Sequence[TableMeta], IO[bytes]], None]] = {
    "zip": _write_zip,
    "jsonl": _write_jsonl,
    "csv": _write_csv,
}
