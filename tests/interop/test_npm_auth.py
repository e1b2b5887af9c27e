"""The published npm client signs in, renews, is refused and signs out, with tokens of an identity provider."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from published import client, needs_npm, serving
from server_process import ServerProcess

jwt = pytest.importorskip("jwt")
from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: E402

from cellstore.server.jwt import LEEWAY_S  # noqa: E402

OURS, OTHERS = rsa.generate_private_key(65537, 2048), rsa.generate_private_key(65537, 2048)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    key = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(OURS.public_key()))
    keys = base64.b64encode(json.dumps({"keys": [{**key, "kid": "one", "use": "sig"}]}).encode()).decode()
    provider = {"type": "customJwt", "issuer": "https://id.test/", "algorithm": "RS256"}
    provider |= {"jwks": f"data:application/json;base64,{keys}", "applicationID": "app"}
    with serving(tmp_path, "chat.py", auth_providers=[provider]) as server:
        yield server


def token(number: int, key: Any = OURS, valid_s: float = 3600, age_s: float = 0) -> str:
    now = int(time.time() - age_s)
    claims = {
        "iss": "https://id.test",
        "sub": "ann",
        "aud": "app",
        "iat": now,
        "exp": now + valid_s,
        "jti": str(number),
    }
    return str(jwt.encode(claims, key, "RS256", headers={"kid": "one"}))


@needs_npm
def test_it_signs_in_renews_is_refused_and_signs_out(server: ServerProcess) -> None:
    tokens = {
        "ann": [token(1), token(2)],
        "refused": [token(n, OTHERS) for n in range(6)],
        "brief": token(3, valid_s=3, age_s=LEEWAY_S),  # good for three seconds more
    }
    with client("npm_auth.mjs", server.url + "/cellstore", json.dumps(tokens)) as npm:
        printed, _ = npm.communicate(timeout=120)
    seen = {line["what"]: line["value"] for line in map(json.loads, printed.splitlines())}
    assert "end" in seen, printed
    assert seen["mutation in its name"] == "string"
    # a second token at once, as its habit is; the same person, so nothing is shown again
    assert seen["signed in"] == {"asked": [False, True], "changes": [True, True], "who": ["ann"]}
    assert seen["signed out"] == ["ann", None]
    assert seen["refused"]["asked"] == [False, True, True, True]  # then it gives up, and goes on as nobody
    assert seen["refused"]["changes"] == [False]
    assert seen["refused"]["who"] == [None]
    assert seen["refused"]["still"] == 1
    assert seen["after the token's end"] == "string"  # it was told, asked for another, and sent the mutation again
    assert seen["renewed"]["asked"] == [False, True, True]
    assert set(seen["renewed"]["who"]) == {"ann"}
    assert (seen["http"], seen["http refused"]) == ("ann", "Unauthenticated")
