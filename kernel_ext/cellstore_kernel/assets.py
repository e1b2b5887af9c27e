"""The browser's half as text, and how it gets there.

Where the page is served by a Jupyter server with cellstore, the loader imports `client.js` from it. Elsewhere the
widget brings all modules along as one, made here by putting them one after another.

Invariant: no two modules declare the same name at top level (tests/kernel/test_assets.py bundles and runs them).
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path

STATIC = Path(__file__).parent / "static"
RENDERERS = ("live", "grid", "form", "view")
MODULES = ("codec", "values", "style", "machine", "links", "page", "frame", *RENDERERS, "saved", "client")

_IMPORT = re.compile(r"^import\s[^;]*;\n", re.MULTILINE)
_EXPORT = re.compile(r"^export (?!default)", re.MULTILINE)
_COMMENT = re.compile(r"^\s*/\*\*.*?\*/\n", re.MULTILINE | re.DOTALL)


@cache
def loader() -> str:
    """The small module every widget carries; comments stay behind, because notebooks save it with each widget."""
    return _COMMENT.sub("", (STATIC / "loader.js").read_text("utf-8")).strip() + "\n"


@cache
def bundle() -> str:
    """All modules as one, exporting `initialize` and `render`."""
    parts = [_EXPORT.sub("", _IMPORT.sub("", _source(name))) for name in MODULES]
    return "\n".join([*parts, "export { initialize, render };\n"])


@cache
def release() -> str:
    """Twelve characters that change when any module does."""
    return hashlib.blake2b("".join(map(_source, MODULES)).encode(), digest_size=6).hexdigest()


def _source(name: str) -> str:
    return (STATIC / f"{name}.js").read_text("utf-8")
