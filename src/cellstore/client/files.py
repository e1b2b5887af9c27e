"""Files as documents: ZIP snapshots, JSON lines, CSV and Parquet become lines of native JSON, each with its place.

    zip        the layout of Convex's snapshots, ours and Convex's own, in whatever directory inside the file
    jsonl      one JSON object a line. 1 is an int and 1.0 a float
    json       an array of them, which has to fit into memory; only read
    csv        a header, then a row for each document; see below
    parquet    through DuckDB; a null is a missing field, or None where the table demands the field and allows None

CSV cells without quotation marks are read as what they look like, unless the table declares something else:

    (nothing)  no such field, or None as above      true false      bool
    1  1.0     int, float                           null            None
    007  abc   text                                 NaN Infinity -Infinity
    "…"        text; JSON when it begins with [ or { or a quotation mark, and is JSON

A field declared as text is text whatever it looks like; one declared as a number or bool may stand in quotation marks.

Everything streams: memory does not grow with the file, nor with what a small ZIP file says is in it.
Errors     ValidationError naming the file, the line or row, and what is wrong with it
"""

from __future__ import annotations

import datetime as dt
import io
import mimetypes
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import orjson

from cellstore.client.rows import Fields, needs_none_of, plain_value
from cellstore.errors import CallerError, CellstoreError, NotFound, ValidationError
from cellstore.values import json as native
from cellstore.values.convex import from_convex
from cellstore.values.ids import decode_id

SUFFIXES = {".zip": "zip", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}
BATCH_ROWS, BATCH_BYTES = 1_000, 4 << 20
# parsed it takes twenty times as much, in the server where that reads it; Convex takes 8 MiB
ARRAY_BYTES_MAX = 32 << 20
_DEPTH_MAX = 200  # beyond any document's
_BOM = b"\xef\xbb\xbf"
_READ_CHARS = 1 << 20
_RECORD_CHARS_MAX = 64 << 20
_ROWS = 1000
_UNIFORM = b'"uniform"'  # the mark of exact values in a snapshot
# what a ZIP raises; the last: encrypted, or packed in a way unknown here
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)
_INT64 = range(-(1 << 63), 1 << 63)
_ROW = re.compile(r"row (\d+): ")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?\Z")
_CELL = re.compile(r'("[^"]*(?:""[^"]*)*"|[^",\r\n][^,\r\n]*|)(,|\r\n|\n|\r)')
_FLOATS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
_WORDS: dict[str, Any] = {"true": True, "false": False, "null": None, **_FLOATS}
_TEXTS = frozenset({"string", "id", "datetime", "date"})
_BARE = frozenset({"int", "float", "boolean"})


class Line(NamedTuple):
    """One document: where it stands in the file (from 1), and its native JSON."""

    place: int
    text: bytes


@dataclass
class Source:
    """The documents for one table. `lines` may be called more than once; fields are those the table declares."""

    table: str
    where: str  # the file, for people
    unit: str  # what `Line.place` counts: "line" or "row"
    lines: Callable[[Fields], Iterator[Line]]
    number: int | None = None  # of the table, where the file says it
    total: int | None = None  # documents, where the file says it

    def table_number(self) -> int | None:
        """The table number the ids carry: what the file says, else that of its first id. Errors: ValidationError."""
        if self.number is not None:
            return self.number
        id = self.first_id()
        try:
            return None if id is None else decode_id(id)[0]
        except ValidationError as error:
            raise ValidationError(f"{self.where}: the first document's _id: {error.message}", path="_id") from None

    def first_id(self) -> str | None:
        """The `_id` of the first document, if it has one."""
        for line in self.lines({}):
            parsed = native.loads(line.text)
            id = parsed.get("_id") if isinstance(parsed, dict) else None
            return id if isinstance(id, str) else None
        return None


@dataclass
class StoredFile:
    """A file of `ctx.storage` in a snapshot. `about`: id, sha256, content_type, creation_time, as far as they are known."""

    about: dict[str, Any]
    pieces: Callable[[], Iterator[bytes]]


@dataclass
class Opened:
    """A path made into sources; `ignored` are parts of it that mean nothing here."""

    sources: list[Source]
    ignored: list[str] = field(default_factory=list)
    files: list[StoredFile] = field(default_factory=list)


def format_of(path: Path) -> str:
    """The format a file name asks for. Errors: CallerError for a suffix nobody knows."""
    known = SUFFIXES.get(path.suffix.lower())
    if known is None:
        raise CallerError(
            f"{path.name}: the suffix names no format; use one of {', '.join(SUFFIXES)}", code="BadFormat"
        )
    return known


def open_path(path: Path, table: str | None) -> Opened:
    """What is in a file or a directory of files; of one table only, if it is named. Errors: NotFound, ValidationError."""
    if not path.exists():
        raise NotFound(f"there is no file {path} to import", kind="file", name=str(path))
    if path.is_dir():
        files = sorted(each for each in path.iterdir() if each.suffix.lower() in SUFFIXES and each.suffix != ".zip")
        sources = [_file_source(each, each.stem) for each in files if table in (None, each.stem)]
        opened = Opened(sources)
    elif path.suffix.lower() == ".json":
        return Opened([Source(table or path.stem, path.name, "document", lambda _: _array(path))])
    elif format_of(path) == "zip":
        opened = _open_zip(path, table)
    else:
        return Opened([_file_source(path, table or path.stem)])
    if not opened.sources:
        raise NotFound(f"{path.name} holds nothing to import{'' if table is None else f' into {table!r}'}", kind="file")
    return opened


def _file_source(path: Path, table: str) -> Source:
    kind = format_of(path)
    if kind == "jsonl":
        return Source(table, path.name, "line", lambda _: _jsonl(lambda: path.open("rb"), path.name))
    if kind == "csv":
        return Source(table, path.name, "line", lambda fields: _csv(path, fields))
    return Source(table, path.name, "row", lambda fields: _parquet(path, fields), total=_parquet_rows(path))


# ── JSON lines ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _jsonl(open_it: Callable[[], IO[bytes]], where: str, convert: Callable[[Any], Any] | None = None) -> Iterator[Line]:
    """The lines that are not blank. Only those that may mean something else in native JSON are parsed."""
    with open_it() as file:
        for place, raw in _lines_of(file, where):
            text = (raw.removeprefix(_BOM) if place == 1 else raw).strip()
            if text and (convert is not None or b'"$integer"' in text):
                text = _converted(text, convert or _exact, f"{where}, line {place}")
            if text:
                yield Line(place, text)


def _lines_of(file: IO[bytes], where: str) -> Iterator[tuple[int, bytes]]:
    """(place, line) of each. Errors: ValidationError for one that fills the memory."""
    place = 0
    while raw := file.readline(_RECORD_CHARS_MAX):
        place += 1
        if len(raw) == _RECORD_CHARS_MAX and not raw.endswith(b"\n"):
            raise ValidationError(f"{where}, line {place}: this line does not end; write one document a line")
        yield place, raw


def _array(path: Path) -> Iterator[Line]:
    """The documents of a JSON array."""
    if path.stat().st_size > ARRAY_BYTES_MAX:
        raise ValidationError(
            f"{path.name} is larger than {ARRAY_BYTES_MAX:,} bytes: write one document a line (.jsonl)"
        )
    try:
        documents = orjson.loads(path.read_bytes().removeprefix(_BOM))
    except orjson.JSONDecodeError as error:
        raise ValidationError(f"{path.name} is not JSON: {error}") from None
    if not isinstance(documents, list):
        raise ValidationError(f"{path.name} holds no array of documents: for one document a line the suffix is .jsonl")
    for place, document in enumerate(documents, 1):
        try:
            yield Line(place, native.dumps(_exact(document)))
        except CellstoreError as error:
            raise ValidationError(f"{path.name}, document {place}: {error.message}") from None


def name_place(error: CellstoreError, source: Source, batch: list[Line]) -> None:
    """An error that names a row of a batch names the place in the file instead."""
    match = _ROW.match(error.message)
    if match is not None:
        place = batch[int(match[1])].place
        error.message = f"{source.where}, {source.unit} {place}: {error.message[match.end() :]}"


def batches(lines: Iterator[Line]) -> Iterator[list[Line]]:
    """Lines in portions for one commit each."""
    batch: list[Line] = []
    size = 0
    for line in lines:
        if batch and (len(batch) >= BATCH_ROWS or size + len(line.text) > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += len(line.text)
    if batch:
        yield batch


def _converted(text: bytes, convert: Callable[[Any], Any], where: str) -> bytes:
    try:
        return native.dumps(convert(orjson.loads(text)))
    except orjson.JSONDecodeError as error:
        raise ValidationError(f"{where}: this is not JSON: {error}") from None
    except CellstoreError as error:
        raise ValidationError(f"{where}: {error.message}") from None


def _exact(parsed: Any, depth_left: int = _DEPTH_MAX) -> Any:
    """export_json: number tokens are exact, and an int may also come as `$integer`."""
    kind = type(parsed)
    if depth_left == 0:
        raise ValidationError(expected="shallower nesting", got="lists and dicts inside too many others")
    if kind is dict:
        if len(parsed) == 1 and next(iter(parsed)).startswith("$"):
            return from_convex(parsed)
        return {name: _exact(inner, depth_left - 1) for name, inner in parsed.items()}
    return [_exact(inner, depth_left - 1) for inner in parsed] if kind is list else parsed


# ── ZIP ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _open_zip(path: Path, table: str | None) -> Opened:
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            root = _root_of(names, path)
            numbers = _numbers(archive, f"{root}_tables/documents.jsonl", names)
            tables = sorted({*numbers, *_tables_of(names, root)})
            exact = {name: _is_uniform(archive, f"{root}{name}/generated_schema.jsonl", names) for name in tables}
    except (*_BROKEN, OSError) as error:
        raise ValidationError(f"{path.name} cannot be read as a ZIP file: {error}", code="BadZip") from None
    sources = [
        _zip_source(path, f"{root}{name}/documents.jsonl", name, numbers.get(name), exact[name], names)
        for name in tables
        if table in (None, name)
    ]
    others = {name.removeprefix(root).split("/")[0] for name in names if name.startswith(root)}
    return Opened(sources, sorted(others & {"_components"}), _stored(path, root, names) if table is None else [])


def _stored(path: Path, root: str, names: set[str]) -> list[StoredFile]:
    """The files in `_storage`."""
    home, listed = f"{root}_storage/", f"{root}_storage/documents.jsonl"
    known: dict[str, dict[str, Any]] = {}
    if listed in names:
        for line in _jsonl(lambda: io.BufferedReader(_Entry(path, listed)), f"{path.name}/{listed}"):
            row = native.loads(line.text)
            if not isinstance(row, dict):
                raise ValidationError(
                    f"{path.name}/{listed}, line {line.place}: expected an object that tells of a file, got {row!r:.60}"
                )
            known[str(row.get("_id"))] = row
    entries = sorted(name for name in names if name.startswith(home) and name not in (home, listed))
    return [_stored_file(path, entry, known) for entry in entries]


def _stored_file(path: Path, entry: str, known: dict[str, dict[str, Any]]) -> StoredFile:
    id = entry.rpartition("/")[2].partition(".")[0]
    row = known.get(id, {})
    content_type = row.get("contentType") or mimetypes.guess_type(entry)[0]
    about = {"id": id, "content_type": content_type, "sha256": row.get("sha256")}

    def pieces() -> Iterator[bytes]:
        with _Entry(path, entry) as file:
            yield from iter(lambda: file.read(_READ_CHARS), b"")

    return StoredFile({**about, "creation_time": row.get("_creationTime")}, pieces)


def _root_of(names: set[str], path: Path) -> str:
    """The directory inside the file that the tables are in: "" or ending with a slash."""
    tables = [name for name in names if name.endswith("/documents.jsonl")]
    if not tables:
        raise ValidationError(f"{path.name} is no snapshot: no <table>/documents.jsonl is in it", code="BadZip")
    shallow = min(tables, key=lambda name: (name.count("/"), name))
    return "".join(f"{part}/" for part in shallow.split("/")[:-2])


def _tables_of(names: set[str], root: str) -> Iterator[str]:
    for name in names:
        parts = name.removeprefix(root).split("/")
        if name.startswith(root) and len(parts) == 2 and parts[1] == "documents.jsonl" and not parts[0].startswith("_"):
            yield parts[0]


def _numbers(archive: zipfile.ZipFile, entry: str, names: set[str]) -> dict[str, int]:
    """Table name to number."""
    if entry not in names:
        return {}
    numbers: dict[str, int] = {}
    with archive.open(entry) as file:
        for _, line in _lines_of(file, entry):
            if line.strip():
                name, number = _numbered(native.loads(line), entry)
                if not name.startswith("_"):
                    numbers[name] = number
    return numbers


def _numbered(row: Any, entry: str) -> tuple[str, int]:
    match row:
        case {"name": str(name), "id": int() | float() as number} if number == number // 1:
            return name, int(number)
    raise ValidationError(path=entry, expected='lines like {"name": "t", "id": 10001}', got=repr(row)[:60])


def _is_uniform(archive: zipfile.ZipFile, entry: str, names: set[str]) -> bool:
    if entry not in names:
        return False
    with archive.open(entry) as file:
        return file.read(2 * len(_UNIFORM)).strip() == _UNIFORM


def _zip_source(path: Path, entry: str, table: str, number: int | None, exact: bool, names: set[str]) -> Source:
    """Without the mark of exact values every number is a float, as Convex reads it."""
    where = f"{path.name}/{entry}"

    def open_it() -> IO[bytes]:
        return io.BufferedReader(_Entry(path, entry), 1 << 20) if entry in names else io.BytesIO()

    return Source(table, where, "line", lambda _: _jsonl(open_it, where, None if exact else from_convex), number)


class _Entry(io.RawIOBase):
    """One file inside a ZIP, which is closed with it."""

    def __init__(self, path: Path, entry: str) -> None:
        """Errors: ValidationError when the ZIP is broken there."""
        self._name = path.name
        self._archive = zipfile.ZipFile(path)
        try:
            with self._telling():
                self._file = self._archive.open(entry)
        except BaseException:
            self._archive.close()
            raise

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`. Errors: ValidationError when the ZIP is broken here."""
        with self._telling():
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except _BROKEN as error:
            raise ValidationError(f"{self._name} is broken: {error}", code="BadZip") from None

    def close(self) -> None:
        """Close both."""
        if not self.closed and hasattr(self, "_file"):
            self._file.close()
            self._archive.close()
        super().close()


# ── CSV ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _csv(path: Path, fields: Fields) -> Iterator[Line]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        records = _records(file, path.name)
        _, head = next(records, (0, []))
        names = [_text(cell) if cell.startswith('"') else cell.strip() for cell in head]
        if len(set(names)) < len(names):
            raise ValidationError(f"{path.name}, line 1: two columns have the same name")
        readers = [_reader_of(name, fields) for name in names]
        for place, cells in records:
            if cells == [""]:
                continue
            if len(cells) != len(names):
                raise ValidationError(
                    f"{path.name}, line {place}: {len(cells)} cells, and the header names {len(names)} columns"
                )
            document = {}
            for name, read, cell in zip(names, readers, cells, strict=True):
                value = read(cell)
                if value is not _ABSENT:
                    document[name] = value
            yield Line(place, native.dumps(document))


_ABSENT: Any = object()


def _records(file: IO[str], where: str) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of each record; cells as they stand there, with their quotation marks."""
    text, at, place, is_last = "", 0, 1, False
    cells: list[str] = []
    match, begin = _CELL.match, 0
    while True:
        found = match(text, at)
        if found is not None and (found.end() < len(text) or is_last):
            at = found.end()
            cells.append(found[1])
            if found[2] != ",":
                yield place, cells
                place += text.count("\n", begin, at) if found[2] != "\r" else 1
                cells, begin = [], at
            continue
        if is_last and (at == len(text) or found is None):
            if at < len(text):
                raise ValidationError(
                    f"{where}, line {place}: a quotation mark stands in the wrong place, or is not closed"
                )
            return
        more = _read(file, where)
        if len(text) - begin > _RECORD_CHARS_MAX:
            raise ValidationError(f"{where}, line {place}: this row does not end; is a quotation mark not closed?")
        is_last = not more
        text, at, begin = text[begin:] + more, at - begin, 0
        if is_last and text and not text.endswith(("\n", "\r")):
            text += "\n"


def _read(file: IO[str], where: str) -> str:
    try:
        return file.read(_READ_CHARS)
    except UnicodeDecodeError as error:
        raise ValidationError(f"{where} is not UTF-8 text: {error.reason}; save it as UTF-8") from None


def _text(cell: str) -> str:
    return cell[1:-1].replace('""', '"') if cell.startswith('"') else cell


def _reader_of(name: str, fields: Fields) -> Callable[[str], Any]:
    """What a column's cells mean."""
    if name == "_id":
        return lambda cell: _text(cell) or _ABSENT
    expr = fields.get(name, {}).get("type", {"type": "any"})
    members = expr["members"] if expr["type"] == "union" else [expr]
    kinds = {str(member["type"]) for member in members}
    missing = None if needs_none_of(name, fields) else _ABSENT
    may_be_none, kinds = "null" in kinds, kinds - {"null"}
    if kinds and kinds <= _TEXTS:
        return lambda cell: _declared_text(cell, missing, may_be_none)
    is_bare, is_float = bool(kinds) and kinds <= _BARE, kinds == {"float"}

    def read(cell: str) -> Any:
        if cell == "":
            return missing
        if cell[0] == '"' and not is_bare:
            return _quoted(_text(cell))
        value = _bare(_text(cell))
        return float(value) if is_float and type(value) is int else value

    return read


def _declared_text(cell: str, missing: Any, may_be_none: bool) -> Any:
    if cell == "":
        return missing
    if cell == "null" and may_be_none:
        return None
    value = _quoted(_text(cell)) if cell.startswith('"""') else None
    return value if isinstance(value, str) else _text(cell)


def _quoted(text: str) -> Any:
    if not text.startswith(("[", "{", '"')):
        return text
    try:
        return native.loads(text)
    except ValidationError:
        return text


def _bare(text: str) -> Any:
    """What a cell without quotation marks looks like."""
    if text in _WORDS:
        return _WORDS[text]
    number = _NUMBER.match(text)
    if number is None:
        return _quoted(text)
    if number[1] is None and number[2] is None and int(text) in _INT64:
        return int(text)
    return float(text)


# ── Parquet ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _parquet_rows(path: Path) -> int:
    import duckdb

    with closing(duckdb.connect()) as duck:
        try:
            counted = duck.execute("SELECT count(*) FROM read_parquet(?)", [str(path)]).fetchone()
        except duckdb.Error as error:
            raise ValidationError(f"{path.name} cannot be read as Parquet: {error}", code="BadParquet") from None
    return int(counted[0]) if counted else 0


def _parquet(path: Path, fields: Fields) -> Iterator[Line]:
    import duckdb

    with closing(duckdb.connect()) as duck:
        duck.execute("SET threads = 2")
        described = duck.execute("DESCRIBE SELECT * FROM read_parquet(?)", [str(path)]).fetchall()
        types = {str(row[0]): str(row[1]) for row in described}
        shown = ", ".join(_shown(name, kind) for name, kind in types.items())
        cursor = duck.execute(f"SELECT {shown} FROM read_parquet(?)", [str(path)])
        readers = [_column_reader(name, kind) for name, kind in types.items()]
        keep_none = [needs_none_of(name, fields) for name in types]
        place = 0
        while rows := cursor.fetchmany(_ROWS):
            for row in rows:
                place += 1
                yield Line(place, _parquet_line(row, types, readers, keep_none, f"{path.name}, row {place}"))


def _parquet_line(
    row: Iterable[Any],
    names: Mapping[str, str],
    readers: list[Callable[[Any], Any]],
    keep_none: list[bool],
    where: str,
) -> bytes:
    try:
        document = {
            name: None if value is None else read(value)
            for name, read, keep, value in zip(names, readers, keep_none, row, strict=True)
            if value is not None or keep
        }
        return native.dumps(document)
    except ValidationError as error:
        raise ValidationError(f"{where}: {error.message}", path=error.path) from None


def _shown(name: str, kind: str) -> str:
    """A column as Python can take it: moments with a zone would need a time zone library."""
    quoted = '"' + name.replace('"', '""') + '"'
    return f"epoch_us({quoted}) AS {quoted}" if kind == "TIMESTAMP WITH TIME ZONE" else quoted


def _column_reader(name: str, kind: str) -> Callable[[Any], Any]:
    if kind == "JSON":
        return native.loads
    if kind == "TIMESTAMP WITH TIME ZONE":
        epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
        return lambda value: plain_value(epoch + dt.timedelta(microseconds=value), name)
    return lambda value: plain_value(value, name)
