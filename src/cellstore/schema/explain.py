"""The slow twin of the compiled validator: decides the same, converts more, and says exactly what is wrong.

It runs when the compiled form has refused a value: either the value is wrong, and the error names the one place to look
at; or it is right in a way only Python can see (a dataclass where an object is stored, an enum's member, a union in which
1 and 1.0 must stay apart), and the stored form is returned.

Unions     the error is that of the closest member: the one whose kind fits, with the most matching tags and field names
Invariant  whatever the compiled form accepts is accepted here, with the same result
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import re
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from cellstore.errors import ValidationError
from cellstore.schema import moments
from cellstore.schema.expr import TypeExpr, describe
from cellstore.values.ids import decode_id, whole_document
from cellstore.values.value import INT_MAX, INT_MIN, same, short

TableOf = Callable[[int], str | None]
"""Table number to table name, None when there is no such table."""

N = TypeVar("N", int, float)
S = TypeVar("S", str, bytes, list[Any])

_SHOWN_CHARS = 60
_SHOWN_NAMES = 12


class Misfit(Exception):
    """A value that does not fit. The steps to it are added while the stack unwinds."""

    def __init__(self, expected: str, got: str, message: Callable[[str], str] | None = None) -> None:
        """`message`: of what the thing is called that is missing or one too many, "field"."""
        self.expected, self.got, self.message = expected, got, message
        self.steps: list[str | int] = []  # innermost first

    def error(self, where: str, part: str = "field") -> ValidationError:
        """As callers see it. `part`: what the outermost fields are."""
        path = where
        for step in reversed(self.steps):
            path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
        part = part if len(self.steps) == 1 else "field"
        text = f"expected {self.expected}, got {self.got}" if self.message is None else self.message(part)
        message = f"{path}: {text}" if path else text
        return ValidationError(message, path=path, expected=self.expected, got=self.got)


def fit(expr: TypeExpr, value: object, table_of: TableOf | None = None) -> Any:
    """`value` in its stored form, if it is of this type. Errors: Misfit.

    With `table_of`, the number inside each id must belong to the table its type names.
    """
    if expr["type"] == "id":
        return _id(expr, value, table_of)
    if expr["type"] not in ("any", "datetime", "date"):
        value = _plain(value)
    return _FITS[expr["type"]](expr, value, table_of)


def got(value: object) -> str:
    """A value as an error shows it: its type and a short repr."""
    if value is None:
        return "None"
    kind = type(value)
    name = (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )
    if kind.__module__.partition(".")[0] == "numpy" and hasattr(value, "item"):
        return f"{name} ({_short(value)}), which is not plain Python; use .item() or .tolist()"
    return f"{name} {_short(value)}"


def near(name: str, known: list[str]) -> str:
    """` (did you mean 'text'?)`, or nothing."""
    found = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    return f" (did you mean {' or '.join(map(repr, found))}?)" if found else ""


def _short(value: object) -> str:
    if isinstance(value, dict):
        names = [str(name) for name in value]
        text = f"{{{', '.join(names[:_SHOWN_NAMES])}{', …' if len(names) > _SHOWN_NAMES else ''}}}"
    elif isinstance(value, list | tuple | set | frozenset) and len(value) > 8:
        return f"of {len(value)} values"
    else:
        return short(value)
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"


def _plain(value: object) -> object:
    """What an enum's member, a dataclass or a pydantic model stands for; anything else is itself."""
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    dump = getattr(type(value), "__pydantic_fields__", None)
    return {name: getattr(value, name) for name in dump} if dump is not None else value


def _refuse(expr: TypeExpr, value: object) -> NoReturn:
    raise Misfit(describe(expr), got(value))


# ── scalars ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _any(_expr: TypeExpr, value: object, _table_of: TableOf | None) -> object:
    return value


def _null(expr: TypeExpr, value: object, _table_of: TableOf | None) -> None:
    if value is not None:
        _refuse(expr, value)


def _boolean(expr: TypeExpr, value: object, _table_of: TableOf | None) -> bool:
    return value if isinstance(value, bool) else _refuse(expr, value)


def _int(expr: TypeExpr, value: object, _table_of: TableOf | None) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        _refuse(expr, value)
    if not INT_MIN <= value <= INT_MAX:
        raise Misfit("an int of 64 bits", got(value))
    return _in_limits(expr, int(value))


def _float(expr: TypeExpr, value: object, _table_of: TableOf | None) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        _refuse(expr, value)
    try:
        return _in_limits(expr, float(value))
    except OverflowError:
        _refuse(expr, value)


def _in_limits(expr: TypeExpr, value: N) -> N:
    fits = (
        ("ge" not in expr or value >= expr["ge"])
        and ("gt" not in expr or value > expr["gt"])
        and ("le" not in expr or value <= expr["le"])
        and ("lt" not in expr or value < expr["lt"])
    )
    return value if fits else _refuse(expr, value)


def _string(expr: TypeExpr, value: object, _table_of: TableOf | None) -> str:
    if not isinstance(value, str):
        _refuse(expr, value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Misfit("valid Unicode", f"str {_short(value)} with a lone surrogate") from None
    if "pattern" in expr and re.search(expr["pattern"], value) is None:
        _refuse(expr, value)
    return _of_length(expr, str(value))


def _bytes(expr: TypeExpr, value: object, _table_of: TableOf | None) -> bytes:
    return _of_length(expr, bytes(value)) if isinstance(value, bytes) else _refuse(expr, value)


def _of_length(expr: TypeExpr, value: S) -> S:
    if not expr.get("min_length", 0) <= len(value) <= expr.get("max_length", len(value)):
        _refuse(expr, value)
    return value


def _literal(expr: TypeExpr, value: object, _table_of: TableOf | None) -> object:
    wanted = expr["value"]
    if type(value) is type(wanted) and value == wanted:
        return wanted
    if isinstance(wanted, str) and isinstance(value, str) and value == wanted:
        return wanted
    if type(wanted) is int and isinstance(value, float) and value == wanted:  # integral numbers arrive as floats
        return wanted
    _refuse(expr, value)


def _id(expr: TypeExpr, value: object, table_of: TableOf | None) -> str:
    if not isinstance(value, str):
        raise Misfit(describe(expr), whole_document(value) or got(value))
    known = getattr(value, "table", None)  # an Id of ours may know its table
    if known is not None and known != expr["table"]:
        raise Misfit(describe(expr), f"an id of table {known!r}")
    try:
        number, _ = decode_id(value)
    except ValidationError:
        _refuse(expr, value)
    if table_of is not None:
        table = table_of(number)
        if table != expr["table"]:
            of = "an id of a table that does not exist" if table is None else f"an id of table {table!r}"
            raise Misfit(describe(expr), f"{of} ({value!r})")
    return str(value)


def _datetime(_expr: TypeExpr, value: object, _table_of: TableOf | None) -> str:
    try:
        return moments.datetime_text(value)
    except moments.NaiveDatetime:
        advice = "without a time zone; say which one, as in datetime.now(timezone.utc) or .replace(tzinfo=…)"
        raise Misfit(moments.DATETIME_FORM, f"{got(value)} {advice}") from None
    except ValueError:
        raise Misfit(moments.DATETIME_FORM, got(value)) from None


def _date(_expr: TypeExpr, value: object, _table_of: TableOf | None) -> str:
    try:
        return moments.date_text(value)
    except ValueError:
        raise Misfit(moments.DATE_FORM, got(value)) from None


# ── containers ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _array(expr: TypeExpr, value: object, table_of: TableOf | None) -> list[Any]:
    if isinstance(value, tuple | set | frozenset):
        raise Misfit(describe(expr), f"{got(value)}; make it a list")
    if not isinstance(value, list):
        _refuse(expr, value)
    made = [_step(expr["items"], item, table_of, at) for at, item in enumerate(value)]
    return _of_length(expr, made)


def _record(expr: TypeExpr, value: object, table_of: TableOf | None) -> dict[str, Any]:
    _check_names(expr, value)
    return {str(name): _step(expr["values"], item, table_of, name) for name, item in value.items()}  # type: ignore[attr-defined]


def _object(expr: TypeExpr, value: object, table_of: TableOf | None) -> dict[str, Any]:
    _check_names(expr, value)
    assert isinstance(value, dict)
    fields, extra = expr["fields"], expr.get("extra")
    for name in value:
        if name not in fields and extra is None:
            raise _unknown(name, list(fields))
    made: dict[str, Any] = {}
    for name, field in fields.items():
        if name in value:
            made[name] = _step(field["type"], value[name], table_of, name)
        elif not field["optional"]:
            raise _missing(name, field["type"])
    if extra is not None:
        rest = [name for name in value if name not in fields]
        made.update({str(name): _step(extra, value[name], table_of, name) for name in rest})
    return made


def _check_names(expr: TypeExpr, value: object) -> None:
    if not isinstance(value, dict):
        _refuse(expr, value)
    for name in value:
        if not isinstance(name, str):
            raise Misfit("str as the names of fields", got(name))


def _unknown(name: str, known: list[str]) -> Misfit:
    names = ", ".join(known)
    misfit = Misfit(
        f"one of {names}" if known else "nothing",
        f"{name!r}",
        lambda part: (
            f"there is no {part} {name!r}{near(name, known)}; {f'the {part}s are {names}' if known else 'there are none'}"
        ),
    )
    misfit.steps.append(name)
    return misfit


def _missing(name: str, expr: TypeExpr) -> Misfit:
    words = describe(expr)
    misfit = Misfit(
        words,
        "nothing",
        lambda part: f"expected {words}, got nothing: the {part} is required (a default makes it optional)",
    )
    misfit.steps.append(name)
    return misfit


def _step(expr: TypeExpr, value: object, table_of: TableOf | None, step: str | int) -> Any:
    try:
        return fit(expr, value, table_of)
    except Misfit as misfit:
        misfit.steps.append(step)
        raise


# ── unions ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _union(expr: TypeExpr, value: object, table_of: TableOf | None) -> Any:
    fitting: list[Any] = []
    misfits: list[tuple[TypeExpr, Misfit]] = []
    for member in expr["members"]:
        try:
            fitted = fit(member, value, table_of)
        except Misfit as misfit:
            misfits.append((member, misfit))
            continue
        if same(fitted, value):  # 1.0 is a float of `int | float` although it could become an int
            return fitted
        fitting.append(fitted)
    if fitting:
        return fitting[0]
    close = [(_closeness(member, value, misfit), misfit) for member, misfit in misfits if _is_kind(member, value)]
    if not close:
        _refuse(expr, value)
    closest = max(close, key=lambda pair: pair[0])[1]
    if closest.message is None:  # what any of them would have taken there: 'cat' or 'dog'
        there = [misfit for _, misfit in close if misfit.steps == closest.steps and misfit.message is None]
        closest.expected = " or ".join(dict.fromkeys(misfit.expected for misfit in there))
    raise closest


def _is_kind(expr: TypeExpr, value: object) -> bool:
    """Whether the outside fits, so that the error is inside."""
    kind = expr["type"]
    if kind in ("object", "record"):
        return isinstance(value, dict)
    if kind == "array":
        return isinstance(value, list)
    if kind == "id":  # its error tells whose id it is instead, or where a document has its own
        return _is_id(value) or bool(whole_document(value))
    return kind == "datetime" and type(value).__name__ in ("datetime", "Timestamp")


def _is_id(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(decode_id(value))
    except ValidationError:
        return False


def _closeness(expr: TypeExpr, value: object, misfit: Misfit) -> tuple[int, int, int]:
    fields = expr.get("fields", {})
    if not isinstance(value, dict):
        return 0, 0, len(misfit.steps)
    tags = sum(name in value and _is_tag(field["type"], value[name]) for name, field in fields.items())
    return tags, sum(name in value for name in fields), len(misfit.steps)


def _is_tag(expr: TypeExpr, value: object) -> bool:
    return bool(expr["type"] == "literal" and expr["value"] == value)


_FITS: dict[str, Callable[[TypeExpr, Any, TableOf | None], Any]] = {
    "any": _any,
    "null": _null,
    "boolean": _boolean,
    "int": _int,
    "float": _float,
    "string": _string,
    "bytes": _bytes,
    "literal": _literal,
    "datetime": _datetime,
    "date": _date,
    "array": _array,
    "record": _record,
    "object": _object,
    "union": _union,
}
