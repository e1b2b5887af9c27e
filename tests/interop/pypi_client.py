"""The published PyPI client, unmodified, in a process of its own (its calls hold the interpreter's lock)."""

import json
import sys
from collections.abc import Callable
from typing import Any

from convex import ConvexClient, ConvexError, ConvexInt64
from convex.http_client import ConvexHttpClient


def say(what: str, value: Any) -> None:
    print(json.dumps({"what": what, "value": value}), flush=True)


def attempt(what: str, call: Callable[..., Any], *arguments: Any) -> None:
    try:
        say(what, call(*arguments))
    except ConvexError as error:
        say(what, {"kind": "ConvexError", "data": error.data})
    except Exception as error:  # noqa: BLE001 - the test looks at what it was
        say(what, {"kind": type(error).__name__, "message": str(error)})


url, token, key = sys.argv[1:]
client = ConvexClient(url + "/cellstore")  # it drops the path
updates = client.subscribe("chat:list", {})
say("first", next(updates))
attempt("mutation", lambda: isinstance(client.mutation("chat:send", {"author": "py", "body": "hello"}), str))
for messages in updates:
    if messages:
        say("update", messages)
        break
attempt("query", client.query, "chat:count", {})
attempt("values", client.query, "chat:echo", {"value": {"n": 3, "f": 1.5, "list": [None, True, "ü"]}})
attempt("int64", lambda: client.query("chat:echo", {"value": ConvexInt64(2**62)}).value)
attempt("large", lambda: len(client.query("chat:large", {"size": 20 << 20})))
attempt("too large", lambda: len(client.query("chat:octets", {"size": 50 << 20})))
attempt("bug", client.mutation, "chat:fail", {})
attempt("refusal", client.mutation, "chat:refuse", {"data": {"code": 7}})
attempt("broken query", client.query, "chat:broken_query", {})
attempt("missing", client.query, "chat:nothing_here", {})
attempt("action", client.action, "chat:act", {"author": "py"})
attempt("nobody", client.query, "chat:who", {})
client.set_auth(token)
attempt("with a Jupyter token", client.query, "chat:who", {})
attempt("internal", client.query, "chat:secret", {})
client.set_admin_auth(key)
attempt("internal as admin", client.query, "chat:secret", {})

http = ConvexHttpClient(url + "/cellstore")
attempt("http query", http.query, "chat:count", {})
attempt("http mutation", lambda: isinstance(http.mutation("chat:send", {"author": "h", "body": "x"}), str))
attempt("http refusal", http.mutation, "chat:refuse", {"data": "no"})
attempt("http bug", http.mutation, "chat:fail", {})
http.set_auth("wrong")
attempt("http wrong token", http.query, "chat:count", {})
http.set_auth(token)
attempt("http token", http.query, "chat:who", {})
http.set_admin_auth(key)
attempt("http admin", http.query, "chat:secret", {})
say("end", None)
