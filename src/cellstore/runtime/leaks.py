"""State that would leak from one call into the next: found when the call is over, undone, and refused by name.

    COUNT = 0                       a global that is rebound
    CACHE = {}                      a list, dict, set, deque or bytearray that is changed in place
    class Config: debug = False     an attribute of a class of the user's, or of an instance of one
    def f(ctx, seen=[]): …          a default, a closure's variable
    FRAME["b"] = 1                  a DataFrame or Series of pandas
    math.tau2 = 6.3                 an attribute of a library's module or class (see `patches`)

What a function may reach is walked once, when it is loaded, and a shallow copy of each container kept. After a call each
is compared by identity, element by element. A queries' worker runs calls of many callers, and there are several workers:
what one call leaves behind would be seen by some and not by others.

Undone without a word: what `functools.cache` and `cached_property` remembered, and where a generator of chance stands that
was captured (each call draws the same from it), frames of polars, settings of libraries (see `settings`) and another value
for what a library's module or class has; only what the library does not have is refused. Not looked at: the other insides
of library objects, except NumPy arrays, which are made read-only; what a library keeps, unless the text calls `set_…`,
`register_…` and the like on it: looking at all libraries at every call takes from 0.4 ms, with NumPy, to 2 ms.

Cost       tens of nanoseconds for each global and each element of a captured container, at every call that can reach it; a
           text that sets something in a library pays as much for each name in that library
"""

from __future__ import annotations

import dis
import functools
import linecache
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import is_
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from cellstore.deploy.captures import CACHED, class_members, function_reads, is_machinery, is_reference
from cellstore.deploy.origins import is_installed_module, is_named, singleton_name
from cellstore.errors import NotDeterministic
from cellstore.runtime.patches import ASSIGNED, Assigned, Patched, patches, set_packages
from cellstore.runtime.settings import LOOKED_AFTER, OfPackage, Setting

_SCALARS = (type(None), bool, int, float, complex, str, bytes)
_CONTAINERS = (list, dict, set, deque, bytearray)
_WRITES = {"STORE_SUBSCR", "DELETE_SUBSCR", "STORE_ATTR", "DELETE_ATTR", "BINARY_SUBSCR"}
_WRITING = {
    "append", "appendleft", "add", "update", "extend", "extendleft", "insert", "pop", "popleft", "popitem", "remove", "discard",
    "clear", "setdefault", "sort", "reverse",
}  # fmt: skip
_BUFFERS = ("_ndarray", "_mask", "_pa_array")  # of pandas' arrays
_PARTS_MAX = 200_000


class Table:
    """A captured DataFrame or Series of pandas, which is to keep its blocks, which are read-only, its axes and its names."""

    def __init__(self, frame: Any) -> None:
        self._frame = frame
        self._saved = frame.copy(deep=False)  # while it is there, pandas 3 writes into a copy only
        for buffer in self._buffers():
            if hasattr(buffer, "setflags"):
                buffer.setflags(write=False)
        arrays = [block.values for block in frame._mgr.blocks]
        self._arrow = [(array, array._pa_array) for array in arrays if hasattr(array, "_pa_array")]
        self._attrs = dict(frame.attrs)
        self._parts = self._look()
        self._names = [each._name for each in self._named()]

    def _look(self) -> list[Any]:
        manager = self._frame._mgr
        return [manager, *manager.axes, *self._buffers()]

    def _buffers(self) -> list[Any]:
        """The arrays of the blocks, and what is inside those of dates, categories, nullable numbers and text."""
        arrays = [block.values for block in self._frame._mgr.blocks]
        inner = [getattr(array, name) for array in arrays for name in _BUFFERS if hasattr(array, name)]
        return [*arrays, *inner, *[array._data for array in arrays if hasattr(array, "_mask")]]

    def _named(self) -> list[Any]:
        axes = [each for each in self._frame._mgr.axes if hasattr(each, "_name")]
        return [self._frame, *axes] if self._frame.ndim == 1 else axes

    def is_intact(self) -> bool:
        """Whether nothing has changed."""
        parts = self._look()
        return (
            len(parts) == len(self._parts)
            and all(map(is_, parts, self._parts))
            and [each._name for each in self._named()] == self._names
            and self._frame.attrs == self._attrs
        )

    def undo(self) -> None:
        """Put everything back."""
        for array, chunks in self._arrow:
            array._pa_array = chunks
        object.__setattr__(self._frame, "_mgr", self._saved.copy(deep=False)._mgr)
        getattr(self._frame, "_clear_item_cache", lambda: None)()  # in which pandas 2 has its columns
        for each, name in zip(self._named(), self._names, strict=True):
            object.__setattr__(each, "_name", name)
        self._frame.attrs = dict(self._attrs)
        self._parts = self._look()


@dataclass(slots=True, eq=False)
class Kept:
    """A place that must look after a call as before it: its elements, and how to put them back."""

    name: str  # as a person would say it
    root: str  # the variable through which it is reached
    place: Any
    saved: list[Any]
    keys: list[Any] | None = None  # of a dict
    caches: frozenset[str] = frozenset()  # keys that may come: an instance's cached properties

    def is_intact(self) -> bool:
        """Whether nothing has changed."""
        place, saved = self.place, self.saved
        if type(place) is CellType:
            return _content(place) is saved[0]
        if type(place) is Patched:
            return place.get() is saved[0]
        if type(place) is Table:
            return place.is_intact()
        if isinstance(place, type):
            now = _attributes(place)
            return now.keys() == set(self.keys or ()) and all(map(is_, now.values(), saved))
        if isinstance(place, bytearray):
            return bool(place == saved[0])
        if len(place) != len(saved):
            return False
        if self.keys is not None:
            return all(map(is_, place.values(), saved)) and all(map(is_, place, self.keys))
        if isinstance(place, set):
            return all(map(place.__contains__, saved))
        return all(map(is_, place, saved))

    def change(self) -> str | None:
        """The name of what has changed; None for a value replaced by an equal one."""
        place = self.place
        if isinstance(place, dict) and self.root == "":  # globals: say which
            before = dict(zip(self.keys or (), self.saved, strict=True))
            for name in [*before, *(key for key in place if key not in before)]:
                if str(name).startswith("__"):  # __warningregistry__, and what else the interpreter notes
                    continue
                if not _same(before.get(name, place), place.get(name, place)):
                    return str(name)
            return None
        if type(place) is CellType:
            return None if _same(_content(place), self.saved[0]) else self.name
        if type(place) is Table:
            return self.name
        if type(place) is Patched:
            return self.name if place.came_or_went(self.saved[0]) else None  # what was there is a setting
        if self.caches and isinstance(place, dict):
            place = {key: value for key, value in place.items() if key in (self.keys or ()) or key not in self.caches}
        if isinstance(place, dict) and len(place) == len(self.saved) and list(place) == self.keys:
            return None if all(map(_same, place.values(), self.saved)) else self.name
        if isinstance(place, list) and len(place) == len(self.saved):
            return None if all(map(_same, place, self.saved)) else self.name
        return self.name

    def undo(self) -> None:
        """Put everything back."""
        place = self.place
        if type(place) is CellType:
            place.cell_contents = self.saved[0]
        elif type(place) is Patched:
            place.put(self.saved[0])
        elif type(place) is Table:
            place.undo()
        elif isinstance(place, type):
            for name in _attributes(place).keys() - set(self.keys or ()):
                delattr(place, name)
            for name, value in zip(self.keys or (), self.saved, strict=True):
                setattr(place, name, value)
        elif isinstance(place, bytearray):
            place[:] = self.saved[0]
        else:
            place.clear()
            if self.keys is not None:
                for key, value in zip(self.keys, self.saved, strict=True):
                    place[key] = value  # a Counter's `update` counts
            elif isinstance(place, set):
                place.update(self.saved)
            else:
                place.extend(self.saved)


@dataclass(slots=True)
class State:
    """What one function can reach and change."""

    path: str
    kept: dict[int, Kept] = field(default_factory=dict)  # by the identity of the place
    caches: list[Any] = field(default_factory=list)
    settings: list[Setting] = field(default_factory=list)  # of libraries that it sets
    dice: list[Callable[[], None]] = field(default_factory=list)  # put captured generators of chance, and such, back
    codes: list[CodeType] = field(default_factory=list)
    clock: tuple[CodeType, int] | None = (
        None  # where NumPy is asked for the machine's time, past the one that stands still
    )

    def settle(self, cells: Mapping[str, str], assigned: int) -> None:
        """A call is over: everything as before. Errors: NotDeterministic naming what it had changed, and where.

        `assigned`: how many entries `ASSIGNED` had when it began.
        """
        self._forget()
        lasting = _put_back_assigned(assigned)
        if lasting:
            self.undo(assigned)
            error = self._changed(lasting[0].name)
            error.traceback = _as_traceback(lasting[0].code, lasting[0].line, cells, error)
            raise error
        for kept in self.kept.values():
            if not kept.is_intact():
                self._refuse(cells)
                break
        if self.clock is not None:
            error = NotDeterministic(
                "np.datetime64('now') reads the machine's clock, which is another one whenever this is run again. Use "
                "np.datetime64(ctx.now.replace(tzinfo=None)), or do this in an action (@cs.action)"
            )
            error.traceback = _as_traceback(*self.clock, cells, error)
            raise error

    def undo(self, assigned: int) -> None:
        """A call failed; nothing of it stays. `assigned`: see `settle`."""
        self._forget()
        _put_back_assigned(assigned)
        for kept in self.kept.values():
            if not kept.is_intact():
                kept.undo()

    def _forget(self) -> None:
        for cache in self.caches:
            if cache.cache_info().currsize:
                cache.cache_clear()
        for put_back in self.dice:
            put_back()
        for setting in self.settings:
            if not setting.is_intact():
                setting.put_back()
                setting.keep()

    def _refuse(self, cells: Mapping[str, str]) -> None:
        broken = [kept for kept in self.kept.values() if not kept.is_intact()]
        found = [(name, kept) for kept in broken if (name := kept.change()) is not None]
        for kept in broken:
            kept.undo()
        if not found:
            return
        name, kept = found[0]
        error = self._changed(name)
        where = next(_lines_that_change(self.codes, kept.root or name), None)
        if where is not None:
            error.traceback = _as_traceback(*where, cells, error)
        raise error

    def _changed(self, name: str) -> NotDeterministic:
        return NotDeterministic(
            f"{self.path} changed `{name}`, which outlives the call: every call must find things as the one before did, "
            "and other workers would not see it (it was undone). Keep it in a table with ctx.db, or do this in an action "
            "(@cs.action)"
        )


class Watch:
    """The states of a module's functions; they share what they share."""

    def __init__(self) -> None:
        self._kept: dict[int, Kept] = {}
        self._patched: dict[tuple[int, str], Patched] = {}
        self._packages: dict[str, OfPackage] = {}
        self._tables: dict[int, Table] = {}

    def state_of(self, path: str, function: Any) -> State:
        """What `function` can reach, as it is now."""
        state = State(path)
        seen: dict[int, Any] = {}
        pending: list[tuple[str, str, Any]] = [(getattr(function, "__name__", path), "", function)]
        while pending and len(seen) < _PARTS_MAX:
            name, root, value = pending.pop()
            if id(value) not in seen and not isinstance(value, _SCALARS):
                seen[id(value)] = value
                pending += self._step(state, name, root, value)
        return state

    def _step(self, state: State, name: str, root: str, value: Any) -> Iterable[tuple[str, str, Any]]:
        if is_reference(value) or singleton_name(value) is not None:
            return ()
        if isinstance(value, FunctionType):
            return () if is_named(value) else self._function(state, value)
        if isinstance(value, CACHED):
            state.caches.append(value)
            return [(name, root, value.__wrapped__)]
        if isinstance(value, MethodType):
            return [(name, root, value.__func__), (name, root, value.__self__)]
        if isinstance(value, functools.partial):
            return [(name, root, each) for each in (value.func, value.args, value.keywords)]
        if isinstance(value, ModuleType):
            return () if is_installed_module(value.__name__) else [(name, root or name, vars(value))]
        if isinstance(value, type):
            return () if is_named(value) else self._class(state, name, root, value)
        if isinstance(value, tuple | frozenset):
            return [(name, root, each) for each in value]
        if isinstance(value, _CONTAINERS):
            self._keep(state, name, root, value)
            parts = value.values() if isinstance(value, dict) else () if isinstance(value, bytearray) else value
            return [(name, root, each) for each in parts]
        if hasattr(value, "setflags") and hasattr(value, "dtype"):
            value.setflags(write=False)
            return ()
        if hasattr(value, "_mgr") and type(value).__module__.partition(".")[0] == "pandas":
            if id(value) not in self._tables:
                self._tables[id(value)] = Table(value)
            self._keep(state, name, root, self._tables[id(value)])
            return ()
        if not is_named(type(value)):
            return self._instance(state, name, root, value) if hasattr(value, "__dict__") else ()
        state.dice += _put_back(value)
        return ()

    def _instance(self, state: State, name: str, root: str, value: Any) -> Iterator[tuple[str, str, Any]]:
        space = vars(value)
        self._keep(state, name, root, space)
        attributes = [item for cls in type(value).__mro__ for item in vars(cls).items()]
        cached = frozenset(key for key, each in attributes if isinstance(each, functools.cached_property))
        self._kept[id(space)].caches = cached
        yield from ((name, root, each) for each in [*space.values(), type(value)])

    def _function(self, state: State, function: FunctionType) -> Iterator[tuple[str, str, Any]]:
        codes = list(_codes(function.__code__))
        state.codes += codes
        state.clock = state.clock or next(_clocks_of_numpy(codes), None)
        space = function.__globals__
        if id(space) not in self._kept:
            space.setdefault("__builtins__", __builtins__)
        self._keep(state, "", "", space)
        for cell, name in zip(function.__closure__ or (), function.__code__.co_freevars, strict=True):
            self._keep(state, name, name, cell)
        if function.__dict__:
            yield function.__name__, function.__name__, {**function.__dict__}.pop("__wrapped__", None)
            self._keep(state, function.__name__, function.__name__, function.__dict__)
        reads = dict(function_reads(function))
        for package in {each for code in codes for each in set_packages(code, reads)} - LOOKED_AFTER:
            if package not in self._packages:
                self._packages[package] = OfPackage(package)
            if (setting := self._packages[package]) not in state.settings:
                state.settings.append(setting)
        for name, found in (each for code in codes for each in patches(code, reads)):
            patched = self._patched.setdefault((id(found.owner), found.attribute), found)
            self._keep(state, name, found.attribute, patched)
        for name, value in reads.items():
            yield name, name, value

    def _class(self, state: State, name: str, root: str, cls: type) -> Iterator[tuple[str, str, Any]]:
        self._keep(state, name, root or name, cls)
        for inner, member in class_members(cls):
            yield f"{name}.{inner}", root or name, member
        for inner, member in _attributes(cls).items():
            yield f"{name}.{inner}", root or name, member

    def _keep(self, state: State, name: str, root: str, place: Any) -> None:
        kept = self._kept.get(id(place))
        if kept is None:
            kept = self._kept[id(place)] = _kept(name, root, place)
        state.kept[id(place)] = kept


def _put_back_assigned(since: int) -> list[Assigned]:
    """Undo what `setattr` has done. Returns what had come or gone by now; another value is a setting."""
    taken = {(id(each.place.owner), each.place.attribute): each for each in reversed(ASSIGNED[since:])}
    first = [*reversed(taken.values())]
    del ASSIGNED[since:]
    lasting = [each for each in first if each.place.came_or_went(each.before)]
    for each in first:
        each.place.put(each.before)
    return lasting


def _put_back(value: Any) -> Iterator[Callable[[], None]]:
    """How a generator of chance gets back to where it stands, and a frame or series of polars to what it holds."""
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        yield functools.partial(value.setstate, value.getstate())
    bits = getattr(value, "bit_generator", None)
    if bits is not None and hasattr(bits, "state"):
        yield functools.partial(setattr, bits, "state", bits.state)
    if type(value).__module__.partition(".")[0] == "polars":
        yield from (
            functools.partial(_refill, value, inner, value.clone()) for inner in ("_df", "_s") if hasattr(value, inner)
        )


def _refill(value: Any, inner: str, saved: Any) -> None:
    setattr(value, inner, getattr(saved.clone(), inner))


def _kept(name: str, root: str, place: Any) -> Kept:
    if type(place) is CellType:
        return Kept(name, root, place, [_content(place)])
    if type(place) is Patched:
        return Kept(name, root, place, [place.get()])
    if type(place) is Table:
        return Kept(name, root, place, [])
    if isinstance(place, type):
        attributes = _attributes(place)
        return Kept(name, root, place, list(attributes.values()), list(attributes))
    if isinstance(place, dict):
        return Kept(name, root, place, list(place.values()), list(place))
    return Kept(name, root, place, [bytes(place)] if isinstance(place, bytearray) else list(place))


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def _attributes(cls: type) -> dict[str, Any]:
    """The public attributes of a class; what libraries note on it for themselves is private."""
    return {name: value for name, value in vars(cls).items() if not name.startswith("_") and not is_machinery(name)}


def _same(left: Any, right: Any) -> bool:
    return left is right or (type(left) is type(right) and isinstance(left, _SCALARS) and left == right)


# ── where ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _lines_that_change(codes: Iterable[CodeType], name: str) -> Iterator[tuple[CodeType, int]]:
    """(code, line) of what rebinds a variable, else of what uses it and writes, else of what uses it."""
    rebinds: list[tuple[CodeType, int]] = []
    writes: list[tuple[CodeType, int]] = []
    uses: list[tuple[CodeType, int]] = []
    for code in codes:
        for line, instructions in _by_line(code):
            names = {each.argval for each in instructions if isinstance(each.argval, str)}
            if name not in names:
                continue
            stored = {
                each.argval for each in instructions if each.opname.startswith(("STORE_G", "DELETE_G", "STORE_D"))
            }
            if name in stored:
                rebinds.append((code, line))
            elif names & _WRITING or {each.opname for each in instructions} & _WRITES:
                writes.append((code, line))
            else:
                uses.append((code, line))
    yield from (*rebinds, *writes, *uses)


def _clocks_of_numpy(codes: Iterable[CodeType]) -> Iterator[tuple[CodeType, int]]:
    """(code, line) of `np.datetime64("now")`, `np.array(["now"], "datetime64[s]")`: in C, they cannot be told another time."""
    for code in codes:
        if not ({"now", "today"} & {*code.co_consts, *_parts_of_tuples(code.co_consts)}):
            continue
        for line, instructions in _by_line(code):
            arguments = [each.argval for each in instructions]
            values = {each for each in (*arguments, *_parts_of_tuples(arguments)) if isinstance(each, str)}
            if values & {"now", "today"} and any(each.startswith(("datetime64", "M8")) for each in values):
                yield code, line


def _parts_of_tuples(values: Iterable[Any]) -> Iterator[Any]:
    return (part for each in values if isinstance(each, tuple) for part in each)


def _by_line(code: CodeType) -> Iterator[tuple[int, list[dis.Instruction]]]:
    lines: dict[int, list[dis.Instruction]] = {}
    for each in dis.get_instructions(code):
        line = each.positions.lineno if each.positions is not None else None
        if line is not None:
            lines.setdefault(line, []).append(each)
    yield from lines.items()


def _as_traceback(code: CodeType, line: int, cells: Mapping[str, str], error: NotDeterministic) -> str:
    place = cells.get(code.co_filename, f'File "{code.co_filename}"')
    text = linecache.getline(code.co_filename, line).strip()
    shown = f"\n    {text}" if text else ""
    return f"Traceback (most recent call last):\n  {place}, line {line}, in {code.co_name}{shown}\nNotDeterministic: {error}"
