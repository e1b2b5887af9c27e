"""A module's functions and tables become a unit; runs where they were defined.

    walk      what the functions reach: data, helpers, classes, modules next to the notebook
    refuse    data that cannot travel or is too large, by the name of the variable
    dump      all functions in one pickle, so that they share their globals there as they do here
    write     the same as source; hash each function; collect the texts for tracebacks

Errors     DeployError, in words for the person who wrote the function
Cost       some milliseconds for a notebook; nothing is sent
"""

from __future__ import annotations

import base64
import os
import secrets
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cellstore.deploy.beside import files_imported
from cellstore.deploy.captures import Capture, Captures, Chain, explore, imported_names, submodules_named
from cellstore.deploy.hashing import function_hash
from cellstore.deploy.origins import is_installed_file, is_installed_module, path_entries
from cellstore.deploy.refuse import size_bytes, type_name, why_not
from cellstore.deploy.source import source_of
from cellstore.deploy.source.text import keep_up, text_of
from cellstore.deploy.unit import Unit
from cellstore.errors import DeployError
from cellstore.knobs import DEFAULTS, Knobs
from cellstore.schema.definition import TableDefinition

_SESSION = secrets.token_hex(8)  # this process; a kernel that is started again is another one
_CAPTURES_MAX = 64  # times the limit of one capture, for all of a module's together


def pack(module: str, handles: Sequence[Any], tables: Iterable[TableDefinition], knobs: Knobs = DEFAULTS) -> Unit:
    """The unit of `module`. Errors: DeployError naming function, variable and reason."""
    functions = {handle.name: handle.fn for handle in handles}
    captures = explore(functions.items())
    inner = submodules_named(captures.functions)
    payload = _payload(handles, functions, captures, inner, knobs) if functions else None  # first: it refuses by name
    keep_up(function.__code__ for function in captures.functions)
    texts = _texts(captures)
    local = {str(each.__file__): text_of(str(each.__file__)) for each in _with_parents(captures)}
    source = source_of(functions, {handle.name: handle.hints for handle in handles}, local)
    return Unit(
        module=module,
        functions=[handle.spec for handle in handles],
        tables=list(tables),
        crons=[_cron(handle, cron) for handle in handles for cron in handle.crons],
        source="".join(f"__import__({name!r})\n" for name in inner) + source.text if functions else "",
        source_missing=source.missing,
        sources=texts | local,
        payload=payload,
        python=sys.executable,
        cwd=str(Path.cwd()),
        path_entries=path_entries(),
        imports=sorted(files_imported(name for each in captures.functions for name in imported_names(each.__code__))),
        hashes={name: function_hash(fn) for name, fn in functions.items()},
        cells=cell_names(texts),
        origin=origin_of(handles),
        session=_SESSION if _from_cells(handles) else "",
        cell_ids={handle.name: handle.cell for handle in handles if handle.cell},
    )


def _from_cells(handles: Sequence[Any]) -> bool:
    """Whether these were defined bit by bit, in cells or at a prompt; a module that was imported is whole."""
    return not handles or any(handle.from_cell for handle in handles)


def origin_of(handles: Sequence[Any]) -> str:
    """The notebook or file that defines these: an absolute path, or nothing when nobody knows."""
    if _from_cells(handles):
        notebook = os.environ.get("JPY_SESSION_NAME", "")
        main = getattr(sys.modules.get("__main__"), "__file__", None)
        found = notebook or main or ""
    else:
        name = min(handle.fn.__module__ for handle in handles)
        found = str(getattr(sys.modules.get(name), "__file__", "") or "")
    return os.path.abspath(found) if found and os.sep in found else found  # noqa: PTH100


def _cron(handle: Any, cron: dict[str, Any]) -> dict[str, Any]:
    return {"path": handle.path, **{name: value for name, value in cron.items() if value is not None}}


# ── the payload ────────────────────────────────────────────────────────────────────────────────────────────────────


def _payload(
    handles: Sequence[Any], functions: dict[str, Any], captures: Captures, submodules: list[str], knobs: Knobs
) -> str:
    from cellstore.deploy.pickling import Refused, TooLarge, by_value, dump

    with by_value(_with_parents(captures)):
        for capture in captures.data:
            _check(capture, knobs.capture_size_bytes)
        hints = {handle.name: handle.hints for handle in handles if handle.hints}
        try:
            inner = [sys.modules[name] for name in submodules]  # imported when they are read
            parts = {"submodules": inner, "functions": functions, "hints": hints}
            data = dump(parts, knobs.capture_size_bytes * _CAPTURES_MAX)
        except Refused as refused:
            raise _blamed(functions, refused) from refused.__cause__
        except TooLarge:
            limit = knobs.capture_size_bytes * _CAPTURES_MAX
            names = ", ".join(functions)
            raise DeployError(
                f"what {names} capture is more than {_size(limit)} together: store data in tables, and read it inside"
            ) from None
    return base64.b64encode(data).decode()


def _check(capture: Capture, limit: int) -> None:
    """Errors: DeployError when a captured value cannot travel."""
    from cellstore.deploy.pickling import Refused, TooLarge, dump

    value = capture.value
    if value is None or isinstance(value, bool | int | float):
        return
    reason = why_not(value)
    if reason is not None:
        raise DeployError(f"{uses(capture.chain)} ({type_name(value)}), {reason}")
    if size_bytes(value) > limit:
        raise _too_large(capture, limit, size_bytes(value))
    try:
        dump(value, limit)
    except TooLarge:
        raise _too_large(capture, limit, None) from None
    except Refused as refused:
        inside = "" if refused.value is value else f", which holds a {type_name(refused.value)}"
        raise DeployError(f"{uses(capture.chain)} ({type_name(value)}){inside}, {_because(refused)}") from None


def _too_large(capture: Capture, limit: int, size: int | None) -> DeployError:
    much = f"{_size(size)}" if size is not None else f"more than {_size(limit)}"
    return DeployError(
        f"{uses(capture.chain)} ({type_name(capture.value)}, {much}); a captured value travels with the code and may have "
        f"{_size(limit)}: load it into a table (db.insert_df), and read it inside"
    )


def _because(refused: Any) -> str:
    reason = str(refused.reason)
    return (
        reason
        if reason.startswith("which")
        else f"and cannot travel to the store: {reason}; make it inside the function"
    )


def _blamed(functions: dict[str, Any], refused: Any) -> DeployError:
    """The whole could not be pickled though every capture could alone: name what it was, and whose."""
    from cellstore.deploy.pickling import Refused, TooLarge, dump

    for name, function in functions.items():
        try:
            dump(function, 1 << 30)
        except (Refused, TooLarge):
            return DeployError(f"{name} cannot travel to the store: {type_name(refused.value)}: {_because(refused)}")
    return DeployError(f"{', '.join(functions)} cannot travel to the store: {_because(refused)}")


def uses(chain: Chain) -> str:
    """`open_tasks uses `conn``, `open_tasks uses helper, which uses `conn``."""
    function, *way, variable = chain
    between = "".join(f" {name}, which uses" for name in way)
    return f"{function} uses{between} `{variable}`"


def _size(count: int) -> str:
    return f"{count / (1 << 20):,.1f} MiB" if count >= 1 << 20 else f"{count / 1024:,.0f} KiB"


# ── texts ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _with_parents(captures: Captures) -> list[Any]:
    """The modules next to the notebook: those captured, those of captured functions and classes, and their packages."""
    names: dict[str, None] = {}
    for each in [*captures.modules, *captures.functions, *captures.classes]:
        name = each.__name__ if isinstance(each, type(sys)) else each.__module__
        while isinstance(name, str) and name:
            names[name] = None
            name = name.rpartition(".")[0]
    modules = (sys.modules.get(name) for name in names if name != "__main__" and not is_installed_module(name))
    return [module for module in modules if module is not None and isinstance(getattr(module, "__file__", None), str)]


def _texts(captures: Captures) -> dict[str, str]:
    """The texts of the user's files and cells among what was walked."""
    files = (file for file in captures.files() if not is_installed_file(file))
    return {file: text for file in files if (text := text_of(file))}


def cell_names(files: Iterable[str]) -> dict[str, str]:
    """File name to `Cell In[3]`, in a kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    numbers = getattr(getattr(shell, "compile", None), "_filename_map", None) or {}
    return {file: f"Cell In[{numbers[file]}]" for file in files if file in numbers}
