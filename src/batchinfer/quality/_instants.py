"""Timestamps as exact numbers, and as the text that pandas writes, without pandas."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from fractions import Fraction
from zoneinfo import ZoneInfo

import pyarrow as pa

_TICKS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


def ticks_a_second(kind: pa.TimestampType) -> int:
    """How many units of a timestamp type make a second."""
    return _TICKS[kind.unit]


def instant(text: str, kind: pa.TimestampType) -> Fraction | None:
    """The seconds since 1970 of an ISO 8601 text.

    None where it is none, or cannot be compared with the column: one has a time zone and the other has not.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if (moment.tzinfo is None) != (kind.tz is None):
        return None
    elapsed = moment - datetime(1970, 1, 1, tzinfo=None if moment.tzinfo is None else UTC)
    return Fraction(elapsed // timedelta(microseconds=1), 1_000_000)


def shows(kind: pa.TimestampType) -> bool:
    """Whether `iso` knows the type's time zone."""
    return kind.tz is None or _zone(kind.tz) is not None


def iso(ticks: int, kind: pa.TimestampType) -> str:
    """The ISO 8601 text of a timestamp; its ticks where it lies outside the years that Python knows."""
    seconds, part = divmod(ticks, _TICKS[kind.unit])
    nanoseconds = part * (1_000_000_000 // _TICKS[kind.unit])
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
        moment = moment.replace(tzinfo=None) if kind.tz is None else moment.astimezone(_zone(kind.tz))
    except OverflowError:
        return f"{ticks} {kind.unit} since 1970-01-01"
    fraction = f".{nanoseconds:09d}".removesuffix("000") if nanoseconds else ""
    text = moment.isoformat()
    return text[:19] + fraction + text[19:]


def _zone(name: str) -> tzinfo | None:
    if offset := re.fullmatch(r"([+-])(\d\d):(\d\d)", name):
        sign, hours, minutes = offset.groups()
        return timezone((1 if sign == "+" else -1) * timedelta(hours=int(hours), minutes=int(minutes)))
    try:
        return ZoneInfo(name)
    except (ValueError, OSError):
        return None
