"""Grid, view, form and button in a page; and a page whose values come through the kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
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


def column(page: Page, number: int) -> list[str]:
    """The texts in a column of the grid, as far as they are in sight, from the top."""
    rows = page.page.locator(".cs-gbody [role=row]")
    found = {int(each.get_attribute("data-at")): each.locator("[role=gridcell]").nth(number) for each in rows.all()}
    return [found[at].inner_text() for at in sorted(found)]


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
    page.page.keyboard.press("Escape")
    assert page.page.evaluate("document.activeElement.closest('.cellstore')") is None
    assert page.troubles == []


def test_a_grid_that_has_room_shows_all_its_rows_and_no_scroll_bar(notebook: Callable[..., Page]) -> None:
    page = notebook("few.ipynb", LOAD, counter("few"), MANY.replace("10_000", "4"))
    page.run_all()
    page.wait_text(".cs-count", "4 rows", 20)
    bars = page.page.locator("[role=grid]").evaluate(
        "e => [e.offsetWidth - e.clientWidth, e.offsetHeight - e.clientHeight, e.scrollHeight - e.clientHeight]"
    )
    assert bars == [2, 2, 0], "only borders"


def test_a_grid_sorts_filters_and_stays_so_when_data_change(notebook: Callable[..., Page], outside: Any) -> None:
    page = notebook("sorted.ipynb", LOAD, counter("sorted"), MANY)
    page.run_all()
    page.wait_text(".cs-count", "10 000 rows", 20)
    heading = page.page.locator("[role=columnheader]", has_text="value")
    heading.click()
    assert heading.get_attribute("aria-sort") == "ascending"
    heading.click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert column(page, 2)[:11] == ["249.75"] * 10 + ["249.50"]
    page.page.locator(".cs-filter").fill("row 13")
    page.wait_text(".cs-count", "of 10 000 rows")
    before = column(page, 0), page.text(".cs-count")
    outside.mutation("sorted:bump", by=5)
    page.page.wait_for_function(
        "() => [...document.querySelectorAll('.cs-gbody [role=row]')]"
        ".every(row => row.querySelectorAll('[role=gridcell]')[3].innerText === '5')"
    )
    assert (column(page, 0), page.text(".cs-count")) == before
    page.page.locator(".cs-filter").fill("nobody")
    page.wait_text(".cs-empty", "no row matches the filter")
    page.shoot("grid")


EDITED = """
@cs.query
def things(ctx):
    return ctx.db.query("things").collect()

@cs.mutation
def set_price(ctx, thing_id: cs.Id["things"], price: int):
    if price < 0:
        raise cs.ApplicationError("a price is not negative")
    ctx.db.patch(thing_id, {"price": price})

@cs.mutation
def fill(ctx):
    for name, price in (("lamp", 12), ("chair", 80)):
        ctx.db.insert("things", {"name": name, "price": price})
fill()
cs.grid(things, edit=set_price)
"""


def test_a_cell_of_a_grid_is_edited_through_a_mutation(notebook: Callable[..., Page], outside: Any) -> None:
    page = notebook("edited.ipynb", LOAD, EDITED)
    page.run_all()
    page.wait_text("[role=gridcell]", "lamp")

    def edit(text: str) -> None:
        page.page.locator("[role=gridcell]").nth(1).dblclick()
        page.page.locator(".cs-editing input").fill(text)
        page.page.keyboard.press("Enter")

    edit("15")
    page.wait_text("[role=gridcell]", "15")
    assert [each.price for each in outside.query("edited:things")] == [15, 80]
    edit("-1")
    page.wait_text(".cs-error", "a price is not negative")
    assert column(page, 1) == ["15", "80"]
    edit("cheap")
    page.wait_text(".cs-error", "expected int, got str 'cheap'")
    page.shoot("grid_edit")


def test_charts_and_frames_are_drawn_again(notebook: Callable[..., Page], outside: Any) -> None:
    frame = "@cs.view\ndef frame():\n    return rows.df(size=3)[['name', 'n']]"
    chart = "@cs.view\ndef chart():\n    rows.df().plot.barh(x='name', y='share', figsize=(5, 2))"
    page = notebook("view.ipynb", LOAD, counter("view"), frame, chart)
    page.run_all()
    page.page.wait_for_selector(".cs-view img")
    before = page.page.locator(".cs-view img").get_attribute("src")
    assert page.page.locator(".cs-view table").inner_text().split()[-1] == "0"
    outside.mutation("view:bump", by=21)
    page.page.wait_for_function("document.querySelector('.cs-view table').innerText.trim().endsWith('21')")
    page.page.wait_for_function("old => document.querySelector('.cs-view img').src !== old", arg=before)
    page.shoot("views")


def test_a_view_says_when_it_waits_for_the_kernel(notebook: Callable[..., Page], outside: Any) -> None:
    block = "@cs.view\ndef doubled():\n    return f'twice: {2 * count()}'"
    page = notebook("waits.ipynb", LOAD, counter("waits"), block, "import time; time.sleep(3)")
    page.run_all(wait=False)
    page.wait_text(".cs-view pre", "twice: 0", 20)
    outside.mutation("waits:bump", by=1)
    page.wait_text(".cs-view .cs-badge", "waiting for the kernel", 2.5)
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
        "import time; time.sleep(30)",
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
    page.wait_text(".cs-problem", "a whole number, not 'many'")
    page.shoot("form")


SAYING = """
import warnings
@cs.query
def tallied(ctx):
    n = ctx.run_query(count)
    print(f"counted to {n}")
    if n > 1: warnings.warn("more than one")
    return "steady"
@cs.mutation
def talk(ctx, text: str):
    print("heard", repr(text))
"""


@pytest.mark.parametrize("where", ["", "%cellstore open :memory:"], ids=["direct", "through the kernel"])
def test_what_functions_say_is_seen_in_the_view_and_beside_the_button(
    notebook: Callable[..., Page], where: str
) -> None:
    views = ("cs.live(tallied)", "cs.button(bump, 'Bump')", "cs.button(talk, 'Talk', text='hi')")
    page = notebook("saying.ipynb", f"{LOAD}\n{where}", counter("saying"), SAYING, *views)
    page.run_all()
    page.wait_text(".cs-live .cs-logs summary", "counted to 0", 20)
    page.page.get_by_role("button", name="Bump").click()
    page.page.get_by_role("button", name="Bump").click()
    page.wait_text(".cs-live .cs-logs summary .cs-loud", "2 lines … ", 20)
    page.page.locator(".cs-live .cs-logs summary").click()
    page.wait_text(".cs-live .cs-logs pre", "counted to 2")
    assert "UserWarning: more than one" in page.text(".cs-live .cs-logs pre")
    page.page.get_by_role("button", name="Talk").click()
    page.wait_text(".cs-button .cs-logs summary", "heard 'hi'")
    page.shoot(f"saying-{'relay' if where else 'direct'}")
    assert page.troubles == []


def test_a_text_that_is_needed_and_left_empty_says_so(notebook: Callable[..., Page], outside: Any) -> None:
    shaped = (
        "@cs.mutation\ndef note(ctx, text: str, tag: str | None, kind: str = 'plain'):\n    return [text, tag, kind]"
    )
    page = notebook("empty.ipynb", LOAD, shaped, "cs.form(note)")
    page.run_all()
    push = page.page.get_by_role("button", name="Note")
    push.click()
    page.wait_text(".cs-problem", "a text is needed")
    page.page.get_by_label("text").fill('""')
    push.click()
    page.wait_text(".cs-outcome", "done: ['', None, 'plain']")
    page.page.get_by_label("text").fill("milk")
    page.page.get_by_label("kind").fill("")
    push.click()
    page.wait_text(".cs-outcome", "done: ['milk', None, '']")


@pytest.mark.parametrize("where", ["", "%cellstore open :memory:"], ids=["direct", "through the kernel"])
def test_a_button_shows_how_far_its_action_is_and_stops_it(notebook: Callable[..., Page], where: str) -> None:
    action = (
        "import asyncio\n@cs.action\nasync def fetch(ctx):\n    for n in range(1000):\n"
        "        ctx.progress(n + 1, 1000, f'page {n + 1}')\n        await asyncio.sleep(0.1)"
    )
    page = notebook("progress.ipynb", f"{LOAD}\n{where}", action, "cs.button(fetch, 'Fetch')")
    page.run_all(wait=False)
    page.page.get_by_role("button", name="Fetch").click()
    page.page.wait_for_selector("progress.cs-far[value]:visible", timeout=20_000)
    page.wait_text(".cs-outcome", "of 1,000 · page", 20)
    page.page.get_by_role("button", name="Stop").click()
    page.wait_text(".cs-error-head", "was stopped by its caller", 20)
    assert not page.page.locator("progress.cs-far").is_visible()


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
