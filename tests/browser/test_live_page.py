"""What a person sees: values that move while a cell is busy, after a restart, together."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from lab import Page

LOAD = "%load_ext cellstore\nimport cellstore as cs"
COUNTER = """
@cs.query
def count(ctx):
    row = ctx.db.query("counters").first()
    return row.n if row else 0

@cs.query
def rows(ctx, size: int = 5):
    n = ctx.run_query(count)
    return [{"name": f"row {i}", "n": n, "share": n / (i + 1)} for i in range(size)]

@cs.mutation
def bump(ctx, by: int = 1):
    row = ctx.db.query("counters").first()
    if row is None:
        ctx.db.insert("counters", {"n": by})
        return by
    ctx.db.patch(row._id, {"n": row.n + by})
    return row.n + by

bump(by=0)
"""


def counter(name: str) -> str:
    """A cell with a counter of this notebook's own."""
    return COUNTER.replace("counters", name)


SCALAR = ".cellstore.cs-live .cs-scalar"


def shown(page: Page, selector: str = SCALAR) -> int:
    return int(page.text(selector))


def eventually_shows(page: Page, number: int, selector: str = SCALAR, seconds: float = 10) -> None:
    page.page.wait_for_function(
        "([s, n]) => document.querySelector(s)?.innerText === n", arg=[selector, str(number)], timeout=seconds * 1000
    )


def test_a_value_moves_while_a_cell_sleeps(notebook: Callable[..., Page], outside: Any) -> None:
    page = notebook("busy.ipynb", LOAD, counter("busy"), "cs.live(count)", "import time; time.sleep(8); print('awake')")
    page.run_all(wait=False)
    page.wait_text(".cs-badge", "direct", 30)
    page.page.wait_for_selector(SCALAR)
    began = time.monotonic()
    for _ in range(3):
        eventually_shows(page, outside.mutation("busy:bump", by=1))
    assert time.monotonic() - began < 6
    assert page.page.locator(".jp-OutputArea-output", has_text="awake").count() == 0
    page.shoot("busy")
    assert page.troubles == []


def test_after_a_kernel_restart_the_view_is_still_live(notebook: Callable[..., Page], outside: Any) -> None:
    page = notebook("restart.ipynb", LOAD, counter("restart"), "cs.live(count)")
    page.run_all()
    page.page.wait_for_selector(SCALAR)
    page.restart_kernel()
    eventually_shows(page, outside.mutation("restart:bump", by=10))
    page.shoot("restarted")


def test_after_restart_and_reload_the_saved_view_is_live_again(notebook: Callable[..., Page], outside: Any) -> None:
    page = notebook("reload.ipynb", LOAD, counter("reload"), "cs.live(count)")
    page.run_all()
    page.page.wait_for_selector(SCALAR)
    page.save()
    page.restart_kernel()
    page.reload()
    page.page.wait_for_selector(SCALAR, timeout=20_000)
    eventually_shows(page, outside.mutation("reload:bump", by=100))


def test_two_widgets_never_disagree(notebook: Callable[..., Page], outside: Any) -> None:
    page = notebook("pair.ipynb", LOAD, counter("pair"), "cs.live(count)", "cs.live(rows)")
    page.run_all()
    page.page.wait_for_selector(SCALAR)
    page.page.wait_for_selector(".cs-live td")
    page.page.evaluate(
        """() => {
            window.seen = []; window.torn = [];
            const look = () => {
                const one = document.querySelector('.cs-live .cs-scalar').innerText;
                const two = document.querySelectorAll('.cs-live td')[1].innerText;
                if (one !== two) window.torn.push([one, two]);
                if (window.seen.at(-1) !== one) window.seen.push(one);
                window.frame = requestAnimationFrame(look);
            };
            look();
        }"""
    )
    last = 0
    for _ in range(60):
        last = outside.mutation("pair:bump", by=1)
    eventually_shows(page, last)
    assert page.page.evaluate("window.torn") == []
    assert len(page.page.evaluate("window.seen")) > 5


def test_two_pages_show_the_same(notebook: Callable[..., Page], outside: Any) -> None:
    one = notebook("twins.ipynb", LOAD, counter("twins"), "cs.live(count)")
    one.run_all()
    one.page.wait_for_selector(SCALAR)
    one.save()
    two = notebook("twins.ipynb")
    two.page.wait_for_selector(SCALAR, timeout=20_000)
    number = outside.mutation("twins:bump", by=1)
    eventually_shows(one, number)
    eventually_shows(two, number)


def test_a_failing_query_shows_the_users_line_and_heals(notebook: Callable[..., Page], outside: Any) -> None:
    wrong = "@cs.query\ndef share(ctx):\n    n = ctx.db.query('broken').first().n\n    return 100 // (n - 7)\ncs.live(share)"
    page = notebook("broken.ipynb", LOAD, counter("broken"), wrong)
    page.run_all()
    page.page.wait_for_selector(SCALAR)
    outside.mutation("broken:bump", by=7)
    page.wait_text(".cs-error", "return 100 // (n - 7)")
    page.shoot("broken")
    outside.mutation("broken:bump", by=1)
    page.page.wait_for_selector(".cs-error", state="hidden")
    eventually_shows(page, 100)
