"""How the host comes by worker processes: forked from a parent that has everything loaded, or started from nothing.

    Spawner.spawn(environment, socket, trace) ─▶ a process: pid, poll, wait, send_signal, kill, returncode

A parent (`nursery`) is kept for each Python environment, and started again when it is lost. Where it cannot be had, or dies
of itself twice, workers are plain subprocesses: slower to come, the same once there.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from cellstore.deploy.unit import Unit
from cellstore.runtime import nursery
from cellstore.runtime.registry import Environment

_POLL_S = 0.001
_DEATHS_MAX = 2
_THREADED = {"polars"}  # libraries that start threads when they are imported; others are found out
UNSEEN = 256  # the return code of one whose parent was gone when it ended


class Process(Protocol):
    """The part of a Popen that a link needs."""

    returncode: int | None

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def kill(self) -> None: ...


class Spawner:
    """Processes for the environments of one runner. On the host's loop."""

    def __init__(self, *, forks: bool = True) -> None:
        self._forks = forks and nursery.is_possible()
        self._parents: dict[Environment, Parent] = {}
        self._deaths: dict[Environment, int] = {}
        self._wanted: dict[Environment, set[str]] = {}
        self._threaded = set(_THREADED)

    def spawn(self, key: Environment, socket_fd: int, trace_fd: int) -> Process:
        """A worker process. Errors: OSError when none can be had."""
        parent = self._parent(key)
        if parent is not None:
            try:
                return parent.fork(socket_fd, trace_fd)
            except OSError:  # it has died this instant, or does not listen
                parent.close()
        return _start(key, "worker", (socket_fd, trace_fd), stderr=trace_fd)

    def preload(self, unit: Unit) -> None:
        """Have workers to come share the libraries that `unit` imports."""
        key = (unit.python, unit.cwd)
        new = libraries_of(unit) - self._threaded - self._wanted.get(key, set())
        if not (self._forks and new):
            return
        self._wanted.setdefault(key, set()).update(new)
        if key in self._parents:
            self._parents[key].preload(new)

    def _parent(self, key: Environment) -> Parent | None:
        parent = self._parents.get(key)
        if parent is not None:
            code = parent.process.poll()
            if code is None:
                return parent
            del self._parents[key]
            threaded = parent.last_words() if code == nursery.UNSAFE else []
            self._threaded.update(threaded)
            if not threaded:
                self._deaths[key] = self._deaths.get(key, 0) + 1
            parent.close()
        if not self._forks or self._deaths.get(key, 0) >= _DEATHS_MAX:
            return None
        parent = self._parents[key] = Parent(key)
        parent.preload(self._wanted.get(key, set()) - self._threaded)
        return parent

    def stop(self) -> None:
        """End the parents; their children have been told by whoever talks to them."""
        for parent in self._parents.values():
            parent.close()
        self._parents.clear()


class Parent:
    """A nursery process, as the host holds it."""

    def __init__(self, key: Environment) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        try:
            self.process = _start(key, "nursery", (theirs.fileno(),), stderr=subprocess.DEVNULL)
        finally:
            theirs.close()

    def fork(self, socket_fd: int, trace_fd: int) -> Forked:
        """Ask for a worker; it comes when the parent has loaded. Errors: OSError."""
        socket.send_fds(self._socket, [b'["fork"]'], [socket_fd, trace_fd])
        return Forked(self, os.dup(trace_fd))

    def preload(self, names: Iterable[str]) -> None:
        """Ask for libraries, before the next fork. One that does not listen will be found dead by then."""
        text = json.dumps(["preload", sorted(names)]).encode()
        if len(text) < nursery.MESSAGE_BYTES:
            try:
                self._socket.send(text)
            except OSError:
                pass

    def last_words(self) -> list[str]:
        """What it said before it ended: the libraries that start threads."""
        with contextlib.suppress(OSError, ValueError):
            with contextlib.suppress(ConnectionResetError):  # said once, and first, if it was asked for forks meanwhile
                return list(json.loads(self._socket.recv(nursery.MESSAGE_BYTES)))
            return list(json.loads(self._socket.recv(nursery.MESSAGE_BYTES)))
        return []

    def close(self) -> None:
        """Hang up: it ends, and whoever it has not forked yet never comes."""
        self._socket.close()
        try:
            self.process.wait(0.2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Forked:
    """A worker that a parent forked, or will fork: known by what its trace file says."""

    def __init__(self, parent: Parent, trace_fd: int) -> None:
        self._parent = parent
        self._trace_fd = trace_fd
        self.returncode: int | None = None

    def __del__(self) -> None:
        os.close(self._trace_fd)

    def _read(self, at: int) -> int:
        return int.from_bytes(os.pread(self._trace_fd, 8, at), "big")

    @property
    def pid(self) -> int:
        """0 before it is there."""
        return self._read(nursery.PID_AT)

    def poll(self) -> int | None:
        """The exit status, as Popen's; None while it lives or is to come."""
        if self.returncode is None:
            ended = self._read(nursery.ENDED_AT)
            if ended:
                code = ended & 0xFFFFFFFF
                self.returncode = code - (1 << 32) if code >> 31 else code
            elif self._parent.process.poll() is not None and not self._lives():
                self.returncode = UNSEEN if self.pid else 1
        return self.returncode

    def _lives(self) -> bool:
        try:
            os.kill(self.pid or -1 << 30, 0)
        except OSError:
            return False
        return True

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end. Errors: TimeoutExpired."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired("worker", timeout or 0.0)
            time.sleep(_POLL_S)
        return code

    def send_signal(self, sig: int) -> None:
        """Send it a signal, if it lives. One that has not come yet is ended with its parent, which hangs."""
        if self.poll() is not None:
            return
        pid = self.pid
        if pid:
            try:
                os.kill(pid, sig)
            except ProcessLookupError:
                pass
        elif sig == signal.SIGKILL:
            self._parent.process.kill()

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


def libraries_of(unit: Unit) -> set[str]:
    """The top-level modules that a unit's texts import, those of the standard library left out."""
    found: set[str] = set()
    for text in (unit.source, *unit.sources.values()):
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError):  # a cell with a magic in it
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"cellstore", "__future__"}


def _start(key: Environment, module: str, descriptors: tuple[int, ...], stderr: int) -> subprocess.Popen[bytes]:
    """A process of ours with the kernel's interpreter, in its directory; what is gone is replaced by our own."""
    python, cwd = key
    if not Path(python).exists():
        python = sys.executable
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "0",  # sets iterate alike in every run
        # threads that numpy and pyarrow, which pandas brings along, would start when they are imported
        "OPENBLAS_NUM_THREADS": "1",
        "JE_ARROW_MALLOC_CONF": "background_thread:false",
    }
    return subprocess.Popen(
        [python, "-P", "-m", f"cellstore.runtime.{module}", *map(str, descriptors)],
        cwd=cwd if cwd and Path(cwd).is_dir() else None,
        env=environment,
        pass_fds=descriptors,
        stdin=subprocess.DEVNULL,
        stderr=stderr,  # what a process that does not come up has to say
        start_new_session=True,  # Ctrl-C in the server's terminal is not for workers
    )
