"""Counting values into bins: the only part of drift that touches every row."""

from __future__ import annotations

import math
import operator
from bisect import bisect_right
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchinfer.core import arrays, exact_sum
from batchinfer.drift._bins import CategoryBins, Number, NumericBins

Counts = tuple[int, ...]
NumberFacts = tuple[int, float | None, float | None, Fraction]
"""Infinite values, minimum, maximum and sum of the finite ones."""

BLOCK = 131_072
"""Values counted at a time: they and their comparisons stay in the second-level cache, and a NumPy call is long
enough that Python's lock, which it gives up, is no bottleneck."""


def profiled_type(kind: pa.DataType) -> Literal["numbers", "categories"] | None:
    """How a column of a type is profiled; None for a type that has no profile."""
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "numbers"
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_boolean(value) or arrays.is_text(value):
        return "categories"
    return None


def finite(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The values that are neither NaN nor infinite; the same array where all are finite."""
    if values.dtype.kind != "f":
        return values
    good = np.isfinite(values)
    return values if good.all() else values[good]


def numbers_of(column: pa.Array) -> npt.NDArray[Any]:
    """The values of a number column that are no nulls, without a copy where none is null."""
    if pa.types.is_null(column.type):
        return np.empty(0)
    values, present = arrays.to_numpy(column)
    if present is not None:
        values = values.compress(present)  # half of what indexing with it costs, a third of Arrow's drop_null
    return values.astype(np.float32) if values.dtype == np.float16 else values


def categories_of(column: pa.Array) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """The values of a category column, as strings, and how often each occurs; null may be one of them.

    A value of a dictionary that does not occur is there with a count of 0, one that is in it twice, twice.
    """
    if pa.types.is_null(column.type):
        return pa.nulls(1, pa.string()), np.array([len(column)])
    if pa.types.is_dictionary(column.type):
        indices = numbers_of(column.indices)
        counts = np.bincount(indices, minlength=len(column.dictionary) + 1)
        counts[-1] = column.indices.null_count
        return pa.concat_arrays([column.dictionary.cast(pa.string()), pa.nulls(1, pa.string())]), counts
    found = column.value_counts()
    counts, _ = arrays.to_numpy(found.field("counts"))
    return found.field("values").cast(pa.string()), counts


class NumberCounter:
    """Counts numbers by comparing whole blocks with each edge: no values move, nothing is searched."""

    def __init__(self, bins: NumericBins) -> None:
        self._edges = bins.edges

    def count(self, column: pa.Array) -> tuple[Counts, NumberFacts]:
        """The counts of the bins and of nulls, and what else is known of the numbers."""
        values = numbers_of(column)
        nulls = len(column) - len(values)
        below = [0] * len(self._edges)
        infinite, lows, highs, total = 0, list[float](), list[float](), Fraction(0)
        matches = np.empty((len(self._edges), min(BLOCK, len(values))), np.bool_)
        for start in range(0, len(values), BLOCK):
            block = values[start : start + BLOCK]
            low, high = _range(block)
            if not (math.isfinite(low) and math.isfinite(high)):
                rows = len(block)
                least, greatest = (int(np.count_nonzero(block == end)) for end in (-math.inf, math.inf))
                block = finite(block)
                infinite += least + greatest
                nulls += rows - len(block) - least - greatest
                below = [count + least for count in below]
                if not len(block):
                    continue
                low, high = _range(block)
            self._count_block(block, low, high, matches[:, : len(block)], below)
            lows.append(float(low) + 0.0)  # of 0.0 and -0.0 the order of the rows would choose one
            highs.append(float(high) + 0.0)
            total += exact_sum(block, low, high)
        ends = [0, *below, len(column) - nulls]
        counts = (*map(operator.sub, ends[1:], ends), nulls)
        return counts, (infinite, min(lows, default=None), max(highs, default=None), total)

    def _count_block(
        self,
        block: npt.NDArray[Any],
        low: Number,
        high: Number,
        matches: npt.NDArray[np.bool_],
        below: list[int],
    ) -> None:
        """Add to `below` how many values lie below each edge: all edges in one call, see `BLOCK`."""
        first, end = bisect_right(self._edges, low), bisect_right(self._edges, high)
        for place in range(end, len(below)):
            below[place] += len(block)
        if first < end:
            found = matches[first:end]
            np.less(block, _at_least(self._edges[first:end], block.dtype), out=found)
            for place, row in enumerate(found, first):
                below[place] += int(np.count_nonzero(row))


def _range(block: npt.NDArray[Any]) -> tuple[Number, Number]:
    return np.minimum.reduce(block).item(), np.maximum.reduce(block).item()


@lru_cache(maxsize=4096)
def _at_least(edges: tuple[Number, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """The least values of a dtype that are not less than the edges, [edges, 1]: they compare alike to its values."""
    if dtype.kind in "iu":
        return np.array([[math.ceil(edge)] for edge in edges], dtype)
    with np.errstate(over="ignore"):  # past the dtype's greatest value comes infinity, which is right
        rounded = np.array(edges, dtype)
        too_low = [value < edge for value, edge in zip(rounded.tolist(), edges, strict=True)]
        return np.where(too_low, np.nextafter(rounded, dtype.type(math.inf)), rounded)[:, None]


class CategoryCounter:
    """Counts categories by their distinct values."""

    def __init__(self, bins: CategoryBins) -> None:
        self._own = len(bins.categories)
        self._known = arrays.from_texts([*bins.categories, *bins.others])

    def count(self, column: pa.Array) -> tuple[Counts, None]:
        """The counts of the bins and of nulls."""
        values, counts = categories_of(column)
        codes, known = arrays.to_numpy(pc.index_in(values, value_set=self._known))
        places = np.minimum(codes, self._own).astype(np.int64)
        if known is not None:
            places[~known] = self._own + 1
        if (present := arrays.valid(values)) is not None:
            places[~present] = self._own + 2
        found = np.zeros(self._own + 3, np.int64)
        np.add.at(found, places, counts)
        return tuple(found.tolist()), None
