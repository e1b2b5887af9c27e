"""A cell run again ends what it made, unless another cell still shows it."""

from __future__ import annotations

import gc
from types import SimpleNamespace
from typing import Any

import pytest
from scripted import ScriptedDatabase

from cellstore.client import subscription
from cellstore_kernel.cells import Cells
from cellstore_kernel.widgets.live import LiveWidget


class Thing:
    """Something that can be closed."""

    closed = 0

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> Cells:
    """The cells that widgets and subscriptions of this test belong to."""
    made = Cells()
    for name in ("base", "live"):
        monkeypatch.setattr(f"cellstore_kernel.widgets.{name}.cells", made)
    monkeypatch.setattr(subscription, "on_made", [made.hold])
    return made


def run(cells: Cells, cell: str | None, *made: Any) -> None:
    cells.begin(SimpleNamespace(cell_id=cell))
    for thing in made:
        cells.hold(thing)
    cells.end()


def test_a_cell_run_again_ends_what_it_made_and_nothing_else() -> None:
    cells, first, second, other = Cells(), Thing(), Thing(), Thing()
    run(cells, "3", first)
    run(cells, "5", other)
    run(cells, "3", second)
    assert (first.closed, second.closed, other.closed) == (1, 0, 0)


def test_what_another_cell_shows_lives_until_that_one_runs_too() -> None:
    cells, board = Cells(), Thing()
    run(cells, "3", board)
    run(cells, "5", board)
    run(cells, "5", board)
    run(cells, "3")
    assert board.closed == 0
    run(cells, "5")
    assert board.closed == 1


def test_without_cells_and_between_them_nothing_is_held() -> None:
    cells, console, between = Cells(), Thing(), Thing()
    run(cells, None, console)
    run(cells, "3")
    cells.hold(between)
    run(cells, None)
    run(cells, "3")
    assert (console.closed, between.closed) == (0, 0)


def test_nothing_is_kept_alive() -> None:
    cells = Cells()
    run(cells, "3", Thing())
    gc.collect()
    assert len(cells._holders) == 0


def test_a_live_cell_run_five_times_is_one_live_query(own: ScriptedDatabase, cells: Cells) -> None:
    for _ in range(5):
        cells.begin(SimpleNamespace(cell_id="3"))
        widget = LiveWidget(own, "m:board", {}, kind="live")  # type: ignore[arg-type]
        widget._repr_mimebundle_()
        sub = own.subscribe("m:board")
        cells.end()
    own.link.on_loop(lambda: None)
    assert (widget.status, sub.status) == ("loading", "loading")
    assert own.link._machine.queries.get(0) is None, "the first run's query was never left"
    assert [query.watchers for query in own.link._machine.queries._by_id.values()] == [3]


def test_a_widget_shown_elsewhere_goes_on_following(own: ScriptedDatabase, cells: Cells) -> None:
    cells.begin(SimpleNamespace(cell_id="3"))
    widget = LiveWidget(own, "m:board", {}, kind="live")  # type: ignore[arg-type]
    cells.begin(SimpleNamespace(cell_id="5"))
    widget._repr_mimebundle_()
    cells.begin(SimpleNamespace(cell_id="3"))
    own.link.step(10, board=1)
    assert (widget.status, widget.value) == ("live", 1)
