"""One process owns a store; a second is told who.

The lease is an operating-system lock on a file beside the store, so that it ends with its process however the process
ends. The file says who holds it. The lock cannot help against a lock file deleted by hand, nor on a disk whose locks
do not work; therefore every opening also raises the *epoch* stored in the store itself, and every commit checks that
its epoch still stands (`sqlite.py`).

POSIX record locks, not flock: a forked child must not inherit the lease and keep it when its parent was killed. Record
locks belong to the process, so a second opening in the same process is noticed by a table of what is open here, before
the file is touched: closing any descriptor of it would drop the lock.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

from cellstore.errors import StorageError, StoreLocked

_open_here: dict[str, str] = {}  # real path of each lock file held by this process: since when
_open_here_guard = threading.Lock()


class Lease:
    """The right to write one store, until `release` or the end of the process."""

    def __init__(self, store: Path, lock_path: str, descriptor: int, since: str) -> None:
        self.store, self.since = store, since
        self.pid = os.getpid()
        self._lock_path, self._descriptor = lock_path, descriptor
        self._write()

    @classmethod
    def acquire(cls, store: Path) -> Lease:
        """Take the lease.

        Errors: StoreLocked, naming the holder; StorageError where the directory cannot hold a lock.
        """
        lock_path = os.path.realpath(f"{store}.lock")
        since = time.strftime("%Y-%m-%d %H:%M:%S %z")
        with _open_here_guard:
            if lock_path in _open_here:
                held = f"it is open in this very process (pid {os.getpid()}) since {_open_here[lock_path]}"
                raise _locked(store, held, "use the database you opened, or close it first")
            descriptor = _open(store, lock_path)
            try:
                _lock(store, lock_path, descriptor)
                lease = cls(store, lock_path, descriptor, since)
            except BaseException:
                os.close(descriptor)
                raise
            _open_here[lock_path] = since
        return lease

    def release(self) -> None:
        """Give the lease back. Twice does no harm; a forked child has nothing to give back."""
        if self._descriptor < 0 or self.pid != os.getpid():
            return
        with _open_here_guard:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = -1
            _open_here.pop(self._lock_path, None)

    def _write(self) -> None:
        holder = {"pid": self.pid, "host": socket.gethostname(), "since": self.since}
        os.ftruncate(self._descriptor, 0)
        with contextlib.suppress(OSError):  # a full disk has no room for the name; the lock needs none
            os.pwrite(self._descriptor, json.dumps(holder).encode(), 0)


def _open(store: Path, lock_path: str) -> int:
    try:
        return os.open(lock_path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StorageError(
            f"cannot open the store {store}: {error.strerror} for {lock_path}; "
            "the store's directory must exist and be writable"
        ) from error


def _lock(store: Path, lock_path: str, descriptor: int) -> None:
    try:
        _lock_or_fail(descriptor)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            holder = _read_holder(lock_path)
            raise _locked(store, holder, "close it there or stop that process, or open another file") from None
        raise StorageError(
            f"cannot lock {lock_path}: {error.strerror}; file locks do not work on this disk. "
            "Is it a network share? Put the store on a local disk"
        ) from error


def _read_holder(lock_path: str) -> str:
    try:
        holder: dict[str, Any] = json.loads(Path(lock_path).read_text())
        return f"process {holder['pid']} on {holder['host']} has it open since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process has it open"  # which had no time yet to write its name


def _locked(store: Path, held: str, advice: str) -> StoreLocked:
    return StoreLocked(f"the store {store} is in use: {held}; {advice}")


try:
    import fcntl

    def _lock_or_fail(descriptor: int) -> None:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

except ImportError:  # Windows
    import msvcrt

    def _lock_or_fail(descriptor: int) -> None:
        # a locked byte cannot be read by others: lock one far beyond the holder's name
        os.lseek(descriptor, 1 << 30, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
