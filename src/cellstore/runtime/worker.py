"""`python -m cellstore.runtime.worker FD TRACE_FD`: the process that runs queries and mutations.

One thread, one loop: receive what is there, run it call by call on snapshots it reads by itself, answer in few full
frames. A read transaction on the store is kept for the calls of one batch and ended before the worker goes idle.

The lane     While this worker is the lane, its mutations run back to back on an overlay of their own writes, which the
             host has validated or will. `at` tells which of them the store holds by now. When one is refused the host
             ends the tenancy: it takes every call back and begins another with an empty overlay.
Late calls   A timer interrupts user code after the lane budget: everything finished so far is sent, and `slow` gives
             the calls behind it back to the host. A second interrupt, at the time budget, raises `OutOfTime`.
Imports      What a call imports for the first time is not its own computing: its time begins anew until that is done.
Death        The trace file begins with the id of the running call (8 bytes), so the host knows whom a dead worker took
             with it, and says how often its time has begun anew; after a page follows stderr, faulthandler's dumps included.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import mmap
import os
import resource
import signal
import socket
import sys
import time
from collections import deque
from pathlib import Path
from types import FrameType
from typing import Any

from cellstore.deploy.unit import Unit
from cellstore.errors import CellstoreError, InvariantError
from cellstore.knobs import Knobs
from cellstore.runtime import calls, capture, sandbox, traces, variables
from cellstore.runtime.calls import Message
from cellstore.runtime.execute import Call, Executor, OutOfTime, out_of_time_text
from cellstore.runtime.loaded import LoadedModules
from cellstore.runtime.nursery import AGAIN_AT
from cellstore.runtime.outcome import Outcome
from cellstore.transaction.bulk import parts_of, prepare_bulk
from cellstore.transaction.overlay import Overlay
from cellstore.transaction.requests import CommitRequest
from cellstore.transaction.worker_store import WorkerStore
from cellstore.values.ids import forget_ids
from cellstore.values.json import decode

_real_perf_counter = time.perf_counter
_real_thread_time = time.thread_time
_real_urandom = os.urandom
_real_setitimer = signal.setitimer
_trim_heap = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's

FLUSH_AFTER_S = 0.002  # answers wait this long for company while calls are queued,
FLUSH_MESSAGES = 4  # or until there are this many, and as many as still wait: with more, the host runs dry meanwhile
WALL_FACTOR = 2.0  # a call that waits for the processor may take this multiple of its budget
TRACE_BYTES = 8  # at the head of the trace file: the id of the running call
AGAIN_MAX = 30  # an import that never ends is ended as well


class Stopwatch:
    """The guards of a call: envelope on, timer armed. The timer ticks twice: `late`, then out of time."""

    def __init__(self, worker: Worker, envelope: sandbox.Envelope, knobs: Knobs) -> None:
        self._worker = worker
        self._envelope = envelope
        self._knobs = knobs
        self._call: Call | None = None
        self._is_late = False
        self._began = self._began_cpu = self._budget_s = 0.0
        self.fired = False
        signal.signal(signal.SIGALRM, self._tick)

    def enter(self, call: Call, seed: bytes) -> None:
        self._budget_s = self._knobs.query_time_s if call.kind == "query" else self._knobs.mutation_time_s
        self._began, self._began_cpu = _real_perf_counter(), _real_thread_time()
        self._call, self._is_late = call, False
        self._envelope.enter(call.kind, seed)
        _real_setitimer(signal.ITIMER_REAL, min(self._knobs.lane_budget_s, self._budget_s))

    def exit(self) -> None:
        if self._call is not None:
            self._call = None
            _real_setitimer(signal.ITIMER_REAL, 0)
            self._envelope.exit()

    def _tick(self, _signum: int, frame: FrameType | None) -> None:
        call = self._call
        if call is None:
            return
        if not self._is_late and not call.exclusive:
            if self._waits_for_the_processor():
                _real_setitimer(signal.ITIMER_REAL, self._knobs.lane_budget_s)
                return
            self._is_late = True
            self._worker.is_late(call)
        left = self._left_s()
        if left <= 0 and traces.is_importing(frame) and self._worker.begins_anew():
            self._began, self._began_cpu = _real_perf_counter(), _real_thread_time()
            left = self._budget_s
        if left > 0:
            _real_setitimer(signal.ITIMER_REAL, left)
            return
        # Again and again, in case user code catches BaseException; the host's kill comes soon after.
        _real_setitimer(signal.ITIMER_REAL, 0.1)
        self.fired = True
        raise OutOfTime(self._message(call, frame))

    def _waits_for_the_processor(self) -> bool:
        """Whether the wall clock ran but the call hardly did: handing it over would not help a busy machine."""
        used, wall = _real_thread_time() - self._began_cpu, _real_perf_counter() - self._began
        return used < self._knobs.lane_budget_s / 2 and wall < 5 * self._knobs.lane_budget_s

    def _left_s(self) -> float:
        """Seconds until the next look: the budget is the call's own computing time, within reason."""
        used = _real_thread_time() - self._began_cpu
        wall_left = WALL_FACTOR * self._budget_s - (_real_perf_counter() - self._began)
        left = min(self._budget_s - used, wall_left)
        return 0.0 if left < 0.001 else left

    def _message(self, call: Call, frame: FrameType | None) -> str:
        modules = self._worker.modules
        where = traces.user_line(frame, modules.is_users, modules.cells)
        return out_of_time_text(call.path, call.kind, self._budget_s, where)


class Worker:
    """The loop of a worker process."""

    def __init__(
        self, sock: socket.socket, trace: mmap.mmap, settings: dict[str, Any], is_forked: bool = False
    ) -> None:
        knobs = Knobs(**settings["knobs"])
        self._sock = sock
        self._idle_bytes = knobs.worker_idle_bytes
        self._trace = trace
        self._reader = calls.FrameReader()
        self._received = calls.receive_buffer()
        self._queue: deque[Message] = deque()
        self._out: list[Message] = []
        self._out_since = 0.0
        self._generation = 0
        self._is_forked = is_forked  # then another one is soon made, and shares its memory with its parent
        self._is_worn = False
        self.modules = LoadedModules(guarded=True)
        self._store = WorkerStore(settings["store"], random=_real_urandom, knobs=knobs)
        self._envelope = sandbox.install()
        self._stopwatch = Stopwatch(self, self._envelope, knobs)
        self._executor = Executor(
            self.modules, self._stopwatch, knobs, _real_urandom, self._store.request, settings["store"]
        )
        self._overlay: Overlay | None = None  # while this worker is the lane
        self._warm_up()

    def run(self) -> None:
        """Until the host hangs up, or this worker has to go."""
        self._out.append(["hello", os.getpid()])
        while not (self._stopwatch.fired or self._is_worn):
            if not self._queue:
                if not self._wait():
                    return
                continue
            self._handle(self._queue.popleft())
            if len(self._out) >= max(FLUSH_MESSAGES, len(self._queue)) or self._out_is_old():
                self._flush()
                self._poll()
        self._flush()  # a call was torn out of the middle of something: a fresh process is safer than this one

    def _warm_up(self) -> None:
        """Import and compile what the first calls would otherwise wait for."""
        transaction = self._store.begin()
        transaction.insert("warm_up", {"n": 1})
        transaction.freeze()
        self._store.release()

    # Socket

    def _wait(self) -> bool:
        """Idle: send what is there, hold no snapshot, sleep until something arrives."""
        self._flush()
        self._store.release()
        size = self._sock.recv_into(self._received)
        if size:
            self._receive(size)
            self._poll()
        return bool(size)

    def _poll(self) -> None:
        """Take what has arrived, without waiting."""
        while True:
            try:
                size = self._sock.recv_into(self._received, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            if not size:
                return  # the next wait sees the end too
            self._receive(size)

    def _receive(self, size: int) -> None:
        """Queue calls; what steers the queue takes effect at once. Every call sees all that was committed before it."""
        for message in self._reader.feed(self._received[:size]):
            match message[0]:
                case "gen":
                    self._generation = message[1]
                    self._queue = deque(m for m in self._queue if m[0] not in ("call", "bulk"))
                case "lane":
                    self._overlay = Overlay(message[1])
                    self._store.refresh()  # the lane before may have ended because this view was too old
                case "at":
                    if self._overlay is not None:
                        self._overlay.acknowledge(message[1], message[2])
                case _:
                    self._queue.append(message)
                    if not (message[0] == "call" and message[3]):
                        self._store.refresh()  # the lane moves its snapshot on when it is told

    def _flush(self) -> None:
        if self._out:
            data = calls.frame(self._out)
            self._out.clear()
            self._sock.sendall(data)

    def _out_is_old(self) -> bool:
        return bool(self._out) and _real_perf_counter() - self._out_since > FLUSH_AFTER_S

    def _send(self, message: Message) -> None:
        if not self._out:
            self._out_since = _real_perf_counter()
        self._out.append(message)

    def is_late(self, call: Call) -> None:
        """From the timer, inside user code: hand over everything but the running call."""
        self._send(["slow", call.id, self._generation])
        self._generation += 1
        self._overlay = None
        self._queue = deque(m for m in self._queue if m[0] not in ("call", "bulk"))
        self._flush()

    def begins_anew(self) -> bool:
        """From the timer: the running call imports something. Whether its time may begin anew once more."""
        again = self._trace[AGAIN_AT] + 1
        if again > AGAIN_MAX:
            return False
        self._trace[AGAIN_AT] = again
        return True

    def _note_running(self, number: int) -> None:
        """Tell the host, which looks at the trace file, what runs; 0 for nothing."""
        self._trace[:TRACE_BYTES] = number.to_bytes(TRACE_BYTES, "big")
        if self._trace[AGAIN_AT]:
            self._trace[AGAIN_AT] = 0

    # Messages

    def _handle(self, message: Message) -> None:
        match message[0]:
            case "call":
                self._call(message)
            case "bulk":
                self._bulk(message)
            case "unit":
                self._load(message[1], keep=True)
            case "try":
                self._load(message[1], keep=False)
            case "forget":
                self.modules.forget(message[1])
            case "tidy":
                self._tidy()
            case tag:
                raise InvariantError(f"a worker was sent {tag!r}, which it does not know")

    def _load(self, wire: dict[str, Any], *, keep: bool) -> None:
        unit = Unit.from_json(wire)
        error = None
        try:
            (self.modules if keep else LoadedModules()).install(unit)
        except BaseException as failure:  # noqa: BLE001 — module code may raise anything; the deployer is told
            text = traces.user_traceback(failure, lambda name: name in unit.sources, unit.cells)
            error = traces.message_of(failure), text
        if keep and error is None:
            self._envelope.settings.keep()  # what a module sets when it is loaded is there for all calls
        else:
            self._envelope.settings.put_back()
        self._send(["loaded" if keep else "tried", unit.module, unit.hash, error])

    def _call(self, message: Message) -> None:
        _, number, generation, lane_id, kind, path, args, options = message
        overlay = self._overlay
        if generation != self._generation or (lane_id and (overlay is None or overlay.lane != lane_id)):
            return  # taken back meanwhile
        wrapped, identity, ts, journal, request, job, parent, exclusive = options
        call = Call(
            number,
            kind,
            path,
            decode(args) if wrapped else args,
            identity,
            ts,
            journal,
            tuple(request) if request else None,
            job,
            parent,
            exclusive,
        )
        self._note_running(number)
        commit = None
        try:
            if kind == "query":
                outcome = self._query(call)
            else:
                outcome, commit = self._mutation(call, overlay if lane_id else None)
        except CellstoreError as error:  # not the function's: the snapshot is gone, a limit of the store
            outcome = Outcome.failed(error, function=path)
        self._note_running(0)
        self._send(["done", number, calls.outcome_to_wire(outcome), None if commit is None else commit.to_wire()])

    def _query(self, call: Call) -> Outcome:
        now_ns = self._now()
        return self._executor.query(call, self._store.begin(ts=call.ts, now_ms=now_ns / 1e6), now_ns)

    def _mutation(self, call: Call, overlay: Overlay | None) -> tuple[Outcome, CommitRequest | None]:
        now_ns = self._now()
        ran = self._executor.mutation(call, self._store.begin(overlay=overlay, now_ms=now_ns / 1e6), now_ns, overlay)
        return ran.outcome, ran.commit

    def _bulk(self, message: Message) -> None:
        _, number, generation, table, ndjson = message
        if generation != self._generation:
            return
        self._note_running(number)
        count = 0
        try:
            for part in parts_of(self._store.begin().catalog, table, ndjson.encode()):
                transaction = self._store.begin(now_ms=self._now() / 1e6)
                commit = prepare_bulk(transaction, table, part, first_row=count)
                self._send(["part", number, int(commit.result), commit.to_wire()])
                self._flush()
                count += int(commit.result)
            outcome = Outcome(True, b"%d" % count)
        except CellstoreError as error:
            outcome = Outcome.failed(error, function=f"insert into {table}")
        self._note_running(0)
        self._send(["done", number, calls.outcome_to_wire(outcome), None])
        self._flush()

    def _tidy(self) -> None:
        """Give back what earlier calls left at hand: pages of the store, ids, garbage, and what the allocator holds."""
        self._store.shrink()
        forget_ids()
        gc.collect()
        if _trim_heap is not None:
            _trim_heap(0)
        self._is_worn = self._is_forked and _own_bytes() > self._idle_bytes  # a fresh one is smaller

    def _now(self) -> int:
        """The wall clock, which the process then stands still at; in whole microseconds, so that all clocks agree."""
        now_ns = self._envelope.real_time_ns() // 1000 * 1000
        self._envelope.stand_at(now_ns)
        return now_ns


def _own_bytes() -> int:
    """Memory of this process that no other shares; 0 where the system does not say."""
    try:
        rollup = Path("/proc/self/smaps_rollup").read_bytes()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in rollup.splitlines() if line.startswith(b"Private_"))


def main(argv: list[str], *, is_forked: bool = False) -> None:
    """Serve the host at the other end of the inherited socket."""
    sock = socket.socket(fileno=int(argv[1]))
    trace_fd = int(argv[2])
    trace = mmap.mmap(trace_fd, mmap.PAGESIZE)
    faulthandler.enable(trace_fd)
    faulthandler.register(signal.SIGUSR1, trace_fd, all_threads=False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the server's terminal is the server's business
    settings = _first_message(sock)
    limit = settings["knobs"]["memory_bytes"]
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    capture.install()
    variables.install()
    if settings["role"] == "actions":
        from cellstore.runtime.action_worker import serve

        serve(sock, settings)
    else:
        _stand_back()
        worker = Worker(sock, trace, settings, is_forked)
        # What is loaded now stays; a call makes few cycles, and looking for them costs a tenth of its time.
        gc.freeze()
        gc.set_threshold(2_000, 20, 100)  # what waits to be found is memory that other workers do not share
        worker.run()


def _stand_back() -> None:
    """Let the host finish its turn when it wakes us, instead of taking its processor: everybody waits for the host."""
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):  # a container may forbid it, and only time is lost then
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _first_message(sock: socket.socket) -> dict[str, Any]:
    """The `start` message's settings; it comes alone."""
    size = int.from_bytes(_exactly(sock, calls.HEADER_BYTES), "big")
    [[tag, settings]] = calls.FrameReader().feed(size.to_bytes(calls.HEADER_BYTES, "big") + _exactly(sock, size))
    if tag != "start":
        raise InvariantError(f"the first message was {tag!r}")
    return dict(settings)


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            sys.exit(0)
        data += piece
    return data


if __name__ == "__main__":
    main(sys.argv)
