"""`connect` and `open`: how a program comes by a `Database`, and which one is the current one.

The newest open database is the current one: what handles call and what the module-level functions use. Closing it
makes the one before it current again.

Errors:  Disconnected, Unauthenticated or NotFound when no server, a wrong token, or a server without cellstore is met;
         StoreLocked when another process has the file open.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from cellstore.client.control import AddressBook, HttpControl
from cellstore.client.database import Database, Moment
from cellstore.client.discovery import Found, Surroundings, find, hello, lists_kernel, parse_url
from cellstore.client.errors_render import doorway
from cellstore.client.listing import Functions, Tables
from cellstore.client.loop import shared_loop
from cellstore.client.subscription import Subscription
from cellstore.client.transport import Address, SocketLink
from cellstore.errors import CallerError, CellstoreError

_stack: list[Database] = []
_lock = threading.Lock()


def connect(
    url: str | None = None, token: str | None = None, deployment: str = "default", *, create: bool = True
) -> Database:
    """Connect to a Jupyter server that runs cellstore, or to `cellstore serve`.

    `url` may be pasted from the browser, `?token=` included; without one, the server of this kernel or the one that
    runs over this directory is found. A deployment of a new name is made, or with `create=False` an error that names
    those there are. The new database becomes the current one.
    """
    with doorway():
        found = given(url, token, deployment, create) if url is not None else discover(deployment, create)
        return connect_found(found, deployment, again=None if url is not None else lambda: discover(deployment))


def open(path: str | os.PathLike[str]) -> Database:
    """Open a store in this process, with no server: the same engine, functions run inline.

    A new path makes a new store; ":memory:" one that is gone when closed. The new database becomes the current one.
    """
    from cellstore.client.embedded import Embedded

    with doorway():
        where = os.fspath(path)
        if where != ":memory:":
            Path(where).parent.mkdir(parents=True, exist_ok=True)
        engine = Embedded(where)
        return make_current(Database(engine.link, engine.control, where=where, rung="embedded", on_close=engine.close))


def given(url: str, token: str | None, deployment: str = "default", create: bool = True) -> Found:
    """The server at an explicit address, once it answered."""
    base, in_url = parse_url(url)
    secret = token if token is not None else in_url
    address = Address(base, {"Authorization": f"token {secret}"} if secret else {})
    return Found(address, hello(address, deployment, create=create))


def discover(deployment: str = "default", create: bool = True) -> Found:
    """The server the ladder finds from here; `.rung` tells how. Errors: Disconnected, with every rung's reason."""
    return find(Surroundings.here(), lambda address: hello(address, deployment, create=create), lists_kernel)


def connect_found(found: Found, deployment: str = "default", again: Any = None) -> Database:
    """A database on a server that answered; `again` finds it anew when it is lost (a `Found`), None: it never moves."""
    book = AddressBook(lambda: again().address if again is not None else found.address, found.address)
    control = HttpControl(book, deployment)
    first = [found.address]  # the handshake has just shown that this one is right
    link = SocketLink(shared_loop(), lambda: first.pop() if first else book.refresh(), deployment)

    def release() -> None:
        link.close()
        control.close()

    return make_current(
        Database(link, control, where=found.address.url, deployment=deployment, rung=found.rung, on_close=release)
    )


def make_current(database: Database) -> Database:
    """Have the module-level functions and handles use `database` until it is closed."""
    from cellstore.client.frames import frame_from_call
    from cellstore.functions import called_on

    with _lock:
        _stack.append(database)
    database.on_closed.append(_forget)
    called_on(current, frame_from_call, facts_of)
    return database


def _forget(database: Database) -> None:
    with _lock:
        if database in _stack:
            _stack.remove(database)


def current() -> Database:
    """The newest open database. Errors: CallerError saying how to get one."""
    with _lock:
        if _stack:
            return _stack[-1]
    raise CallerError(
        "no database is open yet: run `%load_ext cellstore` in a notebook, or cs.connect() for a running server, "
        "or cs.open('file.db') for a store in this process",
        code="NoDatabase",
    )


def facts_of(handle: Any) -> dict[str, Any]:
    """What the current database's server knows of a function; nothing when there is no answer."""
    try:
        return next((each for each in current().functions() if each["path"] == handle.path), {})
    except CellstoreError:
        return {}


def deploy(what: Any = None) -> dict[str, Any]:
    """`Database.deploy` on the current database."""
    return current().deploy(what)


def drop(*what: Any) -> list[str]:
    """`Database.drop` on the current database."""
    return current().drop(*what)


def drop_table(table: Any) -> int:
    """`Database.drop_table` on the current database."""
    return current().drop_table(table)


def subscribe(path_or_fn: Any, callback: Any = None, /, **args: Any) -> Subscription:
    """`Database.subscribe` on the current database."""
    return current().subscribe(path_or_fn, callback, **args)


def snapshot(at: Moment = None) -> Any:
    """All tables of the current database at one moment: now, a datetime, a timedelta before now, or a timestamp in ns.

    Errors: OutOfRetention for a moment that is to come, or older than the store keeps (a day: knob retention_s).
    """
    return current().snapshot(at)


def sql(statement: str, at: Moment = None) -> Any:
    """`Database.sql` on the current database: DuckDB over a consistent snapshot."""
    return current().sql(statement, at)


def insert_df(table: str, df: Any, **options: Any) -> Any:
    """`Database.insert_df` into the current database."""
    return current().insert_df(table, df, **options)


def tables() -> Tables:
    """`Database.tables` of the current database."""
    return current().tables()


def functions() -> Functions:
    """`Database.functions` of the current database."""
    return current().functions()


def export(path: str | Path, tables: list[str] | None = None, format: str | None = None, **options: Any) -> Path:
    """`Database.export` of the current database."""
    return current().export(path, tables, format, **options)


def import_(path: str | Path, table: str | None = None, mode: str = "fail", **options: Any) -> dict[str, Any]:
    """`Database.import_` into the current database."""
    return current().import_(path, table, mode, **options)
