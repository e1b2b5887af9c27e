"""`python -m cellstore.runtime.nursery FD`: the parent of one environment's workers, which has everything loaded already.

    host ── ["fork"] + (socket, trace file) ──▶ fork ──▶ worker, at its first call in milliseconds
         ── ["preload", names] ──▶ import what deployed functions import

A worker that is forked shares the pages of what was loaded before; a started one reads and keeps its own. The parent does
nothing else: one thread, no store, no user function, no answers. What there is to tell stands in the child's trace file,
where the host looks anyway:

    bytes 0-8   the call that runs, written by the worker
          8-16  how it ended: 1 << 32 | exit status as Popen has it; 0 while it lives. Written before its number is free
         16-24  its process id

Invariant  forks happen with one thread only. Libraries that start threads when they are imported end the parent, which tells
           the host their names; the host then starts one that does without them.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
from pathlib import Path

ENDED_AT, PID_AT, AGAIN_AT = 8, 16, 24
ENDED = 1 << 32
UNSAFE = 3
MESSAGE_BYTES = 1 << 16


def main(argv: list[str]) -> None:
    """Serve the host at the other end of the inherited socket, until it hangs up."""
    control = socket.socket(fileno=int(argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    _load()
    traces: dict[int, int] = {}  # child to the file descriptor of its trace
    while True:
        ready, _, _ = select.select([control.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _reap(traces)
        if control.fileno() in ready:
            data, descriptors, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 2)
            if not data:
                return
            message = json.loads(data)
            if message[0] == "preload":
                _preload(control, message[1])
            elif not _fork(control, (woken, wake), traces, *descriptors):
                return


def _load() -> None:
    """Import and compile what every worker needs."""
    from cellstore.runtime import sandbox

    sandbox.import_time_machine()
    for name in (
        "cellstore.runtime.worker",
        "cellstore.runtime.action_worker",
        "cellstore.storage.sqlite",
        "cloudpickle",
        "pydantic",
        "apsw",
        "cellstore.client.connect",
        "zoneinfo",
        "decimal",
        "uuid",
        "secrets",
        "resource",
        "_posixshmem",
    ):
        importlib.import_module(name)
    from pydantic import TypeAdapter

    TypeAdapter(int)
    sandbox.look_around()
    if _threads() > 1:
        os._exit(1)
    _settle()


def _preload(control: socket.socket, names: list[str]) -> None:
    """Import libraries. When some of them leave threads running, they are named to the host, and it is over."""
    threaded = []
    threads = _threads()
    for name in names:
        try:
            importlib.import_module(name)
        except BaseException:  # noqa: BLE001 — its functions will say so where somebody listens
            pass
        if _threads() > threads:
            threaded.append(name)
            threads = _threads()
    if threaded:
        control.send(json.dumps(threaded).encode())
        os._exit(UNSAFE)
    _settle()


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208 — a count


def _settle() -> None:
    """Leave what is loaded alone, so that its pages stay shared."""
    gc.collect()
    gc.freeze()


def _fork(control: socket.socket, pipe: tuple[int, int], traces: dict[int, int], sock: int, trace: int) -> bool:
    """One worker. False in the child, when it is over."""
    pid = os.fork()
    if pid:
        os.pwrite(trace, pid.to_bytes(8, "big"), PID_AT)
        traces[pid] = trace
        os.close(sock)
        return True
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    control.close()
    for descriptor in (*pipe, *traces.values()):
        os.close(descriptor)
    os.setsid()
    os.dup2(trace, 2)
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()  # every action worker its own chance
    from cellstore.runtime import worker

    worker.main([sys.argv[0], str(sock), str(trace)], is_forked=True)
    return False


def _reap(traces: dict[int, int]) -> None:
    """Note how children ended; only then are their numbers free for others."""
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None:
            return
        code = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
        trace = traces.pop(found.si_pid, None)
        if trace is not None:
            os.pwrite(trace, (ENDED | (code & 0xFFFFFFFF)).to_bytes(8, "big"), ENDED_AT)
            os.close(trace)
        os.waitpid(found.si_pid, 0)


def is_possible() -> bool:
    """Whether workers can be forked here: on Linux. Elsewhere system libraries do not survive it."""
    return sys.platform == "linux" and Path("/proc/self/task").is_dir()


if __name__ == "__main__":
    main(sys.argv)
