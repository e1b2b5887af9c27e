"""The process that runs actions: real time, real chance, I/O allowed.

An asyncio loop owns the socket. `async def` actions are tasks on it, plain ones run in threads. A nested call goes to
the host as an `ask` and comes back as a `reply`, so an action reaches data exactly as any client does.
"""

from __future__ import annotations

import asyncio
import base64
import ctypes
import os
import socket
import threading
import time
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any

import orjson

from cellstore.deploy.unit import Unit
from cellstore.errors import CallerError, InvariantError, LimitExceeded
from cellstore.knobs import Knobs
from cellstore.runtime import calls, traces
from cellstore.runtime.calls import Message
from cellstore.runtime.capture import LogLines, current
from cellstore.runtime.context import ActionContext, check_arguments, check_result
from cellstore.runtime.execute import encoded_result, explain
from cellstore.runtime.loaded import Loaded, LoadedModules
from cellstore.runtime.outcome import Identity, Outcome
from cellstore.values.json import decode, dumps
from cellstore.values.value import check_value
from cellstore.web import Head, Request, Response, octets

PIECE_BYTES = 1 << 18  # of a response on its way to the host
PIECES_MAX = 8  # on their way at once
REPORT_EVERY_S = 0.05  # progress is for eyes

SendPiece = Callable[["Head | bytes"], Coroutine[Any, Any, None]]
"""Sends the head of a response or a piece of its body; returns when the next may come."""


class Cancelled(BaseException):
    """Raised into the thread of an action that was cancelled or ran out of time."""


class ActionRun:
    """One running action: its thread or task, and the futures of its nested calls."""

    def __init__(self, loaded: Loaded, args: dict[str, Any], context: ActionContext, lines: LogLines) -> None:
        self.loaded = loaded
        self.args = args
        self.context = context
        self.lines = lines
        self.thread_id: int | None = None
        self.task: asyncio.Task[Any] | None = None

    async def run(self) -> Any:
        """Call the function where it belongs; the checked result."""
        from cellstore.functions import running

        current.set(self.lines)
        running.set(self.context)
        if self.loaded.is_async:
            args = check_arguments(self.loaded, self.args)
            return check_result(self.loaded, await self.loaded.fn(self.context, **args))
        return await in_thread(self._in_thread)

    def _in_thread(self) -> Any:
        self.thread_id = threading.get_ident()
        args = check_arguments(self.loaded, self.args)
        return check_result(self.loaded, self.loaded.fn(self.context, **args))

    def cancel(self) -> None:
        """Ask it to stop: a task is cancelled, a thread gets an exception at its next bytecode."""
        if self.loaded.is_async and self.task is not None:
            self.task.cancel()
        elif self.thread_id is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.thread_id), ctypes.py_object(Cancelled))


class HttpRun(ActionRun):
    """A running HTTP action: it gets the request, and its response is sent as it is made."""

    def __init__(
        self, loaded: Loaded, request: Request, context: ActionContext, lines: LogLines, send: SendPiece, body_max: int
    ) -> None:
        super().__init__(loaded, {}, context, lines)
        self._request = request
        self._send = send
        self._body_max = body_max
        self._sent = 0
        self._loop = asyncio.get_running_loop()

    async def run(self) -> Any:
        """Call the function, send what it answers. Errors: ValidationError, LimitExceeded for the body."""
        from cellstore.functions import running

        current.set(self.lines)
        running.set(self.context)
        if self.loaded.is_async:
            response = Response.of(await self.loaded.fn(self.context, self._request))
            await self._send_all(response)
        else:
            response = await in_thread(self._in_thread)
            if response is not None:
                await self._send_all(response)

    def _in_thread(self) -> Any:
        """The response, unless its body is made here, in this thread, and has been sent."""
        self.thread_id = threading.get_ident()
        response = Response.of(self.loaded.fn(self.context, self._request))
        if not isinstance(response.body, Iterable) or isinstance(response.body, str | bytes):
            return response
        self._wait(self._send(response.head))
        for piece in response.body:
            self._wait(self._send_octets(octets(piece)))
        return None

    def _wait(self, sending: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(sending, self._loop).result()

    async def _send_all(self, response: Response) -> None:
        body = response.body
        if body is None or isinstance(body, str | bytes):
            await self._send_whole(response, octets(body or b""))
            return
        await self._send(response.head)
        if isinstance(body, AsyncIterable):
            async for piece in body:
                await self._send_octets(octets(piece))
        else:
            for piece in body:
                await self._send_octets(octets(piece))

    async def _send_whole(self, response: Response, data: bytes) -> None:
        self._check_size(len(data))
        await self._send(response.head)
        await self._send_octets(data)

    async def _send_octets(self, data: bytes) -> None:
        self._check_size(self._sent + len(data))
        self._sent += len(data)
        for at in range(0, len(data), PIECE_BYTES):
            await self._send(data[at : at + PIECE_BYTES])

    def _check_size(self, size: int) -> None:
        if size > self._body_max:
            raise LimitExceeded(
                f"the response of {self.loaded.path} is more than {self._body_max:,} bytes (knob http_body_bytes)",
                knob="http_body_bytes",
                limit=self._body_max,
                used=size,
            )


class Window:
    """Pieces of a response on their way to the host; no more at once than it can hold."""

    def __init__(self, number: int, put: Callable[[Message], None]) -> None:
        self._number = number
        self._put = put
        self._free = asyncio.Semaphore(PIECES_MAX)

    async def send(self, piece: Head | bytes) -> None:
        """Send one, when its turn has come."""
        await self._free.acquire()
        if isinstance(piece, Head):
            self._put(["head", self._number, piece.status, piece.fields, piece.length])
        else:
            self._put(["piece", self._number, base64.b64encode(piece).decode()])

    def left(self) -> None:
        """One has left the host."""
        self._free.release()


async def in_thread(work: Any) -> Any:
    """Run `work()` in a fresh thread that sees this task's context variables.

    A thread per action: pools would cap how many may wait at once, and waiting is what actions do.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()
    context = copy_context()

    def finish(value: Any, error: BaseException | None) -> None:
        if not done.done():
            done.set_result((value, error))

    def body() -> None:
        value, error = None, None
        try:
            value = context.run(work)
        except BaseException as failure:  # noqa: BLE001 — the thread ends here; its error is handed over
            error = failure
        try:
            loop.call_soon_threadsafe(finish, value, error)
        except RuntimeError:
            pass  # the loop has ended; nobody waits

    threading.Thread(target=body, daemon=True, name="action").start()
    value, error = await done
    if error is not None:
        raise error
    return value


async def run_action(run: ActionRun, modules: LoadedModules, knobs: Knobs) -> Outcome:
    """An action to its outcome."""
    began = time.perf_counter()
    try:
        run.task = asyncio.current_task()
        value = await run.run()
        outcome = Outcome(True, encoded_result(value, run.loaded.path, knobs))
    except (Cancelled, asyncio.CancelledError) as error:
        info = explain(error, run.loaded.path, modules, knobs)
        info.code, info.message = "Cancelled", f"{run.loaded.path} was cancelled"
        outcome = Outcome(False, error=info)
    except BaseException as error:  # noqa: BLE001 — here the call ends, whatever it raised is its outcome
        outcome = Outcome(False, error=explain(error, run.loaded.path, modules, knobs))
    outcome.logs = run.lines.finish()
    outcome.duration_ms = (time.perf_counter() - began) * 1000
    return outcome


class Reports:
    """Passes on how far an action is, at most every few milliseconds; the end always."""

    def __init__(self, tell: Callable[[float, float | None, str], None]) -> None:
        self._tell = tell
        self._told_at = 0.0

    def __call__(self, done: float, total: float | None, note: str) -> None:
        now = time.monotonic()
        if now - self._told_at >= REPORT_EVERY_S or done == total:
            self._told_at = now
            self._tell(done, total, note)


class ActionWorker:
    """The loop of an action process."""

    def __init__(self, sock: socket.socket, settings: dict[str, Any]) -> None:
        self._sock = sock
        self._knobs = Knobs(**settings["knobs"])
        self._modules = LoadedModules()
        self._reader = calls.FrameReader()
        self._out: list[Message] = []
        self._outgoing = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._runs: dict[int, ActionRun] = {}
        self._windows: dict[int, Window] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._asked: dict[int, Future[Outcome]] = {}
        self._last_ask = 0
        self._lock = threading.Lock()  # asks come from any thread

    async def run(self) -> None:
        """Until the host hangs up."""
        self._send(["hello", os.getpid()])
        sender = asyncio.create_task(self._sender())
        while data := await self._loop.sock_recv(self._sock, calls.RECEIVE_BYTES):
            for message in self._reader.feed(data):
                self._handle(message)
        sender.cancel()

    def _send(self, message: Message) -> None:
        self._out.append(message)
        self._outgoing.set()

    def _from_any_thread(self, message: Message) -> None:
        self._loop.call_soon_threadsafe(self._send, message)

    async def _sender(self) -> None:
        while True:
            await self._outgoing.wait()
            self._outgoing.clear()
            messages, self._out = self._out, []
            await self._loop.sock_sendall(self._sock, calls.frame(messages))

    def _handle(self, message: Message) -> None:
        match message[0]:
            case "call":
                self._start(message)
            case "http":
                self._start_http(message)
            case "more":
                if message[1] in self._windows:
                    self._windows[message[1]].left()
            case "cancel":
                if message[1] in self._runs:
                    self._runs[message[1]].cancel()
            case "reply":
                self._asked.pop(message[1]).set_result(calls.outcome_from_wire(message[2]))
            case "unit":
                self._load(message[1])
            case "forget":
                self._modules.forget(message[1])
            case "gen" | "lane" | "at":
                pass  # the lane is not for actions
            case tag:
                raise InvariantError(f"an action worker was sent {tag!r}, which it does not know")

    def _load(self, wire: dict[str, Any]) -> None:
        unit = Unit.from_json(wire)
        error = None
        try:
            self._modules.install(unit)
        except BaseException as failure:  # noqa: BLE001 — module code may raise anything; the deployer is told
            text = traces.user_traceback(failure, lambda name: name in unit.sources, unit.cells)
            error = f"{type(failure).__name__}: {failure}", text
        self._send(["loaded", unit.module, unit.hash, error])

    def _start(self, message: Message) -> None:
        _, number, _, _, kind, path, args, options = message
        wrapped, identity = options[0], options[1]
        try:
            loaded = self._modules.find(path, kind)
        except CallerError as error:
            self._done(number, Outcome.failed(error, function=path))
            return
        context = self._context(number, loaded, identity)
        self._begin(number, ActionRun(loaded, decode(args) if wrapped else args, context, self._lines(number)))

    def _start_http(self, message: Message) -> None:
        _, number, path, (method, url, route, headers), body, identity = message
        try:
            loaded = self._modules.find(path, "http")
        except CallerError as error:
            self._done(number, Outcome.failed(error, function=path))
            return
        request = Request(method, url, headers, base64.b64decode(body), path=route)
        window = self._windows[number] = Window(number, self._send)
        context = self._context(number, loaded, identity)
        limit = self._knobs.http_body_bytes
        self._begin(number, HttpRun(loaded, request, context, self._lines(number), window.send, limit))

    def _lines(self, number: int) -> LogLines:
        return LogLines(self._knobs, lambda line: self._from_any_thread(["log", number, line]))

    def _begin(self, number: int, run: ActionRun) -> None:
        self._runs[number] = run
        task = asyncio.create_task(self._run(number, run))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, number: int, run: ActionRun) -> None:
        inner = asyncio.create_task(run_action(run, self._modules, self._knobs))
        outcome = await inner
        del self._runs[number]
        self._windows.pop(number, None)
        self._done(number, outcome)

    def _done(self, number: int, outcome: Outcome) -> None:
        self._send(["done", number, calls.outcome_to_wire(outcome), None])

    def _context(self, number: int, loaded: Loaded, identity: Identity | None) -> ActionContext:
        def ask(kind: str, path: str, args: dict[str, Any]) -> Future[Outcome]:
            answer: Future[Outcome] = Future()
            with self._lock:
                self._last_ask += 1
                ask_id = self._last_ask
                self._asked[ask_id] = answer
            check_value(args)
            text = dumps(args)
            self._from_any_thread(["ask", ask_id, number, kind, path, orjson.Fragment(text), [b'"$' in text]])
            return answer

        report = Reports(lambda *far: self._from_any_thread(["progress", number, *far]))
        return ActionContext(loaded, identity, ask, lambda: time.time() * 1000, report)


def serve(sock: socket.socket, settings: dict[str, Any]) -> None:
    """Run the loop until the host hangs up. Threads of running actions die with the process."""
    sock.setblocking(False)

    async def main() -> None:
        await ActionWorker(sock, settings).run()

    asyncio.run(main())
    os._exit(0)
