"""What a column's values are to a check: numbers, dates and timestamps as exact ticks in Arrow's memory, or texts.

A suite's values are turned into ticks once, exactly, so that comparing a batch is comparing arrays of one dtype.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from fractions import Fraction
from typing import Any, Literal
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchinfer.core.arrays import from_numpy, to_numpy, valid

Mask = npt.NDArray[np.bool_]
Bound = float | int | date | datetime

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Unfit(Exception):
    """A value of the suite does not fit the column it is about. `key` is the argument, if not evident."""

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


@dataclass(frozen=True, slots=True)
class Kind:
    """How a column's values are compared.

    Attributes:
        family: what they are comparable with.
        type: the Arrow type of the values, a dictionary's values included.
        scale: ticks in one (number), one day (date) or one second (timestamp).
        zone: of timestamps; None: they have none.
    """

    family: Literal["number", "bool", "date", "timestamp", "text"]
    type: pa.DataType
    scale: int = 1
    zone: tzinfo | None = None

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the ticks."""
        if self.family in {"number", "bool"} and not pa.types.is_decimal(self.type):
            return np.dtype(np.uint8 if self.family == "bool" else self.type.to_pandas_dtype())
        return np.dtype(np.int32 if pa.types.is_date32(self.type) else np.int64)

    def __str__(self) -> str:
        return str(self.type)


def kind_of(type_: pa.DataType) -> Kind | None:
    """How values of a type are compared; None where the checks here do not compare them."""
    types = pa.types
    if types.is_dictionary(type_):
        return kind_of(type_.value_type)
    if types.is_integer(type_) or types.is_floating(type_):
        return Kind("number", type_)
    if types.is_decimal128(type_) and type_.precision <= 18 and type_.scale >= 0:
        return Kind("number", type_, 10**type_.scale)
    if types.is_boolean(type_):
        return Kind("bool", type_)
    if types.is_date(type_):
        return Kind("date", type_, 1 if types.is_date32(type_) else 86_400_000)
    if types.is_timestamp(type_):
        zone = _zone(type_.tz) if type_.tz else None
        return Kind("timestamp", type_, _PER_SECOND[type_.unit], zone) if zone or not type_.tz else None
    if types.is_string(type_) or types.is_large_string(type_):
        return Kind("text", type_)
    return None


def _zone(name: str) -> tzinfo | None:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        try:
            return datetime.fromisoformat(f"2000-01-01T00:00{name}").tzinfo
        except ValueError:
            return None


def ticks(values: pa.Array) -> npt.NDArray[Any]:
    """A read-only view of the values; at a null it holds anything. Any family but text; no dictionary."""
    type_ = values.type
    if pa.types.is_boolean(type_):
        octets: npt.NDArray[Any] = to_numpy(values)[0].view(np.uint8)
        return octets
    if pa.types.is_decimal128(type_):
        if not len(values):
            return np.empty(0, np.int64)
        low_and_high = np.frombuffer(values.buffers()[1], np.int64, 2 * len(values), 16 * values.offset)
        low: npt.NDArray[Any] = low_and_high[::2]
        return low  # up to 18 digits the low half is the number itself
    if pa.types.is_temporal(type_):
        values = without_units(values)
    return to_numpy(values)[0]


def without_units(values: pa.Array) -> pa.Array:
    """Texts and whole numbers as they are, times as their ticks."""
    if pa.types.is_temporal(values.type):
        return values.view(pa.int32() if values.type.bit_width == 32 else pa.int64())
    return values


def missing(values: pa.Array) -> Mask | None:
    """Which values are null or NaN, as pandas counts both; None where none is."""
    if isinstance(values, pa.DictionaryArray):
        absent = valid(values.indices)
        absent = None if absent is None else ~absent
        entries = missing(values.dictionary)
        if entries is None:
            return absent
        spread_out = spread(entries, values)
        return spread_out if absent is None else spread_out | absent
    there = valid(values)
    absent = None if there is None else ~there
    if pa.types.is_floating(values.type) and len(values):
        view = to_numpy(values)[0]
        if np.isnan(np.min(view)):  # one fast pass says whether there is any: NaN is contagious
            nan: Mask = np.isnan(view)
            return nan if absent is None else absent | nan
    return absent


def spread(entries: npt.NDArray[Any], values: pa.DictionaryArray) -> npt.NDArray[Any]:
    """What is true of a dictionary's entries, for each row; for a null, anything."""
    if not len(entries):
        return np.zeros(len(values), entries.dtype)
    indices, there = to_numpy(values.indices)
    rows: npt.NDArray[Any] = entries[indices if there is None else np.where(there, indices, 0)]
    return rows


def parse_bound(value: Any) -> Bound:
    """A bound as a suite states it: a number, or ISO text of a number, a date or a timestamp.

    Raises:
        Unfit: it is none of these.
    """
    if isinstance(value, bool | int | float | date):
        if isinstance(value, float) and math.isnan(value):
            raise Unfit("NaN is no bound")
        return value
    if isinstance(value, str):
        for parse in (float, date.fromisoformat, datetime.fromisoformat):
            try:
                return parse_bound(parse(value))
            except ValueError:
                continue
    raise Unfit(f"a number, a date or a timestamp, found {value!r}")


def exact(kind: Kind, value: Any) -> Fraction | float:
    """A value of the suite in the column's ticks, exactly; infinities stay floats.

    A timestamp without a zone, about a column that has one, is in the column's zone; a date is its midnight.

    Raises:
        Unfit: the column's values cannot be compared with it.
    """
    if kind.family in {"number", "bool"} and isinstance(value, int | float):
        return value if isinstance(value, float) and math.isinf(value) else Fraction(value) * kind.scale
    if kind.family in {"date", "timestamp"}:
        moment = _moment(value)
        if moment is not None:
            return _since_epoch(kind, moment) * kind.scale
    raise Unfit(f"{value!r} cannot be compared with a column of {kind}")


def _moment(value: Any) -> datetime | None:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if isinstance(value, datetime):
        return value
    return datetime(value.year, value.month, value.day) if isinstance(value, date) else None


def _since_epoch(kind: Kind, moment: datetime) -> Fraction:
    if moment.tzinfo and kind.zone is None:
        raise Unfit(f"{moment.isoformat()} has a zone, and the column ({kind}) has none")
    if not moment.tzinfo:
        moment = moment.replace(tzinfo=kind.zone or UTC)
    microseconds = (moment - _EPOCH) // timedelta(microseconds=1)
    return Fraction(microseconds, 10**6 * (86_400 if kind.family == "date" else 1))


@dataclass(frozen=True, slots=True)
class Limits:
    """Inclusive limits in a column's own dtype. None: no limit on that side. `never`: no value lies within."""

    low: Any = None
    high: Any = None
    never: bool = False

    def outside(self, view: npt.NDArray[Any], *, has_missing: bool = False) -> Mask | None:
        """Which ticks lie outside; None where none does. NaN lies nowhere."""
        if not len(view):
            return None
        if self.never:
            return np.ones(len(view), np.bool_)
        if not has_missing and not self._beyond(view):
            return None
        below = None if self.low is None else view < self.low
        above = None if self.high is None else view > self.high
        if below is None or above is None:
            return below if above is None else above
        both: Mask = np.logical_or(below, above, out=below)
        return both

    def _beyond(self, view: npt.NDArray[Any]) -> bool:
        """Whether any value lies outside: two reductions are cheaper than the mask, and mostly all that is needed."""
        if self.low is not None and not view.min() >= self.low:
            return True
        return self.high is not None and not view.max() <= self.high


def limits(
    kind: Kind, low: Bound | None, high: Bound | None, *, strict_low: bool = False, strict_high: bool = False
) -> Limits:
    """The limits of a column's ticks that two bounds mean, exactly.

    Raises:
        Unfit: a bound cannot be compared with the column.
    """
    lowest = None if low is None else _at_least(kind, exact(kind, low), strict_low)
    mirrored = None if high is None else _at_least(kind, -exact(kind, high), strict_high)
    if (low is not None and lowest is None) or (high is not None and mirrored is None):
        return Limits(never=True)
    highest = None if mirrored is None else -mirrored
    make = kind.dtype.type
    if kind.dtype.kind == "f":
        return Limits(None if lowest is None else make(lowest), None if highest is None else make(highest))
    info = np.iinfo(kind.dtype)
    if (lowest is not None and lowest > info.max) or (highest is not None and highest < info.min):
        return Limits(never=True)
    return Limits(
        None if lowest is None or lowest <= info.min else make(lowest),
        None if highest is None or highest >= info.max else make(highest),
    )


def _at_least(kind: Kind, bound: Fraction | float, strict: bool) -> int | float | None:
    """The least tick that is at least (strict: above) `bound`; None: there is none."""
    if kind.dtype.kind == "f":
        return _float_at_least(kind.dtype, as_float(bound), strict)
    if isinstance(bound, float):
        return None if bound > 0 else bound
    return math.floor(bound) + 1 if strict else math.ceil(bound)


def _float_at_least(dtype: np.dtype[Any], bound: float, strict: bool) -> float | None:
    if strict and bound == math.inf:
        return None
    with np.errstate(over="ignore"):
        least = dtype.type(bound)
        if float(least) < bound or (strict and float(least) <= bound):
            least = np.nextafter(least, dtype.type(np.inf))
    return float(least)


def as_float(value: Fraction | float) -> float:
    """The nearest float."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def plain(values: Iterable[Any]) -> list[Any]:
    """Values as JSON holds them: dates and decimals as text, infinities too."""
    return [_plain(value) for value in values]


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else (None if math.isnan(value) else str(value))
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return plain(value)
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def at(values: pa.Array, rows: npt.NDArray[np.int64]) -> list[Any]:
    """Some of the values, as JSON holds them."""
    some = values.take(from_numpy(rows))
    if isinstance(some, pa.DictionaryArray):
        some = some.dictionary_decode()
    if pa.types.is_timestamp(some.type) and some.type.unit == "ns":
        some = some.cast(pa.timestamp("us", some.type.tz), safe=False)  # Python's own times have no more
    try:
        return plain(some.to_pylist())
    except (ValueError, OverflowError):  # years that Python's dates do not reach
        return plain(some.cast(pa.string()).to_pylist())
