"""Lists of dicts that read as tables, in a terminal and in a notebook, and stay the lists they are.

    db.tables()       table  documents  fields       indexes
                      tasks         12  text, done?  by_done
    db.functions()    path        kind   visibility  arguments  version   says

What is shown is a few words per row (`.shown`); everything there is to know stands in the rows themselves.
"""

from __future__ import annotations

from html import escape
from typing import Any

Row = dict[str, Any]

COLUMNS_MAX = 14
TEXT_CHARS_MAX = 40
HTML_CHARS_MAX = 80
NOTE = "font-size:85%;color:#888"

_CELL = "padding:2px 12px 2px 4px;text-align:{side};white-space:nowrap"
_BUILT_IN = ("by_id", "by_creation_time")


class Listing(list[Row]):
    """Rows that show themselves as a table."""

    @property
    def shown(self) -> list[Row]:
        """The rows in a few words each."""
        return list(self)

    def __repr__(self) -> str:
        return rows_text(self.shown, len(self)) if self else "nothing yet"

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        printer.text(repr(self))

    def _repr_html_(self) -> str:
        return rows_html(self.shown, len(self)) if self else "<i>nothing yet</i>"


class Tables(Listing):
    """What `db.tables()` returns."""

    @property
    def shown(self) -> list[Row]:
        """Name, number of documents, declared fields, indexes beyond those every table has."""
        return [
            {
                "table": each["name"],
                "documents": each["count"],
                "fields": _names(each.get("fields")),
                "indexes": ", ".join(
                    _how_far(name, index) for name, index in each["indexes"].items() if name not in _BUILT_IN
                ),
            }
            for each in self
        ]


def _how_far(name: str, index: Row) -> str:
    """The name of an index; of one that is being built, how many documents it has, too."""
    return f"{name} ({index['documents']:,} of {index['of']:,})" if "of" in index else name


class Functions(Listing):
    """What `db.functions()` returns."""

    @property
    def shown(self) -> list[Row]:
        """Path, kind, arguments, version, notebook or file, and the first line of the docstring or of the latest error."""
        return [
            {
                "path": each["path"],
                "kind": each["kind"],
                "visibility": each["visibility"],
                "arguments": _names((each.get("args") or {}).get("fields")),
                "version": each["hash"][:8],
                "from": str(each.get("origin") or "").rpartition("/")[2],
                "says": _says(each),
            }
            for each in self
        ]


def _names(fields: Row | None) -> str:
    """`text, done?`: what may be left out has a question mark."""
    return ", ".join(f"{name}?" if field.get("optional") else name for name, field in (fields or {}).items())


def _says(function: Row) -> str:
    error = (function.get("last_error") or {}).get("message")
    lines = str(error or function.get("doc") or "").strip().splitlines() or [""]
    return f"failed: {lines[0]}" if error else lines[0]


# ── tables ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def columns(rows: list[Row]) -> tuple[list[str], list[list[Any]]]:
    """(column names, cells) of a list of dicts: own fields in order of appearance, system fields last."""
    seen: dict[str, None] = {}
    for row in rows:
        seen.update(dict.fromkeys(row))
    system = [name for name in ("_id", "_creationTime") if name in seen]
    names = [name for name in seen if name not in system] + system
    return names, [[row.get(name, "") for name in names] for row in rows]


def rows_html(rows: list[Row], rows_max: int) -> str:
    """The first rows as a plain `<table>`; every value is escaped."""
    names, cells = columns(rows[:rows_max])
    names = names[:COLUMNS_MAX]
    head = "".join(f'<th style="{_CELL.format(side="left")}">{escape(str(name))}</th>' for name in names)
    body = "".join(f"<tr>{''.join(map(_cell_html, line[:COLUMNS_MAX]))}</tr>" for line in cells)
    more = f'<div style="{NOTE}">{len(rows):,} rows, the first {rows_max} shown</div>' if len(rows) > rows_max else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _cell_html(value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    side = "right" if number else "left"
    return f'<td style="{_CELL.format(side=side)}">{escape(shorten(value))}</td>'


def rows_text(rows: list[Row], rows_max: int) -> str:
    """The first rows in aligned columns."""
    names, cells = columns(rows[:rows_max])
    lines = [names[:COLUMNS_MAX], *[[shorten(value, TEXT_CHARS_MAX) for value in line[:COLUMNS_MAX]] for line in cells]]
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    numeric = [all(_is_number(line[at]) for line in cells) for at in range(len(widths))]
    aligned = [
        [text.rjust(w) if n else text.ljust(w) for text, w, n in zip(line, widths, numeric, strict=True)]
        for line in lines
    ]
    return "\n".join("  ".join(line).rstrip() for line in aligned)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def shorten(value: Any, chars_max: int = HTML_CHARS_MAX) -> str:
    """A value as text, cut when it is long."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= chars_max else text[: chars_max - 1] + "…"
