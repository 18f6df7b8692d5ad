"""A mergeable sketch of a column's distribution: exact while it has few distinct values, bounded in error past that.

Merging adds counts, so that the outcome is the same bit for bit whatever the order and the cut of the rows: a sketch
is exact if and only if all its rows together have at most `MAX_EXACT` distinct values.

Past that a value is known by the upper bits of its double: sign, exponent and 8 bits of the mantissa. What stands for
a bucket is its middle, at most `RELATIVE_ERROR` away from each value in it (values below 1e-305 apart).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchinfer.core import arrays

MAX_EXACT = 1024
"""Distinct values up to which a sketch is exact."""

RELATIVE_ERROR = 2.0**-9
"""How far an estimated order statistic is from the true one at most, relative to it."""

_SHIFT = 52 - 8
_GLANCES = (1 << 12, 1 << 15)
"""So many values are looked at before all are counted: mostly they show that there are too many."""
_SPAN = 1 << 16
"""Whole numbers within such a span are counted by their place in it."""

Number = int | float
Counted = tuple[npt.NDArray[Any], npt.NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Sketch:
    """How often each value (exact) or each bucket of values occurs. No nulls, no NaN; infinities are values.

    Attributes:
        exact: whether `counts` is by value, else by bucket.
        counts: values are Python ints or floats, buckets ints in the order of their values.
        low: the smallest value, None where there is none.
        high: the largest.
    """

    exact: bool
    counts: dict[Any, int]
    low: Number | None
    high: Number | None

    @classmethod
    def of(cls, values: npt.NDArray[Any]) -> Self:
        """The sketch of numbers (or bools) without NaN."""
        if not len(values):
            return cls(True, {}, None, None)
        low, high = _number(values.min()), _number(values.max())
        counted = _count(values, low, high)
        if counted is None:
            return cls(False, _buckets(values), low, high)
        found, counts = counted
        if len(found) <= MAX_EXACT:
            return cls(True, dict(zip(found.tolist(), counts.tolist(), strict=True)), low, high)
        return cls(False, _summed(_bucket_of(found.astype(np.float64)), counts), low, high)

    def merge(self, other: Self) -> Self:
        """The sketch of the rows of both."""
        lows = [low for low in (self.low, other.low) if low is not None]
        highs = [high for high in (self.high, other.high) if high is not None]
        low, high = min(lows, default=None), max(highs, default=None)
        if self.exact and other.exact:
            counts = _added(self.counts, other.counts)
            if len(counts) <= MAX_EXACT:
                return type(self)(True, counts, low, high)
        return type(self)(False, _added(self._by_bucket(), other._by_bucket()), low, high)

    def at(self, ranks: list[int]) -> list[Number]:
        """The values at these places of the sorted rows, from 0 on: exact, or estimated within `RELATIVE_ERROR`."""
        ordered = sorted(self.counts)
        last = np.fromiter(accumulate(self.counts[key] for key in ordered), np.int64, len(ordered))
        found = [ordered[place] for place in np.searchsorted(last, ranks, "right")]
        if self.exact:
            return found
        assert self.low is not None and self.high is not None
        within = [min(max(_middle(bucket), self.low), self.high) for bucket in found]
        ends = {0: self.low, int(last[-1]) - 1: self.high}  # known exactly
        return [ends.get(rank, value) for rank, value in zip(ranks, within, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; infinities as text."""
        keys = sorted(self.counts)
        return {
            "exact": self.exact,
            "keys": [
                *map(_stated, keys[:1]),
                *keys[1:-1],
                *map(_stated, keys[1:][-1:]),
            ],  # the ends may be infinite
            "counts": [self.counts[key] for key in keys],
            "low": _stated(self.low),
            "high": _stated(self.high),
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Self:
        """Read back what `to_dict` wrote."""
        keys = value["keys"]
        keys = [*map(_parsed, keys[:1]), *keys[1:-1], *map(_parsed, keys[1:][-1:])]
        counts = dict(zip(keys, value["counts"], strict=True))
        return cls(value["exact"], counts, _parsed(value["low"]), _parsed(value["high"]))

    def _by_bucket(self) -> dict[int, int]:
        if not self.exact:
            return self.counts
        values = np.array(list(self.counts), np.float64)
        return _summed(_bucket_of(values), np.fromiter(self.counts.values(), np.int64, len(values)))


def _number(value: Any) -> Number:
    found = value.item()
    return int(found) if isinstance(found, bool) else found + 0  # -0.0 is 0.0


def _stated(value: Number | None) -> Number | str | None:
    return repr(value) if isinstance(value, float) and math.isinf(value) else value


def _parsed(stated: Any) -> Any:
    return float(stated) if isinstance(stated, str) else stated


def _added(one: dict[Any, int], other: dict[Any, int]) -> dict[Any, int]:
    counts = dict(one)
    for key, count in other.items():
        counts[key] = counts.get(key, 0) + count
    return counts


def _count(values: npt.NDArray[Any], low: Number, high: Number) -> Counted | None:
    """The distinct values, in their own dtype, and how often each occurs; None: there are more than `MAX_EXACT`."""
    if values.dtype.kind == "b":
        values = values.view(np.uint8)
    elif values.dtype.kind == "f":
        values = values.astype(np.promote_types(values.dtype, np.float32), copy=False)
    if high - low < _SPAN and (codes := _whole(values, low, high)) is not None:
        counts = np.bincount(codes)
        places = np.flatnonzero(counts)
        found = places.astype(values.dtype) + values.dtype.type(low)  # integers wrap around, twice if at all
        return found, counts[places]
    for rows in _GLANCES:
        if rows < len(values) and len(np.unique(values[:rows])) > MAX_EXACT:
            return None
    if values.dtype.kind == "f":
        values = values + values.dtype.type(0)  # -0.0 is 0.0
    counted: pa.StructArray = pc.value_counts(arrays.from_numpy(values))
    found, counts = (arrays.to_numpy(counted.field(part))[0] for part in (0, 1))
    return found, counts


def _whole(values: npt.NDArray[Any], low: Number, high: Number) -> npt.NDArray[Any] | None:
    """How far whole numbers lie above the least; None where some are not whole. They span no more than `_SPAN`."""
    if values.dtype.kind == "f":
        small = max(abs(low), abs(high)) < _SPAN
        if not (small and _is_whole(values[:MAX_EXACT]) and _is_whole(values)):
            return None
        values = values.astype(np.int32)
    above: npt.NDArray[np.intp] = np.subtract(values, values.dtype.type(low), dtype=np.intp, casting="unsafe")
    return above


def _is_whole(values: npt.NDArray[Any]) -> bool:
    return bool(np.array_equal(values, np.trunc(values)))


def _bucket_of(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    bits: npt.NDArray[np.int64] = np.abs(values).view(np.int64) >> _SHIFT
    return np.where(values < 0, ~bits, bits)


def _summed(buckets: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> dict[int, int]:
    """The counts of each bucket together."""
    if not len(buckets):
        return {}
    order = np.argsort(buckets, kind="stable")
    ordered = buckets[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=~ordered[0]))
    sums = np.add.reduceat(counts[order], starts)
    return dict(zip(ordered[starts].tolist(), sums.tolist(), strict=True))


def _buckets(values: npt.NDArray[Any]) -> dict[int, int]:
    """How many values are in each bucket, by their upper bits, which a bucket's values have in common."""
    if values.dtype != np.float32 or _some_subnormal(values):
        values = values.astype(np.float64)
    kind: Any = np.uint32 if values.dtype == np.float32 else np.uint64
    one, last = kind(1), kind(values.dtype.itemsize * 8 - 1)
    shift = kind(_SHIFT - 29 if kind is np.uint32 else _SHIFT)  # a float32 has 29 bits less of the mantissa
    bits = values.view(kind)
    # The sign goes to the last bit: from one sign to the other there are half a million empty buckets.
    keys = (((bits << one) >> (shift + one) << one) | (bits >> last)).astype(np.intp)
    zeros = int(np.count_nonzero(values == 0))
    if zeros:
        keys = keys[values != 0]
    if not len(keys):
        return {0: zeros}
    first = int(keys.min())
    counts = np.bincount(keys - first)
    places = np.flatnonzero(counts)
    seen = (places + first).astype(kind)
    shortened = ((seen >> one << shift) | (seen << last)).view(values.dtype)
    found = _summed(_bucket_of(shortened.astype(np.float64)), counts[places])
    if zeros:
        found[0] = found.get(0, 0) + zeros  # beside what is too small for a bucket of its own
    return found


def _some_subnormal(values: npt.NDArray[np.float32]) -> bool:
    """Whether the upper bits of some float32 are not those of the same number as a double."""
    size = np.abs(values)
    return bool(((size < np.finfo(np.float32).tiny) & (size > 0)).any())


def _middle(bucket: int) -> float:
    size, sign = (~bucket, -1.0) if bucket < 0 else (bucket, 1.0)
    if size == 0x7FF << 8:
        return sign * float("inf")
    if size == 0:
        return 0.0
    return sign * float(np.int64((size << _SHIFT) + (1 << (_SHIFT - 1))).view(np.float64))
