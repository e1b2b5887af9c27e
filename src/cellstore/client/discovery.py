"""Which Jupyter server is ours. A ladder; the first rung that holds wins and is named; between two nobody guesses.

    environment     CELLSTORE_SERVER_URL and CELLSTORE_SERVER_SECRET, set by the server extension for its kernels;
                    a person may set CELLSTORE_SERVER_URL and CELLSTORE_SERVER_TOKEN for what runs elsewhere
    parent          jpserver-$JPY_PARENT_PID.json in Jupyter's runtime directory
    kernel id       the running server that lists this very kernel
    directory       the one running server whose root directory holds the working directory

An explicit address comes before the ladder, the embedded engine after it; both are the caller's business. A candidate
counts only if it answers our handshake (`hello`), so a stale file or another machine's loopback address falls through.

Everything the ladder looks at is handed in as `Surroundings`, and the handshake as a function.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cellstore.client.control import AddressBook, HttpControl
from cellstore.client.transport import Address
from cellstore.client.wire import PROTOCOL
from cellstore.errors import CallerError, CellstoreError, Disconnected

ENV_URL, ENV_SECRET, ENV_TOKEN = "CELLSTORE_SERVER_URL", "CELLSTORE_SERVER_SECRET", "CELLSTORE_SERVER_TOKEN"
SECRET_HEADER = "X-Cellstore-Kernel"
RUNGS = {
    "environment": "the server that started this kernel (environment)",
    "parent": "the server that started this kernel (parent process)",
    "kernel id": "the server that lists this kernel",
    "directory": "the only running server over this directory",
    "given": "the address you gave",
}


@dataclass(frozen=True, slots=True)
class Running:
    """One `jpserver-<pid>.json`: a Jupyter server that is, or was, running on this machine."""

    pid: int
    url: str
    token: str = field(repr=False)
    root_dir: str

    @property
    def address(self) -> Address:
        """Where it is, with its token."""
        headers = {"Authorization": f"token {self.token}"} if self.token else {}
        return Address(self.url, headers, root_dir=self.root_dir)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the ladder looks at."""

    environ: Mapping[str, str]
    cwd: Path
    servers: list[Running]
    kernel_id: str | None = None

    @classmethod
    def here(cls) -> Surroundings:
        """This process."""
        return cls(os.environ, Path.cwd(), running_servers(), kernel_id())


@dataclass(frozen=True, slots=True)
class Found:
    """An address that answered, what it said, and how it was found."""

    address: Address
    hello: dict[str, Any]

    @property
    def rung(self) -> str:
        """How it was found, in words."""
        return RUNGS[self.address.rung]


Probe = Callable[[Address], dict[str, Any]]
"""The handshake: what `hello` answers. Errors: CellstoreError."""


def find(around: Surroundings, probe: Probe, lists_kernel: Callable[[Running, str], bool]) -> Found:
    """The first rung that holds.

    Errors: Disconnected, telling for every rung why it did not hold.
    """
    missed: list[str] = []
    for candidate in direct_rungs(around):
        answer = _try(candidate, probe, missed)
        if answer is not None:
            return answer
    if around.kernel_id is not None:
        for server in around.servers:
            if lists_kernel(server, around.kernel_id):
                answer = _try(_named(server, "kernel id"), probe, missed)
                if answer is not None:
                    return answer
    return _by_directory(around, probe, missed)


def direct_rungs(around: Surroundings) -> Iterator[Address]:
    """The addresses that need no search."""
    url = around.environ.get(ENV_URL)
    if url:
        secret, token = around.environ.get(ENV_SECRET), around.environ.get(ENV_TOKEN)
        headers = {SECRET_HEADER: secret} if secret else {"Authorization": f"token {token}"} if token else {}
        yield Address(with_slash(url), headers, "environment")
    parent = around.environ.get("JPY_PARENT_PID", "")
    for server in around.servers:
        if str(server.pid) == parent:
            yield _named(server, "parent")


def _by_directory(around: Surroundings, probe: Probe, missed: list[str]) -> Found:
    over = [s for s in around.servers if s.root_dir and around.cwd.is_relative_to(Path(s.root_dir))]
    answers = [a for s in over if (a := _try(_named(s, "directory"), probe, missed)) is not None]
    if len(answers) == 1:
        return answers[0]
    if answers:
        choice = " or ".join(f"cs.connect({a.address.url!r})" for a in answers)
        raise Disconnected(f"two or more servers run over {around.cwd}; say which one you mean: {choice}")
    tried = "; ".join(missed) or f"no Jupyter server with cellstore runs over {around.cwd}"
    raise Disconnected(
        f"found no cellstore server ({tried}). Start one with `jupyter lab` or `cellstore serve`, give an address with "
        "cs.connect('http://…', token='…'), or work without a server: cs.open('file.db')."
    )


def _try(address: Address, probe: Probe, missed: list[str]) -> Found | None:
    if address.url.startswith("http+unix"):
        missed.append(f"{address.rung}: {address.url} listens on a UNIX socket, which cannot be dialled from here")
        return None
    try:
        return Found(address, probe(address))
    except CellstoreError as error:
        missed.append(f"{address.rung}: {error.message}")
        return None


def _named(server: Running, rung: str) -> Address:
    return Address(server.url, server.address.headers, rung, server.root_dir)


def hello(
    address: Address, deployment: str = "default", patience_s: float = 0.0, *, create: bool = True
) -> dict[str, Any]:
    """The handshake. It makes the deployment where there is none of that name, unless `create` is False.

    Errors: Disconnected, Unauthenticated, NotFound (a server without cellstore), CallerError (another protocol).
    """
    control = HttpControl(AddressBook(lambda: address, address), deployment)
    try:
        answer, _ = control("hello", {} if create else {"create": False}, patience_s=patience_s)
    finally:
        control.close()
    protocol = answer.get("protocol", PROTOCOL)
    if protocol != PROTOCOL:
        raise CallerError(
            f"the server at {address.url} runs cellstore {answer.get('version', '?')} and speaks protocol {protocol}; "
            f"this side speaks {PROTOCOL}. Install the same cellstore in both environments.",
            code="ProtocolMismatch",
        )
    return answer


def lists_kernel(server: Running, kernel: str) -> bool:
    """Does this server run the kernel of that id? False when it does not answer."""
    from urllib.error import URLError
    from urllib.request import ProxyHandler, Request, build_opener

    request = Request(f"{server.url}api/kernels/{kernel}", headers=server.address.headers)
    try:
        with build_opener(ProxyHandler({})).open(request, timeout=2.0) as response:
            return bool(json.load(response).get("id") == kernel)
    except (URLError, OSError, ValueError):
        return False


def running_servers() -> list[Running]:
    """The servers of Jupyter's runtime directory whose process is alive; without importing jupyter_server."""
    from jupyter_core.paths import jupyter_runtime_dir

    found = (read_server(path) for path in sorted(Path(jupyter_runtime_dir()).glob("jpserver-*.json")))
    return [server for server in found if server is not None and is_alive(server.pid)]


def read_server(path: Path) -> Running | None:
    """One server's file; None when it is half written or no such file."""
    try:
        info = json.loads(path.read_text())
        return Running(int(info["pid"]), with_slash(info["url"]), info.get("token", ""), info.get("root_dir", ""))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_alive(pid: int) -> bool:
    """Does a process of this id run?"""
    if sys.platform == "win32":  # there, signal 0 would end it
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def kernel_id() -> str | None:
    """This kernel's id, the middle of its connection file's name; None outside a kernel."""
    apps = sys.modules.get("ipykernel.kernelapp")
    if apps is None or not apps.IPKernelApp.initialized():
        return None
    name = Path(apps.IPKernelApp.instance().connection_file).stem
    return name.removeprefix("kernel-") if name.startswith("kernel-") else None


def parse_url(text: str) -> tuple[str, str | None]:
    """(base URL with trailing slash, token or None) of what a person pastes, page paths and `?token=` included.

    'http://localhost:8888/lab/tree/a.ipynb?token=x' → ('http://localhost:8888/', 'x'). Errors: CallerError.
    """
    parts = urlsplit(text if "://" in text else f"http://{text}")
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    if scheme not in ("http", "https") or not parts.netloc:
        raise CallerError(f"{text!r} is no server address; it looks like 'http://localhost:8888/'", code="BadAddress")
    segments = [segment for segment in parts.path.split("/") if segment]
    for page in ("lab", "tree", "notebooks", "doc"):
        if page in segments:
            segments = segments[: segments.index(page)]
    if segments[-1:] == ["cellstore"]:
        segments.pop()
    path = "/".join(["", *segments, ""])
    tokens = parse_qs(parts.query).get("token")
    return f"{scheme}://{parts.netloc}{path}", tokens[0] if tokens else None


def with_slash(url: str) -> str:
    """The URL, ending in one slash."""
    return url.rstrip("/") + "/"
