"""What may be stored, and how large it is.

Plain Python only: None, bool, int (64 bits), float, str, bytes, list, and dict with string keys. An id is a `str`.
Whatever else arrives is refused with a word on what to use instead, never silently converted: a tuple that came back as
a list, or a numpy integer that came back as something else, would break the promise that what is read is what was
written.

    accounting size in bytes      None, bool 1 · int, float 9 · str, bytes 2 + n (UTF-8)
                                  list 2 + sum · dict 2 + sum(len(name) + 1 + value)

Invariant: a value that passed `check_value` can be dumped, keyed and compared; nothing later checks again.
Source:    Convex, `crates/value/src/size.rs`; the limits are knobs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from cellstore.errors import LimitExceeded, ValidationError
from cellstore.knobs import DEFAULTS, Knobs

Value: TypeAlias = bool | int | float | str | bytes | list[Any] | dict[str, Any] | None

INT_MIN: Final = -(1 << 63)
INT_MAX: Final = (1 << 63) - 1

_NESTED_NAME_CHARS_MAX = 1024
_TOP_NAME_CHARS_MAX = 64
_KNOWN_NAMES_MAX = 10_000


class Sentinel:
    """A marker that is one object everywhere, also after pickling."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name

    def __bool__(self) -> bool:
        return False

    def __reduce__(self) -> str:
        return self._name


MISSING: Final = Sentinel("MISSING")
"""An absent field where a value is expected: as an index-key component, below None in the order."""

UNSET: Final = Sentinel("UNSET")
"""In a patch: remove this field."""


def check_value(value: object, path: str = "", *, depth_max: int = DEFAULTS.value_depth_max) -> int:
    """The accounting size of `value` in bytes, if it may be stored, passed or returned.

    Lists and dicts may be of any length here (results become dataframes); `check_document` bounds them.
    Errors: ValidationError; `.path` leads from `path` to the culprit.
    """
    try:
        return _size(value, depth_max, _NO_LIMIT, _NO_LIMIT)
    except _Unfit as unfit:
        raise unfit.error(path) from None


def check_document(fields: Mapping[str, object], knobs: Knobs = DEFAULTS, path: str = "") -> int:
    """The accounting size of a document's user fields in bytes, if they may be stored.

    `fields` must not hold `_id` or `_creationTime`: the store sets them.
    Errors: ValidationError for a wrong value or name, LimitExceeded for size.
    """
    if not isinstance(fields, dict):
        raise ValidationError(path=path, expected="a document (a dict of fields)", got=_describe(fields))
    try:
        for name in fields:
            if name not in _top_names:
                _learn_top_name(name)
        size = _object_size(fields, knobs.document_depth_max, knobs.array_length_max, knobs.document_fields_max)
    except _Unfit as unfit:
        raise unfit.error(path) from None
    if size > knobs.document_size_bytes:
        raise LimitExceeded(
            f"the document has {size:,} bytes, a document may have {knobs.document_size_bytes:,}; "
            "keep large things in files and store a reference",
            knob="document_size_bytes",
            limit=knobs.document_size_bytes,
            used=size,
        )
    return size


def same(a: object, b: object) -> bool:
    """Are these one and the same stored value? 1, 1.0 and True are three; -0.0 is not 0.0; NaN is NaN.

    The order of a dict's keys does not matter. Both must have passed `check_value`.
    """
    if a is b:
        return True
    kind = kind_of(a)
    if kind is not kind_of(b):
        return False
    if kind is dict:
        return (
            len(a) == len(b)  # type: ignore[arg-type]
            and all(name in b and same(value, b[name]) for name, value in a.items())  # type: ignore[attr-defined,operator,index]
        )
    if kind is list:
        return len(a) == len(b) and all(map(same, a, b))  # type: ignore[arg-type,call-overload]
    if kind is float:
        return (a == b and (a != 0 or str(a) == str(b))) or (a != a and b != b)
    return bool(a == b)


class _Kinds(dict[type, type | None]):
    """Python type to the stored type it counts as; None when it may not be stored. Learns subclasses as they come."""

    def __missing__(self, kind: type) -> type | None:
        # Subclasses of dict are common and harmless (they come back as dicts). Subclasses of the scalars are not:
        # numpy's float64 is a float, an IntEnum an int. Our own Id registers itself in ids.py.
        stored = dict if issubclass(kind, dict) else str if getattr(kind, "__cellstore_str__", False) is True else None
        self[kind] = stored
        return stored


KINDS = _Kinds({kind: kind for kind in (type(None), bool, int, float, str, bytes, list, dict)})


def kind_of(value: object) -> type | None:
    """The stored type `value` counts as (an Id is a str, a Document a dict); None if it may not be stored."""
    return KINDS[type(value)]


# ── measuring ──────────────────────────────────────────────────────────────────────────────────────────────────────

_NO_LIMIT = 1 << 60


class _Unfit(Exception):
    """Found a culprit; the way to it is added while the stack unwinds, so that fitting values never pay for paths."""

    def __init__(self, expected: str, got: str) -> None:
        self.expected, self.got = expected, got
        self.steps: list[str | int] = []

    def error(self, path: str) -> ValidationError:
        for step in reversed(self.steps):
            path = f"{path}[{step}]" if isinstance(step, int) else f"{path}.{step}" if path else step
        return ValidationError(path=path, expected=self.expected, got=self.got)


def _size(value: Any, depth_left: int, items_max: int, fields_max: int) -> int:
    kind = KINDS[type(value)]
    if kind is str:
        return 2 + (len(value) if value.isascii() else _utf8_length(value))
    if kind is float:
        return 9
    if kind is bool or value is None:
        return 1
    if kind is int:
        if INT_MIN <= value <= INT_MAX:
            return 9
        raise _Unfit("an integer of 64 bits", f"{short(value)}; store it as a string or a float")
    if kind is dict:
        return _object_size(value, depth_left, items_max, fields_max)
    if kind is list:
        return _array_size(value, depth_left, items_max, fields_max)
    if kind is bytes:
        return 2 + len(value)
    raise _Unfit("None, bool, int, float, str, bytes, list or dict", _describe(value) + _advice(value))


def _object_size(fields: dict[Any, Any], depth_left: int, items_max: int, fields_max: int) -> int:
    if depth_left == 0:
        raise _Unfit("shallower nesting", "a dict inside too many others")
    if len(fields) > fields_max:
        raise _Unfit(f"at most {fields_max:,} fields", f"{len(fields):,}")
    total = 2
    for name, value in fields.items():
        if name not in _names:
            _learn_name(name)
        kind = type(value)
        # The commonest leaves are measured here: a call each would double the time of a flat document.
        if kind is float or (kind is int and INT_MIN <= value <= INT_MAX):
            total += len(name) + 10
        elif kind is str and value.isascii():
            total += len(name) + 3 + len(value)
        elif value is None or kind is bool:
            total += len(name) + 2
        else:
            try:
                total += len(name) + 1 + _size(value, depth_left - 1, items_max, fields_max)
            except _Unfit as unfit:
                unfit.steps.append(name)
                raise
    return total


def _array_size(items: list[Any], depth_left: int, items_max: int, fields_max: int) -> int:
    if depth_left == 0:
        raise _Unfit("shallower nesting", "a list inside too many others")
    if len(items) > items_max:
        raise _Unfit(f"at most {items_max:,} items in a list", f"{len(items):,}; make them documents of a table")
    total = 2
    for position, item in enumerate(items):
        try:
            total += _size(item, depth_left - 1, items_max, fields_max)
        except _Unfit as unfit:
            unfit.steps.append(position)
            raise
    return total


def _utf8_length(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        bad = text[error.start]
        raise _Unfit("valid Unicode text", f"a lone surrogate {bad!a} at character {error.start}") from None


# ── names ──────────────────────────────────────────────────────────────────────────────────────────────────────────
# Names repeat from document to document; those found good are remembered, up to a bound.

_names: set[str] = {"_id", "_creationTime"}
_top_names: set[str] = set()
_NESTED_NAME = re.compile(r"[ -~]*", re.ASCII)
_TOP_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*", re.ASCII)


def _learn_name(name: object) -> None:
    if type(name) is not str:
        raise _Unfit("string keys", f"the key {short(name)} of type {type(name).__name__}; use str({short(name)})")
    if len(name) > _NESTED_NAME_CHARS_MAX:
        raise _Unfit(f"names of at most {_NESTED_NAME_CHARS_MAX} characters", f"one of {len(name):,}")
    if name.startswith("$"):
        raise _Unfit("a name that does not begin with $", repr(name))
    if not _NESTED_NAME.fullmatch(name):
        raise _Unfit("a name of printable ASCII characters", f"{short(name)}; free text belongs into values")
    _remember(_names, name)


def _learn_top_name(name: object) -> None:
    if name in ("_id", "_creationTime"):
        raise _Unfit(f"no field {name!r}", "one; the store sets it")
    if type(name) is str and not (len(name) <= _TOP_NAME_CHARS_MAX and _TOP_NAME.fullmatch(name)):
        raise _Unfit(
            f"field names of letters, digits and _, beginning with a letter, at most {_TOP_NAME_CHARS_MAX} long",
            short(name),
        )
    _learn_name(name)
    _remember(_top_names, str(name))


def _remember(known: set[str], name: str) -> None:
    if len(known) >= _KNOWN_NAMES_MAX:
        known.clear()
    known.add(name)


# ── words for what came ────────────────────────────────────────────────────────────────────────────────────────────

_ADVICE: dict[str, str] = {
    "tuple": "use a list",
    "set": "use a list",
    "frozenset": "use a list",
    "range": "use list(…)",
    "generator": "use list(…)",
    "map": "use list(…)",
    "zip": "use list(…)",
    "dict_keys": "use list(…)",
    "dict_values": "use list(…)",
    "bytearray": "use bytes(…)",
    "memoryview": "use bytes(…)",
    "Decimal": "use str(…) to keep every digit, or float(…)",
    "Fraction": "use float(…)",
    "complex": "use a list of two floats",
    "UUID": "use str(…)",
    "PosixPath": "use str(…)",
    "WindowsPath": "use str(…)",
    "datetime": "annotate it as datetime (a field, a parameter, a result), or use .isoformat()",
    "date": "annotate it as date (a field, a parameter, a result), or use .isoformat()",
    "time": "use .isoformat()",
    "timedelta": "use .total_seconds()",
    "Timestamp": "use .isoformat() or .timestamp()",
    "NaTType": "use None",
    "NAType": "use None",
    "ndarray": "use .tolist()",
    "DataFrame": "use insert_df(table, frame), or .to_dict('records')",
    "Series": "use .tolist()",
    "Sentinel": "leave the field out",
    "coroutine": "await it first",
    "QueryBuilder": "end the query with .collect(), .take(n), .first(), .unique(), .count() or .paginate(opts)",
    "QueryContext": "the first parameter is the context, arguments come after it",
    "MutationContext": "the first parameter is the context, arguments come after it",
}


def _advice(value: object) -> str:
    kind = type(value)
    advice = _ADVICE.get(kind.__name__)
    if advice is None and kind.__module__ == "numpy":
        advice = "use .item()"
    elif advice is None and hasattr(kind, "model_dump"):
        advice = "use .model_dump()"
    elif advice is None and hasattr(kind, "__dataclass_fields__"):
        advice = "annotate it with the dataclass, or use dataclasses.asdict(…)"
    elif advice is None and any(base.__module__ == "enum" for base in kind.__mro__):
        advice = "annotate it with the enum, or use .value"
    elif advice is None:
        base = next((b for b in (str, int, float, list, bytes) if issubclass(kind, b)), None)
        advice = f"use {base.__name__}(…)" if base else None
    return f"; {advice}" if advice else ""


def _describe(value: object) -> str:
    kind = type(value)
    module = "" if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__.partition('.')[0]}."
    return f"{module}{kind.__qualname__} {short(value)}"


def short(value: object) -> str:
    """A value in an error's one line: its repr, cut; of frames and arrays the shape."""
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001  a user's __repr__ may do anything; the report must still be made
        text = f"<{type(error).__name__} in repr>"
    if "\n" in text:  # a frame, an array: rows on one line would say less than how many there are
        shape = getattr(value, "shape", None)
        text = f"of shape {shape}" if isinstance(shape, tuple) else " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:57]}…"
