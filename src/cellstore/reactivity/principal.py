"""Who is on the other end of a connection, and what they may do.

A principal is plain data, decided once by whoever opened the door (`server.identity`); the session machine asks it per
message. `read` covers queries and subscriptions, `write` mutations and actions, `execute` deploying functions and SQL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from cellstore.errors import CallerError, Forbidden, Unauthenticated

EVERYTHING = frozenset({"read", "write", "execute"})


@dataclass(frozen=True, slots=True)
class Principal:
    """One caller.

    `identity` is what `ctx.auth.identity()` returns: None, or an object with tokenIdentifier, issuer, subject, name …
    """

    kind: str  # "nobody" | "anonymous" | "foreign" (by a token of an identity provider) | "user" | "kernel" | "admin"
    permissions: frozenset[str] = frozenset()
    identity: dict[str, Any] | None = None
    owner: bool = False  # sees tracebacks and logs in full, and may use the control operations
    internal: bool = False  # may call internal functions: admin keys only
    expires_s: float | None = None  # since 1970: nobody from then on
    cache_key: bytes = b""  # derived: tells identities apart in the query cache

    def __post_init__(self) -> None:
        if self.identity is not None:
            object.__setattr__(self, "cache_key", orjson.dumps(self.identity, option=orjson.OPT_SORT_KEYS))

    def refusal(self, permission: str) -> CallerError | None:
        """Why this caller may not `permission`; None when they may."""
        if permission in self.permissions:
            return None
        if self.kind == "nobody":
            return Unauthenticated(
                "not signed in: this connection came without credentials. Authenticate with a Jupyter token or an admin"
                " key, or switch on CellstoreApp.allow_anonymous"
            )
        return Forbidden(f"you are signed in, but may not {permission} here; ask the owner of this server")


def identity_of(issuer: str, subject: str, name: str = "") -> dict[str, Any]:
    """The identity object functions see, in Convex's field names."""
    identity: dict[str, Any] = {"tokenIdentifier": f"{issuer}|{subject}", "issuer": issuer, "subject": subject}
    if name:
        identity["name"] = name
    return identity


NOBODY = Principal("nobody")  # connected without credentials: may do nothing until Authenticate succeeds
ANONYMOUS = Principal("anonymous", frozenset({"read", "write"}))  # only where anonymous callers are switched on
KERNEL = Principal("kernel", EVERYTHING, identity_of("cellstore", "kernel"), owner=True)  # this server's kernels
EMBEDDED = Principal("kernel", EVERYTHING, identity_of("cellstore", "embedded"), owner=True)  # the process itself
