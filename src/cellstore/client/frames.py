"""From Parquet octets, and from rows, to dataframes.

    column                      pandas                                       polars, Arrow
    int                         int64; Int64 when something is missing       as in Parquet
    float, int and float mixed  float64, missing is NaN
    bool                        bool; boolean when something is missing
    text, ids                   str (object before pandas 3)
    declared datetime, date     datetime64[us, UTC], datetime64[us]
    bytes                       bytes, in an object column
    JSON, lists, objects        Python values, in an object column           JSON as text
    _creationTime               float64: ms since 1970, exactly as stored

Ints never pass through floats. `pd.to_datetime(frame._creationTime, unit="ms", utc=True)` gives moments, to the µs.

Every pandas frame says where it comes from: `.attrs["query"]` is {"path", "args"}, {"table"} or {"sql"}, and `.attrs["ts"]`
the timestamp it shows. DuckDB reads the Parquet; pyarrow and polars are needed for their own frames only.
"""

from __future__ import annotations

import decimal
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import orjson

from cellstore.client.rows import declared_type
from cellstore.errors import CallerError, ValidationError
from cellstore.values import json as native
from cellstore.values.document import Document
from cellstore.values.ids import decode_id
from cellstore.values.value import kind_of

_INTS = frozenset({"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"})
_MOMENT = "TIMESTAMP WITH TIME ZONE"
_SAFE_INT = 1 << 53
_PREVIEW_ROWS = 20
ID, CREATION_TIME = "_id", "_creationTime"


class Result:
    """Rows of one moment: what a statement or a table gave. `.df() .arrow() .polars() .rows()`, as often as wanted."""

    def __init__(self, octets: bytes, query: dict[str, Any], ts: int) -> None:
        self.query = query  # {"sql": …} or {"table": …}
        self.ts = ts
        self.octets = octets  # Parquet

    def df(self) -> Any:
        """A pandas DataFrame."""
        with _opened(self.octets) as relation:
            return _remembering(_pandas(relation), self.query, self.ts)

    def arrow(self) -> Any:
        """A pyarrow Table; its schema's metadata hold the query and the timestamp. Needs pyarrow."""
        parquet = _library("pyarrow.parquet", "arrow")
        table = parquet.read_table(BytesIO(self.octets))
        about = orjson.dumps({"query": self.query, "ts": self.ts})
        return table.replace_schema_metadata({**(table.schema.metadata or {}), b"cellstore": about})

    def polars(self) -> Any:
        """A polars DataFrame. Needs polars."""
        return _library("polars", "polars").read_parquet(BytesIO(self.octets))

    def rows(self) -> list[Document]:
        """The rows as dicts of Python values, ints exact. JSON is decoded, moments are datetimes in UTC."""
        with _opened(self.octets) as relation:
            columns = dict(zip(relation.columns, _python_columns(relation), strict=True))
        return [Document(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def __len__(self) -> int:
        with _opened(self.octets) as relation:
            return len(relation)

    def __iter__(self) -> Iterator[Document]:
        return iter(self.rows())

    def __repr__(self) -> str:
        frame = self.df()
        return f"{frame.head(_PREVIEW_ROWS).to_string()}\n[{_size(frame)}; .df() .arrow() .polars() .rows()]"

    def _repr_html_(self) -> str:
        frame = self.df()
        return f"{frame.head(_PREVIEW_ROWS).to_html()}<p>{_size(frame)}</p>"


def _size(frame: Any) -> str:
    rows, columns = frame.shape
    return f"{rows:,} row{'' if rows == 1 else 's'} × {columns} column{'' if columns == 1 else 's'}"


def _library(name: str, extra: str) -> Any:
    """An optional library. Errors: CallerError saying what to install."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise CallerError(
            f".{extra}() needs {package}, which is not installed: pip install 'cellstore[{extra}]'. Without it there is .df()",
            code="MissingLibrary",
        ) from error


# ── Parquet to pandas ──────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _opened(octets: bytes) -> Iterator[Any]:
    """Parquet octets as a DuckDB relation."""
    import duckdb

    with tempfile.TemporaryDirectory(prefix="cellstore-frame-") as scratch, duckdb.connect() as duck:
        path = Path(scratch) / "rows.parquet"
        path.write_bytes(octets)
        duck.execute("SET TimeZone = 'UTC'")
        yield duck.read_parquet(str(path))


def _pandas(relation: Any) -> Any:
    """The relation as a DataFrame, column by column."""
    import pandas as pd

    kinds = dict(zip(relation.columns, map(str, relation.types), strict=True))
    plain = [name for name, kind in kinds.items() if not _needs_python(kind)]
    nested = [name for name in kinds if name not in plain]
    arrays = relation.select(*map(_column, plain)).fetchnumpy() if plain else {}
    made = {name: _series(arrays[name], kinds[name]) for name in plain}
    if nested:
        part = relation.select(*map(_column, nested))
        made |= {name: _objects(values) for name, values in zip(nested, _python_columns(part), strict=True)}
    return pd.DataFrame({name: made[name] for name in kinds}, copy=False)


def _column(name: str) -> Any:
    import duckdb

    return duckdb.ColumnExpression(name)


def _needs_python(kind: str) -> bool:
    """Whether a type has no NumPy form that keeps everything."""
    nested = kind.endswith("]") or kind.startswith(("STRUCT", "MAP", "UNION"))
    return nested or kind in ("BLOB", "JSON", "TIME") or _is_wide_decimal(kind)


def _is_wide_decimal(kind: str) -> bool:
    return kind.startswith("DECIMAL(") and kind.endswith(",0)") and int(kind[8:-3]) > 15


def _series(array: Any, kind: str) -> Any:
    """A column that NumPy can hold."""
    import numpy as np
    import pandas as pd

    gaps: Any = np.ma.getmaskarray(array)
    data: Any = np.ma.getdata(array)
    has_gaps = bool(gaps.any())
    if kind in _INTS:
        return pd.Series(pd.arrays.IntegerArray(data, gaps) if has_gaps else data)
    if kind == "BOOLEAN":
        return pd.Series(pd.arrays.BooleanArray(data, gaps) if has_gaps else data)
    if data.dtype == object:
        data[gaps] = None
        return _texts(data, kind)
    if has_gaps:
        data = np.where(gaps, np.array("NaT" if data.dtype.kind in "mM" else np.nan, data.dtype), data)
    series = pd.Series(data)
    return series.dt.tz_localize("UTC") if kind == _MOMENT else series


def _texts(values: Iterable[Any], kind: str) -> Any:
    """Text as text, other objects as objects."""
    import pandas as pd

    if kind not in ("VARCHAR", "UUID") and not kind.startswith("ENUM"):
        return _objects(values)
    if kind == "UUID":
        values = [None if value is None else str(value) for value in values]
    return pd.Series(values, dtype=_text_dtype())


def _text_dtype() -> Any:
    """pandas 3 has a dtype for text, with missing values; before it text is kept as objects."""
    import pandas as pd

    return "str" if int(pd.__version__.partition(".")[0]) >= 3 else object


def _objects(values: Iterable[Any]) -> Any:
    import numpy as np
    import pandas as pd

    kept = list(values)
    made = np.empty(len(kept), dtype=object)
    made[:] = kept
    return pd.Series(made, dtype=object)


def _python_columns(relation: Any) -> list[list[Any]]:
    """The columns as lists of Python values."""
    import duckdb

    kinds = list(map(str, relation.types))
    # the session's zone is UTC; older DuckDBs would want a further library to say so
    plain = [
        _column(name).cast(duckdb.type("TIMESTAMP")).alias(name) if kind == _MOMENT else _column(name)
        for name, kind in zip(relation.columns, kinds, strict=True)
    ]
    columns = list(zip(*relation.select(*plain).fetchall(), strict=True)) or [()] * len(kinds)
    return [_python_values(values, kind) for values, kind in zip(columns, kinds, strict=True)]


def _python_values(values: Sequence[Any], kind: str) -> list[Any]:
    if kind == "JSON":
        return [None if value is None else _decoded(value) for value in values]
    if kind == _MOMENT:
        return [value.replace(tzinfo=UTC) if isinstance(value, datetime) else value for value in values]
    if _is_wide_decimal(kind):
        return [int(value) if isinstance(value, decimal.Decimal) else value for value in values]
    return list(values)


def _decoded(text: str) -> Any:
    """The value of a JSON column. What a statement has made by itself may hold anything JSON can."""
    try:
        return native.loads(text)
    except ValidationError:
        return orjson.loads(text)


# ── rows to pandas ─────────────────────────────────────────────────────────────────────────────────────────────────


def frame_of(
    value: Any, *, query: dict[str, Any], ts: int | None = None, tables: Callable[[], list[Any]] | None = None
) -> Any:
    """A query's result as a DataFrame: a list of documents, a page of them, one document, or plain values.

    Documents give a column per field, `_id` first and `_creationTime` last; what one of them lacks is missing there.
    Anything else becomes the column `value`. None gives a frame without rows. `tables` tells what tables declare, for
    columns that do not tell what they are.
    """
    import pandas as pd

    rows = [row if isinstance(row, dict) else {"value": row} for row in _rows_in(value)]
    seen = dict.fromkeys(name for row in rows for name in row)
    names = [name for name in seen if name not in (ID, CREATION_TIME)]
    ordered = [*([ID] if ID in seen else []), *names, *([CREATION_TIME] if CREATION_TIME in seen else [])]
    columns = {name: series_of([row.get(name) for row in rows]) for name in ordered}
    if tables is not None:
        columns |= _declared_empty(rows, columns, tables)
    return _remembering(pd.DataFrame(columns, index=pd.RangeIndex(len(rows))), query, ts)


def _rows_in(value: Any) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, dict) and isinstance(value.get("page"), list) and "isDone" in value:
        return list(value["page"])
    return value if isinstance(value, list) else [value]


def series_of(values: list[Any]) -> Any:
    """A column of stored values; the dtype that keeps them all."""
    import pandas as pd

    kinds = {kind_of(value) for value in values}
    has_gaps = type(None) in kinds
    kinds.discard(type(None))
    if kinds == {int}:
        return pd.Series(values, dtype="Int64" if has_gaps else "int64")
    if kinds == {bool}:
        return pd.Series(values, dtype="boolean" if has_gaps else "bool")
    if kinds == {str}:
        return pd.Series([None if value is None else str(value) for value in values], dtype=_text_dtype())
    if kinds == {float} or (kinds == {int, float} and not any(map(_is_wide, values))):
        return pd.Series(values, dtype="float64")
    return _objects(values)


_SCALARS = frozenset({"int", "float", "boolean", "string", "id"})
_EMPTY = {"int": "Int64", "float": "float64", "boolean": "boolean"}  # any other single type is text here


def _declared_empty(rows: list[Any], columns: dict[str, Any], tables: Callable[[], list[Any]]) -> dict[str, Any]:
    """Columns with nothing in them, of documents of one table: of the dtype a snapshot gives them."""
    import pandas as pd

    empty = [name for name, column in columns.items() if column.dtype == object and column.isna().all()]
    try:
        numbers = {decode_id(row[ID])[0] for row in rows} if empty and ID in columns else set()
    except (KeyError, ValidationError):  # no documents
        return {}
    if len(numbers) != 1:
        return {}
    fields = next((table["fields"] or {} for table in tables() if table["number"] in numbers), {})
    kinds = {name: declared_type(fields.get(name) or {}) for name in empty}
    dtypes = {name: _EMPTY.get(kind, _text_dtype()) for name, kind in kinds.items() if kind in _SCALARS}
    return {name: pd.Series([None] * len(rows), dtype=dtype) for name, dtype in dtypes.items()}


def _is_wide(value: Any) -> bool:
    return type(value) is int and not -_SAFE_INT <= value <= _SAFE_INT


def frame_from_call(handle: Any, args: dict[str, Any]) -> Any:
    """What `handle.df(…)` does: the function's result as a DataFrame that remembers the call and its timestamp."""
    from cellstore.client.connect import current
    from cellstore.functions import running

    if running.get() is not None:  # inside a function: the moment is the function's own
        return frame_of(handle(**args), query={"path": handle.path, "args": args})
    return current().frame(handle, args)


def _remembering(frame: Any, query: dict[str, Any], ts: int | None) -> Any:
    frame.attrs["query"] = query
    if ts is not None:
        frame.attrs["ts"] = ts
    return frame
