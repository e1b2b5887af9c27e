"""What cannot travel, and what to do instead, in words.

Judged by the object alone, without importing the library it comes from.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import io
import logging
import queue
import socket
import subprocess
import sys
import threading
import types
import weakref
from collections.abc import Iterator
from typing import Any

from cellstore.deploy.origins import is_named

_CONNECTION = "which cannot travel to the store; open it inside the function, or use an action"
_LOCK = "which guards nothing in another process; leave it out, transactions keep calls apart"
_FILE = "which cannot travel to the store; open it inside an action, or capture what was read from it"
_GENERATOR = "which can be used up only here; make it a list"
_COROUTINE = "which can be awaited only here; await it, and capture what it gives"
_STORE = "which is shared by what runs in this process, and by nothing elsewhere; keep it in a table"
_HANDLER = "which writes from this process; print and logging inside a function reach its caller by themselves"
_RUNNING = "which lives in this process only; start it inside an action"
_KERNEL = "which belongs to this kernel; functions run without one"
_DATABASE = "which is a client of the store; inside a function the data is ctx.db, in an action ctx.run_query"

_LOCKS: tuple[type, ...] = (
    type(threading.Lock()),
    type(threading.RLock()),
    threading.Condition,
    threading.Event,
    threading.Semaphore,
    threading.Barrier,
    threading.local,
)
_GENERATORS = (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType, Iterator)
_PROCESSES = (
    threading.Thread, subprocess.Popen, asyncio.AbstractEventLoop, asyncio.Future, concurrent.futures.Executor,
    concurrent.futures.Future, types.FrameType, types.TracebackType,
)  # fmt: skip
_SHARED = (
    queue.Queue, queue.SimpleQueue, asyncio.Queue, asyncio.Lock, asyncio.Event, asyncio.Condition, asyncio.Semaphore,
    weakref.WeakValueDictionary, weakref.WeakKeyDictionary, weakref.WeakSet,
)  # fmt: skip
_CONNECTION_NAMES = {
    "Connection", "Cursor", "DuckDBPyConnection", "AsyncConnection", "AsyncCursor", "Session", "Client", "AsyncClient",
    "ClientSession", "Engine", "ConnectionPool",
}  # fmt: skip
_KERNEL_NAMES = {"InteractiveShell", "Widget", "Kernel", "ZMQSocketChannel", "Comm", "HistoryAccessor", "IOLoop"}
_CLIENT_NAMES = {"Database", "Snapshot", "Subscription"}


def why_not(value: Any) -> str | None:
    """Why an object cannot travel, as the end of a sentence about it; None when nothing speaks against it."""
    if isinstance(value, type | types.FunctionType | types.ModuleType):
        return None
    if isinstance(value, _LOCKS):
        return _LOCK
    if isinstance(value, io.IOBase) and not isinstance(value, io.StringIO | io.BytesIO):
        return None if value in (sys.stdout, sys.stderr) else _FILE
    if isinstance(value, types.CoroutineType):
        return _COROUTINE
    if isinstance(value, _GENERATORS) and _is_librarys(type(value)) and not isinstance(value, io.IOBase):
        return _GENERATOR
    if isinstance(value, socket.socket):
        return _CONNECTION
    if isinstance(value, _PROCESSES):
        return _RUNNING
    if isinstance(value, _SHARED):
        return _STORE
    if isinstance(value, logging.Handler):
        return _HANDLER
    if isinstance(value, weakref.ref):
        return "which refers to an object of this process only"
    return _by_name(value)


def _is_librarys(kind: type) -> bool:
    """Not a class of the user's: those keep where they stand in attributes, which travel."""
    return kind.__module__ == "builtins" or is_named(kind)


def _by_name(value: Any) -> str | None:
    for base in type(value).__mro__:
        root = base.__module__.partition(".")[0]
        if base.__name__ in _CONNECTION_NAMES and root not in ("__main__", "builtins"):
            return _CONNECTION
        if base.__name__ in _KERNEL_NAMES and root not in ("__main__", "builtins"):
            return _KERNEL
        if base.__name__ in _CLIENT_NAMES and root == "cellstore":
            return _DATABASE
    return None


def size_bytes(value: Any) -> int:
    """A lower bound of how much there is of it, without touching it all."""
    for read in (_frame_size, _array_size, _own_size):
        size = read(value)
        if size is not None:
            return size
    return 0


def _frame_size(value: Any) -> int | None:
    usage = getattr(value, "memory_usage", None)
    if usage is None or isinstance(value, type):
        return None
    try:
        total = usage(index=False)
        return int(total.sum() if hasattr(total, "sum") else total)
    except Exception:  # noqa: BLE001 — somebody else's method of that name
        return None


def _array_size(value: Any) -> int | None:
    nbytes = getattr(value, "nbytes", None)
    return nbytes if isinstance(nbytes, int) else None


def _own_size(value: Any) -> int | None:
    return len(value) if isinstance(value, bytes | bytearray | str | list | dict | set | tuple) else None


def type_name(value: Any) -> str:
    """The type as an error names it: `sqlite3.Connection`, `pandas.DataFrame`, `dict`."""
    kind = type(value)
    if kind.__module__ in ("builtins", "__main__"):
        return kind.__qualname__
    module = kind.__module__
    root = module.partition(".")[0]
    if getattr(sys.modules.get(root), kind.__name__, None) is kind:  # pandas.DataFrame, not pandas.core.frame.DataFrame
        module = root
    if module == "_thread":
        module = "threading"
    return f"{module}.{kind.__qualname__}"
