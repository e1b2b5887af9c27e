"""An identity provider as it is met: found by discovery or by the address of its keys, with keys of every kind, that change."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

jwt = pytest.importorskip("jwt")
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: E402
from tornado.httpserver import HTTPServer  # noqa: E402
from tornado.netutil import bind_sockets  # noqa: E402
from tornado.web import Application, RequestHandler  # noqa: E402

from cellstore.errors import Unauthenticated  # noqa: E402
from cellstore.server.jwt import JWKS_AGE_S, JWKS_PAUSE_S, LEEWAY_S, Verifier  # noqa: E402

RSA, CURVE = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())
EDWARDS, LARGE_CURVE = ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP384R1())
KINDS = {"RS256": RSA, "EdDSA": EDWARDS, "ES256": CURVE, "ES384": LARGE_CURVE}
SHARED = {"kty": "oct", "kid": "HS256", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA"}


def public(kid: str, key: Any) -> dict[str, Any]:
    """The half of a key that is published."""
    kinds = {rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm, ed25519.Ed25519PrivateKey: jwt.algorithms.OKPAlgorithm}
    algorithm = next((found for kind, found in kinds.items() if isinstance(key, kind)), jwt.algorithms.ECAlgorithm)
    return {**json.loads(algorithm.to_jwk(key.public_key())), "kid": kid, "use": "sig"}


class Provider:
    """A server that publishes its keys."""

    def __init__(self) -> None:
        provider, self.keys, self.fetches = self, [public(kid, key) for kid, key in KINDS.items()] + [SHARED], 0
        [listening] = bind_sockets(0, "127.0.0.1")
        self.issuer = f"http://127.0.0.1:{listening.getsockname()[1]}"
        self.said = {"issuer": self.issuer, "jwks_uri": f"{self.issuer}/keys"}

        class Configuration(RequestHandler):
            def get(self) -> None:
                self.finish(provider.said)

        class Keys(RequestHandler):
            def get(self) -> None:
                provider.fetches += 1
                self.set_header("Content-Type", "application/jwk-set+json")
                self.finish(json.dumps({"keys": provider.keys}))

        places = [("/.well-known/openid-configuration", Configuration), ("/keys", Keys)]
        self.server = HTTPServer(Application(places))
        self.server.add_sockets([listening])

    def token(self, algorithm: str, key: Any = None, kid: str = "", **claims: Any) -> str:
        said = {"iss": self.issuer, "sub": "ann", "aud": "app", "exp": time.time() + 60, **claims}
        return str(jwt.encode(said, key or KINDS.get(algorithm), algorithm, headers={"kid": kid or algorithm}))

    def oidc(self) -> Verifier:
        return Verifier([{"domain": self.issuer, "applicationID": "app"}])

    def custom(self, algorithm: str) -> Verifier:
        entry = {"type": "customJwt", "issuer": self.issuer, "jwks": f"{self.issuer}/keys", "algorithm": algorithm}
        return Verifier([entry])


@pytest.fixture
def provider(jp_asyncio_loop: Any) -> Iterator[Provider]:
    async def made() -> Provider:
        return Provider()

    provider: Provider = jp_asyncio_loop.run_until_complete(made())
    yield provider
    provider.server.stop()


@pytest.mark.parametrize("algorithm", ["RS256", "EdDSA"])
async def test_discovery_finds_the_key_of_a_token(provider: Provider, algorithm: str) -> None:
    identity, _ = await provider.oidc().identity(provider.token(algorithm))
    assert identity["tokenIdentifier"] == f"{provider.issuer}|ann"


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
async def test_keys_of_our_own_are_fetched_from_their_address(provider: Provider, algorithm: str) -> None:
    identity, _ = await provider.custom(algorithm).identity(provider.token(algorithm))
    assert identity["subject"] == "ann"


async def test_a_token_of_an_algorithm_that_was_not_agreed_is_refused(provider: Provider) -> None:
    agreed = {None: {"RS256", "EdDSA"}, "RS256": {"RS256"}, "ES256": {"ES256"}}
    for custom, good in agreed.items():
        verifier = provider.oidc() if custom is None else provider.custom(custom)
        for algorithm in set(KINDS) - good:
            with pytest.raises(Unauthenticated, match="not good"):
                await verifier.identity(provider.token(algorithm))


async def test_what_is_signed_with_nothing_or_with_what_everybody_knows_is_refused(provider: Provider) -> None:
    """The classics: no signature; a published secret; the public key taken for a secret."""
    modulus = public("RS256", RSA)["n"]
    forged = [provider.token("none"), provider.token("HS256", "secret-secret-secret-secret-secret")]
    forged.append(provider.token("HS256", modulus, kid="RS256"))
    forged.append(provider.token("HS256", base64.urlsafe_b64decode(SHARED["k"] + "==")))
    for verifier in (provider.oidc(), provider.custom("RS256"), provider.custom("ES256")):
        for token in forged:
            with pytest.raises(Unauthenticated):
                await verifier.identity(token)


async def test_an_issuer_that_says_it_is_another_is_not_believed(provider: Provider) -> None:
    provider.said["issuer"] = "https://another.test"
    with pytest.raises(Unauthenticated, match="it says its issuer is"):
        await provider.oidc().identity(provider.token("RS256"))


async def test_a_new_key_is_found_and_one_taken_back_is_good_no_longer(provider: Provider) -> None:
    verifier, new = provider.oidc(), rsa.generate_private_key(65537, 2048)
    old_token, new_token = provider.token("RS256"), provider.token("RS256", new)
    await verifier.identity(old_token)
    provider.keys = [public("RS256", new)]
    with pytest.raises(Unauthenticated, match="not good"):
        await verifier.identity(new_token)  # the old key of that name is held yet
    verifier.issuers[0].keys._fetched_s -= JWKS_AGE_S
    await verifier.identity(new_token)
    with pytest.raises(Unauthenticated, match="not good"):
        await verifier.identity(old_token)
    provider.keys = [public("EdDSA", EDWARDS)]
    verifier.issuers[0].keys._fetched_s -= JWKS_PAUSE_S + 1
    await verifier.identity(provider.token("EdDSA"))  # a name not seen before is looked for at once
    assert provider.fetches == 3


async def test_a_provider_that_is_away_is_said_and_asked_again(provider: Provider) -> None:
    verifier, keys = provider.oidc(), provider.keys
    provider.keys = [{"kty": "nonsense"}]
    with pytest.raises(Unauthenticated, match="cannot be had"):
        await verifier.identity(provider.token("RS256"))
    provider.keys = keys
    verifier.issuers[0].keys._fetched_s -= JWKS_PAUSE_S + 1
    await verifier.identity(provider.token("RS256"))


async def test_clocks_may_differ_by_five_seconds(provider: Provider) -> None:
    verifier = provider.oidc()
    expired_s = time.time() - LEEWAY_S + 2
    _, good_until_s = await verifier.identity(provider.token("RS256", exp=expired_s))
    assert good_until_s > time.time()  # else its socket would end with the next message
    with pytest.raises(Unauthenticated, match="expired"):
        await verifier.identity(provider.token("RS256", exp=time.time() - LEEWAY_S - 2))
