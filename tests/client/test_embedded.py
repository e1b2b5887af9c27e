"""The whole engine in this process: functions defined here, called, watched, and there again after reopening."""

# ruff: noqa: F821  (a table name in cs.Id["…"] is no forward reference)

import os
import subprocess
import sys
import threading
from pathlib import Path

import apsw
import pytest

import cellstore as cs


class Task(cs.Table, name="tasks"):
    text: str
    completed: bool = False
    by_completed = cs.Index("completed")


@cs.query
def open_tasks(ctx, limit: int = 100):
    return ctx.db.query("tasks").with_index("by_completed", completed=False).take(limit)


@cs.mutation
def add_task(ctx, text: str) -> cs.Id["tasks"]:
    print("adding", text)
    return ctx.db.insert("tasks", {"text": text, "completed": False})


@cs.mutation
def put(ctx, table: str, fields: dict):
    ctx.db.insert(table, fields)


@cs.mutation
def set_completed(ctx, task_id: cs.Id["tasks"], completed: bool):
    ctx.db.patch(task_id, {"completed": completed})


@cs.mutation
def refuse(ctx, reason: str):
    raise cs.ApplicationError({"reason": reason})


@cs.mutation
def break_down(ctx):
    ctx.db.insert("tasks", {"text": "lost", "completed": False})
    return 1 / 0


@cs.query
def echo(ctx, value):
    return value


@cs.action
async def add_two(ctx, text: str):
    await ctx.run_mutation(add_task, text=text + " 1")
    await ctx.run_mutation(add_task, text=text + " 2")
    return len(await ctx.run_query(open_tasks))


@pytest.fixture
def db():
    with cs.open(":memory:") as made:
        yield made


def texts(tasks: list[cs.Document]) -> list[str]:
    return [task.text for task in tasks]


def test_calling_a_function_runs_it_on_the_store(db):
    task_id = add_task(text="milk")
    tasks = open_tasks()
    assert texts(tasks) == ["milk"]
    assert tasks[0]._id == task_id
    assert isinstance(tasks[0], cs.Document)
    set_completed(task_id=task_id, completed=True)
    assert open_tasks() == []


def test_a_query_sees_every_earlier_mutation_of_its_caller(db):
    for n in range(20):
        add_task(text=str(n))
        assert len(db.query(open_tasks)) == n + 1


def test_a_path_works_as_well_as_a_function(db):
    db.mutation(add_task, text="milk")
    assert texts(db.query("test_embedded:open_tasks", limit=5)) == ["milk"]


def test_what_a_function_prints_reaches_the_caller(db, capsys):
    add_task(text="milk")
    assert capsys.readouterr().out == "adding milk\n"


def test_values_come_back_exactly(db):
    value = {
        "int": 2**62,
        "float": 1.0,
        "small": 1,
        "bytes": b"\x00\xff",
        "nan": float("inf"),
        "none": None,
        "l": [-0.0],
    }
    back = echo(value=value)
    assert back == value
    assert [type(v) for v in back.values()] == [type(v) for v in value.values()]
    assert str(back["l"][0]) == "-0.0"


def test_a_subscription_moves_with_each_mutation(db):
    sub = db.subscribe(open_tasks)
    assert sub.wait(timeout=5) == []
    add_task(text="milk")
    assert texts(sub.value) == ["milk"]  # the mutation returned because its effects are visible
    assert sub.status == "live"
    assert sub.ts > 0
    sub.close()


def test_a_callback_hears_of_each_commit(db):
    seen: list[int] = []
    done = threading.Event()

    def callback(tasks: list[cs.Document]) -> None:
        seen.append(len(tasks))
        if len(tasks) == 2:
            done.set()

    sub = db.subscribe(open_tasks, callback)
    add_task(text="milk")
    add_task(text="bread")
    assert done.wait(5)
    assert seen == sorted(seen)
    sub.close()


def test_a_mutation_may_be_called_from_a_callback(db):
    done = threading.Event()

    def callback(tasks: list[cs.Document]) -> None:
        if len(tasks) == 1:
            add_task(text="from the callback")
            done.set()

    with db.subscribe(open_tasks, callback):
        add_task(text="first")
        assert done.wait(5)
    assert texts(open_tasks()) == ["first", "from the callback"]


def test_an_action_uses_queries_and_mutations(db):
    assert add_two(text="milk") == 2


def test_an_application_error_carries_its_data(db):
    with pytest.raises(cs.ApplicationError) as caught:
        refuse(reason="full")
    assert caught.value.data == {"reason": "full"}


def test_a_function_that_breaks_changes_nothing_and_shows_its_own_line(db):
    with pytest.raises(cs.FunctionError) as caught:
        break_down()
    lines = "\n".join(caught.value._render_traceback_())
    assert "return 1 / 0" in lines
    assert "ZeroDivisionError" in lines
    assert "break_down()" in lines
    assert "cellstore/client" not in lines
    assert open_tasks() == []


def test_an_unknown_function_is_named_with_what_it_may_have_been(db):
    add_task(text="milk")
    with pytest.raises(cs.NotFound, match=r"test_embedded:open_taks.*Did you mean.*test_embedded:open_tasks"):
        db.query("test_embedded:open_taks")
    with pytest.raises(cs.NotFound, match=r"Did you mean.*add_task"):
        db.mutation("test_embedded:ad_task", text="x")


def test_a_wrong_argument_is_named(db):
    with pytest.raises(cs.ValidationError, match="limit"):
        db.query(open_tasks, limit="many")
    with pytest.raises(cs.ValidationError, match="text"):
        db.mutation(add_task)
    with pytest.raises(cs.ValidationError, match="text"):
        db.mutation(add_task, text=(1, 2))


def test_a_document_where_an_id_is_wanted_is_told_of_its_own(db):
    add_task(text="milk")
    (task,) = open_tasks()
    for id in (task, dict(task)):
        with pytest.raises(cs.ValidationError, match=r"task_id: .* use doc\._id or doc\[\"_id\"\]"):
            set_completed(task_id=id, completed=True)

    @cs.mutation(module="whole")
    def remove(ctx, task: dict):
        ctx.db.delete(task)

    with pytest.raises(cs.ValidationError, match=r"use doc\._id"):
        remove(task=task)


def test_a_mistyped_table_is_empty_and_told_of_its_neighbour_and_one_to_come_is_watched(db, capsys):
    @cs.query(module="typos")
    def read(ctx, table: str):
        return [ctx.db.query(table).first() for _ in range(2)] and ctx.db.query(table).count()

    add_task(text="milk")
    capsys.readouterr()
    assert read(table="tasls") == 0
    warning = "[WARN] there is no table 'tasls', so there is nothing to find in it (did you mean 'tasks'?)\n"
    assert capsys.readouterr().out == warning
    assert warning[7:-1] in next(record["lines"][0] for record in db.logs() if record["function"] == "typos:read")
    with db.subscribe(read, table="unlike") as sub:
        assert sub.wait(timeout=5) == 0
        put(table="unlike", fields={})
        assert sub.wait(lambda count: count == 1, 5)
    assert capsys.readouterr().out == ""


def test_the_wrong_kind_of_call_says_which_is_right(db):
    with pytest.raises(cs.CallerError, match=r"db\.mutation"):
        db.query(add_task, text="milk")


def test_a_capture_that_cannot_travel_is_refused_by_name(db):
    lock = threading.Lock()

    @cs.query(module="captures")
    def locked(ctx):
        with lock:
            return 1

    with pytest.raises(cs.DeployError, match="lock"):
        locked()


def test_a_changed_constant_is_shipped_before_the_next_call(db):
    env = {"cs": cs, "__name__": "constants"}
    exec("RATE = 2\n@cs.query(module='constants')\ndef rate(ctx): return RATE", env)
    assert env["rate"]() == 2
    exec("RATE = 3", env)
    assert env["rate"]() == 3


def test_tables_and_functions_are_listed(db):
    add_task(text="milk")
    assert "tasks" in [table["name"] for table in db.tables()]
    assert "test_embedded:open_tasks" in [function["path"] for function in db.functions()]


def test_a_dropped_table_is_gone_from_live_queries_and_made_anew_by_what_defines_it(db):
    add_task(text="milk")
    seen = db.subscribe(open_tasks)
    assert texts(seen.wait(timeout=5)) == ["milk"]
    old = cs.snapshot()
    cs.drop_table(Task)
    assert "tasks" not in [table["name"] for table in db.tables()]
    assert seen.until(lambda tasks: tasks == [], timeout=5) == []
    assert len(old.df("tasks")) == 1
    add_task(text="bread")  # its module defines the table, so that it is deployed again
    assert texts(open_tasks()) == ["bread"]
    (table,) = [table for table in db.tables() if table["name"] == "tasks"]
    assert set(table["fields"]) == {"text", "completed"}


def test_listings_read_as_tables_and_stay_the_lists_they_are(db):
    add_task(text="milk")
    tables, functions = db.tables(), db.functions()
    assert repr(tables).splitlines() == [
        "table  documents  fields            indexes",
        "tasks          1  text, completed?  by_completed",
    ]
    (line,) = [line for line in repr(functions).splitlines() if ":open_tasks" in line]
    assert line.split()[:4] == ["test_embedded:open_tasks", "query", "public", "limit?"]
    assert "<td" in tables._repr_html_()
    assert isinstance(tables, list)
    assert tables[0]["fields"]["text"] == {"type": {"type": "string"}, "optional": False}
    assert repr(cs.snapshot().tables()) == repr(tables)


def test_a_store_is_there_again_after_reopening(tmp_path):
    path = tmp_path / "sub" / "tasks.db"
    with cs.open(path) as db:
        task_id = db.mutation(add_task, text="milk")
    with cs.open(path) as db:
        assert [t._id for t in db.query("test_embedded:open_tasks")] == [task_id]


def test_a_store_another_process_holds_is_refused_with_the_holders_name(tmp_path):
    path = tmp_path / "tasks.db"
    code = f"import cellstore, sys; db = cellstore.open({str(path)!r}); print('open', flush=True); sys.stdin.read()"
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline().strip() == "open"
        with pytest.raises(cs.StoreLocked, match=str(holder.pid)):
            cs.open(path)
    finally:
        holder.communicate("", timeout=20)
    cs.open(path).close()


def test_closing_ends_everything_and_may_be_repeated(db):
    sub = db.subscribe(open_tasks)
    sub.wait(timeout=5)
    db.close()
    db.close()
    assert (db.state, sub.status) == ("closed", "closed")
    with pytest.raises(cs.Disconnected, match="closed"):
        db.query(open_tasks)
    assert not [t for t in threading.enumerate() if t.name == "cellstore-embedded"]


def test_the_newest_open_database_is_the_current_one():
    with cs.open(":memory:") as first:
        with cs.open(":memory:") as second:
            assert cs.current() is second
            add_task(text="second")
        assert cs.current() is first
        assert open_tasks() == []
    with pytest.raises(cs.CallerError, match="no database is open"):
        cs.current()


def test_a_script_that_forgets_to_close_ends_cleanly(tmp_path):
    code = "import cellstore as cs; db = cs.open('t.db'); print(db.tables() == [])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "True", "")


def test_a_file_is_deployed_under_its_stem(db, tmp_path):
    file = Path(tmp_path / "greetings.py")
    file.write_text("import cellstore as cs\n\n@cs.query\ndef hello(ctx, name: str):\n    return f'hello {name}'\n")
    report = db.deploy(file)
    assert list(report) == ["greetings"]
    assert db.query("greetings:hello", name="Ann") == "hello Ann"
    assert db.deploy(file) == {}
    with pytest.raises(cs.DeployError, match="no Python file"):
        db.deploy(tmp_path / "nothing.py")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_is_told_to_open_its_own(db):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            db.query("x:y")
            answer = "no error"
        except cs.CellstoreError as error:
            answer = error.message
        os.write(writer, answer.encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert b"forked" in os.read(reader, 2000)
    os.close(reader)
    os.close(writer)


def test_a_mutation_of_which_the_disk_says_nothing_is_neither_done_nor_failed(tmp_path):
    with cs.open(tmp_path / "store.db") as db:
        add_task(text="milk")
        storage = db.link._deployment._engine.storage
        storage._log = Broken(storage._log)
        with pytest.raises(cs.FatalError, match=r"unknown\. Open the store again"):
            add_task(text="eggs")
        with pytest.raises(cs.FatalError, match="Open the store again"):
            add_task(text="bread")
    with cs.open(tmp_path / "store.db"):
        assert [task.text for task in open_tasks()] in (["milk"], ["milk", "eggs"])


class Broken:
    """A disk that fails to sync."""

    def __init__(self, log):
        self.xClose = log.xClose

    def xSync(self, _flags):
        raise apsw.IOError("disk I/O error")
