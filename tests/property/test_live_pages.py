"""Adjoining live pages show every document that is there exactly once, whatever moves, also after they were split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cellstore.schema.definition import IndexDefinition, TableDefinition
from cellstore.transaction.access import DatabaseReader, DatabaseWriter
from cellstore.transaction.database import Engine

MOVES = st.lists(
    st.tuples(
        st.sampled_from(["insert", "delete", "move", "flip", "split", "more"]), st.integers(0, 9), st.integers(0, 40)
    ),
    max_size=25,
)


@dataclass
class Page:
    """A page somebody follows: where it begins, what it was told of its end, and what a client would fix it to."""

    cursor: str | None
    journal: str | None = None
    end: str | None = None
    shown: Any = None


class Follower:
    """A client that follows pages of three, as Convex's hooks do; perhaps of what a filter lets through, reading little."""

    def __init__(self, engine: Engine, order: Any, rows_max: int | None) -> None:
        self.engine, self.order, self.rows_max = engine, order, rows_max
        self.pages = [Page(None)]

    def run(self) -> list[int]:
        """Run every page again; the numbers they show."""
        seen: list[int] = []
        for page in self.pages:
            with self.engine.begin() as tx:
                tx.journal = page.journal
                options = {"numItems": 3, "cursor": page.cursor, "endCursor": page.end}
                options["maximumRowsRead"] = self.rows_max
                page.shown = asked(tx, self.order, self.rows_max).paginate(options)
                page.journal = tx.next_journal
            seen += [row["n"] for row in page.shown["page"]]
        return seen

    def more(self) -> None:
        """One page more, where there is one."""
        last = self.pages[-1].shown
        if not last["isDone"]:
            self.pages.append(Page(last["continueCursor"]))

    def split(self, at: int) -> None:
        """Read one page as two."""
        page = self.pages[at % len(self.pages)]
        middle = page.shown.get("splitCursor")
        if middle is not None:
            halves = [Page(page.cursor, end=middle), Page(middle, end=page.shown["continueCursor"])]
            place = self.pages.index(page)
            self.pages[place : place + 1] = halves


def asked(tx: Any, order: Any, rows_max: int | None) -> Any:
    query = DatabaseReader(tx).query("rows").with_index("by_rank").order(order)
    return query if rows_max is None else query.filter(lambda row: row["on"])


def everything(engine: Engine, order: Any, rows_max: int | None) -> list[int]:
    with engine.begin() as tx:
        return [row["n"] for row in asked(tx, order, rows_max)]


def change(engine: Engine, move: str, at: int, rank: int, number: int) -> None:
    """Insert a row, delete one, have one leave its place for another, or have the filter change its mind about one."""

    def work(tx: Any) -> None:
        db, rows = DatabaseWriter(tx), list(DatabaseReader(tx).query("rows"))
        if move == "insert":
            db.insert("rows", {"n": number, "rank": rank, "on": rank % 3 > 0})
        elif rows:
            row = rows[at % len(rows)]
            match move:
                case "delete":
                    db.delete(row["_id"])
                case "move":
                    db.patch(row["_id"], {"rank": rank})
                case "flip":
                    db.patch(row["_id"], {"on": not row["on"]})

    engine.run(work)


@settings(deadline=None, max_examples=150)
@given(MOVES, st.sampled_from(["asc", "desc"]), st.sampled_from([None, 1, 4]))
def test_pages_have_no_gaps_and_no_duplicates_while_documents_move(
    moves: list[Any], order: Any, rows_max: int | None
) -> None:
    engine = Engine.memory()
    try:
        engine.define(TableDefinition("rows", {"type": "any"}, {"by_rank": IndexDefinition(("rank",))}))
        for number in range(7):
            change(engine, "insert", 0, number * 5, number)
        follower = Follower(engine, order, rows_max)
        follower.run()
        for step, (move, at, rank) in enumerate(moves):
            if move == "more":
                follower.more()
            elif move == "split":
                follower.split(at)
            else:
                change(engine, move, at, rank, 100 + step)
            seen = follower.run()
            everybody = everything(engine, order, rows_max)
            assert seen == everybody[: len(seen)]
            assert len(set(seen)) == len(seen)
            if follower.pages[-1].shown["isDone"]:
                assert seen == everybody
    finally:
        engine.close()
