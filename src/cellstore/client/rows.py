"""Frames as documents: batches of native JSON lines from pandas, polars, Arrow, or plain dicts.

    frame ── slices ──▶ columns, converted whole ──▶ rows ──▶ one line each

What is missing stays missing. A NaN, NaT, NA or null becomes no field at all, or None where the table demands the field
and allows None; it never becomes NaN, 0 or "". Other conversions are only made where nothing is lost:

    integral floats       int, in a field declared `int`: pandas turns a column of ints with a gap into floats
    datetime64            text: with a time zone as stored moments (UTC, `Z`), without one as local text (no `Z`), which a
                          field declared `datetime` refuses; midnights as days in a field declared `date`
    categories            their values
    arrays                lists
    NumPy scalars         Python's

The index of a pandas frame is stored when its levels have names. Everything else that is no value (a timedelta, an
interval, a Decimal) is refused by name of its column.

Cost:      about 4 µs for a row of twenty columns; one slice at a time is held beside the frame, and the lines of one batch.
Invariant: a row's line parses to what a caller who wrote the dict by hand would have inserted.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

import orjson

from cellstore.errors import ValidationError
from cellstore.schema.moments import datetime_text
from cellstore.values import json as native
from cellstore.values.value import short

Fields = Mapping[str, Mapping[str, Any]]
"""The declared fields of a table by name; empty when it declares none."""

SYSTEM_FIELDS = ("_id", "_creationTime")
SLICE_ROWS = 1_000  # converted at a time: Python's own objects take thirty times the room of the lines made of them
_ABSENT = object()
_PLAIN_TYPES = frozenset({str, int, bool, type(None)})  # what orjson and native JSON write alike


class Batch(NamedTuple):
    """Some rows: how many, and their lines."""

    size: int
    lines: bytes


def batches(frame: Any, fields: Fields, rows_max: int, bytes_max: int) -> Iterator[Batch]:
    """The rows of `frame` in order, in batches within both bounds. Errors: ValidationError naming the column."""
    parts: list[bytes] = []
    rows = size = 0
    for lines in _slices(frame, fields, min(rows_max, SLICE_ROWS)):
        begin = 0
        for at, line in enumerate(lines):
            if rows and (rows == rows_max or size + len(line) > bytes_max):
                yield Batch(rows, b"\n".join([*parts, *lines[begin:at]]))
                rows, size, parts, begin = 0, 0, [], at
            rows, size = rows + 1, size + len(line) + 1
        if begin < len(lines):
            parts.append(b"\n".join(lines[begin:]))
        if rows == rows_max:  # not only when the next slice comes
            yield Batch(rows, b"\n".join(parts))
            rows, size, parts = 0, 0, []
    if rows:
        yield Batch(rows, b"\n".join(parts))


def moments_undeclared(frame: Any, fields: Fields) -> list[str]:
    """The columns of moments of a frame that the table does not declare, so that they are text to everybody who reads."""
    types: Any = getattr(frame, "dtypes", None) if hasattr(frame, "iloc") else getattr(frame, "schema", None)
    if hasattr(types, "items"):
        columns = [(str(name), str(kind)) for name, kind in types.items()]
    else:
        columns = [(str(field.name), str(field.type)) for field in types or ()]  # Arrow
    return [name for name, kind in columns if name not in fields and kind.lower().startswith(("datetime", "timestamp"))]


def length_of(frame: Any) -> int | None:
    """How many rows; None when that is not known beforehand."""
    try:
        return int(frame.num_rows) if hasattr(frame, "num_rows") else len(frame)
    except TypeError:
        return None


def _slices(frame: Any, fields: Fields, rows_max: int) -> Iterator[list[bytes]]:
    """The lines of each slice. The libraries are told by what their frames can do, so that none has to be imported."""
    if hasattr(frame, "iloc") and hasattr(frame, "columns"):
        yield from _pandas_slices(frame, fields, rows_max)
    elif hasattr(frame, "iter_slices"):  # polars
        yield from (_lines_of(part.to_dicts(), fields) for part in frame.iter_slices(rows_max))
    elif hasattr(frame, "to_batches"):  # an Arrow table
        yield from (_lines_of(part.to_pylist(), fields) for part in frame.to_batches(max_chunksize=rows_max))
    elif hasattr(frame, "read_next_batch"):  # an Arrow stream
        yield from (
            _lines_of(part.slice(at, rows_max).to_pylist(), fields)
            for part in frame
            for at in range(0, part.num_rows, rows_max)
        )
    elif isinstance(frame, Iterable) and not isinstance(frame, str | bytes | Mapping):
        rows = iter(frame)
        while part := list(islice(rows, rows_max)):
            yield _lines_of(part, fields)
    else:
        raise ValidationError(
            path="df", expected="a pandas, polars or Arrow frame, or dicts", got=f"a {type(frame).__name__}"
        )


# ── dicts ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _lines_of(rows: Iterable[Any], fields: Fields) -> list[bytes]:
    """Lines of rows that are dicts. A None stays None where the caller wrote the dict; see `needs_none_of`."""
    lines = []
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValidationError(path=f"row {number}", expected="a dict of fields", got=f"a {type(row).__name__}")
        lines.append(native.dumps(_plain_row(row, fields)))
    return lines


def _plain_row(row: dict[Any, Any], fields: Fields) -> dict[str, Any]:
    plain = {}
    for name, value in row.items():
        _check_name(name)
        if value is None and not needs_none_of(name, fields):
            continue
        plain[name] = value if type(value) in _PLAIN_TYPES else plain_value(value, name)
    return plain


def plain_value(value: Any, column: str) -> Any:
    """A value a frame library holds, as a stored value. Errors: ValidationError naming the column."""
    kind = type(value)
    if kind in _PLAIN_TYPES or kind is float or kind is bytes:
        return value
    if isinstance(value, dict):
        return {name: plain_value(inner, column) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(inner, column) for inner in value]
    if isinstance(value, dt.datetime):
        return _moment_text(value, column)
    if isinstance(value, dt.date):
        return value.isoformat()
    for base in (str, int, float):
        if isinstance(value, base):  # a subclass: an Id, a NumPy float
            return base(value)
    if hasattr(value, "tolist"):  # a NumPy scalar or array, also inside of a column of objects
        return plain_value(value.tolist(), column)
    raise ValidationError(
        f"the column {column!r} holds {kind.__module__}.{kind.__qualname__} {short(value)}, which cannot be stored: convert "
        "the column to numbers, text or lists first",
        path=column,
    )


def _moment_text(value: Any, column: str) -> str:
    if getattr(value, "nanosecond", 0):
        raise _nanoseconds(column)
    return datetime_text(value) if value.tzinfo is not None else value.isoformat(timespec="microseconds")


# ── pandas ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _pandas_slices(frame: Any, fields: Fields, rows_max: int) -> Iterator[list[bytes]]:
    if any(name is not None for name in frame.index.names):
        frame = frame.reset_index([name for name in frame.index.names if name is not None])
    _check_columns(list(frame.columns))
    convert = [_converter(frame[name], str(name), fields.get(str(name), {})) for name in frame.columns]
    names = [str(name) for name in frame.columns]
    needs_none = [needs_none_of(name, fields) for name in names]
    for start in range(0, len(frame), rows_max):
        part = frame.iloc[start : start + rows_max]
        columns = [make(part.iloc[:, at], needs_none[at]) for at, make in enumerate(convert)]
        yield _joined(names, columns)


class _Column(NamedTuple):
    """One column of a slice: its values, `_ABSENT` where there is none; `is_plain`: orjson writes it as it is."""

    values: list[Any]
    has_gaps: bool
    is_plain: bool


def _joined(names: list[str], columns: list[_Column]) -> list[bytes]:
    """Rows of columns, each as a line."""
    encode: Callable[[Any], bytes] = orjson.dumps if all(column.is_plain for column in columns) else native.dumps
    rows = zip(*(column.values for column in columns), strict=True)
    gaps = {name for name, column in zip(names, columns, strict=True) if column.has_gaps}
    if not gaps:
        return [encode(dict(zip(names, row, strict=True))) for row in rows]
    return [
        encode({name: value for name, value in zip(names, row, strict=True) if value is not _ABSENT}) for row in rows
    ]


def _converter(column: Any, name: str, field: Mapping[str, Any]) -> Callable[[Any, bool], _Column]:
    """How slices of this column become Python values."""
    import pandas as pd

    kind = pd.api.types
    dtype = column.dtype
    declared = declared_type(field)
    if isinstance(dtype, pd.CategoricalDtype):
        return lambda part, null: _objects(part.astype(object), null, name)
    if kind.is_datetime64_any_dtype(dtype):
        return lambda part, null: _moments(part, null, name, declared == "date")
    if kind.is_bool_dtype(dtype) or kind.is_integer_dtype(dtype):
        return _numbers
    if kind.is_float_dtype(dtype):
        return _integers_if_whole if declared == "int" else _floats
    if kind.is_timedelta64_dtype(dtype) or isinstance(dtype, pd.PeriodDtype | pd.IntervalDtype):
        raise ValidationError(
            f"the column {name!r} is of dtype {dtype}, which cannot be stored: convert it to numbers or text first, as in "
            f"df[{name!r}].{'dt.total_seconds()' if kind.is_timedelta64_dtype(dtype) else 'astype(str)'}",
            path=name,
        )
    return lambda part, null: _objects(part, null, name)


def _numbers(part: Any, null: bool) -> _Column:
    """Ints or bools; the nullable dtypes may have gaps."""
    gaps = part.isna().to_numpy()
    if not gaps.any():
        return _Column(part.to_numpy().tolist(), False, True)
    return _with_gaps(part.astype(object).tolist(), gaps, null, True)


def _floats(part: Any, null: bool) -> _Column:
    import numpy as np

    gaps = part.isna().to_numpy()
    values = part.to_numpy(dtype="float64", na_value=np.nan)
    finite = bool(np.isfinite(values[~gaps]).all())
    return _with_gaps(values.tolist(), gaps, null, finite)


def _integers_if_whole(part: Any, null: bool) -> _Column:
    """Floats of a field declared `int`: ints if all are whole, else as they are, and the store names the first offender."""
    import numpy as np

    gaps = part.isna().to_numpy()
    values = part.to_numpy(dtype="float64", na_value=np.nan)
    there = values[~gaps]
    if not (np.isfinite(there).all() and (there == np.floor(there)).all() and (np.abs(there) < 2.0**63).all()):
        return _floats(part, null)
    whole = np.where(gaps, 0.0, values).astype("int64")
    return _with_gaps(whole.tolist(), gaps, null, True)


def _moments(part: Any, null: bool, name: str, days: bool) -> _Column:
    gaps = part.isna().to_numpy()
    there = part[~gaps]
    if len(there) and (there.dt.nanosecond != 0).any():
        raise _nanoseconds(name)
    if days and len(there) and part.dt.tz is None and (there == there.dt.normalize()).all():
        texts = part.dt.strftime("%Y-%m-%d")
    elif part.dt.tz is not None:
        texts = part.dt.tz_convert("UTC").dt.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    else:
        texts = part.dt.strftime("%Y-%m-%dT%H:%M:%S.%f")
    return _with_gaps(texts.astype(object).tolist(), gaps, null, True)


def _objects(part: Any, null: bool, name: str) -> _Column:
    """Text, or a column of anything."""
    gaps = part.isna().to_numpy()
    values = part.astype(object).tolist()
    if all(type(value) is str for value, gap in zip(values, gaps, strict=True) if not gap):
        return _with_gaps(values, gaps, null, True)
    made = [None if gap else plain_value(value, name) for value, gap in zip(values, gaps, strict=True)]
    return _with_gaps(made, gaps, null, False)


def _with_gaps(values: list[Any], gaps: Any, null: bool, is_plain: bool) -> _Column:
    if not gaps.any():
        return _Column(values, False, is_plain)
    fill = None if null else _ABSENT
    for at in gaps.nonzero()[0]:
        values[at] = fill
    return _Column(values, not null, is_plain)


# ── what the table says ────────────────────────────────────────────────────────────────────────────────────────────


def needs_none_of(name: str, fields: Fields) -> bool:
    """Whether a missing value must be written as None: the table demands the field, fills nothing in, and takes None."""
    field = fields.get(name)
    if field is None or field.get("optional") or "default" in field:
        return False
    return any(member.get("type") in ("null", "any") for member in _members(field["type"]))


def declared_type(field: Mapping[str, Any]) -> str:
    """The one type a field has beside None; "" when it has none or several."""
    kinds = {str(member["type"]) for member in _members(field["type"])} - {"null"} if field else set()
    return kinds.pop() if len(kinds) == 1 else ""


def _members(expr: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(expr["members"]) if expr["type"] == "union" else [expr]


def _check_columns(names: list[Any]) -> None:
    for name in names:
        _check_name(name)
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValidationError(f"the frame has the column {min(twice)!r} more than once: rename one of them", path="df")


def _check_name(name: Any) -> None:
    if not isinstance(name, str):
        raise ValidationError(
            f"the column {name!r} is named by a {type(name).__name__}, and fields are named by text: rename it, as in "
            "df.rename(columns=str)",
            path="df",
        )
    if name in SYSTEM_FIELDS:
        raise ValidationError(
            f"the frame has the column {name}, which the store gives itself: leave it out, as in "
            "df.drop(columns=['_id', '_creationTime']); to keep ids, use import_",
            path=name,
        )


def _nanoseconds(column: str) -> ValidationError:
    return ValidationError(
        f"the column {column!r} has moments finer than microseconds, which would be lost: round it first, as in "
        f"df[{column!r}].dt.floor('us')",
        path=column,
    )
