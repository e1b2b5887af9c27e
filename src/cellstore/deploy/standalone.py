"""The names that a unit's source expects in its namespace: what no statement can spell.

__cellstore_function__(path, kind, positional)   a reference to another function of the store
__cellstore_table__(name, text)                  a table's class, from its definition
__cellstore_module__(name, file)                 a module next to the notebook, from the text that was shipped
__cellstore_instance__(class, state)             an instance of the user's class, with its attributes
__cellstore_value__(text)                        a value of library classes, pickled: data only, no code of the user's
"""

from __future__ import annotations

import base64
import pickle
import sys
import types
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
        "__cellstore_instance__": instance,
        "__cellstore_value__": value,
        "__cellstore_functions__": {},
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


def instance(cls: type, state: dict[str, Any]) -> Any:
    """An instance as it was, without its `__init__`."""
    made: Any = object.__new__(cls)
    made.__dict__.update(state)
    return made


def value(text: str) -> Any:
    """What was pickled."""
    return pickle.loads(base64.b64decode(text))


def table_class(name: str, definition: dict[str, Any]) -> type:
    """A table's class where functions run: its definition, registered nowhere."""
    return types.new_class(name, (Table,), {"definition": TableDefinition.from_json(definition)})
