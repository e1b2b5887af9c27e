"""The process that runs actions: real time, real chance, I/O allowed.

    host ◀──▶ the main thread's loop: the socket, nothing else
                 └─ a thread for every action; of an `async def` one with a loop of its own

So an action that blocks, or computes without end, holds up nobody but itself: not the socket, not the loop of another
one. A nested call goes to the host as an `ask` and comes back as a `reply`, so an action reaches data as any client does.
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
from cellstore.errors import CallerError, Disconnected, InvariantError, LimitExceeded
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
from cellstore.web import Arriving, Head, Request, Response, octets, waited

PIECE_BYTES = 1 << 18  # of a response on its way to the host
PIECES_MAX = 8  # on their way at once
REPORT_EVERY_S = 0.05  # progress is for eyes
INSIST_S = 0.3  # for a task that was cancelled to come to an `await`; then it is interrupted where it stands

SendPiece = Callable[["Head | bytes"], Coroutine[Any, Any, None]]
"""Sends the head of a response or a piece of its body; returns when the next may come."""


class Cancelled(BaseException):
    """Raised into the thread of an action that was cancelled or ran out of time."""


class ActionRun:
    """One running action in its thread. Made, run and cancelled on the loop that waits for it."""

    def __init__(self, loaded: Loaded, args: dict[str, Any], context: ActionContext, lines: LogLines) -> None:
        self.loaded = loaded
        self.args = args
        self.context = context
        self.lines = lines
        self._home = asyncio.get_running_loop()
        self._lock = threading.Lock()  # for the two below: a thread that is over must not be interrupted
        self._thread_id: int | None = None
        self._is_cancelled = False
        self._task: asyncio.Task[Any] | None = None

    async def run(self) -> Any:
        """Call the function; the checked result."""
        from cellstore.functions import running

        current.set(self.lines)
        running.set(self.context)
        return await in_thread(self._in_thread)

    def _in_thread(self) -> Any:
        with self._lock:
            if self._is_cancelled:
                raise Cancelled
            self._thread_id = threading.get_ident()
        try:
            return on_own_loop(self._task_of(self.awaited())) if self.loaded.is_async else self.called()
        finally:
            with self._lock:
                _interrupt(self._thread_id, None)  # what was meant for the function is not for what follows it
                self._thread_id = None

    async def _task_of(self, work: Coroutine[Any, Any, Any]) -> Any:
        self._task = asyncio.current_task()
        return await work

    def called(self) -> Any:
        """What a plain function comes to."""
        args = check_arguments(self.loaded, self.args)
        return check_result(self.loaded, self.loaded.fn(self.context, **args))

    async def awaited(self) -> Any:
        """What an `async def` function comes to."""
        args = check_arguments(self.loaded, self.args)
        return check_result(self.loaded, await self.loaded.fn(self.context, **args))

    def cancel(self) -> None:
        """Ask it to stop: a task is cancelled where it waits, a thread gets an exception at its next bytecode."""
        with self._lock:
            self._is_cancelled = True
            task = self._task if self._thread_id is not None else None
        if task is None:
            self._interrupt()
            return
        try:
            task.get_loop().call_soon_threadsafe(task.cancel)
        except RuntimeError:
            return  # its loop has closed: it is over
        self._home.call_later(INSIST_S, self._interrupt)

    def _interrupt(self) -> None:
        with self._lock:
            _interrupt(self._thread_id, Cancelled)


def _interrupt(thread_id: int | None, error: type[BaseException] | None) -> None:
    """Raise `error` in a thread; with None, take back what it has not met yet."""
    if thread_id is not None:
        exception = None if error is None else ctypes.py_object(error)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), exception)


def on_own_loop(work: Coroutine[Any, Any, Any]) -> Any:
    """Run `work` on a loop of this thread; tasks it leaves behind are cancelled, threads it started are not waited for."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(loop.create_task(work))
    finally:
        try:
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.wait(left))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()


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

    def called(self) -> None:
        """Call the function, send what it answers. Errors: ValidationError, LimitExceeded for the body."""
        response = Response.of(self.loaded.fn(self.context, self._request))
        wanted = self._wanted(response)
        if isinstance(wanted, AsyncIterable):
            on_own_loop(self._pass_on(response))
            return
        self._check_whole(response)
        waited(self._over(response.head))
        for piece in wanted:
            for part in self._parts(octets(piece)):
                waited(self._over(part))

    async def awaited(self) -> None:
        """As `called`."""
        await self._pass_on(Response.of(await self.loaded.fn(self.context, self._request)))

    async def _pass_on(self, response: Response) -> None:
        self._check_whole(response)
        await asyncio.wrap_future(self._over(response.head))
        wanted = self._wanted(response)
        if isinstance(wanted, AsyncIterable):
            async for piece in wanted:
                await self._pass_on_piece(piece)
        else:
            for piece in wanted:
                await self._pass_on_piece(piece)

    def _wanted(self, response: Response) -> Iterable[str | bytes] | AsyncIterable[str | bytes]:
        """The pieces of the body; none for who asks for the head alone, and would wait for an endless one in vain."""
        body = response.body
        if body is None or self._request.method == "HEAD":
            return ()
        return (body,) if isinstance(body, str | bytes) else body

    async def _pass_on_piece(self, piece: str | bytes) -> None:
        for part in self._parts(octets(piece)):
            await asyncio.wrap_future(self._over(part))

    def _over(self, piece: Head | bytes) -> Future[None]:
        """Send from this action's thread."""
        return asyncio.run_coroutine_threadsafe(self._send(piece), self._home)

    def _check_whole(self, response: Response) -> None:
        """Before the head is sent, which can be taken back by nobody."""
        if isinstance(response.body, str | bytes):
            self._check_size(len(octets(response.body)))

    def _parts(self, data: bytes) -> Iterable[bytes]:
        self._sent += len(data)
        self._check_size(self._sent)
        return (data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES))

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
        self._store: str = settings["store"]
        self._modules = LoadedModules(private=True)
        self._reader = calls.FrameReader()
        self._out: list[Message] = []
        self._outgoing = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._runs: dict[int, ActionRun] = {}
        self._windows: dict[int, Window] = {}
        self._arriving: dict[int, Arriving] = {}  # bodies of requests
        self._tasks: set[asyncio.Task[Any]] = set()
        self._asked: dict[int, Future[Outcome]] = {}
        self._last_ask = 0
        self._lock = threading.Lock()  # asks come from any thread

    async def run(self) -> None:
        """Until the host hangs up."""
        self._send(["hello", os.getpid()])
        sender = asyncio.create_task(self._sender())
        received = calls.receive_buffer()
        while size := await self._loop.sock_recv_into(self._sock, received):
            for message in self._reader.feed(received[:size]):
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
            case "body" | "end":
                if message[1] in self._arriving:
                    _arrived(self._arriving[message[1]], message)
            case "cancel":
                if message[1] in self._runs:
                    self._runs[message[1]].cancel()
            case "reply":
                answer = self._asked.pop(message[1])
                if answer.set_running_or_notify_cancel():  # else nobody waits for it any more
                    answer.set_result(calls.outcome_from_wire(message[2]))
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
            error = traces.message_of(failure), text
        self._send(["loaded", unit.module, unit.hash, error])

    def _start(self, message: Message) -> None:
        _, number, _, _, kind, path, args, options = message
        wrapped, identity, env = options
        try:
            loaded = self._modules.find(path, kind)
        except CallerError as error:
            self._done(number, Outcome.failed(error, function=path))
            return
        context = self._context(number, loaded, identity, env)
        self._begin(number, ActionRun(loaded, decode(args) if wrapped else args, context, self._lines(number)))

    def _start_http(self, message: Message) -> None:
        _, number, path, (method, url, route, headers), body, identity, env = message
        try:
            loaded = self._modules.find(path, "http")
        except CallerError as error:
            self._done(number, Outcome.failed(error, function=path))
            return
        content = self._arrive(number) if body is None else base64.b64decode(body)
        request = Request(method, url, headers, content, path=route, whole_max=self._knobs.http_body_bytes)
        window = self._windows[number] = Window(number, self._send)
        context = self._context(number, loaded, identity, env)
        limit = self._knobs.http_body_bytes
        self._begin(number, HttpRun(loaded, request, context, self._lines(number), window.send, limit))

    def _arrive(self, number: int) -> Arriving:
        arriving = self._arriving[number] = Arriving(lambda: self._from_any_thread(["took", number]))
        return arriving

    def _lines(self, number: int) -> LogLines:
        return LogLines(self._knobs, lambda line: self._from_any_thread(["log", number, line]), self._modules.cells)

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
        self._arriving.pop(number, None)
        self._done(number, outcome)

    def _done(self, number: int, outcome: Outcome) -> None:
        self._send(["done", number, calls.outcome_to_wire(outcome), None])

    def _context(self, number: int, loaded: Loaded, identity: Identity | None, env: dict[str, str]) -> ActionContext:
        def ask(kind: str, path: str, args: dict[str, Any]) -> Future[Outcome]:
            answer: Future[Outcome] = Future()
            args = self._modules.asked(kind, path, args)
            with self._lock:
                self._last_ask += 1
                ask_id = self._last_ask
                self._asked[ask_id] = answer
            check_value(args)
            text = dumps(args)
            self._from_any_thread(["ask", ask_id, number, kind, path, orjson.Fragment(text), [b'"$' in text]])
            return answer

        report = Reports(lambda *far: self._from_any_thread(["progress", number, *far]))
        return ActionContext(loaded, identity, ask, lambda: time.time() * 1000, report, env, self._store, self._knobs)


def _arrived(arriving: Arriving, message: Message) -> None:
    """More of a request's body, or its end, or what became of it."""
    if message[0] == "body":
        arriving.feed(base64.b64decode(message[2]))
    else:
        arriving.end(None if message[2] is None else Disconnected(message[2]))


def serve(sock: socket.socket, settings: dict[str, Any]) -> None:
    """Run the loop until the host hangs up. Threads of running actions die with the process."""
    import resource

    sock.setblocking(False)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a loop takes three descriptors

    async def main() -> None:
        await ActionWorker(sock, settings).run()

    asyncio.run(main())
    os._exit(0)
