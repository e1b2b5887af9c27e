"""Which functions a cell has taken away.

    the cell of f runs again       and neither defines nor mentions it: it was renamed there, or deleted
    del f                          in a cell, and no name means the function any more

The first holds across restarts: functions are deployed with the ids of their cells, so a renamed function goes when its
cell runs in the next kernel, too. What takes nothing away: a cell that failed, a name that got another value, `%reset`, a
cell deleted from the notebook (nobody is told; `%cellstore drop`), a frontend that does not say which cell it runs.

Order: `before_cell` and `after_cell` on the kernel's main thread, in turns.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cellstore.client.database import Database
from cellstore.errors import CellstoreError


@dataclass(frozen=True, slots=True)
class Removal:
    """A function that is to go from the store."""

    path: str
    why: str
    known: bool  # to this kernel; an earlier one deployed it otherwise


class Removals:
    """Follows the cells of one shell."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._before: list[Any] = []  # the functions of cells when the cell began,
        self._bound: dict[int, set[str]] = {}  # and the names that meant them, by their id
        self._earlier: dict[str, str] = {}  # path to cell, of what earlier kernels of this notebook deployed
        self._asked: Database | None = None  # whom that was asked of
        parent = shell.get_parent() if hasattr(shell, "get_parent") else {}
        self._begin((parent or {}).get("metadata", {}).get("cellId"))

    def before_cell(self, info: Any) -> None:
        """IPython's pre_run_cell."""
        self._begin(getattr(info, "cell_id", None))

    def _begin(self, cell: str | None) -> None:
        from cellstore.functions import registry

        registry.cell = cell or ""
        self._before = handles_of_cells()
        self._bound = names_of(self._before, self._shell.user_ns)

    def after_cell(self, result: Any, database: Database) -> list[Removal]:
        """What the cell that just ran took away."""
        from cellstore.functions import registry

        cell, registry.cell = registry.cell, None
        if result is None or not result.success:
            return []
        tree = self._parsed(result.info.raw_cell)
        return [*self._deleted(tree), *self._left_out(cell, tree, database)] if tree is not None else []

    def _parsed(self, text: str) -> ast.Module | None:
        plain: str = self._shell.transform_cell(text)
        try:
            return ast.parse(plain)
        except (SyntaxError, ValueError):
            return None

    def _deleted(self, tree: ast.Module) -> Iterator[Removal]:
        names = {
            target.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Delete)
            for each in node.targets
            for target in (each.elts if isinstance(each, ast.Tuple) else [each])
            if isinstance(target, ast.Name)
        }
        bound = names_of(self._before, self._shell.user_ns) if names else {}
        for handle in self._before:
            gone = names & self._bound.get(id(handle), set())
            if gone and not bound.get(id(handle)) and is_current(handle):
                yield Removal(handle.path, f"del {gone.pop()}", known=True)

    def _left_out(self, cell: str | None, tree: ast.Module, database: Database) -> Iterator[Removal]:
        """Of what the cell defined when it ran before, the functions it says nothing about now."""
        if not cell:
            return
        why = "its cell no longer defines it"
        words = words_of(tree)
        for handle in self._before:
            names = {handle.path, handle.name, handle.fn.__name__, *self._bound.get(id(handle), ())}
            if handle.cell == cell and is_current(handle) and not names & words:
                yield Removal(handle.path, why, known=True)
        here = {handle.path for handle in [*self._before, *handles_of_cells()]}
        for path, home in self._deployed_earlier(database).items():
            if home == cell and path not in here and not {path, path.rpartition(":")[2]} & words:
                yield Removal(path, why, known=False)

    def _deployed_earlier(self, database: Database) -> dict[str, str]:
        """What this notebook had deployed before this kernel; asked once of each database."""
        from cellstore.deploy.pack import origin_of

        if self._asked is not database:
            try:
                listed = database.functions()
            except CellstoreError:
                return {}
            mine = origin_of(())
            self._asked = database
            self._earlier = {each["path"]: each["cell"] for each in listed if mine and each.get("origin") == mine}
        return self._earlier


def handles_of_cells() -> list[Any]:
    """The functions that cells of this kernel define."""
    from cellstore.functions import registry

    modules = registry.modules()
    return [handle for module in modules for handle in registry.handles(module) if getattr(handle, "from_cell", False)]


def is_current(handle: Any) -> bool:
    """Whether no later definition took the place of this one."""
    from cellstore.functions import registry

    return registry.find(handle.path) is handle


def names_of(handles: list[Any], namespace: dict[str, Any]) -> dict[int, set[str]]:
    """The names that mean each of these functions, by its id."""
    wanted = {id(handle) for handle in handles}
    found: dict[int, set[str]] = {}
    for name, value in list(namespace.items()):
        if id(value) in wanted and not name.startswith("_"):
            found.setdefault(id(value), set()).add(name)
    return found


def words_of(tree: ast.Module) -> set[str]:
    """The names and texts in a cell; comments do not count."""
    words: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            words.add(node.id)
        elif isinstance(node, ast.Attribute):
            words.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            words.add(node.value)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            words.add(node.name)
    return words
