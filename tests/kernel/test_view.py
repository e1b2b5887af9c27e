"""`View` over a scripted link: what it draws, and when it draws again."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from scripted import ScriptedDatabase, eventually

import cellstore as cs
from cellstore.client.recording import note
from cellstore.errors import CallerError
from cellstore.values import json as native
from cellstore_kernel.widgets import view as views
from cellstore_kernel.widgets.view import View


class Store(dict[str, Any]):
    """The answers one-shot queries get, next to a scripted link for live ones."""

    def __init__(self, database: ScriptedDatabase, **values: Any) -> None:
        super().__init__(values)
        self.database = database

    def ask(self, name: str) -> Any:
        """What a handle does: the question is written down, then answered."""
        call = note(self.database, f"m:{name}", {})  # type: ignore[arg-type]
        answer = native.dumps(self[name])
        if call is not None:
            call.answer = answer
        return native.loads(answer)

    def commit(self, ts: int, **values: Any) -> None:
        self.update(values)
        self.database.link.step(ts, **values)


def made(block: Any, database: ScriptedDatabase) -> View:
    return View(block, database)  # type: ignore[arg-type]


def texts(view: View) -> list[str]:
    return [text for _, text, *_ in view.outputs]


def test_a_view_draws_again_when_a_query_it_called_changes(own: ScriptedDatabase) -> None:
    store = Store(own, count=1)
    view = made(lambda: store.ask("count"), own)
    assert texts(view) == ["1"]
    store.commit(10, count=1)
    store.commit(20, count=2)
    eventually(lambda: texts(view) == ["2"])


def test_an_answer_it_has_seen_already_draws_nothing(own: ScriptedDatabase) -> None:
    store = Store(own, count=1)
    runs: list[int] = []
    made(lambda: runs.append(store.ask("count")), own)
    store.commit(10, count=1)
    store.commit(20, count=5)
    eventually(lambda: len(runs) == 2)
    assert runs == [1, 5]


def test_it_follows_only_what_its_latest_run_asked(own: ScriptedDatabase) -> None:
    store = Store(own, which="a", a=1, b=2)
    view = made(lambda: store.ask(store.ask("which")), own)
    assert [path for path, _ in view.queries] == ["m:which", "m:a"]
    store.commit(10, which="b", a=1)
    eventually(lambda: [path for path, _ in view.queries] == ["m:which", "m:b"])
    assert texts(view) == ["2"]


def test_a_block_may_change_what_it_was_given(own: ScriptedDatabase) -> None:
    store = Store(own, rows=[3, 1, 2])
    runs: list[int] = []

    def block() -> list[int]:
        rows: list[int] = store.ask("rows")
        runs.append(1)
        rows.sort()
        return rows

    view = made(block, own)
    store.commit(10, rows=[3, 1, 2])
    store.commit(20, rows=[9, 8])
    eventually(lambda: texts(view) == ["[8, 9]"])
    assert len(runs) == 2


def test_an_error_in_the_block_names_the_users_line_and_heals(own: ScriptedDatabase) -> None:
    store = Store(own, count=0)
    view = made(lambda: 6 // store.ask("count"), own)
    assert view.failure["code"] == "ZeroDivisionError"
    assert "6 // store.ask" in view.failure["traceback"]
    assert "cellstore_kernel" not in view.failure["traceback"]
    store.commit(10, count=0)
    store.commit(20, count=3)
    eventually(lambda: view.failure is None)
    assert texts(view) == ["2"]


def test_a_figure_is_a_picture_and_is_not_left_open(own: ScriptedDatabase) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    other = plt.figure()

    def block() -> Any:
        _, axes = plt.subplots()
        axes.plot([1, 2])
        return axes

    view = made(block, own)
    [[mime, data, width]] = view.outputs
    assert (mime, base64.b64decode(data)[:4]) == ("image/png", b"\x89PNG")
    assert 100 < width < 1000
    assert [plt.figure(number) for number in plt.get_fignums()] == [other]
    plt.close(other)


def test_readers_without_us_see_what_was_printed(own: ScriptedDatabase) -> None:
    own.link.step(10)
    data, _ = made(lambda: print("three"), own)._repr_mimebundle_()
    assert data["text/plain"].splitlines()[1] == "three"
    assert "three" in data["text/html"]


def test_what_takes_arguments_or_awaits_is_no_view(own: ScriptedDatabase) -> None:
    async def later() -> None: ...

    for wrong in (lambda x: x, later, 5):
        with pytest.raises(CallerError):
            views.view(wrong)  # type: ignore[arg-type]


def test_many_commits_while_a_block_runs_are_one_more_run(own: ScriptedDatabase) -> None:
    store = Store(own, count=0)
    runs: list[int] = []

    def block() -> None:
        runs.append(store.ask("count"))
        if len(runs) == 1:
            return
        for ts in range(len(runs) * 100, len(runs) * 100 + (20 if len(runs) == 2 else 0)):
            store.commit(ts, count=ts)

    made(block, own)
    store.commit(1, count=0)
    store.commit(2, count=1)
    eventually(lambda: len(runs) >= 3 and runs[-1] == 219)
    assert len(runs) <= 4


@pytest.mark.parametrize("statement", ["select sum(n) as n from birds", "select sum(weight) as n from birds"])
def test_sql_that_fails_says_so_and_is_asked_again_when_its_table_changes(tmp_path: Path, statement: str) -> None:
    """Its table is not there yet, or has no such column yet."""
    with cs.open(tmp_path / "store.db") as db:
        view = View(lambda: db.sql(statement).rows()[0]["n"], db)
        assert "birds" in view.failure["message"]
        db.insert_df("birds", [{"n": 5, "weight": 5}], progress=False)
        eventually(lambda: view.failure is None and texts(view) == ["5"])
        view.close()
