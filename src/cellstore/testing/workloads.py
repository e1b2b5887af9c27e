"""Named workloads: small things people do with databases, each with a rule that a broken one would break.

    bank      transfers and audits; no money appears or vanishes
    register  read, write, compare and set, remove and bring back under the same id, act on absence
    set       add if absent, remove, read all in pages
    append    lists that grow at the end, read together
    on_call   two doctors or more; the last one must stay (write skew)
    queue     each item is claimed once, in order
    ranges    at most three in each decade, by count(), up and down (phantoms)
    claims    names under a unique index, and the same by looking first

A step is a function of a recorded database and plain arguments; it runs alike in a thread, a worker and a simulation.
`plan` says what a client does next, with dice of its own. `rule` holds in every state there ever is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from cellstore.errors import ValidationError
from cellstore.schema.definition import IndexDefinition, TableDefinition
from cellstore.testing.model import State
from cellstore.testing.trace import RecordedDatabase
from cellstore.values.value import UNSET

Arguments = dict[str, Any]
Step = tuple[str, Arguments]
Doing = Callable[..., Any]


class Undone(Exception):
    """Raised to leave a savepoint."""


@dataclass(frozen=True)
class Workload:
    """What clients do, on which tables, and what is always true."""

    name: str
    tables: tuple[TableDefinition, ...]
    setup: Doing
    steps: Mapping[str, Doing]
    plan: Callable[[Random], Step]
    rule: Callable[[State], str | None]

    def perform(self, db: RecordedDatabase, step: Step) -> Any:
        """Run one step. With an argument `savepoint` it is done in one and taken back; then done "again", or only "noted":
        what it would have come to is written down, and depends on reads that were taken back."""
        name, arguments = step[0], dict(step[1])
        savepoint = arguments.pop("savepoint", None)
        doing = self.setup if name == "setup" else self.steps[name]
        if savepoint is not None:
            try:
                with db.savepoint():
                    value = doing(db, **arguments)
                    raise Undone
            except Undone:
                if savepoint == "noted":
                    return db.insert("noted", {"step": name, "value": value})
        return doing(db, **arguments)


def table(name: str, **indexes: str) -> TableDefinition:
    """A table of anything, with indexes as `by_name="name!"`: fields by commas, ! for unique."""
    made = {
        label: IndexDefinition(tuple(fields.rstrip("!").split(",")), fields.endswith("!"))
        for label, fields in indexes.items()
    }
    return TableDefinition(name, {"type": "any"}, made)


def rows(state: State, name: str) -> list[dict[str, Any]]:
    """The documents of a table, in no order."""
    return [document for of, document in state.values() if of == name]


# ── bank ──────────────────────────────────────────────────────────────────────────────────────────────────────────

ACCOUNTS, OPENING = 6, 100


def open_accounts(db: RecordedDatabase) -> None:
    """Everybody has the same."""
    for number in range(ACCOUNTS):
        db.insert("accounts", {"name": number, "balance": OPENING})


def transfer(db: RecordedDatabase, source: int, target: int, amount: int) -> bool:
    """Move money if there is enough."""
    pays, gets = (db.query("accounts").with_index("by_name", name=name).unique() for name in (source, target))
    assert pays is not None
    assert gets is not None
    if pays["balance"] < amount or source == target:
        return False
    db.patch(pays["_id"], {"balance": pays["balance"] - amount})
    db.patch(gets["_id"], {"balance": gets["balance"] + amount})
    return True


def audit(db: RecordedDatabase) -> int:
    """All the money there is."""
    return int(sum(account["balance"] for account in db.query("accounts").collect()))


def _plan_bank(dice: Random) -> Step:
    if dice.random() < 0.2:
        return "audit", {}
    source, target = dice.sample(range(ACCOUNTS), 2)
    return "transfer", {"source": source, "target": target, "amount": dice.randrange(1, 50)}


def _money_is_conserved(state: State) -> str | None:
    total = sum(account["balance"] for account in rows(state, "accounts"))
    return None if total == ACCOUNTS * OPENING else f"there are {total} in the bank"


# ── register ──────────────────────────────────────────────────────────────────────────────────────────────────────

REGISTERS = 3


def make_registers(db: RecordedDatabase) -> None:
    """The ids are kept in a table that never changes, so that a register can be looked up when it is not there."""
    for name in range(REGISTERS):
        db.insert("names", {"name": name, "ref": db.insert("registers", {"value": 0})})


def _ref(db: RecordedDatabase, name: int) -> str:
    found = db.query("names").with_index("by_name", name=name).first()
    assert found is not None
    return str(found["ref"])


def read(db: RecordedDatabase, name: int) -> Any:
    """The value, None while it is removed."""
    found = db.get(_ref(db, name))
    return None if found is None else found["value"]


def write(db: RecordedDatabase, name: int, value: int) -> None:
    """Set the value, whatever it was; bring the register back if need be."""
    ref = _ref(db, name)
    if db.get(ref) is None:
        db.restore("registers", ref, {"value": value})
    else:
        db.replace(ref, {"value": value})


def swap(db: RecordedDatabase, name: int, expected: int, value: int) -> bool:
    """Compare and set."""
    ref = _ref(db, name)
    found = db.get(ref)
    if found is None or found["value"] != expected:
        return False
    db.patch(ref, {"value": value, "swapped": True if found.get("swapped") is None else UNSET})
    return True


def remove(db: RecordedDatabase, name: int) -> None:
    """Take it away; its id stays known."""
    ref = _ref(db, name)
    if db.get(ref) is not None:
        db.delete(ref)


def mourn(db: RecordedDatabase, name: int) -> None:
    """Act on absence: note that it was not there."""
    if db.get(_ref(db, name)) is None:
        db.insert("notes", {"missing": name})


def _plan_register(dice: Random) -> Step:
    name = dice.randrange(REGISTERS)
    match dice.randrange(6):
        case 0:
            return "read", {"name": name}
        case 1 | 2:
            return "write", {"name": name, "value": dice.randrange(3)}
        case 3:
            return "swap", {"name": name, "expected": dice.randrange(3), "value": dice.randrange(3)}
        case 4:
            return "remove", {"name": name}
        case _:
            return "mourn", {"name": name}


# ── set ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def nothing(db: RecordedDatabase) -> None:
    """Begin empty."""


def add(db: RecordedDatabase, element: int) -> bool:
    """Add an element unless it is there."""
    if db.query("elements").with_index("by_value", value=element).first() is not None:
        return False
    db.insert("elements", {"value": element})
    return True


def discard(db: RecordedDatabase, element: int) -> None:
    """Remove an element if it is there."""
    for found in db.query("elements").with_index("by_value", value=element).take(1):
        db.delete(found["_id"])


def members(db: RecordedDatabase, size: int, descending: bool) -> list[int]:
    """All elements, page by page."""
    found: list[int] = []
    cursor = None
    while True:
        query = db.query("elements").with_index("by_value").order("desc" if descending else "asc")
        page = query.paginate(size, cursor)
        found += [one["value"] for one in page["page"]]
        if page["isDone"]:
            return found
        cursor = page["continueCursor"]


def odd(db: RecordedDatabase) -> list[int]:
    """The first two odd ones, by a filter."""
    query = db.query("elements").with_index("by_value").filter(lambda one: one["value"] % 2)
    return [one["value"] for one in query.take(2)]


def _plan_set(dice: Random) -> Step:
    match dice.randrange(6):
        case 0:
            return "members", {"size": dice.randrange(1, 4), "descending": dice.random() < 0.5}
        case 1:
            return "odd", {}
        case 2 | 3:
            return "discard", {"element": dice.randrange(12)}
        case _:
            return "add", {"element": dice.randrange(12)}


def _no_element_twice(state: State) -> str | None:
    values = [one["value"] for one in rows(state, "elements")]
    return None if len(values) == len(set(values)) else f"{sorted(values)} holds an element twice"


# ── append ────────────────────────────────────────────────────────────────────────────────────────────────────────


def make_lists(db: RecordedDatabase) -> None:
    """Empty lists."""
    for name in range(3):
        db.insert("lists", {"name": name, "items": []})


def append(db: RecordedDatabase, name: int, item: int) -> int:
    """One more at the end."""
    found = db.query("lists").with_index("by_name", name=name).first()
    assert found is not None
    db.patch(found["_id"], {"items": [*found["items"], item][-8:], "length": found.get("length", 0) + 1})
    return len(found["items"])


def read_lists(db: RecordedDatabase, names: list[int]) -> list[Any]:
    """Several lists at one moment."""
    return [[one["items"] for one in db.query("lists").with_index("by_name", name=name)] for name in names]


def _plan_append(dice: Random) -> Step:
    if dice.random() < 0.4:
        return "read_lists", {"names": dice.sample(range(3), 2)}
    return "append", {"name": dice.randrange(3), "item": dice.randrange(1000)}


# ── on call ───────────────────────────────────────────────────────────────────────────────────────────────────────

DOCTORS = 3


def all_on_call(db: RecordedDatabase) -> None:
    """Everybody begins on call."""
    for doctor in range(DOCTORS):
        db.insert("shifts", {"doctor": doctor, "on": True})


def leave(db: RecordedDatabase, doctor: int) -> bool:
    """Go, if somebody else stays."""
    on = db.query("shifts").with_index("by_on", on=True).collect()
    mine = [shift for shift in on if shift["doctor"] == doctor]
    if not mine or len(on) < 2:
        return False
    db.patch(mine[0]["_id"], {"on": False})
    return True


def come(db: RecordedDatabase, doctor: int) -> None:
    """Be on call again."""
    for shift in db.query("shifts").with_index("by_on", on=False).collect():
        if shift["doctor"] == doctor:
            db.patch(shift["_id"], {"on": True})


def _plan_on_call(dice: Random) -> Step:
    return "leave" if dice.random() < 0.6 else "come", {"doctor": dice.randrange(DOCTORS)}


def _somebody_is_on_call(state: State) -> str | None:
    return None if any(shift["on"] for shift in rows(state, "shifts")) else "nobody is on call"


# ── queue ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def open_queue(db: RecordedDatabase) -> None:
    """One waits, so that the numbers have a beginning."""
    db.insert("items", {"state": "waiting", "number": 0})


def push(db: RecordedDatabase) -> int:
    """One more at the end."""
    last = db.query("items").with_index("by_number").order("desc").first()
    number = 0 if last is None else last["number"] + 1
    db.insert("items", {"state": "waiting", "number": number})
    return number


def claim(db: RecordedDatabase, worker: int) -> int | None:
    """Take the first that waits, and forget the one claimed before it."""
    first = db.query("items").with_index("by_state", state="waiting").first()
    if first is None:
        return None
    for before in db.query("items").with_index("by_state", state="claimed").collect():
        db.delete(before["_id"])
    db.patch(first["_id"], {"state": "claimed", "worker": worker})
    db.insert("claims", {"number": first["number"], "worker": worker})
    return int(first["number"])


def _plan_queue(dice: Random) -> Step:
    return ("push", {}) if dice.random() < 0.5 else ("claim", {"worker": dice.randrange(4)})


def _claimed_once_in_order(state: State) -> str | None:
    claims = sorted(one["number"] for one in rows(state, "claims"))
    waiting = [one["number"] for one in rows(state, "items") if one["state"] == "waiting"]
    if claims != list(range(len(claims))):
        return f"claimed were {claims}"
    if len(set(waiting)) != len(waiting) or any(number < len(claims) for number in waiting):
        return f"{len(claims)} are claimed and {sorted(waiting)} wait"
    return None


# ── ranges ────────────────────────────────────────────────────────────────────────────────────────────────────────

DECADES, PLACES = 2, 3


def _in_decade(db: RecordedDatabase, decade: int) -> Any:
    return db.query("points").with_index("by_x", lambda q: q.gte("x", 10 * decade).lt("x", 10 * decade + 10))


def place(db: RecordedDatabase, x: int) -> bool:
    """One more, if its decade has room."""
    if _in_decade(db, x // 10).count() >= PLACES:
        return False
    db.insert("points", {"x": x})
    return True


def move(db: RecordedDatabase, decade: int, x: int, last: bool) -> bool:
    """The first (or last) of a decade goes somewhere else, if there is room."""
    found = _in_decade(db, decade).order("desc" if last else "asc").first()
    if found is None or (x // 10 != decade and _in_decade(db, x // 10).count() >= PLACES):
        return False
    db.patch(found["_id"], {"x": x})
    return True


def clear(db: RecordedDatabase, decade: int, count: int) -> int:
    """Remove the highest of a decade."""
    found = _in_decade(db, decade).order("desc").take(count)
    for one in found:
        db.delete(one["_id"])
    return len(found)


def tally(db: RecordedDatabase) -> list[int]:
    """How many in each decade, and in all."""
    return [*(_in_decade(db, decade).count() for decade in range(DECADES)), db.query("points").count()]


def _plan_ranges(dice: Random) -> Step:
    x, decade = dice.randrange(10 * DECADES), dice.randrange(DECADES)
    match dice.randrange(6):
        case 0:
            return "tally", {}
        case 1:
            return "clear", {"decade": decade, "count": dice.randrange(1, 3)}
        case 2 | 3:
            return "move", {"decade": decade, "x": x, "last": dice.random() < 0.5}
        case _:
            return "place", {"x": x}


def _no_decade_is_overfull(state: State) -> str | None:
    taken = [one["x"] // 10 for one in rows(state, "points")]
    return next((f"decade {one} holds {taken.count(one)}" for one in taken if taken.count(one) > PLACES), None)


# ── claims ────────────────────────────────────────────────────────────────────────────────────────────────────────

NAMES = 4


def take(db: RecordedDatabase, name: int, who: int) -> bool:
    """Claim a name; the unique index says whether it is free."""
    try:
        db.insert("owners", {"name": name, "who": who})
    except ValidationError:
        return False
    return True


def look_and_take(db: RecordedDatabase, name: int, who: int) -> bool:
    """The same without a unique index."""
    if db.query("seats").with_index("by_name", name=name).unique() is not None:
        return False
    db.insert("seats", {"name": name, "who": who})
    return True


def rename(db: RecordedDatabase, name: int, to: int) -> bool:
    """Give up one name for another."""
    found = db.query("owners").with_index("by_name", name=name).unique()
    if found is None:
        return False
    try:
        db.patch(found["_id"], {"name": to})
    except ValidationError:
        return False
    return True


def give_up(db: RecordedDatabase, name: int) -> None:
    """The name is free again, in both tables."""
    for place_of in ("owners", "seats"):
        for found in db.query(place_of).with_index("by_name", name=name).collect():
            db.delete(found["_id"])


def _plan_claims(dice: Random) -> Step:
    name = dice.randrange(NAMES)
    match dice.randrange(6):
        case 0 | 1:
            return "take", {"name": name, "who": dice.randrange(9)}
        case 2 | 3:
            return "look_and_take", {"name": name, "who": dice.randrange(9)}
        case 4:
            return "rename", {"name": name, "to": dice.randrange(NAMES)}
        case _:
            return "give_up", {"name": name}


def _no_name_has_two_owners(state: State) -> str | None:
    for kind in ("owners", "seats"):
        names = [one["name"] for one in rows(state, kind)]
        if len(names) != len(set(names)):
            return f"the {kind} hold {sorted(names)}"
    return None


# ── all of them ───────────────────────────────────────────────────────────────────────────────────────────────────


def _anything(_state: State) -> str | None:
    return None


def _with_savepoints(plan: Callable[[Random], Step]) -> Callable[[Random], Step]:
    """Now and then a step is done in a savepoint first."""

    def planned(dice: Random) -> Step:
        name, arguments = plan(dice)
        return name, {**arguments, "savepoint": dice.choice(("again", "noted"))} if dice.random() < 0.2 else arguments

    return planned


def _workload(
    name: str,
    tables: list[TableDefinition],
    setup: Doing,
    steps: list[Doing],
    plan: Callable[[Random], Step],
    rule: Callable[[State], str | None] = _anything,
) -> Workload:
    named = {step.__name__: step for step in steps}
    return Workload(name, (*tables, table("noted")), setup, named, _with_savepoints(plan), rule)


WORKLOADS = {
    workload.name: workload
    for workload in (
        _workload(
            "bank",
            [table("accounts", by_name="name!")],
            open_accounts,
            [transfer, audit],
            _plan_bank,
            _money_is_conserved,
        ),
        _workload(
            "register",
            [table("registers"), table("names", by_name="name"), table("notes")],
            make_registers,
            [read, write, swap, remove, mourn],
            _plan_register,
        ),
        _workload(
            "set",
            [table("elements", by_value="value")],
            nothing,
            [add, discard, members, odd],
            _plan_set,
            _no_element_twice,
        ),
        _workload("append", [table("lists", by_name="name")], make_lists, [append, read_lists], _plan_append),
        _workload(
            "on_call", [table("shifts", by_on="on")], all_on_call, [leave, come], _plan_on_call, _somebody_is_on_call
        ),
        _workload(
            "queue",
            [table("items", by_state="state,number", by_number="number"), table("claims")],
            open_queue,
            [push, claim],
            _plan_queue,
            _claimed_once_in_order,
        ),
        _workload(
            "ranges",
            [table("points", by_x="x")],
            nothing,
            [place, move, clear, tally],
            _plan_ranges,
            _no_decade_is_overfull,
        ),
        _workload(
            "claims",
            [table("owners", by_name="name!"), table("seats", by_name="name")],
            nothing,
            [take, look_and_take, rename, give_up],
            _plan_claims,
            _no_name_has_two_owners,
        ),
    )
}
