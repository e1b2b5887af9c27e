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

_READERS = ("read_", "scan_", "write_")
_BY_PATH: dict[str, tuple[str, ...]] = {
    "polars": (),
    "pyarrow.parquet": ("ParquetFile", "ParquetWriter", "ParquetDataset"),
    "pyarrow.dataset": ("dataset", "parquet_dataset"),
    "pyarrow.feather": (),
    "pyarrow.orc": (),
}
_WHOLE = ("duckdb",)
_PATH_ARGUMENTS = ("source", "sources", "path", "path_or_paths", "where", "root_path", "base_dir", "dest", "query")
LIBRARIES = (*_BY_PATH, *_WHOLE)


def guard_library(name: str, refuse: Refuse) -> None:
    """Have what reaches out in the imported module `name` ask `refuse` first."""
    module = sys.modules[name]
    for attribute, real in list(_reaching_out(name, module)):
        if inspect.isclass(real):
            setattr(real, "__init__", _asking(real.__init__, f"{name}.{attribute}", refuse, skip=1))  # noqa: B010
            continue
        asking = _asking(real, f"{name}.{attribute}", refuse, always=name in _WHOLE)
        home = sys.modules.get(real.__module__)  # by which it travels
        for each in (module, home if getattr(home, attribute, None) is real else module):
            setattr(each, attribute, asking)


def _reaching_out(name: str, module: Any) -> Iterator[tuple[str, Any]]:
    for attribute, value in vars(module).items():
        if attribute.startswith("_") or not callable(value):
            continue
        if name in _WHOLE:
            if not inspect.isclass(value):
                yield attribute, value
        elif attribute.startswith(_READERS) or attribute in _BY_PATH[name]:
            yield attribute, value


def _asking(
    real: Callable[..., Any], name: str, refuse: Refuse, *, always: bool = False, skip: int = 0
) -> Callable[..., Any]:
    """`real`, asking first. `skip`: how many arguments at the front are its own."""

    @functools.wraps(real)
    def asks(*args: Any, **kwargs: Any) -> Any:
        given = args[skip:]
        if always or any(map(_is_path, (*given[:2], *(kwargs.get(each) for each in _PATH_ARGUMENTS)))):
            refuse(name, given)
        return real(*args, **kwargs)

    return asks


def _is_path(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_is_path, value))
    return isinstance(value, str | os.PathLike)
