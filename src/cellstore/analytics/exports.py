"""Exports as the server makes them: a file in a scratch directory, written by a process of its own.

    store in a file    `python -m cellstore.analytics.exports` reads the file by itself; it ends with us, or when told to
    store in memory    a thread of this process

The file is complete before anybody gets a byte of it, so what can go wrong is an error, never half a file.

Order      everything here on one event loop, which is never blocked
Errors     those of `archive`; Overloaded when too many exports are under way; StorageError when the process died
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import orjson

from cellstore.analytics.archive import FORMATS, write_archive
from cellstore.analytics.worker import pack_error, unpack_error
from cellstore.errors import CellstoreError, Overloaded, StorageError, TransientError, ValidationError
from cellstore.knobs import Knobs
from cellstore.transaction.files import directory, scratch_directories_left, scratch_directory

if TYPE_CHECKING:
    from cellstore.transaction.database import Engine

RUNNING_MAX = 2  # each takes a core and half a gigabyte for as long as it runs
_WORDS_MAX = 2000


class Export:
    """A finished export. `read` it, then `close`; nothing is left of it then."""

    def __init__(self, path: Path, scratch: Path, counts: dict[str, int]) -> None:
        self.counts = counts  # documents by table
        self.size_bytes = path.stat().st_size
        self._scratch = scratch
        self._file: IO[bytes] = path.open("rb")

    def read(self, size_bytes: int) -> bytes:
        """The next bytes; empty at the end."""
        return self._file.read(size_bytes)

    def close(self) -> None:
        """Remove the file. Again is fine."""
        self._file.close()
        shutil.rmtree(self._scratch, ignore_errors=True)


class Exports:
    """The exports of one store."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._running: set[asyncio.Task[Export]] = set()
        self._swept = False
        self._sweeping = threading.Lock()

    async def make(self, tables: list[str] | None, format: str, ts: int, files: bool = True) -> Export:
        """The named tables, all for None, as of `ts`, in one of `FORMATS`; a ZIP of all with the files, if wanted."""
        if format not in FORMATS:
            raise ValidationError(path="format", expected=" or ".join(map(repr, FORMATS)), got=repr(format)[:60])
        if len(self._running) >= RUNNING_MAX:
            raise Overloaded(
                f"{RUNNING_MAX} exports are under way already; try again when one has ended", queue="exports"
            )
        task: asyncio.Task[Export] = asyncio.ensure_future(self._make(tables, format, ts, files))
        self._running.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            task.cancel()
            raise
        finally:
            self._running.discard(task)

    async def close(self) -> None:
        """End what runs."""
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _make(self, tables: list[str] | None, format: str, ts: int, files: bool) -> Export:
        scratch = await asyncio.to_thread(self._scratch)
        try:
            name, counts = await (self._in_process if self._engine.path else self._in_thread)(
                tables, format, ts, scratch, files
            )
            return Export(scratch / name, scratch, counts)
        except BaseException:
            await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)
            raise

    def _scratch(self) -> Path:
        with self._sweeping:  # nobody may make a directory that somebody else is about to find there
            if not self._swept:
                self._swept = True
                for left in scratch_directories_left(self._engine.path, "export"):  # of a server that was killed
                    shutil.rmtree(left, ignore_errors=True)
        return scratch_directory(self._engine.path, "export")

    async def _in_thread(
        self, tables: list[str] | None, format: str, ts: int, scratch: Path, _files: bool
    ) -> tuple[str, dict[str, int]]:
        given_up = threading.Event()

        def check() -> None:
            if given_up.is_set():
                raise TransientError("the export was given up")

        engine = self._engine
        work = asyncio.to_thread(write_archive, engine.storage.reader, tables, format, ts, scratch, engine.knobs, check)
        task = asyncio.ensure_future(work)
        try:
            path, counts = await asyncio.shield(task)
        except asyncio.CancelledError:
            given_up.set()
            await asyncio.wait([task])  # the store stays open until nobody reads it any more
            raise
        return path.name, counts

    async def _in_process(
        self, tables: list[str] | None, format: str, ts: int, scratch: Path, files: bool
    ) -> tuple[str, dict[str, int]]:
        path = str(Path(self._engine.path).resolve())
        asked = {"tables": tables, "format": format, "ts": ts, "scratch": str(scratch), "path": path}
        order = orjson.dumps({**asked, "files": files, "knobs": asdict(self._engine.knobs)})
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "cellstore.analytics.exports",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in the server's terminal is not for it
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            process.stdin.write(order + b"\n")  # and stays open: its end is ours
            answer, words = await asyncio.gather(process.stdout.read(), process.stderr.read())
            await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            process.stdin.close()
        return _answer(answer, words)


def _answer(answer: bytes, words: bytes) -> tuple[str, dict[str, int]]:
    if not answer:
        said = words.decode(errors="replace").strip()[-_WORDS_MAX:]
        raise StorageError(f"the process that writes exports died: {said or 'it said nothing; is memory short?'}")
    told = orjson.loads(answer)
    if "error" in told:
        raise unpack_error(told["error"])
    return told["file"], told["counts"]


def main() -> None:
    """The process: an order on the first line of standard input, one answer on standard output."""
    from cellstore.storage.sqlite import SqliteReader

    order = orjson.loads(sys.stdin.buffer.readline())
    scratch = Path(order["scratch"])
    threading.Thread(target=_end_with_parent, args=(scratch,), daemon=True).start()
    answer: dict[str, Any]
    try:
        path, counts = write_archive(
            lambda: SqliteReader(order["path"]),
            order["tables"],
            order["format"],
            order["ts"],
            scratch,
            Knobs(**order["knobs"]),
            files=directory(order["path"]) if order["files"] else None,
        )
        answer = {"file": path.name, "counts": counts}
    except CellstoreError as error:
        answer = {"error": pack_error(error)}
    sys.stdout.buffer.write(orjson.dumps(answer))
    sys.stdout.buffer.flush()
    os._exit(0)  # the thread that watches our parent would hold the interpreter up


def _end_with_parent(scratch: Path) -> None:
    """Wait until nobody holds our standard input any more; then nobody wants the export either."""
    os.read(sys.stdin.fileno(), 1)
    shutil.rmtree(scratch, ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    main()
