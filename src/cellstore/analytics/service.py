"""The asynchronous face of the analyst: what the server calls.

    store in a file    ProcessHost   a worker process, reading the file by itself
    store in memory    ThreadHost    threads of this process

A host is started by the first question and started again by the next one after it died. Every question ends: with
octets, with an error of the statement's, when its time is up (knob analytics_time_s), or when its worker dies.

Order      everything here on one event loop, which is never blocked: reading, spawning, waiting happen in threads
Errors     the operation's own; LimitExceeded when the time is up; TransientError when the worker died meanwhile
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

import orjson

from cellstore.analytics.worker import unpack_error
from cellstore.errors import LimitExceeded, TransientError
from cellstore.knobs import Knobs

if TYPE_CHECKING:
    from cellstore.analytics.analyst import Analyst
    from cellstore.storage.contract import Reader
    from cellstore.transaction.database import Engine

CANCEL_GRACE_S = 5.0  # a worker that does not heed a cancellation for so long is killed
CLOSE_WAIT_S = 5.0
_ANSWER_BYTES_MAX = 4 << 20  # one line; only an error's text can be long


class Host(Protocol):
    """Where the analyst lives."""

    dead: bool

    def ask(self, number: int, op: str, params: dict[str, Any]) -> asyncio.Future[Path]:
        """The file with the answer, some time."""
        ...

    def cancel(self, number: int) -> None:
        """Give up a question."""
        ...

    async def close(self) -> None:
        """End it, and clear up."""
        ...


class Analytics:
    """SQL, tables and differences of one store, as octets."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._knobs = engine.knobs
        self._host: Host | None = None
        self._starting = asyncio.Lock()
        self._numbers = itertools.count(1)
        self._closed = False

    async def table_parquet(self, table: str, ts: int) -> bytes:
        """The documents of a table at `ts` as Parquet, in order of creation. Errors: NotFound, OutOfRetention."""
        return await self._ask("table_parquet", {"table": table, "ts": ts})

    async def diff(self, ts0: int, ts1: int) -> bytes:
        """What changed from the earlier of two timestamps to the later; see `changes`. Errors: OutOfRetention."""
        return await self._ask("diff", {"ts0": ts0, "ts1": ts1})

    async def sql(self, statement: str, ts: int, format: str = "parquet") -> bytes:
        """The result of a statement at `ts`; `format` is "parquet" or "csv". Errors: ValidationError, NotFound."""
        return await self._ask("sql", {"statement": statement, "ts": ts, "format": format})

    async def sql_tables(self, statement: str) -> list[str]:
        """The tables that a statement names, whether or not they are there. Errors: ValidationError."""
        names: list[str] = orjson.loads(await self._ask("sql_tables", {"statement": statement}))
        return names

    async def close(self) -> None:
        """End the worker. Again is fine."""
        self._closed = True
        async with self._starting:
            host, self._host = self._host, None
        if host is not None:
            await host.close()

    async def _ask(self, op: str, params: dict[str, Any]) -> bytes:
        host = await self._ready()
        number = next(self._numbers)
        answer = host.ask(number, op, params)
        try:
            path = await asyncio.wait_for(asyncio.shield(answer), self._knobs.analytics_time_s)
        except TimeoutError:
            self._give_up(host, number, answer)
            raise LimitExceeded(
                f"the {op} took longer than the {self._knobs.analytics_time_s:g} s that analytics_time_s allows",
                knob="analytics_time_s",
                limit=self._knobs.analytics_time_s,
            ) from None
        except asyncio.CancelledError:
            self._give_up(host, number, answer)
            raise
        return await asyncio.to_thread(_take, path)

    async def _ready(self) -> Host:
        """A living host."""
        async with self._starting:
            if self._closed:
                raise TransientError("the store is closing")
            if self._host is not None and self._host.dead:
                await self._host.close()
                self._host = None
            if self._host is None:
                self._host = await self._start()
            return self._host

    async def _start(self) -> Host:
        if self._engine.path:
            return await ProcessHost.start(self._engine.path, self._knobs)
        return ThreadHost(self._engine.storage.reader, self._knobs)

    def _give_up(self, host: Host, number: int, answer: asyncio.Future[Path]) -> None:
        """Nobody waits any more: stop the work, and take its result away when there is one after all."""
        answer.add_done_callback(_discard)
        if not answer.done():
            host.cancel(number)


def _take(path: Path) -> bytes:
    octets = path.read_bytes()
    path.unlink()
    return octets


def _discard(answer: asyncio.Future[Path]) -> None:
    if not answer.cancelled() and answer.exception() is None:
        with suppress(OSError):
            answer.result().unlink(missing_ok=True)


def _scratch() -> Path:
    return Path(tempfile.mkdtemp(prefix="cellstore-analytics-"))


class ThreadHost:
    """An analyst in threads of this process."""

    def __init__(self, open_reader: Callable[[], Reader], knobs: Knobs) -> None:
        self.dead = False
        self._scratch = _scratch()
        self._knobs, self._open_reader = knobs, open_reader
        self._pool = ThreadPoolExecutor(knobs.analytics_threads, thread_name_prefix="cellstore-analytics")
        self._made: asyncio.Future[Analyst] = asyncio.ensure_future(self._in_thread(self._make))
        self._running: set[int] = set()

    def ask(self, number: int, op: str, params: dict[str, Any]) -> asyncio.Future[Path]:
        """The file with the answer, some time."""
        return asyncio.ensure_future(self._run(number, op, params))

    def cancel(self, number: int) -> None:
        """Give up a question."""
        if self._made.done() and self._made.exception() is None:
            self._made.result().cancel(number)

    async def close(self) -> None:
        """End what runs, and clear up."""
        self.dead = True
        for number in self._running:
            self.cancel(number)
        await asyncio.to_thread(self._pool.shutdown)
        if self._made.done() and self._made.exception() is None:
            await asyncio.to_thread(self._made.result().close)
        await asyncio.to_thread(shutil.rmtree, self._scratch, ignore_errors=True)

    async def _run(self, number: int, op: str, params: dict[str, Any]) -> Path:
        analyst = await asyncio.shield(self._made)
        self._running.add(number)
        try:
            path: Path = await self._in_thread(analyst.run, op, params, number)
            return path
        finally:
            self._running.discard(number)

    def _in_thread(self, work: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().run_in_executor(self._pool, work, *args)

    def _make(self) -> Analyst:
        from cellstore.analytics.analyst import Analyst

        return Analyst(self._open_reader, self._scratch, self._knobs)


class ProcessHost:
    """An analyst in a process of its own. Use `start`."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        words: IO[bytes],
        scratch: Path,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self.dead = False
        self.pid = process.pid
        self._process, self._words, self._scratch = process, words, scratch
        self._reader, self._writer = streams
        self._waiting: dict[int, asyncio.Future[Path]] = {}
        self._why = ""  # we killed it, if we did
        self._listening = asyncio.get_running_loop().create_task(self._listen())

    @classmethod
    async def start(cls, path: str, knobs: Knobs) -> ProcessHost:
        """A new worker on the store file at `path`."""
        ours, theirs = socket.socketpair()
        words = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the process
        scratch = await asyncio.to_thread(_scratch)
        try:
            process = await asyncio.to_thread(_spawn, theirs.fileno(), words.fileno())
        finally:
            theirs.close()
        streams = await asyncio.open_connection(sock=ours, limit=_ANSWER_BYTES_MAX)
        host = cls(process, words, scratch, streams)
        host._send({"path": os.path.abspath(path), "scratch": str(scratch), "knobs": asdict(knobs)})  # noqa: PTH100
        return host

    def ask(self, number: int, op: str, params: dict[str, Any]) -> asyncio.Future[Path]:
        """The file with the answer, some time."""
        answer: asyncio.Future[Path] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        if self.dead:
            self._fail(number)
        else:
            self._send({"id": number, "op": op, "params": params})
        return answer

    def cancel(self, number: int) -> None:
        """Give up a question; a worker that does not heed it is killed."""
        self._send({"cancel": number})
        asyncio.get_running_loop().call_later(CANCEL_GRACE_S, self._insist, number)

    async def close(self) -> None:
        """Hang up, wait for the process to end, and clear up."""
        self.dead = True
        self._writer.close()
        await asyncio.to_thread(_end, self._process)
        with suppress(ConnectionError, asyncio.CancelledError):
            await self._listening
        self._words.close()
        await asyncio.to_thread(shutil.rmtree, self._scratch, ignore_errors=True)

    def _send(self, message: dict[str, Any]) -> None:
        if not self._writer.is_closing():
            self._writer.write(orjson.dumps(message) + b"\n")

    def _insist(self, number: int) -> None:
        if number in self._waiting and not self.dead:
            self._why = "it was ended because it did not stop a statement that had been given up"
            self._process.kill()

    async def _listen(self) -> None:
        """Hand answers to those who wait; at the end of the process tell them all."""
        try:
            while line := await self._reader.readline():
                message = orjson.loads(line)
                answer = self._waiting.pop(message["id"], None)
                if answer is None or answer.done():
                    continue
                if "error" in message:
                    answer.set_exception(unpack_error(message["error"]))
                else:
                    answer.set_result(self._scratch / message["file"])
        except OSError:
            pass  # as good as EOF
        finally:
            self.dead = True
            self._writer.close()
            await asyncio.to_thread(_end, self._process)
            for number in list(self._waiting):
                self._fail(number)

    def _fail(self, number: int) -> None:
        answer = self._waiting.pop(number)
        if not answer.done():
            answer.set_exception(TransientError(f"the analytics worker is gone: {self._epitaph()}; ask again"))
            answer.exception()  # somebody may have given up on it

    def _epitaph(self) -> str:
        code = self._process.returncode
        if self._why:
            return self._why
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            return f"it was ended by {name}{', perhaps for lack of memory' if name == 'SIGKILL' else ''}"
        last = os.pread(self._words.fileno(), 1 << 16, 0).decode(errors="replace").strip().splitlines()[-1:]
        return f"it ended with status {code}{f' ({last[0]})' if last else ''}"


def _spawn(door: int, words: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "cellstore.analytics.worker", str(door)],
        pass_fds=(door,),
        stdin=subprocess.DEVNULL,
        stdout=words,
        stderr=words,  # what a process that does not come up has to say
        start_new_session=True,  # Ctrl-C in the server's terminal is not for it
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process that has been hung up on; kill it when it does not end."""
    try:
        process.wait(CLOSE_WAIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
