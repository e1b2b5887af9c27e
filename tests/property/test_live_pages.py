"""Pages that follow each other show every document once and in order, whatever moves, also after they were split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cellstore.transaction.access import DatabaseReader, DatabaseWriter
from cellstore.transaction.database import Engine

MOVES = st.lists(
    st.tuples(st.sampled_from(["insert", "delete", "move", "split", "more"]), st.integers(0, 9), st.integers(0, 9)),
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
    """A client that follows pages of three, as Convex's hooks do."""

    def __init__(self, engine: Engine, order: Any) -> None:
        self.engine, self.order = engine, order
        self.pages = [Page(None)]

    def run(self) -> list[int]:
        """Run every page again; the numbers they show."""
        seen: list[int] = []
        for page in self.pages:
            with self.engine.begin() as tx:
                tx.journal = page.journal
                options = {"numItems": 3, "cursor": page.cursor, "endCursor": page.end}
                page.shown = DatabaseReader(tx).query("rows").order(self.order).paginate(options)
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


def everything(engine: Engine, order: Any) -> list[int]:
    with engine.begin() as tx:
        return [row["n"] for row in DatabaseReader(tx).query("rows").order(order)]


def change(engine: Engine, move: str, at: int, number: int) -> None:
    """Insert a row, delete one, or have one leave its place for the end: it is written anew."""

    def work(tx: Any) -> None:
        rows = list(DatabaseReader(tx).query("rows"))
        if move != "insert" and rows:
            DatabaseWriter(tx).delete(rows[at % len(rows)]["_id"])
        if move != "delete":
            DatabaseWriter(tx).insert("rows", {"n": number})

    engine.run(work)


@settings(deadline=None, max_examples=120)
@given(MOVES, st.sampled_from(["asc", "desc"]))
def test_pages_have_no_gaps_and_no_duplicates_while_documents_move(moves: list[Any], order: Any) -> None:
    engine = Engine.memory()
    try:
        for number in range(7):
            change(engine, "insert", 0, number)
        follower = Follower(engine, order)
        follower.run()
        for step, (move, at, _) in enumerate(moves):
            if move == "more":
                follower.more()
            elif move == "split":
                follower.split(at)
            else:
                change(engine, move, at, 100 + step)
            seen = follower.run()
            everybody = everything(engine, order)
            assert seen == everybody[: len(seen)]
            assert len(set(seen)) == len(seen)
            if follower.pages[-1].shown["isDone"]:
                assert seen == everybody
    finally:
        engine.close()
