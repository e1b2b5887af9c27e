"""A real Jupyter server with the extension, in this process, on a base URL that catches forgotten prefixes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served_harness import Served

CHAT = Path(__file__).parents[1] / "interop" / "chat.py"


@pytest.fixture
def jp_server_config(extension_config: dict[str, Any]) -> dict[str, Any]:
    return {
        "ServerApp": {"jpserver_extensions": {"cellstore": True}, "reraise_server_extension_failures": True},
        "CellstoreApp": extension_config,
    }


@pytest.fixture
def extension_config() -> dict[str, Any]:
    """Traits of CellstoreApp; a test module may override this."""
    return {}


@pytest.fixture
def served(
    jp_serverapp: Any,
    jp_asyncio_loop: Any,
    jp_base_url: str,
    jp_http_port: int,
    http_server_client: Any,  # listens
) -> Iterator[Served]:
    """The running extension. pytest-jupyter does not run start hooks, so this does."""
    jp_asyncio_loop.run_until_complete(jp_serverapp._post_start())
    (app,) = jp_serverapp.extension_manager.extension_apps["cellstore"]
    served = Served(app, jp_serverapp, f"http://localhost:{jp_http_port}", jp_base_url)
    yield served
    for wire in served.wires:
        wire.close()
    jp_asyncio_loop.run_until_complete(app.stop_extension())


@pytest.fixture
def chat(served: Served, jp_asyncio_loop: Any) -> Served:
    """The running extension with the functions of tests/interop/chat.py deployed."""
    jp_asyncio_loop.run_until_complete(served.deploy(CHAT))
    return served
