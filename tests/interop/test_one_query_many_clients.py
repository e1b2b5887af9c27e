"""Two kernels and the npm client watch two documents while money moves between them: nobody ever sees it on the way."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from published import client, needs_npm, serving
from server_process import TOKEN, ServerProcess

EACH = 40
GOAL = 100 - 2 * EACH

WATCH = """
%load_ext cellstore
import cellstore as cs, json, threading
db, seen = cs.current(), []
view = db.together(amounts="ledger:amounts", **{n: ("ledger:amount", {"name": n}) for n in ("left", "right")})
view.wait(timeout=30)
"""
MOVE = f"""
def move():
    for _ in range({EACH}):
        db.mutation("ledger:transfer", amount=1)

mover = threading.Thread(target=move)
mover.start()
for value in view:
    seen.append(value)
    if value["amounts"]["left"] == {GOAL}:
        break
mover.join()
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with serving(tmp_path, "ledger.py", "ledger:open_accounts") as server:
        yield server


@contextmanager
def kernel(server: ServerProcess) -> Iterator[BlockingKernelClient]:
    """A kernel of that server, as a notebook has one."""
    made = server.post("/api/kernels", b"{}", {"Authorization": f"token {TOKEN}"})
    kernel = BlockingKernelClient(connection_file=str(server.root / "home" / f"kernel-{made['id']}.json"))
    kernel.load_connection_file()
    kernel.start_channels(hb=False)  # a busy machine is not a dead kernel
    try:
        kernel.wait_for_ready(timeout=60)
        yield kernel
    finally:
        kernel.stop_channels()


def run(kernel: BlockingKernelClient, code: str) -> str:
    """What a cell printed."""
    printed: list[str] = []

    def take(message: dict[str, Any]) -> None:
        printed.append(message["content"].get("text", "") or "\n".join(message["content"].get("traceback", [])))

    reply = kernel.execute_interactive(code, output_hook=take, timeout=120, allow_stdin=False)
    assert reply["content"]["status"] == "ok", "".join(printed)
    return "".join(printed)


def finish(kernel: BlockingKernelClient, message: str) -> None:
    """Wait for the end of a cell that was sent."""
    while (reply := kernel.get_shell_msg(timeout=120))["parent_header"]["msg_id"] != message:
        pass
    assert reply["content"]["status"] == "ok", reply["content"]


@needs_npm
def test_no_client_ever_shows_money_on_its_way(server: ServerProcess) -> None:
    with (
        kernel(server) as ann,
        kernel(server) as bo,
        client("npm_watch.mjs", server.url + "/cellstore", str(GOAL)) as npm,
    ):
        assert first(npm) == {"left": 100, "right": 100}
        for each in (ann, bo):
            run(each, WATCH)
        for each in [(kernel, kernel.execute(MOVE)) for kernel in (ann, bo)]:  # both at once
            finish(*each)
        watched = [json.loads(run(each, "print(json.dumps(seen))")) for each in (ann, bo)]
        shown, _ = npm.communicate(timeout=60)
    assert npm.returncode == 0
    npm_saw = [json.loads(line) for line in shown.splitlines()]
    for states in watched:
        assert len(states) > 5
        assert states[-1]["amounts"] == {"left": GOAL, "right": 200 - GOAL}
        for state in states:  # nor do its queries disagree with each other
            assert state["amounts"] == {"left": state["left"], "right": state["right"]}
            assert state["left"] + state["right"] == 200
    assert len(npm_saw) > 5
    for amounts, held in npm_saw:
        assert amounts["left"] + amounts["right"] == 200
        assert held in ([None, None], [amounts["left"], amounts["right"]])


def first(npm: subprocess.Popen[str]) -> Any:
    """What the npm client is shown at the beginning."""
    assert npm.stdout is not None
    return json.loads(npm.stdout.readline())[0]
