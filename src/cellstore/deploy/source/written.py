"""Values as Python text: what can be written where it stands, without a statement of its own.

3, "a", [1, (2,)]                        literals, infinity and NaN included
__cellstore_import__('json', 'dumps')    what is installed, by its name
__cellstore_function__(…)                functions and tables of the store
__cellstore_value__('gASV…')             values of library classes, as a pickle that names nothing of the user's
"""

from __future__ import annotations

import base64
import io
import math
import pickle
import sys
from types import CellType, ModuleType
from typing import Any

from cellstore.deploy.captures import is_reference, is_table
from cellstore.deploy.origins import is_installed_module, is_named
from cellstore.deploy.source.text import NoSource
from cellstore.values.json import dumps

UNREADABLE = object()
"""What a variable holds that has no value yet."""


def import_statement(name: str, value: Any) -> str | None:
    """The import that gives an installed module, class or function this name; None for anything else."""
    if isinstance(value, ModuleType):
        return f"import {value.__name__} as {name}" if is_installed_module(value.__name__) else None
    if is_reference(value) or not callable(value) or not is_named(value) or "." in value.__qualname__:
        return None
    return f"from {value.__module__} import {value.__qualname__} as {name}"


def imported(module: str, name: str) -> str:
    """An expression for what a module has under a dotted name."""
    return f"__cellstore_import__({module!r}, {name!r})"


def reference(value: Any) -> str:
    """An expression for a function or a table of the store."""
    if isinstance(value, type) and is_table(value):
        definition = getattr(value, "__cellstore__", None)
        if definition is None:
            return "__import__('cellstore').Table"
        return f"__cellstore_table__({value.__name__!r}, {dumps(definition.to_json()).decode()!r})"
    return f"__cellstore_function__({value.path!r}, {value.kind!r}, {value._positional!r})"


def written(value: Any) -> str:
    """A literal, as Python text."""
    text = repr(value)
    if not ("inf" in text or "nan" in text):  # which have no literal
        return text
    if type(value) is float and not math.isfinite(value):
        return f"float({str(value)!r})"
    if type(value) is list:
        return f"[{', '.join(map(written, value))}]"
    if type(value) is tuple:
        return f"({', '.join(map(written, value))}{',' if len(value) == 1 else ''})"
    if type(value) in (set, frozenset):
        return f"{type(value).__name__}(({''.join(f'{written(each)}, ' for each in value)}))"
    if type(value) is dict:
        return f"{{{', '.join(f'{written(key)}: {written(each)}' for key, each in value.items())}}}"
    return text


def pickled(value: Any) -> str:
    """Base64 of a pickle that names installed classes only. Such a pickle holds no code and is not bound to a version."""
    kind = type(value)
    if not is_named(kind):
        raise NoSource(f"an instance of {kind.__qualname__}, which has no literal form")
    try:
        data = pickle.dumps(value, 4)
    except Exception as error:  # noqa: BLE001 — any class may refuse, in its own way
        raise NoSource(f"{kind.__qualname__} has no literal form ({type(error).__name__}: {error})") from None
    _Named(data).load()
    return base64.b64encode(data).decode()


class _Named(pickle.Unpickler):
    """Opens a pickle of this process again, to see whose classes and functions it names."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))

    def find_class(self, module: str, name: str) -> Any:
        """Errors: NoSource for one of the user's."""
        if not is_installed_module(module):
            raise NoSource(f"it holds a {name} of this notebook, which has no literal form")
        return super().find_class(module, name)


def content(cell: CellType) -> Any:
    """What a closure's variable holds; UNREADABLE before it is assigned."""
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return UNREADABLE


def resolves(value: Any) -> bool:
    """Whether it is what its module has under its name."""
    found: Any = sys.modules.get(value.__module__)
    for part in value.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is value
