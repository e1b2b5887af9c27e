"""Worker processes as the host sees them: a socket to send messages into, and a death that is always noticed.

A `Link` is one process. It knows nothing of queries or lanes; it gathers the messages of one turn of the loop into one
frame, hands over what arrives, and reports its end exactly once, with what the process was doing.

Order      everything here runs on the host's event loop
Invariant  a link that is not `dead` is being read: however the process ends, EOF arrives and `on_death` runs
"""

from __future__ import annotations

import asyncio
import itertools
import mmap
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable
from typing import Any

from cellstore.runtime import calls
from cellstore.runtime.calls import Message
from cellstore.runtime.nursery import AGAIN_AT
from cellstore.runtime.registry import Environment
from cellstore.runtime.spawning import UNSEEN, Process

Spawn = Callable[[Environment, int, int], Process]
"""Makes a worker process of an environment that owns a socket and a trace file."""

DUMP_WAIT_S = 0.05  # a stuck process needs a moment to write down where it stands

_numbers = itertools.count(1)


class Link:
    """One worker process."""

    def __init__(
        self,
        key: Environment,
        settings: dict[str, Any],
        on_messages: Callable[[Link, list[Message]], None],
        on_death: Callable[[Link], None],
        spawn: Spawn,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_messages = on_messages
        self._on_death = on_death
        self._out: list[Message] = [["start", settings]]
        self._unsent = bytearray()
        self._flush_planned = False
        self._reader = calls.FrameReader()
        self._received = calls.receive_buffer()
        self.number = next(_numbers)
        self.is_ready = False  # has said hello
        self.is_retiring = False  # gets no further calls
        self.dead = False
        self.why = ""  # the reason we killed it, if we did
        self._socket, theirs = socket.socketpair()
        self._trace = tempfile.TemporaryFile()  # noqa: SIM115 — lives as long as the link
        self._trace.truncate(mmap.PAGESIZE)
        os.lseek(self._trace.fileno(), mmap.PAGESIZE, os.SEEK_SET)
        try:
            self._process = spawn(key, theirs.fileno(), self._trace.fileno())
        finally:
            theirs.close()
        self._socket.setblocking(False)
        self._loop.add_reader(self._socket.fileno(), self._readable)
        self.flush()  # the settings go alone

    @property
    def pid(self) -> int:
        """Its number at the operating system; 0 for one that is still to be forked."""
        return self._process.pid

    def send(self, message: Message) -> None:
        """Put `message` into the frame of this turn."""
        self._out.append(message)
        if not self._flush_planned:
            self._flush_planned = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send what has gathered."""
        self._flush_planned = False
        if not self._out or self.dead:
            return
        data = calls.frame(self._out)
        self._out = []
        if self._unsent:
            self._unsent += data
            return
        self._write(data)

    def _write(self, data: bytes | bytearray) -> None:
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # it is dead; EOF is on its way to the reader
        if sent < len(data):
            self._unsent = bytearray(memoryview(data)[sent:])
            self._loop.add_writer(self._socket.fileno(), self._writable)

    def _writable(self) -> None:
        self._loop.remove_writer(self._socket.fileno())
        data, self._unsent = self._unsent, bytearray()
        self._write(data)

    def _readable(self) -> None:
        try:
            size = self._socket.recv_into(self._received)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        if not size:
            self._died()
            return
        messages = list(self._reader.feed(self._received[:size]))
        if messages:
            self._on_messages(self, messages)

    def read_now(self) -> None:
        """Take what has arrived without waiting for the loop to say so."""
        if not self.dead:
            self._readable()

    # The end

    def running_call(self) -> int:
        """The id of the call the process runs or ran last words in; 0 when it was between calls."""
        return int.from_bytes(os.pread(self._trace.fileno(), 8, 0), "big")

    def begun_anew(self) -> int:
        """How often the time of the running call has begun anew, for what it imports."""
        return int.from_bytes(os.pread(self._trace.fileno(), 1, AGAIN_AT), "big")

    def dump(self) -> str:
        """What faulthandler wrote: where the process stood when it crashed or was asked."""
        return os.pread(self._trace.fileno(), 1 << 16, mmap.PAGESIZE).decode(errors="replace")

    async def kill(self, why: str) -> None:
        """Ask where it stands, then kill it; `on_death` follows."""
        if self.dead or self.why:
            return
        self.why = why
        self._signal(signal.SIGUSR1)
        await asyncio.sleep(DUMP_WAIT_S)
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)

    def hang_up(self) -> None:
        """No more calls; the process ends by itself when it is idle. `on_death` does not follow."""
        self._close()

    def join(self, timeout_s: float) -> None:
        """Wait for the process to end, kill it after `timeout_s`."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._trace.close()

    def exit_text(self) -> str:
        """How the process ended, for people."""
        code = self._process.returncode
        if code is None:
            return "its socket closed"
        if code == UNSEEN:
            return "nobody saw how it ended"
        if code < 0:
            return f"it was ended by {signal.Signals(-code).name}"
        return f"it exited with status {code}"

    def _died(self) -> None:
        if self.dead:
            return
        self._close()
        # EOF comes with the exit; give the kernel a moment to say how it ended, never longer.
        try:
            self._process.wait(0.5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._on_death(self)
        self._trace.close()

    def _close(self) -> None:
        if not self.dead:
            self.dead = True
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
            self._socket.close()
