"""The published PyPI clients, unmodified, behind a rough network: `watch URL`, `write URL COUNT`, `http URL COUNT`."""

import json
import sys
from contextlib import suppress

from convex import ConvexClient
from convex.http_client import ConvexHttpClient

BOOKS = [("bank:book", {"number": n}) for n in range(4)]


def watch(url: str) -> None:
    """Follow everything at once until the entry "end"; what was seen that never was."""
    client = ConvexClient(url)
    queries = [("bank:entries", {}), ("bank:total", {}), *BOOKS]
    held = [client.subscribe(*query) for query in queries]
    print("ready", flush=True)
    torn = states = 0
    entries = None
    for results in client.watch_all():
        found = [results.get(subscription.id) for subscription in held]
        if any(each is None for each in found):
            continue
        states += 1
        entries, total, *books = [each["value"] for each in found]
        numbered = [entry["total"] for entry in entries] == list(range(1, len(entries) + 1))
        torn += not (numbered and total == 100 and sum(amount for book in books for amount in book) == 100)
        if entries and entries[-1]["who"] == "end":
            break
    print(json.dumps({"entries": entries, "torn": torn, "states": states}), flush=True)


def write(url: str, count: int) -> None:
    """So many mutations, one after the other: their answers, None where the client lost one.

    What is called in the moment in which the client finds its connection cut raises "channel closed"; it is kept, and sent
    with the next connection, as a query that is answered shows.
    """
    client, answers = ConvexClient(url), []
    for n in range(count):
        try:
            answers.append(client.mutation("bank:post", {"who": "pypi", "n": n}))
        except Exception as error:
            if str(error) != "channel closed":
                raise
            answers.append(None)
    while None in answers[-1:]:
        with suppress(Exception):
            client.query("bank:total")
            break
    print(json.dumps(answers), flush=True)


def http(url: str, count: int) -> None:
    """So many mutations over HTTP: which of them were answered."""
    client = ConvexHttpClient(url)
    answered = []
    for n in range(count):
        try:
            client.mutation("bank:post", {"who": "http", "n": n})
            answered.append(n)
        except Exception:  # noqa: BLE001 - whatever a broken connection raises; it may have happened all the same
            continue
    print(json.dumps(answered), flush=True)


kind, url, *count = sys.argv[1:]
{"watch": watch, "write": write, "http": http}[kind](url, *map(int, count))
