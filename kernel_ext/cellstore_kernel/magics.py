"""`%cellstore` and `%%cellstore sql`. Magics are synchronous: IPython awaits none.

%cellstore status                         %cellstore tables
%cellstore connect URL [--token T]        %cellstore functions
%cellstore open PATH                      %cellstore sql select …
%cellstore logs [-f] [-n N]               what functions said of late; -f goes on until the cell is interrupted
%cellstore drop NAME…                     take functions away that no cell defines any more
%cellstore drop-table NAME                take a table away, with its documents
%%cellstore sql [--at TS]                 the cell is the statement; [--live] runs it again as data change
"""

from __future__ import annotations

import argparse
import difflib
import shlex
from collections.abc import Callable
from typing import Any, NoReturn

from IPython.core.magic import Magics, line_cell_magic, magics_class

from cellstore.client import connect
from cellstore.client.errors_render import doorway
from cellstore.client.listing import Functions, Tables
from cellstore.errors import CallerError
from cellstore_kernel.display import moment

USAGE = """%cellstore status | tables | functions | sql STATEMENT
%cellstore connect URL [--token T] [--deployment D] | open PATH
%cellstore logs [-f] [-n N] | drop NAME… | drop-table NAME
%%cellstore sql [--live] [--at TS]"""


@magics_class
class CellstoreMagics(Magics):
    """The magics of one shell."""

    @line_cell_magic
    def cellstore(self, line: str, cell: str | None = None) -> Any:
        """Look at the store and choose another. `%cellstore` alone lists what it can do."""
        with doorway():
            word, _, rest = line.strip().partition(" ")
            if cell is not None:
                if word != "sql":
                    raise CallerError(f"the cell magic is %%cellstore sql, not %%cellstore {word}", code="UnknownMagic")
                return run_sql(cell, parsed(SQL, rest))
            if word == "sql":
                return run_sql(rest, parsed(SQL, ""))
            if word in ("", "help"):
                print(USAGE)
                return None
            return command(word)(shlex.split(rest))


def command(word: str) -> Callable[[list[str]], Any]:
    """What a word does. Errors: CallerError with the nearest known word."""
    known: dict[str, Callable[[list[str]], Any]] = {"status": status, "tables": tables, "functions": functions}
    known |= {"logs": logs, "drop": drop, "drop-table": drop_table, "connect": connect_to, "open": open_store}
    if word in known:
        return known[word]
    near = difflib.get_close_matches(word, [*known, "sql"], n=1)
    hint = f"did you mean {near[0]}?" if near else f"it knows {', '.join(known)} and sql"
    raise CallerError(f"%cellstore does not know {word!r}; {hint}", code="UnknownMagic")


def status(_words: list[str]) -> None:
    """Where we are connected, and what is there."""
    from cellstore_kernel.extension import describe

    database = connect.current()
    ts = database.link.ts
    print(describe(database))
    print(f"  {database.state}{f', {moment(ts)} (ts {ts})' if ts else ''}")
    if database.link.problem is not None:
        print(f"  {database.link.problem.message}")
    if database.state == "connected":
        print(f"  {len(database.tables())} tables, {len(database.functions())} functions")


def tables(_words: list[str]) -> Tables:
    """The tables of the store."""
    return connect.current().tables()


def functions(_words: list[str]) -> Functions:
    """The deployed functions."""
    return connect.current().functions()


def logs(words: list[str]) -> None:
    """The log stream; an interrupt is how following ends."""
    from cellstore.client.logs import lines_of

    given = parsed(LOGS, words)
    try:
        for record in connect.current().logs(given.follow, given.tail):
            for line in lines_of(record):
                print(line)
    except KeyboardInterrupt:
        pass


def drop(words: list[str]) -> None:
    """Take functions away: by name, path or module."""
    if not words:
        raise CallerError("say which functions: %cellstore drop old_tasks tick", code="BadMagic")
    print(f"dropped {', '.join(connect.current().drop(*words))}")


def drop_table(words: list[str]) -> None:
    """Take a table away, by name."""
    if len(words) != 1:
        raise CallerError("say which table: %cellstore drop-table old_tasks", code="BadMagic")
    connect.current().drop_table(words[0])
    print(f"dropped the table {words[0]}")


def connect_to(words: list[str]) -> None:
    """Use another server."""
    from cellstore_kernel.extension import adopt, describe

    given = parsed(CONNECT, words)
    database = connect.connect(given.url, token=given.token, deployment=given.deployment)
    adopt(database)
    print(describe(database))


def open_store(words: list[str]) -> None:
    """Use a store in this process."""
    from cellstore_kernel.extension import adopt, describe

    database = connect.open(parsed(OPEN, words).path)
    adopt(database)
    print(describe(database))


def run_sql(statement: str, options: argparse.Namespace) -> Any:
    """One statement as a dataframe, or as a live view. Errors: CallerError for an empty one."""
    if not statement.strip():
        raise CallerError("there is no SQL: write the statement under %%cellstore sql, or after %cellstore sql")
    if options.live:
        from cellstore_kernel.widgets.sql import live_sql

        return live_sql(statement)
    return connect.current().sql(statement, at=options.at).df()


class Arguments(argparse.ArgumentParser):
    """A parser whose complaints are ours, not an exit of the kernel."""

    def error(self, message: str) -> NoReturn:
        """Errors: CallerError with the usage."""
        usage = self.format_usage()[len("usage: ") :].strip()
        raise CallerError(f"%cellstore {self.prog}: {message}. Usage: {usage}", code="BadMagic")


def parsed(parser: Arguments, words: list[str] | str) -> argparse.Namespace:
    """The options in a magic's line. Errors: CallerError."""
    return parser.parse_args(shlex.split(words) if isinstance(words, str) else words)


CONNECT = Arguments("connect", add_help=False)
CONNECT.add_argument("url")
CONNECT.add_argument("--token")
CONNECT.add_argument("--deployment", default="default")
LOGS = Arguments("logs", add_help=False)
LOGS.add_argument("-f", "--follow", action="store_true")
LOGS.add_argument("-n", "--tail", type=int, default=100)
OPEN = Arguments("open", add_help=False)
OPEN.add_argument("path")
SQL = Arguments("sql", add_help=False)
SQL.add_argument("--live", action="store_true")
SQL.add_argument("--at", type=int, help="a timestamp in ns")
