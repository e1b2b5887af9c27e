"""What users get back: dicts that also allow attribute access and print well.

A document is a copy. Changing it changes nothing in the store; a mutation does, by `ctx.db.patch` or `replace`.
Names of dict methods (`items`, `values`, `get` …) stay methods: read such a field as `doc["items"]`.
"""

from __future__ import annotations

from html import escape
from typing import Any

_CELL_CHARS_MAX = 200


class Document(dict[str, Any]):
    """A document: its fields, `_id` and `_creationTime`, as items and as attributes."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        try:
            value = self[name]
        except KeyError:
            # a question from pickle, copy or a display hook, not from a person
            hint = "" if name.startswith("__") else f"; it has {', '.join(self) or 'no fields'}"
            raise AttributeError(f"this document has no field {name!r}{hint}") from None
        if type(value) is dict:
            value = self[name] = Document(value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError:
            raise AttributeError(f"this document has no field {name!r}") from None

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(name for name in self if name.isidentifier())]

    def copy(self) -> Document:
        """A shallow copy, again a Document."""
        return Document(self)

    def _ordered(self) -> dict[str, Any]:
        """Plain dict, `_id` first and the creation time last: the order people look for them in."""
        head = {name: self[name] for name in ("_id",) if name in self}
        tail = {name: self[name] for name in ("_creationTime",) if name in self}
        return {**head, **{name: value for name, value in self.items() if name not in ("_id", "_creationTime")}, **tail}

    def __repr__(self) -> str:
        return repr(self._ordered())

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        if cycle:
            printer.text("{…}")
        else:
            printer.pretty(self._ordered())

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr><th style="text-align:left">{escape(name)}</th><td style="text-align:left">{_cell(value)}</td></tr>'
            for name, value in self._ordered().items()
        )
        return f'<table class="cellstore-document">{rows}</table>'


def _cell(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return escape(text if len(text) <= _CELL_CHARS_MAX else text[: _CELL_CHARS_MAX - 1] + "…")


def documents(value: Any) -> Any:
    """`value` with every dict that has an `_id` made a Document: itself, in lists, in plain dicts (a page).

    Changes lists and dicts in place and returns what to use instead of `value`. A document's own nested dicts are
    wrapped when an attribute asks for them. Cost: one dict copy per document.
    """
    kind = type(value)
    if kind is list:
        for position, item in enumerate(value):
            inner = type(item)
            if inner is dict or inner is list:
                value[position] = documents(item)
    elif kind is dict:
        if "_id" in value:
            return Document(value)
        for name, item in value.items():
            inner = type(item)
            if inner is dict or inner is list:
                value[name] = documents(item)
    return value
