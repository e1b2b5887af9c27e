"""Document ids: a table number and sixteen bytes, as text.

Shape:  base32( varint(table number) · internal id, 16 bytes · footer, 2 bytes )

    base32     lower-case Crockford alphabet, most significant bits first, no padding, last character filled with zeros
    varint     unsigned LEB128, one to five bytes
    internal   14 bytes of chance and the day since the epoch, big-endian
    footer     Fletcher-16 modulo 256 over all that comes before

Decoding is strict: exactly one string names a document. 31 characters for small table numbers, 32 for the usual ones.
Source: Convex, `crates/value/src/id_v6.rs`, so that ids survive a snapshot import unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any, ClassVar

from cellstore.errors import ValidationError

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_INTERNAL_BYTES = 16
_FOOTER_BYTES = 2
CHARS_MIN, CHARS_MAX = 31, 37
_CACHED_IDS_MAX = 100_000


class Id(str):
    """A document id: a string that knows its table.

    `Id["users"]` is the annotation for ids of one table, and the class of such ids. Classes are made once per table,
    compare by identity, and travel by name through pickle.
    """

    __slots__ = ()
    __cellstore_str__: ClassVar[bool] = True

    table: ClassVar[str | None] = None

    def __class_getitem__(cls, table: str) -> type[Id]:
        if not isinstance(table, str):
            raise TypeError(f'Id takes a table name, as in Id["users"], not {table!r}')
        return _class_of(table)


def _class_of(table: str) -> type[Id]:
    made = _classes.get(table)
    if made is None:
        name = _CLASS_PREFIX + table
        body: dict[str, Any] = {"__slots__": (), "table": table, "__module__": __name__, "__qualname__": name}
        made = _classes.setdefault(table, type(name, (Id,), body))
    return made


_CLASS_PREFIX = "Id_"
_classes: dict[str, type[Id]] = {}


def __getattr__(name: str) -> type[Id]:
    # Pickle finds a class by module and name; this is how a worker finds Id["users"] before anyone asked for it.
    if name.startswith(_CLASS_PREFIX):
        return _class_of(name.removeprefix(_CLASS_PREFIX))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def mint(random: Callable[[int], bytes], day: int) -> bytes:
    """Sixteen new bytes. `random(n)` gives n random bytes; `day` is the day since the epoch."""
    return random(14) + (day & 0xFFFF).to_bytes(2, "big")


class Minter:
    """Ids for the inserts of one transaction, in rising order.

    They share five random bytes and count up in the next three, so a bulk load fills neighbouring pages instead of
    touching every page of the table, and reading documents in the order they came reads pages in order. Six random
    bytes each keep siblings from being guessed. A transaction of one insert gets an id as random as `mint` gives.
    """

    __slots__ = ("_count", "_prefix", "_random", "_suffix")

    def __init__(self, random: Callable[[int], bytes], day: int) -> None:
        self._random = random
        self._prefix = random(5)
        self._suffix = (day & 0xFFFF).to_bytes(2, "big")
        self._count = int.from_bytes(random(3), "big")

    def mint(self) -> bytes:
        """The next sixteen bytes."""
        self._count += 1
        if self._count >> 24:  # the first count is random, so it may run over: begin a new run of ids
            self._prefix, self._count = self._random(5), 0
        return self._prefix + self._count.to_bytes(3, "big") + self._random(6) + self._suffix

    def mint_many(self, count: int) -> list[bytes]:
        """The next `count` ids, their chance drawn at once."""
        if self._count + count >> 24:
            return [self.mint() for _ in range(count)]
        prefix, suffix, first, chance = self._prefix, self._suffix, self._count + 1, self._random(6 * count)
        self._count += count
        return [prefix + (first + at).to_bytes(3, "big") + chance[6 * at : 6 * at + 6] + suffix for at in range(count)]


def encode_id(number: int, internal: bytes) -> str:
    """The text of the document `internal` (16 bytes) of the table `number`. Microseconds; less if seen lately."""
    key = (number, internal)
    text = _encoded.get(key)
    if text is None:
        if len(internal) != _INTERNAL_BYTES:
            raise ValidationError(expected="16 id bytes", got=f"{len(internal)} bytes")
        data = _varint(number) + internal
        text = _to_base32(data + _footer(data))
        if len(_encoded) >= _CACHED_IDS_MAX:
            _encoded.clear()
        _encoded[key] = text
    return text


def forget_ids() -> None:
    """Let go of what is remembered of ids seen lately; a process that idles does."""
    _encoded.clear()
    _decoded.clear()


def decode_id(text: str) -> tuple[int, bytes]:
    """(table number, 16 bytes) of an id.

    Errors: ValidationError when `text` is no id; a changed or missing character is always noticed.
    """
    try:
        return _decoded[text]  # several times in every call
    except (KeyError, TypeError):  # not seen lately; a document, perhaps
        pass
    if not isinstance(text, str):
        raise ValidationError(
            expected="a document id", got=whole_document(text) or f"{type(text).__name__} {text!r:.60}"
        )
    found = _decode(text)
    if len(_decoded) >= _CACHED_IDS_MAX:
        _decoded.clear()
    _decoded[str(text)] = found
    return found


def whole_document(value: object) -> str:
    """What an error says of a document where an id is expected; nothing of any other value."""
    return 'a whole document: use doc._id or doc["_id"]' if isinstance(value, dict) and "_id" in value else ""


_encoded: dict[tuple[int, bytes], str] = {}
_decoded: dict[str, tuple[int, bytes]] = {}


def _decode(text: str) -> tuple[int, bytes]:
    if not CHARS_MIN <= len(text) <= CHARS_MAX:
        raise _no_id(text, f"it has {len(text)} characters, an id has {CHARS_MIN} to {CHARS_MAX}")
    if text.strip(_ALPHABET):
        raise _no_id(text, "it holds characters no id has")
    data = _from_base32(text)
    if data is None:
        raise _no_id(text, "its last character is not one an id can end with")
    number, start = _read_varint(data)
    body = len(data) - _FOOTER_BYTES
    if start == 0 or number == 0 or body - start != _INTERNAL_BYTES or _varint(number) != data[:start]:
        raise _no_id(text, "its length does not fit its table number")
    if _footer(data[:body]) != data[body:]:
        raise _no_id(text, "its check digits do not fit; was it cut or mistyped?")
    return number, data[start:body]


def _no_id(text: str, why: str) -> ValidationError:
    shown = repr(str(text) if len(text) <= 60 else text[:57] + "…")
    return ValidationError(f"{shown} is not a document id: {why}", expected="a document id", got=shown)


def _varint(number: int) -> bytes:
    made = _varints.get(number)
    if made is None:
        if not 1 <= number < 1 << 32:
            raise ValidationError(expected="a table number of 1 to 2^32 - 1", got=str(number))
        groups = []
        rest = number
        while rest > 0x7F:
            groups.append(rest & 0x7F | 0x80)
            rest >>= 7
        made = _varints[number] = bytes([*groups, rest])
    return made


_varints: dict[int, bytes] = {}


def _read_varint(data: bytes) -> tuple[int, int]:
    """(number, bytes it took); (0, 0) when it does not end within five bytes."""
    number = 0
    for position, byte in enumerate(data[:5]):
        number |= (byte & 0x7F) << 7 * position
        if byte < 0x80:
            return (number, position + 1) if number < 1 << 32 else (0, 0)
    return 0, 0


def _footer(data: bytes) -> bytes:
    return bytes((sum(data) & 0xFF, sum(accumulate(data)) & 0xFF))


_TO_PYTHON_DIGITS = str.maketrans(_ALPHABET, "0123456789abcdefghijklmnopqrstuv")
_USUAL_BYTES = 20  # table numbers of 128 to 16,383


def _to_base32(data: bytes) -> str:
    if len(data) == _USUAL_BYTES:
        return _spread(data).translate(_TO_CHARS).decode()
    bits = 8 * len(data)
    number = int.from_bytes(data, "big") << -bits % 5
    return "".join([_ALPHABET[number >> shift & 31] for shift in range(bits + -bits % 5 - 5, -5, -5)])


def _lanes(width: int, low: int, high: int) -> int:
    """A mask over 256 bits that takes the bits [low, high) of every lane of `width`."""
    return sum(((1 << high) - (1 << low)) << at for at in range(0, 256, width))


def _spread(data: bytes) -> bytes:
    """20 bytes as 32 of five bits each: the halves of every lane move apart, five times over.

    A loop over the characters takes three times as long, and a query's result is full of ids.
    """
    bits = int.from_bytes(data, "big")
    bits = (bits & _HIGH_80) << 48 | bits & _LOW_80
    bits = (bits & _HIGH_40) << 24 | bits & _LOW_40
    bits = (bits & _HIGH_20) << 12 | bits & _LOW_20
    bits = (bits & _HIGH_10) << 6 | bits & _LOW_10
    bits = (bits & _HIGH_5) << 3 | bits & _LOW_5
    return bits.to_bytes(32, "big")


_HIGH_80, _LOW_80 = _lanes(256, 80, 160), _lanes(256, 0, 80)
_HIGH_40, _LOW_40 = _lanes(128, 40, 80), _lanes(128, 0, 40)
_HIGH_20, _LOW_20 = _lanes(64, 20, 40), _lanes(64, 0, 20)
_HIGH_10, _LOW_10 = _lanes(32, 10, 20), _lanes(32, 0, 10)
_HIGH_5, _LOW_5 = _lanes(16, 5, 10), _lanes(16, 0, 5)
_TO_CHARS = _ALPHABET.encode() + bytes(224)


def _from_base32(text: str) -> bytes | None:
    """The bytes; None when the bits left over are not zero."""
    number = int(text.translate(_TO_PYTHON_DIGITS), 32)
    bits = 5 * len(text)
    size, left_over = divmod(bits, 8)
    if left_over >= 5 or number & ((1 << left_over) - 1):
        return None
    return (number >> left_over).to_bytes(size, "big")
