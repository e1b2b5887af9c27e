"""Routes of HTTP actions: what can be one, and whose it is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))

from runtime_harness import Stage, play, unit_of

import cellstore as cs
from cellstore.web import Headers, Request, Response

HOOK = """
    @cs.http("/hook", methods=["POST"])
    def hook(ctx, request):
        return 1
"""


def test_a_route_that_another_module_has_is_refused_by_name_and_a_module_may_keep_its_own(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        with pytest.raises(cs.DeployError, match="m:hook answers POST /hook already; other:hook cannot, too"):
            await stage.runner.deploy(unit_of(HOOK, "other"))
        await stage.runner.deploy(unit_of(HOOK))
        await stage.runner.deploy(unit_of(HOOK.replace('"POST"', '"GET"'), "other"))
        assert stage.runner.has_route("GET", "/hook")

    play(tmp_path, HOOK, scenario)


@pytest.mark.parametrize(
    ("path", "options", "reason"),
    [
        ("hook", {}, "a route is a path"),
        ("/hook?x=1", {}, "a route is a path"),
        ("/hook", {"methods": ["FETCH"]}, "'FETCH' is no method"),
        ("/hook", {"methods": ["HEAD"]}, "HEAD is served by GET"),
        ("/hook", {"methods": []}, "a route is a path and its methods"),
        ("/hook", {"prefix": True}, "a prefix ends with a slash"),
    ],
)
def test_what_cannot_be_a_route_is_refused_with_a_reason(path: str, options: dict, reason: str) -> None:
    with pytest.raises(cs.CallerError, match=reason):
        cs.http(path, **options)


def test_an_http_action_takes_a_context_and_a_request() -> None:
    with pytest.raises(cs.DeployError, match="the context and the request"):
        cs.http("/a")(lambda_named("f", "ctx"))
    handle = cs.http("/b")(lambda_named("g", "ctx, request"))
    assert repr(handle) == "<http test_routes:g GET /b>"
    with pytest.raises(cs.CallerError, match="answers HTTP requests"):
        handle()


def lambda_named(name: str, parameters: str) -> object:
    space: dict[str, object] = {"__name__": __name__, "__file__": __file__}
    exec(f"def {name}({parameters}): pass", space)
    return space[name]


def test_requests_and_responses_are_as_people_know_them() -> None:
    request = Request("post", "/a%20b?x=1&x=2&y=", {"Content-Type": "text/plain"}, b'{"n": 1}')
    assert (request.method, request.path, request.query) == ("POST", "/a b", {"x": "2", "y": ""})
    assert request.query_items == [("x", "1"), ("x", "2"), ("y", "")]
    assert request.headers["content-type"] == "text/plain"
    assert request.json() == {"n": 1}
    assert b"".join(request.stream(3)) == request.body
    assert Request("POST", "/", body=b"a=1&b=2").form() == {"a": "1", "b": "2"}
    headers = Headers([("Set-Cookie", "a"), ("set-cookie", "b")])
    assert headers.getlist("SET-COOKIE") == ["a", "b"]
    headers["Set-Cookie"] = "c"
    assert headers.raw == [("Set-Cookie", "c")]
    with pytest.raises(cs.ValidationError, match="one line"):
        headers.add("X", "a\r\nY: b")
    assert Response.of(None).status == 204
    assert Response.of({"a": 1}).headers["Content-Type"] == "application/json"
    assert Response.of("x").head.length == 1
    assert Response.of(iter(["x"])).head.length is None
    with pytest.raises(cs.ValidationError):
        Response.of(object())
