"""The log stream of a store, read from here.

    12:30:01.120  LOG    tasks:add_task            0f3a9c…   milk
    12:30:01.121  ok     tasks:add_task            0f3a9c…   3.1 ms
    12:30:04.007  ERROR  tasks:add_task            77e1b0…   ZeroDivisionError: division by zero

Following asks again and again and each time waits for an answer: no connection is held open, so a server that restarts is
merely a pause. A record of another day begins with its date.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

WAIT_S = 10  # for one answer; an interrupt ends it at once

Ask = Callable[[str, dict[str, Any]], tuple[dict[str, Any], bytes]]


def records(ask: Ask, follow: bool, tail: int) -> Iterator[dict[str, Any]]:
    """The newest `tail` records, then, with `follow`, every later one."""
    answer = ask("logs", {"tail": tail})[0]
    yield from answer["records"]
    while follow:
        answer = ask("logs", {"stream": answer["stream"], "after": answer["after"], "wait": WAIT_S})[0]
        yield from answer["records"]


def time_of(moment: datetime) -> str:
    """`12:30:01.120`; of another day with the day."""
    today = moment.date() == datetime.now(moment.tzinfo).date()
    return moment.strftime("%H:%M:%S.%f" if today else "%Y-%m-%d %H:%M:%S.%f")[:-3]


def lines_of(record: dict[str, Any]) -> Iterator[str]:
    """A record as lines of text."""
    at = time_of(datetime.fromtimestamp(record["at_ms"] / 1000).astimezone())
    where = f"{record['function'] or 'cellstore':<28} {record['request_id'][:16]:<16}"
    for line in record["lines"]:
        level, _, text = line.removeprefix("[").partition("] ")
        first, *more = text.split("\n")
        yield f"{at}  {level:<5}  {where}  {first}"
        yield from (f"{'':14}{line}" for line in more)
    if "duration_ms" in record:
        took = f"{record['duration_ms']:,.1f} ms"
        if record["ok"]:
            yield f"{at}  ok     {where}  {record['kind']}, {took}"
        else:
            *trace, last = str(record.get("error") or "it failed").splitlines()
            yield f"{at}  ERROR  {where}  {last}  ({record['kind']}, {took})"
            yield from (f"{'':14}{line}" for line in trace)
