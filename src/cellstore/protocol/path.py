"""The one spelling of a function's path: `[dir/]*module:export`.

Clients spell the same function in several ways: `messages`, `messages:default`, `messages.js:list` (the Rust client
after a reconnect). Split at the last colon, drop one trailing `.js`; a missing export is `default`.
"""

from __future__ import annotations

PATH_LENGTH_MAX = 512


def canonical(path: str) -> str:
    """`path` as `module:export`. Says nothing about whether such a function exists."""
    module, colon, export = path.rpartition(":")
    if not colon:
        module, export = path, "default"
    return f"{module.removesuffix('.js')}:{export}"
