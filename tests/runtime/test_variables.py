"""Environment variables of a deployment, as functions see them in workers and in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from runtime_harness import Stage, play, value_of

from cellstore.errors import LimitExceeded, ValidationError
from cellstore.runtime import variables

FUNCTIONS = """
    import os

    @cs.query
    def seen(ctx, key: str):
        return [ctx.env.get(key), sorted(ctx.env)]

    @cs.query
    def of_the_process(ctx, key: str):
        return [os.environ.get(key), os.getenv(key), key in os.environ, "PATH" in os.environ]

    @cs.mutation
    def note(ctx, key: str):
        ctx.db.insert("notes", {"value": ctx.env[key]})
        return ctx.db.query("notes").first().value

    @cs.action
    def act(ctx, key: str):
        return [ctx.env.get(key), ctx.run_query(seen, key=key)]

    @cs.action
    async def act_os(ctx, key: str):
        return [os.environ[key], "PATH" in os.environ, {**os.environ}[key]]
"""


def put(stage: Stage, **changes: str | None) -> None:
    rows = [{"name": name, "value": value} for name, value in changes.items()]
    stage.engine.run(lambda transaction: variables.change(transaction, rows, stage.engine.knobs))


@pytest.mark.parametrize("inline", [False, True], ids=["workers", "this process"])
def test_every_kind_of_function_sees_what_is_set_now(tmp_path: Path, inline: bool) -> None:
    async def scenario(stage: Stage) -> None:
        assert await stage.query("seen", key="KEY") == [None, []]
        put(stage, KEY="one", OTHER="x")
        assert await stage.query("seen", key="KEY") == ["one", ["KEY", "OTHER"]]
        assert await stage.mutate("note", key="KEY") == "one"
        assert value_of(await stage.runner.action("m:act", {"key": "KEY"})) == ["one", ["one", ["KEY", "OTHER"]]]
        put(stage, KEY="two", OTHER=None)
        assert await stage.query("seen", key="KEY") == ["two", ["KEY"]]
        failed = await stage.runner.mutation("m:note", {"key": "OTHER"})
        assert failed.error is not None
        assert "there is no variable 'OTHER'; set it with: cellstore env OTHER=VALUE" in failed.error.message

    play(tmp_path, FUNCTIONS, scenario, inline=inline)


def test_in_workers_they_come_before_what_the_process_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLSTORE_TEST_HOME", "process")

    async def scenario(stage: Stage) -> None:
        name = "CELLSTORE_TEST_HOME"
        assert await stage.query("of_the_process", key=name) == ["process", "process", True, True]
        put(stage, **{name: "deployment"})
        assert await stage.query("of_the_process", key=name) == ["deployment", "deployment", True, True]
        assert value_of(await stage.runner.action("m:act_os", {"key": name})) == ["deployment", True, "deployment"]

    play(tmp_path, FUNCTIONS, scenario)


def test_a_query_depends_on_the_variables_it_asked_for_and_on_no_other(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        def touched(**changes: str | None) -> bool:
            before = stage.engine.published_ts
            put(stage, **changes)
            return stage.engine.write_log.first_hit(outcome.reads, before) is not None

        outcome = await stage.runner.query("m:of_the_process", {"key": "KEY"})
        assert not touched(OTHER="1")
        assert touched(KEY="now it is there")

    play(tmp_path, FUNCTIONS, scenario)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("9LIVES", "x", ValidationError),
        ("", "x", ValidationError),
        ("N" * 41, "x", ValidationError),
        ("KEY", 5, ValidationError),
        ("KEY", "ü" * 4097, LimitExceeded),
        ("FOURTH", "x", LimitExceeded),
    ],
)
def test_what_cannot_be_set_is_refused_whole(tmp_path: Path, name: str, value: Any, error: type[Exception]) -> None:
    async def scenario(stage: Stage) -> None:
        put(stage, KEY="1", B="2", C="3")
        changes = [{"name": "B", "value": "changed"}, {"name": name, "value": value}]
        with pytest.raises(error):
            stage.engine.run(lambda transaction: variables.change(transaction, changes, stage.engine.knobs))
        with stage.engine.begin() as transaction:
            assert variables.everything(transaction) == {"B": "2", "C": "3", "KEY": "1"}

    play(tmp_path, None, scenario, inline=True, variables_max=3)
