"""One JupyterLab and one browser for all tests, one page per test. Skipped where there is no Chromium."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import BROWSER, TOKEN, Lab, Page, chromium


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Playwright's loop stays in this thread while the browser lives, and other tests could not start theirs: browser last.
    items.sort(key=lambda item: "tests/browser" in item.path.as_posix())
    missing = pytest.mark.skip(reason="needs a Chromium: set CELLSTORE_CHROMIUM, or have one on the PATH")
    for item in items:
        if "tests/browser" in item.path.as_posix():
            item.add_marker(pytest.mark.browser)
            if chromium() is None:
                item.add_marker(missing)


@pytest.fixture(autouse=True)
def jp_asyncio_loop() -> None:
    """Playwright runs a loop of its own in this thread; the in-process Jupyter server of other tests is not for here."""


@pytest.fixture(autouse=True)
def jp_server_cleanup() -> None:
    """Nothing to clean up, for the same reason."""


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium(), headless=True, args=BROWSER)
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    started = Lab(tmp_path_factory.mktemp("lab"))
    yield started
    started.stop()


@pytest.fixture
def mortal_lab(tmp_path: Path) -> Iterator[Lab]:
    """A JupyterLab that may be killed: nobody else's page notices."""
    started = Lab(tmp_path / "lab")
    yield started
    if started.process.poll() is None:
        started.stop()


@pytest.fixture(scope="session")
def context(browser: Any) -> Iterator[Any]:
    """One signed-in person, whose browser has JupyterLab in its cache after the first page."""
    made = browser.new_context(viewport={"width": 1280, "height": 1250})
    made.set_default_timeout(15_000)
    yield made
    made.close()


@pytest.fixture(scope="session")
def tabs() -> list[Page]:
    """Tabs that are ready for the next test."""
    return []


@pytest.fixture
def notebook(context: Any, lab: Lab, tabs: list[Page]) -> Iterator[Callable[..., Page]]:
    """Open a notebook of the given cells in a tab; without cells, one that is there already."""
    used: list[Page] = []

    def opened(name: str, *cells: str) -> Page:
        if cells:
            lab.write(name, *cells)
        used.append(tabs.pop() if tabs else Page(context, lab))
        used[-1].open(name)
        return used[-1]

    yield opened
    for page in used:
        if page.is_spoilt:
            page.page.close()
        else:
            page.clear()
            tabs.append(page)
    lab.end_kernels()


@pytest.fixture
def outside(lab: Lab) -> Iterator[Any]:
    """A database in this process, which is neither the kernel nor the page."""
    import cellstore as cs

    with cs.connect(lab.url, token=TOKEN) as database:
        yield database
