"""A real JupyterLab and a real Chromium, for tests that look at the page."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.error import URLError

import nbformat

BASE = "/b%40se/"  # catches every address that forgot the base URL
TOKEN = "letmein"
QUIET = {"fetchNews": "false", "checkForUpdates": False}
BROWSER = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def chromium() -> str | None:
    """Where the browser is, if there is one."""
    return os.environ.get("CELLSTORE_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Lab:
    """One JupyterLab over a directory of its own."""

    def __init__(self, home: Path, theme: str = "JupyterLab Light") -> None:
        self.home, self.root = home, home / "work"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}{BASE}"
        self._settings(theme)
        self.start()

    def start(self) -> None:
        """Start the server on its port; also again after `kill`."""
        words = [sys.executable, "-m", "jupyterlab", "--no-browser", "--expose-app-in-browser", "--allow-root"]
        words += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.port={self.port}", "--ServerApp.port_retries=0"]
        words += [
            f"--IdentityProvider.token={TOKEN}",
            f"--ServerApp.root_dir={self.root}",
            f"--ServerApp.base_url={BASE}",
        ]
        self.log = (self.home / "server.log").open("ab")
        self.process = subprocess.Popen(words, env=self.environment(), stdout=self.log, stderr=self.log, cwd=self.root)
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.1)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End the server, and wait."""
        self.process.send_signal(how)
        self.process.wait(30)
        self.log.close()

    def said(self) -> str:
        """The server's log."""
        return (self.home / "server.log").read_text(errors="replace")

    def environment(self) -> dict[str, str]:
        """The environment of processes that belong to this Lab: nothing of the developer's own Jupyter."""
        places = {
            name: str(self.home / name.lower())
            for name in ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
        }
        ours = {
            "JUPYTERLAB_SETTINGS_DIR": str(self.home / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(self.home / "workspaces"),
        }
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("CELLSTORE_SERVER", "JPY_", "JUPYTER"))}
        return {**clean, **places, **ours}

    def write(self, name: str, *cells: str) -> None:
        """A notebook of these cells."""
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, self.root / name)

    def end_kernels(self) -> None:
        """Shut every notebook's kernel down, asleep or not."""
        for session in json.loads(self._ask("GET", "api/sessions")):
            self._ask("DELETE", f"api/sessions/{session['id']}")

    def _ask(self, method: str, path: str) -> bytes:
        request = urllib.request.Request(self.url + path, method=method, headers={"Authorization": f"token {TOKEN}"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return bytes(answer.read())

    def _settings(self, theme: str) -> None:
        self.root.mkdir(parents=True)
        chosen = {"notification": QUIET, "themes": {"theme": theme, "adaptive-theme": False}}
        for plugin, value in chosen.items():
            file = self.home / "settings" / "@jupyterlab" / "apputils-extension" / f"{plugin}.jupyterlab-settings"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(value))

    def _answers(self) -> bool:
        try:
            return bool(self._ask("GET", "api/status"))
        except (URLError, OSError):
            return False


TABS = itertools.count(1)
SETTLED = """async () => {
    const app = window.jupyterapp, panel = app.shell.currentWidget;
    await app.restored; await panel.context.ready; await panel.sessionContext.ready;
    await panel.sessionContext.session.kernel.info;
}"""
CLEARED = """async () => {
    for (const panel of [...window.jupyterapp.shell.widgets('main')]) {
        if (panel.context?.model) panel.context.model.dirty = false;
        await panel.close?.();
        panel.dispose();
    }
}"""


class Page:
    """One tab with JupyterLab, driven by its own commands: a test's own while the test runs.

    Booting JupyterLab takes seconds, so a tab goes back, empty, to those that wait for the next test.
    """

    def __init__(self, context: Any, lab: Lab) -> None:
        self.page = context.new_page()
        self.troubles: list[str] = []
        self.is_spoilt = False  # it opens things by itself: not for the next test
        self.page.on("pageerror", self._note_trouble)
        self.page.goto(f"{lab.url}lab/workspaces/tab-{next(TABS)}?token={TOKEN}")
        self.page.wait_for_function("window.jupyterapp?.shell", timeout=30_000)
        self.page.evaluate("async () => { await window.jupyterapp.restored; }")

    def open(self, name: str) -> None:
        """Show a notebook; returns when it and its kernel are ready."""
        self.look()
        self.page.evaluate("name => window.jupyterapp.commands.execute('docmanager:open', {path: name})", name)
        self.settle()

    def _note_trouble(self, error: Any) -> None:
        """Uncaught errors of ours; JupyterLab has its own when a kernel goes away."""
        if "static/cellstore" in (error.stack or "") or "blob:" in (error.stack or ""):
            self.troubles.append(str(error))

    def look(self) -> None:
        """Bring the tab to the front: others paint once a second."""
        self.page.bring_to_front()

    def clear(self) -> None:
        """Close what is open, unsaved."""
        self.page.evaluate(CLEARED)
        self.troubles.clear()

    def reload(self) -> None:
        self.is_spoilt = True  # JupyterLab goes on restoring for a while, whatever is closed meanwhile
        self.page.reload()
        self.settle()

    def settle(self) -> None:
        """Wait until notebook and kernel are ready."""
        self.page.wait_for_function("window.jupyterapp?.shell?.currentWidget?.sessionContext", timeout=30_000)
        self.page.evaluate(SETTLED)

    def command(self, name: str, wait: bool = True) -> None:
        """One of JupyterLab's commands, to its end; or only begun."""
        run = f"window.jupyterapp.commands.execute('{name}')"
        self.page.evaluate(f"async () => {{ {'await ' if wait else ''}{run}; }}" if wait else f"() => {{ {run}; }}")

    def run_all(self, wait: bool = True) -> None:
        self.command("notebook:run-all-cells", wait)

    def select_first(self) -> None:
        """Put the cursor on the first cell."""
        self.page.evaluate("() => { window.jupyterapp.shell.currentWidget.content.activeCellIndex = 0; }")

    def restart_kernel(self) -> None:
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.info")

    def save(self) -> None:
        self.command("docmanager:save")

    def saved_widgets(self) -> dict[str, Any]:
        """The state of widgets that is saved with the notebook."""
        notebook = self.page.evaluate("() => window.jupyterapp.shell.currentWidget.context.model.toJSON()")
        return dict(notebook["metadata"]["widgets"]["application/vnd.jupyter.widget-state+json"]["state"])

    def text(self, selector: str) -> str:
        return str(self.page.locator(selector).first.inner_text())

    def wait_text(self, selector: str, text: str, seconds: float = 10) -> None:
        """Until an element shows a text."""
        self.page.wait_for_function(
            "([s, t]) => [...document.querySelectorAll(s)].some(e => e.innerText.includes(t))",
            arg=[selector, text],
            timeout=seconds * 1000,
        )

    def shoot(self, name: str) -> None:
        """A screenshot, if somebody asked for them."""
        place = os.environ.get("CELLSTORE_SHOTS")
        if place:
            self.page.screenshot(path=str(Path(place) / f"{name}.png"))
