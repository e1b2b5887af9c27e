"""What a module consists of: the unit deployed last, and of earlier ones what nobody has replaced or taken away.

    kernel 1 deploys  one, two, every-hour tick         module: [one two tick]
    kernel 2, the notebook restarted, runs one cell     module: [two tick] [one]
    kernel 2 deploys again without `one`                module: [two tick]

Every unit keeps its own helpers and constants as they were when it was deployed, so what is merged are sets of
functions, never namespaces. Functions of different units call each other by path, as functions of different modules do.

A unit replaces       what the same process deployed of the module before: what is no longer in it was taken away there.
                      One of a file is whole: it replaces whatever came from that file, by whichever process
Another unit's        function goes when one of the same path comes, whoever brings it; the rest of it stays
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from cellstore.deploy.unit import Unit


def merged(standing: Iterable[Unit], unit: Unit) -> list[Unit]:
    """The units of a module once `unit` is deployed, oldest first. Those that stay as they are, are the same objects."""
    kept = (_moved(each, unit) for each in standing if not replaces(unit, each))
    return [*without(kept, {spec.path for spec in unit.functions}), unit]


def without(standing: Iterable[Unit], paths: Collection[str]) -> list[Unit]:
    """The units without some of their functions; those that are left without any are gone."""
    return [left for each in standing if (left := _cut(each, paths)).functions]


def replaces(unit: Unit, other: Unit) -> bool:
    """Whether all of `other` is superseded by `unit`, be it in that or not."""
    return unit.session == other.session if unit.session else unit.origin == other.origin


def _moved(old: Unit, unit: Unit) -> Unit:
    """`old` where the notebook works now: its functions stay within reach of each other."""
    same = old.origin == unit.origin and old.python == unit.python
    return replace(old, cwd=unit.cwd) if same and old.cwd != unit.cwd else old


def _cut(unit: Unit, paths: Collection[str]) -> Unit:
    """`unit` without those functions. Its code stays whole: who was left may call who was not."""
    if not any(spec.path in paths for spec in unit.functions):
        return unit
    functions = [spec for spec in unit.functions if spec.path not in paths]
    return replace(
        unit,
        functions=functions,
        crons=[cron for cron in unit.crons if cron["path"] not in paths],
        hashes={spec.name: unit.hashes[spec.name] for spec in functions if spec.name in unit.hashes},
    )
