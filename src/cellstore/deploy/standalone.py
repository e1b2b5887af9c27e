"""The names that a unit's source expects in its namespace: what no statement can spell.

__cellstore_function__(path, kind, positional)   a reference to another function of the store
__cellstore_table__(name, text)                  a table's class, from its definition
__cellstore_module__(name, file)                 a module next to the notebook, from the text that was shipped
__cellstore_import__(module, name)               what a library has under a name, or the library
__cellstore_closed__(make, cells, module)        the function that `make` makes, with these variables closed over
__cellstore_cell__(value)                        such a variable
__cellstore_new__(class, …)                      an instance without its `__init__`
__cellstore_set__(object, state)                 … and its state, as pickle knows it
__cellstore_items__(object, dict)                … and its items
__cellstore_attribute__(class, name, value)      an attribute of a class, past its metaclass
__cellstore_value__(text)                        a value of library classes, pickled: data only, no code of the user's
"""

from __future__ import annotations

import base64
import importlib
import pickle
import sys
import types
from collections.abc import Callable, Mapping
from functools import reduce
from typing import TYPE_CHECKING, Any

from cellstore.functions import FunctionReference, reference
from cellstore.schema.definition import Table, TableDefinition
from cellstore.values.json import loads

if TYPE_CHECKING:
    from cellstore.deploy.unit import Unit


def namespace_for(unit: Unit) -> dict[str, Any]:
    """An empty namespace with the helpers in it."""
    modules: dict[str, types.ModuleType] = {}

    def module(name: str, file: str) -> types.ModuleType:
        if name not in modules:
            modules[name] = _module(name, file, unit.sources[file])
        return modules[name]

    return {
        "__name__": unit.module,
        "__cellstore_function__": function,
        "__cellstore_table__": table,
        "__cellstore_module__": module,
        "__cellstore_import__": imported,
        "__cellstore_closed__": closed,
        "__cellstore_cell__": types.CellType,
        "__cellstore_new__": new,
        "__cellstore_set__": set_state,
        "__cellstore_items__": set_items,
        "__cellstore_attribute__": type.__setattr__,
        "__cellstore_value__": value,
        "__cellstore_functions__": {},
        "__cellstore_hints__": {},
    }


def _module(name: str, file: str, text: str) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__file__ = file
    before = sys.modules.get(name)
    sys.modules[name] = module  # dataclasses look their module up while it is made
    try:
        exec(compile(text, file, "exec", dont_inherit=True), module.__dict__)
    finally:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
    return module


def function(path: str, kind: Any, positional: tuple[str, ...]) -> FunctionReference:
    """A reference to the function at `path`."""
    return reference(path, kind, positional)


def table(name: str, text: str) -> type:
    """A table's class."""
    return table_class(name, loads(text.encode()))


def imported(module: str, name: str = "") -> Any:
    """What the module has under a dotted name; the module itself."""
    return reduce(getattr, name.split(".") if name else (), importlib.import_module(module))


def closed(
    make: Callable[[], types.FunctionType],
    cells: Mapping[str, types.CellType],
    module: types.ModuleType | None = None,
) -> types.FunctionType:
    """The function that `make` makes, with its own variables, and the names of a module where it is of one."""
    made = make()
    scope = made.__globals__ if module is None else vars(module)
    own = tuple(cells[name] for name in made.__code__.co_freevars)
    function = types.FunctionType(made.__code__, scope, made.__name__, made.__defaults__, own)
    function.__kwdefaults__, function.__doc__ = made.__kwdefaults__, made.__doc__
    function.__annotations__ = made.__annotations__
    return function


def new(cls: type, *args: Any, **kwargs: Any) -> Any:
    """An instance as `__new__` makes it, without `__init__`."""
    make: Callable[..., Any] = cls.__new__
    return make(cls, *args, **kwargs)


def set_state(made: Any, state: Any) -> None:
    """What pickle does with a state."""
    if hasattr(made, "__setstate__"):
        made.__setstate__(state)
        return
    attributes, slots = state if isinstance(state, tuple) else (state, None)
    if attributes:
        made.__dict__.update(attributes)
    for name, each in (slots or {}).items():
        object.__setattr__(made, name, each)


def set_items(made: Any, items: Mapping[Any, Any]) -> None:
    """What pickle does with the items of a mapping."""
    for key, each in items.items():
        made[key] = each


def value(text: str) -> Any:
    """What was pickled."""
    return pickle.loads(base64.b64decode(text))


def table_class(name: str, definition: dict[str, Any]) -> type:
    """A table's class where functions run: its definition, registered nowhere."""
    return types.new_class(name, (Table,), {"definition": TableDefinition.from_json(definition)})
