"""A cellstore server in a process of its own, to be talked to from outside, and killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

TOKEN = "a-token-for-tests"
START_S, STOP_S = 60.0, 15.0
_open = build_opener(ProxyHandler({})).open


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def deploy_body(path: Path) -> bytes:
    """The unit of a file, as the control operation takes it."""
    from cellstore.client.sources import modules_of
    from cellstore.deploy.pack import pack
    from cellstore.functions import registry
    from cellstore.values import json as native

    (module,) = modules_of(path)
    return native.dumps(pack(module, registry.handles(module), registry.tables(module)).to_json())


class ServerProcess:
    """`cellstore serve` on a directory. `start` again after `kill` continues the same store on the same port."""

    python = sys.executable

    def __init__(self, root: Path, *, allow_anonymous: bool = False, **settings: Any) -> None:
        """`settings`: traits of CellstoreApp."""
        self.root, self.port, self.allow_anonymous, self.settings = root, free_port(), allow_anonymous, settings
        self.log = root / "server.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.was_killed = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> ServerProcess:
        """Run it; returns when it serves."""
        (self.root / "home").mkdir(parents=True, exist_ok=True)
        config = {"CellstoreApp": self.settings}
        (self.root / "home" / "jupyter_cellstore_config.json").write_text(json.dumps(config))
        options = ["serve", "--port", str(self.port), "--root", str(self.root), "--token", TOKEN]
        options += ["--allow-anonymous"] if self.allow_anonymous else []
        call = (
            "import faulthandler, signal; faulthandler.register(signal.SIGUSR1);"
            f"from cellstore.cli import main; main({options!r})"
        )
        places = ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
        env = os.environ | {name: str(self.root / "home") for name in places}
        env.pop("CELLSTORE_SERVER_URL", None)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([self.python, "-c", call], env=env, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while True:
            try:
                self.control("hello")
                return self
            except (URLError, OSError, AssertionError) as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.kill()
                    raise AssertionError(f"the server did not start: {error}\n{self._last_words()}") from None
                time.sleep(0.05)

    def kill(self) -> None:
        """As a power cut would."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(STOP_S)
        self.was_killed = True

    def stop(self) -> None:
        """In good order, and soon. If it was ever killed, its stores are sound all the same."""
        if self.process is not None and self.process.poll() is None:
            self._terminate()
        for store in self.root.glob(".cellstore/*/store.db") if self.was_killed else ():
            self._check(store)

    def _check(self, store: Path) -> None:
        from cellstore.transaction.database import Engine

        with Engine.open(store) as engine:
            assert list(engine.check()) == []

    def _terminate(self) -> None:
        assert self.process is not None
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGUSR1)  # faulthandler: where does it stand?
            time.sleep(0.5)
            self.kill()
            raise AssertionError(f"the server did not stop within {STOP_S:g} s:\n{self._last_words()}") from None

    def _last_words(self) -> str:
        return self.log.read_text()[-6000:]

    def control(self, op: str, body: bytes = b"", **params: Any) -> Any:
        """One control operation with the token; the JSON of the answer."""
        headers = {"Authorization": f"token {TOKEN}", "X-Cellstore-Params": json.dumps(params)}
        return self.post(f"/cellstore/x/{op}", body, headers)

    def call(self, kind: str, path: str, args: dict[str, Any] | None = None) -> Any:
        """One function over HTTP with the token; the value."""
        body = json.dumps({"path": path, "args": args or {}, "format": "json"}).encode()
        answer = self.post(f"/api/{kind}", body, {"Authorization": f"token {TOKEN}"})
        assert answer["status"] == "success", answer
        return answer["value"]

    def post(self, path: str, body: bytes, headers: dict[str, str]) -> Any:
        request = Request(self.url + path, data=body, headers=headers, method="POST")
        try:
            with _open(request, timeout=30) as response:
                return json.load(response)
        except HTTPError as error:
            raise AssertionError(f"{path}: {error.code} {error.read().decode()}") from error

    def deploy(self, path: Path) -> Any:
        return self.control("deploy", deploy_body(path))

    def admin_key(self) -> str:
        return (self.root / ".cellstore" / "default" / "admin.key").read_text().strip()
