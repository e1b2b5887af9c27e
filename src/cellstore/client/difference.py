"""What is different between two moments of a database.

    d = after.diff(before)          from the earlier to the later, whichever is asked
    d                               prints a line per document
    d.df()                          table, _id, change, fields, before, after          a row per document
    d.df("tasks")                   _id, change, `text before`, `text after`, …        a row per document of that table
    d["change"], len(d), for c in d

`change` is inserted, changed or removed. `fields` names what differs in a changed document and is empty for the others;
`before` and `after` are whole documents, None where there was or is none. A table's own frame has a pair of columns for
every field that differs in one of its rows, so that they can be computed with. It is the difference of two states: what
came and went, or was changed back, is not in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from html import escape
from typing import Any, NamedTuple

from cellstore.client.frames import frame_of, series_of
from cellstore.errors import NotFound
from cellstore.values import json as native
from cellstore.values.document import Document
from cellstore.values.value import MISSING, same

SIGNS = {"inserted": "+", "changed": "~", "removed": "-"}
_SHOWN_MAX = 20
_VALUE_CHARS_MAX = 40
_NEAT = 'style="text-align:left; white-space:nowrap"'


class Change(NamedTuple):
    """One document at both moments."""

    table: str
    id: str
    change: str  # inserted, changed, removed
    before: Document | None
    after: Document | None

    @property
    def fields(self) -> list[str]:
        """The fields that differ in a document that changed."""
        return self.touched if self.change == "changed" else []

    @property
    def both(self) -> tuple[Document, Document]:
        """The document at both moments, empty where there is none."""
        return self.before or Document(), self.after or Document()

    @property
    def touched(self) -> list[str]:
        """The fields that differ; of a document that came or went, all it has."""
        old, new = self.both
        names = dict.fromkeys(name for name in (*old, *new) if name != "_id")
        return [name for name in names if not _alike(old.get(name, MISSING), new.get(name, MISSING))]

    def __str__(self) -> str:
        head = f"{SIGNS[self.change]} {self.table} {self.id}"
        document = self.after or self.before or Document()
        if self.change == "changed":
            old, new = self.both
            pairs = (f"{name}: {_short(old, name)} → {_short(new, name)}" for name in self.fields)
        else:
            pairs = (f"{name}: {_short(document, name)}" for name in document if not name.startswith("_"))
        return f"{head}  {', '.join(pairs)}"


class Difference:
    """The documents that differ between `ts0` and `ts1`, tables by name, documents in the order they were touched."""

    def __init__(self, lines: bytes, ts0: int, ts1: int) -> None:
        self.ts0, self.ts1 = ts0, ts1
        self.changes = [_change(native.loads(line)) for line in lines.splitlines()]

    def df(self, table: str | None = None) -> Any:
        """A row per document, of all tables or of one. Errors: NotFound when nothing of that table differs."""
        query: dict[str, Any] = {"diff": [self.ts0, self.ts1]}
        if table is None:
            frame = self._overview()
        else:
            query["table"] = table
            frame = self._wide(table)
        frame.attrs.update(query=query, ts=self.ts1)
        return frame

    def tables(self) -> list[str]:
        """The tables with a document that differs."""
        return list(dict.fromkeys(change.table for change in self.changes))

    def counts(self) -> dict[str, dict[str, int]]:
        """How many documents of each table were inserted, changed, removed."""
        counted = Counter((change.table, change.change) for change in self.changes)
        return {table: {kind: counted[table, kind] for kind in SIGNS} for table in self.tables()}

    def _overview(self) -> Any:
        import pandas as pd

        changes = self.changes
        return pd.DataFrame(
            {
                "table": series_of([each.table for each in changes]),
                "_id": series_of([each.id for each in changes]),
                "change": series_of([each.change for each in changes]),
                "fields": pd.Series([each.fields for each in changes], dtype=object),
                "before": pd.Series([each.before for each in changes], dtype=object),
                "after": pd.Series([each.after for each in changes], dtype=object),
            }
        )

    def _wide(self, table: str) -> Any:
        mine = [change for change in self.changes if change.table == table]
        if not mine:
            there = f"only of {', '.join(self.tables())}" if self.changes else "nor of any other table"
            raise NotFound(
                f"no document of {table!r} differs between the two moments, {there}", kind="table", name=table
            )
        fields = dict.fromkeys(name for change in mine for name in change.touched)
        rows = []
        for change in mine:
            old, new = change.both
            row: dict[str, Any] = {"_id": change.id, "change": change.change}
            for name in fields:
                row[f"{name} before"] = old.get(name)
                row[f"{name} after"] = new.get(name)
            rows.append(row)
        return frame_of(rows, query={})

    def __len__(self) -> int:
        return len(self.changes)

    def __iter__(self) -> Iterator[Change]:
        return iter(self.changes)

    def __getitem__(self, key: Any) -> Any:
        """As of the frame of all tables: `d["change"]`, `d[["table", "change"]]`, `d[d["change"] == "removed"]`."""
        return self.df()[key]

    def _summary(self) -> str:
        parts = [
            f"{table} {', '.join(f'{n:,} {kind}' for kind, n in kinds.items() if n)}"
            for table, kinds in self.counts().items()
        ]
        return "; ".join(parts) or "nothing differs"

    def __repr__(self) -> str:
        more = len(self.changes) - _SHOWN_MAX
        lines = [f"{self.ts0} → {self.ts1}: {self._summary()}", *map(str, self.changes[:_SHOWN_MAX])]
        return "\n".join([*lines, f"… and {more:,} more"] if more > 0 else lines)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td {_NEAT}>{SIGNS[each.change]} {each.change}</td><td>{escape(each.table)}</td><td>{each.id}</td>"
            f'<td style="text-align:left">{escape(str(each).partition("  ")[2])}</td></tr>'
            for each in self.changes[:_SHOWN_MAX]
        )
        more = len(self.changes) - _SHOWN_MAX
        tail = f"<p>… and {more:,} more</p>" if more > 0 else ""
        head = f"<thead><tr><th {_NEAT}>change</th><th>table</th><th>_id</th><th {_NEAT}>what</th></tr></thead>"
        return f"<p>{escape(self._summary())}</p><table>{head}<tbody>{rows}</tbody></table>{tail}"


def _change(line: dict[str, Any]) -> Change:
    before, after = line["before"], line["after"]
    return Change(
        line["table"],
        line["_id"],
        line["change"],
        None if before is None else Document(before),
        None if after is None else Document(after),
    )


def _alike(a: Any, b: Any) -> bool:
    if a is MISSING or b is MISSING:
        return a is b
    return same(a, b)


def _short(document: Any, name: str) -> str:
    if name not in document:
        return "(none)"
    text = repr(document[name])
    return text if len(text) <= _VALUE_CHARS_MAX else text[: _VALUE_CHARS_MAX - 1] + "…"
