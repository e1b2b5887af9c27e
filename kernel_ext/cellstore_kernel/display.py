"""Live values for readers without us: GitHub, nbconvert, untrusted notebooks, a plain terminal.

A plain `<table>`, no script, no id, and a line that says of which moment it is. Every value is escaped.
"""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape
from typing import Any

from cellstore.client.listing import NOTE, rows_html, rows_text, shorten

ROWS_MAX = 20

_FRAME = "padding:2px 8px 4px"


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
    note = f'<div style="{NOTE}"><code>{escape(label)}</code> · {escape(moment(ts))}</div>'
    return f'<div style="{_FRAME}">{body}{note}</div>'


def as_text(label: str, value: Any, ts: int | None, error: str = "") -> str:
    """The same in characters."""
    head = f"{label} · {moment(ts)}"
    if error:
        return f"{head}\n{error}"
    return f"{head}\n{_body_text(value)}" if ts else head


def is_table(value: Any) -> bool:
    """A list that reads as a table."""
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _body_html(value: Any) -> str:
    if is_table(value):
        return rows_html(value, ROWS_MAX)
    if isinstance(value, dict):
        return rows_html([{"field": name, "value": inner} for name, inner in value.items()], ROWS_MAX)
    return f"<pre>{escape(shorten(value, 2000))}</pre>"


def _body_text(value: Any) -> str:
    if is_table(value):
        more = f"\n({len(value):,} rows, the first {ROWS_MAX} shown)" if len(value) > ROWS_MAX else ""
        return rows_text(value, ROWS_MAX) + more
    if isinstance(value, dict):
        return "\n".join(f"{name}: {shorten(inner)}" for name, inner in value.items())
    return shorten(value, 2000)
