"""What a class or a module has that executing its text again would not give it.

    class Config:                       Config.debug = True       an attribute that was set later: carried
        debug = False                   def of(self): …           a method, a constant as it is written: the text gives it
        started = time.time()                                     what an expression gave, is carried as it is

Not looked at: what the interpreter and libraries keep on a class for themselves, which their decorators and metaclasses
make again.
"""

from __future__ import annotations

import ast
import enum
from collections.abc import Iterator
from types import FunctionType, GetSetDescriptorType, MemberDescriptorType, ModuleType
from typing import Any

from cellstore.deploy.captures import functions_in, is_machinery, module_members
from cellstore.deploy.origins import is_installed_file, is_named
from cellstore.deploy.source.text import bindings, first_line, is_generated, is_literal, is_written, mangled, parsed

_OF_LIBRARIES = (
    "__pydantic",
    "model_",
    "_abc",
    "__abstract",
    "_is_protocol",
    "_is_runtime_protocol",
    "__protocol",
    "__attrs",
)
_DESCRIPTORS = (MemberDescriptorType, GetSetDescriptorType)
_MAKERS = ("__dataclass_fields__", "__pydantic_fields__", "__attrs_attrs__", "__slots__", "_fields", "__total__")


def class_changes(cls: type, node: ast.ClassDef, file: str) -> Iterator[tuple[str, Any, bool]]:
    """(attribute, value, whether the body defines that name) of what is not as the body has it."""
    body = {mangled(name, cls): each for name, each in bindings(node).items()}
    members = getattr(cls, "__members__", {}) if isinstance(cls, enum.EnumMeta) else {}
    for name, value in list(vars(cls).items()):
        if is_machinery(name) or name.startswith(_OF_LIBRARIES) or isinstance(value, _DESCRIPTORS):
            continue
        if name in members or (isinstance(cls, enum.EnumMeta) and name.startswith("_")):
            continue
        is_special = name.startswith("__") and name.endswith("__")
        if not _is_given(body.get(name), value, file, is_special=is_special):
            yield name, value, name in body


def removed(cls: type, node: ast.ClassDef) -> Iterator[str]:
    """Names that the body defines and a plain class has no more."""
    if isinstance(cls, enum.EnumMeta) or any(hasattr(cls, maker) for maker in _MAKERS):
        return
    if not any(isinstance(each, ast.Delete) for each in node.body) and type(cls) is type:
        yield from (name for name in bindings(node) if mangled(name, cls) not in vars(cls))


def module_changes(module: ModuleType, text: str) -> Iterator[tuple[str, Any]]:
    """(name, value) of a module next to the notebook, as in a class."""
    tree = parsed(text)
    body = bindings(tree) if tree is not None else {}
    for name, value in module_members(module):
        if not isinstance(value, ModuleType) and not _is_given(body.get(name), value, str(module.__file__)):
            yield name, value


def _is_given(binding: ast.stmt | None, value: Any, file: str, *, is_special: bool = False) -> bool:
    """Whether executing `binding` gives `value`; what nobody wrote counts as given."""
    functions = [each for each in functions_in(value) if isinstance(each, FunctionType)]
    if functions:
        return all(_is_functions(binding, each, file, is_special=is_special) for each in functions)
    if isinstance(value, type):
        return (
            is_named(value) or (isinstance(binding, ast.ClassDef) and binding.name == value.__name__) or binding is None
        )
    if is_special or isinstance(binding, ast.FunctionDef | ast.AsyncFunctionDef):
        return not is_literal(value) or is_special  # a decorator's, which runs again
    if binding is not None and is_named(type(value)) and hasattr(type(value), "__get__"):
        return True  # a library's descriptor, which differs from one Python to the next: `functools.partialmethod`
    if isinstance(binding, ast.Assign | ast.AnnAssign):
        return _is_single(binding) and is_written(binding.value, value)
    return False


def _is_single(binding: ast.Assign | ast.AnnAssign) -> bool:
    targets = binding.targets if isinstance(binding, ast.Assign) else [binding.target]
    return all(isinstance(each, ast.Name) for each in targets)


def _is_functions(binding: ast.stmt | None, function: FunctionType, file: str, *, is_special: bool) -> bool:
    if is_generated(function) or (is_special and is_installed_file(function.__code__.co_filename)):
        return True
    if binding is None:
        return False
    if getattr(binding, "decorator_list", ()) and isinstance(binding, ast.FunctionDef | ast.AsyncFunctionDef):
        return True  # whatever the decorator made of it, it makes again
    code = function.__code__
    return code.co_filename == file and first_line(binding) <= code.co_firstlineno <= (binding.end_lineno or 0)
