"""Pages of other origins: those that are configured may call every route over HTTP, and no other page may read an answer."""

from __future__ import annotations

from typing import Any

import pytest
from served_harness import Served
from test_doors import CLOSED, FOREIGN, OPEN, QUERY, as_header, cookies

OURS = {"Origin": "http://app.example"}
ASKED = "authorization,content-type,convex-client"
ROUTES = [
    (method, place)
    for group in (CLOSED, OPEN)
    for method, paths in group.items()
    for path in paths.split()
    if not path.endswith("/sync")  # sockets need none of it
    for place in ([path, f"/{path}"] if path.startswith("api/") else [path])
]


@pytest.fixture
def extension_config() -> dict[str, Any]:
    return {"cors_allow_origins": ["http://app.example"]}


def told(answer: Any) -> dict[str, str]:
    """What a browser goes by."""
    return {name: value for name, value in answer.headers.items() if name.startswith("Access-Control-")}


async def test_every_route_may_be_called_from_configured_origins_and_from_no_other(chat: Served) -> None:
    for method, path in ROUTES:
        asks = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": ASKED}
        preflight = await chat.fetch(path, method="OPTIONS", headers={**OURS, **asks})
        assert (preflight.status, preflight.headers["Vary"]) == (204, "Origin"), path
        assert told(preflight) == {
            "Access-Control-Allow-Origin": "http://app.example",
            "Access-Control-Allow-Credentials": "true",
            "Access-Control-Allow-Headers": ASKED,
            "Access-Control-Allow-Methods": "GET, POST, PUT, PATCH, DELETE, OPTIONS",
            "Access-Control-Max-Age": "86400",
        }, path
        other = await chat.fetch(path, method="OPTIONS", headers={**FOREIGN, **asks})
        assert (told(other), other.headers["Vary"]) == ({}, "Origin"), path


async def test_answers_and_errors_of_every_route_may_be_read_by_configured_origins_only(chat: Served) -> None:
    for method, path in ROUTES:
        if path.endswith("stream_function_logs"):
            continue  # waits for something to tell
        body = b"{}" if method == "POST" else None
        for credentials in ({}, {"Authorization": f"Convex {chat.app.admin_key('default')}"}):
            answer = await chat.fetch(path, body, {**OURS, **credentials}, method=method)
            assert told(answer)["Access-Control-Allow-Origin"] == "http://app.example", (path, answer.status)
            foreign = await chat.fetch(path, body, {**FOREIGN, **credentials}, method=method)
            assert told(foreign) == {}, (path, foreign.status)


async def test_a_login_cookie_counts_for_nothing_from_a_configured_origin(chat: Served) -> None:
    """Even where the page could read the XSRF token, as pages of other ports of the same host can."""
    jar = await cookies(chat)
    headers = {"Cookie": as_header(jar), "X-XSRFToken": jar["_xsrf"], **OURS}
    for method, path in ROUTES:
        if path.lstrip("/") not in CLOSED[method].split() or path.startswith("http/"):
            continue  # open to anybody; or a function, for which a cookie that proves nothing is none
        answer = await chat.fetch(path, b"{}" if method == "POST" else None, headers, method=method)
        assert (answer.status, answer.json["code"]) == (403, "Forbidden"), path


class TestEverywhere:
    """With "*" any page may call, and none may send its cookies."""

    @pytest.fixture
    def extension_config(self) -> dict[str, Any]:
        return {"cors_allow_origins": ["*"], "allow_anonymous": True}

    async def test_any_page_may_call_without_its_cookies(self, chat: Served) -> None:
        answer = await chat.fetch("api/query", QUERY, FOREIGN)
        assert answer.json["status"] == "success"
        assert told(answer)["Access-Control-Allow-Origin"] == FOREIGN["Origin"]
        assert "Access-Control-Allow-Credentials" not in told(answer)
