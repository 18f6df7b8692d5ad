"""From the columns that messages hold to those that the pipeline takes; what does not fit is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from batchinfer.core import arrays
from batchinfer.streaming.formats._cursors import badly_encoded


@dataclass(frozen=True, slots=True)
class Columns:
    """What was read from messages.

    Attributes:
        columns: by field, a value for each message; Python's objects where the schema has no one type for them.
        failed: messages that could not be read, and why. What the columns hold for them is of no account.
    """

    columns: dict[str, pa.Array | list[Any]]
    failed: dict[int, str]


def misfit(found: Mapping[str, pa.DataType | None], schema: pa.Schema) -> str | None:
    """Why messages whose fields have these types cannot become rows of `schema`; None where they can.

    Numbers may be of another width; whether each fits is seen when it is there.
    """
    for field in schema:
        if field.name not in found:
            return f"no field '{field.name}'"
        kind = found[field.name]
        if kind is not None and not _goes_into(kind, field.type):
            return f"field '{field.name}': expected {field.type}, found {str(kind).replace('large_', '')}"
    return None


def conform(
    found: Columns, schema: pa.Schema, count: int, absent: Mapping[str, Any] | None = None
) -> tuple[pa.RecordBatch, dict[int, str]]:
    """Make columns that `misfit` has passed into a batch of all `count` rows, and say which of them are none.

    `absent` has the values of columns that were not read. What the batch holds for refused rows is of no account; a
    null may stand where none is allowed.
    """
    refused = dict(found.failed)

    def refuse(bad: npt.NDArray[np.bool_] | None, reason: str) -> None:
        for row in np.flatnonzero(bad).tolist() if bad is not None else ():
            refused.setdefault(row, reason)

    columns = []
    for field in schema:
        values = found.columns.get(field.name)
        if values is None:
            values = [(absent or {})[field.name]] * count
        if isinstance(values, list):
            column, unfit = _from_objects(values, field.type)
        else:
            column, unfit = _cast(values, field.type)
        refuse(unfit, f"field '{field.name}': a value beyond {field.type}")
        if column.null_count and not field.nullable:
            there = arrays.valid(column)
            refuse(~there if there is not None else None, f"field '{field.name}': null")
        columns.append(column)
    nullable = pa.schema([field.with_nullable(True) for field in schema])
    return pa.RecordBatch.from_arrays(columns, schema=nullable), refused


def kept_rows(count: int, refused: Mapping[int, str]) -> npt.NDArray[np.int64]:
    """The rows that are not refused."""
    kept = np.ones(count, np.bool_)
    kept[list(refused)] = False
    return np.flatnonzero(kept)


def from_objects(values: list[Any], kind: pa.DataType | None) -> pa.Array | list[Any]:
    """Python's objects as an array of the type, or as they are where they are of no one type."""
    if kind is None:
        return values
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return values


_INTO: tuple[tuple[Callable[[pa.DataType], bool], tuple[Callable[[pa.DataType], bool], ...]], ...] = (
    (pt.is_null, (lambda kind: True,)),
    (pt.is_boolean, (pt.is_boolean,)),
    (pt.is_integer, (pt.is_integer, pt.is_floating, pt.is_decimal)),
    (pt.is_floating, (pt.is_floating,)),
    (pt.is_decimal, (pt.is_decimal, pt.is_floating)),
    (pt.is_date, (pt.is_date,)),
    (pt.is_time, (pt.is_time,)),
    (pt.is_timestamp, (pt.is_timestamp,)),
    (pt.is_duration, (pt.is_duration,)),
)
"""What goes into what: the first is the message's type, the others those of the column."""


def _goes_into(found: pa.DataType, column: pa.DataType) -> bool:
    if pt.is_dictionary(found) or pt.is_dictionary(column):
        return _goes_into(_plain(found), _plain(column))
    if arrays.is_text(found) or arrays.is_bytes(found):
        return arrays.is_text(column) or arrays.is_bytes(column)
    if _is_list(found):
        return _is_list(column) and _goes_into(found.value_type, column.value_type)
    if pt.is_struct(found):
        return pt.is_struct(column) and all(
            (place := found.get_field_index(field.name)) >= 0
            and _goes_into(found.field(place).type, field.type)
            for field in column
        )
    return any(is_it(found) and any(takes(column) for takes in into) for is_it, into in _INTO)


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pt.is_dictionary(kind) else kind


def _is_list(kind: pa.DataType) -> bool:
    return bool(pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind))


def _cast(values: pa.Array, kind: pa.DataType) -> tuple[pa.Array, npt.NDArray[np.bool_] | None]:
    """The values as the type, null where they do not fit; and which do not, None where all do."""
    if values.type == kind:
        return values, None
    if arrays.is_bytes(values.type) and arrays.is_text(_plain(kind)):
        plain = values.cast(pa.large_binary())
        bad = badly_encoded(plain.fill_null(b""))
        if bad.any():
            return _cast(_without(plain, bad).view(pa.large_string()), kind)[0], bad
    if (cast := _fitted(values, kind)) is not None:
        return cast, None
    bad = np.zeros(len(values), np.bool_)
    bad[_unfit(values, kind, 0)] = True
    return _without(values, bad).cast(options=_options(kind)), bad


def _options(kind: pa.DataType) -> pc.CastOptions:
    return pc.CastOptions(kind, allow_float_truncate=True)  # of float64 and of wide integers, to floats


def _fitted(values: pa.Array, kind: pa.DataType) -> pa.Array | None:
    """The values as the type; None where one of them does not fit."""
    try:
        cast = values.cast(options=_options(kind))
    except pa.ArrowInvalid:
        return None
    before, after = (each.flatten() if _is_list(each.type) else each for each in (values, cast))
    narrowed = pt.is_floating(after.type) and after.type != pa.float64() and before.type != after.type
    if narrowed and _infinities(after) > (_infinities(before) if pt.is_floating(before.type) else 0):
        return None
    return cast


def _infinities(values: pa.Array) -> int:
    return int(pc.sum(pc.is_inf(values)).as_py() or 0)


def _unfit(values: pa.Array, kind: pa.DataType, first: int) -> list[int]:
    """Which values do not fit, found by halving."""
    if _fitted(values, kind) is not None:
        return []
    if len(values) == 1:
        return [first]
    half = len(values) // 2
    return [*_unfit(values.slice(0, half), kind, first), *_unfit(values.slice(half), kind, first + half)]


def _without(values: pa.Array, bad: npt.NDArray[np.bool_]) -> pa.Array:
    return pc.if_else(arrays.from_numpy(~bad), values, pa.nulls(len(values), values.type))


def _from_objects(values: list[Any], kind: pa.DataType) -> tuple[pa.Array, npt.NDArray[np.bool_] | None]:
    bad = np.zeros(len(values), np.bool_)
    fitting: list[Any] = []
    for row, value in enumerate(values):
        try:
            pa.scalar(value, kind)
            fitting.append(value)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            bad[row] = True
            fitting.append(None)
    return pa.array(fitting, kind), bad
