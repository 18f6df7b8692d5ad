"""Exact sums of numbers, so that a sum does not depend on how the rows were cut and merged."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

_RUN = 1024
"""Values that are added up at once: the fewer, the more digits a float64 has left for their sum."""
_SPARE = 53 - (_RUN - 1).bit_length()
"""Digits that values may span so that no partial sum of a run of them is rounded, in whatever order."""
_COLUMNS = 4096
"""Values in a row, where rows are added up in float32: enough for a fast loop, few enough to stay in the cache."""
_LAYERED = 1 << 14
"""Values taken apart at a time: they and their parts stay in the cache."""
_HUGE = 2.0**900


def exact_sum(values: npt.NDArray[Any], low: float, high: float) -> Fraction:
    """The sum of finite numbers, exactly.

    Args:
        values: 1 to 2²⁰ integers or floats.
        low: the least of them.
        high: the greatest of them.
    """
    size = max(-low, high)
    if values.dtype.kind in "iu":
        return Fraction(_sum_of_integers(values, size))
    if not size:
        return Fraction(0)
    if values.dtype == np.float32:
        unit = _last_digit(values, low, high)
        digits = math.frexp(size)[1] - unit
        rows = len(values) // _COLUMNS
        if rows and digits + rows.bit_length() <= 24:
            return _sum_of_columns(values, unit)
        if digits <= _SPARE:
            return _sum_of_runs(values, unit)
    if size < _HUGE:
        starts = range(0, len(values), _LAYERED)
        blocks = (values[start : start + _LAYERED].astype(np.float64) for start in starts)
        return sum((_sum_of_layers(block, size) for block in blocks), Fraction(0))
    # The layers' own arithmetic would overflow.
    huge = np.abs(values) >= _HUGE
    rest = _sum_of_layers(np.where(huge, 0.0, values), _HUGE)
    return rest + 2**300 * _sum_of_layers(values[huge] * 2.0**-300, size * 2.0**-300)


def _sum_of_integers(values: npt.NDArray[Any], size: float) -> int:
    if size * len(values) < 2.0**62:
        return int(np.add.reduce(values, dtype=np.int64))
    high, low = values >> 32, values & 0xFFFFFFFF
    return (int(np.add.reduce(high, dtype=np.int64)) << 32) + int(np.add.reduce(low, dtype=np.int64))


def _last_digit(values: npt.NDArray[np.float32], low: float, high: float) -> int:
    """A power of 2 of which all values are multiples; one of them at least is not 0."""
    if low > 0 or high < 0:
        least = low if low > 0 else -high
    else:
        # The least size but 0, which becomes the greatest integer of all: the bits of floats are ordered as they are.
        bits = values.view(np.uint32)
        if low < 0:
            bits = np.bitwise_and(bits, np.uint32(0x7FFFFFFF))
        least_bits = np.minimum.reduce(np.subtract(bits, np.uint32(1))) + np.uint32(1)
        least = least_bits.view(np.float32).item()
    return max(math.frexp(least)[1] - 24, -149)


def _sum_of_layers(rest: npt.NDArray[np.float64], size: float) -> Fraction:
    """Takes the values apart into layers of digits that add up without rounding; `rest` is overwritten."""
    total = Fraction(0)
    layer = np.empty_like(rest)
    while size:
        # Adding and taking away `shift` rounds to multiples of 2 ** unit.
        unit = max(int(np.frexp(size)[1]) + 1 - _SPARE, -1074)
        shift = float(np.ldexp(1.5, unit + 52))
        np.add(rest, shift, out=layer)
        np.subtract(layer, shift, out=layer)
        np.subtract(rest, layer, out=rest)
        total += _sum_of_runs(layer, unit)
        rest = rest[rest != 0]  # few, where all values are about the same size
        size = max(float(rest.max()), -float(rest.min())) if len(rest) else 0.0
        layer = np.empty_like(rest)
    return total


def _sum_of_columns(values: npt.NDArray[np.float32], unit: int) -> Fraction:
    """The sum of multiples of 2 ** unit so few and short that float32 rounds none of the sums down the columns."""
    whole = len(values) - len(values) % _COLUMNS
    sums = np.add.reduce(values[:whole].reshape(-1, _COLUMNS), axis=0)
    return _sum_of_runs(np.concatenate([sums, values[whole:]]), unit)


def _sum_of_runs(values: npt.NDArray[Any], unit: int) -> Fraction:
    """The sum of multiples of 2 ** unit that span no more digits than there are to spare."""
    sums = np.add.reduceat(values, np.arange(0, len(values), _RUN), dtype=np.float64)
    units = int(np.add.reduce(np.ldexp(sums, -unit).astype(np.int64)))
    return Fraction(units << unit) if unit >= 0 else Fraction(units, 1 << -unit)
