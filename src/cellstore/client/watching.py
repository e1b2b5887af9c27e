"""Files deployed again whenever they change: what `cellstore deploy PATH --watch` does.

Looked at are the .py files below the path, by time and size, a few times a second. When one changed, every file is executed
anew, because any of them may have imported it; what did not change in what it does is not shipped again. A file that
cannot be executed or deployed is said so, and the versions before serve on until it is mended.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellstore.errors import CellstoreError

if TYPE_CHECKING:
    from cellstore.client.database import Database

LOOK_EVERY_S = 0.3


def deploy_path(db: Database, path: Path, say: Callable[[str], None]) -> bool:
    """Deploy a file, or the files of a directory; whether all went well. What happened is said, a line each."""
    from cellstore.client.sources import files_of

    forget_modules(path)
    good = True
    for file in files_of(path):
        try:
            reports = db.deploy(file)
        except CellstoreError as error:
            notes = "".join(f"{note}\n" for note in getattr(error, "__notes__", ()))
            say(f"{notes}{file}: {getattr(error, 'traceback', '') or error.message}")
            good = False
            continue
        for report in reports.values():
            say(summary(file, report))
    return good


def watch(db: Database, path: Path, say: Callable[[str], None], every_s: float = LOOK_EVERY_S) -> Iterator[None]:
    """Deploy, then again after every change; yields after each look, and ends when it is closed."""
    seen: dict[Path, tuple[int, int]] = {}
    while True:
        found = stamps(path)
        if found != seen:
            seen = found
            deploy_path(db, path, say)
        yield
        time.sleep(every_s)


def stamps(path: Path) -> dict[Path, tuple[int, int]]:
    """(time, size) of each .py file below a path."""
    found = {}
    for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
        try:
            stat = file.stat()
        except OSError:  # just gone, or being replaced
            continue
        found[file] = (stat.st_mtime_ns, stat.st_size)
    return found


def forget_modules(path: Path) -> None:
    """Have the files below a path executed anew when they are next imported, and their functions defined anew."""
    from cellstore.client.sources import files_of
    from cellstore.functions import registry
    from cellstore.schema.registry import module_of

    root = (path if path.is_dir() else path.parent).resolve()
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name != "__main__" and file and file.endswith(".py") and root in Path(file).resolve().parents:
            del sys.modules[name]
    for file in files_of(path):
        registry.forget(module_of(file.stem, str(file)) or "")


def summary(file: Path, report: dict[str, Any]) -> str:
    """'deployed tasks.py as tasks: added tasks:add; changed tasks:list'; below it what is to be known of that."""
    parts = [f"{what} {', '.join(report[what])}" for what in ("added", "changed", "removed") if report.get(what)]
    took = f" (from {report['took_over']['from']})" if report.get("took_over") else ""
    warning = f"\n{report['only_here']}" if "only_here" in report else ""
    return f"deployed {file} as {report['module']}{took}{': ' if parts else ''}{'; '.join(parts)}{warning}"
