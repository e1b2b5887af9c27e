"""Link: performs what the machine decides. SocketLink: over a WebSocket that comes back by itself.

A link lives on one loop thread; its machine is touched nowhere else. Other threads call `request` and `watch`, which
hand over to the loop and return at once.

    user thread ── call_soon ──▶ machine ── effects ──▶ frames out, futures settled, watches told
                                    ▲
    socket ── text ─────────────────┘

    connecting ──▶ connected ──▶ reconnecting ──▶ connected …      closed: by `close`, or because dialling again
                                                                    cannot help (`problem` says why)

Order:     futures and watches are told in the machine's order, on the loop thread; they must not block it.
Errors:    a lost connection is no error: state says "reconnecting", mutations wait and are sent again, actions in
           flight fail with Disconnected. `problem` holds the reason of the last failed attempt.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from cellstore.client.loop import LoopThread
from cellstore.client.machine import Effect, Machine, Progressed, Restart, Send, Settled, Stepped, Stop
from cellstore.client.optimism import Optimism, Update
from cellstore.client.results import QueryResult
from cellstore.client.wire import Arguments, Failure, Kind, Outcome, encode_frame, sealed
from cellstore.errors import CellstoreError, Disconnected, InvariantError, LimitExceeded, NotFound, Unauthenticated
from cellstore.knobs import DEFAULTS
from cellstore.values import json as native

LinkState = Literal["connecting", "connected", "reconnecting", "closed"]

OnProgress = Callable[[float, "float | None", str], None]
"""Told how far an action is: done, total if known, note."""

BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 10.0  # a laptop that wakes up should not wait longer than its owner
OPEN_TIMEOUT_S = 20.0
PING_INTERVAL_S = 20.0
PING_TIMEOUT_S = 60.0  # one long C call that holds the interpreter silences both ends for seconds; that is no death
CLOSE_TOO_BIG = 1009
CLOSES_THAT_REPEAT = (1008, 1009, 1011, 1013)  # the server does not want what we say: say it again less and less often


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is and what to show at its door.

    `url` is the Jupyter server's base URL with a trailing slash; `headers` carry the token or the kernel secret;
    `rung` says how the address was found.
    """

    url: str
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    rung: str = "given"
    root_dir: str = ""

    @property
    def socket_url(self) -> str:
        """The sync endpoint."""
        return "ws" + self.url.removeprefix("http") + "cellstore/api/sync"


class Watch:
    """One subscriber's end of a live query; `deliver` is called on the loop thread and must not block."""

    def __init__(self, link: Link, deliver: Callable[[QueryResult], None]) -> None:
        self._link, self.deliver = link, deliver
        self.query_id: int | None = None  # set on the loop thread
        self.on_state: Callable[[], None] | None = None  # the link's state changed; as `deliver`
        self.on_step: Callable[[], None] | None = None  # every watch has heard of the newest moment; as `deliver`

    def close(self) -> None:
        """Hear no more."""
        self._link.unwatch(self)


class Link:
    """A client machine and the loop it runs on, without saying what carries the frames."""

    def __init__(self, loop: LoopThread) -> None:
        self.thread = loop
        self.state: LinkState = "connecting"
        self.problem: CellstoreError | None = None
        self.on_state: list[Callable[[LinkState], None]] = []  # called on the loop thread
        self._machine = Machine(str(uuid.uuid4()), now_ms=lambda: time.time_ns() // 1_000_000)
        self._waiting: dict[int, Future[Outcome]] = {}
        self._ids: dict[Future[Outcome], int] = {}
        self._watches: dict[int, list[Watch]] = {}
        self._optimism = Optimism(self._machine)
        self._progress: dict[int, OnProgress] = {}  # by request id

    # called from any thread

    @property
    def is_closed(self) -> bool:
        """Is this over for good? In a forked child it is."""
        return self.state == "closed" or not self.thread.is_usable

    def check_process(self) -> None:
        """Errors: Disconnected in a forked child."""
        self.thread.check_process()

    @property
    def ts(self) -> int:
        """The moment everything this link shows is valid at; 0 before the first transition."""
        return self._machine.results.ts

    def request(
        self, kind: Kind, path: str, args: dict[str, Any], on_progress: OnProgress | None = None
    ) -> Future[Outcome]:
        """Call a mutation or action. The future ends when its effects are visible here, or it failed.

        `on_progress` hears, on the loop thread, how far an action is.

        Errors: Disconnected when the link is closed; ValidationError when an argument is no stored value.
        """
        future: Future[Outcome] = Future()
        self.thread.call_soon(self._request, kind, path, sealed(args), future, on_progress)
        return future

    def enqueue(
        self, path: str, args: dict[str, Any], update: Update | None = None
    ) -> tuple[Future[Outcome], Future[None]]:
        """Call a mutation, its guessed effects shown until the real ones are, or it failed.

        Returns the future of `request`, and one that ends when the guess is shown, or is in error as `update` raised;
        then nothing was called. Errors: as `request`.
        """
        future: Future[Outcome] = Future()
        shown: Future[None] = Future()
        self.thread.call_soon(self._enqueue, path, sealed(args), update, future, shown)
        return future, shown

    def progress(self, future: Future[Outcome]) -> str:
        """Where a request is: waiting (for a connection), sent, answered (not visible yet), done."""
        request_id = self._ids.get(future)
        request = None if request_id is None else self._machine.requests.get(request_id)
        if request is None:
            return "done" if future.done() else "waiting"
        return request.state

    def stop(self, future: Future[Outcome]) -> None:
        """Have a running action stopped; the future ends as ever, with `Cancelled` if that came in time."""
        self.thread.call_soon(self._stop_action, future)

    def abandon(self, future: Future[Outcome]) -> Future[bool]:
        """The caller stopped waiting: it is never sent again, an action that runs is stopped. True when it may have
        happened all the same."""
        in_doubt: Future[bool] = Future()
        self.thread.call_soon(self._abandon, future, in_doubt)
        return in_doubt

    def watch(self, path: str, args: dict[str, Any], deliver: Callable[[QueryResult], None]) -> Watch:
        """Follow a query. `deliver` gets every new result, on the loop thread. Errors: as `request`."""
        watch = Watch(self, deliver)
        self.thread.call_soon(self._watch, watch, path, native.loads(native.dumps(args)))
        return watch

    def unwatch(self, watch: Watch) -> None:
        """End a watch; again is fine, and so is a link that is gone."""
        if self.thread.is_usable:
            self.thread.call_soon(self._unwatch, watch)

    def close(self) -> None:
        """End the link; whoever still waits gets Disconnected. Again is fine."""
        if self.thread.is_usable and self.state != "closed":
            self.thread.run(self._close())

    # on the loop thread

    def _send(self, text: str) -> None:
        """Write one frame; provided by what carries the frames."""
        raise NotImplementedError

    def _drop(self, reason: str) -> None:
        """Give up the present connection and dial again."""
        raise NotImplementedError

    async def _close(self) -> None:
        self._stop(Disconnected("this connection was closed; connect again with cs.connect() or cs.open()"))

    def _request(
        self, kind: Kind, path: str, args: Arguments, future: Future[Outcome], on_progress: OnProgress | None
    ) -> None:
        if self.state == "closed":
            future.set_exception(self.problem or Disconnected())
            return
        request_id, effects = self._machine.request(kind, path, args)
        self._waiting[request_id], self._ids[future] = future, request_id
        if on_progress is not None:
            self._progress[request_id] = on_progress
        self._perform(effects)

    def _enqueue(
        self,
        path: str,
        args: Arguments,
        update: Update | None,
        future: Future[Outcome],
        shown: Future[None],
    ) -> None:
        if self.state == "closed":
            future.set_exception(self.problem or Disconnected())
            shown.set_result(None)
            return
        if update is not None:
            try:
                self._optimism.try_out(update)
            except Exception as error:  # noqa: BLE001 - user code; whoever called hears of it
                shown.set_exception(error)
                return
        request_id, effects = self._machine.request("mutation", path, args)
        self._waiting[request_id], self._ids[future] = future, request_id
        if update is not None:
            self._tell(self._optimism.begin(request_id, update))
        shown.set_result(None)
        self._perform(effects)

    def _stop_action(self, future: Future[Outcome]) -> None:
        if future in self._ids:
            self._perform(self._machine.stop(self._ids[future]))

    def _abandon(self, future: Future[Outcome], in_doubt: Future[bool]) -> None:
        request_id = self._ids.pop(future, None)
        if request_id is None:
            in_doubt.set_result(True)
            return
        del self._waiting[request_id]
        self._perform(self._machine.stop(request_id))
        self._tell(self._optimism.settle({}, [request_id]))
        in_doubt.set_result(self._machine.abandon(request_id))
        if not future.done():  # whoever else waits for it must not do so for ever
            future.set_result(Outcome(failure=Failure("Cancelled", "the call was given up before it was answered")))

    def _watch(self, watch: Watch, path: str, args: dict[str, Any]) -> None:
        watch.query_id, effects = self._machine.subscribe(path, args)
        self._watches.setdefault(watch.query_id, []).append(watch)
        known = self._optimism.shown(watch.query_id) or self._machine.results.get(watch.query_id)
        if known is not None:
            watch.deliver(known)
            self.thread.loop.call_soon(self._stepped)  # behind the other watches of a set
        self._perform(effects)

    def _unwatch(self, watch: Watch) -> None:
        watches = self._watches.get(watch.query_id, []) if watch.query_id is not None else []
        if watch not in watches or watch.query_id is None:
            return
        watches.remove(watch)
        if not watches:
            del self._watches[watch.query_id]
        self._perform(self._machine.unsubscribe(watch.query_id))

    def _opened(self) -> None:
        self._set_state("connected")
        self.problem = None
        self._perform(self._machine.opened())

    def _received(self, text: str | bytes) -> None:
        self._perform(self._machine.received(text))

    def _lost(self, reason: str) -> None:
        if self.state != "closed":
            self._set_state("reconnecting" if self._machine.connection_count or self._machine.is_open else "connecting")
        self._perform(self._machine.lost(reason))

    def _perform(self, effects: list[Effect]) -> None:
        settled = [effect.request_id for effect in effects if isinstance(effect, Settled)]
        if settled and not any(isinstance(effect, Stepped) for effect in effects):
            self._tell(self._optimism.settle({}, settled))
        for effect in effects:
            match effect:
                case Send(frame):
                    self._send(encode_frame(frame))
                case Stepped(_, changed):
                    self._tell(self._optimism.settle(changed, settled))
                case Settled(request_id, outcome):
                    self._settle(request_id, outcome)
                case Progressed(request_id, done, total, note):
                    if request_id in self._progress:
                        self._progress[request_id](done, total, note)
                case Restart(reason):
                    self._drop(reason)
                case Stop(error):
                    self._stop(error)

    def _tell(self, changed: dict[int, QueryResult]) -> None:
        """Show what differs from what was shown: every watch first, then those who follow whole steps."""
        for query_id, result in changed.items():
            for watch in tuple(self._watches.get(query_id, ())):
                watch.deliver(result)
        if changed:
            self._stepped()

    def _stepped(self) -> None:
        for watches in tuple(self._watches.values()):
            for watch in tuple(watches):
                if watch.on_step is not None:
                    watch.on_step()

    def _settle(self, request_id: int, outcome: Outcome) -> None:
        self._progress.pop(request_id, None)
        future = self._waiting.pop(request_id, None)
        if future is not None:
            del self._ids[future]
            if not future.cancelled():
                future.set_result(outcome)

    def _stop(self, error: CellstoreError) -> None:
        self.problem = error
        self._set_state("closed")
        waiting, self._waiting, self._ids = self._waiting, {}, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(error)
        self._perform(self._machine.lost("closed"))

    def _set_state(self, state: LinkState) -> None:
        if state != self.state:
            self.state = state
            for listener in tuple(self.on_state):
                listener(state)
            for watch in [watch for watches in tuple(self._watches.values()) for watch in watches]:
                if watch.on_state is not None:
                    watch.on_state()


class SocketLink(Link):
    """A link over a WebSocket.

    `resolve` gives the address; it is asked before every attempt, because a restarted server may be elsewhere and
    carry another secret. It may block (it runs on a helper thread) and may raise a CellstoreError.
    """

    def __init__(self, loop: LoopThread, resolve: Callable[[], Address], deployment: str = "default") -> None:
        super().__init__(loop)
        self._resolve, self._deployment = resolve, deployment
        self._outgoing: asyncio.Queue[str] = asyncio.Queue()
        self._socket: Any = None
        self._last_url = ""
        self._was_good = False  # the last connection served until the network broke it: dial again at once
        self._drop_reason = ""
        self._runner = loop.submit(self._run())

    def _send(self, text: str) -> None:
        self._outgoing.put_nowait(text)

    def _drop(self, reason: str) -> None:
        self._drop_reason = reason
        if self._socket is not None:
            self._socket.transport.abort()  # the reader ends, and with it this connection

    async def _close(self) -> None:
        await super()._close()
        if self._socket is not None:
            await self._socket.close()
        self._runner.cancel()

    def _stop(self, error: CellstoreError) -> None:
        super()._stop(error)
        if self._socket is not None:
            self._socket.transport.abort()

    async def _run(self) -> None:
        try:
            await self._stay_connected()
        except Exception as error:  # the task ends here; whoever waits must not wait for ever
            self._stop(InvariantError(f"the connection's task broke: {error!r}"))
            raise

    async def _stay_connected(self) -> None:
        failures = 0
        while not self.is_closed:
            reason, self._was_good = "Unreachable", False
            began = time.monotonic()
            try:
                reason = await self._connection()
            except (CellstoreError, OSError, TimeoutError) as error:
                self.problem = explain(error, self._last_url)
            self._lost(reason)
            lasted = time.monotonic() - began > BACKOFF_MAX_S
            failures = 1 if lasted or self._was_good else failures + 1
            if not self.is_closed:
                await asyncio.sleep(backoff(failures, random.random()))

    async def _connection(self) -> str:
        """One connection from dialling to its end; the reason it ended."""
        from websockets.asyncio.client import connect
        from websockets.exceptions import ConnectionClosed, InvalidHandshake

        address = await asyncio.get_running_loop().run_in_executor(None, self._resolve)
        self._last_url = address.url
        try:
            socket = await connect(
                address.socket_url,
                additional_headers={**address.headers, **deployment_header(self._deployment)},
                proxy=None,  # a proxy set for the outside world must not stand between us and loopback
                compression=None,
                max_size=DEFAULTS.frame_size_bytes,
                open_timeout=OPEN_TIMEOUT_S,
                ping_interval=PING_INTERVAL_S,
                ping_timeout=PING_TIMEOUT_S,
            )
        except InvalidHandshake as error:
            raise refused(error, address) from error
        self._socket, self._outgoing, self._drop_reason = socket, asyncio.Queue(), ""
        self._opened()
        heard = False
        writer = asyncio.ensure_future(self._write(socket, self._outgoing))
        try:
            async for text in socket:
                heard = True
                self._received(text)
        except ConnectionClosed as closed:
            self._check_size(closed)
        finally:
            writer.cancel()
            self._socket = None
            socket.transport.abort()
        self._was_good = heard and not self._drop_reason and socket.close_code not in CLOSES_THAT_REPEAT
        return self._drop_reason or socket.close_reason or f"closed with code {socket.close_code}"

    async def _write(self, socket: Any, outgoing: asyncio.Queue[str]) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            while True:
                await socket.send(await outgoing.get())
        except ConnectionClosed:
            pass  # the reader sees it too, and tells the machine

    def _check_size(self, closed: Any) -> None:
        if closed.sent is not None and closed.sent.code == CLOSE_TOO_BIG:
            self._stop(
                LimitExceeded(
                    f"the server sent a message above {DEFAULTS.frame_size_bytes:,} bytes (frame_size_bytes): a live "
                    "query returns too much. Return less, or read it once as a snapshot.",
                    knob="frame_size_bytes",
                    limit=DEFAULTS.frame_size_bytes,
                )
            )


def backoff(failures: int, chance: float) -> float:
    """Seconds to wait before attempt number `failures` + 1; `chance` in [0, 1) spreads clients apart."""
    ceiling = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(failures, 20))
    return ceiling * (0.5 + chance / 2)


def explain(error: BaseException, url: str) -> CellstoreError:
    """Why a server could not be reached, for the person who waits."""
    if isinstance(error, CellstoreError):
        return error
    what = "did not answer in time" if isinstance(error, TimeoutError) else f"cannot be reached ({error})"
    return Disconnected(
        f"the server at {url} {what}. Is it running? Start it with `jupyter lab` or `cellstore serve`, "
        "or work without one: cs.open('file.db')."
    )


def refused(error: Exception, address: Address) -> CellstoreError:
    """What a refused WebSocket upgrade means."""
    response = getattr(error, "response", None)
    said = (getattr(response, "body", None) or b"").decode(errors="replace") or error
    return refusal(getattr(response, "status_code", None), address) or Disconnected(
        f"the server at {address.url} did not accept a socket: {said}"
    )


def refusal(status: int | None, address: Address, reason: str = "") -> CellstoreError | None:
    """What an HTTP status at the door means, with the server's own reason; None when it has no special meaning."""
    if status in (401, 403):
        why = f" ({reason})" if reason else ""
        return Unauthenticated(
            f"the server at {address.url} refused our credentials{why}. "
            f"Pass the token it printed at start: cs.connect({address.url!r}, token='…')."
        )
    if status == 404:
        host = urlsplit(address.url).netloc
        return NotFound(
            f"the server at {address.url} runs, but without cellstore. Install cellstore in the environment of the "
            f"server at {host} and restart it (`jupyter server extension list` should show cellstore).",
            kind="server",
            name=address.url,
        )
    return None


def deployment_header(deployment: str) -> dict[str, str]:
    """Which deployment of the server is meant; without a name the server decides."""
    return {} if deployment == "default" else {"X-Cellstore-Deployment": deployment}
