"""`export` and `import_`: the store as files, and files as documents.

    export    one request for each file, all as of one timestamp ──▶ a temporary file beside the target ──▶ renamed
    import    file ──▶ lines ──▶ POST x/import_rows, a batch at a time, each a durable commit ──▶ x/import_end

Neither holds more than a batch or a piece of a file in memory, however large the store. A failed export leaves nothing.
A failed import says what is in already: the batches before the one refused, or nothing where tables are replaced.

Order      one batch is under way at a time, so documents without ids are created in the order of the file
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from cellstore.client.files import SUFFIXES, Line, Source, StoredFile, batches, format_of, name_place, open_path
from cellstore.client.progress import Progress
from cellstore.client.rows import Fields
from cellstore.errors import CallerError, CellstoreError, NotFound, StorageError, ValidationError

if TYPE_CHECKING:
    from cellstore.client.database import Database, Moment

MODES = ("fail", "append", "replace")
DIRECTORY_FORMAT = "parquet"


# ── export ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def export(database: Database, path: Path, tables: list[str] | None, format: str | None, at: Moment) -> Path:
    """See `Database.export`."""
    formats = sorted(set(SUFFIXES.values()))
    if format is not None and format not in formats:
        raise ValidationError(path="format", expected=" or ".join(map(repr, formats)), got=repr(format)[:60])
    if path.suffix == "" and format != "zip":
        return _export_directory(database, path, tables, format or DIRECTORY_FORMAT, at)
    if path.is_dir():
        raise CallerError(f"{path} is a directory: remove it, or export to a path without a suffix", code="BadPath")
    params = {"format": format or format_of(path), "tables": tables, "ts": database.snapshot(at).ts}
    with _beside(path) as part:
        _fetch(database, params, part)
        part.replace(path)
    return path


def _export_directory(database: Database, path: Path, tables: list[str] | None, format: str, at: Moment) -> Path:
    """A file for each table, all as of one moment."""
    if path.exists() and not path.is_dir():
        raise CallerError(f"{path} is a file: give a path that is a directory, or is not there yet", code="BadPath")
    names = tables if tables is not None else [str(table["name"]) for table in database.tables()]
    ts = database.snapshot(at).ts
    with _beside(path) as part:
        part.mkdir()
        for name in names:
            try:
                _fetch(database, {"format": format, "tables": [name], "ts": ts}, part / f"{name}.{format}")
            except NotFound:
                if tables is not None:
                    raise
                (part / f"{name}.{format}").unlink()  # made since the moment that was asked for
        if not path.exists():
            part.rename(path)
        else:
            for file in part.iterdir():
                file.replace(path / file.name)
    return path


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A path beside `path` that becomes it by renaming; whatever is left at the end is removed."""
    part = path.parent / f".{path.name}.{secrets.token_hex(4)}.part"
    try:
        yield part
    except OSError as error:
        raise StorageError(f"cannot write the export to {path}: {error.strerror or error}") from error
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


def _fetch(database: Database, params: dict[str, Any], path: Path) -> None:
    sink: IO[bytes]
    with path.open("xb") as sink:
        database._control("export", params, sink=sink)


# ── import ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def import_(database: Database, path: Path, table: str | None, mode: str, progress: bool) -> dict[str, Any]:
    """See `Database.import_`."""
    if mode not in MODES:
        raise ValidationError(path="mode", expected=" or ".join(map(repr, MODES)), got=repr(mode)[:60])
    opened = open_path(path, table)
    sources = opened.sources
    database._ship_tables([source.table for source in sources])
    wanted = [{"name": source.table, "number": source.table_number()} for source in sources]
    begun, _ = database._control("import_begin", {"mode": mode, "tables": wanted})
    key = begun["import"]
    try:
        declared = {known["name"]: known.get("fields") or {} for known in database.tables()}
        for file in opened.files:  # first, so that no document names one that is not there
            _send_file(database, key, file)
        loader = _Loader(database, key, mode)
        for source in sources:
            loader.load(source, declared.get(source.table, {}), progress)
        report, _ = database._control("import_end", {"import": key})
    except BaseException:
        with contextlib.suppress(CellstoreError):
            database._control("import_abort", {"import": key})
        raise
    documents = sum(each["documents"] for each in report["tables"].values())
    if opened.files:
        report["files"] = len(opened.files)
    return {"documents": documents, "mode": mode, **report, **({"ignored": opened.ignored} if opened.ignored else {})}


def _send_file(database: Database, key: str, file: StoredFile) -> None:
    """A file of `ctx.storage`, a piece at a time; of one that is there already only the first."""
    pieces = file.pieces()
    piece, params = next(pieces, b""), {**file.about, "import": key}
    for following in pieces:
        answer, _ = database._control("import_file", {**params, "more": True}, piece)
        if "part" not in answer:
            return
        piece, params = following, answer
    database._control("import_file", params, piece)


class _Loader:
    """Sends the documents of one import."""

    def __init__(self, database: Database, key: str, mode: str) -> None:
        self._database, self._key, self._mode = database, key, mode
        self._loaded: dict[str, int] = {}

    def load(self, source: Source, fields: Fields, progress: bool) -> None:
        """All documents of one table."""
        self._loaded[source.table] = 0
        with Progress(source.table, source.total, progress) as bar:
            try:
                for batch in batches(source.lines(fields)):
                    self._send(source, batch)
                    bar.advance(len(batch))
            except CellstoreError as error:
                error.message += self._standing()
                error.args = (error.message,)
                raise

    def _send(self, source: Source, batch: list[Line]) -> None:
        params = {"import": self._key, "table": source.table}
        try:
            self._database._control("import_rows", params, b"\n".join([line.text for line in batch]))
        except CellstoreError as error:
            name_place(error, source, batch)
            raise
        self._loaded[source.table] += len(batch)

    def _standing(self) -> str:
        """What is in the store now."""
        if self._mode == "replace":
            return " (nothing was replaced)"
        loaded = [f"{count:,} documents are in {table!r}" for table, count in self._loaded.items() if count]
        return f" (before it, {' and '.join(loaded)})" if loaded else " (nothing was imported)"
