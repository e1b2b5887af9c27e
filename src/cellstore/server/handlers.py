"""HTTP: parse, call, encode. Decides nothing.

    api/query, mutation, action, function, query_ts, query_at_ts, query_batch, run/…    Convex's HTTP function API
    x/{op}                                                                              control operations

A function that ran answers 200, whether it succeeded or failed; a request that never ran answers 4xx or 5xx with
`{"code", "message"}`. Our errors know their status; nothing else is translated.

Who asks, and whether they may ask at all, is known before the first byte of a body is kept: what comes from somebody who
may not, or is more than may be said at once, costs no memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Iterator
from typing import TYPE_CHECKING, Any, cast

import orjson
from jupyter_server.auth.decorator import allow_unauthenticated
from jupyter_server.base.handlers import JupyterHandler
from tornado import web
from tornado.iostream import StreamClosedError

from cellstore import __version__
from cellstore.errors import (
    CallerError,
    CellstoreError,
    FatalError,
    Forbidden,
    LimitExceeded,
    NotFound,
    Overloaded,
    Unauthenticated,
    ValidationError,
)
from cellstore.protocol.codec import load_json
from cellstore.protocol.messages import decode_args, fragment
from cellstore.protocol.path import canonical
from cellstore.protocol.version import decode_ts, encode_ts
from cellstore.reactivity.principal import NOBODY, Principal
from cellstore.reactivity.result import convex_json, failure_for, logs_for
from cellstore.runtime.outcome import Outcome
from cellstore.values import json as native
from cellstore.values.convex import to_clean

if TYPE_CHECKING:
    from cellstore.analytics.exports import Export
    from cellstore.server.deployment import Deployment
    from cellstore.server.extension import CellstoreApp

FORMATS = {"convex_encoded_json": "convex", "convex_json": "convex", "json": "clean", "convex_clean_json": "clean"}
RESULT_HEADER, PARAMS_HEADER, DEPLOYMENT_HEADER = "X-Cellstore-Result", "X-Cellstore-Params", "X-Cellstore-Deployment"
CLIENT_HEADER = "Convex-Client"  # `<name>-<version>`
FORMATS_SINCE = {"npm": (1, 4, 1), "python": (0, 5, 0), "python-convex": (0, 5, 0)}
"""Clients before these name no format and mean Convex's own."""
HEADER_CHARS_MAX = 4096  # of one field of a result that travels in a header; proxies take 8 KiB of it
PIECE_BYTES = 1 << 20  # of a file on its way
OPEN_BODY_BYTES = 8 << 20  # of a body that whoever comes may send; Convex's network test sends 4 MiB
HEARD_OUT_BYTES = 1 << 20  # of a body that is refused: who still sends does not listen, so that much is let go by


class Door:
    """What every handler of ours, HTTP or socket, needs to know about who asks whom."""

    app: CellstoreApp

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:  # noqa: ARG002 - tornado's signature
        """A piece of a body that nobody asked for: it is dropped."""
        return None

    def initialize(self, app: CellstoreApp) -> None:
        """Tornado's constructor of routes."""
        self.app = app

    async def identify(self) -> Principal:
        """Who asks. Errors: Unauthenticated for wrong credentials; Forbidden for a cookie without its XSRF token."""
        handler = cast(JupyterHandler, self)
        who = await self.app.doorkeeper(self.deployment_name).identify(handler)
        if who.kind == "user" and not handler.token_authenticated and not self.cookie_is_meant():
            if self.app.allow_anonymous:
                return self.app.doorkeeper(self.deployment_name).stranger
            raise Forbidden("this request carries a login cookie but no XSRF token: send X-XSRFToken, or use a token")
        return who

    def cookie_is_meant(self) -> bool:
        """Whether a login cookie was sent by our own page, not by a browser on another site's behalf."""
        return True

    @property
    def deployment_name(self) -> str:
        """Which of the server's deployments is meant."""
        handler = cast(JupyterHandler, self)
        named: str = handler.path_kwargs.get("deployment") or handler.request.headers.get(DEPLOYMENT_HEADER) or ""
        return named or self.app.deployment_name

    async def deployment(self, who: Principal, may_create: bool = True) -> Deployment:
        """The deployment meant. Errors: those of opening it, or why it stopped; a NotFound tells owners which there are."""
        name = self.deployment_name
        try:
            opened = await self.app.deployment(name, may_create and who.owner and "write" in who.permissions)
            opened.check_running()
            return opened
        except FatalError as stopped:
            if who.owner:
                raise
            raise Overloaded("the store is not open, and its owner can find out why: ask again later") from stopped
        except NotFound as missing:
            if not who.owner:
                raise
            there = ", ".join(self.app.deployment_names())
            raise NotFound(f"{missing.message}; there are: {there}", kind="deployment", name=name) from missing


@web.stream_request_body
class HttpHandler(Door, JupyterHandler):
    """Errors as JSON, identity as ours, XSRF where cookies are relied on, bodies only of who may ask."""

    auth_resource = "cellstore"
    _asker: Principal | CellstoreError = NOBODY
    _body: bytearray | None = None  # None: what comes is dropped

    async def prepare(self, **options: Any) -> None:
        """Before the body."""
        await super().prepare(**options)
        if not self._finished:  # as it is when there is no such method
            await self.expect()

    async def expect(self) -> None:
        """Find out who asks and how much they may say; hang up on who may not say what they are about to."""
        if self.request.method == "OPTIONS":  # which carries neither credentials nor a body
            return
        try:
            self._asker = who = await self.admit()
            limit = self.body_bytes_max(who)
            self.bound_body(limit, "" if limit == OPEN_BODY_BYTES else " (knob frame_size_bytes)")
            self._body = bytearray()
        except CellstoreError as refused:
            self._asker = refused
            announced = self.announced_bytes()
            if announced is None or announced > HEARD_OUT_BYTES:
                self.hang_up(refused)

    async def admit(self) -> Principal:
        """Who asks. Errors: of those who may not ask at all."""
        return NOBODY

    async def permitted(self, permission: str) -> Principal:
        """Who asks. Errors: as `identify`; of those who lack the permission."""
        who = await self.identify()
        refused = who.refusal(permission)
        if refused is not None:
            raise refused
        return who

    def asker(self) -> Principal:
        """Whom `admit` let in. Errors: why it did not."""
        if isinstance(self._asker, CellstoreError):
            raise self._asker
        return self._asker

    def body_bytes_max(self, who: Principal) -> int | None:  # noqa: ARG002 - for those who know
        """How long a body of theirs may be; None: as long as this Jupyter server takes."""
        return OPEN_BODY_BYTES

    def announced_bytes(self) -> int | None:
        """What the client says of its body's length; None when only its end will tell."""
        headers = self.request.headers
        return None if "Transfer-Encoding" in headers else int(headers.get("Content-Length") or 0)

    def bound_body(self, limit: int | None, whose: str) -> None:
        """Cut off a body beyond `limit`; `whose` says who sets it. Errors: LimitExceeded for one that says that it is."""
        if limit is None:
            return
        if (self.announced_bytes() or 0) > limit:
            raise LimitExceeded(f"the request's body is more than {limit:,} bytes{whose}")
        connection: Any = self.request.connection
        connection.set_max_body_size(limit)

    def hang_up(self, error: CellstoreError) -> None:
        """Answer without waiting for the body, or the rest of it."""
        self.set_header("Connection", "close")
        self.refuse(error.http_status, describe(error))

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        """A piece of the body."""
        if self._body is not None:
            self._body += chunk
        return None

    @property
    def body(self) -> bytes:
        """All of it."""
        return bytes(self._body or b"")

    def check_xsrf_cookie(self) -> None:
        """Checked in `identify`, once it is known whether a cookie is relied on."""

    def cookie_is_meant(self) -> bool:
        """Whether Jupyter's XSRF and origin checks pass."""
        try:
            super().check_xsrf_cookie()
        except web.HTTPError:
            return False
        return True

    def set_cors_headers(self) -> None:
        """Let pages of the configured origins call us."""
        super().set_cors_headers()
        origin, allowed = self.request.headers.get("Origin"), self.app.cors_allow_origins
        if allowed:
            # also what is answered to none: it may be kept, and then shown to another
            self.set_header("Vary", "Origin")
        if origin and (origin in allowed or "*" in allowed):
            self.set_header("Access-Control-Allow-Origin", origin)
            self.set_header("Access-Control-Allow-Methods", "GET, POST, PUT, PATCH, DELETE, OPTIONS")
            self.set_header("Access-Control-Max-Age", "86400")
            if origin in allowed:  # a page may send its cookies; a login among them counts for nothing from there
                self.set_header("Access-Control-Allow-Credentials", "true")
            asked = self.request.headers.get("Access-Control-Request-Headers")
            if asked:
                self.set_header("Access-Control-Allow-Headers", asked)

    @allow_unauthenticated
    def options(self, *_args: str, **_kwargs: str) -> None:
        """A preflight; the headers say who may come."""
        self.set_status(204)
        self.finish()

    def json_body(self) -> dict[str, Any]:
        """The request's body. Errors: ValidationError."""
        text = self.body
        body = load_json(text, "body") if text else {}
        if not isinstance(body, dict):
            raise ValidationError(path="body", expected="a JSON object", got=type(body).__name__)
        return body

    def answer(self, body: Any) -> None:
        """200 with JSON."""
        self.set_header("Content-Type", "application/json")
        self.finish(orjson.dumps(body))

    async def stream(self, answer: dict[str, Any], export: Export) -> None:
        """A file, piece by piece, no faster than the other side takes it."""
        try:
            self.set_header("Content-Type", "application/octet-stream")
            self.set_header("Content-Length", str(export.size_bytes))
            self.set_header(RESULT_HEADER, head_of(answer))
            last = await asyncio.to_thread(export.read, PIECE_BYTES)
            while piece := await asyncio.to_thread(export.read, PIECE_BYTES):
                self.write(last)
                await self.flush()
                last = piece
        except StreamClosedError:
            return  # the other side went away
        finally:
            await asyncio.to_thread(export.close)
        self.finish(last)  # when the other side has everything, nothing is left here

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Every error of ours and of Jupyter's as `{"code", "message"}`."""
        error = kwargs.get("exc_info", (None, None))[1]
        message, code = "the request failed; the server's log says why", "InternalServerError"
        if isinstance(error, web.HTTPError):
            code, message = f"Http{status_code}", error.log_message or error.reason or "the request was refused"
        self.refuse(status_code, {"code": code, "message": message})

    def refuse(self, status: int, problem: dict[str, Any]) -> None:
        """An answer that is an error."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.finish(native.dumps(problem))

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Errors of ours inside become the answer."""
        try:
            yield
        except CellstoreError as error:
            self.refuse(error.http_status, describe(error))


def describe(error: CellstoreError) -> dict[str, Any]:
    """An error as a client is told."""
    problem: dict[str, Any] = {"code": error.code, "message": error.message, "class": type(error).__name__}
    if error.data is not None:
        problem["data"] = error.data
    for name in ("traceback", "request_id", "function", "path", "inserted"):
        if getattr(error, name, None):
            problem[name] = getattr(error, name)
    return problem


class FunctionHandler(HttpHandler):
    """What the routes that call functions share."""

    async def admit(self) -> Principal:
        """Who calls. Errors: as `identify`; Unauthenticated for nobody."""
        who = await self.identify()
        if who.kind == "nobody":
            raise who.refusal("read") or Unauthenticated()
        return who

    def body_bytes_max(self, who: Principal) -> int | None:
        """As much as may be said at once on a socket."""
        return None if who.owner else self.app.limits.frame_size_bytes

    async def run(self, kind: str, body: dict[str, Any], who: Principal) -> dict[str, Any]:
        """The answer of a function that ran. Errors: of a request that never ran."""
        encoding = format_of(body.get("format"), self.request.headers.get(CLIENT_HEADER, ""))
        path = body.get("path")
        if not isinstance(path, str) or not path:
            raise ValidationError(path="path", expected="a function's path, module:name", got=repr(path)[:60])
        args = decode_args(body.get("args"), exact=False)
        deployment = await self.deployment(who)
        outcome = await self.call(deployment, kind, path, args, body, who)
        error = outcome.error
        if error is not None and (error.is_fatal or (error.is_transient and kind != "action")):
            raise error.to_exception()
        return encode_outcome(outcome, encoding, who)

    async def call(
        self, deployment: Deployment, kind: str, path: str, args: dict[str, Any], body: dict[str, Any], who: Principal
    ) -> Outcome:
        """Run it."""
        if body.get("componentPath"):
            missing = NotFound(kind="component", name=str(body["componentPath"])[:60])
            return Outcome.failed(missing, function=path)
        if kind in ("function", "run"):
            found = kind_of(deployment, canonical(path), who)
            if found is None and who.internal:  # Convex's command line looks for these words, and lists what there is
                missing = NotFound(
                    f"Could not find function for '{path}'. Has it been deployed?", kind="function", name=path
                )
                return Outcome.failed(missing, function=path)
            kind = found or "query"  # whose answer is that there is no such function
        if kind == "mutation":
            return await deployment.mutation(canonical(path), args, who)
        if kind == "action":
            return await deployment.action(canonical(path), args, who)
        ts = decode_ts(body.get("ts")) if kind == "query_at_ts" else None
        if ts is not None and ts > deployment.newest_ts():
            raise ValidationError(path="ts", expected="a timestamp this store has reached", got=str(ts))
        return await deployment.query(path, args, who, ts)


class CallHandler(FunctionHandler):
    """One function, called once."""

    @allow_unauthenticated
    async def post(self, kind: str, **_named: str) -> None:
        """`{"path", "args", "format"}`; kind is query, mutation, action, function or query_at_ts."""
        with self.refusing():
            who = self.asker()
            body = self.json_body()
            self.answer(await self.run(kind, body, who))

    @allow_unauthenticated
    async def get(self, kind: str, **_named: str) -> None:
        """A query by URL: path, args (JSON), format."""
        with self.refusing():
            if kind != "query":
                raise CallerError(f"{kind} must be called with POST", code="MethodNotAllowed")
            who = self.asker()
            args = load_json(self.get_query_argument("args", "{}"), "args")
            body = {"path": self.get_query_argument("path", ""), "args": args}
            body["format"] = self.get_query_argument("format", "json")
            self.answer(await self.run("query", body, who))


class RunHandler(FunctionHandler):
    """`api/run/<module path>/<function>`: any public function, named by the URL."""

    @allow_unauthenticated
    async def post(self, identifier: str, **_named: str) -> None:
        """`{"args", "format"}`."""
        with self.refusing():
            who = self.asker()
            module, _, name = identifier.strip("/").rpartition("/")
            self.answer(await self.run("run", {**self.json_body(), "path": f"{module}:{name}"}, who))


class BatchHandler(FunctionHandler):
    """`api/query_batch`: several queries at one timestamp."""

    @allow_unauthenticated
    async def post(self, **_named: str) -> None:
        """`{"queries": [{path, args, format}, …]}`."""
        with self.refusing():
            who = self.asker()
            queries = self.json_body().get("queries")
            if not isinstance(queries, list) or not all(isinstance(each, dict) for each in queries):
                raise ValidationError(path="queries", expected="an array of objects", got=type(queries).__name__)
            ts = encode_ts((await self.deployment(who)).newest_ts())
            self.answer({"results": [await self.run("query_at_ts", {**each, "ts": ts}, who) for each in queries]})


class QueryTsHandler(HttpHandler):
    """`api/query_ts`: the newest timestamp, to pin several queries to. Needs no credentials: it tells nothing else."""

    async def admit(self) -> Principal:
        """Whoever asks. Errors: as `identify`."""
        return await self.identify()

    @allow_unauthenticated
    async def post(self, **_named: str) -> None:
        """No body."""
        with self.refusing():
            who = self.asker()
            self.answer({"ts": encode_ts((await self.deployment(who)).newest_ts())})


class ControlHandler(HttpHandler):
    """`x/{op}`: parameters as JSON in a header or in `?params=`, octets in the body."""

    async def admit(self) -> Principal:
        """Who asks. Errors: as `identify`; of those who may not even read."""
        return await self.permitted("read")

    def body_bytes_max(self, who: Principal) -> int | None:
        """Strangers have nothing to say here."""
        return None if who.owner else OPEN_BODY_BYTES

    @allow_unauthenticated
    async def post(self, op: str, **_named: str) -> None:
        """JSON, or octets with the JSON in X-Cellstore-Result."""
        with self.refusing():
            who = self.asker()
            text = self.request.headers.get(PARAMS_HEADER) or self.get_query_argument("params", "{}")
            params = load_json(text, "params")
            if not isinstance(params, dict):
                raise ValidationError(path="params", expected="a JSON object", got=type(params).__name__)
            deployment = await self.deployment(who, params.pop("create", True) is not False)
            answer, octets = await deployment.control(op, params, self.body, who)
            if isinstance(octets, bytes):
                self.reply(op, answer, octets)
            else:
                await self.stream(answer, octets)

    def reply(self, op: str, answer: dict[str, Any], octets: bytes) -> None:
        """A query's value is JSON and goes into the body; other octets go as they are."""
        if op == "query" and octets:
            head = native.dumps(answer)
            self.set_header("Content-Type", "application/json")
            self.finish(head[:-1] + (b"," if len(head) > 2 else b"") + b'"value":' + octets + b"}")
            return
        if not octets:
            self.set_header("Content-Type", "application/json")
            self.finish(native.dumps(answer))
            return
        self.set_header("Content-Type", "application/octet-stream")
        self.set_header(RESULT_HEADER, head_of(answer))
        self.finish(octets)


class ProbeHandler(HttpHandler):
    """What tools ask to find out whether we live."""

    @allow_unauthenticated
    def get(self, probe: str, **_named: str) -> None:
        """`instance_name`, `instance_version`."""
        self.set_header("Content-Type", "text/plain")
        self.finish(self.app.deployment_name if probe == "instance_name" else __version__)

    @allow_unauthenticated
    def post(self, probe: str, **_named: str) -> None:
        """`echo` returns the body; `api/debug_event` is telemetry nobody reads."""
        self.set_header("Content-Type", "application/octet-stream")
        self.finish(self.body if probe == "echo" else b"")


class HomeHandler(HttpHandler):
    """`{base}cellstore/`: one page that says what this is."""

    @allow_unauthenticated
    def get(self, **_named: str) -> None:
        """Plain text, nothing secret."""
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(
            f"cellstore {__version__} serves here.\n\nIn a notebook of this server: %load_ext cellstore\n"
            "Elsewhere: cellstore.connect(<this server's URL>, token=…)\n"
        )


def head_of(answer: dict[str, Any]) -> str:
    """An answer as a header, without what is too long for one: the counts of very many tables."""
    texts = {name: native.dumps(value).decode() for name, value in answer.items()}
    return "{" + ",".join(f'"{name}":{text}' for name, text in texts.items() if len(text) <= HEADER_CHARS_MAX) + "}"


def format_of(name: object, client: str = "") -> str:
    """The value encoding asked for by a client of this name and version. Errors: ValidationError (BadFormat)."""
    if name is None:
        return "convex" if _is_before_formats(client) else "clean"
    known = FORMATS.get(name) if isinstance(name, str) else None
    if known is None:
        raise ValidationError(path="format", expected=", ".join(FORMATS), got=repr(name)[:60], code="BadFormat")
    return known


def _is_before_formats(client: str) -> bool:
    known = re.fullmatch(r"([\w-]+?)-(\d{1,9})\.(\d{1,9})\.(\d{1,9})(?:-.*)?", client)
    since = None if known is None else FORMATS_SINCE.get(known[1].lower())
    return known is not None and since is not None and tuple(map(int, known.groups()[1:4])) < since


def encode_outcome(outcome: Outcome, encoding: str, who: Principal) -> dict[str, Any]:
    """What a function came to, in Convex's HTTP shape."""
    logs = logs_for(outcome, who)
    if outcome.ok:
        value = (
            convex_json(outcome.value) if encoding == "convex" else orjson.dumps(to_clean(native.loads(outcome.value)))
        )
        return {"status": "success", "value": fragment(value), "logLines": logs}
    failure = failure_for(outcome, who, exact=False)
    answer: dict[str, Any] = {"status": "error", "errorMessage": failure.message, "logLines": logs}
    if failure.data is not None:
        answer["errorData"] = fragment(failure.data)
    return answer


def kind_of(deployment: Deployment, path: str, who: Principal) -> str | None:
    """query, mutation or action; None when there is no such function, or `who` may not know of it."""
    if path.startswith("_system/") and who.internal:
        return "query"
    for function in deployment.functions():
        if function["path"] == path and (who.internal or function["visibility"] == "public"):
            return str(function["kind"])
    return None
