"""The analyst as a process of its own: `python -m cellstore.analytics.worker FD`, over one socket.

    in     {"path", "scratch", "knobs"}                 first
           {"id", "op", "params"} · {"cancel": id}
    out    {"id", "file": name in the scratch directory} · {"id", "error": {…}}

A message is one line of JSON. The process ends, its scratch directory with it, when the socket does: closed by the
service, or because the service's process is gone.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson

from cellstore import errors
from cellstore.analytics.analyst import Analyst
from cellstore.errors import CellstoreError
from cellstore.knobs import Knobs
from cellstore.storage.sqlite import SqliteReader


class Worker:
    """Reads questions, answers them on a few threads."""

    def __init__(self, door: socket.socket) -> None:
        self._door = door
        self._lines = door.makefile("rb")
        self._sending = threading.Lock()
        settings = orjson.loads(self._lines.readline())
        self._scratch = Path(settings["scratch"])
        knobs = Knobs(**settings["knobs"])
        self._pool = ThreadPoolExecutor(knobs.analytics_threads, thread_name_prefix="analytics")
        self._analyst = Analyst(lambda: SqliteReader(settings["path"]), self._scratch, knobs)

    def serve(self) -> None:
        """Until the socket ends."""
        for line in self._lines:
            message = orjson.loads(line)
            if "cancel" in message:
                self._analyst.cancel(message["cancel"])
            else:
                self._pool.submit(self._answer, message["id"], message["op"], message["params"])

    def clear_up(self) -> None:
        """Remove the scratch directory."""
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _answer(self, number: int, op: str, params: dict[str, Any]) -> None:
        answer: dict[str, Any]
        try:
            answer = {"id": number, "file": self._analyst.run(op, params, number).name}
        except BaseException as error:  # noqa: BLE001  whatever it was, somebody waits for an answer
            answer = {"id": number, "error": pack_error(error)}
        try:
            with self._sending:
                self._door.sendall(orjson.dumps(answer) + b"\n")
        except OSError:
            pass  # nobody is there any more; `serve` ends


def pack_error(error: BaseException) -> dict[str, Any]:
    """An error as plain data."""
    if not isinstance(error, CellstoreError):
        return {"type": "CellstoreError", "state": {"message": f"the analytics worker failed: {error!r}"}}
    state = {name: value for name, value in vars(error).items() if isinstance(value, str | int | float)}
    return {"type": type(error).__name__, "state": state}


def unpack_error(packed: dict[str, Any]) -> CellstoreError:
    """The error again."""
    kind: Any = getattr(errors, packed["type"], CellstoreError)
    state = dict(packed["state"])
    error: CellstoreError = kind(state.get("message"))
    error.__dict__.update(state)
    return error


def main() -> None:
    """The process."""
    worker = Worker(socket.socket(fileno=int(sys.argv[1])))
    try:
        worker.serve()
    except OSError:
        pass  # the service's process was killed
    finally:
        worker.clear_up()
        os._exit(0)  # statements under way have nobody to answer to


if __name__ == "__main__":
    main()
