# ruff: noqa: E402
"""Actions, errors and logs as a notebook meets them: a real kernel, a real server, and strangers who call it over HTTP."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "kernel")]

from server_process import TOKEN, ServerProcess
from test_kernel import Cell, Kernel

CELLS = """
import asyncio, time
@cs.mutation
def mark(ctx, what: str):
    return ctx.db.insert("marks", {"what": what})
@cs.query
def marks(ctx):
    return [each.what for each in ctx.db.query("marks")]
@cs.action
def plainly(ctx, n: int):
    text = open("numbers.txt").read()
    ctx.run_mutation(mark, what=f"plainly {n}")
    return [text, len(ctx.run_query(marks)), n and ctx.run_action(gently, n=n - 1)]
@cs.action
async def gently(ctx, n: int):
    text = await asyncio.to_thread(open("numbers.txt").read)
    await asyncio.gather(mark(what=f"gently {n}"), ctx.run_mutation("tasks:mark", what="too"))
    return [text, len(await marks()), n and await ctx.run_action(plainly, n=n - 1)]
@cs.action
def sleeps(ctx):
    for n in range(600):
        ctx.progress(n, 600, "asleep"); time.sleep(.1)
        if n == 4: mark(what="before")
    mark(what="after")
@cs.action
async def waits(ctx):
    for n in range(600):
        ctx.progress(n, 600, "waiting"); await asyncio.sleep(.1)
        if n == 4: await mark(what="before")
    await mark(what="after")
@cs.action
def computes(ctx):
    mark(what="before")
    ctx.progress(1, 2, "computing")
    until = time.monotonic() + 60
    while time.monotonic() < until: pass
    mark(what="after")
@cs.action
async def leans_on(ctx):
    await ctx.run_action(sleeps)
@cs.action
def once(ctx, file: str, kill: bool):
    import os
    with open(file, "a") as out: out.write("ran\\n")
    if kill: os.kill(os.getpid(), 9)
    time.sleep(60)
@cs.mutation
def refuse(ctx, n: int = 7):
    raise cs.ApplicationError({"n": n, "why": ["no"]})
@cs.query
def refuses(ctx, n: int = 7):
    raise cs.ApplicationError({"n": n, "why": ["no"]})
@cs.action
async def refuse_within(ctx):
    await ctx.run_mutation(refuse)
@cs.action
async def refuse_after(ctx):
    try: await ctx.run_action(refuse_within)
    except cs.ApplicationError as error: return error.data
@cs.mutation
def refuse_later(ctx):
    return ctx.scheduler.run_after(0, refuse)
@cs.query
def job(ctx, job: str):
    return ctx.db.get(job)
@cs.query
def breaks(ctx):
    secret = {"password": 1}
    return secret["hunter2"]
def fails(call):
    try: call()
    except cs.ApplicationError as error: return error.data
"""
DATA = {"n": 7, "why": ["no"]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    started = ServerProcess(tmp_path_factory.mktemp("server"), allow_anonymous=True).start()
    yield started
    started.stop()


def kernel_at(server: ServerProcess, cwd: Path) -> Kernel:
    kernel = Kernel(cwd)
    (cwd / "numbers.txt").write_text("1 2 3")
    kernel.run("%load_ext cellstore\nimport cellstore as cs")
    for cell in (f"%cellstore connect {server.url} --token {TOKEN}", CELLS):
        assert kernel.run(cell).errors == []
    return kernel


@pytest.fixture(scope="module")
def kernel(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    started = kernel_at(server, tmp_path_factory.mktemp("running"))
    yield started
    started.stop()


def value(kernel: Kernel, code: str) -> Any:
    """What a cell gives. Fails with what the cell says instead."""
    cell = kernel.run(code)
    assert cell.errors == []
    return eval(cell.text)


@pytest.mark.parametrize(("action", "own"), [("plainly", 1), ("gently", 2)])
def test_actions_of_both_kinds_do_io_and_reach_data_through_calls_and_each_other(
    kernel: Kernel, action: str, own: int
) -> None:
    before = value(kernel, "len(marks())")
    assert value(kernel, f"{action}(n=1)") == ["1 2 3", before + own, ["1 2 3", before + 3, 0]]
    other = {"plainly": "gently", "gently": "plainly"}[action]
    assert sorted(value(kernel, f"marks()[{before}:]")) == sorted([f"{action} 1", f"{other} 0", "too"])


def interrupted_once_marked(kernel: Kernel, server: ServerProcess, code: str, marks: int) -> Cell:
    """A cell that gets Ctrl-C when it has set so many marks."""

    def press() -> None:
        while len(server.call("query", "tasks:marks")) < marks:
            time.sleep(0.05)
        os.kill(kernel.manager.provisioner.pid, signal.SIGINT)

    pressing = threading.Thread(target=press)
    pressing.start()
    cell = kernel.run(code)
    pressing.join()
    return cell


@pytest.mark.parametrize("action", ["sleeps", "waits", "computes", "leans_on"])
def test_an_interrupted_cell_stops_its_action_where_it_runs(kernel: Kernel, server: ServerProcess, action: str) -> None:
    before = value(kernel, "len(marks())")
    stopped = interrupted_once_marked(kernel, server, f"{action}()", before + 1)
    [error] = stopped.errors
    assert f"tasks:{action} is no longer waited for: it was sent and is told to stop; what it has done stays" in error
    assert "cellstore/" not in error
    logged = re.compile(rf" tasks:{action} .* was stopped by its caller  \(action, ([\d,.]+) ms\)")
    while not (lasted := logged.findall(kernel.run("%cellstore logs -n 50").printed)):
        time.sleep(0.1)
    assert float(lasted[-1].replace(",", "")) > 1
    assert value(kernel, f"marks()[{before}:]") == ["before"]


@pytest.mark.parametrize(("action", "note"), [("sleeps", "asleep"), ("waits", "waiting")])
def test_progress_of_plain_and_of_async_actions_is_a_bar_in_the_calling_cell(
    kernel: Kernel, server: ServerProcess, action: str, note: str
) -> None:
    before = value(kernel, "len(marks())")
    cell = interrupted_once_marked(kernel, server, f"{action}()", before + 1)
    bars = [shown["text/html"] for shown in cell.shown if "text/html" in shown]
    assert any(re.search(rf'<progress value="\d+" max="\d+".*tasks:{action}: \d+ of \d+ .*{note}', bar) for bar in bars)


def test_an_action_whose_process_is_killed_is_an_error_in_the_cell_and_never_runs_again(
    kernel: Kernel, tmp_path: Path
) -> None:
    file = tmp_path / "runs"
    [error] = kernel.run(f"once({str(file)!r}, kill=True)").errors
    assert "the process died while tasks:once ran: it was ended by SIGKILL" in error
    assert "It may have done part of its work" in error
    assert value(kernel, "len(plainly(n=0))") == 3
    assert file.read_text() == "ran\n"


def test_an_action_whose_server_is_killed_is_an_error_in_the_cell_and_never_runs_again(tmp_path: Path) -> None:
    server, file = ServerProcess(tmp_path / "root").start(), tmp_path / "runs"
    (tmp_path / "nb").mkdir()
    kernel = kernel_at(server, tmp_path / "nb")

    def kill_it() -> None:
        while not file.exists():
            time.sleep(0.05)
        server.kill()
        server.start()

    try:
        killing = threading.Thread(target=kill_it)
        killing.start()
        [error] = kernel.run(f"once({str(file)!r}, kill=False)").errors
        killing.join()
        assert "tasks:once" in error
        assert "it may or may not have finished. Look at what it changed before you call it again" in error
        assert value(kernel, "len(plainly(n=0))") == 3, "the functions are there, and the next call runs"
        assert file.read_text() == "ran\n"
    finally:
        kernel.stop()
        server.stop()


DATA_ARRIVES = {
    "at the call": "fails(refuse)",
    "at a call by path": "fails(lambda: cs.current().query('tasks:refuses', n=7))",
    "at a frame": "fails(refuses.df)",
    "through an action": "fails(refuse_within)",
    "inside the action that called": "refuse_after()",
    "at a mutation nobody waits for": "fails(cs.current().enqueue(refuse).result)",
    "at a subscription": "sub = cs.subscribe(refuses)\nfails(sub.wait)",
    "at a live view": "view = cs.live(refuses)\nwhile view.error is None: time.sleep(.05)\nview.error.data",
    "at an await": "try: await cs.current().aio.action(refuse_within)\nexcept cs.ApplicationError as e: got = e.data\ngot",
    "with the job that was scheduled": (
        "number = refuse_later()\nwhile job(number).state.kind != 'failed': time.sleep(.05)\ndict(job(number).errorData)"
    ),
}


@pytest.mark.parametrize("way", DATA_ARRIVES)
def test_the_data_of_a_refusal_arrives_whole(kernel: Kernel, way: str) -> None:
    assert value(kernel, DATA_ARRIVES[way]) == DATA


def asked_by_a_stranger(server: ServerProcess, kind: str, path: str) -> Any:
    return server.post(f"/api/{kind}", json.dumps({"path": path, "args": {}, "format": "json"}).encode(), {})


@pytest.mark.parametrize(("kind", "path"), [("query", "refuses"), ("mutation", "refuse"), ("action", "refuse_within")])
def test_the_data_of_a_refusal_goes_to_strangers_too(
    kernel: Kernel, server: ServerProcess, kind: str, path: str
) -> None:
    assert asked_by_a_stranger(server, kind, f"tasks:{path}")["errorData"] == DATA


def test_a_stranger_is_told_a_request_id_and_no_more_and_the_owner_finds_the_reason_by_it(
    kernel: Kernel, server: ServerProcess
) -> None:
    answer = asked_by_a_stranger(server, "query", "tasks:breaks")
    [number] = re.findall(r"Request ID: (\w+)", answer["errorMessage"])
    assert not any(word in json.dumps(answer) for word in ("hunter2", "KeyError", "password", "Cell In"))
    logged = kernel.run("%cellstore logs -n 20").printed
    _, _, record = logged.partition(number[:16])
    assert re.match(
        r"  KeyError: 'hunter2'  \(query, [\d.]+ ms\)\n +Traceback .*\n +Cell In\[\d+\], line \d+, in breaks", record
    )


def test_the_log_stream_is_followed_from_a_terminal_while_a_notebook_works(
    kernel: Kernel, server: ServerProcess
) -> None:
    command = [sys.executable, "-m", "cellstore.cli", "logs", "-f", "-n", "1", "--url", server.url, "--token", TOKEN]
    kernel.run("marks()")  # something to begin with
    following = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert following.stdout is not None
    try:
        following.stdout.readline()
        kernel.run("@cs.mutation\ndef talks(ctx):\n    print('from the notebook')\ntalks()")
        while "from the notebook" not in (line := following.stdout.readline()):
            assert line
        assert re.match(r"[\d:.]+  LOG    tasks:talks +\w+  from the notebook\n", line)
        assert re.match(r"[\d:.]+  ok     tasks:talks +\w+  mutation, [\d.]+ ms\n", following.stdout.readline())
        following.send_signal(signal.SIGINT)
        assert following.wait(20) == 0
    finally:
        following.kill()
        following.communicate()


def test_a_directory_that_is_watched_from_a_terminal_moves_the_live_views_of_a_notebook(
    kernel: Kernel, server: ServerProcess, tmp_path: Path
) -> None:
    text = "import cellstore as cs\nfrom rates import RATE\n@cs.query\ndef price(ctx):\n    return 10 * RATE\n"
    (tmp_path / "shop.py").write_text(text)
    (tmp_path / "rates.py").write_text("RATE = 2\n")
    command = [sys.executable, "-m", "cellstore.cli", "deploy", str(tmp_path), "--watch", "--url", server.url]
    watching = subprocess.Popen([*command, "--token", TOKEN], stdout=subprocess.PIPE, text=True)
    assert watching.stdout is not None
    try:
        assert watching.stdout.readline() == f"deployed {tmp_path}/shop.py as shop: added shop:price\n"
        kernel.run("seen = cs.live('shop:price')\nassert seen._sub.wait(timeout=10) == 20")
        (tmp_path / "rates.py").write_text("RATE = 3000\n")
        assert kernel.run("seen._sub.wait(lambda value: value == 30_000, timeout=20)").errors == []
        assert watching.stdout.readline() == f"deployed {tmp_path}/shop.py as shop: changed shop:price\n"
        (tmp_path / "shop.py").write_text(text.replace("10 *", "10 /"))
        assert kernel.run("seen._sub.wait(lambda value: value == 10 / 3000, timeout=20)").errors == []
        watching.send_signal(signal.SIGINT)
        assert watching.wait(20) == 0
    finally:
        watching.kill()
        watching.communicate()
    assert value(kernel, "cs.current().query('shop:price')") == 10 / 3000, "it outlives the terminal"
