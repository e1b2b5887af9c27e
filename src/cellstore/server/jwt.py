"""JSON Web Tokens of configured issuers: who signed this, and who is it about?

    CellstoreApp.auth_providers = [
        {"domain": "https://tenant.eu.auth0.com", "applicationID": "my-app"},                       OIDC
        {"type": "customJwt", "issuer": "https://mine", "jwks": "https://mine/jwks.json", "algorithm": "RS256",
         "applicationID": "my-app"},                                                                 our own keys
    ]

The first provider whose issuer is the token's and whose application is among its audiences decides; no other is tried.
Key sets are fetched when first needed and again when a token names a key that is not there, at most every
`JWKS_PAUSE_S`, so that neither new keys nor hostile tokens cost a fetch each.

Errors:  Unauthenticated, with Convex's codes: InvalidAuthHeader for what is no token, NoAuthProvider for an issuer nobody
         configured, Unauthenticated for a bad signature, audience or time
Source:  Convex auth.config; OpenID Connect Discovery 1.0
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from cellstore.errors import CellstoreError, Unauthenticated

if TYPE_CHECKING:
    from jwt import PyJWK, PyJWKSet

LEEWAY_S = 5.0
JWKS_PAUSE_S = 10.0  # between two fetches of one key set
JWKS_AGE_S = 3600.0  # a key taken back by its issuer is not accepted for longer
FETCH_TIMEOUT_S = 10.0
FETCH_BYTES_MAX = 1 << 20
OIDC_ALGORITHMS, CUSTOM_ALGORITHMS = ("RS256", "EdDSA"), ("RS256", "ES256")

RENAMED = {
    "profile": "profileUrl",
    "picture": "pictureUrl",
    "website": "websiteUrl",
    "birthdate": "birthday",
    "zoneinfo": "timezone",
    "locale": "language",
}
STANDARD = {
    "name", "given_name", "family_name", "nickname", "preferred_username", "email", "email_verified", "gender",
    "phone_number", "phone_number_verified", "address", "updated_at",
}  # fmt: skip
DROPPED = {"iss", "sub", "aud", "exp", "iat", "jti", "nbf", "fva"}  # so that a refreshed token is the same identity


class Issuer:
    """One configured provider."""

    def __init__(self, entry: dict[str, Any]) -> None:
        custom = entry.get("type") == "customJwt"
        named = entry.get("issuer" if custom else "domain")
        if not isinstance(named, str) or not named:
            raise ValueError(f"an auth provider needs {'issuer' if custom else 'domain'}: {entry!r}")
        self.issuer = _with_scheme(named)
        self.audience: str | None = entry.get("applicationID")
        self.algorithms: tuple[str, ...] = (entry.get("algorithm", "RS256"),) if custom else OIDC_ALGORITHMS
        if custom and self.algorithms[0] not in CUSTOM_ALGORITHMS:
            raise ValueError(f"algorithm is one of {', '.join(CUSTOM_ALGORITHMS)}, not {self.algorithms[0]!r}")
        if not custom and self.audience is None:
            raise ValueError(f"an OIDC provider needs applicationID, or any application's token would do: {entry!r}")
        self.keys = KeySet(entry.get("jwks") if custom else None, self.issuer)
        if custom and not isinstance(entry.get("jwks"), str):
            raise ValueError(f"a customJwt provider needs jwks, a URL: {entry!r}")

    def serves(self, issuer: str, audiences: list[str]) -> bool:
        """Whether a token of this issuer for these audiences is ours to judge."""
        ours = _with_scheme(issuer).rstrip("/") == self.issuer.rstrip("/")
        return ours and (self.audience is None or self.audience in audiences)


@dataclass(slots=True)
class KeySet:
    """The public keys of an issuer."""

    url: str | None  # None: found by discovery
    issuer: str
    _keys: PyJWKSet | None = None
    _fetched_s: float = float("-inf")
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def find(self, key_id: str | None) -> PyJWK:
        """The key a token names, or the only one. Errors: Unauthenticated."""
        age_s = time.monotonic() - self._fetched_s
        found = self._held(key_id) if age_s < JWKS_AGE_S else None
        if found is None:
            async with self._lock:
                if time.monotonic() - self._fetched_s > JWKS_PAUSE_S:
                    await self._fetch()
            found = self._held(key_id)
        if found is None:
            raise Unauthenticated(f"the token is signed with a key {self.issuer} does not publish")
        return found

    def _held(self, key_id: str | None) -> PyJWK | None:
        keys = [] if self._keys is None else self._keys.keys
        if key_id is None:
            return keys[0] if len(keys) == 1 else None
        return next((key for key in keys if key.key_id == key_id), None)

    async def _fetch(self) -> None:
        from jwt import PyJWKSet
        from jwt.exceptions import PyJWTError

        self._fetched_s = time.monotonic()
        try:
            if self.url is None:
                found = await _load(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
                if str(found.get("issuer", "")).rstrip("/") != self.issuer.rstrip("/"):
                    raise ValueError(f"it says its issuer is {found.get('issuer')!r}")
                self.url = str(found["jwks_uri"])
            self._keys = PyJWKSet.from_dict(await _load(self.url))
        except (OSError, ValueError, KeyError, PyJWTError, AttributeError) as error:
            raise Unauthenticated(f"the keys of {self.issuer} cannot be had: {error}") from error


class Verifier:
    """All configured providers."""

    def __init__(self, providers: list[dict[str, Any]]) -> None:
        self.issuers = [Issuer(entry) for entry in providers]

    async def identity(self, token: str) -> tuple[dict[str, Any], float]:
        """(the identity functions see, until when the token is good in seconds since 1970). Errors: Unauthenticated."""
        jwt = _library()
        try:
            head, claims = jwt.get_unverified_header(token), jwt.decode(token, options={"verify_signature": False})
        except jwt.PyJWTError as error:
            raise Unauthenticated(f"this is no JSON Web Token: {error}", code="InvalidAuthHeader") from error
        issuer = self._issuer(claims)
        key_id = head.get("kid")
        key = await issuer.keys.find(key_id if isinstance(key_id, str) else None)
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=list(issuer.algorithms),
                audience=issuer.audience,
                leeway=LEEWAY_S,
                options={"require": ["sub", "iss", "exp"], "verify_aud": issuer.audience is not None},
            )
        except (jwt.PyJWTError, TypeError, ValueError) as error:
            raise Unauthenticated(f"the token of {issuer.issuer} is not good: {error}") from error
        return identity_from(claims), float(claims["exp"]) + LEEWAY_S

    def _issuer(self, claims: dict[str, Any]) -> Issuer:
        named, audience = claims.get("iss"), claims.get("aud")
        audiences = [audience] if isinstance(audience, str) else audience if isinstance(audience, list) else []
        for issuer in self.issuers:
            if isinstance(named, str) and issuer.serves(named, audiences):
                return issuer
        known = ", ".join(each.issuer for each in self.issuers) or "none"
        raise Unauthenticated(
            f"no auth provider is configured for issuer {named!r} and audience {audience!r}; configured: {known}",
            code="NoAuthProvider",
        )


def looks_like_token(text: str) -> bool:
    """Three parts of base64url, the first a JSON object: a JSON Web Token, whoever signed it."""
    head, _, rest = text.partition(".")
    return head.startswith("eyJ") and rest.count(".") == 1


def identity_from(claims: dict[str, Any]) -> dict[str, Any]:
    """The identity object of a token's claims, in Convex's names."""
    issuer, subject = str(claims["iss"]), str(claims["sub"])
    identity: dict[str, Any] = {"tokenIdentifier": f"{issuer}|{subject}", "issuer": issuer, "subject": subject}
    for name, value in claims.items():
        if name in DROPPED or value is None:
            continue
        if name in RENAMED:
            name = RENAMED[name]
        elif name in STANDARD:
            head, *tail = name.split("_")
            name = head + "".join(word.title() for word in tail)
        identity.setdefault(name, value)
    return identity


async def _load(url: str) -> dict[str, Any]:
    """JSON from a URL; `data:` too. Errors: OSError, ValueError."""
    if url.startswith("data:"):
        head, _, body = url.partition(",")
        raw = base64.b64decode(body) if head.endswith(";base64") else unquote_to_bytes(body)
    else:
        raw = await _fetched(url)
    found = json.loads(raw)
    if not isinstance(found, dict):
        raise ValueError(f"{url} holds no JSON object")
    return found


async def _fetched(url: str) -> bytes:
    from tornado.httpclient import AsyncHTTPClient, HTTPClientError

    client = AsyncHTTPClient(
        force_instance=True, defaults={"request_timeout": FETCH_TIMEOUT_S}, max_body_size=FETCH_BYTES_MAX
    )
    try:
        return bytes((await client.fetch(url)).body)
    except HTTPClientError as error:
        raise OSError(f"{url} answered {error.code} {error.message}") from error
    finally:
        client.close()


def _with_scheme(issuer: str) -> str:
    return issuer if "://" in issuer else f"https://{issuer}"


def _library() -> Any:
    try:
        import jwt
    except ImportError as missing:
        raise CellstoreError(
            "tokens of an identity provider need PyJWT: pip install 'cellstore[auth]' where the server runs",
            code="MissingDependency",
        ) from missing
    return jwt
