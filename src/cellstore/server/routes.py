"""Which URL is served by which handler.

    {base}cellstore/…             the prefix; also {base}cellstore/d/<deployment>/…
    /api/sync, /api/<v>/sync      at the origin's root too, because some official clients drop the path of their URL;
    /api/query, …                 likewise

Repeated slashes are one: no official client normalises the URL it is given.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from cellstore.server.actions import HttpActionHandler
from cellstore.server.admin import (
    ChangesHandler,
    ElsewhereHandler,
    EnvironmentHandler,
    ExportHandler,
    ImportHandler,
    LogsHandler,
)
from cellstore.server.files import FileHandler, UploadHandler
from cellstore.server.handlers import (
    BatchHandler,
    CallHandler,
    ControlHandler,
    HomeHandler,
    ProbeHandler,
    QueryTsHandler,
    RunHandler,
)
from cellstore.server.socket import SyncSocket

if TYPE_CHECKING:
    from cellstore.server.extension import CellstoreApp

API: list[tuple[str, type]] = [
    ("/api/sync", SyncSocket),
    ("/api/[^/]+/sync", SyncSocket),
    ("/api/(?P<kind>query|mutation|action|function|query_at_ts)", CallHandler),
    ("/api/query_ts", QueryTsHandler),
    ("/api/query_batch", BatchHandler),
    ("/api/run/(?P<identifier>.+)", RunHandler),
    ("/api/(?P<probe>debug_event)", ProbeHandler),
    (
        "/api/(?P<stream>list_snapshot|document_deltas|json_schemas|get_table_column_names|test_streaming_export_connection)",
        ChangesHandler,
    ),
    ("/api/stream_function_logs", LogsHandler),
    ("/api/storage/upload", UploadHandler),
    ("/api/storage/(?P<name>[0-9a-f-]{36})", FileHandler),
    ("/api/export/request/zip", ExportHandler),
    ("/api/export/zip/(?P<ts>[0-9]{1,20})", ExportHandler),
    ("/api/update_environment_variables", EnvironmentHandler),
    ("/api/(?P<step>import(?:/start_upload|/upload_part|/finish_upload)?|perform_import|cancel_import)", ImportHandler),
    ("/api/(?:run_test_function|(?:import|deploy2).*)", ElsewhereHandler),
    ("/(?P<probe>instance_name|instance_version|echo)", ProbeHandler),
]
OURS: list[tuple[str, type]] = [
    ("/http(?P<path>/.*|)", HttpActionHandler),
    ("/x/(?P<op>[A-Za-z0-9_]+)", ControlHandler),
    ("/?", HomeHandler),
]
DEPLOYMENT = "(?:/d/(?P<deployment>[A-Za-z0-9][A-Za-z0-9_-]{0,63}))?"


def routes(base_url: str, app: CellstoreApp) -> list[tuple[str, type, dict[str, Any]]]:
    """Every route of the extension, for tornado."""
    prefix = re.escape(base_url.rstrip("/")) + "/cellstore" + DEPLOYMENT
    found = [(prefix + pattern, handler) for pattern, handler in API + OURS] + API
    return [(_any_slashes(pattern), handler, {"app": app}) for pattern, handler in found]


def _any_slashes(pattern: str) -> str:
    """Each slash of the pattern matches one or more, except inside character classes and optional ones."""
    return re.sub(r"/(?![]?+*])", "/+", pattern)
