"""Sums without a rounding: the same whatever the order and the cut of the rows, bit for bit."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from batchinfer.core import exact_sum

_SUM_BLOCK = 1 << 17
_SQUARE_BLOCK = 1 << 14
"""Values worked on at a time: all that a pass makes of them stays in the cache."""

_HUGE, _TINY = 2.0**300, 2.0**-300
"""Between them, squares and their rounding errors neither overflow nor lose bits."""

Floats = npt.NDArray[np.float64]


def sum_of(values: npt.NDArray[Any]) -> Fraction:
    """The sum of finite numbers (or bools)."""
    if values.dtype.kind == "b":
        values = values.view(np.uint8)
    blocks = (values[start : start + _SUM_BLOCK] for start in range(0, len(values), _SUM_BLOCK))
    return sum((_sum(block) for block in blocks), Fraction(0))


def sum_of_squares(values: npt.NDArray[Any]) -> Fraction:
    """The sum of the squares of finite numbers (or bools). 64-bit integers are rounded to doubles first."""
    small = values.dtype.kind == "f" and values.dtype.itemsize < 8
    starts = range(0, len(values), _SQUARE_BLOCK)
    blocks = (values[start : start + _SQUARE_BLOCK].astype(np.float64) for start in starts)
    return sum((_square_block(block, small) for block in blocks), Fraction(0))


def root(square: Fraction) -> float:
    """The square root, also of what no double holds."""
    if not square:
        return 0.0
    half = (square.numerator.bit_length() - square.denominator.bit_length()) // 2
    return math.ldexp(math.sqrt(float(square / Fraction(4) ** half)), half)


def _sum(block: npt.NDArray[Any]) -> Fraction:
    return exact_sum(block, np.minimum.reduce(block).item(), np.maximum.reduce(block).item())


def _square_block(block: Floats, small: bool) -> Fraction:
    if small:
        return _sum(block * block)  # 48 bits: exact
    size = np.abs(block)
    huge, tiny = size >= _HUGE, (size < _TINY) & (size > 0)
    total = Fraction(0)
    if huge.any():
        total += _square_block(block[huge] * _TINY * _TINY, small) * Fraction(_HUGE) ** 4
    if tiny.any():
        total += _square_block(block[tiny] * _HUGE * _HUGE, small) * Fraction(_TINY) ** 4
    if total:
        block = block[~(huge | tiny)]
    square = block * block
    split = block * 134217729.0  # 2^27 + 1 (Dekker 1971): two halves of 26 bits, whose products are exact
    high = split - (split - block)
    low = block - high
    error = ((high * high - square) + 2 * high * low) + low * low
    return total + (_sum(square) + _sum(error) if len(block) else 0)
