"""What a module consists of after a deploy: whose units stay, whose functions go."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))

from runtime_harness import Stage, play, unit_of

from cellstore.deploy.merge import merged, without
from cellstore.deploy.unit import Unit
from cellstore.runtime.registry import unit_row


def cells(session: str, *names: str, origin: str = "/a.ipynb", cwd: str = "/") -> Unit:
    text = "\n".join(f"@cs.every(hours=1)\n@cs.mutation\ndef {name}(ctx): return {session!r}" for name in names)
    return replace(unit_of(text), session=session, origin=origin, cwd=cwd)


def shown(units: list[Unit]) -> list[tuple[str, list[str]]]:
    return [(unit.session, [spec.name for spec in unit.functions]) for unit in units]


def test_a_later_kernel_takes_what_it_defines_and_leaves_the_rest_with_its_schedules() -> None:
    units = merged([cells("k1", "f", "g")], cells("k2", "f"))
    assert shown(units) == [("k1", ["g"]), ("k2", ["f"])]
    assert [cron["path"] for cron in units[0].crons] == ["m:g"]
    assert list(units[0].hashes) == ["g"]


def test_what_a_kernel_no_longer_defines_goes_and_does_not_come_back_from_an_earlier_one() -> None:
    units = merged(merged([cells("k1", "f", "g")], cells("k2", "f", "h")), cells("k2", "h"))
    assert shown(units) == [("k1", ["g"]), ("k2", ["h"])]


def test_a_unit_all_of_whose_functions_were_replaced_is_gone() -> None:
    assert shown(merged([cells("k1", "f")], cells("k2", "f"))) == [("k2", ["f"])]
    assert without([cells("k1", "f")], {"m:f"}) == []


def test_a_file_replaces_what_came_from_it_whoever_brought_it() -> None:
    script, other = cells("k1", "f", origin="/a.py"), cells("k2", "g", origin="/b.ipynb")
    assert shown(merged([script, other], cells("", "h", origin="/a.py"))) == [("k2", ["g"]), ("", ["h"])]


def test_a_notebook_that_works_elsewhere_takes_its_earlier_functions_along() -> None:
    units = merged([cells("k1", "g"), cells("k3", "h", origin="/b.ipynb")], cells("k2", "f", cwd="/data"))
    assert [unit.cwd for unit in units] == ["/data", "/", "/data"]


def test_units_that_nothing_happened_to_stay_the_same_objects() -> None:
    first = cells("k1", "g")
    assert merged([first], cells("k2", "f"))[0] is first


def test_a_store_of_before_there_were_several_units_keeps_its_functions(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        old = unit_row(replace(cells("", "f", "g"), cwd=str(tmp_path)), 1 << 20)
        del old["key"]
        stage.engine.run(lambda transaction: transaction.insert("_modules", old), source="")

    async def again(stage: Stage) -> None:
        await stage.runner.deploy(cells("k2", "f", cwd=str(tmp_path)))
        assert (await stage.mutate("f"), await stage.mutate("g")) == ("k2", "")

    async def once_more(stage: Stage) -> None:
        assert (await stage.mutate("f"), await stage.mutate("g")) == ("k2", "")
        await stage.runner.drop(["m:g"])
        assert [each["path"] for each in stage.runner.functions()] == ["m:f"]

    for part in (scenario, again, once_more):
        play(tmp_path, None, part, inline=True)


def test_what_such_a_store_holds_stays_when_others_join_it(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        old = unit_row(replace(cells("", "f"), cwd=str(tmp_path)), 1 << 20)
        del old["key"]
        stage.engine.run(lambda transaction: transaction.insert("_modules", old), source="")

    async def again(stage: Stage) -> None:
        await stage.runner.deploy(cells("k2", "h", cwd=str(tmp_path)))

    async def once_more(stage: Stage) -> None:
        assert (await stage.mutate("f"), await stage.mutate("h")) == ("", "k2")

    for part in (scenario, again, once_more):
        play(tmp_path, None, part, inline=True)
