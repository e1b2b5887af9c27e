"""Imports as Convex's command line asks for them: a file in parts, a look at what it would do, a yes, and then it is done.

    start_upload ─▶ upload_part … ─▶ finish_upload ─▶ waiting_for_confirmation ─▶ perform_import ─▶ in_progress ─▶ completed
                                                       └──────────── cancel_import ────────────┘           └─────▶ failed

The parts lie in a scratch directory beside the store, so nothing of a large file is in memory; the file is read in a
thread, a batch at a time, and what is read goes the way of any other import. How far each import is, is a row of
`_snapshot_imports`, which makes it live, and known after a restart: what was under way then has failed.

Modes      requireEmpty, append, replace; replaceAll also empties every table the file does not name, in the same commit.
           A file with stored files counts them as one more table: those it leaves out go, once the documents are there
Formats    zip, jsonLines, csv, jsonArray: what `cellstore import` reads
Errors     CallerError for an upload that is over, or that nobody has fed for IDLE_S (the command line tries a 404 again, so it
           is none); those of an import become its state
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import shutil
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cellstore.errors import CallerError, CellstoreError, Overloaded, StorageError, ValidationError
from cellstore.reactivity.principal import EMBEDDED
from cellstore.transaction import files
from cellstore.transaction.access import QueryBuilder
from cellstore.transaction.catalog import check_name

if TYPE_CHECKING:
    from cellstore.client.files import Line, Opened, Source
    from cellstore.server.imports import Imports
    from cellstore.transaction.database import Engine
    from cellstore.transaction.transaction import Transaction

TABLE = "_snapshot_imports"
MODES = {"requireEmpty": "fail", "append": "append", "replace": "replace", "replaceAll": "replace"}
SUFFIXES = {"zip": ".zip", "jsonLines": ".jsonl", "csv": ".csv", "jsonArray": ".json"}
ENDED = ("completed", "failed")
IDLE_S = 3600.0
PARTS_MAX = 100_000
UPLOADS_MAX = 16  # open at once
KEPT_MAX = 50  # imports that are remembered
REPORT_EVERY_S = 0.5  # each is a commit

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(slots=True)
class Upload:
    """A file on its way here, or here."""

    scratch: Path
    used_s: float
    file: Path | None = None  # once it is whole
    mode: str = "requireEmpty"
    table: str | None = None  # None: those the file names
    parts: dict[int, int] = field(default_factory=dict)  # number to bytes


class Uploads:
    """The uploads of one store, and the imports made of them.

    Order      everything on one event loop, which is never blocked
    """

    def __init__(self, engine: Engine, imports: Imports) -> None:
        self._engine, self._imports = engine, imports
        self._open: dict[str, Upload] = {}  # by upload token
        self._waiting: dict[str, Upload] = {}  # by import id: for a yes
        self._running: dict[str, asyncio.Task[None]] = {}

    def clean_up(self) -> None:
        """Remove what an earlier run left, and say of its imports that they failed."""
        for left in files.scratch_directories_left(self._engine.path, "upload"):
            shutil.rmtree(left, ignore_errors=True)
        with self._engine.begin() as transaction:
            rows = QueryBuilder(transaction, TABLE).collect()
        for row in rows:
            if row["state"]["state"] not in ENDED:
                self._fail(row["_id"], "the server stopped before this import was complete: import again")

    async def close(self) -> None:
        """End what runs; nothing is left."""
        for task in list(self._running.values()):
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)
        for upload in [*self._open.values(), *self._waiting.values()]:
            shutil.rmtree(upload.scratch, ignore_errors=True)

    # ── uploading ─────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> str:
        """A new upload: its token. Errors: Overloaded."""
        now_s = time.monotonic()
        for held in (self._open, self._waiting):
            for key in [key for key, upload in held.items() if now_s - upload.used_s > IDLE_S]:
                self._discard(held.pop(key))
                if held is self._waiting:
                    self._fail(key, f"nobody said yes or no to it for {IDLE_S / 60:g} minutes: import again")
        if len(self._open) + len(self._waiting) >= UPLOADS_MAX:
            raise Overloaded(f"{UPLOADS_MAX} uploads are under way already; finish or cancel one", queue="uploads")
        token = secrets.token_hex(16)
        self._open[token] = Upload(files.scratch_directory(self._engine.path, "upload"), now_s)
        return token

    async def part(self, token: str, number: int, body: bytes) -> str:
        """One part of the file; what it is called. The same part may come again. Errors: CallerError, ValidationError."""
        upload = self._find(token)
        if not 1 <= number <= PARTS_MAX:
            raise ValidationError(path="partNumber", expected=f"1 to {PARTS_MAX:,}", got=str(number)[:60])
        try:
            await asyncio.to_thread((upload.scratch / f"part-{number}").write_bytes, body)
        except OSError as error:
            self._find(token)  # it may have been finished, or given up, meanwhile
            raise _not_kept(error) from error
        upload.parts[number] = len(body)
        return f"{token}.{number}"

    async def finish(self, token: str, parts: Any, wanted: Any) -> str:
        """Put the parts together; the id of the import they make, which waits for a yes.

        `wanted` is {"tableName"?, "mode", "format", "componentPath"?}. Errors: CallerError, ValidationError
        """
        upload = self._find(token)
        del self._open[token]
        try:
            numbers = [_number_of_part(part, token) for part in parts] if isinstance(parts, list) else []
            if not numbers or len(set(numbers)) < len(numbers) or any(each not in upload.parts for each in numbers):
                raise ValidationError(
                    path="partTokens", expected="what the parts were called, each once", got=repr(parts)[:60]
                )
            _describe(upload, wanted)
            await asyncio.to_thread(_join, upload, numbers)
            message, is_loss = await asyncio.to_thread(self._outlook, upload)
            state = {"state": "waiting_for_confirmation", "message_to_confirm": message}
            key = self._remember({**state, "require_manual_confirmation": is_loss}, wanted)
        except BaseException:
            self._discard(upload)
            raise
        self._waiting[key] = upload
        return key

    def _find(self, token: str) -> Upload:
        upload = self._open.get(token)
        if upload is None:
            raise CallerError("this upload is over, or was given up: begin again", code="UploadOver")
        upload.used_s = time.monotonic()
        return upload

    def _outlook(self, upload: Upload) -> tuple[str, bool]:
        """What the import would do, for people, and whether documents would go."""
        opened = _opened(upload)
        names = [source.table for source in opened.sources]
        with self._engine.begin() as transaction:
            there = {table.name: transaction.count(table.name) for table in transaction.catalog.user_tables()}
        gone = {name: there.get(name, 0) for name in [*names, *_emptied(upload, names, there)] if there.get(name)}
        lines = [f"import into {name}" for name in names]
        lines += [f"import {len(opened.files):,} files"] if opened.files else []
        left_out = self._left_out(opened) if MODES[upload.mode] == "replace" else []
        if MODES[upload.mode] == "replace":
            lines += [f"delete the {count:,} documents of {name}" for name, count in gone.items()]
            lines += [f"delete the {len(left_out):,} stored files that are not in it"] if left_out else []
        if opened.ignored:
            lines.append(f"leave out {', '.join(opened.ignored)}, as there is no place for it here")
        is_loss = MODES[upload.mode] == "replace" and bool(gone or left_out)
        return "This will\n" + "\n".join(f"  {line}" for line in lines), is_loss

    def _left_out(self, opened: Opened) -> list[str]:
        """The stored files that one with files does not hold; none of one without."""
        named = {file.about["id"] for file in opened.files}
        with self._engine.begin() as transaction:
            return [id for id in files.ids(transaction) if id not in named] if named else []

    # ── importing ─────────────────────────────────────────────────────────────────────────────────────────────────

    def perform(self, key: str) -> asyncio.Task[None]:
        """The yes: the task that imports; it raises nothing. Errors: CallerError."""
        upload = self._waiting.pop(key, None)
        if upload is None:
            raise CallerError(f"no import {key!r} waits for a confirmation", code="ImportOver")
        self._report(key, {"state": "in_progress", "progress_message": "Importing", "checkpoint_messages": []})
        task = asyncio.get_running_loop().create_task(self._perform(key, upload))
        self._running[key] = task
        task.add_done_callback(lambda _: self._running.pop(key, None))
        return task

    async def cancel(self, key: str) -> None:
        """Give it up; nothing of a replacement is visible then. Errors: CallerError, also when it was complete first."""
        upload, task = self._waiting.pop(key, None), self._running.get(key)
        if upload is None and task is None:
            raise CallerError(f"there is no import {key!r} to cancel", code="ImportOver")
        if upload is not None:
            self._discard(upload)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        if self.state(key)["state"] in ENDED:
            raise CallerError(f"the import {key!r} had ended before it could be cancelled", code="ImportOver")
        self._fail(key, "the import was cancelled")

    async def single(self, body: bytes, wanted: dict[str, Any]) -> int:
        """All of it at once; how many documents. Errors: those of the import."""
        token = self.start()
        try:
            key = await self.finish(token, [await self.part(token, 1, body)], wanted)
        except BaseException:
            if token in self._open:
                self._discard(self._open.pop(token))
            raise
        await self.perform(key)
        state = self.state(key)
        if state["state"] != "completed":
            raise ValidationError(str(state["error_message"]), code="ImportFailed")
        return int(state["num_rows_written"])

    def state(self, key: str) -> dict[str, Any]:
        """How far an import is."""
        with self._engine.begin() as transaction:
            row = transaction.get(key, TABLE)
        return {"state": "failed", "error_message": "it is forgotten"} if row is None else dict(row["state"])

    async def _perform(self, key: str, upload: Upload) -> None:
        try:
            count = await self._load(key, upload)
            self._report(key, {"state": "completed", "num_rows_written": count})
        except CellstoreError as error:
            self._fail(key, error.message)
        except asyncio.CancelledError:
            pass  # whoever cancelled says so; after a stop, the next start does
        except Exception:
            log.exception("an import could not be carried out")
            self._fail(key, "the import could not be carried out; the server's log says why")
        finally:
            await asyncio.to_thread(self._discard, upload)

    async def _load(self, key: str, upload: Upload) -> int:
        """Every document of the file, and then all of it visible; how many."""
        opened = await asyncio.to_thread(_opened, upload)
        names = [source.table for source in opened.sources]
        there = [table.name for table in self._engine.catalog.user_tables()]
        wanted = [{"name": s.table, "number": await asyncio.to_thread(s.table_number)} for s in opened.sources]
        wanted += [{"name": name, "number": None} for name in _emptied(upload, names, there)]
        if opened.files and upload.mode == "requireEmpty" and (held := await asyncio.to_thread(self._count_files)):
            raise CallerError(
                f"there are {held:,} stored files already: append to them, or replace them", code="TableExists"
            )
        begun, _ = await self._imports.begin({"mode": MODES[upload.mode], "tables": wanted}, b"", EMBEDDED)
        try:
            for file in opened.files:  # first, so that no document names one that is not there
                await self._imports.take_file(file.about, file.pieces())
            for source in opened.sources:
                await self._load_table(key, begun["import"], source)
            report, _ = await _to_its_end(self._imports.end({"import": begun["import"]}, b"", EMBEDDED))
            if MODES[upload.mode] == "replace":  # after the documents: none names a file that is gone
                await _to_its_end(asyncio.to_thread(self._forget_files, self._left_out(opened)))
        except BaseException:
            with contextlib.suppress(CellstoreError):
                await self._imports.abort({"import": begun["import"]}, b"", EMBEDDED)
            raise
        return sum(each["documents"] for each in report["tables"].values())

    def _count_files(self) -> int:
        with self._engine.begin() as transaction:
            return len(files.ids(transaction))

    def _forget_files(self, ids: list[str]) -> None:
        def forget(transaction: Transaction) -> None:
            for id in ids:
                if files.metadata(transaction, id) is not None:
                    files.remove(transaction, id)

        if ids:
            self._engine.run(forget, files.STORAGE)

    async def _load_table(self, key: str, number: str, source: Source) -> None:
        from cellstore.client.files import batches

        meta = self._engine.catalog.table(source.table)
        declared = meta.schema.get("fields") if meta is not None and isinstance(meta.schema, dict) else None
        reading = batches(source.lines(declared or {}))
        count, told_s = 0, time.monotonic()
        while batch := await asyncio.to_thread(next, reading, None):
            await self._send(number, source, batch)
            count += len(batch)
            if time.monotonic() - told_s > REPORT_EVERY_S:
                told_s, so_far = time.monotonic(), f"Importing {source.table}: {count:,} documents so far"
                self._report(key, {"state": "in_progress", "progress_message": so_far, "checkpoint_messages": []})

    async def _send(self, number: str, source: Source, batch: list[Line]) -> None:
        from cellstore.client.files import name_place

        try:
            text = b"\n".join(line.text for line in batch)
            await self._imports.rows({"import": number, "table": source.table}, text, EMBEDDED)
        except CellstoreError as error:
            name_place(error, source, batch)
            raise

    # ── what is remembered ────────────────────────────────────────────────────────────────────────────────────────

    def _remember(self, state: dict[str, Any], wanted: dict[str, Any]) -> str:
        def insert(transaction: Transaction) -> str:
            rows = QueryBuilder(transaction, TABLE).order("desc").collect()
            for row in rows[KEPT_MAX:]:
                transaction.delete(row["_id"])
            return str(transaction.insert(TABLE, {"state": state, "format": wanted["format"], "mode": wanted["mode"]}))

        return self._engine.run(insert, TABLE)[0]

    def _report(self, key: str, state: dict[str, Any]) -> None:
        self._engine.run(lambda transaction: transaction.patch(key, {"state": state}), TABLE)

    def _fail(self, key: str, why: str) -> None:
        self._report(key, {"state": "failed", "error_message": why})

    def _discard(self, upload: Upload) -> None:
        shutil.rmtree(upload.scratch, ignore_errors=True)


async def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """What cannot be taken back once it has begun: whoever is cancelled meanwhile has come too late."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        return task.result()


def _describe(upload: Upload, wanted: Any) -> None:
    """What is to become of it. Errors: ValidationError."""
    if not isinstance(wanted, dict):
        raise ValidationError(path="import", expected="an object", got=repr(wanted)[:60])
    for name, known in (("mode", MODES), ("format", SUFFIXES)):
        if not isinstance(wanted.get(name), str) or wanted[name] not in known:
            raise ValidationError(path=name, expected=" or ".join(known), got=repr(wanted.get(name))[:60])
    if wanted.get("componentPath"):
        raise ValidationError(
            path="componentPath", expected="none, there are no components here", got=repr(wanted["componentPath"])
        )
    upload.mode, upload.table = wanted["mode"], wanted.get("tableName")
    if (upload.table is None) != (wanted["format"] == "zip"):
        raise ValidationError(path="tableName", expected="a table, and none for a zip", got=repr(upload.table)[:60])
    name = "snapshot" if upload.table is None else check_name("table", upload.table)
    upload.file = upload.scratch / f"{name}{SUFFIXES[wanted['format']]}"


def _number_of_part(part: Any, token: str) -> int:
    of, _, number = part.partition(".") if isinstance(part, str) else ("", "", "")
    return int(number) if of == token and number.isdecimal() and len(number) < 10 else 0


def _join(upload: Upload, numbers: list[int]) -> None:
    assert upload.file is not None
    try:
        with upload.file.open("xb") as whole:
            for number in numbers:
                part = upload.scratch / f"part-{number}"
                with part.open("rb") as piece:
                    shutil.copyfileobj(piece, whole)
                part.unlink()
    except OSError as error:
        raise _not_kept(error) from error


def _not_kept(error: OSError) -> StorageError:
    return StorageError(f"the upload could not be kept: {error.strerror or error}; make room on the disk, begin again")


def _opened(upload: Upload) -> Opened:
    from cellstore.client.files import open_path

    assert upload.file is not None
    return open_path(upload.file, upload.table)


def _emptied(upload: Upload, named: list[str], there: Any) -> list[str]:
    """The tables that are to be empty afterwards: the file does not name them."""
    return [name for name in there if name not in named] if upload.mode == "replaceAll" else []
