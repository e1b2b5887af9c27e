"""Workers are forked from a parent that has everything loaded, and started from nothing where that is not safe."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
from runtime_harness import Stage, play, unit_of, value_of

from cellstore.runtime import nursery
from cellstore.runtime import team as team_module
from cellstore.runtime.spawning import libraries_of

pytestmark = pytest.mark.skipif(not nursery.is_possible(), reason="workers are forked on Linux only")

SOURCE = """
    import os, sys

    @cs.query
    def who(ctx):
        return [os.getpid(), os.getppid()]

    @cs.query
    def loaded(ctx, library: str):
        return library in sys.modules

    @cs.mutation
    def write(ctx, text: str):
        return ctx.db.insert("texts", {"text": text})

    @cs.query
    def read_all(ctx):
        return len(ctx.db.query("texts").collect())

    @cs.mutation
    def die(ctx):
        os._exit(7)

    @cs.action
    def chance(ctx):
        import random, numpy.random
        return [random.random(), float(numpy.random.random())]
"""


def parent_of(stage: Stage) -> int:
    [parent] = stage.runner._spawner._parents.values()
    return parent.process.pid


def test_workers_are_children_of_one_parent_and_how_they_end_is_known(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        _, above = await stage.query("who")
        assert above == parent_of(stage)
        died = await stage.runner.mutation("m:die", {})
        assert died.error is not None
        assert "exited with status 7" in died.error.message
        assert (await stage.query("who"))[1] == parent_of(stage)

    play(tmp_path, SOURCE, scenario)


def own_kb(stage: Stage) -> list[int]:
    """Memory that each worker shares with nobody."""
    [team] = stage.runner._teams.values()
    return [_own_kb(worker.link.pid) for worker in team.workers]


def _own_kb(pid: int) -> int:
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it is about to be replaced
        return 1 << 30
    return sum(int(line.split()[1]) for line in rollup if line.startswith("Private_"))


def test_an_idle_worker_keeps_less_than_ten_megabytes_to_itself(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.query("who")
        assert max(own_kb(stage)) < 10_000

    play(tmp_path, SOURCE, scenario)


def test_a_worker_gives_back_what_thousands_of_calls_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(team_module, "_TIDY_AFTER_S", 0.3)

    async def scenario(stage: Stage) -> None:
        async def caller() -> None:
            for _ in range(60):
                await stage.mutate("write", text="x" * 500)

        await asyncio.gather(*[caller() for _ in range(50)])
        await asyncio.gather(*[stage.query("read_all") for _ in range(4)])
        async with asyncio.timeout(20):
            while max(own_kb(stage)) >= 10_000:
                await asyncio.sleep(0.05)
        assert await stage.query("read_all") == 3000

    play(tmp_path, SOURCE, scenario)


def test_when_the_parent_is_killed_its_children_serve_on_and_another_takes_its_place(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        pid, before = await stage.query("who")
        os.kill(before, signal.SIGKILL)
        assert await stage.query("who")
        orphan = await stage.runner.mutation("m:die", {})
        assert orphan.error is not None
        assert "nobody saw how it ended. Nothing was written" in orphan.error.message
        await asyncio.gather(*[stage.runner.mutation("m:die", {}) for _ in range(4)])
        assert (await stage.query("who"))[0] != pid
        assert parent_of(stage) != before

    play(tmp_path, SOURCE, scenario)


def test_a_library_that_starts_threads_is_not_shared_and_works_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "lib"
    library.mkdir()
    (library / "threaded_library.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    source = SOURCE + "\n    @cs.action\n    def uses(ctx):\n        import numpy, threaded_library\n        return 1\n"

    async def scenario(stage: Stage) -> None:
        async with asyncio.timeout(30):
            while not (
                await stage.query("loaded", library="numpy") and parent_of(stage) == (await stage.query("who"))[1]
            ):
                await stage.runner.mutation("m:die", {})
        assert await stage.query("loaded", library="threaded_library") is False
        assert value_of(await stage.runner.action("m:uses", {})) == 1

    monkeypatch.setenv("PYTHONPATH", str(library))
    play(tmp_path, source, lambda stage: stage.query("who"))
    play(tmp_path, None, scenario)


def test_libraries_that_functions_import_are_there_before_a_worker_is(tmp_path: Path) -> None:
    source = SOURCE + "\n    @cs.query\n    def uses(ctx):\n        import pandas, pyarrow\n"
    source += "        return len(pandas.DataFrame({'a': [1]}))\n"
    assert {"pandas", "pyarrow"} <= libraries_of(unit_of(source))

    async def scenario(stage: Stage) -> None:
        assert await stage.query("loaded", library="pandas") is True
        assert (await stage.query("who"))[1] == parent_of(stage), "which has one thread still"
        assert await stage.query("uses") == 1

    play(tmp_path, source, lambda stage: stage.query("who"))
    play(tmp_path, None, scenario)


def test_every_forked_action_process_has_chances_of_its_own(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        first = value_of(await stage.runner.action("m:chance", {}))
        [team] = stage.runner._actions.values()
        [link] = team._links
        await link.kill("another, please")
        while team._links:
            await asyncio.sleep(0.01)
        second = value_of(await stage.runner.action("m:chance", {}))
        assert first[0] != second[0]
        assert first[1] != second[1]

    play(tmp_path, SOURCE, scenario)


def test_plain_processes_do_the_same(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        assert (await stage.query("who"))[1] == os.getpid()
        died = await stage.runner.mutation("m:die", {})
        assert died.error is not None
        assert "exited with status 7" in died.error.message

    play(tmp_path, SOURCE, scenario, workers_are_forked=False)
    assert sys.platform == "linux"
