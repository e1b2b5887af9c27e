"""Libraries that reach files, threads and chance in code of their own, where no audit event tells of it.

    polars, pyarrow     what reads and writes, given a path; given a buffer it only computes
    duckdb              everything: one connection of the process, any file, its own clock and dice

Each function is replaced, where it is defined and where it is offered, by one that asks first. That happens when the library
is imported, so a name that a user's module imports from it later is the replaced one.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

Refuse = Callable[[str, tuple[Any, ...]], None]
"""Told the name and arguments of a call that is not for queries and mutations; returns when nothing of the kind runs."""

_WRITERS = ("write_", "sink_")
_REACHING = ("read_", "scan_", "open_", *_WRITERS)
_BY_PATH: dict[str, tuple[str, ...]] = {  # besides those that begin so
    "polars": (),
    "pyarrow": ("memory_map", "create_memory_map", "input_stream", "output_stream"),
    "pyarrow.csv": (),
    "pyarrow.json": (),
    "pyarrow.parquet": ("ParquetFile", "ParquetWriter", "ParquetDataset"),
    "pyarrow.dataset": ("dataset", "parquet_dataset"),
    "pyarrow.feather": (),
    "pyarrow.orc": ("ORCFile", "ORCWriter"),
}
_CLASSES = {"polars": ("DataFrame", "LazyFrame")}  # with methods that begin so
_WHOLE = ("duckdb",)
_PATH_ARGUMENTS = (
    "source", "sources", "path", "path_or_paths", "where", "root_path", "base_dir", "dest", "query", "file", "target",
    "input_file", "output_file",
)  # fmt: skip
LIBRARIES = (*_BY_PATH, *_WHOLE)


def guard_library(name: str, refuse: Refuse) -> None:
    """Have what reaches out in the imported module `name` ask `refuse` first."""
    module = sys.modules[name]
    for attribute, real in list(_reaching_out(name, module)):
        if inspect.isclass(real):
            setattr(real, "__init__", _asking(real.__init__, f"{name}.{attribute}", 1, refuse))  # noqa: B010
            continue
        at = None if name in _WHOLE else int(attribute.startswith(_WRITERS))
        asking = _asking(real, f"{name}.{attribute}", at, refuse)
        home = sys.modules.get(real.__module__)  # by which it travels
        for each in (module, home if getattr(home, attribute, None) is real else module):
            setattr(each, attribute, asking)
    for cls in (getattr(module, each) for each in _CLASSES.get(name, ())):
        for attribute in [each for each in vars(cls) if each.startswith(_WRITERS)]:
            setattr(cls, attribute, _asking(vars(cls)[attribute], f"{name}.{cls.__name__}.{attribute}", 1, refuse))


def _reaching_out(name: str, module: Any) -> Iterator[tuple[str, Any]]:
    for attribute, value in vars(module).items():
        if attribute.startswith("_") or not callable(value):
            continue
        if name in _WHOLE:
            if not inspect.isclass(value):
                yield attribute, value
        elif attribute.startswith(_REACHING) or attribute in _BY_PATH[name]:
            yield attribute, value


def _asking(real: Callable[..., Any], name: str, at: int | None, refuse: Refuse) -> Callable[..., Any]:
    """`real`, asking first. `at`: which of its arguments may be a path; None: it reaches out without one, too."""

    @functools.wraps(real)
    def asks(*args: Any, **kwargs: Any) -> Any:
        paths = args[at or 0 :][:1]
        if at is None or any(map(_is_path, (*paths, *(kwargs.get(each) for each in _PATH_ARGUMENTS)))):
            refuse(name, paths)
        return real(*args, **kwargs)

    return asks


def _is_path(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_is_path, value))
    return isinstance(value, str | os.PathLike)
