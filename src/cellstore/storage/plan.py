"""Which rows a group of commits writes: decided here, without touching the store.

Several commits of a group may write one document. Every revision goes to the log, and every one that did not last goes
to the dead rows with its exact span; but `docs` and `entries` see only where the document ended up, so a document that
sixteen commits of a group have changed costs one update of a random page, not sixteen.

A key belongs to one document (it ends with the id), so what is true of documents is true of entries: in a group where
no document is written twice, nothing has to be remembered from one write to the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cellstore.errors import InvariantError
from cellstore.storage.contract import CommitRecord, DocWrite

Doc = tuple[int, bytes]  # table, id
Revision = tuple[int, int]  # seq, ts
Step = tuple[int, int, DocWrite]  # ts, seq, write

_SORT_FROM = 500  # a bulk load visits each leaf of an index once instead of once per document


@dataclass(slots=True)
class Plan:
    """Rows by statement, in the column order of `sql.py`. `gone` before `new`; otherwise any order will do."""

    seq: int  # of the last log row written so far
    log: list[tuple[int, int, int, bytes, int | None, bytes | None]] = field(default_factory=list)
    docs_new: list[tuple[int, bytes, int, int]] = field(default_factory=list)
    docs_moved: list[tuple[int, int, int, bytes]] = field(default_factory=list)
    docs_gone: list[Doc] = field(default_factory=list)
    docs_dead: list[tuple[int, bytes, int, int, int]] = field(default_factory=list)
    entries_die: list[tuple[int, int, bytes]] = field(default_factory=list)  # since when, only the store knows
    entries_dead: list[tuple[int, bytes, int, int]] = field(default_factory=list)
    entries_gone: list[tuple[int, bytes]] = field(default_factory=list)
    entries_new: list[tuple[int, bytes, int]] = field(default_factory=list)
    commits: list[tuple[int, int, str, str | None, int | None]] = field(default_factory=list)
    requests: list[tuple[str, int, int, bytes]] = field(default_factory=list)
    catalog_ts: int | None = None


def must_exist(records: Sequence[CommitRecord]) -> list[Doc]:
    """The documents whose live revision the plan needs: those whose first write in the group is not an insert."""
    if len(records) == 1:
        return [(write.table, write.id) for write in records[0].writes if write.op != "insert"]
    first: dict[Doc, bool] = {}
    for record in records:
        for write in record.writes:
            first.setdefault((write.table, write.id), write.op != "insert")
    return [doc for doc, needed in first.items() if needed]


def plan(records: Sequence[CommitRecord], seq: int, current: Mapping[Doc, Revision]) -> Plan:
    """The rows to write. `seq` is the last log row there is; `current` holds the documents of `must_exist`.

    Errors: InvariantError when a write does not fit what is there.
    """
    made = Plan(seq)
    repeated = _written_again(records)
    chains: dict[Doc, list[Step]] = {doc: [] for doc in repeated}
    for record in records:
        ts = record.ts
        for write in record.writes:
            made.seq += 1
            if repeated and (doc := (write.table, write.id)) in repeated:
                chains[doc].append((ts, made.seq, write))
            elif write.op == "insert":
                _insert(made, ts, made.seq, write)
            else:
                _change(made, ts, made.seq, write, current)
        _close_commit(made, record)
    for doc, steps in chains.items():
        _chain(made, doc, steps, current.get(doc))
    if chains:
        made.log.sort()  # so that the log grows at its end only
    if len(made.entries_new) > _SORT_FROM:
        made.docs_new.sort()
        made.entries_new.sort()
    return made


def _written_again(records: Sequence[CommitRecord]) -> set[Doc]:
    if len(records) == 1:
        return set()
    seen: set[Doc] = set()
    again: set[Doc] = set()
    for record in records:
        for write in record.writes:
            doc = (write.table, write.id)
            (again if doc in seen else seen).add(doc)
    return again


def _insert(made: Plan, ts: int, seq: int, write: DocWrite) -> None:
    made.log.append((seq, ts, write.table, write.id, None, write.body))
    made.docs_new.append((write.table, write.id, seq, ts))
    for index, _, key in write.keys:
        if key is not None:
            made.entries_new.append((index, key, ts))


def _change(made: Plan, ts: int, seq: int, write: DocWrite, current: Mapping[Doc, Revision]) -> None:
    table, id = write.table, write.id
    before = current.get((table, id))
    if before is None:
        raise _does_not_fit(write, "there is no such document")
    from_seq, from_ts = before
    made.log.append((seq, ts, table, id, from_ts, write.body))
    made.docs_dead.append((table, id, ts, from_ts, from_seq))
    if write.body is None:
        made.docs_gone.append((table, id))
    else:
        made.docs_moved.append((seq, ts, table, id))
    for index, old, new in write.keys:
        if old == new:
            continue
        if old is not None:
            made.entries_die.append((ts, index, old))
            made.entries_gone.append((index, old))
        if new is not None:
            made.entries_new.append((index, new, ts))


def _chain(made: Plan, doc: Doc, steps: list[Step], before: Revision | None) -> None:
    """A document written by several commits of the group: every step into the log, only the last into docs."""
    table, id = doc
    live = before
    for ts, seq, write in steps:
        if (live is None) != (write.op == "insert"):
            raise _does_not_fit(write, "there is no such document" if live is None else "the document exists")
        made.log.append((seq, ts, table, id, live[1] if live else None, write.body))
        if live is not None:
            made.docs_dead.append((table, id, ts, live[1], live[0]))
        live = None if write.body is None else (seq, ts)
    if before is None and live is not None:
        made.docs_new.append((table, id, *live))
    elif before is not None and live is not None:
        made.docs_moved.append((*live, table, id))
    elif before is not None:
        made.docs_gone.append(doc)
    _chain_entries(made, steps)


def _chain_entries(made: Plan, steps: list[Step]) -> None:
    since: dict[tuple[int, bytes], int | None] = {}  # None: it held before the group and was taken away in it
    for ts, _, write in steps:
        for index, old, new in write.keys:
            if old == new:
                continue
            if old is not None:
                began = since.get((index, old))
                if began is None:
                    made.entries_die.append((ts, index, old))
                    made.entries_gone.append((index, old))
                else:
                    made.entries_dead.append((index, old, ts, began))
                since[index, old] = None
            if new is not None:
                since[index, new] = ts
    made.entries_new += [(index, key, began) for (index, key), began in since.items() if began is not None]


def _close_commit(made: Plan, record: CommitRecord) -> None:
    request = record.request
    if request is None:
        made.commits.append((record.ts, made.seq, record.source, None, None))
    else:
        made.commits.append((record.ts, made.seq, record.source, request.session, request.request))
        made.requests.append((request.session, request.request, record.ts, request.result))
    if record.catalog:
        made.catalog_ts = record.ts


def _does_not_fit(write: DocWrite, why: str) -> InvariantError:
    return InvariantError(f"cannot {write.op} document {write.id.hex()} of table {write.table}: {why}")
