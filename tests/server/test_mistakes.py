"""Every mistake is one clear error where the caller looks, and nothing waits for ever."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from server_process import TOKEN, ServerProcess, free_port

import cellstore as cs
from cellstore.client import pending as client_pending
from cellstore.client.connect import connect
from cellstore.client.database import Database

FUNCTIONS = """
import cellstore as cs

class Task(cs.Table, name="tasks"):
    text: str
    by_text = cs.Index("text")

@cs.query
def texts(ctx, limit: int = 10):
    return [task.text for task in ctx.db.query("tasks").take(limit)]

@cs.query
def by(ctx, table: str, index: str):
    return ctx.db.query(table).with_index(index, text="a").collect()

@cs.mutation
def put(ctx, table: str, fields: dict[str, cs.Any]):
    return ctx.db.insert(table, fields)

@cs.query
def writes(ctx):
    ctx.db.insert("tasks", {"text": "a"})

@cs.mutation
def calls_a_typo(ctx):
    ctx.run_mutation("deeds:putt")

@cs.action
async def forgets_to_await(ctx):
    ctx.run_mutation("deeds:put", table="tasks", fields={"text": "never"})

@cs.query(internal=True)
def inner(ctx):
    return 1

@cs.mutation
def stumble(ctx):
    return {}["no such key"]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    root: Path = tmp_path_factory.mktemp("mistakes")
    (root / "deeds.py").write_text(FUNCTIONS)
    server = ServerProcess(root).start()
    try:
        server.deploy(root / "deeds.py")
        yield server
    finally:
        server.stop()


@pytest.fixture
def db(server: ServerProcess) -> Iterator[Database]:
    with connect(server.url, TOKEN) as db:
        yield db


def test_a_function_nobody_deployed_is_answered_with_the_nearest_name(db: Database) -> None:
    for call in (db.query, db.mutation, db.action):
        with pytest.raises(cs.NotFound, match="Did you mean 'deeds:texts'"):
            call("deeds:text")
    live = db.subscribe("deeds:text")
    with pytest.raises(cs.NotFound, match="deeds:text"):
        live.wait(timeout=20)


def test_a_function_of_another_kind_is_named(db: Database) -> None:
    with pytest.raises(cs.CallerError, match="deeds:texts is a query"):
        db.mutation("deeds:texts")
    with pytest.raises(cs.CallerError, match="deeds:put is a mutation"):
        db.query("deeds:put", table="t", fields={})


def test_a_wrong_argument_is_named_with_what_came(db: Database) -> None:
    with pytest.raises(cs.ValidationError, match=r"limit: expected int, got str 'five'"):
        db.query("deeds:texts", limit="five")
    with pytest.raises(cs.ValidationError, match="limt"):
        db.query("deeds:texts", limt=5)
    with pytest.raises(cs.ValidationError, match="fields"):
        db.mutation("deeds:put", table="tasks")
    with pytest.raises(cs.ValidationError, match="object"):
        db.query("deeds:texts", limit=object())


def test_a_document_the_schema_refuses_is_named_by_path(db: Database) -> None:
    with pytest.raises(cs.ValidationError, match=r"tasks\.text: expected str, got int 5"):
        db.mutation("deeds:put", table="tasks", fields={"text": 5})
    with pytest.raises(cs.CellstoreError, match="_secret"):
        db.mutation("deeds:put", table="_secret", fields={})


def test_an_unknown_index_says_which_there_are_and_an_unknown_table_is_empty(db: Database) -> None:
    with pytest.raises(cs.CellstoreError, match=r"by_txt.*by_text"):
        db.query("deeds:by", table="tasks", index="by_txt")
    assert db.query("deeds:by", table="not_there_yet", index="by_text") == []  # tables appear with their first document


def test_a_bug_shows_its_own_line(db: Database) -> None:
    with pytest.raises(cs.FunctionError, match="KeyError: 'no such key'") as caught:
        db.mutation("deeds:stumble")
    assert 'return {}["no such key"]' in "\n".join(caught.value._render_traceback_())


def test_what_cannot_travel_is_refused_by_name(db: Database, tmp_path: Path) -> None:
    (tmp_path / "locked.py").write_text(
        "import threading, cellstore as cs\nlock = threading.Lock()\n\n"
        "@cs.query\ndef held(ctx):\n    return lock.locked()\n"
    )
    with pytest.raises(cs.DeployError, match="held uses `lock`"):
        db.deploy(tmp_path / "locked.py")
    assert "locked:held" not in [function["path"] for function in db.functions()]


def test_a_module_that_does_not_load_there_is_refused_with_its_own_words(db: Database, tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("import cellstore as cs\nraise ValueError('not like this')\n")
    with pytest.raises(cs.DeployError, match="not like this"):
        db.deploy(file)


def test_a_wrong_token_is_said_at_once(server: ServerProcess) -> None:
    with pytest.raises(cs.Unauthenticated, match="token"):
        connect(server.url, "wrong")
    with pytest.raises(cs.Unauthenticated, match="token"):
        connect(server.url)


def test_no_server_is_said_with_what_to_do() -> None:
    with pytest.raises(cs.Disconnected, match="Is it running"):
        connect(f"http://127.0.0.1:{free_port()}", "t")


def test_a_lost_server_ends_calls_with_an_error_and_views_say_stale(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_pending, "PATIENCE_S", 1.0)
    with connect(server.url, TOKEN) as db:
        live = db.subscribe("deeds:texts")
        live.wait(timeout=20)
        server.kill()
        try:
            began = time.monotonic()
            with pytest.raises(cs.Disconnected, match=r"not sent|may have been carried out"):
                db.mutation("deeds:put", table="tasks", fields={"text": "lost"})
            assert time.monotonic() - began < 10
            assert live.status == "stale"
        finally:
            server.start()
        server.call("mutation", "deeds:put", {"table": "tasks", "fields": {"text": "back"}})
        assert "back" in live.wait(lambda texts: "back" in texts, 30)
        assert live.status == "live"


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_leaves_its_parents_connections_alone_and_may_have_its_own(server: ServerProcess) -> None:
    with connect(server.url, TOKEN) as db:
        db.query("deeds:texts")  # over a connection that is kept
        live, pending = db.subscribe("deeds:texts"), db.enqueue("deeds:put", table="tasks", fields={"text": "forked"})
        live.wait(timeout=20)
        tries: list[Callable[[], object]] = [
            lambda: db.query("deeds:texts"),
            lambda: db.mutation("deeds:put", table="tasks", fields={"text": "a"}),
            lambda: db.subscribe("deeds:texts"),
            lambda: live.until(lambda _: False),
            lambda: asyncio.run(live.auntil(lambda _: False)),
            pending.result,
        ]
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            with os.fdopen(writer, "w") as out, suppress(BaseException):
                out.write(f"{[said(each) for each in tries]} {live.status}")
                with connect(server.url, TOKEN) as own:
                    out.write(f" {own.query('deeds:texts', limit=0)}")
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as answers:
            assert answers.read() == f"{['forked'] * len(tries)} closed []"
        os.waitpid(child, 0)
        pending.result()
        assert db.query("deeds:texts", limit=0) == []


def said(deed: Callable[[], object]) -> str:
    """What is the matter, in a word."""
    try:
        return f"nothing: {deed()}"
    except cs.Disconnected as error:
        return "forked" if "forked" in error.message else error.message


def test_a_query_that_writes_is_told_to_be_a_mutation(db: Database) -> None:
    with pytest.raises(cs.FunctionError, match=r"ctx\.db\.insert writes, and a query only reads: make .* a mutation"):
        db.query("deeds:writes")


def test_a_function_that_calls_a_misspelt_one_is_told_the_nearest(db: Database) -> None:
    with pytest.raises(cs.NotFound, match="no function 'deeds:putt' in this environment; did you mean 'deeds:put'"):
        db.mutation("deeds:calls_a_typo")


def test_a_call_that_was_never_awaited_is_named(db: Database, capsys: pytest.CaptureFixture[str]) -> None:
    db.action("deeds:forgets_to_await")
    assert "coroutine 'mutation deeds:put' was never awaited" in capsys.readouterr().out


def test_an_internal_function_says_so_to_its_author(db: Database) -> None:
    with pytest.raises(
        cs.NotFound, match=r"deeds:inner is internal: only functions .* define it without internal=True"
    ):
        db.query("deeds:inner")
