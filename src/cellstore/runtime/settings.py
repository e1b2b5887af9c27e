"""Settings of the interpreter and of libraries: what a call changes in them lasts as long as the call.

    pd.set_option, plt.rcParams, open figures      warnings.simplefilter, showwarning
    logging: levels, handlers, `disable`           locale.setlocale
    sys.path, recursion limit, stdout, …           gc.disable
    another library's                              where a function's text calls `library.set_…`, `register_…`; see `patches`

A call is over: each setting is read and compared with what was kept, and put back without a word if it differs; inside the
call it works as everywhere. Context variables (decimal, NumPy's `errstate` and print options, the user's own) need no
looking after, because each call runs in a context of its own; see `execute`.

Invariant  what a module sets while it is imported stays, also if that happens inside a call: it is imported only once
Cost       3 µs a call; pandas adds 1.5, matplotlib and its thirty loggers 6. What nobody has imported costs nothing
"""

from __future__ import annotations

import functools
import gc
import importlib
import locale
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from operator import attrgetter, is_
from types import FunctionType, ModuleType
from typing import Any, Protocol

_LOGGER = attrgetter("level", "propagate", "disabled", "handlers", "filters")
_HANDLER = attrgetter("level", "formatter", "filters")


class Setting(Protocol):
    """Something that outlives a call."""

    def is_intact(self) -> bool:
        """Whether it is as it was kept."""
        ...

    def keep(self) -> None:
        """It is right as it is now."""
        ...

    def put_back(self) -> None:
        """Make it what was kept."""
        ...


class Settings:
    """All settings of this process."""

    def __init__(self) -> None:
        self._settings: list[Setting] = [*_of_interpreter(), _Logging()]
        self._awaited = dict(_OF_LIBRARIES)
        self._is_importing = False
        self._notice_libraries()

    def keep(self) -> None:
        """Everything is right as it is now: code has been loaded."""
        self._notice_libraries()
        for each in self._settings:
            each.keep()

    def put_back(self) -> None:
        """A call is over: everything as before."""
        for each in self._settings:
            if not each.is_intact():
                each.put_back()
                each.keep()

    def watch_imports(self, on_module: Callable[[str], None]) -> None:
        """From now on what an import changes is kept. Once per process. `on_module` is told of each that has been loaded."""
        bootstrap: Any = importlib._bootstrap
        find_and_load = bootstrap._find_and_load  # asked only for what is not in sys.modules

        @functools.wraps(find_and_load)
        def told(name: str, *args: Any) -> Any:
            module = find_and_load(name, *args)
            on_module(name)
            return module

        @functools.wraps(find_and_load)
        def watched(*args: Any) -> Any:
            if self._is_importing:
                return told(*args)
            self._is_importing = True
            intact = [each for each in self._settings if each.is_intact()]
            try:
                return told(*args)
            finally:
                self._notice_libraries()
                for each in intact:
                    each.keep()
                self._is_importing = False

        bootstrap._find_and_load = watched

    def _notice_libraries(self) -> None:
        for name in self._awaited.keys() & sys.modules.keys():
            self._settings += self._awaited.pop(name)(sys.modules[name])


class _Setting:
    """One that is read and written through functions; `copy`: what to keep of what is changed in place."""

    __slots__ = ("_copy", "_read", "_saved", "_write")

    def __init__(
        self, read: Callable[[], Any], write: Callable[[Any], Any], copy: Callable[[Any], Any] = lambda value: value
    ) -> None:
        self._read = read
        self._write = write
        self._copy = copy
        self.keep()

    def is_intact(self) -> bool:
        return bool(self._read() == self._saved)

    def keep(self) -> None:
        self._saved = self._copy(self._read())

    def put_back(self) -> None:
        self._write(self._saved)


class OfPackage:
    """All that a library keeps in its modules, one level deep: for what it sets by functions of its own.

    What comes new to a module stays: that is how submodules appear that are imported late.
    """

    def __init__(self, package: str) -> None:
        found = {id(place): place for place in _places_of(package)}
        self._places = list(found.values())
        self.keep()

    def is_intact(self) -> bool:
        return all(map(_is_kept, self._places, self._saved))

    def keep(self) -> None:
        self._saved = [[*place.items()] if isinstance(place, dict) else [*place] for place in self._places]

    def put_back(self) -> None:
        for place, saved in zip(self._places, self._saved, strict=True):
            if not _is_kept(place, saved):
                if "__name__" not in place:
                    place.clear()
                place.extend(saved) if isinstance(place, list) else place.update(saved)


def _places_of(package: str) -> Iterator[Any]:
    for name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and name.partition(".")[0] == package:
            yield vars(module)
            for value in vars(module).values():
                if type(value) in (dict, list, set):
                    yield value
                elif type(value).__module__.partition(".")[0] == package and isinstance(_attributes_of(value), dict):
                    yield _attributes_of(value)


def _attributes_of(value: Any) -> Any:
    """The attributes of an instance; None for what has none of its own, and for modules, classes and functions."""
    return None if isinstance(value, ModuleType | type | FunctionType) else getattr(value, "__dict__", None)


def _is_kept(place: Any, saved: list[Any]) -> bool:
    if isinstance(place, dict):
        return len(place) == len(saved) and all(place.get(key, _is_kept) is value for key, value in saved)
    return len(place) == len(saved) and all(
        map(place.__contains__, saved) if isinstance(place, set) else map(is_, place, saved)
    )


class _Logging:
    """Levels, handlers and filters of all loggers."""

    def __init__(self) -> None:
        self._manager = logging.Logger.manager
        self.keep()

    def is_intact(self) -> bool:
        return (
            self._manager.disable == self._disabled
            and list(map(_LOGGER, self._loggers)) == self._states
            and list(map(_HANDLER, self._handlers)) == self._handler_states
            and list(self._manager.loggerDict.values()) == self._known
        )

    def keep(self) -> None:
        self._disabled = self._manager.disable
        self._known = list(self._manager.loggerDict.values())
        self._loggers = [self._manager.root, *(each for each in self._known if isinstance(each, logging.Logger))]
        self._states = [_copied(_LOGGER(each)) for each in self._loggers]
        self._handlers = [handler for each in self._loggers for handler in each.handlers]
        self._handler_states = [_copied(_HANDLER(each)) for each in self._handlers]

    def put_back(self) -> None:
        states = dict(zip(self._loggers, self._states, strict=True))
        for logger in [self._manager.root, *self._manager.loggerDict.values()]:
            if isinstance(logger, logging.Logger):
                level, logger.propagate, logger.disabled, handlers, filters = states.get(logger, _NEW_LOGGER)
                logger.handlers[:], logger.filters[:] = handlers, filters
                logger.setLevel(level)
        for handler, (level, formatter, filters) in zip(self._handlers, self._handler_states, strict=True):
            handler.level, handler.formatter, handler.filters[:] = level, formatter, filters
        logging.disable(self._disabled)


_NEW_LOGGER: tuple[Any, ...] = (logging.NOTSET, True, False, [], [])


def _copied(state: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple([*each] if isinstance(each, list) else each for each in state)


# ── which ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _of_interpreter() -> Iterator[Setting]:
    yield _Setting(sys.getrecursionlimit, sys.setrecursionlimit)
    yield _Setting(sys.get_int_max_str_digits, sys.set_int_max_str_digits)
    yield _Setting(sys.getswitchinterval, sys.setswitchinterval)
    yield _Setting(gc.isenabled, lambda enabled: gc.enable() if enabled else gc.disable())
    yield _Setting(gc.get_threshold, lambda counts: gc.set_threshold(*counts))
    yield _list(gc, "callbacks")
    of_locale = functools.partial(locale.setlocale, locale.LC_ALL)
    yield _Setting(of_locale, of_locale)
    yield _attributes(sys, "stdin", "stdout", "stderr", "excepthook", "displayhook")
    yield _attributes(warnings, "showwarning", "formatwarning")
    for name in ("path", "meta_path", "path_hooks"):
        yield _list(sys, name)
    yield _list(warnings, "filters", warnings.resetwarnings)  # which has the interpreter forget what it looked up


def _attributes(owner: Any, *names: str) -> Setting:
    def write(values: tuple[Any, ...]) -> None:
        for name, value in zip(names, values, strict=True):
            setattr(owner, name, value)

    return _Setting(functools.partial(attrgetter(*names), owner), write)


def _list(owner: Any, name: str, before: Callable[[], None] = lambda: None) -> Setting:
    def write(saved: list[Any]) -> None:
        before()
        getattr(owner, name)[:] = saved

    return _Setting(functools.partial(getattr, owner, name), write, list)


def _of_pandas(config: Any) -> Iterator[Setting]:
    """The options, a tree of dicts; some are told by a callback that they have been changed."""

    def write(saved: dict[str, Any], path: str = "") -> None:
        for name, value in saved.items():
            if isinstance(value, dict):
                write(value, f"{path}{name}.")
            else:
                holder, key = config._get_root(path + name)
                if holder[key] != value:
                    config.set_option(path + name, value)

    yield _Setting(lambda: config._global_config, write, _copied_tree)


def _copied_tree(tree: dict[str, Any]) -> dict[str, Any]:
    return {name: _copied_tree(value) if isinstance(value, dict) else value for name, value in tree.items()}


def _of_matplotlib(matplotlib: Any) -> Iterator[Setting]:
    """Looked at as the dict it is, whose keys are fixed: its own methods check, sort, and choose a backend."""
    params = matplotlib.rcParams
    names = list(dict.keys(params))
    yield _Setting(lambda: [*dict.values(params)], lambda saved: dict.update(params, zip(names, saved, strict=True)))


def _of_pyplot(helpers: Any) -> Iterator[Setting]:
    """Figures left open, on which the next call would go on drawing."""
    yield _Setting(lambda: len(helpers.Gcf.figs), lambda _count: helpers.Gcf.destroy_all())


LOOKED_AFTER = frozenset(
    {"pandas", "matplotlib", "numpy", "logging", "warnings", "locale", "decimal", "sys", "gc", "random", "cellstore"}
    | {"polars", "pyarrow"}
)
"""Whose settings are known, last as long as a call anyhow, or are where nobody can look."""

_OF_LIBRARIES: dict[str, Callable[[Any], Iterator[Setting]]] = {
    "pandas._config.config": _of_pandas,
    "matplotlib": _of_matplotlib,
    "matplotlib._pylab_helpers": _of_pyplot,
}
