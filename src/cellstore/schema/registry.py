"""What this process has defined: functions and tables, by module.

A module is what functions are shipped in, named after the notebook or file. Defining a function or table again under the
same name replaces it, in its old place. What was defined in `__main__` belongs to the notebook, whatever that is called
when somebody asks: a notebook's name may become known after its first cell.
"""

from __future__ import annotations

import re
import threading
from pathlib import PurePath
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from cellstore.schema.definition import TableDefinition

_UNFIT = re.compile(r"[^\w./-]+", re.ASCII)


class Handle(Protocol):
    """What the registry needs of a decorated function."""

    @property
    def module(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def home(self) -> str | None: ...


class Registry:
    """Functions and tables of this process.

    Order      any thread
    Invariant  one function for each (module, name), one table for each (module, name)
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._notebook = "notebook"
        self.cell: str | None = None  # the id of the cell that runs, where cells are followed; empty: not told
        self._handles: dict[tuple[str | None, str], Handle] = {}
        self._tables: dict[tuple[str | None, str], TableDefinition] = {}

    @property
    def notebook(self) -> str:
        """The module of what `__main__` defines: the notebook's stem."""
        return self._notebook

    @notebook.setter
    def notebook(self, name: str) -> None:
        self._notebook = clean_module(name)

    def add(self, handle: Handle) -> None:
        """A function was defined."""
        with self._lock:
            self._handles[(handle.home, handle.name)] = handle

    def add_table(self, table: TableDefinition, module: str | None) -> None:
        """A table was defined; None is the notebook. It takes the place of the one whose documents it renames."""
        with self._lock:
            if table.renamed_from is not None:
                self._tables.pop((module, table.renamed_from), None)
            self._tables[(module, table.name)] = table

    def handles(self, module: str) -> list[Handle]:
        """The functions of a module, in the order they were first defined."""
        with self._lock:
            return [handle for handle in self._handles.values() if handle.module == module]

    def tables(self, module: str) -> list[TableDefinition]:
        """The tables of a module."""
        with self._lock:
            return [table for (home, _), table in self._tables.items() if self._named(home) == module]

    def modules(self) -> list[str]:
        """Every module that defines something."""
        with self._lock:
            homes = [*(home for home, _ in self._handles), *(home for home, _ in self._tables)]
        return list(dict.fromkeys(self._named(home) for home in homes))

    def find(self, path: str) -> Handle | None:
        """The function at `module:name`, if it was defined here."""
        module, _, name = path.rpartition(":")
        with self._lock:
            found = self._handles.get((module, name))
            if found is None and module == self._notebook:
                found = self._handles.get((None, name))
        return found

    def discard(self, path: str) -> None:
        """The function at `module:name` is not defined any more; if it is not, fine."""
        with self._lock:
            handle = self.find(path)
            if handle is not None:
                del self._handles[(handle.home, handle.name)]

    def forget(self, module: str) -> None:
        """Nothing of the module is defined any more."""
        with self._lock:
            self._handles = {key: each for key, each in self._handles.items() if self._named(key[0]) != module}
            self._tables = {key: each for key, each in self._tables.items() if self._named(key[0]) != module}

    def _named(self, home: str | None) -> str:
        return self._notebook if home is None else home


def clean_module(name: str) -> str:
    """A module name that every client can spell: letters, digits and `_ . - /`."""
    return _UNFIT.sub("_", name).strip("_") or "module"


def module_of(name: str | None, file: str | None) -> str | None:
    """The module of what is defined in the Python module `name` from `file`; None for the notebook.

    The stem of the file, or of the directory for an `__init__.py`; without a file the last part of the name.
    """
    if file is not None:
        path = PurePath(file)
        return clean_module(path.parent.name if path.stem == "__init__" else path.stem)
    if name is None or name == "__main__":
        return None
    return clean_module(name.rpartition(".")[2])


registry = Registry()
