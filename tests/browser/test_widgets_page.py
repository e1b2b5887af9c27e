"""Grid, view, form and button in a page; and a page whose values come through the kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lab import Page
from test_live_page import LOAD, SCALAR, counter, eventually_shows

MANY = """
@cs.query
def many(ctx, size: int = 10_000):
    n = ctx.run_query(count)
    return [{"number": i, "name": f"row {i % 97}", "value": (i * 7919 % 1000) / 4, "shared": n} for i in range(size)]
cs.grid(many)
"""


def cursor(page: Page) -> str:
    """The text of the cell the grid's cursor is on."""
    return str(
        page.page.evaluate(
            """() => document.getElementById(
                document.querySelector('[role=grid]').getAttribute('aria-activedescendant'))?.innerText"""
        )
    )


def test_a_grid_of_ten_thousand_rows_keeps_its_keys(notebook: Callable[..., Page], outside: Any) -> None:
    page = notebook("grid.ipynb", LOAD, counter("grid"), MANY)
    page.run_all()
    grid = page.page.locator("[role=grid]")
    page.wait_text(".cs-count", "10 000 rows", 20)
    assert grid.get_attribute("aria-rowcount") == "10001"
    assert page.page.locator("[role=gridcell]").count() < 400
    cells = page.page.locator(".jp-Cell").count()
    page.page.locator("[role=gridcell]").first.click()
    grid.focus()
    page.page.keyboard.press("ArrowDown")
    assert cursor(page) == "1"
    for key in ("d", "d", "x", "b"):  # commands of the notebook: cut cells, add one
        page.page.keyboard.press(key)
    page.page.keyboard.press("Control+End")
    page.page.keyboard.press("Home")
    assert cursor(page) == "9999"
    assert page.page.locator(".jp-Cell").count() == cells
    page.page.locator("[role=columnheader]", has_text="value").click()
    page.page.keyboard.press("Control+Home")
    page.shoot("grid")
    page.page.locator(".cs-filter").fill("row 13")
    page.wait_text(".cs-count", "of 10 000 rows")
    outside.mutation("grid:bump", by=5)
    page.wait_text("[role=gridcell]", "5")
    page.shoot("grid_filtered")
    assert page.troubles == []


def test_a_view_draws_again(notebook: Callable[..., Page], outside: Any) -> None:
    block = "@cs.view\ndef doubled():\n    return f'twice: {2 * count()}'"
    page = notebook("view.ipynb", LOAD, counter("view"), block)
    page.run_all()
    page.wait_text(".cs-view pre", "twice: 0")
    outside.mutation("view:bump", by=21)
    page.wait_text(".cs-view pre", "twice: 42")


def test_a_view_says_when_it_waits_for_the_kernel(notebook: Callable[..., Page], outside: Any) -> None:
    block = "@cs.view\ndef doubled():\n    return f'twice: {2 * count()}'"
    page = notebook("waits.ipynb", LOAD, counter("waits"), block, "import time; time.sleep(6)")
    page.run_all(wait=False)
    page.wait_text(".cs-view pre", "twice: 0", 20)
    outside.mutation("waits:bump", by=1)
    page.wait_text(".cs-view .cs-badge", "waiting for the kernel", 5)
    page.wait_text(".cs-view pre", "twice: 2", 15)
    page.wait_text(".cs-view .cs-badge", "kernel")


def test_a_form_and_a_button_call_while_the_kernel_is_busy(notebook: Callable[..., Page], outside: Any) -> None:
    page = notebook(
        "form.ipynb",
        LOAD,
        counter("form"),
        "cs.live(count)",
        "cs.form(bump)",
        "cs.button(bump, 'Add five', by=5)",
        "import time; time.sleep(6)",
    )
    page.run_all(wait=False)
    page.page.wait_for_selector(SCALAR, timeout=20_000)
    page.page.get_by_label("by").fill("3")
    page.page.get_by_role("button", name="Bump").click()
    eventually_shows(page, 3)
    page.page.get_by_role("button", name="Add five").click()
    eventually_shows(page, 8)
    page.page.get_by_label("by").fill("many")
    page.page.get_by_role("button", name="Bump").click()
    assert page.page.locator("input.cs-wrong").count() == 1
    page.shoot("form")


def test_without_a_server_the_kernel_relays(notebook: Callable[..., Page]) -> None:
    page = notebook(
        "embedded.ipynb",
        "import cellstore as cs\n%load_ext cellstore\n%cellstore open :memory:",
        counter("embedded"),
        "cs.live(count)",
        "cs.button(bump, 'Go')",
        "import time\nfor _ in range(4):\n    bump()\n    time.sleep(0.7)",
    )
    page.run_all(wait=False)
    page.wait_text(".cs-badge", "embedded", 20)
    eventually_shows(page, 2)  # while the cell is still busy
    eventually_shows(page, 4)
    page.page.get_by_role("button", name="Go").click()
    eventually_shows(page, 5)
    page.shoot("embedded")
