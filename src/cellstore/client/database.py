"""`Database`: what a user holds, with a server behind it or the engine itself.

    db = cs.open("tasks.db")                 or cs.connect("http://localhost:8888", token="…")
    db.mutation(add_task, text="milk")       returns when it is durable and visible here
    db.query("tasks:open_tasks", limit=5)    sees everything this database's caller did before
    with db.subscribe(open_tasks) as sub: …

Every method may be called from any thread, blocks there, and stops at once on Ctrl-C. Functions given as handles are
shipped before their first call and again when they changed. What a function printed is printed to the caller.

Errors:  ApplicationError with `.data`; FunctionError with the user's own lines; ValidationError, NotFound and the other
         caller errors by type; Disconnected when no server answers, saying where it was looked for.
"""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any, Literal, Protocol, Self, TypeAlias

from cellstore.client.errors_render import doorway, error_from
from cellstore.client.listing import Functions, Tables
from cellstore.client.loop import close_at_exit, wait
from cellstore.client.optimism import Update
from cellstore.client.pending import WAIT_STEP_S, Patience, Pending
from cellstore.client.progress import ActionBar, WaitingLine
from cellstore.client.recording import note, note_sql
from cellstore.client.shipping import Shipper
from cellstore.client.subscription import CallbackThread, Dispatch, Subscription, Together
from cellstore.client.transport import Link, LinkState
from cellstore.client.wire import Kind, Outcome, read_failure
from cellstore.errors import CallerError, CellstoreError, Disconnected, NotFound
from cellstore.values import json as native

if TYPE_CHECKING:
    from cellstore.client.awaiting import AsyncDatabase
    from cellstore.client.bulk import Inserted
    from cellstore.client.pages import Page
    from cellstore.client.snapshot import Snapshot
    from cellstore.deploy.unit import Unit
    from cellstore.functions import Function, FunctionReference

ABANDON_S = 1.0
SENT = "it was sent and may have been carried out"
Moment = int | datetime | timedelta | None
"""A timestamp in ns, a moment, or a span before now; None is now."""


Deployable: TypeAlias = "ModuleType | str | Path | Function[..., Any] | list[Function[..., Any]] | None"
FunctionKind = Literal["query", "mutation", "action"]
Callee: TypeAlias = "str | Function[..., Any] | FunctionReference"
"""A path like 'tasks:open_tasks', or the function itself."""


class Control(Protocol):
    """The request-and-answer door of a deployment."""

    def __call__(
        self, op: str, params: dict[str, Any], body: bytes = b"", *, sink: IO[bytes] | None = None
    ) -> tuple[dict[str, Any], bytes]:
        """Carry out one operation. With a `sink` the octets of its answer go there."""
        ...


class Database:
    """A connection to one deployment. A context manager; `close` may be called twice."""

    def __init__(
        self,
        link: Link,
        control: Control,
        *,
        where: str,
        deployment: str = "default",
        rung: str = "",
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self.where = where  # a URL, or the path of the store
        self.deployment = deployment
        self.rung = rung  # how the server was found, in words
        self.link = link
        self.dispatch: Dispatch = CallbackThread()  # where callbacks run; a kernel puts its own here
        self.on_closed: list[Callable[[Database], None]] = []
        self._send_control = control
        self._release = on_close
        self._shipper = Shipper(self._deploy_unit)
        self._pending: list[Pending] = []
        self._is_closed = False
        self._lock = threading.Lock()
        close_at_exit(self)

    # functions

    def query(self, path_or_fn: Callee, /, **args: Any) -> Any:
        """Run a query once, on the newest state. Documents come back as `Document`s."""
        with doorway():
            return self._query(*self._prepared(path_or_fn, "query", args))

    def mutation(self, path_or_fn: Callee, /, **args: Any) -> Any:
        """Run a mutation exactly once; returns when it is durable and every live view here shows it."""
        with doorway():
            return self._request("mutation", *self._prepared(path_or_fn, "mutation", args))

    def action(self, path_or_fn: Callee, /, **args: Any) -> Any:
        """Run an action at most once; it may touch the world."""
        with doorway():
            return self._request("action", *self._prepared(path_or_fn, "action", args))

    def call(self, handle: Function[..., Any] | FunctionReference, args: dict[str, Any]) -> Any:
        """Run whatever kind of function `handle` is, with arguments it has bound: what `handle(…)` does."""
        with doorway():
            self._ship(handle)
            if handle.kind == "query":
                return self._query(handle.path, args)
            return self._request("mutation" if handle.kind == "mutation" else "action", handle.path, args)

    def frame(self, handle: Function[..., Any] | FunctionReference, args: dict[str, Any]) -> Any:
        """What `handle` returns as a DataFrame that remembers path, arguments and timestamp: `handle.df(…)`."""
        from cellstore.client.frames import frame_of

        with doorway():
            self._ship(handle)
            outcome = self._ask(handle.path, args) if handle.kind == "query" else None
            value = self.call(handle, args) if outcome is None else self._value(handle.path, outcome)
            ts = None if outcome is None else outcome.ts
            return frame_of(value, query={"path": handle.path, "args": args}, ts=ts, tables=self.tables)

    def subscribe(
        self, path_or_fn: Callee, callback: Callable[[Any], object] | None = None, /, **args: Any
    ) -> Subscription:
        """Follow a query. `callback(value)` is called with every new result, one at a time: on another thread, in a notebook
        between cells. The first value comes a moment later: `.wait()` for it.

        With a callback the subscription lives until it is closed; without one, as long as somebody holds it.
        """
        with doorway():
            path, checked = self._prepared(path_or_fn, "query", args)
            self._check_open()
            return Subscription(self.link, path, checked, callback, self.dispatch)

    def together(
        self, callback: Callable[[Any], object] | None = None, /, **queries: Callee | tuple[Callee, dict[str, Any]]
    ) -> Together:
        """Follow several queries as one: `db.together(tasks=open_tasks, mine=(by_owner, {"owner": me}))`.

        `value` is a dict of their values, always of one moment; a commit that changes several is one new value.
        """
        with doorway():
            bound, ship = self._bound_together(queries)
            ship()
            return Together(self.link, bound, callback, self.dispatch)

    def _bound_together(
        self, queries: dict[str, Callee | tuple[Callee, dict[str, Any]]]
    ) -> tuple[dict[str, tuple[str, dict[str, Any]]], Callable[[], None]]:
        """(path and arguments of each, what ships those not shipped yet). Errors: as `_bound`."""
        bound, handles = {}, []
        for name, query in queries.items():
            callee, args = query if isinstance(query, tuple) else (query, {})
            path, checked, handle = self._bound(callee, "query", args)
            bound[name] = (path, checked)
            handles.append(handle)
        if not bound:
            raise CallerError("name at least one query to follow: together(tasks=open_tasks)", code="NoQueries")
        self._check_open()

        def ship() -> None:
            for handle in (each for each in handles if each is not None):
                self._ship(handle)

        return bound, ship

    def enqueue(self, path_or_fn: Callee, update: Update | None = None, /, **args: Any) -> Pending:
        """Call a mutation and go on: it is sent when there is a connection, in order, and runs exactly once.

        `update(view)` shows its effects before it has happened: it reads and replaces results of live queries here, by
        `view.get(open_tasks)` and `view.set(open_tasks, tasks)`, with the query's arguments as keywords. What it shows is
        taken back when the mutation fails, and gives way to the real effects when they are there. It is called again
        whenever those results change meanwhile, on cellstore's own thread: it must be quick.
        Errors: what `update` raises; then nothing was called.
        """
        with doorway():
            path, checked = self._prepared(path_or_fn, "mutation", args)
            self._check_open()
            future, shown = self.link.enqueue(path, checked, update)
            wait(shown)
            pending = Pending(path, self.link, future, self._value)
            self._pending.append(pending)
            return pending

    @property
    def pending(self) -> list[Pending]:
        """The mutations given to `enqueue` that are not done."""
        self._pending = [each for each in self._pending if not each.done]
        return list(self._pending)

    def pages(self, path_or_fn: Callee, size: int = 100, cursor: str | None = None, /, **args: Any) -> Iterator[Page]:
        """Every page of a paginated query, one after the other, all of one moment: nothing twice, nothing missed.

        The query takes Convex's options as its argument `paginationOpts` or `opts` and returns what `.paginate` does. A page
        is a list whose `cursor`, given here later, goes on behind it.
        Errors: OutOfRetention when the walk takes longer than history is kept; ValidationError with the code InvalidCursor.
        """
        from cellstore.client.pages import pages

        with doorway():
            return pages(self, path_or_fn, size, cursor, args)

    @property
    def aio(self) -> AsyncDatabase:
        """The same database for code that awaits."""
        from cellstore.client.awaiting import AsyncDatabase

        return AsyncDatabase(self)

    # data in and out

    def snapshot(self, at: Moment = None) -> Snapshot:
        """The database frozen at one moment, as dataframes and SQL."""
        from cellstore.client.snapshot import take_snapshot

        with doorway():
            return take_snapshot(self, at)

    def sql(self, statement: str, at: Moment = None) -> Any:
        """DuckDB SQL over one consistent moment; `.df() .arrow() .polars() .rows()`. Of now, a view draws it again when a
        table it reads changes."""
        with doorway():
            moment = self.snapshot(at)
            if at is None:
                note_sql(self, statement, moment.ts)
            return moment.sql(statement)

    def tables(self) -> Tables:
        """The tables: name, fields, indexes, number of documents. A list of dicts that reads as a table.

        An index that is being built has the state "backfilling" and says how many `documents` it has, `of` how many. One
        that is to replace an index of the same name is listed beside it, with " (new)" after the name.
        """
        with doorway():
            return Tables(self._control("tables", {})[0]["tables"])

    def functions(self) -> Functions:
        """The deployed functions: path, kind, arguments, documentation. A list of dicts that reads as a table."""
        with doorway():
            return Functions(self._control("functions", {})[0]["functions"])

    def insert_df(self, table: str, df: Any, *, batch_rows: int = 8_000, progress: bool = True) -> Inserted:
        """Load a frame (pandas, polars, Arrow, or dicts) into a table, which is created if there is none.

        The rows travel `batch_rows` at a time and become durable by the thousand, in the order of the frame; a progress
        bar shows how far it is. Missing values become missing fields, or None where the table asks for it. Returns how
        many documents.
        Errors: ValidationError naming the row, the field, what was expected and what came, and how many rows are in.
        """
        from cellstore.client.bulk import insert_df

        with doorway():
            name = table_name(table)
            self._ship_tables([name])
            return insert_df(self, name, df, batch_rows=batch_rows, progress=progress)

    def export(
        self, path: str | Path, tables: list[str] | None = None, format: str | None = None, *, at: Moment = None
    ) -> Path:
        """Write all tables, or the named ones, as of one moment; returns the path.

        The format follows the suffix: .zip (Convex's snapshot: every id, every value, exactly), or for one table .jsonl
        (the same), .csv, .parquet. A path without a suffix is a directory that gets a file for each table, in `format`
        (default "parquet"). `at` is as for `snapshot`. A file appears when it is complete; memory stays flat.
        Errors: NotFound for a table; ValidationError when several tables would go into one file; StorageError.
        """
        from cellstore.client.archive import export

        with doorway():
            names = None if tables is None else [table_name(each) for each in listed_or_one(tables)]
            return export(self, Path(path), names, format, at)

    def import_(
        self, path: str | Path, table: str | None = None, mode: str = "fail", *, progress: bool = True
    ) -> dict[str, Any]:
        """Load what `export` wrote, or any CSV, JSON Lines or Parquet file, into `table` (default: the file's stem).

        Ids and creation times are kept where the file has them. `mode` says what becomes of documents that are there:
        "fail" refuses a table that has any, "append" adds to them, "replace" puts the new ones in their place, in one
        commit for everybody who looks. Schemas and indexes apply. Returns how many documents came, by table, and `ts`.
        Ids that other documents have here are renumbered, wherever the import has them, or a later one; a table tells
        `renumbered_from`, and as `dangling` how many ids in its documents are of documents that are not here.
        Errors: ValidationError naming file, line, field, what was expected and what came, and what is in already.
        """
        from cellstore.client.archive import import_

        with doorway():
            return import_(self, Path(path), None if table is None else table_name(table), mode, progress)

    def logs(self, follow: bool = False, tail: int = 100) -> Iterator[dict[str, Any]]:
        """Records of the log stream: the newest `tail`, and with `follow` those to come, until you stop asking.

        A record has number, at_ms, kind, function, request_id, lines; when a call is over also ok, duration_ms, error.
        """
        from cellstore.client.logs import records

        return records(self._control, follow, tail)

    # definitions

    def deploy(self, what: Deployable = None) -> dict[str, Any]:
        """Ship functions and tables: a module, a .py file, a directory of them, handles, or all that changed.

        Returns the store's report by module; modules the store knows already in this form are not in it.
        Errors: DeployError naming what cannot travel; ValidationError naming the first document a schema refuses.
        """
        from cellstore.client.sources import modules_of

        with doorway():
            reports = {module: self._shipper.ensure(module) for module in modules_of(what)}
            return {module: report for module, report in reports.items() if report is not None}

    def drop(self, *what: Function[..., Any] | FunctionReference | str) -> list[str]:
        """Take functions away from the store, with their schedules: handles, paths, names of this notebook's functions, or
        modules. Returns the paths. Tables and documents stay.

        A function that a cell still defines is deployed again when it is called or its cell is run.
        Errors: NotFound for one that is not deployed; then nothing is taken away.
        """
        from cellstore.functions import registry

        with doorway():
            known = [str(each["path"]) for each in self.functions()]
            paths = [path for each in what for path in paths_meant(each, known, registry.notebook)]
            dropped: list[str] = self._control("drop", {"functions": paths})[0]["removed"]
            for path in dropped:
                registry.discard(path)
            return dropped

    def drop_table(self, table: Any) -> int:
        """Take a table away, by name or `cs.Table` class, with its documents and indexes; when (a timestamp).

        It is gone for everybody at once, and its name is free; snapshots of moments before show it as long as history is
        kept. What still defines the table makes it anew, empty, when it is deployed again: in a notebook, after the cell.
        Errors: NotFound; CallerError while other tables' schemas have ids of it, or an import fills it
        """
        with doorway():
            name = table_name(table)
            ts: int = self._control("drop_table", {"table": name})[0]["ts"]
            self._shipper.forget_table(name)
            return ts

    def ship(self, module: str) -> dict[str, Any] | None:
        """Pack a registered module and deploy it if anything in it changed, in place too; None when nothing did.

        What a notebook does after every cell. Costs a pickle of the module's functions; `deploy` compares first.
        Errors: as `deploy`.
        """
        from cellstore.functions import registry

        with doorway():
            return self._shipper.ship(module, registry.handles(module), registry.tables(module))

    def shipped(self) -> list[tuple[str, dict[str, Any]]]:
        """(module, the store's report) of what was deployed from here since this was asked last, by calls, too."""
        return self._shipper.reports()

    # the connection

    @property
    def state(self) -> LinkState:
        """connecting, connected, reconnecting, closed."""
        return "closed" if self._is_closed else self.link.state

    def close(self) -> None:
        """End subscriptions, connection and, where embedded, the engine. Again is fine."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        if isinstance(self.dispatch, CallbackThread):
            self.dispatch.stop()
        for listener in self.on_closed:
            listener(self)
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Database {self.where} ({self.deployment}), {self.state}>"

    # behind the methods

    def _control(
        self, op: str, params: dict[str, Any], body: bytes = b"", sink: IO[bytes] | None = None
    ) -> tuple[dict[str, Any], bytes]:
        """One control operation: (JSON, octets). The door for snapshots, SQL and bulk data."""
        self._check_open()
        return self._send_control(op, params, body, sink=sink)

    def _deploy_unit(self, unit: Unit) -> dict[str, Any]:
        return self._control("deploy", {}, native.dumps(unit.to_json()))[0]

    def _ship_tables(self, names: Iterable[str]) -> None:
        """What was declared here of these tables applies before the first row."""
        from cellstore.functions import registry

        for module in registry.modules():
            if any(defined.name in names for defined in registry.tables(module)):
                self._shipper.ensure(module)

    def _prepared(self, path_or_fn: Callee, kind: FunctionKind, args: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """(path, arguments) to send. A function defined here is shipped first if the store has not seen it so.

        Errors: ValidationError naming the argument; DeployError; CallerError for what is no function of that kind.
        """
        path, bound, handle = self._bound(path_or_fn, kind, args)
        if handle is not None:
            self._ship(handle)
        return path, bound

    def _bound(
        self, path_or_fn: Callee, kind: FunctionKind, args: dict[str, Any]
    ) -> tuple[str, dict[str, Any], Any | None]:
        """(path, arguments, the function if it is known here). Errors: as `_prepared`, but for those of shipping."""
        from cellstore.functions import Function, FunctionReference, registry
        from cellstore.values.value import check_value

        handle = registry.find(path_or_fn) if isinstance(path_or_fn, str) else path_or_fn
        if handle is None:
            check_value(args, "")
            return str(path_or_fn), args, None
        if not isinstance(handle, Function | FunctionReference):
            raise CallerError(
                f"{handle!r} is neither a path like 'tasks:open_tasks' nor a function decorated with @cs.{kind}",
                code="NotAFunction",
            )
        if handle.kind != kind:
            raise CallerError(f"{handle.path} is {a(handle.kind)}; call db.{handle.kind}(…)", code="WrongKind")
        return handle.path, handle.bind((), args), handle

    def _ship(self, handle: Any) -> None:
        """Deploy the handle's module if it is not there in its present form. A reference has been shipped elsewhere."""
        from cellstore.functions import Function

        self._check_open()
        if isinstance(handle, Function):
            self._shipper.ready(handle)

    def _query(self, path: str, args: dict[str, Any]) -> Any:
        return self._value(path, self._ask(path, args))

    def _ask(self, path: str, args: dict[str, Any], ts: int | None = None) -> Outcome:
        """The outcome of a one-shot query, now or at `ts`, noted by a view that records what it asks."""
        asked = note(self, path, args)
        params = {"path": path} if ts is None else {"path": path, "ts": ts}
        outcome = read_answer(*self._control("query", params, native.dumps(args)))
        if asked is not None and outcome.failure is None:
            asked.answer = native.dumps(outcome.value)
        return outcome

    def _request(self, kind: Kind, path: str, args: dict[str, Any]) -> Any:
        self._check_open()
        if kind == "mutation":
            future = self.link.request(kind, path, args)
            line = WaitingLine(path, lambda: self._waits_for(future))
            try:
                return self._value(path, self._await(future, path, line))
            finally:
                line.close()
        bar = ActionBar(path)
        try:
            outcome = self._await(self.link.request(kind, path, args, bar.heard), path, bar)
        finally:
            bar.close()
        return self._value(path, outcome)

    def _await(self, future: Future[Outcome], path: str, bar: ActionBar | WaitingLine) -> Outcome:
        """The outcome; gives up when the connection stays away too long, or cannot come back."""
        patience = Patience(self.link)
        try:
            while True:
                try:
                    return wait(future, WAIT_STEP_S)
                except TimeoutError:
                    bar.draw()
                    if patience.is_over():
                        raise self._given_up(future, path) from self.link.problem
        except KeyboardInterrupt as stopped:
            stopping = isinstance(bar, ActionBar) and self.link.state == "connected"
            sent = "it was sent and is told to stop; what it has done stays" if stopping else SENT
            stopped.add_note(f"{path} is no longer waited for: {self._fate(future, sent)}")
            raise

    def _waits_for(self, future: Future[Outcome]) -> str:
        """What holds a mutation up, as far as it can be told from here."""
        if self.link.state != "connected":
            problem = self.link.problem
            return f"waits for {self.where}" + (f": {problem.message}" if problem is not None else ", which is away")
        match self.link.progress(future):
            case "waiting":
                return "waits for its turn behind other calls"
            case "sent":
                return "sent; it runs, or waits for a worker process that is starting"
            case _:
                return "done; waits until every live view here shows it"

    def _fate(self, future: Future[Outcome], sent: str = SENT) -> str:
        """What has become of a call that nobody waits for any more: `sent` when the server has heard of it."""
        abandoned = self.link.abandon(future)
        try:
            in_doubt = wait(abandoned, ABANDON_S)
        except TimeoutError:  # the link has no time to answer
            in_doubt = True
        return sent if in_doubt else "it was not sent, and will not be"

    def _given_up(self, future: Future[Outcome], path: str) -> CellstoreError:
        fate = self._fate(future)
        problem = self.link.problem
        reason = problem.message if problem is not None else f"the connection to {self.where} was lost"
        kind = type(problem) if isinstance(problem, CallerError) else Disconnected
        return kind(f"{path}: {reason} As for this call: {fate}.")

    def _value(self, path: str, outcome: Outcome) -> Any:
        """What the caller gets: logs printed, documents wrapped, failures raised."""
        from cellstore.values.document import documents

        for line in outcome.logs:
            print(line.removeprefix("[LOG] "))
        if outcome.failure is None:
            return documents(outcome.value)
        error = error_from(outcome.failure, path)
        raise self._with_suggestion(error, path) if isinstance(error, NotFound) else error

    def _with_suggestion(self, error: NotFound, path: str) -> CellstoreError:
        """The error, with the nearest known function when it was the function that is missing."""
        if path not in error.message or "Did you mean" in error.message:
            return error
        try:
            visibility = {str(each["path"]): each.get("visibility") for each in self.functions()}
        except CellstoreError:
            return error
        known = list(visibility)
        if visibility.get(path) == "internal":
            said = f"{path} is internal: only functions of the store may call it, with ctx.run_… or on a schedule"
            return NotFound(
                f"{said}. To call it from here, define it without internal=True", kind="function", name=path
            )
        if path in known:
            return error
        near = difflib.get_close_matches(path, known, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else describe_known(known)
        return NotFound(f"there is no function {path!r}. {hint}", kind="function", name=path)

    def _check_open(self) -> None:
        if self._is_closed:
            raise Disconnected(
                f"this database ({self.where}) is closed; open it again with cs.open(…) or cs.connect(…)"
            )
        self.link.check_process()


def read_answer(answer: dict[str, Any], octets: bytes) -> Outcome:
    """The outcome of a one-shot query: in this process its value is the octets, over HTTP it is in the JSON."""
    logs = tuple(str(line) for line in answer.get("logLines") or ())
    if answer.get("error") is not None:
        return Outcome(failure=read_failure(answer["error"]), logs=logs)
    return Outcome(value=native.loads(octets) if octets else answer.get("value"), logs=logs, ts=answer.get("ts"))


def table_name(table: Any) -> str:
    """The name of a table; a cs.Table class will do."""
    return str(getattr(getattr(table, "__cellstore__", None), "name", table))


def listed_or_one(tables: Any) -> list[Any]:
    """A list of tables, or the one table as a list."""
    return list(tables) if isinstance(tables, list | tuple | set) else [tables]


def paths_meant(what: Any, known: list[str], notebook: str) -> list[str]:
    """The functions that a handle, a path, a function's name or a module's name stands for."""
    path = str(getattr(what, "path", what))
    if path in known or ":" in path:
        return [path]
    if f"{notebook}:{path}" in known:
        return [f"{notebook}:{path}"]
    return [each for each in known if each.startswith(f"{path}:")] or [path]


def describe_known(known: list[str]) -> str:
    """What is there instead, in one sentence."""
    if not known:
        return "Nothing is deployed yet: run the cell that defines it, or cs.deploy('file.py')."
    return f"Deployed are {', '.join(sorted(known)[:8])}{' …' if len(known) > 8 else ''}."


def a(kind: str) -> str:
    """'a query', 'an action'."""
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
