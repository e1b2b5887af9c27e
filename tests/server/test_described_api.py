"""Schemathesis makes requests of everything our HTTP API offers: each is answered as described, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from described import API
from hypothesis import HealthCheck, settings
from server_process import ServerProcess

schemathesis = pytest.importorskip("schemathesis")
from schemathesis.checks import (  # noqa: E402
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
)

CHAT = Path(__file__).parents[1] / "interop" / "chat.py"
CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance]
described = schemathesis.openapi.from_dict(API)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path_factory.mktemp("described")).start()
    try:
        server.deploy(CHAT)
        server.call("mutation", "chat:send", {"author": "ann", "body": "hello"})
        server.call("action", "chat:act", {"author": "ann"})  # all its processes are there
        before = left_open(server)
        yield server
        assert server.call("query", "chat:count") >= 2  # it serves
        assert left_open(server) <= before + 8
        assert not list((server.root / ".cellstore" / "default").glob(".cellstore-*"))
    finally:
        server.stop()


def left_open(server: ServerProcess) -> int:
    """Files and sockets the server holds."""
    assert server.process is not None
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files as Linux shows them")
@described.parametrize()
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_as_described(case: Any, server: ServerProcess) -> None:
    headers = {"Authorization": f"Convex {server.admin_key()}"}
    case.call_and_validate(base_url=server.url, headers=headers, timeout=20, checks=CHECKS)
