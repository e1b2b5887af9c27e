"""Tables as classes.

    class Task(cs.Table, name="tasks"):
        text: str
        completed: bool = False
        owner: cs.Id["users"] | None = None
        by_completed = cs.Index("completed")

Annotations are fields, values are their defaults, `Index` attributes are indexes. The class holds no documents: it is the
definition, and an annotation for documents. Defining it registers it; it takes effect when its module is deployed.

    class Todo(cs.Table, name="todos", renamed_from="tasks", renamed_fields={"text": "title"}):
        title: str

renames a table, or fields of it, with the documents there are and their ids. It happens once, when it is first deployed;
afterwards it may stay or be taken out.

A field with a default may be absent in a document: an older one, or one whose writer left it to the default.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NoReturn

import typing_extensions

from cellstore.errors import DeployError, ValidationError
from cellstore.schema.explain import near
from cellstore.schema.expr import TypeExpr, signature
from cellstore.schema.hints import field_of, frame_names, from_hint, resolved_hints, unwrapped
from cellstore.schema.registry import module_of, registry
from cellstore.schema.types import check_plain

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}\Z")
_INDEX_FIELDS_MAX = 16  # _creationTime after them not counted
_RESERVED_INDEXES = ("by_id", "by_creation_time")


class Index:
    """An index of a table: documents in the order of `fields` (dotted paths reach inside objects), then creation time.

    `unique`: no two documents may have equal values in all of its fields.
    """

    __slots__ = ("fields", "unique")

    def __init__(self, *fields: str, unique: bool = False) -> None:
        self.fields = fields
        self.unique = unique

    def __repr__(self) -> str:
        return f"Index({', '.join(map(repr, self.fields))}{', unique=True' if self.unique else ''})"


@dataclass(frozen=True, slots=True)
class IndexDefinition:
    """An index as plain data."""

    fields: tuple[str, ...]
    unique: bool = False


@dataclass(frozen=True, slots=True)
class TableDefinition:
    """A table as plain data. `fields` is an object expression, or one of any fields when the table has no schema.

    `renamed_fields` maps old names to new ones.
    """

    name: str
    fields: TypeExpr
    indexes: dict[str, IndexDefinition] = field(default_factory=dict)
    renamed_from: str | None = None
    renamed_fields: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As a value of the native JSON (a default may be bytes)."""
        indexes = {name: {"fields": list(each.fields), "unique": each.unique} for name, each in self.indexes.items()}
        data = {"name": self.name, "fields": self.fields, "indexes": indexes}
        if self.renamed_from is not None:
            data["renamed_from"] = self.renamed_from
        if self.renamed_fields:
            data["renamed_fields"] = self.renamed_fields
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TableDefinition:
        """What `to_json` made."""
        indexes = {
            name: IndexDefinition(tuple(each["fields"]), bool(each["unique"])) for name, each in data["indexes"].items()
        }
        return cls(
            data["name"], data["fields"], indexes, data.get("renamed_from"), dict(data.get("renamed_fields", {}))
        )

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}: {signature(each['type'])}" for name, each in self.fields["fields"].items())
        return f"<table {self.name}({fields}){''.join(f' {name}' for name in self.indexes)}>"


class Table:
    """Base of table definitions: `class Task(cs.Table, name="tasks")`.

    `renamed_from="old"` renames the table, `renamed_fields={"old": "new"}` fields of its documents, when it is deployed.

    Errors: DeployError where the class is defined, naming the field or index that cannot be.
    """

    __cellstore__: ClassVar[TableDefinition]

    def __init_subclass__(
        cls,
        *,
        name: str | None = None,
        module: str | None = None,
        definition: TableDefinition | None = None,
        renamed_from: str | None = None,
        renamed_fields: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init_subclass__(**kwargs)
        if definition is not None:  # where functions run: made from what was shipped, and not to be shipped again
            cls.__cellstore__ = definition
            return
        if name is None:
            raise DeployError(f'{cls.__name__} needs the name of its table: class {cls.__name__}(cs.Table, name="…")')
        made = define(cls, name, frame_names(1))
        cls.__cellstore__ = with_renames(made, renamed_from, renamed_fields or {})
        registry.add_table(cls.__cellstore__, module or module_of(cls.__module__, frame_names_file(1)))

    def __new__(cls, *_: Any, **__: Any) -> NoReturn:
        name = cls.__cellstore__.name if hasattr(cls, "__cellstore__") else "…"
        raise TypeError(
            f'a table is a definition and makes no documents; write them in a mutation: ctx.db.insert("{name}", {{…}})'
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError("a table makes no documents")

    if typing.TYPE_CHECKING:
        # A document annotated with its table has these, whatever else it has.
        _id: str
        _creationTime: float  # noqa: N815 — the name the wire knows


def frame_names_file(depth: int) -> str | None:
    """`__file__` of the module that is running `depth` frames up."""
    import sys

    file = sys._getframe(depth + 1).f_globals.get("__file__")
    return file if isinstance(file, str) else None


def define(cls: type, name: str, names: dict[str, Any]) -> TableDefinition:
    """The definition that a class spells. Errors: DeployError."""
    _check_name("table", name, cls.__name__)
    where = f"table {name!r}"
    fields = dict(_fields(cls, where, names))
    expr: TypeExpr = {"type": "object", "fields": fields}
    indexes = {}
    for attribute, value in _attributes(cls):
        if isinstance(value, Index):
            indexes[attribute] = _index(where, attribute, value, expr)
        elif attribute not in fields and not callable(value) and not hasattr(value, "__get__"):
            raise DeployError(
                f"{where}: {attribute} has a value and no type; a field is annotated, as in "
                f"`{attribute}: {type(value).__name__} = {value!r:.40}`"
            )
    return TableDefinition(name, expr, indexes)


def with_renames(made: TableDefinition, renamed_from: str | None, renamed_fields: dict[str, str]) -> TableDefinition:
    """The definition with what its table and fields were called before. Errors: DeployError."""
    where = f"table {made.name!r}"
    if renamed_from is not None:
        _check_name("table", renamed_from, where)
        if renamed_from == made.name:
            raise DeployError(f"{where} cannot be renamed from its own name; renamed_from is what it was called before")
    if not isinstance(renamed_fields, dict):
        raise DeployError(f'{where}: renamed_fields is a dict of old to new names, as in {{"text": "title"}}')
    declared = made.fields.get("fields", {})
    for old, new in renamed_fields.items():
        _check_field_name(where, old)
        if new not in declared:
            raise DeployError(f"{where}: the field {old!r} is renamed to {new!r}, which the table does not declare")
        if old in declared:
            raise DeployError(
                f"{where}: the field {old!r} is renamed to {new!r}, and declared still; take one of them out"
            )
    if len(set(renamed_fields.values())) < len(renamed_fields):
        raise DeployError(f"{where}: two fields are renamed to one")
    return replace(made, renamed_from=renamed_from, renamed_fields=dict(renamed_fields))


def _attributes(cls: type) -> Iterator[tuple[str, Any]]:
    """What the class and the tables it extends assign, each name once, newest last."""
    merged: dict[str, Any] = {}
    for each in reversed(cls.__mro__):
        if each not in (object, Table):
            merged |= vars(each)
    return ((name, value) for name, value in merged.items() if not name.startswith("__"))


def _fields(cls: type, where: str, names: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    values = dict(_attributes(cls))
    for name, hint in resolved_hints(cls, {**names, cls.__name__: Any}).items():
        if typing_extensions.get_origin(hint) is ClassVar or hint is ClassVar or name.startswith("__"):
            continue
        _check_field_name(where, name)
        if isinstance(values.get(name), Index):
            raise DeployError(f"{where}: {name} is both a field and an index; give the index another name")
        hint, required = unwrapped(hint)
        try:
            expr = from_hint(hint, names)
        except DeployError as error:
            raise DeployError(f"{where}, field {name!r}: {error.message}") from None
        yield name, _field(f"{where}, field {name!r}", expr, values, name, required)


def _field(where: str, expr: TypeExpr, values: dict[str, Any], name: str, required: bool | None) -> dict[str, Any]:
    if name not in values:
        return {"type": expr, "optional": required is False}
    try:
        default = check_plain(expr, values[name], "its default")
    except ValidationError as error:
        raise DeployError(f"{where}: {error.message}") from None
    return field_of(expr, default, optional=True)


def _check_field_name(where: str, name: str) -> None:
    if name in ("_id", "_creationTime"):
        raise DeployError(f"{where}: every document has {name}; it is not declared")
    if not _NAME.match(name):
        raise DeployError(
            f"{where}: {name!r} cannot be the name of a field: ASCII letters, digits and _, a letter first, at most 64"
        )


def _check_name(kind: str, name: Any, owner: str) -> None:
    if not isinstance(name, str):
        raise DeployError(f"{owner}: the name of a {kind} is a str, not {type(name).__name__}")
    if name.startswith("_"):
        raise DeployError(f"{owner}: {name!r}: names of a {kind} with a leading _ are the system's own")
    if not _NAME.match(name):
        raise DeployError(
            f"{owner}: {name!r} cannot be the name of a {kind}: ASCII letters, digits and _, a letter first, at most 64"
        )


def _index(where: str, name: str, index: Index, expr: TypeExpr) -> IndexDefinition:
    owner = f"{where}, index {name!r}"
    _check_name("index", name, where)
    if name in _RESERVED_INDEXES:
        raise DeployError(f"{owner}: every table has {name} already; choose another name")
    if not index.fields:
        raise DeployError(f'{owner}: an index has at least one field, as in cs.Index("text")')
    if len(index.fields) > _INDEX_FIELDS_MAX:
        raise DeployError(
            f"{owner}: {len(index.fields)} fields; an index has at most {_INDEX_FIELDS_MAX}, and _creationTime after them"
        )
    for path in index.fields:
        _check_path(owner, path, expr)
    if len(set(index.fields)) < len(index.fields):
        twice = next(path for path in index.fields if index.fields.count(path) > 1)
        raise DeployError(f"{owner}: the field {twice!r} is there twice")
    return IndexDefinition(tuple(index.fields), index.unique)


def _check_path(owner: str, path: Any, expr: TypeExpr) -> None:
    if not isinstance(path, str):
        raise DeployError(f"{owner}: fields are given by name, not as {type(path).__name__}")
    if path == "_creationTime":
        raise DeployError(f"{owner}: _creationTime comes last in every index by itself; leave it out")
    if path == "_id":
        raise DeployError(f"{owner}: _id comes last in every index by itself; leave it out")
    inside: list[TypeExpr] = [expr]
    for step in path.split("."):
        inside = [each for outer in inside for each in _members(outer, step)]
        if not inside:
            known = list(expr["fields"])
            raise DeployError(f"{owner}: there is no field {path!r}{near(path, known)}; fields are {', '.join(known)}")


def _members(expr: TypeExpr, name: str) -> list[TypeExpr]:
    """The types a field of this name may have."""
    kind = expr["type"]
    if kind == "any":
        return [expr]
    if kind == "record":
        return [expr["values"]]
    if kind == "union":
        return [each for member in expr["members"] for each in _members(member, name)]
    if kind == "object" and name in expr["fields"]:
        return [expr["fields"][name]["type"]]
    return [expr["extra"]] if "extra" in expr else []
