"""What ids inside of imported documents mean here.

    of a table in the import         they follow it, if it gets another number than it had
    of one imported earlier          a table that got another number then knows the ones its ids came with (`came_as`). An id
                                     with one of these means its document, if that is there and none is under the id as it is
    of a document that is not here   they stay as they are, and the import tells of them: they point nowhere

Ids are known by their form, wherever they stand, also as keys. A text of 31 to 37 letters and digits that is none has one
chance in 65,536 to look like one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cellstore.errors import ValidationError
from cellstore.transaction.catalog import FIRST_TABLE, Catalog
from cellstore.values.ids import CHARS_MAX, CHARS_MIN, decode_id, encode_id

if TYPE_CHECKING:
    from cellstore.transaction.transaction import Transaction

_QUOTED = re.compile(rb'"([0-9a-z]{%d,%d})"' % (CHARS_MIN, CHARS_MAX))


class References:
    """The ids of one import. `coming`: the numbers its tables had, to those they get."""

    def __init__(self, coming: Mapping[int, int], catalog: Catalog) -> None:
        self._coming = coming
        self._earlier: dict[int, list[int]] = {}
        for table in catalog.user_tables():
            for number in table.came_as:
                if number not in coming:
                    self._earlier.setdefault(number, []).append(table.number)

    @property
    def may_move(self) -> bool:
        """Whether some id may have to be written otherwise than it comes."""
        return bool(self._earlier) or any(had != gets for had, gets in self._coming.items())

    def followed(self, value: Any, transaction: Transaction) -> Any:
        """The value with the ids in it as they are here."""
        kind = type(value)
        if kind is dict:
            return {self.followed(key, transaction): self.followed(inner, transaction) for key, inner in value.items()}
        if kind is list:
            return [self.followed(item, transaction) for item in value]
        if kind is not str or not CHARS_MIN <= len(value) <= CHARS_MAX:
            return value
        return self._here(value, transaction) or value

    def nowhere(self, lines: bytes, transaction: Transaction) -> list[str]:
        """The ids in some native JSON of documents that are neither here nor in a table of the import."""
        return [id for each in _QUOTED.findall(lines) if self._here(id := each.decode(), transaction) is None]

    def _here(self, text: str, transaction: Transaction) -> str | None:
        """An id as it is here; None if it points nowhere. What is no id is what it is."""
        try:
            number, internal = decode_id(text)
        except ValidationError:
            return text
        if number in self._coming:
            gets = self._coming[number]
            return text if gets == number else encode_id(gets, internal)
        if number < FIRST_TABLE:
            return text
        for candidate in (number, *self._earlier.get(number, ())):
            table = transaction.catalog.by_number(candidate)
            if table is not None and not table.stands_for and transaction.holds(candidate, internal):
                return encode_id(candidate, internal)
        return None
