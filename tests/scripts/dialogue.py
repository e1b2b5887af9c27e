"""Golden dialogues with a store: several named transactions, step by step, and what each step answered.

    # What this shows, in prose.
    table shifts by_on(on)                     a table with an index; "!" after the name makes it unique
    import shifts/ann={on: true}               committed documents, named here and everywhere below
    ---
    committed @1                               commits are numbered as they happen

    a: begin; scan shifts.by_on [true]         commands of transaction a; each answers on a line of its own
    ---
    a: shifts/ann

Commands of a transaction:
    begin [lane NAME]           a new transaction, perhaps in a lane (its overlay is kept between transactions)
    get T/D                     one document
    scan T[.I] [values] [desc]  all documents whose first indexed fields have these values; also `first`, `unique`, `count`
    take N T[.I] [values]       the first N
    range T.I F lo hi           documents with lo <= F < hi
    insert T/D {…} · patch T/D {…} · replace T/D {…} · delete T/D       a field that is ~ is UNSET
    savepoint · rollback        around what a nested mutation writes
    reads                       the intervals recorded so far, by index, keys as documents where they are
    commit                      freeze, and let the committer judge at once
    freeze                      only freeze; `commit a b` (without a name) judges several as one group

A line that raises answers with the error's code. Set CELLSTORE_REWRITE=1 to write the answers into the files.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from cellstore.errors import CellstoreError
from cellstore.schema.definition import IndexDefinition, TableDefinition
from cellstore.transaction.access import DatabaseWriter, QueryBuilder
from cellstore.transaction.database import Engine
from cellstore.transaction.overlay import Overlay
from cellstore.transaction.requests import Commit, CommitRequest, CommitResult, Committed
from cellstore.transaction.transaction import Transaction
from cellstore.values.document import Document
from cellstore.values.value import UNSET

_RULE = "---"


def run_file(path: Path, engine: Engine) -> tuple[str, str]:
    """(the file as it is, the file as this engine would answer it)."""
    text = path.read_text()
    said = Dialogue(engine)
    blocks = []
    for block in re.split(r"\n\n+", text.strip("\n")):
        commands = block.split(f"\n{_RULE}", 1)[0]
        answers = [answer for line in commands.split("\n") if not line.startswith("#") for answer in said.line(line)]
        blocks.append("\n".join([commands, _RULE, *answers]) if _RULE in block.split("\n") else block)
    heard = "\n\n".join(blocks) + "\n"
    if os.environ.get("CELLSTORE_REWRITE"):
        path.write_text(heard)
    return text, heard


class Dialogue:
    """One store, its transactions by name, its documents by name."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._random = Random(7)
        self._ids: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._open: dict[str, Transaction] = {}
        self._savepoints: dict[str, list[Any]] = {}
        self._frozen: dict[str, CommitRequest] = {}
        self._lanes: dict[str, tuple[Overlay, str]] = {}
        self._commits: dict[int, str] = {}
        self._now_ms = 1_000_000.0
        engine.committer.listeners.append(self._number)

    def line(self, line: str) -> list[str]:
        """What one line of commands answers."""
        speaker, colon, rest = line.partition(": ")
        if colon and re.fullmatch(r"\w+", speaker):
            return [f"{speaker}: {answer}" for answer in self._say(speaker, rest)]
        verb, _, rest = line.partition(" ")
        return list(getattr(self, f"_all_{verb}")(rest))

    def _say(self, name: str, commands: str) -> list[str]:
        answers = []
        for command in re.split(r";\s*", commands):
            verb, _, rest = command.partition(" ")
            try:
                answer = getattr(self, f"_do_{verb}")(name, rest)
            except CellstoreError as error:
                answer = error.code
            if answer is not None:
                answers.append(answer)
        return answers

    # ── without a speaker ─────────────────────────────────────────────────────────────────────────────────────────

    def _all_table(self, rest: str) -> list[str]:
        name, *indexes = re.findall(r"\w+!?(?:\([^)]*\))?", rest)
        found = {}
        for index in indexes:
            label, fields = re.fullmatch(r"(\w+!?)\(([^)]*)\)", index).groups()  # type: ignore[union-attr]
            found[label.rstrip("!")] = IndexDefinition(tuple(re.split(r",\s*", fields)), label.endswith("!"))
        try:
            self._engine.define(TableDefinition(name, {"type": "any"}, found))
        except CellstoreError as error:
            return [error.code]
        return []

    def _all_import(self, rest: str) -> list[str]:
        self._do_begin("import", "")
        for name, fields in re.findall(r"(\S+?)=(\{.*?\})(?=\s|$)", rest):
            self._insert(self._open["import"], name, _value(fields))
        return [self._do_commit("import", "")]

    def _all_commit(self, rest: str) -> list[str]:
        speakers = rest.split()
        answers = self._engine.commit([self._frozen[name] for name in speakers])
        return [f"{name}: {self._judged(name, answer)}" for name, answer in zip(speakers, answers, strict=True)]

    # ── of one transaction ────────────────────────────────────────────────────────────────────────────────────────

    def _do_begin(self, name: str, rest: str) -> None:
        overlay = None
        if rest:
            lane = rest.removeprefix("lane ")
            overlay = self._lanes.setdefault(lane, (Overlay(lane), lane))[0]
        self._now_ms += 1
        self._savepoints[name] = []
        self._open[name] = self._engine.begin(overlay=overlay, now_ms=self._now_ms, random=self._random.randbytes)

    def _do_get(self, name: str, rest: str) -> str:
        return self._shown(self._open[name].get(self._ids[rest]))

    def _do_scan(self, name: str, rest: str) -> str:
        return self._listed(self._query(name, rest).collect())

    def _do_first(self, name: str, rest: str) -> str:
        return self._shown(self._query(name, rest).first())

    def _do_unique(self, name: str, rest: str) -> str:
        return self._shown(self._query(name, rest).unique())

    def _do_count(self, name: str, rest: str) -> str:
        return str(self._query(name, rest).count())

    def _do_take(self, name: str, rest: str) -> str:
        count, _, rest = rest.partition(" ")
        return self._listed(self._query(name, rest).take(int(count)))

    def _do_range(self, name: str, rest: str) -> str:
        place, field, lo, hi = rest.split()
        table, index = place.split(".")
        query = DatabaseWriter(self._open[name]).query(table)
        found = query.with_index(index, lambda q: q.gte(field, _value(lo)).lt(field, _value(hi)))
        return self._listed(found.collect())

    def _do_insert(self, name: str, rest: str) -> None:
        target, _, fields = rest.partition(" ")
        self._insert(self._open[name], target, _value(fields))

    def _do_patch(self, name: str, rest: str) -> None:
        target, _, fields = rest.partition(" ")
        self._open[name].patch(self._ids[target], _value(fields))

    def _do_replace(self, name: str, rest: str) -> None:
        target, _, fields = rest.partition(" ")
        self._open[name].replace(self._ids[target], _value(fields))

    def _do_delete(self, name: str, rest: str) -> None:
        self._open[name].delete(self._ids[rest])

    def _do_savepoint(self, name: str, rest: str) -> None:
        self._savepoints[name].append(self._open[name].savepoint())

    def _do_rollback(self, name: str, rest: str) -> None:
        self._open[name].rollback(self._savepoints[name].pop())

    def _do_freeze(self, name: str, rest: str) -> None:
        transaction = self._open[name]
        request = self._frozen[name] = transaction.freeze(name)
        for overlay, lane in self._lanes.values():
            if request.lane is not None and request.lane.id == lane:
                overlay.apply(request)
        transaction.close()

    def _do_commit(self, name: str, rest: str) -> str:
        self._do_freeze(name, rest)
        (answer,) = self._engine.commit([self._frozen[name]])
        return self._judged(name, answer)

    def _do_reads(self, name: str, rest: str) -> str:
        transaction = self._open[name]
        found = []
        for index, intervals in sorted(transaction.reads.items()):
            label = transaction.catalog.describe(index)
            if not label.startswith("_"):
                found += [f"{label} {self._end(lo)}…{self._end(hi)}" for lo, hi in intervals]
        return "; ".join(found) or "nothing"

    # ── helpers ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _query(self, name: str, rest: str) -> QueryBuilder:
        place, values, direction = re.fullmatch(r"(\S+)(?: (\[.*?\]))?(?: (desc))?", rest).groups()  # type: ignore[union-attr]
        table, _, index = place.partition(".")
        query = DatabaseWriter(self._open[name]).query(table)
        if index:
            fields = self._fields(table, index)
            equal = dict(zip(fields, _value(values or "[]"), strict=False))
            query = query.with_index(index, _equal(equal))
        return query.order("desc") if direction else query

    def _fields(self, table: str, index: str) -> tuple[str, ...]:
        meta = self._engine.catalog.table(table)
        return () if meta is None or index not in meta.indexes else meta.indexes[index].fields

    def _insert(self, transaction: Transaction, name: str, fields: dict[str, Any]) -> None:
        id = transaction.insert(name.partition("/")[0], fields)
        self._ids[name], self._names[id] = id, name

    def _judged(self, name: str, answer: CommitResult) -> str:
        request = self._frozen[name]
        if isinstance(answer, Committed):
            if request.lane is not None:
                self._lanes[request.lane.id][0].acknowledge(request.lane.position, answer.ts)
            return f"committed {self._commits[answer.ts]}" if request.writes else "still valid"
        if request.lane is not None:
            self._lanes[request.lane.id][0].refuse(request.lane.position)
        if isinstance(answer, CellstoreError):
            write_ts = getattr(answer, "write_ts", 0)
            if not write_ts:
                return answer.code
            where = self._engine.catalog.describe(getattr(answer, "index", 0))
            return f"{answer.code} {where} written {self._commits[write_ts]} by {getattr(answer, 'writer', '')}"
        return repr(answer)

    def _number(self, commits: Sequence[Commit]) -> None:
        for commit in commits:
            self._commits[commit.ts] = f"@{len(self._commits) + 1}"

    def _shown(self, document: Document | None) -> str:
        if document is None:
            return "nothing"
        fields = {name: value for name, value in document.items() if not name.startswith("_")}
        body = ", ".join(f"{name}: {json.dumps(value)}" for name, value in fields.items())
        return f"{self._names[document['_id']]}={{{body}}}"

    def _listed(self, documents: list[Document]) -> str:
        return " ".join(map(self._shown, documents)) or "nothing"

    def _end(self, key: bytes) -> str:
        """A key as the document that stands there; the ends of the index and of a prefix by sign."""
        if key == b"":
            return "start"
        if key.endswith(b"\xff" * 17):
            return "end"
        after = key.endswith(b"\0") and self._name_of(key[:-1])
        if after:
            return f"after {after.partition('/')[2]}"
        name = self._name_of(key)
        return name.partition("/")[2] if name else "value"

    def _name_of(self, key: bytes) -> str | None:
        from cellstore.values.ids import decode_id

        return next((name for name, id in self._ids.items() if key[-16:] == decode_id(id)[1]), None)


def _equal(values: dict[str, Any]) -> Callable[[Any], None]:
    def ask(q: Any) -> None:
        for field, value in values.items():
            q.eq(field, value)

    return ask


def _value(text: str) -> Any:
    """Relaxed JSON: bare names as keys, ~ for UNSET."""
    quoted = re.sub(r"([{,]\s*)([A-Za-z_]\w*)\s*:", r'\1"\2":', text).replace("~", '"~"')
    return _unset(json.loads(quoted))


def _unset(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: UNSET if inner == "~" else _unset(inner) for name, inner in value.items()}
    return value
