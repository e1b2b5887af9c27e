"""How long what a notebook deployed lives: beyond its kernel, until a cell replaces it or takes it away."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "kernel"))

from server_process import TOKEN, ServerProcess
from test_kernel import Cell, Kernel

import cellstore as cs
from cellstore.client.watching import deploy_path

ONE = "@cs.query\ndef one(ctx):\n    return add(1)"
TWO = "@cs.query\ndef two(ctx):\n    return add(2)"
HELPER = "def add(n):\n    return n + 10"
THINGS = "class Thing(cs.Table, name='things'):\n    n: int\n    by_n = cs.Index('n')"
TICK = "@cs.every(seconds=1)\n@cs.mutation\ndef tick(ctx):\n    ctx.db.insert('things', {'n': add(ctx.run_query(one))})"
COUNT = "len(cs.snapshot().df('things'))"
STANDS_STILL = f"import time\ntime.sleep(.3)\nfirst = {COUNT}\ntime.sleep(2.2)\n{COUNT} == first"
NOTEBOOK = {"things": THINGS, "helper": HELPER, "one": ONE, "two": TWO, "tick": TICK}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    started = ServerProcess(tmp_path_factory.mktemp("server")).start()
    yield started
    started.stop()


Start = Callable[..., "Notebook"]


class Notebook:
    """A notebook whose kernel can be started again."""

    def __init__(self, server: ServerProcess, cwd: Path, name: str) -> None:
        self._server, self._cwd, self.name = server, cwd, name
        cwd.mkdir(exist_ok=True)
        self.kernel = self._start()

    def _start(self) -> Kernel:
        kernel = Kernel(self._cwd, self.name)
        loaded = kernel.run(
            f"%load_ext cellstore\nimport cellstore as cs\n%cellstore connect {self._server.url} --token {TOKEN}"
        )
        assert loaded.errors == []
        return kernel

    def restart(self) -> None:
        self.kernel.stop()
        self.kernel = self._start()

    def run(self, code: str, cell_id: str = "") -> Cell:
        cell = self.kernel.run(code, cell_id=cell_id)
        assert cell.errors == [], cell.errors
        return cell

    def run_all(self, **cells: str) -> None:
        for name, code in {**NOTEBOOK, **cells}.items():
            self.run(code, name)

    def deployed(self) -> list[str]:
        listed = f"[f['path'].split(':')[1] for f in cs.functions() if f['module'] == {self.name!r}]"
        names: list[str] = eval(self.run(listed).text)
        return names

    def ask(self, name: str) -> str:
        return self.run(f"cs.current().query('{self.name}:{name}')").text


@pytest.fixture(scope="module")
def living(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    started = Notebook(server, tmp_path_factory.mktemp("living"), "living")
    yield started
    started.kernel.stop()


@pytest.fixture
def notebook(living: Notebook) -> Notebook:
    """A notebook all of whose cells have run."""
    living.kernel.run("cs.drop('living')")
    living.run_all()
    return living


@pytest.fixture
def start(server: ServerProcess, tmp_path: Path) -> Iterator[Start]:
    notebooks: list[Notebook] = []

    def begin(place: str, name: str) -> Notebook:
        notebooks.append(Notebook(server, tmp_path / place, name))
        return notebooks[-1]

    yield begin
    for each in notebooks:
        each.kernel.run(f"cs.drop({each.name!r})")  # its schedules, too
        each.kernel.stop()


def test_what_a_notebook_deployed_lives_on_when_its_next_kernel_runs_one_cell(notebook: Notebook) -> None:
    notebook.restart()
    notebook.run("def add(n):\n    return n + 100")
    notebook.run(ONE, "one")
    assert notebook.deployed() == ["one", "tick", "two"]
    assert (notebook.ask("one"), notebook.ask("two")) == ("101", "12"), "each keeps the helper it was deployed with"
    assert notebook.run("[list(t['indexes']) for t in cs.tables() if t['name'] == 'things']").text.endswith("'by_n']]")
    notebook.run(f"import time\nfirst = {COUNT}\nwhile {COUNT} < first + 2: time.sleep(.1)")
    assert notebook.run("int(cs.snapshot().df('things').n.max())").text == "111", "the schedule calls the new one"


def test_a_restart_of_the_server_changes_nothing_of_it(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "root").start()
    try:
        notebook = Notebook(server, tmp_path / "own", "mine")
        notebook.run_all()
        notebook.restart()
        notebook.run(HELPER)
        notebook.run(ONE.replace("add(1)", "'again'"), "one")
        server.stop()
        server.start()
        notebook.restart()
        assert notebook.deployed() == ["one", "tick", "two"]
        assert (notebook.ask("one"), notebook.ask("two")) == ("'again'", "12")
        notebook.kernel.stop()
    finally:
        server.stop()


def test_a_function_deleted_or_renamed_in_its_cell_goes_and_the_cell_says_so(notebook: Notebook) -> None:
    said = notebook.run(TWO.replace("two", "deux"), "two").printed
    assert f"{notebook.name}:two is taken away: its cell no longer defines it" in said
    assert notebook.deployed() == ["deux", "one", "tick"]
    assert ":deux is taken away: del deux" in notebook.run("del deux", "scratch").printed
    assert notebook.deployed() == ["one", "tick"]


def test_a_function_renamed_after_a_restart_goes_too(notebook: Notebook) -> None:
    notebook.restart()
    notebook.run(HELPER, "helper")
    assert ":two is taken away" in notebook.run(TWO.replace("two", "deux"), "two").printed
    assert notebook.deployed() == ["deux", "one", "tick"]
    assert notebook.run(TWO.replace("two", "deux"), "two").printed == ""


KEEPS = {
    "a call in the cell that defined it": "one()",
    "its path": "cs.current().query('living:one')",
    "another cell": "1 + 1",
}


@pytest.mark.parametrize("case", KEEPS)
def test_a_cell_that_still_mentions_a_function_or_is_another_keeps_it(notebook: Notebook, case: str) -> None:
    assert notebook.run(KEEPS[case], "one" if case != "another cell" else "other").printed == ""
    assert "one" in notebook.deployed()


def test_what_a_cell_that_fails_or_rebinds_or_resets_leaves_out_stays(notebook: Notebook) -> None:
    assert notebook.kernel.run("1 / 0", cell_id="two").errors
    notebook.run("one = 3\nagain = two\ndel two")
    notebook.run("%reset -f")
    notebook.run("import cellstore as cs")
    assert notebook.deployed() == ["one", "tick", "two"]


def test_a_function_taken_away_comes_back_when_it_is_called(notebook: Notebook) -> None:
    notebook.run("kept = {'f': one}\ndel one, two, tick")
    assert notebook.deployed() == []
    assert notebook.run("kept['f']()").text == "11"
    assert notebook.deployed() == ["one"]


def test_drop_takes_away_what_no_kernel_knows_with_its_schedule_and_leaves_the_table(notebook: Notebook) -> None:
    notebook.restart()
    assert notebook.run("%cellstore drop tick two").printed == f"dropped {notebook.name}:tick, {notebook.name}:two\n"
    assert notebook.deployed() == ["one"]
    assert notebook.run(STANDS_STILL).text == "True"
    [error] = notebook.kernel.run("%cellstore drop three").errors
    assert "there is no function 'three'" in error
    assert notebook.run(f"cs.drop('{notebook.name}')").text == f"['{notebook.name}:one']"
    assert "things" in notebook.run("[t['name'] for t in cs.tables()]").text


def test_a_schedule_goes_with_its_decorator(notebook: Notebook) -> None:
    notebook.restart()
    notebook.run(HELPER)
    notebook.run(TICK.partition("\n")[2].replace("ctx.run_query(one)", "5"), "tick")
    assert notebook.run(STANDS_STILL).text == "True"


def test_two_notebooks_of_one_name_share_the_module_and_are_told_of_what_they_take(start: Start) -> None:
    first, second = start("a", "shared"), start("b", "shared")
    first.run_all()
    assert second.run("@cs.query\ndef third(ctx):\n    return 3").printed == ""
    assert first.deployed() == ["one", "third", "tick", "two"]
    said = second.run("@cs.query\ndef two(ctx):\n    return 'second'").printed
    assert "shared:two was deployed from" in said
    assert "a/shared.ipynb until now" in said
    assert (first.ask("one"), first.ask("two")) == ("11", "'second'")
    told = first.run("import time; time.sleep(2.1)").printed + first.run("1 + 1").printed
    assert "shared:two is now deployed from" in told
    assert "b/shared.ipynb" in told
    assert "shared:one" not in told


def test_a_file_is_whole_and_leaves_what_a_notebook_of_its_name_deployed(
    start: Start, server: ServerProcess, tmp_path: Path
) -> None:
    notebook, file = start("here", "both"), tmp_path / "both.py"
    notebook.run_all()
    said: list[str] = []
    with cs.connect(server.url, TOKEN) as db:
        file.write_text(
            "import cellstore as cs\n@cs.query\ndef alpha(ctx): ...\n@cs.query\ndef two(ctx): return 'file'\n"
        )
        deploy_path(db, file, said.append)
        assert said[-1].endswith("both.ipynb): added both:alpha; changed both:two")
        assert notebook.deployed() == ["alpha", "one", "tick", "two"]
        file.write_text("import cellstore as cs\n@cs.query\ndef beta(ctx): ...\n")
        deploy_path(db, file, said.append)
    assert said[-1].endswith("added both:beta; removed both:alpha, both:two")
    assert notebook.deployed() == ["beta", "one", "tick"]
