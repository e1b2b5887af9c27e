"""What all widgets share: how their page finds the store, what readers without us see, messages from the page.

Few traits cross to the page: configuration, and a snapshot of bounded size that is saved with the notebook. Live
values do not; they take the page's own socket, or a relay's steps.

Invariant: traits and the channel are touched under `_lock` (Jupyter delivers a widget's messages on threads of its
           own); nothing secret is in a trait, because notebooks save them.
"""

from __future__ import annotations

import difflib
import threading
from typing import Any, NamedTuple

import anywidget
import traitlets

from cellstore.client.database import Database, describe_known
from cellstore.errors import CallerError, NotFound
from cellstore.values import json as native
from cellstore_kernel import assets
from cellstore_kernel.bridge import is_own, relay_of
from cellstore_kernel.cells import cells
from cellstore_kernel.display import as_html, as_text

SAVED_BYTES_MAX = 32 << 10  # of a value, in the notebook's file
LINES_MAX, LINE_CHARS_MAX = 20, 200  # of what a query said
RELAYED_BYTES_MAX = 256 << 10  # where the page has nothing but what we send


class StoreWidget(anywidget.AnyWidget):
    """A widget that shows something of a database."""

    _esm = assets.loader()

    kind = traitlets.Unicode().tag(sync=True)
    label = traitlets.Unicode().tag(sync=True)
    server = traitlets.Dict().tag(sync=True)
    release = traitlets.Unicode().tag(sync=True)
    source = traitlets.Unicode().tag(sync=True)  # all modules, where no server serves them
    queries: Any = traitlets.List().tag(sync=True)  # of [path, arguments in native JSON]
    options = traitlets.Dict().tag(sync=True)
    snapshot = traitlets.Dict().tag(sync=True)

    def __init__(self, database: Database, **traits: Any) -> None:
        self._lock = threading.RLock()
        self._database = database
        self._relay = relay_of(database)
        own = is_own(database)
        embedded = database.rung == "embedded"
        super().__init__(
            server={
                "url": "" if embedded else database.where,
                "own": own,
                "deployment": database.deployment,
                "relay": self._relay.id,
            },
            release=assets.release(),
            source="" if own else assets.bundle(),
            **traits,
        )
        self._relay.join(self)
        self.on_msg(self._heard)
        cells.hold(self)

    # what readers without us see

    def _fallback(self) -> tuple[Any, int | None, str]:
        """(value, timestamp, error text) to show statically."""
        return None, None, ""

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is None:
            return None
        cells.hold(self)
        data, metadata = bundle
        value, ts, error = self._fallback()
        data["text/plain"] = as_text(self.label, value, ts, error)
        data["text/html"] = as_html(self.label, value, ts, error)
        return data, metadata

    def __repr__(self) -> str:
        value, ts, error = self._fallback()
        return as_text(self.label, value, ts, error)

    # the page

    def carry(self, content: dict[str, Any], octets: bytes) -> bool:
        """Send one message to every page that shows this widget; False when it is closed."""
        with self._lock:
            if self.comm is None:
                return False
            self.send(content, [octets])
            return True

    def _heard(self, _widget: Any, content: Any, _buffers: Any) -> None:
        """A message from a page. On any thread; must not block."""
        match content:
            case {"kind": "source"}:
                with self._lock:
                    self.send({"kind": "source", "source": assets.bundle()})
            case {"kind": "want", "keys": [*keys]}:
                self._relay.want([str(key) for key in keys])
            case {"kind": "want"}:
                self._relay.want(None)
            case {"kind": "call", "id": str(call), "call": str(kind), "path": str(path), "args": str(args)}:
                self._relay.call(self, call, kind, path, args)
            case {"kind": "stop", "id": str(call)}:
                self._relay.stop(call)
            case _:  # a page of another release
                pass

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> dict[str, Any]:
        """The traits a page is opened with; the snapshot is taken now."""
        state: dict[str, Any] = super().get_state(key, drop_defaults)
        if "snapshot" in state:
            bytes_max = SAVED_BYTES_MAX if is_own(self._database) else RELAYED_BYTES_MAX
            state["snapshot"] = bounded(self._saved(), bytes_max)
        return state

    def _saved(self) -> Saved:
        """What a page starts from."""
        return Saved()

    def close(self) -> None:
        """End the widget and what feeds it. Again is fine, and so is one that never came to be."""
        if hasattr(self, "_relay"):
            with self._lock:
                super().close()
            self._relay.leave(self)


class Saved(NamedTuple):
    """A result for the page to start from; of no moment when there is none."""

    value: Any = None
    ts: int | None = None
    failure: dict[str, Any] | None = None
    logs: tuple[str, ...] = ()


def bounded(saved: Saved, bytes_max: int) -> dict[str, Any]:
    """A snapshot for the page: everything, or of a list the first items that fit.

    Shape: {ts, value?: native JSON, error?: native JSON, logs?: lines, partial?: true, total?: items}
    """
    if saved.ts is None:
        return {}
    value, shot = saved.value, dict[str, Any](ts=str(saved.ts))
    if saved.logs:
        shot["logs"] = [line[:LINE_CHARS_MAX] for line in saved.logs[-LINES_MAX:]]
    if saved.failure is not None:
        shot["error"] = native.dumps(saved.failure).decode()
        return shot
    text = native.dumps(value)
    if len(text) <= bytes_max:
        return {**shot, "value": text.decode()}
    if not isinstance(value, list):
        return {}
    fitting = value[: max(1, len(value) * bytes_max // (2 * len(text)))]
    while fitting and len(text := native.dumps(fitting)) > bytes_max:
        fitting = fitting[: len(fitting) // 2]
    return {**shot, "value": text.decode(), "partial": True, "total": len(value)} if fitting else {}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def handle_of(path_or_fn: Any, *kinds: str) -> Any:
    """The function meant, if it is of one of these kinds; a path stays a path.

    Errors: CallerError saying what was expected.
    """
    from cellstore.functions import Function, registry

    if isinstance(path_or_fn, str):
        return registry.find(path_or_fn) or path_or_fn
    wanted = " or ".join(kinds)
    if not isinstance(path_or_fn, Function):
        raise CallerError(
            f"{type(path_or_fn).__name__} {_short(path_or_fn)} is no function of the store; give a function decorated with "
            f"{' or '.join(f'@cs.{kind}' for kind in kinds)}, not called, its arguments beside it, or a path like "
            "'tasks:open_tasks'",
            code="NotAFunction",
        )
    if path_or_fn.kind not in kinds:
        raise CallerError(f"{path_or_fn.path} is a {path_or_fn.kind}; this needs a {wanted}", code="WrongKind")
    return path_or_fn


def deployed(path: str, database: Database, *kinds: str) -> dict[str, Any]:
    """What the store says of a function that is known by its path only.

    Errors: NotFound with the nearest known path; CallerError when it is of another kind.
    """
    known = {str(each["path"]): each for each in database.functions()}
    if path not in known:
        near = difflib.get_close_matches(path, known, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else describe_known(list(known))
        raise NotFound(f"there is no function {path!r}. {hint}", kind="function", name=path)
    if known[path]["kind"] not in kinds:
        raise CallerError(f"{path} is a {known[path]['kind']}; this needs a {' or '.join(kinds)}", code="WrongKind")
    return known[path]


def bound(function: Any, args: dict[str, Any]) -> dict[str, Any]:
    """The arguments as they are sent; checked here if we hold the function. Errors: ValidationError naming one."""
    return args if isinstance(function, str) else dict(function.bind((), args))


def label_of(path: str, args: dict[str, Any]) -> str:
    """`tasks:open_tasks(limit=5)`."""
    return f"{path}({', '.join(f'{name}={value!r}' for name, value in args.items())})"
