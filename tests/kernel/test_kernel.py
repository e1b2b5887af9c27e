"""A real kernel: the extension, functions in cells, what is shown when something is wrong. No server, so: embedded."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import start_new_kernel


class Kernel:
    """One kernel; `run` gives what a cell printed, its result, its errors."""

    def __init__(self, cwd: Path, notebook: str = "tasks") -> None:
        hidden = ("CELLSTORE_SERVER", "JPY_", "JUPYTER_")
        env = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        env |= {"JPY_SESSION_NAME": str(cwd / f"{notebook}.ipynb"), "JUPYTER_RUNTIME_DIR": str(cwd / "runtime")}
        env |= {"IPYTHONDIR": str(cwd / "ipython")}
        (cwd / "runtime").mkdir(exist_ok=True)
        self.manager, self.client = start_new_kernel(cwd=str(cwd), env=env, startup_timeout=60)

    def run(self, code: str, timeout: float = 60, cell_id: str = "") -> Cell:
        cell = Cell()
        self.client.session.metadata = {"cellId": cell_id} if cell_id else {}
        reply = self.client.execute_interactive(code, output_hook=cell.take, timeout=timeout, allow_stdin=False)
        cell.status, cell.id = reply["content"]["status"], reply["parent_header"]["msg_id"]
        return cell

    def late(self, cell: Cell, text: str, seconds: float = 5) -> str:
        """What is printed under a cell that has ended, up to `text`. Fails when something is printed elsewhere."""
        said, deadline = "", time.monotonic() + seconds
        while text not in said:
            message = self.client.get_iopub_msg(timeout=max(0.01, deadline - time.monotonic()))
            if message["header"]["msg_type"] in ("stream", "error"):
                assert message["parent_header"]["msg_id"] == cell.id, message["content"]
                said += message["content"].get("text", "")
        return said

    def stop(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=False)


class Cell:
    """What came of one cell."""

    def __init__(self) -> None:
        self.printed, self.status = "", ""
        self.id = ""
        self.shown: list[dict[str, Any]] = []
        self.errors: list[str] = []

    def take(self, message: dict[str, Any]) -> None:
        content = message["content"]
        match message["header"]["msg_type"]:
            case "stream":
                self.printed += content["text"]
            case "execute_result" | "display_data":
                self.shown.append(content["data"])
            case "error":
                self.errors.append("\n".join(content["traceback"]))

    @property
    def text(self) -> str:
        return str(self.shown[-1]["text/plain"])


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    started = Kernel(tmp_path_factory.mktemp("kernel"))
    yield started
    started.stop()


@pytest.fixture(scope="module")
def loaded(kernel: Kernel) -> Kernel:
    """The kernel, extension loaded, two functions deployed."""
    cell = kernel.run("%load_ext cellstore\nimport cellstore as cs")
    assert "embedded" in cell.printed, cell.printed + "".join(cell.errors)
    kernel.run(
        """
@cs.query
def texts(ctx):
    return [task.text for task in ctx.db.query("tasks")]

@cs.mutation
def add(ctx, text: str) -> cs.Id["tasks"]:
    return ctx.db.insert("tasks", {"text": text, "completed": False})
"""
    )
    return kernel


def test_loading_says_what_is_used_and_may_be_repeated(loaded: Kernel) -> None:
    again = loaded.run(
        "%load_ext cellstore\nimport cellstore_kernel; cellstore_kernel.load_ipython_extension(get_ipython())"
    )
    assert ".cellstore/default/store.db" in again.printed
    status = loaded.run("%cellstore status").printed
    assert "embedded" in status
    assert "connected" in status


def test_a_function_runs_in_the_very_cell_that_defines_it(loaded: Kernel) -> None:
    cell = loaded.run("@cs.query\ndef one(ctx):\n    return 1\none()")
    assert (cell.text, cell.errors) == ("1", [])


def test_a_definition_deploys_quietly(loaded: Kernel) -> None:
    cell = loaded.run("@cs.query\ndef two(ctx):\n    return 2")
    assert (cell.printed, cell.shown, cell.errors) == ("", [], [])
    assert "tasks:two" in loaded.run("[f['path'] for f in cs.current().functions()]").text


def test_calls_come_back_as_plain_python(loaded: Kernel) -> None:
    loaded.run("add(text='milk')")
    assert loaded.run("texts()[-1:]").text == "['milk']"


def test_a_helper_redefined_in_a_later_cell_is_deployed_again(loaded: Kernel) -> None:
    loaded.run("FACTOR = 2\ndef helper():\n    return 21\n@cs.query\ndef answer(ctx):\n    return helper() * FACTOR")
    assert loaded.run("cs.current().query('tasks:answer')").text == "42"
    loaded.run("def helper():\n    return 50")
    assert loaded.run("cs.current().query('tasks:answer')").text == "100"
    loaded.run("LIST = [1]\n@cs.query\ndef listed(ctx):\n    return LIST")
    loaded.run("LIST.append(2)")
    assert loaded.run("cs.current().query('tasks:listed')").text == "[1, 2]"


def test_a_live_view_of_a_redefined_function_runs_again_at_once(loaded: Kernel) -> None:
    loaded.run("@cs.query\ndef version(ctx):\n    return 'old'\nwidget = cs.live(version)")
    assert loaded.run("widget.value").text == "'old'"
    loaded.run("@cs.query\ndef version(ctx):\n    return 'new'")
    assert loaded.run("widget._sub.wait(lambda v: v == 'new', timeout=5); widget.value").text == "'new'"


def test_what_cannot_travel_is_named_in_the_cell_and_the_old_version_serves_on(loaded: Kernel) -> None:
    loaded.run("import threading\n@cs.query\ndef guarded(ctx):\n    return 'fine'")
    loaded.run("lock = threading.Lock()")
    cell = loaded.run("@cs.query\ndef guarded(ctx):\n    return lock.locked()")
    assert cell.status == "error"
    [error] = cell.errors
    assert "DeployError" in error
    assert "lock" in error
    assert len(error.splitlines()) < 12
    assert loaded.run("1 + 1").errors == []  # not said again under every later cell
    assert loaded.run("cs.current().query('tasks:texts')").errors == []
    healed = loaded.run("@cs.query\ndef guarded(ctx):\n    return 'healed'\nguarded()")
    assert (healed.text, healed.errors) == ("'healed'", [])


def test_a_cell_beside_one_that_is_refused_is_reminded_and_deployed(loaded: Kernel) -> None:
    bad = loaded.run("stuck = (n for n in [1])\n@cs.query\ndef bad(ctx):\n    return stuck")
    assert "stuck" in bad.errors[-1]
    good = loaded.run("@cs.query\ndef good(ctx):\n    return 7\ngood()")
    assert (good.text, good.errors) == ("7", [])
    assert good.printed.startswith("cellstore: still not deployed: bad uses `stuck`"), good.printed
    assert good.printed.count("`stuck`") == 1, "said once, by the cell's end alone"
    assert loaded.run("1").printed == "", "nothing is defined here, so nothing is said"
    assert loaded.run("stuck = [1]").errors == []
    assert loaded.run("good()").text == "7"


def test_a_module_that_was_imported_is_not_packed_after_every_cell(loaded: Kernel) -> None:
    text = "import cellstore as cs\\n@cs.query\\ndef price(ctx):\\n    return 5\\n"
    loaded.run(f"open('imported_shop.py', 'w').write('{text}')\nimport sys; sys.path.insert(0, '.')")
    assert loaded.run("import imported_shop\nimported_shop.price()").text == "5"
    loaded.run(
        "db, packed = cs.current(), []\nreal = db.ship\ndb.ship = lambda module: (packed.append(module), real(module))[1]"
    )
    assert loaded.run("packed").text == "['tasks']"
    loaded.run("del db.ship")


def test_a_schema_the_data_refuse_is_named_in_the_cell(loaded: Kernel) -> None:
    loaded.run("add(text='bread')")
    cell = loaded.run("class Task(cs.Table, name='tasks'):\n    text: int\n    completed: bool = False")
    assert cell.status == "error"
    assert "text" in cell.errors[0]
    assert "int" in cell.errors[0]
    fine = loaded.run("class Task(cs.Table, name='tasks'):\n    text: str\n    completed: bool = False")
    assert fine.errors == []


def test_an_error_in_a_function_shows_the_users_own_lines(loaded: Kernel) -> None:
    loaded.run("@cs.query\ndef broken(ctx):\n    rows = {}\n    return rows['delay']")
    cell = loaded.run("broken()")
    assert "return rows['delay']" in cell.errors[0]
    assert "cellstore_kernel" not in cell.errors[0]
    assert "site-packages" not in cell.errors[0]


def test_a_live_widget_has_a_static_side(loaded: Kernel) -> None:
    cell = loaded.run("cs.live(texts)")
    bundle = cell.shown[-1]
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert "tasks:texts()" in bundle["text/plain"]
    assert "as of 20" in bundle["text/html"]


def test_values_are_fresh_inside_a_running_cell_and_observers_come_after_it(loaded: Kernel) -> None:
    loaded.run(
        "seen = []\nw = cs.live(texts)\nw.observe(lambda c: seen.append(len(c.new)), 'value')\nbefore = len(w.value)"
    )
    cell = loaded.run("add(text='tea')\n(len(w.value) - before, seen)")
    assert cell.text == "(1, [])"
    assert loaded.run("import asyncio; await asyncio.sleep(0.2); seen == [len(w.value)]").text == "True"


def test_a_view_shows_itself_and_draws_again(levels: Kernel) -> None:
    cell = levels.run("@cs.view\ndef total():\n    return f'{len(texts())} tasks'")
    assert len(cell.shown) == 1
    before = levels.run("total.outputs").text
    levels.run("add(text='salt')")
    levels.run("import asyncio; await asyncio.sleep(0.3)")
    assert levels.run("total.outputs").text != before


WATCHED = """
@cs.query
def level(ctx):
    row = ctx.db.query("levels").first()
    return row.n if row else 0

@cs.query
def inverse(ctx):
    return 1 // (ctx.run_query(level) - 7)

@cs.mutation
def set_level(ctx, n: int):
    row = ctx.db.query("levels").first()
    ctx.db.patch(row._id, {"n": n}) if row else ctx.db.insert("levels", {"n": n})
set_level(0)
"""


@pytest.fixture
def levels(loaded: Kernel) -> Kernel:
    assert loaded.run(WATCHED).errors == []
    return loaded


def test_what_an_observer_raises_is_printed_under_the_cell_that_observes(levels: Kernel) -> None:
    observing = levels.run("gauge = cs.live(level)\ngauge.observe(lambda change: 1 / 0, 'value')")
    quiet = levels.run("import time\nset_level(1)\ntime.sleep(0.2)")
    assert (quiet.printed, quiet.errors) == ("", [])
    said = levels.late(observing, "ZeroDivisionError: division by zero")
    assert "an observer of tasks:level() raised" in said
    assert "cellstore_kernel" not in said
    assert levels.run("gauge.close()").printed == ""


def test_what_a_callback_raises_is_printed_under_the_cell_that_subscribed(levels: Kernel) -> None:
    observing = levels.run("following = cs.subscribe(level, lambda value: {}['value'])")
    quiet = levels.run("import time\nset_level(2)\ntime.sleep(0.2)")
    assert (quiet.printed, quiet.errors) == ("", [])
    assert "the callback of live query tasks:level raised" in levels.late(observing, "KeyError: 'value'")
    assert levels.run("following.close()").printed == ""


def test_a_query_that_fails_live_prints_nothing_in_other_cells(levels: Kernel) -> None:
    levels.run("inverted = cs.live(inverse)")
    quiet = levels.run("import time\nset_level(7)\ntime.sleep(0.3)")
    assert (quiet.printed, quiet.errors) == ("", [])
    assert levels.run("inverted.status, inverted.error.message").text.startswith("('error', 'ZeroDivisionError")
    healed = levels.run(
        "set_level(8)\ninverted._sub.wait(lambda v: v == 1, timeout=5)\ninverted.status, inverted.error"
    )
    assert healed.text == "('live', None)"


def test_a_view_defined_again_takes_the_place_of_the_one_before(levels: Kernel) -> None:
    cell = "@cs.view\ndef total():\n    runs.append(1)\n    return level()"
    levels.run(f"runs = []\n{cell}\nold = total")
    levels.run(cell)
    levels.run("before = len(runs)\nset_level(40)")
    done = levels.run(
        "import asyncio\nwhile total.outputs[0][1] != '40': await asyncio.sleep(0.02)\nawait asyncio.sleep(0.2)"
    )
    assert done.errors == []
    assert levels.run("len(runs) - before, old.options['note']").text == "(1, 'defined again')"


def test_a_cell_run_again_leaves_one_live_view_and_one_callback(levels: Kernel) -> None:
    cell = "board = cs.live(level); cs.subscribe(level, heard.append)"
    levels.run(f"heard = []\nfor turn in range(4): get_ipython().run_cell({cell!r}, cell_id='c1')")
    levels.run("import asyncio\nwhile not heard: await asyncio.sleep(0.02)\nheard.clear(); set_level(77)")
    levels.run("while not heard: await asyncio.sleep(0.02)\nawait asyncio.sleep(0.2)")
    assert levels.run("heard, board.status, board.value").text == "([77], 'live', 77)"


def test_magics_list_and_query(loaded: Kernel) -> None:
    loaded.run("import pandas as pd\ncs.insert_df('listed', pd.DataFrame({'n': [1]}))")
    assert "listed" in loaded.run("%cellstore tables").text
    assert "tasks:add" in loaded.run("%cellstore functions").text
    wrong = loaded.run("%cellstore tabels")
    assert "tables" in wrong.errors[0]
    assert len(wrong.errors[0].splitlines()) < 8
    assert "usage" in loaded.run("%cellstore connect").errors[0].lower()


def test_a_table_is_dropped_by_its_magic(loaded: Kernel) -> None:
    loaded.run("import pandas as pd\ncs.insert_df('old', pd.DataFrame({'n': [1, 2]}))")
    assert "old" in loaded.run("%cellstore tables").text
    assert loaded.run("%cellstore drop-table old").printed == "dropped the table old\n"
    assert "old" not in loaded.run("%cellstore tables").text.split()
    assert "there is no table 'old'" in loaded.run("%cellstore drop-table old").errors[0]
    assert "say which table" in loaded.run("%cellstore drop-table").errors[0]


def test_sql_in_a_cell(loaded: Kernel) -> None:
    loaded.run("add(text='sugar')")
    cell = loaded.run("%%cellstore sql\nselect count(*) as n from tasks")
    assert cell.errors == []
    assert "n" in cell.text
    wrong = loaded.run("%%cellstore sql\nselect colour from tasks")
    assert wrong.errors[0].splitlines()[0].endswith('Referenced column "colour" not found in FROM clause!')


def test_live_sql_follows_the_data(levels: Kernel) -> None:
    levels.run("set_level(1)")
    cell = levels.run("%%cellstore sql --live\nselect n from levels")
    assert "as of 20" in cell.text
    assert cell.text.split()[-1] == "1"
    assert "<td>1</td>" in cell.shown[-1]["text/html"]
    levels.run("statement = _\nset_level(4)")
    shown = "import asyncio\nawait asyncio.sleep(0.1)\nstatement._texts[0].split()[-1]"
    deadline = time.monotonic() + 10
    while levels.run(shown).text != "'4'":
        assert time.monotonic() < deadline


def test_sql_is_live_in_a_view_and_for_the_tables_it_reads_alone(levels: Kernel) -> None:
    levels.run(
        "drawn = []\n@cs.view\ndef highest():\n    drawn.append(1)\n    return cs.sql('select max(n) as n from LEVELS').rows()"
    )
    levels.run("add(text='elsewhere')\nimport asyncio\nawait asyncio.sleep(0.3)")
    assert levels.run("len(drawn)").text == "1"
    levels.run("set_level(123)\nwhile '123' not in str(highest.outputs): await asyncio.sleep(0.02)")
    assert levels.run("await asyncio.sleep(0.3)\nlen(drawn)").text == "2"


def test_sql_that_fails_in_a_view_heals_when_its_table_appears(levels: Kernel) -> None:
    levels.run("@cs.view\ndef counted():\n    return cs.sql('select count(*) as c from plans').rows()")
    assert levels.run("counted.failure['code']").text == "'NotFound'"
    levels.run("@cs.mutation\ndef plan(ctx):\n    ctx.db.insert('plans', {})")
    levels.run("import asyncio\nplan()\nwhile counted.failure: await asyncio.sleep(0.02)")
    assert levels.run("counted.outputs[0][1]").text == "\"[{'c': 1}]\""


MISTAKES = [
    ("add(text=5)", "ValidationError", "add.text: expected str, got int 5"),
    ("add(txt='x')", "ValidationError", "'txt'"),
    ("add('a', 'b')", "ValidationError", "got 2 arguments by position and takes 1 (text)"),
    ("cs.current().query('tasks:text')", "NotFound", "Did you mean 'tasks:texts'"),
    ("cs.live('tasks:text')", "NotFound", "Did you mean 'tasks:texts'"),
    ("cs.form('tasks:ad')", "NotFound", "'tasks:ad'"),
    ("cs.live(add)", "CallerError", "tasks:add is a mutation; this needs a query"),
    ("cs.live(len)", "CallerError", "is no function of the store"),
    (
        "cs.live(list(range(99)))",
        "CallerError",
        "… is no function of the store; give a function decorated with @cs.query, not called",
    ),
    ("cs.button(add, txt='x')", "ValidationError", "'txt'"),
    ("cs.grid(texts, edit=add)", "CallerError", "none of its arguments"),
    ("no_index()", "NotFound", "by_colour"),
    ("no_table()", "ValidationError", "'tsaks!' cannot name a table"),
]


@pytest.mark.parametrize(("code", "kind", "said"), MISTAKES)
def test_a_mistake_is_one_clear_error_in_the_cell(loaded: Kernel, code: str, kind: str, said: str) -> None:
    loaded.run(
        "@cs.query\ndef no_index(ctx):\n    return ctx.db.query('tasks').with_index('by_colour', colour=1).first()\n"
        "@cs.mutation\ndef no_table(ctx):\n    return ctx.db.insert('tsaks!', {})\n"
        "add('the table is there')"
    )
    cell = loaded.run(code)
    [error] = cell.errors
    last = error.splitlines()[-1]
    assert kind in last, error
    assert said in error
    assert code in error
    assert "cellstore_kernel" not in error
    assert "site-packages" not in error
    assert cell.printed == ""


def test_reloading_leaves_one_of_everything(loaded: Kernel) -> None:
    count = (
        "import threading, time\ntime.sleep(0.1)\n"
        "(len([f for f in get_ipython().events.callbacks['post_run_cell'] if 'cellstore' in f.__module__]),\n"
        " len([t for t in threading.enumerate() if t.name.startswith('cellstore')]))"
    )
    counts = []
    loaded.run("add('kept')")
    for _ in range(3):
        assert "embedded" in loaded.run("%reload_ext cellstore").printed
        counts.append(loaded.run(f"texts()\n{count}").text)
    assert len(set(counts)) == 1, counts
    assert loaded.run("len(texts()) > 0").text == "True"


def test_unloading_takes_everything_back_and_loading_works_again(kernel: Kernel, loaded: Kernel) -> None:
    kernel.run("%unload_ext cellstore")
    assert "not found" in "".join(kernel.run("%cellstore status").errors) + kernel.run("%cellstore status").printed
    assert kernel.run("@cs.query\ndef three(ctx):\n    return 3").errors == []
    assert "embedded" in kernel.run("%load_ext cellstore").printed
    assert kernel.run("three()").text == "3"


def test_a_store_open_elsewhere_is_said_and_nothing_is_used(kernel: Kernel, loaded: Kernel, tmp_path: Path) -> None:
    cwd = Path(kernel.run("import os; print(os.getcwd())").printed.strip())
    other = Kernel(cwd)
    try:
        said = other.run("%load_ext cellstore").printed
        assert "not connected" in said
        assert "open" in said
        nothing = other.run("import cellstore as cs; cs.tables()")
        assert "no database" in nothing.errors[0]
    finally:
        other.stop()
