"""Who may come in, and as whom."""

import base64
import json
import os
import re
import stat
from typing import Any

import pytest
from jupyter_server.auth import Authorizer, PasswordIdentityProvider, User
from served_harness import Served
from tornado.httpclient import HTTPClientError

from cellstore.server.routes import routes

QUERY = {"path": "chat:who", "args": {}, "format": "json"}
FOREIGN = {"Origin": "http://evil.example"}


async def status(served: Served, headers: dict[str, str]) -> int:
    return (await served.fetch("api/query", QUERY, headers)).status


async def refused(served: Served, headers: dict[str, str]) -> int:
    with pytest.raises(HTTPClientError) as error:
        await served.socket(headers=headers)
    return error.value.code


async def cookies(served: Served) -> dict[str, str]:
    """What a browser holds after it came with the token in its URL."""
    answer = await served.fetch(f"{served.base_url}api/status?token={served.token}")
    jar = dict(line.split(";")[0].split("=", 1) for line in answer.headers.get_list("Set-Cookie"))
    page = await served.fetch(f"{served.base_url}login")
    jar |= dict(line.split(";")[0].split("=", 1) for line in page.headers.get_list("Set-Cookie"))
    return jar


def as_header(jar: dict[str, str]) -> str:
    return "; ".join(f"{name}={value}" for name, value in jar.items())


async def test_nobody_is_told_to_sign_in(chat: Served) -> None:
    answer = await chat.fetch("api/query", QUERY)
    assert answer.status == 401
    assert answer.json["code"] == "Unauthenticated"
    assert (await chat.fetch("x/hello", b"")).status == 401


CLOSED = {
    "POST": "api/query api/mutation api/action api/function api/query_at_ts api/query_batch api/run/chat/who x/hello http/hook "
    "api/list_snapshot api/document_deltas api/json_schemas api/get_table_column_names api/test_streaming_export_connection "
    "api/export/request/zip api/update_environment_variables api/import api/import/start_upload api/import/upload_part "
    "api/import/finish_upload api/perform_import api/cancel_import api/run_test_function api/deploy2/start_push",
    "GET": "api/query?path=chat:who api/list_snapshot api/stream_function_logs api/export/zip/1 api/deploy2/x http/hook",
}
OPEN = {  # each has another key, or nothing to tell
    "POST": "api/query_ts api/storage/upload api/debug_event echo",
    "GET": "api/sync api/1.2.3/sync api/storage/00000000-0000-0000-0000-000000000000 instance_name instance_version",
}


@pytest.mark.parametrize(("method", "path"), [(m, path) for m, paths in CLOSED.items() for path in paths.split()])
async def test_a_closed_route_is_closed_to_nobody_and_to_foreign_pages(chat: Served, method: str, path: str) -> None:
    body = b"{}" if method == "POST" else None
    # Convex's command line asks for logs for ever unless it is told 403
    assert (await chat.fetch(path, body, method=method)).status == (403 if path.endswith("_logs") else 401)
    if not path.startswith("http/"):  # there a cookie that proves nothing is none
        answer = await chat.fetch(path, body, {"Cookie": as_header(await cookies(chat)), **FOREIGN}, method=method)
        assert answer.status == 403


def test_every_route_is_known_to_be_open_or_closed(served: Served) -> None:
    paths = [path.partition("?")[0] for each in (CLOSED, OPEN) for group in each.values() for path in group.split()]
    for pattern, _, _ in routes("/", served.app):
        assert any(
            re.fullmatch(pattern, f"{prefix}/{path}") for path in [*paths, ""] for prefix in ("", "/cellstore")
        ), pattern


@pytest.mark.parametrize("header", ["token wrong", "Bearer wrong", "Convex default|wrong", "Basic x"])
async def test_a_wrong_credential_is_refused(chat: Served, header: str) -> None:
    assert await status(chat, {"Authorization": header}) == 401
    assert await refused(chat, {"Authorization": header}) == 403


async def test_a_wrong_kernel_secret_is_refused_and_says_what_to_do(chat: Served) -> None:
    answer = await chat.fetch("api/query", QUERY, {"X-Cellstore-Kernel": "wrong"})
    assert answer.status == 401
    assert "%load_ext" in answer.json["message"]


async def test_each_credential_has_its_identity(chat: Served) -> None:
    async def who(headers: dict[str, str]) -> Any:
        return (await chat.fetch("api/query", QUERY, headers)).json["value"]

    key = chat.app.admin_key("default")
    acting = base64.b64encode(json.dumps({"issuer": "i", "subject": "ann"}).encode()).decode()
    assert await who(chat.token_header) == "token"
    assert await who({"Authorization": f"Bearer {chat.token}"}) == "token"
    assert await who(chat.kernel_header) == "kernel"
    assert await who({"Authorization": f"Convex {key}"}) is None
    assert await who({"Authorization": f"Bearer {key}"}) is None
    assert await who({"Authorization": f"convex {key}:{acting}"}) == "ann"


async def test_the_kernel_is_told_where_the_server_is_until_it_stops(served: Served) -> None:
    assert os.environ["CELLSTORE_SERVER_URL"].endswith(served.base_url)
    assert os.environ["CELLSTORE_SERVER_SECRET"] == served.app._secret
    await served.app.stop_extension()
    assert "CELLSTORE_SERVER_SECRET" not in os.environ


async def test_a_store_that_does_not_close_keeps_no_other_open(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails() -> None:
        raise OSError("no")

    first = await served.app.deployment("default")
    other = await served.app.deployment("other", may_create=True)
    with monkeypatch.context() as broken:
        broken.setattr(first, "stop", fails)
        await served.app.stop_extension()
    assert not other.running
    assert "CELLSTORE_SERVER_SECRET" not in os.environ
    await first.stop()


async def test_the_admin_key_is_for_its_owner_only(served: Served) -> None:
    key = served.app.admin_key("default")
    path = served.app.directory("default") / "admin.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert key.startswith("default|")
    assert ":" not in key.partition("|")[2]


@pytest.mark.parametrize("name", ["nosuch", "..", "../../outside", "a" * 300])
async def test_who_knocks_makes_nothing_on_the_disk_by_the_name_they_give(served: Served, name: str) -> None:
    root = served.app.directory("default").parent
    before = {path for path in root.parent.rglob("*") if not path.name.startswith("store.db")}
    for key in ("Convex x|y", "Bearer y"):
        answer = await served.fetch("api/query", QUERY, {"X-Cellstore-Deployment": name, "Authorization": key})
        assert (answer.status, answer.json["code"]) == (401, "Unauthenticated")
    assert {path for path in root.parent.rglob("*") if not path.name.startswith("store.db")} == before
    assert not (root / "../../outside").exists()


async def test_a_key_that_lies_elsewhere_opens_nothing(served: Served) -> None:
    root = served.app.directory("default").parent
    (root.parent / "admin.key").write_text("mine|1\n")
    answer = await served.fetch("x/hello", b"", {"X-Cellstore-Deployment": "..", "Authorization": "Convex mine|1"})
    assert answer.status == 401


async def test_only_admin_keys_reach_internal_functions(chat: Served) -> None:
    body = {"path": "chat:secret", "args": {}}
    for headers in (chat.token_header, chat.kernel_header):
        assert (await chat.fetch("api/query", body, headers)).json["status"] == "error"
    admin = {"Authorization": f"Convex {chat.app.admin_key('default')}"}
    assert (await chat.fetch("api/query", body, admin)).json["value"] == "secret"


async def test_a_cookie_counts_only_with_its_xsrf_token(chat: Served) -> None:
    jar = await cookies(chat)
    assert await status(chat, {"Cookie": as_header(jar)}) == 403
    assert await status(chat, {"Cookie": as_header(jar), "X-XSRFToken": jar["_xsrf"]}) == 200
    foreign = {"Cookie": as_header(jar), "X-XSRFToken": jar["_xsrf"], **FOREIGN}
    assert await status(chat, foreign) == 403


async def test_a_socket_with_a_cookie_opens_from_the_same_origin_only(chat: Served) -> None:
    jar = await cookies(chat)
    wire = await chat.socket(headers={"Cookie": as_header(jar), "Origin": chat.origin})
    await wire.subscribe(0, "chat:count")
    assert (await wire.result(0))["value"] == 0.0
    assert await refused(chat, {"Cookie": as_header(jar), **FOREIGN}) == 403


async def test_a_socket_with_a_token_opens_from_anywhere(chat: Served) -> None:
    wire = await chat.socket(headers={**chat.token_header, **FOREIGN})
    await wire.subscribe(0, "chat:count")
    assert (await wire.result(0))["value"] == 0.0


async def test_a_socket_without_credentials_is_told_so_until_it_authenticates(chat: Served) -> None:
    wire = await chat.socket(headers=FOREIGN)
    await wire.subscribe(0, "chat:who")
    assert "not signed in" in (await wire.result(0))["errorMessage"]
    response = await wire.call("Mutation", "chat:send", {"author": "x", "body": "y"})
    assert response["success"] is False
    assert "not signed in" in response["result"]
    await wire.say("Authenticate", baseVersion=0, tokenType="User", value=chat.token)
    assert (await wire.result(0))["value"] == "token"


async def test_a_wrong_token_in_a_socket_is_an_auth_error_and_the_end(chat: Served) -> None:
    wire = await chat.socket()
    await wire.say("Authenticate", baseVersion=0, tokenType="User", value="wrong")
    error = await wire.until(lambda message: message["type"] == "AuthError")
    assert error["authUpdateAttempted"] is True
    assert error["baseVersion"] == 0
    assert (await wire.closed())[0] == 1000


async def test_an_admin_may_act_as_somebody_in_a_socket(chat: Served) -> None:
    wire = await chat.socket()
    await wire.subscribe(0, "chat:who")
    key = chat.app.admin_key("default")
    await wire.say(
        "Authenticate", baseVersion=0, tokenType="Admin", value=key, impersonating={"issuer": "i", "subject": "bo"}
    )
    assert "errorMessage" in await wire.result(0)
    assert (await wire.result(0))["value"] == "bo"


async def test_a_foreign_host_is_refused(chat: Served) -> None:
    assert await status(chat, {**chat.token_header, "Host": "evil.example"}) == 403


async def test_cors_is_off_unless_configured(chat: Served) -> None:
    answer = await chat.fetch("api/query", method="OPTIONS", headers=FOREIGN)
    assert "Access-Control-Allow-Origin" not in answer.headers


class TestAnonymous:
    """With allow_anonymous, strangers call public functions, and see no more than they must."""

    @pytest.fixture
    def extension_config(self) -> dict[str, Any]:
        return {"allow_anonymous": True, "cors_allow_origins": ["http://app.example"]}

    async def test_strangers_call_public_functions_and_nothing_else(self, chat: Served) -> None:
        assert (await chat.fetch("api/query", QUERY)).json["value"] is None
        body = {"path": "chat:send", "args": {"author": "a", "body": "b"}}
        assert (await chat.fetch("api/mutation", body)).json["status"] == "success"
        assert (
            "Could not find public function"
            in (await chat.fetch("api/query", {"path": "chat:secret", "args": {}})).json["errorMessage"]
        )
        for op in ("hello", "tables", "deploy", "sql", "table_parquet", "insert"):
            assert (await chat.fetch(f"x/{op}", b"")).status == 403

    async def test_strangers_see_neither_tracebacks_nor_logs(self, chat: Served) -> None:
        failed = (await chat.fetch("api/mutation", {"path": "chat:fail", "args": {}})).json
        assert failed["errorMessage"].startswith("[Request ID: ")
        assert failed["errorMessage"].endswith("] Server Error")
        sent = await chat.fetch("api/mutation", {"path": "chat:send", "args": {"author": "a", "body": "b"}})
        assert sent.json["logLines"] == []

    async def test_strangers_do_not_learn_what_is_deployed(self, chat: Served) -> None:
        missing = (await chat.fetch("api/query", {"path": "chat:nothing", "args": {}})).json["errorMessage"]
        assert "chat:send" not in missing

    async def test_a_wrong_token_is_still_wrong(self, chat: Served) -> None:
        assert await status(chat, {"Authorization": "Bearer wrong"}) == 401

    async def test_pages_of_configured_origins_may_call(self, chat: Served) -> None:
        headers = {"Origin": "http://app.example", "Access-Control-Request-Headers": "content-type,convex-client"}
        preflight = await chat.fetch("api/query", method="OPTIONS", headers=headers)
        assert preflight.status == 204
        assert preflight.headers["Access-Control-Allow-Origin"] == "http://app.example"
        assert preflight.headers["Access-Control-Allow-Headers"] == "content-type,convex-client"
        other = await chat.fetch("api/query", method="OPTIONS", headers=FOREIGN)
        assert "Access-Control-Allow-Origin" not in other.headers
        wrong = await chat.fetch("api/query", {"path": 5}, headers)
        assert wrong.status == 400
        assert wrong.headers["Access-Control-Allow-Origin"] == "http://app.example"


class TestHub:
    """Where Jupyter knows people by name, and its authorizer says what each may do."""

    @pytest.fixture
    def jp_server_config(self, jp_server_config: dict[str, Any]) -> dict[str, Any]:
        people = {"identity_provider_class": Hub, "authorizer_class": ReadersOnly}
        return {**jp_server_config, "ServerApp": {**jp_server_config["ServerApp"], **people}}

    async def test_the_name_is_kept_and_each_permission_is_asked_for(self, chat: Served) -> None:
        ann, bo = {"X-Person": "ann"}, {"X-Person": "bo"}
        for who in (ann, bo):
            assert (await chat.fetch("api/query", QUERY, {**chat.token_header, **who})).json["value"] == who["X-Person"]
        body = {"path": "chat:send", "args": {"author": "a", "body": "b"}}
        assert (await chat.fetch("api/mutation", body, {**chat.token_header, **ann})).json["status"] == "success"
        said = (await chat.fetch("api/mutation", body, {**chat.token_header, **bo})).json["errorMessage"]
        assert "may not write here" in said
        for op, wanted in (("tables", 200), ("insert", 403), ("deploy", 403), ("sql", 403), ("env", 403)):
            assert (await chat.fetch(f"x/{op}", b"", {**chat.token_header, **bo})).status == wanted, op

    async def test_who_only_reads_makes_no_store(self, served: Served) -> None:
        named = {**served.token_header, "X-Cellstore-Deployment": "fresh"}
        assert (await served.fetch("x/hello", b"", {**named, "X-Person": "bo"})).status == 404
        assert not served.app.directory("fresh").exists()
        assert (await served.fetch("x/hello", b"", {**named, "X-Person": "ann"})).status == 200

    async def test_a_socket_asks_for_each_message(self, chat: Served) -> None:
        wire = await chat.socket(headers={**chat.token_header, "X-Person": "bo"})
        await wire.subscribe(0, "chat:who")
        assert (await wire.result(0))["value"] == "bo"
        for kind, path in (("Mutation", "chat:send"), ("Action", "chat:act")):
            assert "may not write here" in (await wire.call(kind, path))["result"]


class Hub(PasswordIdentityProvider):
    """Everybody holds the token, and says who they are."""

    def get_user(self, handler: Any) -> User | None:
        handler._token_authenticated = True
        return User(handler.request.headers.get("X-Person", "nobody"))


class ReadersOnly(Authorizer):
    """Only ann may do more than read."""

    def is_authorized(self, handler: Any, user: User, action: str, resource: str) -> bool:
        return action == "read" or user.username == "ann"
