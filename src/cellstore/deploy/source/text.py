"""Where a function or class stands in its cell or file, and its statement as it may stand elsewhere.

    code object ──▶ its node          by name, line and, where several begin on one line, by columns
    class       ──▶ its node          by its methods; one without methods by what its body defines, the latest cell first
    node        ──▶ statement         at column 0, strings of several lines untouched

A function's statement loses what runs code where it is executed: its decorators, and those defaults and annotations that
are no literals. Their values are known and are set afterwards, so that a loop's variable in a default, or a decorator that
registers, does here what it did there.
"""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import io
import linecache
import re
import symtable
import sys
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from cellstore.deploy.origins import is_installed_file

Def = ast.FunctionDef | ast.AsyncFunctionDef
PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...))

_FUTURE_ANNOTATIONS = 0x1000000
_CELL_FILE = re.compile(r"ipykernel_\d+|^<ipython-input|^<stdin|^<?[Cc]ell")


class NoSource(Exception):
    """Something has no text; the message says what."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A function's text, and which of its parts are to be set once it is executed."""

    node: Def | ast.Lambda
    text: str
    owner: str  # the class whose body it stands in, or nothing
    lacks: frozenset[str]  # of "defaults", "annotations"


_Edit = tuple[ast.expr, str]


def text_of(file: str) -> str:
    """The text of a file or cell; empty when nobody has it."""
    return "".join(linecache.getlines(file))


def keep_up(codes: Iterable[CodeType]) -> None:
    """Read those files again whose text at hand is not what these were compiled from: they were executed anew since."""
    for code in codes:
        file = code.co_filename
        if Path(file).is_file() and code not in _codes_of(text_of(file)):
            linecache.updatecache(file)


@functools.lru_cache(maxsize=256)
def _codes_of(text: str) -> frozenset[CodeType]:
    """All code that a text compiles to, whatever the name of its file."""
    try:
        pending = [compile(text, "", "exec", dont_inherit=True)]
    except (SyntaxError, ValueError):
        return frozenset()
    found: set[CodeType] = set()
    while pending:
        found.add(code := pending.pop())
        pending += [each for each in code.co_consts if isinstance(each, CodeType)]
    return frozenset(found)


def is_generated(function: FunctionType) -> bool:
    """Whether nobody wrote it: what `dataclass` and its like compile."""
    file = function.__code__.co_filename
    return file.startswith("<") and (file.startswith("<attrs") or not text_of(file))


def is_written_by_hand(function: FunctionType) -> bool:
    """Whether the user wrote it."""
    return not (is_generated(function) or is_installed_file(function.__code__.co_filename))


@functools.lru_cache(maxsize=256)
def parsed(text: str) -> ast.Module | None:
    """The tree of a text, its nodes knowing what they are in; None for what is no Python."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return None
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            child.parent = node  # type: ignore[attr-defined]
    return tree


# ── functions ──────────────────────────────────────────────────────────────────────────────────────────────────────


def node_of(code: CodeType) -> tuple[Def | ast.Lambda, str]:
    """(node, the text it stands in). Errors: NoSource."""
    text = text_of(code.co_filename)
    tree = parsed(text) if text else None
    if tree is None:
        raise NoSource(f"the text of {code.co_name} is not available")
    found = [node for node in _functions_by_line(tree).get(code.co_firstlineno, ()) if _name(node) == code.co_name]
    if len(found) > 1:
        found = sorted((node for node in found if _holds(node, code)), key=_length)[:1]
    if not found:
        raise NoSource(f"the text of {code.co_name} has changed since")
    return found[0], text


@functools.lru_cache(maxsize=256)
def _functions_by_line(tree: ast.Module) -> Mapping[int, list[Def | ast.Lambda]]:
    """The functions in a text by the lines they begin on. A large one has many, and each of them is asked for."""
    found: dict[int, list[Def | ast.Lambda]] = {}
    for node in ast.walk(tree):
        if isinstance(node, Def | ast.Lambda):
            found.setdefault(first_line(node), []).append(node)
    return found


def _name(node: Def | ast.Lambda) -> str:
    return "<lambda>" if isinstance(node, ast.Lambda) else node.name


def _holds(node: ast.AST, code: CodeType) -> bool:
    """Whether all instructions of `code` come from within the node."""
    begin, end = _span(node)
    places = [(each[0], each[2], each[1], each[3]) for each in code.co_positions() if None not in each]
    places = [place for place in places if place[:2] != place[2:]]
    if not places and isinstance(node, ast.Lambda):  # Python 3.12 does not say where `lambda: 1` has its 1 from
        return any(is_written(node.body, constant) for constant in code.co_consts)
    return all(begin <= place[:2] and place[2:] <= end for place in places)


def _span(node: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def _length(node: ast.AST) -> tuple[int, int]:
    (line, column), (end_line, end_column) = _span(node)
    return end_line - line, end_column - column


def first_line(node: Any) -> int:
    """Where it begins, decorators included."""
    return int(min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", ()))]))


def function_statement(function: FunctionType) -> Statement:
    """Errors: NoSource."""
    node, text = node_of(function.__code__)
    edits, lacks = _signature_edits(node, function)
    owner = getattr(node, "parent", None)
    if isinstance(node, ast.Lambda):
        return Statement(node, _expression_text(text, node, edits), "", lacks)
    if is_flagged(function.__code__):
        edits += [edit for edit in annotations_quoted(node) if edit[0] not in {known for known, _ in edits}]
    statement = moved(_edited(text, node.lineno, node.end_lineno, edits), node.col_offset, 0)
    return Statement(node, statement, owner.name if isinstance(owner, ast.ClassDef) else "", lacks)


def is_flagged(code: CodeType) -> bool:
    """Whether its annotations are strings that nobody evaluates."""
    return bool(code.co_flags & _FUTURE_ANNOTATIONS)


def _signature_edits(node: Def | ast.Lambda, function: FunctionType) -> tuple[list[_Edit], frozenset[str]]:
    """What to write in the place of defaults and annotations that would run code, and which of the two it is."""
    edits: list[_Edit] = []
    lacks: set[str] = set()
    for default, value in _defaults(node, function):
        if value is _UNKNOWN or not is_written(default, value):
            edits.append((default, "..."))
            lacks.add("defaults")
    if len(node.args.defaults) != len(function.__defaults__ or ()):
        lacks.add("defaults")
    for name, hint in _annotations(node):
        actual = function.__annotations__.get(name)
        if isinstance(hint, ast.Constant) or _of_builtins(hint, actual, function.__globals__):
            continue
        quoted = repr(ast.unparse(hint))
        edits.append((hint, quoted))
        if actual != ast.literal_eval(quoted):
            lacks.add("annotations")
    return edits, frozenset(lacks)


_UNKNOWN = object()


def _defaults(node: Def | ast.Lambda, function: FunctionType) -> Iterator[tuple[ast.expr, Any]]:
    values = function.__defaults__ or ()
    same = len(values) == len(node.args.defaults)
    for at, default in enumerate(node.args.defaults):
        yield default, values[at] if same else _UNKNOWN
    for parameter, by_name in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        if by_name is not None:
            yield by_name, (function.__kwdefaults__ or {}).get(parameter.arg, _UNKNOWN)


def _annotations(node: Def | ast.Lambda) -> Iterator[tuple[str, ast.expr]]:
    args = node.args
    every = [*args.posonlyargs, *args.args, args.vararg, *args.kwonlyargs, args.kwarg]
    for each in every:
        if each is not None and each.annotation is not None:
            yield each.arg, each.annotation
    if isinstance(node, Def) and node.returns is not None:
        yield "return", node.returns


def is_written(node: ast.expr | None, value: Any) -> bool:
    """Whether an expression is a literal of just this value."""
    if node is None or not is_literal(value):
        return False
    try:
        return repr(ast.literal_eval(node)) == repr(value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False


def is_literal(value: Any, above: tuple[int, ...] = ()) -> bool:
    """Data all the way down, of kinds that can be written out."""
    if type(value) in PLAIN:
        return True
    if id(value) in above or type(value) not in (list, tuple, set, frozenset, dict):
        return False
    inside = (*above, id(value))
    parts = [*value.keys(), *value.values()] if type(value) is dict else value
    return all(is_literal(each, inside) for each in parts)


def _of_builtins(node: ast.expr, value: Any, scope: Mapping[str, Any]) -> bool:
    """Whether an annotation means the same wherever it is evaluated: `int`, `list[str] | None`."""
    names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    if any(name in scope or not hasattr(builtins, name) for name in names):
        return False
    if not all(isinstance(each, _OF_BUILTINS) for each in ast.walk(node)):
        return False
    try:
        return bool(eval(compile(ast.Expression(node), "", "eval", dont_inherit=True), {}) == value)
    except TypeError:
        return False


_OF_BUILTINS = (ast.Name, ast.Constant, ast.Subscript, ast.Tuple, ast.BinOp, ast.BitOr, ast.Load)


def annotations_quoted(node: ast.AST) -> list[_Edit]:
    """As `from __future__ import annotations` reads them."""
    hints = [each.annotation for each in ast.walk(node) if isinstance(each, ast.arg | ast.AnnAssign)]
    hints += [each.returns for each in ast.walk(node) if isinstance(each, Def)]
    return [(hint, repr(ast.unparse(hint))) for hint in hints if hint is not None]


# ── classes ────────────────────────────────────────────────────────────────────────────────────────────────────────


def class_node(cls: type) -> tuple[ast.ClassDef, str, str]:
    """(the class statement, the text it stands in, its file). Errors: NoSource."""
    methods = [each for each in vars(cls).values() if isinstance(each, FunctionType)]
    methods = [each for each in methods if each.__qualname__.rpartition(".")[0] == cls.__qualname__]
    files = [each.__code__.co_filename for each in methods if is_written_by_hand(each)]
    for file in dict.fromkeys([*files, *_files_of(cls)]):
        text = text_of(file)
        tree = parsed(text) if text else None
        nodes = [node for node in (ast.walk(tree) if tree else ()) if isinstance(node, ast.ClassDef)]
        nodes = [node for node in nodes if qualified_name(node) == cls.__qualname__]
        lines = [each.__code__.co_firstlineno for each in methods if each.__code__.co_filename == file]
        for node in reversed(nodes):
            if all(first_line(node) <= line <= (node.end_lineno or 0) for line in lines) and _fits(node, cls):
                return node, text, file
    raise NoSource(f"the text of the class {cls.__qualname__} is not available")


def qualified_name(node: Any) -> str:
    """As `__qualname__` of what the statement defines."""
    parts = [node.name]
    while not isinstance(node := node.parent, ast.Module):
        if isinstance(node, Def):
            parts += ["<locals>", node.name]
        elif isinstance(node, ast.ClassDef):
            parts.append(node.name)
    return ".".join(reversed(parts))


def _files_of(cls: type) -> Iterator[str]:
    """Where a class without methods may stand: its module's file, or a cell or a script that was run, the latest first."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    if file is not None:
        yield file
    is_run = cls.__module__ == "__main__"
    for name in reversed(list(linecache.cache)):
        if _CELL_FILE.search(name) or (is_run and not is_installed_file(name)):
            yield name


def _fits(node: ast.ClassDef, cls: type) -> bool:
    """Whether a class may come from that statement: it has what the body annotates, and some of what it defines."""
    annotated = {each.target.id for each in node.body if _annotates(each)}  # type: ignore[attr-defined]
    defined = {mangled(name, cls) for name in bindings(node).keys() - annotated}
    there = {*vars(cls), *getattr(cls, "__members__", ()), *getattr(cls, "__private_attributes__", ())}
    return {mangled(name, cls) for name in annotated} <= {*inspect.get_annotations(cls)} and (
        not defined or bool(defined & there)
    )


def _annotates(node: ast.stmt) -> bool:
    return isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)


def bindings(node: ast.ClassDef | ast.Module) -> dict[str, ast.stmt]:
    """Name to the statement of the body that defines it last."""
    found: dict[str, ast.stmt] = {}
    for each in node.body:
        if isinstance(each, Def | ast.ClassDef):
            found[each.name] = each
        elif isinstance(each, ast.Assign | ast.AnnAssign) and each.value is not None:
            targets = each.targets if isinstance(each, ast.Assign) else [each.target]
            names = (name for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))
            found.update((name.id, each) for name in names)
    return found


def mangled(name: str, cls: type) -> str:
    """The name of an attribute as it is kept: private ones carry their class's."""
    private = name.startswith("__") and not name.endswith("__")
    return f"_{cls.__name__.lstrip('_')}{name}" if private else name


def class_statement(node: ast.ClassDef, text: str, flagged: bool, without: list[ast.expr]) -> str:
    """The class's text at column 0, annotations quoted where they are only read, without some of its decorators."""
    kept = [each for each in node.decorator_list if each not in without]
    edits = annotations_quoted(node) if flagged else []
    marks = "".join(f"{' ' * node.col_offset}@{_expression_text(text, each, [])}\n" for each in kept)
    return moved(marks + _edited(text, node.lineno, node.end_lineno, edits), node.col_offset, 0)


def class_reads(statement: str) -> tuple[set[str], set[str]]:
    """(names read while a class statement runs, names that its functions read later)."""
    table = symtable.symtable(statement, "<source>", "exec")
    at_once: set[str] = set()
    later: set[str] = set()
    _read(table, at_once, later, is_body=False)
    return at_once, later - at_once


_COMPREHENSIONS = ("listcomp", "setcomp", "dictcomp", "genexpr")


def _read(table: symtable.SymbolTable, at_once: set[str], later: set[str], *, is_body: bool) -> None:
    is_body = is_body or (table.get_type() == "function" and table.get_name() not in _COMPREHENSIONS)
    into = later if is_body else at_once
    is_open = table.get_type() in ("module", "class")
    into.update(
        each.get_name() for each in table.get_symbols() if each.is_referenced() and (is_open or each.is_global())
    )
    for child in table.get_children():
        _read(child, at_once, later, is_body=is_body)


# ── cutting out ────────────────────────────────────────────────────────────────────────────────────────────────────


def _edited(text: str, first: int, last: int | None, edits: list[_Edit]) -> str:
    """Some lines of a text with other words in the place of some expressions."""
    lines = [line.encode() for line in text.split("\n")]
    for node, new in sorted(edits, key=lambda edit: _span(edit[0]), reverse=True):
        (line, column), (end_line, end_column) = _span(node)
        tail = lines[end_line - 1][end_column:]
        lines[line - 1 : end_line] = [lines[line - 1][:column] + new.encode() + tail, *[b""] * (end_line - line)]
    taken = lines[first - 1 : last]
    return b"\n".join(taken).decode().rstrip()


def _expression_text(text: str, node: Any, edits: list[_Edit]) -> str:
    """An expression's own text, its later lines where they were."""
    (line, column), (end_line, end_column) = _span(node)
    lines = text.split("\n")
    cut = lines[:end_line]
    cut[-1] = cut[-1].encode()[:end_column].decode()
    cut[line - 1] = " " * column + cut[line - 1].encode()[column:].decode()
    return _edited("\n".join(cut), line, end_line, edits).strip()


def moved(text: str, before: int, after: int) -> str:
    """A statement from one column to another. What stands inside strings stays as it is."""
    inside = _string_lines(text)
    out = []
    for number, line in enumerate(text.split("\n"), 1):
        if number in inside or not line.strip():
            out.append(line)
        else:
            head = line[:before]
            out.append(" " * after + head.lstrip() + line[before:])
    return "\n".join(out)


def _string_lines(text: str) -> set[int]:
    """Numbers of the lines that begin inside a string."""
    found: set[int] = set()
    begun: list[int] = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(text + "\n").readline):
            if token.type == tokenize.STRING:
                found.update(range(token.start[0] + 1, token.end[0] + 1))
            elif tokenize.tok_name[token.type] == "FSTRING_START":
                begun.append(token.start[0])
            elif tokenize.tok_name[token.type] == "FSTRING_END":
                found.update(range(begun.pop() + 1, token.end[0] + 1))
    except (tokenize.TokenError, SyntaxError):  # a lambda cut out of its call: then the lines as they stand
        pass
    return found
