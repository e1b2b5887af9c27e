"""Moments and days as stored text.

Shape      datetime  2026-01-02T03:04:05.000006Z   27 characters, UTC, always six decimals
           date      2026-01-02
Invariant  texts sort as the moments do (years 1 to 9999)
"""

from __future__ import annotations

import datetime as dt

DATETIME_FORM = "a datetime with a time zone (stored as text, '2026-01-02T03:04:05.000006Z')"
DATE_FORM = "a date (stored as text, '2026-01-02')"


class NaiveDatetime(ValueError):
    """A datetime without a time zone names no moment."""


def datetime_text(value: object) -> str:
    """The stored text of a moment, given as a datetime or as ISO text. Errors: ValueError; NaiveDatetime."""
    if isinstance(value, str):
        value = dt.datetime.fromisoformat(value)
    if (
        not isinstance(value, dt.datetime) or value != value
    ):  # pandas' NaT calls itself a datetime and is not equal to itself
        raise ValueError("not a datetime")
    if value.tzinfo is None or value.utcoffset() is None:
        raise NaiveDatetime("no time zone")
    utc = value.astimezone(dt.UTC)
    return (
        f"{utc.year:04}-{utc.month:02}-{utc.day:02}T{utc.hour:02}:{utc.minute:02}:{utc.second:02}.{utc.microsecond:06}Z"
    )


def date_text(value: object) -> str:
    """The stored text of a day, given as a date (not a datetime) or as text. Errors: ValueError."""
    if isinstance(value, str):
        if len(value) != 10:
            raise ValueError("not a date")
        return dt.date.fromisoformat(value).isoformat()
    if not isinstance(value, dt.date) or isinstance(value, dt.datetime):
        raise ValueError("not a date")
    return value.isoformat()


def datetime_of(text: str) -> dt.datetime:
    """The moment a stored text stands for, in UTC."""
    return dt.datetime.fromisoformat(text)


def date_of(text: str) -> dt.date:
    """The day a stored text stands for."""
    return dt.date.fromisoformat(text)
