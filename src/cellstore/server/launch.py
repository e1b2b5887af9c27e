"""Starts a Jupyter server with cellstore as a child process and stops it again: for the tour, and for tests."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

START_TIMEOUT_S = 120.0  # a first start on a cold disk compiles a great deal of bytecode
STOP_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class Launched:
    """A running server: where it listens, what opens its door, and its process."""

    url: str
    token: str
    root: Path
    process: subprocess.Popen[bytes]


@contextlib.contextmanager
def launch(
    root: Path,
    *,
    command: Sequence[str] = ("jupyter_server",),
    port: int = 0,
    token: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Launched]:
    """A server over `root` on the loopback interface, stopped when the block ends.

    `command` is a module and its arguments; port 0 takes a free one. Errors: RuntimeError with the server's last words.
    """
    port = port or free_port()
    token = token or secrets.token_urlsafe(24)
    url = f"http://127.0.0.1:{port}/"
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, *_options(root, port, token)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )
        try:
            _wait_until_up(url, token, process, log)
            yield Launched(url, token, root, process)
        finally:
            stop(process)


def _options(root: Path, port: int, token: str) -> list[str]:
    options = [
        "--no-browser",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={root.resolve()}",
        "--ServerApp.log_level=WARN",
    ]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.append("--allow-root")  # containers
    return options


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it to stop; insist after a while."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_until_up(url: str, token: str, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    request = urllib.request.Request(f"{url}api/status", headers={"Authorization": f"token {token}"})
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(request, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    log.seek(0)
    words = log.read().decode(errors="replace").strip() or "(it said nothing)"
    raise RuntimeError(f"the Jupyter server did not start at {url}. Its last words:\n{words}")


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
