"""A mergeable sketch of a column's distribution: exact while it has few distinct values, bounded in error past that.

Merging adds counts, so that the outcome is the same bit for bit whatever the order and the cut of the rows: a sketch
is exact if and only if all its rows together have at most `MAX_EXACT` distinct values.

Past that a value is known by the upper bits of its double: sign, exponent and 8 bits of the mantissa. What stands for
a bucket is its middle, at most `RELATIVE_ERROR` away from each value in it (values below 1e-305 apart).
"""

from __future__ import annotations

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
_GLANCE = 4 * MAX_EXACT

Number = int | float


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
        if len(np.unique(values[:_GLANCE])) <= MAX_EXACT:
            counted = _count(values)
            if len(counted) <= MAX_EXACT:
                return cls(True, counted, low, high)
        return cls(False, _buckets(values), low, high)

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
        """Plain JSON values; numbers as text, so that infinities and 64-bit integers survive."""
        counts = {repr(key): count for key, count in sorted(self.counts.items())}
        return {"exact": self.exact, "counts": counts, "low": _text(self.low), "high": _text(self.high)}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Self:
        """Read back what `to_dict` wrote."""
        counts = {_parsed(key): count for key, count in value["counts"].items()}
        low, high = (None if value[key] is None else _parsed(value[key]) for key in ("low", "high"))
        return cls(value["exact"], counts, low, high)

    def _by_bucket(self) -> dict[int, int]:
        if not self.exact:
            return self.counts
        keys = list(self.counts)
        buckets: dict[int, int] = {}
        for key, bucket in zip(keys, _bucket_of(np.array(keys, np.float64)).tolist(), strict=True):
            buckets[bucket] = buckets.get(bucket, 0) + self.counts[key]
        return buckets


def _number(value: Any) -> Number:
    found = value.item()
    return int(found) if isinstance(found, bool) else found + 0  # -0.0 is 0.0


def _text(value: Number | None) -> str | None:
    return None if value is None else repr(value)


def _parsed(text: str) -> Number:
    return int(text) if text.lstrip("-").isdigit() else float(text)


def _added(one: dict[Any, int], other: dict[Any, int]) -> dict[Any, int]:
    counts = dict(one)
    for key, count in other.items():
        counts[key] = counts.get(key, 0) + count
    return counts


def _count(values: npt.NDArray[Any]) -> dict[Any, int]:
    if values.dtype.kind == "b":
        values = values.view(np.uint8)
    elif values.dtype.kind == "f":
        values = values.astype(np.promote_types(values.dtype, np.float32)) + 0.0
    counted: pa.StructArray = pc.value_counts(arrays.from_numpy(values))
    found, counts = (arrays.to_numpy(counted.field(part))[0] for part in (0, 1))
    if len(found) > MAX_EXACT:
        return dict.fromkeys(range(len(found)), 0)  # too many: only their number matters
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def _bucket_of(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    bits: npt.NDArray[np.int64] = np.abs(values).view(np.int64) >> _SHIFT
    return np.where(values < 0, ~bits, bits)


def _buckets(values: npt.NDArray[Any]) -> dict[int, int]:
    bits = values.astype(np.float64).view(np.uint64)
    # The sign goes to the last bit, and zeros aside: from one sign to the other there are half a million empty buckets.
    places = ((bits << np.uint64(1)) >> np.uint64(_SHIFT + 1) << np.uint64(1)) | (bits >> np.uint64(63))
    keys = places.view(np.int64)
    found = {}
    if zeros := len(keys) - int(np.count_nonzero(keys > 1)):
        found[0] = zeros
        keys = keys[keys > 1]
    if len(keys):
        first = int(keys.min())
        counts = np.bincount(keys - first)
        seen = np.flatnonzero(counts)
        signed = np.where((seen + first) & 1, ~((seen + first) >> 1), (seen + first) >> 1)
        found.update(zip(signed.tolist(), counts[seen].tolist(), strict=True))
    return found


def _middle(bucket: int) -> float:
    size, sign = (~bucket, -1.0) if bucket < 0 else (bucket, 1.0)
    if size == 0x7FF << 8:
        return sign * float("inf")
    if size == 0:
        return 0.0
    return sign * float(np.int64((size << _SHIFT) + (1 << (_SHIFT - 1))).view(np.float64))
