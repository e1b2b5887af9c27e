"""The tour in a real JupyterLab, as a newcomer runs it: every cell, then a commit from outside, then a new kernel."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab import TOKEN, Lab, Page

import cellstore as cs

TOUR = Path(__file__).parents[2] / "notebooks" / "01_tour.ipynb"
MONTHS = os.environ.get("CELLSTORE_TOUR_MONTHS", "1")  # nbval runs the tour on the whole year

ERRORS = """() => [...window.jupyterapp.shell.currentWidget.content.model.cells]
    .flatMap(cell => cell.toJSON().outputs ?? []).filter(output => output.output_type === 'error')
    .map(output => `${output.ename}: ${output.evalue}`)"""
SHOW = """async heading => {
    const content = window.jupyterapp.shell.currentWidget.content;
    const at = [...content.model.cells].findIndex(cell => cell.sharedModel.getSource().startsWith(heading));
    content.activeCellIndex = at;
    await content.scrollToCell(content.activeCell, 'start');
}"""


def outputs(page: Page, text: str) -> Any:
    """The live views among the outputs that show `text`."""
    return page.page.locator(".cs-live", has_text=text)


def write_tour(lab: Lab) -> None:
    text = TOUR.read_text(encoding="utf-8")
    assert "MONTHS = range(1, 13)" in text
    (lab.root / "01_tour.ipynb").write_text(text.replace("range(1, 13)", f"range(1, {int(MONTHS) + 1})"), "utf-8")


def test_the_tour_runs_and_stays_live(notebook: Callable[..., Page], lab: Lab) -> None:
    write_tour(lab)
    page = notebook("01_tour.ipynb")
    page.run_all()
    assert page.page.evaluate(ERRORS) == []
    page.command("application:toggle-left-area")
    page.page.evaluate(SHOW, "cs.live(board")
    board, ranking = outputs(page, "airline").first, outputs(page, "mean_delay").first
    page.wait_text(".cs-live", "MQ 3792", 20)

    with cs.connect(lab.url, token=TOKEN) as db:  # another process, to the server
        flights = db.query("01_tour:board", origin="JFK", month=1, day=1, hour=11)
        was, mean = board.inner_text(), ranking.inner_text()
        db.mutation("01_tour:post_delay", flight_id=flights[0]["_id"], minutes=300)
        page.page.wait_for_function("([e, t]) => e.innerText !== t", arg=[board.element_handle(), was])
        page.page.wait_for_function("([e, t]) => e.innerText !== t", arg=[ranking.element_handle(), mean])
        page.shoot("tour-live")

        page.restart_kernel()
        was = board.inner_text()
        db.mutation("01_tour:post_delay", flight_id=flights[0]["_id"], minutes=7)
        page.page.wait_for_function("([e, t]) => e.innerText !== t", arg=[board.element_handle(), was])
    assert page.troubles == []
    keep(page, lab)


def keep(page: Page, lab: Lab) -> None:
    """Save the notebook as it is now, if somebody asked for it, without what only this page can use."""
    place = os.environ.get("CELLSTORE_SHOTS")
    if place:
        page.save()
        saved = json.loads((lab.root / "01_tour.ipynb").read_text(encoding="utf-8"))
        saved["metadata"].pop("widgets", None)
        Path(place, "01_tour.ipynb").write_text(json.dumps(saved, indent=1, ensure_ascii=False) + "\n", "utf-8")
        shutil.copy(lab.home / "server.log", place)
