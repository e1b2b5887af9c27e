"""Pages: pieces of a query with edges that stay.

    cursor            a key, so what comes and goes before it moves nothing; None: the start
    continueCursor    where this page ends and the next begins
    endCursor         where it ended before, if that is known, by the client or by the journal of an earlier run: the page
                      is everything up to there, however much that has become

Adjoining pages share an edge, so while documents move each of them is on one page, and on one only.

A page without a fixed end also ends where it has looked at `maximumRowsRead` documents or `maximumBytesRead` bytes, those
its filter passed over included. Every page ends where the call may read no more (read_rows_max, read_size_bytes).

    splitCursor       the middle of what was looked at: read it as two pages, before and after
    pageStatus        SplitRecommended    more than three quarters of those limits were used, or the page is long
                      SplitRequired       they ended it; if its end was fixed, documents are missing before it

Invariant  a page shows nothing outside the range of its query, whatever cursor a client makes up
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple

from cellstore.errors import LimitExceeded, ValidationError
from cellstore.transaction.reading import Reading
from cellstore.transaction.scan import Span
from cellstore.values.document import Document
from cellstore.values.json import loads

END = "end"
LONG_ROWS = 6_144  # a page beyond it costs more to send again than a second query does
RECOMMENDED_FROM = 0.75  # of a limit
_KEYS_KEPT = 8_192


class PageOptions(NamedTuple):
    """Which page: `num_items` documents after `cursor` (None: the start), or all of them up to `end_cursor`."""

    num_items: int
    cursor: str | None = None
    end_cursor: str | None = None
    rows_max: int | None = None  # to look at
    size_max: int | None = None  # bytes


def page_options(
    opts: Mapping[str, Any] | PageOptions | None, num_items: int | None, cursor: str | None, end_cursor: str | None
) -> PageOptions:
    """The options, however they were given. Errors: ValidationError naming one."""
    if isinstance(opts, PageOptions):
        return opts
    if not (opts is None or isinstance(opts, Mapping)):
        raise ValidationError(path="paginationOpts", expected='{"numItems", "cursor"}', got=repr(opts)[:60])
    given = {} if opts is None else dict(opts)
    count = _count(given.get("numItems", given.get("num_items", num_items)), "numItems")
    if count is None:
        raise ValidationError(path="numItems", expected="a number of documents, 1 or more", got="nothing")
    return PageOptions(
        count,
        given.get("cursor", cursor),
        given.get("endCursor", given.get("end_cursor", end_cursor)),
        _count(given.get("maximumRowsRead"), "maximumRowsRead"),
        _count(given.get("maximumBytesRead"), "maximumBytesRead"),
    )


def _count(value: Any, name: str) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ValidationError(path=name, expected="a whole number, 1 or more", got=repr(value)[:60])
    return value


def empty_page() -> Document:
    """The page of a table that is not there."""
    return Document(page=[], isDone=True, continueCursor=END)


def read_page(
    transaction: Reading, span: Span, options: PageOptions, passes: Callable[[Document], bool] | None
) -> Document:
    """One page of a span; `passes` says which documents are on it, None: all. Errors: ValidationError (InvalidCursor)."""
    fingerprint = _fingerprint(span)
    start = _position(options.cursor, fingerprint)
    end = _position(options.end_cursor or _journaled_end(transaction, fingerprint, options.cursor), fingerprint)
    walk = _Walk(transaction, options, end)
    if start == END:
        walk.position = END
    else:
        walk.run(_narrowed(span, start, end if end != END else None), passes)
    cursor = _cursor(walk.position, fingerprint)
    transaction.pages.append((fingerprint, options.cursor or "", cursor))
    found = Document(page=walk.page, isDone=walk.position == END, continueCursor=cursor)
    if walk.rows > 2:
        found["splitCursor"] = _cursor(walk.middle, fingerprint)
        if walk.status is not None:
            found["pageStatus"] = walk.status
    return found


@dataclass(slots=True)
class _Walk:
    """A page while it is read. `position` is where it ends: a key in hexadecimal, or "end"."""

    transaction: Reading
    options: PageOptions
    end: str | None  # fixed, so nothing but the limits of the call ends it earlier
    page: list[Document] = field(default_factory=list)
    position: str = END
    rows: int = 0  # looked at
    is_cut: bool = False
    _keys: list[bytes] = field(default_factory=list)  # every `_stride`-th of those looked at
    _stride: int = 1
    _last: bytes = b""
    _began: int = 0

    def run(self, span: Span, passes: Callable[[Document], bool] | None) -> None:
        """Read it."""
        want = self.options.num_items if self.end is None else None
        self._began = self.transaction.read_size_bytes
        for key, document in self._readable(self.transaction.scan_span(span, None if passes else want)):
            self._look(key)
            if passes is None or passes(document):
                self.page.append(document)
            if self.end is None and (len(self.page) == want or self._is_spent()):
                self.position = key.hex()
                break
        if self.is_cut and self.end is None:
            self.position = self._last.hex()
        elif self.end is not None:
            self.position = self.end

    @property
    def middle(self) -> str:
        """The middle of what was looked at."""
        return self._keys[(len(self._keys) - 1) // 2].hex()

    @property
    def status(self) -> str | None:
        """Whether to read it as two."""
        if self.is_cut:
            return "SplitRequired"
        used = max(self.rows / self._limits[0], self._size / self._limits[1])
        return "SplitRecommended" if used > RECOMMENDED_FROM or len(self.page) > LONG_ROWS else None

    @property
    def _size(self) -> int:
        return self.transaction.read_size_bytes - self._began

    @property
    def _limits(self) -> tuple[int, int]:
        """Documents and bytes."""
        knobs, asked = self.transaction.knobs, self.options
        if self.end is not None:
            return knobs.read_rows_max, knobs.read_size_bytes
        return asked.rows_max or knobs.read_rows_max, asked.size_max or knobs.read_size_bytes

    def _readable(self, documents: Iterator[tuple[bytes, Document]]) -> Iterator[tuple[bytes, Document]]:
        """As many as the limits of the call allow. Errors: LimitExceeded when not even one."""
        try:
            yield from documents
        except LimitExceeded:
            if not self.rows:
                raise
            self.is_cut = True

    def _look(self, key: bytes) -> None:
        if self.rows % self._stride == 0:
            self._keys.append(key)
            if len(self._keys) > _KEYS_KEPT:
                del self._keys[1::2]
                self._stride *= 2
        self.rows += 1
        self._last = key

    def _is_spent(self) -> bool:
        rows_max, size_max = self._limits
        self.is_cut = self.rows >= rows_max or self._size >= size_max
        return self.is_cut


def _narrowed(span: Span, after: str | None, upto: str | None) -> Span:
    """The part of the span between two positions, the first exclusive, the last inclusive, in scan direction."""
    lo, hi = span.lo, span.hi
    first, last = (upto, after) if span.descending else (after, upto)
    if first is not None:
        lo = max(lo, bytes.fromhex(first) + (b"" if span.descending else b"\0"))
    if last is not None:
        hi = min(hi, bytes.fromhex(last) + (b"" if span.descending else b"\0"))
    return span._replace(lo=lo, hi=hi)


# ── cursors ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _fingerprint(span: Span) -> str:
    """What a cursor belongs to: one index, one range, one direction."""
    text = repr((span.meta.number, span.lo, span.hi, span.descending))
    return blake2b(text.encode(), digest_size=6).hexdigest()


def _cursor(position: str, fingerprint: str) -> str:
    return f"{fingerprint}.{position}"


def _position(cursor: str | None, fingerprint: str) -> str | None:
    if cursor is None:
        return None
    if cursor == END:  # a page of a table that did not exist yet
        return END
    mark, _, position = cursor.partition(".") if isinstance(cursor, str) else ("", "", "")
    if mark != fingerprint or not _is_position(position):
        raise ValidationError(
            "this cursor belongs to another query: begin again without a cursor", path="cursor", code="InvalidCursor"
        )
    return position


def _is_position(text: str) -> bool:
    if text == END:
        return True
    try:
        return len(bytes.fromhex(text)) >= 16
    except ValueError:
        return False


def _journaled_end(transaction: Reading, fingerprint: str, cursor: str | None) -> str | None:
    """Where this page ended when the query ran before."""
    if transaction.journal is None:
        return None
    for of_query, start, end in loads(transaction.journal):
        if of_query == fingerprint and start == (cursor or ""):
            return str(end)
    return None
