"""The database as a dict: what a transaction must have seen if it ran alone on a given state.

Deliberately naive. A state maps ids to (table, document); a read sorts and filters all of it, by `values.order` and not
by index keys. Only the position of a page is a key, because that is what a cursor is.

    replay(trace, state)     the state after the trace, and the first read that came out otherwise
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cmp_to_key
from typing import Any

from cellstore.testing.trace import Conditions, Operation, Trace
from cellstore.transaction.catalog import value_at
from cellstore.values.ids import decode_id
from cellstore.values.index_key import encode_key
from cellstore.values.order import compare
from cellstore.values.value import MISSING, same

Fields = Mapping[str, Any]
State = dict[str, tuple[str, dict[str, Any]]]
"""Document id to its table and itself. Documents in it are never changed, only replaced."""

WRITES = frozenset({"insert", "patch", "replace", "delete"})
SAVEPOINTS = frozenset({"savepoint", "release", "rollback"})


@dataclass(frozen=True)
class Mismatch:
    """A read (or write) that could not have come out so."""

    position: int
    operation: Operation
    expected: Any
    seen: Any

    def __str__(self) -> str:
        return f"{describe(self.operation)} saw {self.seen!r}, and alone it would have seen {self.expected!r}"


def replay(trace: Trace, state: State) -> tuple[State, Mismatch | None]:
    """What `state` becomes by `trace`; stops at the first mismatch. `state` itself stays as it is."""
    now: State = dict(state)
    marks: list[State] = []
    for position, operation in enumerate(trace):
        if operation[0] in WRITES:
            wrong = _write(operation, now)
            if wrong is not None:
                return now, Mismatch(position, operation, wrong, "that it could be done")
        elif operation[0] in SAVEPOINTS:
            now = _nest(operation[0], now, marks)
        else:
            expected, seen = _read(operation, now)
            if not same(expected, seen):
                return now, Mismatch(position, operation, expected, seen)
    return now, None


def answer(trace: Trace, state: State) -> Any:
    """What the last operation of `trace` would have been answered on `state`, whatever the others were answered."""
    now: State = dict(state)
    marks: list[State] = []
    for operation in trace[:-1]:
        if operation[0] in WRITES:
            _write(operation, now)
        elif operation[0] in SAVEPOINTS:
            now = _nest(operation[0], now, marks)
    last = trace[-1]
    return _write(last, now) if last[0] in WRITES else _read(last, now)[0]


def _nest(verb: str, now: State, marks: list[State]) -> State:
    if verb == "savepoint":
        marks.append(dict(now))
        return now
    before = marks.pop()
    return before if verb == "rollback" else now


def writes(trace: Trace) -> set[str]:
    """The ids a trace wrote to, taken back or not."""
    return {op[2]["_id"] if op[0] == "insert" else op[1] for op in trace if op[0] in WRITES}


def _write(operation: Operation, now: State) -> str | None:
    """Carry out a write; what was in its way, if anything."""
    verb, *rest = operation
    if verb == "insert":
        table, document = rest
        if document["_id"] in now:
            return f"a document {document['_id']} was there already"
        now[document["_id"]] = (table, document)
        return None
    id = rest[0]
    if id not in now:
        return f"no document {id} was there"
    table, before = now[id]
    system = {name: before[name] for name in ("_id", "_creationTime")}
    if verb == "delete":
        del now[id]
    elif verb == "replace":
        now[id] = (table, {**rest[1], **system})
    else:
        after = {**before, **rest[1]}
        now[id] = (table, {name: value for name, value in after.items() if name not in rest[2]})
    return None


def _read(operation: Operation, now: State) -> tuple[Any, Any]:
    """(what it must be, what it was)."""
    match operation:
        case ["get", id, seen]:
            return (now[id][1] if id in now else None), seen
        case ["count", table, fields, conditions, seen]:
            return len(selected(now, table, fields, conditions)), seen
        case ["range", table, fields, conditions, descending, seen, done]:
            found = selected(now, table, fields, conditions, descending)
            return (found if done else found[: len(seen)]), seen
        case ["page", table, fields, conditions, descending, after, upto, seen]:
            found = selected(now, table, fields, conditions, descending)
            return [one for one in found if _between(fields, one, descending, after, upto)], seen
        case ["taken", table, fields, id, document]:
            return any(_claims_the_same(fields, one, document) for one in _others(now, table, id)), True
        case _:
            raise ValueError(f"no such operation: {operation!r}")


def selected(
    now: State, table: str, fields: list[str] | None, conditions: Conditions, descending: bool = False
) -> list[dict[str, Any]]:
    """The documents of a table that fulfil the conditions, in the order of an index over `fields`."""
    found = [one for of, one in now.values() if of == table and all(_holds(one, *asked) for asked in conditions)]

    def order(a: Fields, b: Fields) -> int:
        return compare(_key(fields, a), _key(fields, b))

    return sorted(found, key=cmp_to_key(order), reverse=descending)


def _holds(document: Fields, verb: str, field: str, value: Any) -> bool:
    have = value_at(document, tuple(field.split(".")))
    if verb == "missing":
        return have is MISSING
    found = compare(have, value)
    return {"eq": found == 0, "gt": found > 0, "gte": found >= 0, "lt": found < 0, "lte": found <= 0}[verb]


def _key(fields: list[str] | None, document: Fields) -> list[Any]:
    id = decode_id(document["_id"])[1]
    if fields is None:
        return [id]
    return [*_values(fields, document), document["_creationTime"], id]


def _values(fields: list[str], document: Fields) -> list[Any]:
    return [value_at(document, tuple(path.split("."))) for path in fields]


def _between(fields: list[str] | None, document: Fields, descending: bool, after: str | None, upto: str | None) -> bool:
    """Whether a document lies in (after, upto], in scan direction."""
    key = _encoded(fields, document)
    ends = ((end, None if end in (None, "end") else bytes.fromhex(str(end))) for end in (after, upto))
    (after, low), (upto, high) = ends
    past = after is None or (low is not None and (key < low if descending else key > low))
    return past and (high is None or (key >= high if descending else key <= high))


def _encoded(fields: list[str] | None, document: Fields) -> bytes:
    id = decode_id(document["_id"])[1]
    return id if fields is None else encode_key(_values(fields, document), document["_creationTime"], id)


def _others(now: State, table: str, id: str | None) -> list[dict[str, Any]]:
    return [one for of, one in now.values() if of == table and one["_id"] != id]


def _claims_the_same(fields: list[str], a: Fields, b: Fields) -> bool:
    mine, theirs = _values(fields, a), _values(fields, b)
    return not any(value is None or value is MISSING for value in mine) and compare(mine, theirs) == 0


def describe(operation: Operation) -> str:
    """An operation in a few words, without its answer."""
    match operation:
        case ["get" | "delete" as verb, id, *_]:
            return f"{verb} {id}"
        case ["patch" | "replace" as verb, id, fields, *_]:
            return f"{verb} {id} {fields}"
        case ["insert", table, document]:
            return f"insert {table} {document}"
        case ["range" | "page" | "count" as verb, table, fields, conditions, *rest]:
            asked = " ".join(f"{field} {op} {value!r}" for op, field, value in conditions)
            order = " desc" if verb != "count" and rest[0] else ""
            index = "by_id" if fields is None else f"({', '.join(fields)})"
            return f"{verb} {table} {index}{order}{' where ' + asked if asked else ''}"
        case ["taken", table, fields, _, document]:
            return f"insert {table} {document}, refused because {', '.join(fields)} is taken,"
        case [verb, *_]:
            return str(verb)
        case _:
            return repr(operation)
