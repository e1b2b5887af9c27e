"""`cs.view`: a block of the user's own that is drawn again when a query it called has another answer.

    @cs.view
    def chart():
        open_tasks.df().plot.barh()

The block runs on the kernel's main loop, between cells, never beside one and never on a thread: drawing libraries keep
global state. While it runs, the queries it asks are written down, and the tables its SQL reads; they are then watched, and a
change schedules another run. So does a connection that is back, for a block that failed. Many changes while the kernel is
busy are one run afterwards; a slow block rests twice as long as it took. A block defined again takes the place of the one
before, which stays as it was drawn and runs no more.

What it draws: new matplotlib figures, else what it displays and prints, and what it returns.
"""

from __future__ import annotations

import base64
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import traitlets

from cellstore.client.database import Database
from cellstore.client.errors_render import caller_lines, doorway
from cellstore.client.recording import Recorded, recording
from cellstore.client.results import QueryResult
from cellstore.errors import CallerError, CellstoreError
from cellstore.values import json as native
from cellstore.values.value import same
from cellstore_kernel.bridge import MainLoop, failure_json, main_loop, query_key, shell
from cellstore_kernel.display import framed
from cellstore_kernel.widgets.base import StoreWidget
from cellstore_kernel.widgets.live import current

if TYPE_CHECKING:
    from types import TracebackType

    from cellstore.client.transport import LinkState, Watch

REST_FACTOR = 2.0  # a block that takes 0.3 s runs at most every 0.9 s: cells get their turn
REST_MIN_S = 0.05
SHARPNESS = 2  # image pixels per CSS pixel
RICHEST = ("image/png", "image/svg+xml", "text/html", "text/plain")
Output = list[Any]  # [mime, text or base64, width in CSS pixels?]


class View(StoreWidget):
    """A block and what it drew last."""

    outputs: Any = traitlets.List().tag(sync=True)
    failure: Any = traitlets.Dict(None, allow_none=True).tag(sync=True)
    ts = traitlets.Unicode("0").tag(sync=True)  # of the data it was drawn from
    behind = traitlets.Bool(False).tag(sync=True)  # a query has another answer, and the next run has not begun

    def __init__(self, block: Callable[[], object], database: Database) -> None:
        self.block = block
        self._watched: dict[str, Watched] = {}
        self._dispatch = main_loop() or database.dispatch
        self._plan = threading.Lock()
        self._planned = False
        self._rest_until = 0.0
        self._closed = False
        self._texts: list[str] = []  # what was drawn, for readers who see text only
        super().__init__(database, kind="view", label=getattr(block, "__name__", "view"))
        database.link.on_state.append(self._state_changed)
        self.run()
        self._rest_until = 0.0  # the first run has imported what the block needs; later ones may be quick

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the block once, plainly."""
        return self.block(*args, **kwargs)

    def run(self) -> None:
        """Draw again, now. From the main loop or a cell."""
        began, ts = time.monotonic(), self._database.link.ts
        failure: dict[str, Any] | None = None
        outputs, texts = list[Output](), list[str]()
        with recording() as asked:
            try:
                outputs, texts = drawn(self.block)
            except Exception as error:  # noqa: BLE001 - the user's own; the view shows it and stays live
                failure = describe(error)
        with self._lock, self.hold_sync():
            self.failure = failure
            if failure is None:
                self.outputs, self._texts = outputs, texts
            self.ts = str(max(ts, self._database.link.ts))
            self.behind = self._planned
        self._follow(asked)
        took = time.monotonic() - began
        self._rest_until = time.monotonic() + max(REST_MIN_S, REST_FACTOR * took)

    def close(self) -> None:
        """Stop following; what was drawn stays."""
        if hasattr(self, "_plan"):
            self._unfollow()
            super().close()

    def retire(self) -> None:
        """Stop following, because the block was defined again; what was drawn stays, and says so."""
        if not self._closed:
            self._unfollow()
            with self._lock:
                self.options = {"note": "defined again"}

    def _unfollow(self) -> None:
        self._closed = True
        if self._state_changed in self._database.link.on_state:
            self._database.link.on_state.remove(self._state_changed)
        for watched in self._watched.values():
            watched.close()
        self._watched.clear()

    # what it depends on

    def _follow(self, asked: list[Recorded]) -> None:
        """Watch exactly the queries of the latest run."""
        before, self._watched = self._watched, {}
        for call in asked:
            text = native.dumps(call.args).decode()
            key = query_key(call.path, text)
            if key not in self._watched:
                kept = before.pop(key, None)
                self._watched[key] = kept or Watched(call, self._changed)
                self._watched[key].seen(call)
        for gone in before.values():
            gone.close()
        queries = [key.split("\0", 1) for key in self._watched]
        with self._lock:
            self.queries = queries if self.server["url"] else []

    def _changed(self) -> None:
        """Something has another answer. On the client's loop thread."""
        with self._plan:
            if self._planned or self._closed:
                return
            self._planned = True
        with self._lock:
            self.behind = True
        self._dispatch(self._due)

    def _state_changed(self, state: LinkState) -> None:
        if state == "connected" and self.failure is not None:  # it may have failed for want of a connection
            self._changed()

    def _due(self) -> None:
        rest = self._rest_until - time.monotonic()
        if rest > 0 and isinstance(self._dispatch, MainLoop):
            self._dispatch.later(rest, self._rerun)
        else:
            self._rerun()

    def _rerun(self) -> None:
        with self._plan:
            self._planned = False
        if not self._closed:
            self.run()

    # what readers without us see

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        if self in _not_shown:
            _not_shown.remove(self)
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is None:
            return None
        data, metadata = bundle
        pictures = [text for mime, text, *_ in self.outputs if mime == "image/png"]
        markup = [text for mime, text, *_ in self.outputs if mime == "text/html"]
        if pictures:
            data["image/png"] = pictures[0]
            del data["text/html"]  # a static reader should pick the picture
        elif markup and self.failure is None:
            data["text/html"] = framed("".join(markup), self.label, int(self.ts))
        return data, metadata

    def _fallback(self) -> tuple[Any, int | None, str]:
        if self.failure is not None:
            name = self.failure.get("class") or self.failure["code"]
            return None, int(self.ts), f"{name}: {self.failure['message']}\n{self.failure['traceback']}"
        return "\n".join(self._texts) or "a drawing", int(self.ts), ""


class Watched:
    """One query a view depends on: has its answer moved away from what the block saw?"""

    def __init__(self, call: Recorded, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._lock = threading.Lock()
        self._saw: Recorded | None = None
        self._newest: QueryResult | None = None
        self._watch: Watch = call.database.link.watch(call.path, call.args, self._arrived)

    def seen(self, call: Recorded) -> None:
        """The block has just seen this answer."""
        with self._lock:
            self._saw = call
            behind = self._is_behind()
        if behind:  # it changed between the block's question and now
            self._changed()

    def close(self) -> None:
        """Watch no more."""
        self._watch.close()

    def _arrived(self, result: QueryResult) -> None:
        with self._lock:
            self._newest = result
            behind = self._is_behind()
        if behind:
            self._changed()

    def _is_behind(self) -> bool:
        if self._newest is None or self._saw is None:
            return False
        if self._newest.failure is not None or self._saw.answer is None:
            return (self._newest.failure is None) != (self._saw.answer is None)
        return not same(self._newest.value, native.loads(self._saw.answer))


def view(block: Callable[[], object]) -> View:
    """Draw `block` now, and again whenever a query it calls has another answer. It is shown where it stands.

    Errors: CallerError when it takes arguments or is a coroutine. What the block itself raises is shown in the view.
    """
    import inspect

    with doorway():
        if inspect.iscoroutinefunction(block):
            raise CallerError("a view is an ordinary function; it is run between cells, where nothing awaits it")
        if not callable(block):
            raise CallerError(f"cs.view takes a function, not {block!r}")
        needed = [p.name for p in inspect.signature(block).parameters.values() if p.default is p.empty and p.kind < 2]
        if needed:
            raise CallerError(f"a view takes no arguments, but this one needs {', '.join(needed)}; give them defaults")
        made = View(block, current())
    replace(made)
    show_at_cell_end(made)
    return made


def replace(made: View) -> None:
    """Retire the view of the same name, if its cell is run again. Lambdas and inner functions have none of their own."""
    name = getattr(made.block, "__qualname__", "")
    if name.isidentifier():
        former, _by_name[name] = _by_name.get(name), made
        if former is not None:
            former.retire()


_by_name: dict[str, View] = {}  # the latest view of each name
_not_shown: list[View] = []  # made in the running cell, and not displayed by it so far


def show_at_cell_end(made: View) -> None:
    """A decorated function is no expression, so nothing would display it: do it when the cell ends."""
    ip = shell()
    if ip is None:
        return
    _not_shown.append(made)
    if _show_pending not in ip.events.callbacks["post_run_cell"]:
        ip.events.register("post_run_cell", _show_pending)


def _show_pending(_result: object = None) -> None:
    from IPython.display import display

    for made in tuple(_not_shown):
        display(made)  # type: ignore[no-untyped-call]  # takes it off the list


# ── drawing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def drawn(block: Callable[[], object]) -> tuple[list[Output], list[str]]:
    """Run the block; everything it drew, displayed, printed and returned, in that order, and as much of it as is text."""
    from IPython.utils.capture import capture_output

    before = figures()
    try:
        with capture_output() as captured:
            value = block()
        new = [figure for number, figure in figures().items() if number not in before]
        returned = figure_of(value)
        shown = new if returned is None or returned in new else [*new, returned]
        pictures = [picture(figure) for figure in shown]
    finally:
        close(number for number in figures() if number not in before)
    bundles = [each.data for each in captured.outputs]
    bundles += [{"text/plain": text} for text in (captured.stdout, captured.stderr) if text]
    if value is not None and not is_drawing(value):
        bundles.append(formatted(value))
    return [*pictures, *map(richest, bundles)], [each["text/plain"] for each in bundles if "text/plain" in each]


def figures() -> dict[int, Any]:
    """The open matplotlib figures by number; none when nobody has imported it."""
    if "matplotlib.pyplot" not in sys.modules:
        return {}
    from matplotlib._pylab_helpers import Gcf  # pyplot's own way to a figure would make it the current one

    return {int(manager.num): manager.canvas.figure for manager in Gcf.get_all_fig_managers()}


def close(numbers: Any) -> None:
    """Close figures that were drawn for us: they would pile up, and cells would show them."""
    for number in list(numbers):
        sys.modules["matplotlib.pyplot"].close(number)


def figure_of(value: object) -> Any:
    """The figure behind a figure or its axes; None for anything else."""
    if not is_drawing(value):
        return None
    return value if hasattr(value, "savefig") else getattr(value, "figure", None)


def is_drawing(value: object) -> bool:
    """Something of matplotlib's, or a list or array of such: already on the picture."""
    first = next(iter(getattr(value, "flat", [])), value) if hasattr(value, "flat") else value
    if isinstance(first, list | tuple) and first:
        first = first[0]
    return type(first).__module__.partition(".")[0] in ("matplotlib", "seaborn", "mpl_toolkits")


def picture(figure: Any) -> Output:
    """A figure as PNG, at twice the pixels it is shown with."""
    from io import BytesIO

    target = BytesIO()
    figure.savefig(target, format="png", dpi=figure.dpi * SHARPNESS, bbox_inches="tight")
    octets = target.getvalue()
    width = int.from_bytes(octets[16:20], "big") // SHARPNESS  # IHDR: the first eight bytes of its body are the size
    return ["image/png", base64.b64encode(octets).decode(), width]


def formatted(value: object) -> dict[str, Any]:
    """The mime bundle of a value, as a cell would show it."""
    ip = shell()
    return dict(ip.display_formatter.format(value)[0]) if ip is not None else {"text/plain": repr(value)}


def richest(bundle: dict[str, Any]) -> Output:
    """The best of a mime bundle that a view can show."""
    for mime in RICHEST:
        if mime in bundle:
            data = bundle[mime]
            return [mime, base64.b64encode(data).decode() if isinstance(data, bytes) else str(data)]
    return ["text/plain", f"(a view cannot show {', '.join(bundle) or 'this'})"]


def describe(error: Exception) -> dict[str, Any]:
    """An error of the block, with the user's own lines and none of ours."""
    traceback: TracebackType | None = error.__traceback__
    lines = [*caller_lines(traceback), *getattr(error, "__notes__", ())]
    if isinstance(error, CellstoreError):
        shape = failure_json(error)
        shape.pop("data", None)
        return {**shape, "function": "", "traceback": "\n".join(lines)}
    return {"code": type(error).__name__, "message": str(error), "traceback": "\n".join(lines), "function": ""}
