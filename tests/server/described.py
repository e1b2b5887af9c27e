"""Our HTTP API as an OpenAPI document, for a tester that makes requests of it and holds every answer against it."""

from __future__ import annotations

from typing import Any

ERROR = {
    "type": "object",
    "required": ["code", "message"],
    "properties": {"code": {"type": "string"}, "message": {"type": "string", "minLength": 1}},
}
OUTCOME = {
    "type": "object",
    "required": ["status", "logLines"],
    "properties": {
        "status": {"enum": ["success", "error"]},
        "logLines": {"type": "array", "items": {"type": "string"}},
        "errorMessage": {"type": "string"},
    },
    "additionalProperties": True,
}
ARGS = {"oneOf": [{"type": "object"}, {"type": "array", "items": {"type": "object"}, "maxItems": 1}]}
CALL: dict[str, Any] = {
    "type": "object",
    "required": ["path"],
    "properties": {
        "path": {
            "anyOf": [{"enum": ["chat:list", "chat:count", "chat:send", "chat:echo", "chat"]}, {"type": "string"}]
        },
        "args": ARGS,
        "format": {"enum": ["convex_encoded_json", "convex_json", "json", "convex_clean_json"]},
    },
}
AT = {**CALL, "required": ["path", "ts"], "properties": {**CALL["properties"], "ts": {"type": "string"}}}
IMPORT = {
    "type": "object",
    "properties": {
        "import": {
            "type": "object",
            "properties": {
                "tableName": {"type": ["string", "null"]},
                "mode": {"enum": ["requireEmpty", "append", "replace", "replaceAll", "no"]},
                "format": {"enum": ["zip", "jsonLines", "csv", "jsonArray", "no"]},
            },
        },
        "uploadToken": {"type": "string"},
        "partTokens": {"type": "array", "items": {"type": "string"}},
    },
}
CHANGE = {"type": "object", "properties": {"name": {"type": "string"}, "value": {"type": ["string", "null"]}}}
ANYTHING: dict[str, Any] = {}


def operation(answer: dict[str, Any], body: dict[str, Any] | None = None, **query: dict[str, Any]) -> dict[str, Any]:
    """One method of one path: 200 with `answer`, or an error."""
    described: dict[str, Any] = {
        "parameters": [{"name": name, "in": "query", "schema": schema} for name, schema in query.items()],
        "responses": {
            "200": {"description": "an answer", "content": {"application/json": {"schema": answer}}},
            "default": {"description": "it never ran", "content": {"application/json": {"schema": ERROR}}},
        },
    }
    if body is not None:
        described["requestBody"] = {"content": {"application/json": {"schema": body}}}
    return described


TEXT, COUNT = {"type": "string"}, {"type": "integer"}
ROWS = {
    "type": "object",
    "required": ["values", "cursor", "hasMore"],
    "properties": {"values": {"type": "array"}, "hasMore": {"type": "boolean"}},
}
PATHS: dict[str, Any] = {
    "/api/query": {
        "post": operation(OUTCOME, CALL),
        "get": operation(OUTCOME, path=TEXT, args=TEXT, format=TEXT),
    },
    "/api/mutation": {"post": operation(OUTCOME, CALL)},
    "/api/action": {"post": operation(OUTCOME, CALL)},
    "/api/function": {
        "post": operation(OUTCOME, {**CALL, "properties": {**CALL["properties"], "componentPath": TEXT}})
    },
    "/api/query_at_ts": {"post": operation(OUTCOME, AT)},
    "/api/query_ts": {"post": operation({"type": "object", "required": ["ts"]})},
    "/api/query_batch": {
        "post": operation(
            {"type": "object", "required": ["results"]},
            {"type": "object", "properties": {"queries": {"type": "array", "items": CALL}}},
        )
    },
    "/api/run/chat/count": {"post": operation(OUTCOME, {"type": "object", "properties": {"args": {"type": "object"}}})},
    "/api/list_snapshot": {
        "get": operation(ROWS, snapshot=COUNT, cursor=TEXT, tableName=TEXT, format=TEXT),
        "post": operation(ROWS, {"type": "object", "properties": {"snapshot": COUNT, "selection": {"type": "object"}}}),
    },
    "/api/document_deltas": {"get": operation(ROWS, cursor=COUNT, tableName=TEXT, format=TEXT)},
    "/api/json_schemas": {"get": operation({"type": "object"}, deltaSchema=TEXT, byComponent=TEXT)},
    "/api/get_table_column_names": {"get": operation({"type": "object"})},
    "/api/test_streaming_export_connection": {"get": operation({"type": "null"})},
    "/api/update_environment_variables": {
        "post": operation(
            {"type": "null"}, {"type": "object", "properties": {"changes": {"type": "array", "items": CHANGE}}}
        )
    },
    "/api/import": {"post": operation({"type": "object"}, ANYTHING, tableName=TEXT, format=TEXT, mode=TEXT)},
    "/api/import/upload_part": {"post": operation(TEXT, ANYTHING, uploadToken=TEXT, partNumber=COUNT)},
    "/api/import/finish_upload": {"post": operation({"type": "object"}, IMPORT)},
    "/api/perform_import": {"post": operation({"type": "null"}, {"type": "object", "properties": {"importId": TEXT}})},
    "/api/cancel_import": {"post": operation({"type": "null"}, {"type": "object", "properties": {"importId": TEXT}})},
    "/cellstore/x/hello": {"post": operation({"type": "object"}, ANYTHING)},
    "/cellstore/x/tables": {"post": operation({"type": "object"}, ANYTHING, params=TEXT)},
    "/cellstore/x/snapshot_ts": {"post": operation({"type": "object"}, ANYTHING, params=TEXT)},
}
API: dict[str, Any] = {"openapi": "3.1.0", "info": {"title": "cellstore", "version": "1"}, "paths": PATHS}
