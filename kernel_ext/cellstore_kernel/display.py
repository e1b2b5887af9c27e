"""Live values for readers without us: GitHub, nbconvert, untrusted notebooks, a plain terminal.

A plain `<table>`, no script, no id, and a line that says of which moment it is. Every value is escaped.
"""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape
from typing import Any

ROWS_MAX = 20
COLUMNS_MAX = 14
CELL_CHARS_MAX = 80

_CELL = "padding:2px 12px 2px 4px;text-align:{side};white-space:nowrap"
_FRAME = "padding:2px 8px 4px"
_NOTE = "font-size:85%;color:#888"


def moment(ts: int | None) -> str:
    """A commit timestamp (ns) in words: 'as of 2026-11-24 02:31:05 UTC'; 'no value yet' without one."""
    if not ts:
        return "no value yet"
    return f"as of {datetime.fromtimestamp(ts / 1e9, UTC):%Y-%m-%d %H:%M:%S} UTC"


def as_html(label: str, value: Any, ts: int | None, error: str = "") -> str:
    """A static rendering, marked with its moment."""
    return framed(f"<pre>{escape(error)}</pre>" if error else _body_html(value) if ts else "", label, ts)


def framed(body: str, label: str, ts: int | None) -> str:
    """HTML with a line under it that says what it is, and of which moment."""
    note = f'<div style="{_NOTE}"><code>{escape(label)}</code> · {escape(moment(ts))}</div>'
    return f'<div style="{_FRAME}">{body}{note}</div>'


def as_text(label: str, value: Any, ts: int | None, error: str = "") -> str:
    """The same in characters."""
    head = f"{label} · {moment(ts)}"
    if error:
        return f"{head}\n{error}"
    return f"{head}\n{_body_text(value)}" if ts else head


def table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """(column names, cells) of a list of dicts: own fields in order of appearance, system fields last."""
    seen: dict[str, None] = {}
    for row in rows:
        seen.update(dict.fromkeys(row))
    system = [name for name in ("_id", "_creationTime") if name in seen]
    names = [name for name in seen if name not in system] + system
    return names, [[row.get(name, "") for name in names] for row in rows]


def is_table(value: Any) -> bool:
    """A list that reads as a table."""
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


class Listing(list[dict[str, Any]]):
    """Rows that show themselves as a table; what magics return."""

    def __repr__(self) -> str:
        return _rows_text(self, len(self)) if self else "nothing yet"

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        printer.text(repr(self))

    def _repr_html_(self) -> str:
        return _rows_html(self, len(self)) if self else "<i>nothing yet</i>"


def _body_html(value: Any) -> str:
    if is_table(value):
        return _rows_html(value, ROWS_MAX)
    if isinstance(value, dict):
        return _rows_html([{"field": name, "value": inner} for name, inner in value.items()], ROWS_MAX)
    return f"<pre>{escape(_shorten(value, 2000))}</pre>"


def _rows_html(rows: list[dict[str, Any]], rows_max: int) -> str:
    names, cells = table(rows[:rows_max])
    names = names[:COLUMNS_MAX]
    head = "".join(f'<th style="{_CELL.format(side="left")}">{escape(str(name))}</th>' for name in names)
    body = "".join(f"<tr>{''.join(map(_cell_html, line[:COLUMNS_MAX]))}</tr>" for line in cells)
    more = f'<div style="{_NOTE}">{len(rows):,} rows, the first {rows_max} shown</div>' if len(rows) > rows_max else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _cell_html(value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    side = "right" if number else "left"
    return f'<td style="{_CELL.format(side=side)}">{escape(_shorten(value))}</td>'


def _body_text(value: Any) -> str:
    if is_table(value):
        more = f"\n({len(value):,} rows, the first {ROWS_MAX} shown)" if len(value) > ROWS_MAX else ""
        return _rows_text(value, ROWS_MAX) + more
    if isinstance(value, dict):
        return "\n".join(f"{name}: {_shorten(inner)}" for name, inner in value.items())
    return _shorten(value, 2000)


def _rows_text(rows: list[dict[str, Any]], rows_max: int) -> str:
    names, cells = table(rows[:rows_max])
    lines = [names[:COLUMNS_MAX], *[[_shorten(value, 32) for value in line[:COLUMNS_MAX]] for line in cells]]
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    numeric = [all(_is_number(line[at]) for line in cells) for at in range(len(widths))]
    aligned = [
        [text.rjust(w) if n else text.ljust(w) for text, w, n in zip(line, widths, numeric, strict=True)]
        for line in lines
    ]
    return "\n".join("  ".join(line).rstrip() for line in aligned)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _shorten(value: Any, chars_max: int = CELL_CHARS_MAX) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= chars_max else text[: chars_max - 1] + "…"
