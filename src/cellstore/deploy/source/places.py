"""Where the statements of the source form were written, so that errors show the user's own lines with their marks.

    # /tmp/ipykernel_7/123.py:3:4          above a statement: the file, line and column of the function or class in it
    def __make_7__():
        ...

Executed, each statement is compiled under the name of that file, and the nodes of its function or class have the places
of those in the file's text, which has travelled with it. A statement whose text is not there stands for itself.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator, Mapping
from types import CodeType

from cellstore.deploy.source.text import first_line, parsed

_MARK = re.compile(r"# (.+):(\d+):(\d+)")

Written = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda


def marked(statement: str, node: Written, file: str) -> str:
    """The statement under a comment that says where its function or class was written."""
    return f"# {file}:{node.lineno}:{node.col_offset}\n{statement}"


def compiled(text: str, name: str, files: Mapping[str, str]) -> Iterator[CodeType]:
    """The statements of a source as code, in their order. `name`: of the source itself; `files`: file name to text."""
    lines = text.split("\n")
    for statement in ast.parse(text, name).body:
        mark = _MARK.fullmatch(lines[first_line(statement) - 2])
        origin = _origin(mark, files) if mark is not None else None
        inner = _same_kind(statement, origin) if origin is not None else None
        if mark is not None and origin is not None and inner is not None:
            for node in ast.walk(statement):
                ast.copy_location(node, origin)
            _place(inner, origin)
            yield _code(statement, mark[1])
        else:
            yield _code(statement, name)


def _code(statement: ast.stmt, file: str) -> CodeType:
    code: CodeType = compile(ast.Module([statement], []), file, "exec", dont_inherit=True)
    return code


def _origin(mark: re.Match[str], files: Mapping[str, str]) -> Written | None:
    tree = parsed(files.get(mark[1], ""))
    return None if tree is None else _written_by_place(tree).get((int(mark[2]), int(mark[3])))


@functools.lru_cache(maxsize=16)
def _written_by_place(tree: ast.Module) -> Mapping[tuple[int, int], Written]:
    """The functions and classes of a text by where they begin: each of them is asked for."""
    return {(node.lineno, node.col_offset): node for node in ast.walk(tree) if isinstance(node, Written)}


def _same_kind(statement: ast.stmt, origin: Written) -> ast.AST | None:
    """The function or class in a statement, which may stand in one that makes it."""
    name = getattr(origin, "name", "")
    return next(
        (node for node in ast.walk(statement) if type(node) is type(origin) and getattr(node, "name", "") == name), None
    )


def _place(node: ast.AST, origin: ast.AST) -> None:
    """Give a tree the places of one that differs in decorators, defaults and annotations only."""
    ast.copy_location(node, origin)
    for field, value in ast.iter_fields(node):
        for part, written in zip(_nodes(value), _nodes(getattr(origin, field, None)), strict=False):
            if type(part) is type(written):
                _place(part, written)


def _nodes(value: object) -> list[ast.AST]:
    parts = value if isinstance(value, list) else [value]
    return [each for each in parts if isinstance(each, ast.AST)]
