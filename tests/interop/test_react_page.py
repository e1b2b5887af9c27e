"""`ConvexReactClient` and its hooks, unmodified, in a real page of another origin."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from published import HERE, MODULES, serving
from server_process import ServerProcess

CHROMIUM = os.environ.get("CELLSTORE_CHROMIUM") or shutil.which("chromium")
PATIENCE_MS = 20_000

pytestmark = [
    pytest.mark.browser,
    pytest.mark.node,
    pytest.mark.skipif(
        CHROMIUM is None or not (MODULES / "react-dom").is_dir() or not (MODULES / ".bin" / "esbuild").exists(),
        reason="needs Chromium and CELLSTORE_NODE_MODULES with convex, react, react-dom and esbuild",
    ),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, site: str) -> Iterator[ServerProcess]:
    """Pages of the site's origin may call it over HTTP too."""
    with serving(tmp_path_factory.mktemp("react"), "feed.py", cors_allow_origins=[site.rstrip("/")]) as server:
        for n in range(0, 80, 10):
            server.call("mutation", "feed:post", {"n": n})
        yield server


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page, bundled, on a server of its own."""
    directory = tmp_path_factory.mktemp("site")
    bundle = [
        str(MODULES / ".bin" / "esbuild"),
        str(HERE / "react_page.jsx"),
        "--bundle",
        f"--outfile={directory}/page.js",
    ]
    production = "--define:process.env.NODE_ENV='production'".replace("'", '"')
    environment = {**os.environ, "NODE_PATH": str(MODULES)}
    subprocess.run([*bundle, production, "--log-level=error"], env=environment, check=True, timeout=60)
    (directory / "index.html").write_text("<!doctype html><div id=root></div><script src=page.js></script>")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(directory))) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{web.server_port}/"
        web.shutdown()


@pytest.fixture
def page(server: ServerProcess, site: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.goto(f"{site}?server={server.url}/cellstore")
        yield page
        browser.close()


def shows(page: Any, element: str, text: str) -> None:
    page.wait_for_function(f"document.querySelector('#{element}').textContent === {text!r}")


def test_hooks_follow_page_and_guess(page: Any, server: ServerProcess) -> None:
    shows(page, "rows", "0 10 20")
    shows(page, "count", "8")
    page.click("#more")
    shows(page, "rows", "0 10 20 30 40 50")
    shows(page, "status", "CanLoadMore")
    # pages keep their edges: what comes in between appears, nothing twice
    for n in (5, 15, 25, 35):
        server.call("mutation", "feed:post", {"n": n})
    server.call("mutation", "feed:drop", {"n": 20})
    shows(page, "rows", "0 5 10 15 25 30 35 40 50")
    # the first page has grown beyond twice its size: the hook reads it as two
    for n in (1, 2, 3, 4):
        server.call("mutation", "feed:post", {"n": n})
    shows(page, "rows", "0 1 2 3 4 5 10 15 25 30 35 40 50")
    page.click("#more")
    page.click("#post")
    shows(page, "said", "posted")
    shows(page, "count", "16")
    page.click("#refuse")
    shows(page, "said", "refused: no")
    shows(page, "count", "16")
    counts = page.evaluate("window.counts")
    assert 115 in counts  # the guess of the post
    assert -1 in counts  # and of the one refused, taken back
    assert counts[-1] == 16


def test_the_http_client_in_a_page_of_a_configured_origin(page: Any, server: ServerProcess) -> None:
    """The browser asks beforehand, with `OPTIONS`, and is told yes; without credentials, and for an error too."""
    shows(page, "status", "CanLoadMore")
    count = page.evaluate("window.http.query(window.api.feed.count, {})")
    assert count == server.call("query", "feed:count")
    assert page.evaluate("window.http.mutation(window.api.feed.refuse, {}).catch((e) => e.data.why)") == "no"
    page.evaluate("window.http.setAuth('wrong')")
    said = page.evaluate("window.http.query(window.api.feed.count, {}).catch((e) => e.message)")
    assert "Unauthenticated" in said


def test_a_page_of_another_origin_is_not_answered(page: Any, server: ServerProcess, site: str) -> None:
    page.goto(site.replace("127.0.0.1", "localhost") + f"?server={server.url}/cellstore")
    shows(page, "status", "CanLoadMore")  # sockets may come from anywhere, with nothing or a token
    asked = "window.http.query(window.api.feed.count, {}).then(() => 'answered', (e) => e.constructor.name)"
    assert page.evaluate(asked) == "TypeError"  # as fetch says when the browser keeps the answer to itself
