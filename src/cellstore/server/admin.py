"""What Convex's command line and its streaming connectors ask over HTTP, for owners only.

api/list_snapshot, document_deltas, json_schemas, get_table_column_names, test_streaming_export_connection
api/stream_function_logs        waits for what functions say
api/export/request/zip          makes a snapshot before it answers; api/export/zip/<ts> gives it, once
api/update_environment_variables        sets and removes what functions see in `os.environ`
api/import, perform_import, cancel_import       a file in parts, a yes, and then it is done: see `uploads`
api/deploy2, run_test_function …        not here: 501 with a reason, which nobody tries again
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

from jupyter_server.auth.decorator import allow_unauthenticated

from cellstore.errors import Forbidden, NotFound, Unauthenticated, ValidationError
from cellstore.protocol.codec import load_json
from cellstore.reactivity.principal import Principal
from cellstore.server.changes import selected
from cellstore.server.handlers import HttpHandler

if TYPE_CHECKING:
    from cellstore.server.deployment import Deployment

LOGS_WAIT_S = 50.0  # Convex's holds a request for a minute; proxies often no longer
LOGS_ANSWER_MAX = 1000
INSTEAD = "functions are Python here: deploy them with `cellstore deploy`, run them with `run`"
FORBIDDEN = "You do not have permission to perform this operation"  # Convex's command line looks for these words
UDF_TYPES = {"query": "Query", "mutation": "Mutation", "action": "Action", "http": "HttpAction"}


class OwnersHandler(HttpHandler):
    """Routes that only owners may use."""

    permission = "read"  # that it takes

    async def admit(self) -> Principal:
        """An owner. Errors: as `identify`; Unauthenticated, Forbidden of everybody else."""
        who = await self.permitted(self.permission)
        if not who.owner:
            raise Forbidden(f"{FORBIDDEN}: it needs the admin key")
        return who

    def body_bytes_max(self, who: Principal) -> int | None:  # noqa: ARG002 - they are owners
        """As long as this Jupyter server takes."""
        return None

    async def owned(self) -> Deployment:
        """The deployment, for an owner."""
        return await self.deployment(self.asker())

    def param(self, name: str, body: dict[str, Any]) -> Any:
        """A parameter, from the URL or from a JSON body."""
        return self.get_query_argument(name, body.get(name))

    def integer(self, name: str, body: dict[str, Any]) -> int | None:
        """A parameter that is a whole number. Errors: ValidationError."""
        value = self.param(name, body)
        try:
            return None if value is None else int(value)
        except (TypeError, ValueError):
            raise ValidationError(path=name, expected="an integer", got=repr(value)[:60]) from None


class ChangesHandler(OwnersHandler):
    """Streaming export."""

    @allow_unauthenticated
    async def get(self, stream: str, **_named: str) -> None:
        """Parameters in the URL."""
        with self.refusing():
            self.answer(await self.read(stream, {}))

    @allow_unauthenticated
    async def post(self, stream: str, **_named: str) -> None:
        """Parameters in a JSON body."""
        with self.refusing():
            self.answer(await self.read(stream, self.json_body()))

    async def read(self, stream: str, body: dict[str, Any]) -> Any:
        """One page. Errors: ValidationError, OutOfRetention."""
        changes = (await self.owned()).changes()
        encoding, selection = self.param("format", body) or "json", self.param("selection", body)
        if isinstance(selection, str):
            selection = load_json(selection, "selection")
        wanted = selected(self.param("tableName", body), selection)
        match stream:
            case "list_snapshot":
                ts, cursor = self.integer("snapshot", body), self.param("cursor", body)
                return await asyncio.to_thread(changes.snapshot, ts, cursor, wanted, encoding)
            case "document_deltas":
                after = self.integer("cursor", body)
                if after is None:
                    raise ValidationError(path="cursor", expected="a timestamp: begin with a snapshot's", got="nothing")
                return await asyncio.to_thread(changes.deltas, after, wanted, encoding)
            case "json_schemas":
                found = changes.schemas(self.param("deltaSchema", body) in (True, "true"))
                return {"": found} if self.param("byComponent", body) in (True, "true") else found
            case "get_table_column_names":
                return {"byComponent": {"": changes.columns()}}
        return None  # test_streaming_export_connection


class LogsHandler(OwnersHandler):
    """`api/stream_function_logs?cursor=`: what functions said after that; waits when there is nothing yet."""

    async def admit(self) -> Principal:
        """An owner. Errors: Forbidden, also where it is Unauthenticated elsewhere, or Convex's command line asks for ever."""
        try:
            return await super().admit()
        except Unauthenticated as refused:
            raise Forbidden(f"{FORBIDDEN}: {refused.message}") from refused

    @allow_unauthenticated
    async def get(self, **_named: str) -> None:
        """`{"entries", "newCursor"}`."""
        with self.refusing():
            logs = (await self.owned()).logs()
            try:
                after = int(float(self.get_query_argument("cursor", "0")))
            except (ValueError, OverflowError):
                raise ValidationError(path="cursor", expected="a number", got="something else") from None
            after = after if 0 <= after <= logs.last else 0  # the cursor of an earlier life of the server
            await logs.more(after, LOGS_WAIT_S)
            records = logs.after(after, LOGS_ANSWER_MAX)
            newest = records[-1]["number"] if records else after
            entries = [entry_of(record) for record in records if record["kind"] in UDF_TYPES]
            self.answer({"entries": entries, "newCursor": float(newest)})


def entry_of(record: dict[str, Any]) -> dict[str, Any]:
    """A record of our log stream in Convex's words."""
    entry = {
        "kind": "Completion" if "ok" in record else "Progress",
        "udfType": UDF_TYPES[record["kind"]],
        "identifier": record["function"],
        "logLines": record["lines"],
        "timestamp": record["at_ms"] / 1000,
        "requestId": record["request_id"],
        "executionId": record["request_id"],
        "caller": "Unknown",
        "cachedResult": False,
    }
    if "ok" in record:
        entry |= {"executionTime": record["duration_ms"] / 1000, "error": record.get("error")}
    return entry


class ExportHandler(OwnersHandler):
    """Snapshots as ZIP files."""

    @allow_unauthenticated
    async def post(self, **_named: str) -> None:
        """Make one now. It is there when this is answered."""
        with self.refusing():
            with_files = self.get_query_argument("includeStorage", "false") == "true"
            await (await self.owned()).make_export(with_files)
            self.answer(None)

    @allow_unauthenticated
    async def get(self, ts: str = "", **_named: str) -> None:
        """The snapshot made at `ts`."""
        with self.refusing():
            export = (await self.owned()).take_export(ts)
            if export is None:
                raise NotFound(
                    f"there is no export of {ts}: ask for one first", kind="export", name=ts, code="ExportNotFound"
                )
            self.set_header("Content-Disposition", f'attachment; filename="snapshot_{ts}.zip"')
            await self.stream({}, export)


class EnvironmentHandler(OwnersHandler):
    """`api/update_environment_variables`."""

    permission = "execute"

    @allow_unauthenticated
    async def post(self, **_named: str) -> None:
        """`{"changes": [{"name", "value" or null}]}`."""
        with self.refusing():
            deployment = await self.owned()
            await deployment.control("env", {"changes": self.json_body().get("changes")})
            self.answer(None)


class ImportHandler(OwnersHandler):
    """`api/import`, all at once, and its steps; `api/perform_import` and `api/cancel_import`."""

    permission = "write"

    @allow_unauthenticated
    async def post(self, step: str, **_named: str) -> None:
        """What each answers stands in `uploads`."""
        with self.refusing():
            uploads = (await self.owned()).uploads()
            match re.sub("/+", "/", step):
                case "import/start_upload":
                    self.answer({"uploadToken": uploads.start()})
                case "import/upload_part":
                    token = self.get_query_argument("uploadToken", "")
                    number = self.integer("partNumber", {}) or 0
                    self.answer(await uploads.part(token, number, self.body))
                case "import/finish_upload":
                    body = self.json_body()
                    token = str(body.get("uploadToken"))
                    self.answer({"importId": await uploads.finish(token, body.get("partTokens"), body.get("import"))})
                case "perform_import":
                    uploads.perform(str(self.json_body().get("importId")))
                    self.answer(None)
                case "cancel_import":
                    await uploads.cancel(str(self.json_body().get("importId")))
                    self.answer(None)
                case _:
                    wanted = {name: self.get_query_argument(name, None) for name in ("tableName", "format", "mode")}
                    wanted["mode"] = wanted["mode"] or "requireEmpty"
                    self.answer({"numWritten": await uploads.single(self.body, wanted)})


class ElsewhereHandler(OwnersHandler):
    """What Convex does here and we do elsewhere."""

    @allow_unauthenticated
    async def get(self, **_named: str) -> None:
        """501, which nobody tries again."""
        with self.refusing():
            await self.owned()
            self.refuse(501, {"code": "NotImplemented", "message": f"{self.request.path} is not served: {INSTEAD}"})

    @allow_unauthenticated
    async def post(self, **_named: str) -> None:
        """Likewise."""
        await self.get()
