"""A module's functions as text that stands alone: executed in an empty namespace, it defines them.

    import numpy as np                              what is installed is imported
    from collections import Counter
    LIMIT = 100                                     plain values are written out
    def helper(x): ...                              the user's functions and classes, as they stand in their cells
    def open_tasks(ctx, limit=LIMIT): ...           without our decorators
    __cellstore_functions__['open_tasks'] = open_tasks
    open_tasks = __cellstore_function__(…)          if a function calls it: through the store, as it did there

Names are those of the notebook. A statement that runs code (a class body, a default, a decorator) comes after what it
reads; the bodies of functions look names up later, so functions may call each other.

The other form, the pickle, is exact; this one is for other Python versions and for people. What has no text (a lambda in
a list, an instance of the user's class) is listed in `missing`.
"""

from __future__ import annotations

import ast
import base64
import functools
import io
import linecache
import math
import pickle
import re
import symtable
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import CodeType, FunctionType, ModuleType
from typing import Any, TypeVar

from cellstore import functions as decorators
from cellstore.deploy.captures import CACHED, closure_reads, innermost, is_reference, is_table
from cellstore.deploy.origins import is_installed_module, is_named, singleton_name
from cellstore.values.json import dumps

_DECORATORS = (
    decorators.query,
    decorators.mutation,
    decorators.action,
    decorators.http,
    decorators.cron,
    decorators.every,
)
_FUTURE_ANNOTATIONS = 0x1000000
_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_CELL_FILE = re.compile(r"ipykernel_\d+|^<ipython-input|^<stdin|^Cell")

_Def = ast.FunctionDef | ast.AsyncFunctionDef
_Node = _Def | ast.ClassDef | ast.Lambda


class NoSource(Exception):
    """Something has no text; the message says what."""


@dataclass(slots=True)
class Source:
    """The text, and what it lacks."""

    text: str = ""
    missing: list[str] = field(default_factory=list)


def source_of(functions: dict[str, Any], files: dict[str, str]) -> Source:
    """The text that defines these (name: function). `files` holds the texts of modules next to the notebook."""
    writer = _Writer(files)
    for name, function in functions.items():
        writer.deploy(name, function)
    return writer.finish()


class _Writer:
    """Writes statements in an order in which they run."""

    def __init__(self, files: dict[str, str]) -> None:
        self._files = files
        self._lines: list[str] = []
        self._references: dict[str, str] = {}  # names of functions of the store, with their expression
        self._values: dict[str, Any] = {}  # names that are defined, or about to be
        self._written: dict[int, tuple[str, Any]] = {}  # functions and classes with their expression
        self._later: list[tuple[str, Any, str]] = []  # names that bodies read: (name, value, whose)
        self._missing: list[str] = []
        self._future = False

    def deploy(self, name: str, function: Any) -> None:
        try:
            expression = self._expression(name, function)
            self._lines.append(f"__cellstore_functions__[{name!r}] = {expression}")
        except NoSource as reason:
            self._missing.append(f"{name}: {reason}")
        self._catch_up()

    def _catch_up(self) -> None:
        """Define what bodies written so far read."""
        while self._later:
            wanted, value, owner = self._later.pop(0)
            try:
                self._define(wanted, value)
            except NoSource as reason:
                self._missing.append(f"{owner} uses `{wanted}`: {reason}")

    def finish(self) -> Source:
        head = ["from __future__ import annotations"] if self._future else []
        calls = [f"{name} = {expression}" for name, expression in self._references.items()]  # not the plain functions
        text = "\n".join([*head, *self._lines, *calls]) + "\n"
        if not self._missing:
            try:
                compile(text, "<source>", "exec", dont_inherit=True)
            except (SyntaxError, ValueError) as error:
                self._missing.append(f"the source does not compile: {error}")
        return Source(text, list(dict.fromkeys(self._missing)))

    # names

    def _define(self, name: str, value: Any) -> None:
        """Have `name` mean `value` in the text."""
        if is_reference(value) and not isinstance(value, type):
            self._references[name] = _reference(value)
            if name in self._values:
                return
        if name in self._values:
            if self._values[name] is not value:
                raise NoSource(f"two different things have the name {name}")
            return
        self._values[name] = value
        statement = self._import(name, value)
        if statement is None:
            expression = self._expression(name, value)
            statement = None if expression == name else f"{name} = {expression}"
        if statement is not None:
            self._lines.append(statement)

    def _import(self, name: str, value: Any) -> str | None:
        if isinstance(value, ModuleType):
            if is_installed_module(value.__name__):
                return f"import {value.__name__} as {name}"
            return f"{name} = {self._local_module(value)}"
        if isinstance(value, FunctionType | type) or callable(value):
            if is_reference(value) or not is_named(value):
                return None
            head, _, last = value.__qualname__.rpartition(".")
            if not head:
                return f"from {value.__module__} import {last} as {name}"
            return f"import {value.__module__} as {name}\n{name} = {name}.{value.__qualname__}"
        return None

    def _local_module(self, module: ModuleType) -> str:
        file = getattr(module, "__file__", None)
        if file not in self._files:
            raise NoSource(f"the module {module.__name__} has no file")
        return f"__cellstore_module__({module.__name__!r}, {file!r})"

    # values

    def _expression(self, name: str, value: Any) -> str:
        """An expression for `value`; functions and classes are defined first, under `name` if they may be."""
        known = self._written.get(id(value))
        if known is not None:
            return known[0]
        if is_reference(value):
            return _reference(value)
        if isinstance(value, CACHED):
            inner = self._expression(f"{name}_uncached", value.__wrapped__)
            return f"__import__('functools').lru_cache(**{value.cache_parameters()!r})({inner})"
        if isinstance(value, FunctionType | type):
            home = sys.modules.get(value.__module__ or "")
            if home is not None and getattr(home, "__file__", None) in self._files and value.__module__ != "__main__":
                return f"{self._local_module(home)}.{value.__qualname__}"
            return self._write_function(name, value) if isinstance(value, FunctionType) else self._write_class(value)
        if type(value) in (list, tuple, dict) and not _is_literal(value):
            return self._container(name, value)
        if isinstance(value, TypeVar):
            return f"__import__('typing').TypeVar({value.__name__!r})"
        if _is_plain_instance(value):
            return self._instance(name, value)
        return _literal(value)

    def _container(self, name: str, value: Any) -> str:
        """A list, tuple or dict of what has no literal form by itself: functions, say."""
        if isinstance(value, dict):
            items = [(self._part(name, key), self._part(name, each)) for key, each in value.items()]
            return f"{{{', '.join(f'{key}: {each}' for key, each in items)}}}"
        parts = [self._part(name, each) for each in value]
        return f"[{', '.join(parts)}]" if isinstance(value, list) else f"({''.join(f'{part}, ' for part in parts)})"

    def _part(self, name: str, value: Any) -> str:
        """An expression for a part of something named; what has a name of its own is defined under that."""
        if isinstance(value, FunctionType | type | ModuleType) or (callable(value) and is_named(value)):
            own = getattr(value, "__name__", name).rpartition(".")[2]
            own = own if own.isidentifier() else f"{name}_{len(self._values)}_"
            self._define(own, value)
            return own
        return self._expression(f"{name}_{len(self._values)}_", value)

    def _instance(self, name: str, value: Any) -> str:
        """An instance of the user's class: its class, and its attributes."""
        made = self._expression(type(value).__name__, type(value))
        self._catch_up()
        return f"__cellstore_instance__({made}, {self._container(name, dict(vars(value)))})"

    def _write_function(self, name: str, function: FunctionType) -> str:
        inner = innermost(function)
        node, text = _node_of(inner.__code__)
        closure = dict(closure_reads(inner))
        if isinstance(node, ast.Lambda):
            statement, made = f"{name} = {_segment(text, node)}", name
        else:
            statement, made = _without_our_decorators(node, text, inner.__globals__), node.name
        if function is not inner and not getattr(node, "decorator_list", []):
            raise NoSource(f"{function.__name__} was wrapped after its definition")
        self._note_future(inner.__code__)
        if closure:
            return self._write_closure(function, inner, made, statement, closure)
        return self._write(function, made, statement, inner.__globals__, node)

    def _write_closure(
        self, function: Any, inner: FunctionType, made: str, statement: str, closure: dict[str, Any]
    ) -> str:
        """A factory that gives the function the variables it closed over."""
        factory = f"__cellstore_make_{len(self._written)}__"
        self._written[id(function)] = (f"{factory}()", function)
        lines = []
        for name, value in closure.items():
            if value is not function and value is not inner:
                lines.append(f"{name} = {self._captured(name, value)}")
        body = textwrap.indent("\n".join([*lines, statement, f"return {made}"]), "    ")
        self._need(statement, inner.__globals__, inner.__name__, set(closure))
        self._lines.append(f"def {factory}():\n{body}\n{made}_{len(self._written)}_ = {factory}()")
        expression = f"{made}_{len(self._written)}_"
        self._written[id(function)] = (expression, function)
        return expression

    def _captured(self, name: str, value: Any) -> str:
        if isinstance(value, ModuleType) or (callable(value) and is_named(value)):
            alias = f"{name}_{len(self._values)}_"
            self._define(alias, value)
            return alias
        return self._expression(f"{name}_{len(self._written)}_", value)

    def _write_class(self, cls: type) -> str:
        node, text, scope = _class_node(cls)
        if scope is None:
            raise NoSource(f"the class {cls.__qualname__} is not defined at the top of a cell or file")
        return self._write(cls, node.name, _segment(text, node, decorators=True), scope, node)

    def _write(self, value: Any, name: str, statement: str, scope: dict[str, Any], node: _Node) -> str:
        taken = name in self._values and self._values[name] is not value and name not in self._references
        if taken and not _stands_for(self._values[name], value):
            raise NoSource(f"two different things have the name {name}")
        self._values.setdefault(name, value)
        self._written[id(value)] = (name, value)
        self._need(statement, scope, name, {name}, node)
        self._lines.append(statement)
        return name

    def _need(
        self, statement: str, scope: dict[str, Any], owner: str, but: set[str], node: _Node | None = None
    ) -> None:
        """Define what the statement reads: at once what it reads while it runs, later what bodies read."""
        at_once = _names_at_once(node) if node is not None else set()
        for name in sorted(but):
            if is_reference(scope.get(name)) and not isinstance(
                scope[name], type
            ):  # it calls itself, through the store
                self._references[name] = _reference(scope[name])
        names = [name for name in sorted(_global_names(statement) | at_once) if name in scope and name not in but]
        now = [name for name in names if name in at_once or isinstance(node, ast.ClassDef)]
        for name in now:
            self._define(name, scope[name])
        if now:
            self._catch_up()  # a decorator, a default or a base may call what was written
        self._later += [(name, scope[name], owner) for name in names if name not in now]

    def _note_future(self, code: CodeType) -> None:
        self._future = self._future or bool(code.co_flags & _FUTURE_ANNOTATIONS)


def _stands_for(named: Any, value: Any) -> bool:
    """Whether a name means the value already: a handle its function, a wrapper what it wraps."""
    return getattr(named, "fn", None) is value or getattr(named, "__wrapped__", None) is value


# ── finding text ───────────────────────────────────────────────────────────────────────────────────────────────────


@functools.lru_cache(maxsize=256)
def _parsed(text: str) -> ast.Module | None:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError):
        return None


def text_of(file: str) -> str:
    """The text of a file or cell; empty when nobody has it."""
    return "".join(linecache.getlines(file))


def _node_of(code: CodeType) -> tuple[_Def | ast.Lambda, str]:
    text = text_of(code.co_filename)
    tree = _parsed(text) if text else None
    if tree is None:
        raise NoSource(f"the text of {code.co_name} is not available")
    found = [node for node in ast.walk(tree) if _is_node_of(node, code)]
    if len(found) != 1:
        raise NoSource(f"{code.co_name} cannot be told apart from others on its line")
    return found[0], text  # type: ignore[return-value]


def _is_node_of(node: ast.AST, code: CodeType) -> bool:
    if isinstance(node, ast.Lambda):
        return code.co_name == "<lambda>" and node.lineno == code.co_firstlineno
    if not isinstance(node, _Def) or node.name != code.co_name:
        return False
    first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
    return first == code.co_firstlineno


def _class_node(cls: type) -> tuple[ast.ClassDef, str, dict[str, Any] | None]:
    """(the class statement, its file's text, the globals it was executed in)."""
    if "<locals>" in cls.__qualname__ or "." in cls.__qualname__:
        raise NoSource(f"the class {cls.__qualname__} is not defined at the top of a cell or file")
    methods = [each for each in vars(cls).values() if isinstance(each, FunctionType)]
    methods = [
        each for each in methods if each.__module__ == cls.__module__ and not each.__code__.co_filename.startswith("<")
    ]
    for file in dict.fromkeys([*(each.__code__.co_filename for each in methods), *_files_of(cls)]):
        text = text_of(file)
        tree = _parsed(text) if text else None
        body = tree.body if tree is not None else []
        nodes = [node for node in body if isinstance(node, ast.ClassDef) and node.name == cls.__name__]
        if nodes:
            module = sys.modules.get(cls.__module__)
            scope = methods[0].__globals__ if methods else vars(module) if module is not None else None
            return nodes[-1], text, scope
    raise NoSource(f"the text of the class {cls.__qualname__} is not available")


def _files_of(cls: type) -> Iterator[str]:
    """Where a class without methods may stand: its module's file, or a cell, the latest first."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    if file is not None:
        yield file
    yield from (name for name in reversed(list(linecache.cache)) if _CELL_FILE.search(name))


def _segment(text: str, node: ast.AST, *, decorators: bool = False) -> str:
    lines = text.splitlines(keepends=True)
    first = node.lineno  # type: ignore[attr-defined]
    if decorators and getattr(node, "decorator_list", []):
        first = node.decorator_list[0].lineno  # type: ignore[attr-defined]
    if isinstance(node, ast.Lambda):
        return ast.get_source_segment(text, node) or ""
    taken = "".join(lines[first - 1 : node.end_lineno])  # type: ignore[attr-defined]
    return textwrap.dedent(taken).rstrip("\n")


def _without_our_decorators(node: _Def, text: str, scope: dict[str, Any]) -> str:
    """The function's text from below our decorator on."""
    ours = [at for at, each in enumerate(node.decorator_list) if _is_ours(each, scope)]
    kept = node.decorator_list[ours[-1] + 1 :] if ours else node.decorator_list
    lines = text.splitlines(keepends=True)
    first = kept[0].lineno if kept else node.lineno
    return textwrap.dedent("".join(lines[first - 1 : node.end_lineno])).rstrip("\n")


def _is_ours(node: ast.expr, scope: dict[str, Any]) -> bool:
    if isinstance(node, ast.Call):
        return _is_ours(node.func, scope)
    if isinstance(node, ast.Name):
        return scope.get(node.id) in _DECORATORS
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        owner = scope.get(node.value.id)
        return isinstance(owner, ModuleType) and getattr(owner, node.attr, None) in _DECORATORS
    return False


# ── names ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _global_names(statement: str) -> set[str]:
    """The names a statement reads, now or in its bodies, that are not its own."""
    try:
        table = symtable.symtable(statement, "<source>", "exec")
    except SyntaxError:
        raise NoSource("its text does not stand alone") from None
    return {symbol for each in _tables(table) for symbol in _reads(each)}


def _tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _tables(child)


def _reads(table: symtable.SymbolTable) -> Iterator[str]:
    for symbol in table.get_symbols():
        if symbol.is_referenced() and (symbol.is_global() or table.get_type() in ("module", "class")):
            yield symbol.get_name()


def _names_at_once(node: _Node) -> set[str]:
    """The names read while the statement itself runs: decorators, defaults, annotations, bases."""
    parts: list[ast.AST | None] = [*getattr(node, "decorator_list", [])]
    if isinstance(node, ast.ClassDef):
        parts += [*node.bases, *(each.value for each in node.keywords)]
    else:
        arguments = node.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        parts += [*arguments.defaults, *arguments.kw_defaults, *(each.annotation for each in every if each is not None)]
        parts.append(getattr(node, "returns", None))
    walked = (each for part in parts if part is not None for each in ast.walk(part))
    return {each.id for each in walked if isinstance(each, ast.Name)}


# ── values ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _reference(value: Any) -> str:
    if isinstance(value, type) and is_table(value):
        definition = getattr(value, "__cellstore__", None)
        if definition is None:
            return "__import__('cellstore').Table"
        return f"__cellstore_table__({value.__name__!r}, {dumps(definition.to_json()).decode()!r})"
    return f"__cellstore_function__({value.path!r}, {value.kind!r}, {value._positional!r})"


def _literal(value: Any) -> str:
    name = singleton_name(value)
    if name is not None:
        return f"__import__('importlib').import_module({name[0]!r}).{name[1]}"
    owner = getattr(value, "__self__", None)
    if singleton_name(owner) is not None:
        return f"{_literal(owner)}.{value.__name__}"
    if _is_literal(value):
        return _written(value)
    return f"__cellstore_value__({_pickled(value)!r})"


def _is_plain_instance(value: Any) -> bool:
    """Whether a value of the user's class is what its attributes say, and nothing else."""
    kind: Any = type(value)
    special = ("__getnewargs__", "__getnewargs_ex__", "__setstate__", "__slots__")
    if is_named(kind) or not hasattr(value, "__dict__") or any(hasattr(kind, name) for name in special):
        return False
    return bool(kind.__reduce_ex__ == object.__reduce_ex__ and kind.__reduce__ == object.__reduce__)


def _is_literal(value: Any) -> bool:
    if type(value) in (list, tuple, set, frozenset):
        return all(_is_literal(each) for each in value)
    if type(value) is dict:
        return all(_is_literal(key) and _is_literal(each) for key, each in value.items())
    return type(value) in _PLAIN


def _written(value: Any) -> str:
    if type(value) is float and not math.isfinite(value):
        return f"float({str(value)!r})"
    if type(value) is list:
        return f"[{', '.join(map(_written, value))}]"
    if type(value) is tuple:
        return f"({', '.join(map(_written, value))}{',' if len(value) == 1 else ''})"
    if type(value) in (set, frozenset):
        return f"{type(value).__name__}(({''.join(f'{_written(each)}, ' for each in value)}))"
    if type(value) is dict:
        return f"{{{', '.join(f'{_written(key)}: {_written(each)}' for key, each in value.items())}}}"
    return repr(value)


def _pickled(value: Any) -> str:
    """Base64 of a pickle that names installed classes only. Such a pickle holds no code and is not bound to a version."""
    kind = type(value)
    if not is_named(kind):
        raise NoSource(f"an instance of {kind.__qualname__}, which has no literal form")
    try:
        data = pickle.dumps(value, 4)
    except Exception as error:  # noqa: BLE001 — any class may refuse, in its own way
        raise NoSource(f"{kind.__qualname__} has no literal form ({type(error).__name__}: {error})") from None
    _Named(data).load()
    return base64.b64encode(data).decode()


class _Named(pickle.Unpickler):
    """Opens a pickle of this process again, to see whose classes and functions it names."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))

    def find_class(self, module: str, name: str) -> Any:
        """Errors: NoSource for one of the user's."""
        if not is_installed_module(module):
            raise NoSource(f"it holds a {name} of this notebook, which has no literal form")
        return super().find_class(module, name)
