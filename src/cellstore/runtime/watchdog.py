"""What keeps a query or mutation from running for ever inside a user's own process.

    functions' thread     enter ── user code ── exit            two assignments and a look at a clock
    the loop              look  look  look                      a few times a second, while something runs

Only the function's own computing time counts, so a debugger that stops in it, and what it waits for, cost nothing; nor does
what it imports for the first time. The exception is raised at the next line of Python: long work in C is ended after it.

Invariant  nothing is raised outside of `enter` and `exit`: not into a commit, not into the call that comes next
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time

from cellstore.knobs import Knobs
from cellstore.runtime import traces
from cellstore.runtime.execute import Call, OutOfTime, out_of_time_text
from cellstore.runtime.loaded import LoadedModules

LOOK_EVERY_S = 0.1
AGAIN_S = 0.2  # in case user code catches BaseException


class Watchdog:
    """The guards of the calls of one thread; `look` is for another."""

    def __init__(self, modules: LoadedModules, knobs: Knobs) -> None:
        self._modules = modules
        self._knobs = knobs
        self._lock = threading.Lock()
        self._thread_id = self._clock_id = 0
        self._call: Call | None = None
        self._until_s = 0.0  # on the thread's own clock
        self._was_raised = False

    def enter(self, call: Call, _seed: bytes) -> None:
        """User code begins."""
        if self._thread_id != threading.get_ident():
            self._thread_id, self._clock_id = threading.get_ident(), _clock_of_this_thread()
        self._until_s = self._used_s() + self._budget_s(call)
        self._call = None if sys.gettrace() else call  # whoever traces it wants to see it through

    def exit(self) -> None:
        """User code is over."""
        if self._call is None:
            return
        with self._lock:
            self._call = None
            if self._was_raised:
                _raise_in(self._thread_id, None)
                self._was_raised = False

    def look(self) -> bool:
        """End the call that runs if its time is up. Whether one runs."""
        with self._lock:
            call = self._call
            if call is not None and self._used_s() >= self._until_s:
                self._end(call)
            return call is not None

    def _end(self, call: Call) -> None:
        frame = sys._current_frames().get(self._thread_id)
        if traces.is_importing(frame):
            self._until_s = self._used_s() + self._budget_s(call)
            return
        where = traces.user_line(frame, self._modules.is_users, self._modules.cells)
        text = out_of_time_text(call.path, call.kind, self._budget_s(call), where)
        self._was_raised = True
        self._until_s += AGAIN_S
        _raise_in(self._thread_id, _worded(text))

    def _budget_s(self, call: Call) -> float:
        return self._knobs.query_time_s if call.kind == "query" else self._knobs.mutation_time_s

    def _used_s(self) -> float:
        return time.clock_gettime(self._clock_id) if self._clock_id else time.monotonic()


def _clock_of_this_thread() -> int:
    """The clock of its computing time; 0 where there is none to be read from another thread."""
    clock_of = getattr(time, "pthread_getcpuclockid", None)
    return 0 if clock_of is None else int(clock_of(threading.get_ident()))


def _worded(message: str) -> type[OutOfTime]:
    """What is raised in another thread is a class and cannot be given a message; so the class brings it along."""
    return type("OutOfTime", (OutOfTime,), {"__str__": lambda _self: message, "__module__": OutOfTime.__module__})


def _raise_in(thread_id: int, error: type[BaseException] | None) -> None:
    """Raise in a thread; with None, take back what has not been met yet."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), error and ctypes.py_object(error))
