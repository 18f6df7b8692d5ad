"""Exact sums of numbers, so that a sum does not depend on how the rows were cut and merged."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

_RUN = 1024
"""Values that are added up at once: the fewer, the more digits a float64 has left for their sum."""
_SPARE = 53 - (_RUN - 1).bit_length()
"""Digits that values may span so that no partial sum of a run of them is rounded, in whatever order."""
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
    if values.dtype == np.float32:
        unit = _last_digit(values)
        if int(np.frexp(size)[1]) - unit <= _SPARE:
            return _sum_of_runs(values, unit)
    if size < _HUGE:
        return _sum_of_layers(values.astype(np.float64), size)
    # The layers' own arithmetic would overflow.
    huge = np.abs(values) >= _HUGE
    rest = _sum_of_layers(np.where(huge, 0.0, values), _HUGE)
    return rest + 2**300 * _sum_of_layers(values[huge] * 2.0**-300, size * 2.0**-300)


def _sum_of_integers(values: npt.NDArray[Any], size: float) -> int:
    if size * len(values) < 2.0**62:
        return int(np.add.reduce(values, dtype=np.int64))
    high, low = values >> 32, values & 0xFFFFFFFF
    return (int(np.add.reduce(high, dtype=np.int64)) << 32) + int(np.add.reduce(low, dtype=np.int64))


def _last_digit(values: npt.NDArray[np.float32]) -> int:
    """A power of 2 of which all values are multiples."""
    # The least size but 0, which becomes the greatest integer of all: the bits of floats are ordered as they are.
    bits = np.bitwise_and(values.view(np.uint32), np.uint32(0x7FFFFFFF))
    np.subtract(bits, np.uint32(1), out=bits)
    least = (int(bits.min()) + 1) & 0xFFFFFFFF
    return max((least >> 23) - 150, -149)  # 8 bits of exponent, 23 of the mantissa


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
        size = max(float(rest.max()), -float(rest.min()))
    return total


def _sum_of_runs(values: npt.NDArray[Any], unit: int) -> Fraction:
    """The sum of multiples of 2 ** unit that span no more digits than there are to spare."""
    sums = np.add.reduceat(values, np.arange(0, len(values), _RUN), dtype=np.float64)
    units = int(np.add.reduce(np.ldexp(sums, -unit).astype(np.int64)))
    return Fraction(units << unit) if unit >= 0 else Fraction(units, 1 << -unit)
