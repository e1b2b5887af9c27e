"""The envelope around a query or mutation: time stands still, chance is seeded, I/O is refused.

A guard against mistakes, not a sandbox against malice. It exists so that re-running a function on the same snapshot
gives the same answer: a mutation may be re-run after a conflict, a query's result is cached and shared.

    clock       time.time, datetime.now, pandas "now" and names imported earlier all stand still (time-machine);
                monotonic and perf_counter stand still as well
    chance      random, uuid, secrets, os.urandom, numpy's and polars' generators follow one seed per call
    refused     files, network, subprocesses, threads, waiting, environment writes: an audit hook, and wrappers around what
                raises no event (see also `native`), raise `NotDeterministic`, which names the call and says what to do instead
    put back    settings of the interpreter and of libraries: see `settings`
    possible    imports, and reading what is installed with the code: time zones, a library's own data

Order      `install()` once per worker process, never in a user's own process: audit hooks cannot be removed and the
           clock is the process's. `InlineRunner` offers `ctx.now` and `ctx.random` instead and refuses nothing.
Cost       under 10 µs a call; where pandas and matplotlib are loaded, under 20.
Invariant  outside of `enter`…`exit` the process sees real time, real chance and an unarmed hook, except that the clock
           keeps standing still between calls; our own code reads `real_time_ns`.
"""

from __future__ import annotations

import _random
import datetime as dt
import decimal
import functools
import hashlib
import importlib
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from cellstore.deploy.origins import is_installed_file, leads_to_installed
from cellstore.errors import NotDeterministic
from cellstore.runtime import native
from cellstore.runtime.patches import watch_setters
from cellstore.runtime.settings import Settings

_real_urandom = os.urandom
_shared_random: Any = random._inst
_seed = _random.Random.seed
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

REFUSED_EVENTS = frozenset(
    {
        "open", "mmap.__new__", "builtins.input", "sqlite3.connect", "ctypes.dlopen", "pty.spawn", "webbrowser.open",
        "subprocess.Popen", "urllib.Request", "http.client.connect", "ftplib.connect", "smtplib.connect",
        "imaplib.open", "poplib.connect", "nntplib.connect", "telnetlib.Telnet.open", "syslog.openlog",
        "_thread.start_new_thread", "_thread.start_joinable_thread", "time.sleep", "signal.pthread_kill",
        "shutil.copyfile", "shutil.copymode", "shutil.copystat", "shutil.copytree", "shutil.move", "shutil.rmtree",
        "shutil.make_archive", "shutil.unpack_archive", "tempfile.mkstemp", "tempfile.mkdtemp", "glob.glob",
        "os.listdir", "os.scandir", "os.walk", "os.fwalk", "os.mkdir", "os.remove", "os.rename", "os.rmdir",
        "os.chmod", "os.chown", "os.chdir", "os.chflags", "os.link", "os.symlink", "os.truncate", "os.utime",
        "os.lockf", "os.mkfifo", "os.mknod", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn",
        "os.spawn", "os.startfile", "os.kill", "os.killpg", "os.putenv", "os.unsetenv", "os.setxattr",
        "os.removexattr", "resource.setrlimit", "resource.prlimit", "fcntl.fcntl", "fcntl.flock", "fcntl.lockf", "fcntl.ioctl",
        "socket.__new__", "socket.bind", "socket.connect", "socket.getaddrinfo", "socket.gethostbyname",
        "socket.gethostbyaddr", "socket.getnameinfo", "socket.sendto", "socket.sendmsg", "socket.gethostname",
        "os.getxattr", "os.listxattr", "sys.settrace", "sys.setprofile",
    }
)  # fmt: skip

# What raises no event of its own, or only after others that say less.
_SILENT: dict[str, tuple[str, ...]] = {
    "os": (
        "stat", "lstat", "readlink", "access", "statvfs", "umask", "nice", "setpriority", "sched_setaffinity", "pipe", "dup",
        "dup2", "close", "closerange", "read", "write", "writev", "sendfile", "copy_file_range", "memfd_create", "eventfd",
        "openpty", "sync", "times", "getloadavg",
    ),
    "time": ("sleep",),
    "select": ("select", "poll", "epoll"),
    "signal": (
        "signal", "alarm", "setitimer", "raise_signal", "pause", "sigwait", "sigwaitinfo", "sigtimedwait", "pthread_sigmask",
        "siginterrupt", "set_wakeup_fd",
    ),
    "faulthandler": ("enable", "disable", "register", "unregister", "dump_traceback_later", "cancel_dump_traceback_later"),
    "resource": ("getrusage",),
    "_posixshmem": ("shm_open", "shm_unlink"),
    "_thread": ("start_new_thread",),
    "sys": ("addaudithook",),  # it swallows what is raised at its event
}  # fmt: skip

# Reading source lines for a traceback and importing a module open files on the caller's behalf.
_EXCUSED_MODULES = frozenset({"linecache", "zipimport"})
_READ_EVENTS = frozenset(
    {"open", "os.listdir", "os.scandir", "os.walk", "os.stat", "os.lstat", "os.readlink", "os.access"}
)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_FRAMES_MAX = 60  # how far up the stack an import is looked for


class Envelope:
    """Holds the process's clock and chance still while a call runs."""

    def __init__(self, traveller: Any, escape: Any) -> None:
        self._traveller = traveller
        self._escape = escape
        self.kind = ""  # of the running call: "query" or "mutation"; empty: nothing is refused
        self._stream: _Stream | None = None
        self._frozen_s = 0.0
        self._us = 0  # what the clock shows
        self._guarded: set[str] = set()  # libraries that ask first
        self.settings = Settings()

    def real_time_ns(self) -> int:
        """The wall clock, which user code does not see."""
        return int(self._escape.time.time_ns())

    def stand_at(self, now_ns: int) -> None:
        """The process's clock shows `now_ns`, whole microseconds, until told otherwise."""
        self._frozen_s = now_ns / 1e9
        us = now_ns // 1000
        self._traveller.shift(
            dt.timedelta(microseconds=us - self._us)
        )  # moving to a datetime sets the zone again: 20 µs
        self._us = us
        if time.time_ns() != us * 1000:  # older time-machines count in floats
            self._traveller.move_to(_EPOCH + dt.timedelta(microseconds=us))

    def enter(self, kind: str, seed: bytes) -> None:
        """Seed every source of chance with `seed` (16 bytes), refuse I/O. The clock stands already."""
        number = int.from_bytes(seed, "big")
        _seed(_shared_random, number)  # what random.seed does, without its detour for other types
        _shared_random.gauss_next = None
        if "uuid" in sys.modules:
            sys.modules["uuid"]._last_timestamp = None  # type: ignore[attr-defined]
        if "decimal" in sys.modules:
            decimal.setcontext(decimal.DefaultContext)  # a copy of it: precision is not handed on
        numpy_random = sys.modules.get("numpy.random")
        if numpy_random is None and "numpy" in sys.modules:  # it comes at first use, and would draw from our stream
            numpy_random = importlib.import_module("numpy.random")
        if numpy_random is not None:
            numpy_random.seed(number & 0xFFFFFFFF)
        if "polars" in sys.modules:
            sys.modules["polars"].set_random_seed(number & 0xFFFFFFFF)
        self._stream = _Stream(seed)
        self.kind = kind

    def exit(self) -> None:
        """The call is over: I/O and real chance again, settings as before."""
        self.kind = ""
        self._stream = None
        self.settings.put_back()

    # What the patched functions ask

    def urandom(self, count: int) -> bytes:
        """Stands in for os.urandom."""
        stream = self._stream
        return _real_urandom(count) if stream is None else stream.take(count)

    def counter(self, real: Callable[[], Any], unit: float) -> Callable[[], Any]:
        """Stands in for a monotonic clock: constant inside a call."""

        def stopped() -> Any:
            return real() if not self.kind else type(real())(self._frozen_s * unit)

        return stopped

    def clock(self, real: Callable[[int], Any], unit: float) -> Callable[[int], Any]:
        """Stands in for `time.clock_gettime`, of whichever clock."""

        def stopped(clk_id: int) -> Any:
            return real(clk_id) if not self.kind else type(real(clk_id))(self._frozen_s * unit)

        return stopped

    def guarded(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        """`real`, refused inside a call."""

        @functools.wraps(real)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            if self.kind:
                self.audit(name, args, silent=True)
            return real(*args, **kwargs)

        return guarded

    def audit(self, event: str, args: tuple[Any, ...], silent: bool = False) -> None:
        """The audit hook."""
        if self.kind and (silent or event in REFUSED_EVENTS) and not _is_installed(event, args) and not _excused():
            if _starts_a_loop():
                self.refuse("asyncio.run()", "write `async def` and `await` it: what needs no time may be awaited here")
            self.refuse(_call_text(event, args))

    def on_module(self, name: str) -> None:
        """A module may have been loaded: one that reaches out past the audit hook asks from now on."""
        if name in native.LIBRARIES and name in sys.modules and name not in self._guarded:
            self._guarded.add(name)
            native.guard_library(name, self._native)

    def _native(self, name: str, args: tuple[Any, ...]) -> None:
        if self.kind:
            self.refuse(_call_text(name, args))

    def refuse(self, call: str, instead: str = "") -> None:
        """Raise the error that names `call`. `instead`: what could be done right here."""
        raise NotDeterministic(
            f"{call} is not available in a {self.kind}: it must give the same answer whenever it is run again. "
            f"{f'{instead[0].upper()}{instead[1:]}. Or do' if instead else 'Do'} this in an action (@cs.action) and hand the "
            "result over as an argument, or store it with a mutation."
        )


class _Stream:
    """Bytes that follow from a seed: SHAKE-256 in blocks."""

    __slots__ = ("_block", "_number", "_seed")

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._number = 0
        self._block = b""

    def take(self, count: int) -> bytes:
        while len(self._block) < count:
            self._block += hashlib.shake_256(self._seed + self._number.to_bytes(8, "big")).digest(max(count, 256))
            self._number += 1
        taken, self._block = self._block[:count], self._block[count:]
        return taken


def _excused() -> bool:
    frame = sys._getframe(2)
    for _ in range(_FRAMES_MAX):
        if frame.f_code.co_filename.startswith("<frozen importlib") or (
            frame.f_globals.get("__name__") in _EXCUSED_MODULES
        ):
            return True
        if frame.f_back is None:
            return False
        frame = frame.f_back
    return False


def _starts_a_loop() -> bool:
    """Whether an event loop is being made: it opens sockets of its own, which nobody asked for. It is as good as closed."""
    frame = sys._getframe(2)
    for _ in range(_FRAMES_MAX):
        loop = frame.f_locals.get("self") if frame.f_code.co_name == "_make_self_pipe" else None
        if loop is not None:
            loop._closed = True  # otherwise it complains aloud when it is collected, half made
        if frame.f_code.co_name == "new_event_loop" and frame.f_globals.get("__name__") == "asyncio.events":
            return True
        if frame.f_back is None:
            return False
        frame = frame.f_back
    return False


def _is_installed(event: str, args: tuple[Any, ...]) -> bool:
    """Whether it only reads what belongs to the environment, as code does: a time zone, a library's own data."""
    if event not in _READ_EVENTS or not args or (event == "open" and args[2] & _WRITES):
        return False
    path = os.fspath(args[0]) if isinstance(args[0], os.PathLike) else args[0]
    if not isinstance(path, str):
        return False
    if event in ("os.lstat", "os.readlink") and leads_to_installed(path):
        return True
    return (path + os.sep).startswith(_system_directories()) or is_installed_file(path)


def look_around() -> None:
    """Find out once what is installed where, before that may not be looked at. It takes megabytes: best done before a fork."""
    _is_installed("os.stat", ("",))


@functools.lru_cache(maxsize=1)
def _system_directories() -> tuple[str, ...]:
    """What belongs to the machine or the interpreter, and is looked at by those who look for something else."""
    import mimetypes
    import zoneinfo

    directories = [*zoneinfo.TZPATH, "/sys/fs/cgroup"]  # libraries ask how many processors they may use
    directories += [*map(str, mimetypes.knownfiles), os.path.join(sys.base_prefix, "share", "locale")]  # noqa: PTH118
    directories += [each for each in sys.path if each.endswith(".zip")]  # of the standard library, which need not be
    return tuple(each.rstrip(os.sep) + os.sep for each in directories)


def _call_text(event: str, args: tuple[Any, ...]) -> str:
    name = {
        "socket.__new__": "socket.socket",
        "builtins.input": "input",
        "mmap.__new__": "mmap.mmap",
    }.get(event, event)
    shown = repr(args[0]) if args and isinstance(args[0], str | bytes | int | float | list | os.PathLike) else ""
    return f"{name}({shown if len(shown) <= 80 else shown[:77] + '…'})"


def install() -> Envelope:
    """Put the envelope around this process. Once, in a worker of queries and mutations.

    What stands in for a builtin is a static method: in the body of a class, `now = time.monotonic` is no method then either.
    """
    time_machine = import_time_machine()
    traveller = time_machine.travel(_EPOCH, tick=False).start()  # an aware moment: local time is UTC from here on
    envelope = Envelope(traveller, time_machine.escape_hatch)
    for name, unit in (("monotonic", 1), ("perf_counter", 1), ("process_time", 1), ("thread_time", 1)):
        setattr(time, name, staticmethod(envelope.counter(getattr(time, name), unit)))
        setattr(time, f"{name}_ns", staticmethod(envelope.counter(getattr(time, f"{name}_ns"), unit * 1e9)))
    for name, factor in (("clock_gettime", 1.0), ("clock_gettime_ns", 1e9)):
        setattr(time, name, staticmethod(envelope.clock(getattr(time, name), factor)))
    real_ctime, real_asctime = time.ctime, time.asctime
    time.ctime = lambda seconds=None: real_ctime(time.time() if seconds is None else seconds)
    time.asctime = lambda when=None: real_asctime(time.localtime() if when is None else when)
    envelope.stand_at(envelope.real_time_ns())
    _guard(envelope)
    _seed_from(envelope)
    watch_setters()
    for name in native.LIBRARIES:
        envelope.on_module(name)
    envelope.settings.watch_imports(envelope.on_module)
    sys.addaudithook(envelope.audit)
    return envelope


def _guard(envelope: Envelope) -> None:
    """Wrap what raises no event."""
    look_around()
    for owner, name in ((owner, name) for owner, names in _SILENT.items() for name in names):
        real = getattr(_imported(owner), name, None)
        if real is None:  # another system
            continue
        guarded = staticmethod(envelope.guarded(real, f"{owner}.{name}"))
        for each in {owner, real.__module__}:  # `posix` is where functions of `os` are at home
            setattr(sys.modules[each], name, guarded)
        for abilities in (os.supports_fd, os.supports_dir_fd, os.supports_follow_symlinks):
            if real in abilities:
                abilities.add(guarded)
    real_start, real_wait, real_popen = threading.Thread.start, threading.Condition.wait, subprocess.Popen.__init__

    def start(thread: threading.Thread) -> None:
        if envelope.kind:
            envelope.refuse(f"starting the thread {thread.name!r}")
        real_start(thread)

    def wait(condition: threading.Condition, timeout: float | None = None) -> bool:
        if envelope.kind:
            envelope.refuse("waiting for another thread")
        return real_wait(condition, timeout)

    def popen(process: Any, args: Any, *rest: Any, **options: Any) -> None:
        if envelope.kind:
            envelope.refuse(_call_text("subprocess.Popen", (args,)))
        real_popen(process, args, *rest, **options)

    threading.Thread.start = start  # type: ignore[method-assign, assignment]
    threading.Condition.wait = wait  # type: ignore[method-assign, assignment]
    subprocess.Popen.__init__ = popen  # type: ignore[method-assign, assignment]


def _imported(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _seed_from(envelope: Envelope) -> None:
    """Have every source of entropy be the call's."""

    def getrandom(size: int, _flags: int = 0) -> bytes:
        return envelope.urandom(size)

    def seed(generator: random.Random, a: Any = None, version: int = 2) -> None:
        if a is None and envelope.kind:
            a = int.from_bytes(envelope.urandom(16), "big")
        real_seed(generator, a, version)

    homes: list[Any] = [os, sys.modules[os.name]]
    for home in homes:  # functions of `os` are those of `posix`, and travel as such
        home.urandom, home.getrandom = envelope.urandom, getrandom
    random._urandom = envelope.urandom  # type: ignore[attr-defined]
    real_seed = random.Random.seed
    random.Random.seed = seed  # type: ignore[method-assign, assignment]
    random.seed = _shared_random.seed


def import_time_machine() -> Any:
    """Import time-machine without the pytest it would drag in when present (a quarter of a second)."""
    absent = "pytest" not in sys.modules
    if absent:
        sys.modules["pytest"] = None  # type: ignore[assignment]
    try:
        import time_machine
    finally:
        if absent:
            del sys.modules["pytest"]
    return time_machine
