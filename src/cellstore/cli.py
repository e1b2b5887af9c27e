"""The `cellstore` command. Each subcommand opens one door and goes away; what is behind the door is told elsewhere.

`lab` and `demo` are the tour; `serve` is the server alone; the rest look at a store that a server is serving (found by the same
ladder a kernel uses, or named with --url) or, for `check`, at the file of a store nobody has open.
"""

from __future__ import annotations

import functools
import json
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from cellstore.client.database import Database

from cellstore.errors import CellstoreError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cellstore")
def main() -> None:
    """A reactive document database under your notebook cells."""


def _end_as_interrupted() -> None:
    """Told to end, this process goes as after Ctrl-C: what it started ends with it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@main.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path), default="cellstore-tour")
@click.option("--port", type=int, default=0, help="Port on the loopback interface; 0 takes a free one.")
@click.option("--no-browser", is_flag=True, help="Only print the URL.")
def lab(directory: Path, port: int, no_browser: bool) -> None:
    """Open JupyterLab on a copy of the tour, in DIRECTORY."""
    from cellstore import tour

    _end_as_interrupted()
    sys.exit(tour.lab(directory, port=port, open_browser=not no_browser))


@main.command()
@click.option("--months", default="1", help="Months of 2013 to load, as 1 or 1-12.", show_default=True)
def demo(months: str) -> None:
    """Run the tour's story in this terminal: a server, a kernel that commits, a client that watches."""
    from cellstore import tour

    _end_as_interrupted()
    first, _, last = months.partition("-")
    try:
        chosen = range(int(first), int(last or first) + 1)
    except ValueError as error:
        raise click.BadParameter(
            f"{months!r} is neither a month nor a span like 1-12", param_hint="--months"
        ) from error
    sys.exit(tour.demo(chosen))


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=int, default=3210, show_default=True)
@click.option(
    "--root", type=click.Path(file_okay=False, path_type=Path), default=".", help="Data goes to ROOT/.cellstore."
)
@click.option("--token", default=None, help="Token that clients present; made up and printed when not given.")
@click.option("--allow-anonymous", is_flag=True, help="Let clients without credentials call public functions.")
def serve(host: str, port: int, root: Path, token: str | None, allow_anonymous: bool) -> None:
    """Serve a store without JupyterLab."""
    from cellstore.server.serve import main as serve_main

    serve_main(host=host, port=port, root=str(root), token=token, allow_anonymous=allow_anonymous)


@main.command()
@click.option("--root", type=click.Path(file_okay=False, path_type=Path), default=".", help="The server's root.")
@click.option("--deployment", default="default", show_default=True)
def admin_key(root: Path, deployment: str) -> None:
    """Print the admin key of a deployment, for official clients and their command line."""
    from cellstore.server.identity import admin_key as key

    click.echo(key(root / ".cellstore" / deployment, deployment))


def _address(command: Any) -> Any:
    """The options that say whom a command talks to: what `_connected` takes."""
    options = (
        click.option("--url", default=None, help="Server to talk to; found as a kernel finds it when not given."),
        click.option("--token", default=None, help="Token of that server."),
        click.option("--deployment", default="default", show_default=True, help="Its store of that name."),
    )
    return functools.reduce(lambda made, option: option(made), reversed(options), command)


@contextmanager
def _connected(url: str | None, token: str | None, deployment: str, create: bool = False) -> Iterator[Database]:
    """The database; a deployment that is not there is made only by what brings something into it."""
    from cellstore.client.connect import connect

    try:
        with connect(url, token, deployment, create=create) as db:
            yield db
    except CellstoreError as error:
        said = getattr(error, "traceback", "") or error.message
        raise click.ClickException(re.sub(r"\bmode='(\w+)'", r"--mode \1", said)) from error  # as it is written here


def _print_json(value: Any) -> None:
    from cellstore.values.json import dumps

    text = json.dumps(json.loads(dumps(value)), indent=2, ensure_ascii=False)
    click.echo(text)


@main.command()
@click.argument("path")
@click.argument("arguments", default="{}")
@_address
def run(path: str, arguments: str, **address: Any) -> None:
    """Run the function PATH (module:name) with ARGUMENTS, a JSON object."""
    try:
        args = json.loads(arguments)
    except ValueError as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint="ARGUMENTS") from error
    if not isinstance(args, dict):
        raise click.BadParameter('give one JSON object, like {"limit": 5}', param_hint="ARGUMENTS")
    with _connected(**address) as db:
        kinds = {f["path"]: f["kind"] for f in db.functions()}
        call = {"query": db.query, "mutation": db.mutation, "action": db.action}[kinds.get(path, "query")]
        with redirect_stdout(sys.stderr):  # what the function prints is not its result
            value = call(path, **args)
        _print_json(value)


@main.command()
@click.argument("table", required=False)
@click.option("--limit", type=int, default=20, show_default=True)
@_address
def data(table: str | None, limit: int, **address: Any) -> None:
    """List the tables, or the newest documents of TABLE."""
    with _connected(**address) as db:
        if table is None:
            _print_rows(db.tables().shown)
        else:
            name = table.replace('"', '""')
            statement = f'select * from "{name}" order by _creationTime desc limit {limit:d}'
            _print_rows(db.sql(statement).rows())


@main.command()
@_address
def functions(**address: Any) -> None:
    """List the deployed functions."""
    with _connected(**address) as db:
        _print_rows(db.functions().shown)


@main.command()
@click.argument("file", type=click.Path(exists=True, path_type=Path))
@click.option("--watch", is_flag=True, help="Go on, and deploy again whenever a file changes, until Ctrl-C.")
@_address
def deploy(file: Path, watch: bool, **address: Any) -> None:
    """Deploy the functions and tables of FILE, or of every .py file in a directory."""
    from cellstore.client import watching

    with _connected(**address, create=True) as db:
        if not watch:
            if not watching.deploy_path(db, file, click.echo):
                raise click.exceptions.Exit(1)
            return
        try:
            for _ in watching.watch(db, file, click.echo):
                pass
        except KeyboardInterrupt:
            pass  # that is how watching ends


@main.command()
@click.argument("functions", nargs=-1, required=True, metavar="PATH…")
@_address
def drop(functions: tuple[str, ...], **address: Any) -> None:
    """Take functions away, with their schedules: PATHs (module:name) or modules. Tables and documents stay."""
    with _connected(**address) as db:
        for path in db.drop(*functions):
            click.echo(f"dropped {path}")


@main.command()
@click.argument("table")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_address
def drop_table(table: str, yes: bool, **address: Any) -> None:
    """Take TABLE away, with its documents and indexes."""
    with _connected(**address) as db:
        if not yes:
            click.confirm(f"Drop the table {table} with all its documents?", abort=True)
        db.drop_table(table)
        click.echo(f"dropped the table {table}")


@main.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("-n", "--tail", type=int, default=100, show_default=True, help="How many records to begin with.")
@_address
def logs(follow: bool, tail: int, **address: Any) -> None:
    """What functions printed and how their calls ended."""
    from cellstore.client.logs import lines_of

    with _connected(**address) as db:
        try:
            for record in db.logs(follow, tail):
                for line in lines_of(record):
                    click.echo(line)
        except KeyboardInterrupt:
            pass  # that is how following ends


@main.command()
@click.argument("changes", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--remove", multiple=True, metavar="NAME", help="A variable to remove; may be given several times.")
@click.option("--values", is_flag=True, help="Show the values too: they may be secrets.")
@_address
def env(changes: tuple[str, ...], remove: tuple[str, ...], values: bool, **address: Any) -> None:
    """List the environment variables of functions (os.environ, ctx.env), after setting and removing some."""
    wanted: list[dict[str, str | None]] = [{"name": name, "value": None} for name in remove]
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals:
            raise click.BadParameter(f"{change!r}: write NAME=VALUE", param_hint="CHANGES")
        wanted.append({"name": name, "value": value})
    with _connected(**address) as db:
        answer, _ = db._control("env", {"changes": wanted})
    for name, value in answer["variables"].items():
        click.echo(f"{name}={value}" if values else name)


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--table", "tables", multiple=True, help="A table to export; may be given several times.  [default: all]")
@click.option(
    "--format", type=click.Choice(["zip", "jsonl", "csv", "parquet"]), help="Instead of what the suffix says."
)
@_address
def export(path: Path, tables: tuple[str, ...], format: str | None, **address: Any) -> None:
    """Write one consistent snapshot to PATH.

    A .zip file takes every table (Convex's snapshot format); a .jsonl, .csv or .parquet file takes one; a path without a
    suffix becomes a directory with a file for each table.
    """
    with _connected(**address) as db:
        click.echo(f"wrote {db.export(path, list(tables) or None, format)}")


@main.command("import")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--table", default=None, help="The table to fill.  [default: the file's name, or every table of a ZIP]")
@click.option(
    "--mode",
    type=click.Choice(["fail", "append", "replace"]),
    default="fail",
    show_default=True,
    help="When the table has documents already.",
)
@_address
def import_(path: Path, table: str | None, mode: str, **address: Any) -> None:
    """Read PATH into the store: what export wrote, or any .jsonl, .csv or .parquet file."""
    with _connected(**address, create=True) as db:
        report = db.import_(path, table, mode)
        for name, each in report["tables"].items():
            click.echo(f"{name}: {each['documents']:,} documents")
            if "renumbered_from" in each:
                click.echo(f"{name}: their ids were renumbered, as they could not keep theirs here", err=True)
            if "dangling" in each:
                count, first = each["dangling"]["count"], each["dangling"]["first"]
                said = f"{name}: {count:,} ids in them, {first} for one, point to documents that are not here"
                click.echo(f"{said}; import their tables first, or all of them from one ZIP", err=True)
        if report.get("ignored"):
            click.echo(f"left out, as there is no place for it here: {', '.join(report['ignored'])}", err=True)


@main.command()
@click.option("--root", type=click.Path(file_okay=False, path_type=Path), default=".", help="The server's root.")
@click.option("--deployment", default="default", show_default=True)
def check(root: Path, deployment: str) -> None:
    """Walk the whole store and report every broken invariant."""
    path = root / ".cellstore" / deployment / "store.db"
    if not path.exists():
        raise click.ClickException(f"there is no store at {path}; name the server's root with --root")
    broken = 0
    for problem in _problems(path):
        broken += 1
        click.echo(problem)
    if broken:
        raise click.ClickException(f"{broken} broken invariants in {path}")
    click.echo(f"{path}: every invariant holds")


def _problems(path: Path) -> Iterator[str]:
    """What is wrong with the store at `path`; when it cannot be opened, what its file tells by itself."""
    from cellstore.errors import StoreLocked
    from cellstore.storage.check import check as check_file
    from cellstore.transaction.database import Engine

    try:
        engine = Engine.open(path)
    except StoreLocked as error:
        raise click.ClickException(error.message) from error
    except CellstoreError as error:
        yield f"the store cannot be opened: {error.message}"
        yield from check_file(path)
        return
    try:
        yield from engine.check()
    finally:
        engine.close()


_PIPE_COLUMNS = 10_000  # a pipe or a file gets ids and texts whole


def _print_rows(rows: list[dict[str, Any]]) -> None:
    if not rows:
        click.echo("nothing there")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*rows[0].keys(), box=None, header_style="bold")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    width = None if sys.stdout.isatty() else _PIPE_COLUMNS
    Console(width=width).print(table)


if __name__ == "__main__":
    main()
