"""Pages that end early, pages that should be read as two, and cursors that somebody made up."""

from __future__ import annotations

from base64 import urlsafe_b64decode
from typing import Any

import pytest

from cellstore.errors import LimitExceeded, ValidationError
from cellstore.knobs import Knobs
from cellstore.transaction.access import DatabaseReader
from cellstore.transaction.database import Engine
from cellstore.transaction.files import announce
from cellstore.values.document import Document


def with_ranks(count: int, define: Any, **knobs: int) -> Engine:
    """Documents of rank 0, 1, …, half of them red."""
    engine = Engine.memory(knobs=Knobs(**knobs))
    engine.define(define("tasks", by_rank="rank", by_colour="colour,rank"))
    engine.run(lambda tx: [tx.insert("tasks", {"rank": n, "colour": "red" if n % 2 else "blue"}) for n in range(count)])
    return engine


def ask(engine: Engine, opts: dict[str, Any], index: str = "by_rank", passes: Any = None, **equal: Any) -> Document:
    with engine.begin() as tx:
        query = DatabaseReader(tx).query("tasks").with_index(index, **equal)
        return (query if passes is None else query.filter(passes)).paginate(opts)


def ranks(page: Document) -> list[int]:
    return [document["rank"] for document in page.page]


def walk(engine: Engine, opts: dict[str, Any], **query: Any) -> list[Document]:
    """All pages from the first to the last."""
    pages = [ask(engine, {**opts, "cursor": None}, **query)]
    while not pages[-1].isDone:
        pages.append(ask(engine, {**opts, "cursor": pages[-1].continueCursor}, **query))
    return pages


def test_a_page_ends_where_it_may_read_no_more_rows(define: Any) -> None:
    with with_ranks(20, define) as engine:
        pages = walk(engine, {"numItems": 10, "maximumRowsRead": 6}, passes=lambda task: task["rank"] > 15)
    assert [ranks(page) for page in pages] == [[], [], [16, 17], [18, 19]]
    assert [page.get("pageStatus") for page in pages] == ["SplitRequired"] * 3 + [None]


def test_a_page_ends_where_it_may_read_no_more_bytes(define: Any) -> None:
    with with_ranks(20, define) as engine:
        pages = walk(engine, {"numItems": 10, "maximumBytesRead": 1})
        assert [ranks(page) for page in pages] == [[n] for n in range(20)] + [[]]
        assert "pageStatus" not in pages[0], "one document cannot be split"
        assert len(walk(engine, {"numItems": 10, "maximumBytesRead": 10**6})) == 3


def test_a_page_near_its_limits_is_better_read_as_two(define: Any) -> None:
    with with_ranks(20, define) as engine:
        page = ask(engine, {"numItems": 8, "cursor": None, "maximumRowsRead": 10})
        assert (page.pageStatus, len(page.page)) == ("SplitRecommended", 8)
        assert "pageStatus" not in ask(engine, {"numItems": 7, "cursor": None, "maximumRowsRead": 10})


@pytest.mark.parametrize("knobs", [{"read_rows_max": 10}, {"read_size_bytes": 800}])
def test_a_page_beyond_what_a_call_may_read_is_to_be_split_until_it_fits(define: Any, knobs: dict[str, int]) -> None:
    with with_ranks(20, define, **knobs) as engine:
        end = walk(engine, {"numItems": 5})[-1].continueCursor
        found, todo = [], [(None, end)]
        while todo:
            start, upto = todo.pop()
            page = ask(engine, {"numItems": 5, "cursor": start, "endCursor": upto})
            if page.get("pageStatus") == "SplitRequired":
                todo += [(page.splitCursor, page.continueCursor), (start, page.splitCursor)]
            else:
                found += ranks(page)
        assert found == list(range(20))
        with pytest.raises(LimitExceeded):
            ask(engine, {"numItems": 5}, passes=lambda task: ask_too_much(engine))


def ask_too_much(engine: Engine) -> bool:
    """What a filter runs into is its own affair."""
    with engine.begin() as tx:
        return bool(DatabaseReader(tx).query("tasks").collect())


def test_the_middle_of_a_page_is_found_however_long_it_is(define: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellstore.transaction.pages._KEYS_KEPT", 8)
    with with_ranks(100, define) as engine:
        page = ask(engine, {"numItems": 100, "maximumRowsRead": 90})
        before = ask(engine, {"numItems": 1, "endCursor": page.splitCursor})
        after = ask(engine, {"numItems": 1, "cursor": page.splitCursor, "endCursor": page.continueCursor})
    assert ranks(before) + ranks(after) == list(range(90))
    assert 30 <= len(before.page) <= 60


def test_a_cursor_that_was_made_up_shows_nothing_of_others(define: Any) -> None:
    with with_ranks(20, define) as engine:
        mark = ask(engine, {"numItems": 1}, "by_colour", colour="red").continueCursor.partition(".")[0]
        for low, high in (("00", "ff"), ("ff", "00")):
            opts = {"numItems": 50, "cursor": f"{mark}.{low * 20}", "endCursor": f"{mark}.{high * 20}"}
            with pytest.raises(ValidationError, match="begin again"):
                ask(engine, opts, "by_colour", colour="red")


def test_a_cursor_tells_nothing_of_what_a_filter_passed_over(define: Any) -> None:
    with with_ranks(2, define) as engine:
        announce(engine, "http://here")
        engine.run(lambda tx: tx.insert("tasks", {"rank": 9, "colour": "unspeakable"}))
        opts = {"numItems": 1, "cursor": None, "maximumRowsRead": 3}
        page = ask(engine, opts, "by_colour", passes=lambda _: False)
        assert (page.page, page.isDone) == ([], False)
        for cursor in (page.continueCursor, page.splitCursor):
            sealed = cursor.partition(".")[2]
            for octets in (
                sealed.encode(),
                urlsafe_b64decode(sealed + "=" * (-len(sealed) % 4)),
                bytes.fromhex(sealed) if is_hex(sealed) else b"",
            ):
                assert b"speak" not in octets
        assert ask(engine, opts, "by_colour", passes=lambda _: False) == page  # the same each time
        assert ask(engine, {**opts, "cursor": page.continueCursor}, "by_colour").isDone


def is_hex(text: str) -> bool:
    return all(each in "0123456789abcdef" for each in text)


def test_a_cursor_is_good_for_its_store_and_as_it_was_given_only(define: Any) -> None:
    with with_ranks(9, define) as engine, with_ranks(9, define) as other:
        announce(engine, "http://here")
        announce(other, "http://here")
        cursor = ask(engine, {"numItems": 3}).continueCursor
        for at in range(len(cursor)):
            changed = cursor[:at] + ("A" if cursor[at] != "A" else "B") + cursor[at + 1 :]
            with pytest.raises(ValidationError, match="begin again"):
                ask(engine, {"numItems": 3, "cursor": changed})
        for wrong in ("", ".", cursor + "A", cursor[:-4], cursor.upper(), "é" + cursor, "\ud800.AAAA", 5):
            with pytest.raises(ValidationError, match="begin again"):
                ask(engine, {"numItems": 3, "cursor": wrong})
        with pytest.raises(ValidationError, match="begin again"):
            ask(other, {"numItems": 3, "cursor": cursor})


@pytest.mark.parametrize("journal", ["5", "[5]", "[[1,2,3]]", "{}", "x", '[["a","b"]]', '[["a","b",5]]'])
def test_a_journal_nobody_wrote_is_no_journal(define: Any, journal: str) -> None:
    with with_ranks(9, define) as engine, engine.begin() as tx:
        tx.journal = journal
        assert ranks(DatabaseReader(tx).query("tasks").with_index("by_rank").paginate({"numItems": 2})) == [0, 1]


@pytest.mark.parametrize("name", ["numItems", "maximumRowsRead", "maximumBytesRead"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "3", True])
def test_what_is_no_number_of_things_is_refused_by_name(define: Any, name: str, value: Any) -> None:
    with with_ranks(1, define) as engine, pytest.raises(ValidationError, match=name):
        ask(engine, {"numItems": 1, name: value})
