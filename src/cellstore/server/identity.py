"""Who is at the door? Jupyter's own login first; then ours.

    X-Cellstore-Kernel: <secret>      a kernel this server started: one principal, stable over restarts of the kernel
    Authorization: Convex <key>       an admin key; `<key>:<base64 JSON>` acts as that user
    ?adminKey=<key>                   likewise, for tools that can set no header
    Authorization: Bearer <JWT>       a user of a configured identity provider: public functions, as that identity
    Jupyter token, cookie, hub        the user Jupyter names, with the permissions its authorizer grants
    nothing                           nobody: may open a socket and authenticate in it; anonymous where switched on

A credential that is presented and wrong is refused; it never falls through to a lesser one. Cookies count only with
Jupyter's XSRF token on HTTP and from the same origin on sockets, because a browser sends them unasked.

A Jupyter token names no person: each request with it is a new random user to Jupyter. So all callers with the token are
one principal here. Under a hub the name is real, and kept.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from cellstore.errors import Unauthenticated
from cellstore.protocol.messages import Authenticate
from cellstore.reactivity.principal import ANONYMOUS, EVERYTHING, KERNEL, NOBODY, Principal, identity_of
from cellstore.server.jwt import Verifier, looks_like_token

if TYPE_CHECKING:
    from jupyter_server.base.handlers import JupyterHandler

RESOURCE = "cellstore"
KERNEL_HEADER = "X-Cellstore-Kernel"
KEY_FILE = "admin.key"


def new_secret() -> str:
    """A secret nobody can guess."""
    return secrets.token_urlsafe(32)


def known_admin_key(directory: Path) -> str:
    """The admin key kept in `directory`; empty while there is none."""
    try:
        return (directory / KEY_FILE).read_text("ascii").strip()
    except (FileNotFoundError, NotADirectoryError):
        return ""


def admin_key(directory: Path, name: str) -> str:
    """The admin key of the deployment whose data lie in `directory`: `name|hex`. Made on first use.

    Kept in a file only its owner may read. Whoever holds the key may do everything.
    """
    if known := known_admin_key(directory):
        return known
    path = directory / KEY_FILE
    directory.mkdir(0o700, parents=True, exist_ok=True)
    key = f"{name}|{secrets.token_hex(32)}"
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(key + "\n", "ascii")
    return key


def same_secret(given: str, expected: str) -> bool:
    """Compare without telling by the time taken. An empty secret equals nothing."""
    return bool(expected) and hmac.compare_digest(given.encode(), expected.encode())


class Doorkeeper:
    """Decides who a request comes from. `admin_key()` gives the deployment's key; empty when it has none."""

    def __init__(
        self,
        kernel_secret: str,
        admin_key: Callable[[], str],
        allow_anonymous: bool,
        verifier: Verifier | None = None,
    ) -> None:
        self._kernel_secret, self._admin_key, self._allow_anonymous = kernel_secret, admin_key, allow_anonymous
        self._verifier = verifier

    @property
    def stranger(self) -> Principal:
        """Who comes without credentials."""
        return ANONYMOUS if self._allow_anonymous else NOBODY

    async def identify(self, handler: JupyterHandler) -> Principal:
        """Who sent this HTTP request or socket upgrade. Jupyter has prepared the handler.

        Errors: Unauthenticated when a credential is presented and wrong.
        """
        presented = handler.request.headers.get(KERNEL_HEADER)
        if presented is not None:
            return self.kernel(presented)
        scheme, _, credential = handler.request.headers.get("Authorization", "").partition(" ")
        credential = credential.strip()
        if scheme.lower() == "convex" or (scheme and same_secret(credential, self._admin_key())):
            return self.admin(credential)
        in_url = handler.get_query_argument("adminKey", "")
        if in_url and not scheme:
            return self.admin(in_url)
        if scheme.lower() == "bearer" and self._judges(credential):
            return await self.token_user(credential)
        if handler.current_user is not None:
            return await self.user(handler)
        if scheme or handler.get_argument("token", ""):
            raise Unauthenticated("the token is not one of this server; see `jupyter server list` for the right one")
        return self.stranger

    async def verify(self, handler: JupyterHandler, request: Authenticate) -> Principal:
        """Who presents this token inside a socket. Errors: Unauthenticated."""
        token = request.value or ""
        if request.token_type == "Admin" or same_secret(token, self._admin_key()):
            return self.admin(token, request.impersonating)
        if same_secret(token, self._kernel_secret):
            return KERNEL
        if same_secret(token, str(handler.identity_provider.token)):
            return await self.user(handler, by_token=True)
        if self._judges(token):
            return await self.token_user(token)
        raise Unauthenticated("the token is neither this server's Jupyter token nor an admin key of it")

    def _judges(self, token: str) -> bool:
        return self._verifier is not None and bool(self._verifier.issuers) and looks_like_token(token)

    async def token_user(self, token: str) -> Principal:
        """The user a JSON Web Token is about, until it expires. Errors: Unauthenticated."""
        assert self._verifier is not None
        identity, expires_s = await self._verifier.identity(token)
        return Principal("foreign", frozenset({"read", "write"}), identity, expires_s=expires_s)

    def kernel(self, secret: str) -> Principal:
        """A kernel of this server. Errors: Unauthenticated."""
        if same_secret(secret, self._kernel_secret):
            return KERNEL
        raise Unauthenticated(
            "the kernel's secret is not this server's: the server was restarted since the kernel began. Run "
            "`%load_ext cellstore` again, or restart the kernel"
        )

    def admin(self, credential: str, acting: dict[str, Any] | None = None) -> Principal:
        """The holder of an admin key, perhaps acting as a user. Errors: Unauthenticated."""
        key, encoded = split_admin_key(credential)
        if not same_secret(key, self._admin_key()):
            raise Unauthenticated("the admin key is not this deployment's; `cellstore admin-key` prints it")
        if encoded:
            acting = _decode_identity(encoded)
        identity = None if acting is None else complete_identity(acting)
        return Principal("admin", EVERYTHING, identity, owner=True, internal=True)

    async def user(self, handler: JupyterHandler, by_token: bool = False) -> Principal:
        """The user Jupyter knows, with what its authorizer allows them."""
        from jupyter_server.auth import User
        from jupyter_server.utils import ensure_async

        user = handler.current_user
        if by_token or (handler.token_authenticated and _tokens_are_nameless(handler)):
            user = User(username="token", name="Jupyter token")
        granted = [
            action
            for action in sorted(EVERYTHING)
            if await ensure_async(handler.authorizer.is_authorized(handler, user, action, RESOURCE))
        ]
        identity = identity_of("jupyter", user.username, user.display_name or user.name or "")
        return Principal("user", frozenset(granted), identity, owner=True)


def split_admin_key(credential: str) -> tuple[str, str]:
    """`[type:]name|hex[:base64 identity]` into the key and the identity."""
    before, bar, after = credential.partition("|")
    if not bar:
        return credential, ""
    secret, _, encoded = after.partition(":")
    return f"{before.rpartition(':')[2]}|{secret}", encoded


def complete_identity(acting: dict[str, Any]) -> dict[str, Any]:
    """An identity to act as, with its token identifier filled in. Errors: Unauthenticated."""
    if "tokenIdentifier" in acting:
        return acting
    issuer, subject = acting.get("issuer"), acting.get("subject")
    if not isinstance(issuer, str) or not isinstance(subject, str):
        raise Unauthenticated("the identity to act as needs tokenIdentifier, or issuer and subject")
    return {**acting, "tokenIdentifier": f"{issuer}|{subject}"}


def _decode_identity(encoded: str) -> dict[str, Any]:
    try:
        acting = orjson.loads(base64.b64decode(encoded, validate=True))
    except (binascii.Error, ValueError) as wrong:
        raise Unauthenticated(f"the identity to act as is not base64 of JSON: {wrong}") from wrong
    if not isinstance(acting, dict):
        raise Unauthenticated("the identity to act as is not a JSON object")
    return acting


def _tokens_are_nameless(handler: JupyterHandler) -> bool:
    """Whether Jupyter invents a user for each request with the token, as its own identity providers do."""
    return type(handler.identity_provider).__module__.startswith("jupyter_server.")
