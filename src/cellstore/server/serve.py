"""The extension alone: `cellstore serve`. An ordinary Jupyter server that loads nothing else and opens no browser.

Scripts, dashboards and Convex's own clients connect to it with its token, or an admin key, or, where switched on,
without credentials.
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

from traitlets.config import Config


def configuration(
    host: str = "127.0.0.1",
    port: int = 3210,
    root: str | Path = ".",
    token: str | None = None,
    allow_anonymous: bool = False,
) -> Config:
    """The Jupyter configuration of such a server."""
    config = Config()
    server = config.ServerApp
    server.ip, server.port, server.port_retries = host, port, 0
    server.root_dir = str(Path(root).resolve())
    server.open_browser = False
    server.terminals_enabled = False
    server.jpserver_extensions = {"cellstore": True}
    server.allow_root = hasattr(os, "geteuid") and os.geteuid() == 0  # as in a container
    if token is not None:
        config.IdentityProvider.token = token
    config.CellstoreApp.allow_anonymous = allow_anonymous
    return config


def main(
    host: str = "127.0.0.1",
    port: int = 3210,
    root: str | Path = ".",
    token: str | None = None,
    allow_anonymous: bool = False,
) -> None:
    """Serve until interrupted. Without `token` Jupyter makes one and prints it with the URL."""
    # Without it jsonschema checks no IRIs, of which Jupyter's events have none; building its grammar is half of a start.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]  # what is None cannot be imported
    from jupyter_server.serverapp import ServerApp

    from cellstore import faults

    Path(root).mkdir(parents=True, exist_ok=True)
    config = configuration(host, port, root, token, allow_anonymous)
    app = ServerApp.instance(config=config)
    app.initialize(argv=[], find_extensions=False)
    # What is loaded by now stays, and a request leaves few cycles: looking for them often costs a twentieth of the time.
    gc.freeze()
    gc.set_threshold(5_000, 20, 50)
    faults.arm_from_environment()
    app.start()
