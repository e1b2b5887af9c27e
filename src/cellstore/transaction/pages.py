"""Pages: pieces of a query with edges that stay.

    cursor            a key, so what comes and goes before it moves nothing; None: the start. Nobody outside can read it
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

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b, shake_256
from hmac import compare_digest
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
_TAG_BYTES = 12  # of a cursor


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
    seal = _Seal(transaction.secret, span)
    start = seal.position(options.cursor)
    end = seal.position(options.end_cursor or _journaled_end(transaction, seal.fingerprint, options.cursor))
    walk = _Walk(transaction, options, end)
    if start == END:
        walk.position = END
    else:
        walk.run(_narrowed(span, start, end if end != END else None), passes)
    cursor = seal.cursor(walk.position)
    transaction.pages.append((seal.fingerprint, options.cursor or "", cursor))
    found = Document(page=walk.page, isDone=walk.position == END, continueCursor=cursor)
    if walk.rows > 2:
        found["splitCursor"] = seal.cursor(walk.middle)
        if walk.status is not None:
            found["pageStatus"] = walk.status
    return found


def position_of(transaction: Reading, span: Span, cursor: str | None) -> str | None:
    """Where a cursor of this query stands: a key in hexadecimal, "end", or None for the start. For checkers of histories."""
    return _Seal(transaction.secret, span).position(cursor)


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


class _Seal:
    """Positions in one index, one range and one direction as cursors, and back.

    A position is a key: it holds values of a document that a filter may have kept from whoever gets the cursor. So it is
    enciphered with the store's secret, the same each time: the tag is a keyed hash of the position, and what the position is
    covered with comes from the tag (as in SIV mode). A cursor opens if sealing what is in it makes the same one.
    """

    def __init__(self, secret: bytes, span: Span) -> None:
        self._secret = secret
        text = repr((span.meta.number, span.lo, span.hi, span.descending))
        self.fingerprint = blake2b(text.encode(), digest_size=6, key=secret).hexdigest()

    def cursor(self, position: str) -> str:
        """The cursor of a key in hexadecimal, or of "end"."""
        raw = b"" if position == END else bytes.fromhex(position)
        salt = self.fingerprint.encode()
        tag = blake2b(raw, digest_size=_TAG_BYTES, key=self._secret, salt=salt).digest()
        return f"{self.fingerprint}.{urlsafe_b64encode(tag + self._covered(tag, raw)).decode()}"

    def position(self, cursor: str | None) -> str | None:
        """What `cursor` made it of; None of None. Errors: ValidationError (InvalidCursor)."""
        if cursor is None or cursor == END:  # the end: of a table that did not exist yet
            return cursor
        position = self._opened(cursor) if isinstance(cursor, str) else None
        if position is None or not compare_digest(self.cursor(position).encode(), cursor.encode(errors="replace")):
            problem = "this cursor belongs to another query: begin again without a cursor"
            raise ValidationError(problem, path="cursor", code="InvalidCursor")
        return position

    def _opened(self, cursor: str) -> str | None:
        try:
            sealed = urlsafe_b64decode(cursor.partition(".")[2])
        except ValueError:
            return None
        return self._covered(sealed[:_TAG_BYTES], sealed[_TAG_BYTES:]).hex() or END

    def _covered(self, tag: bytes, text: bytes) -> bytes:
        cover = shake_256(self._secret + tag).digest(len(text))
        return bytes(each ^ other for each, other in zip(text, cover, strict=True))


def _journaled_end(transaction: Reading, fingerprint: str, cursor: str | None) -> str | None:
    """Where this page ended when the query ran before. Clients keep journals: one that says something else says nothing."""
    try:
        pages = None if transaction.journal is None else loads(transaction.journal)
    except ValidationError:
        return None
    for page in pages if isinstance(pages, list) else ():
        match page:
            case [of_query, start, str(end)] if of_query == fingerprint and start == (cursor or ""):
                return end
    return None
