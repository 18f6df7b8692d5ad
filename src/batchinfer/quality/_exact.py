"""Sums without a rounding: the same whatever the order and the cut of the rows, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

_BLOCK = 1 << 14
"""Rows summed at a time: what a pass works on stays in the cache."""

_GUARD = 15
"""Bits that a sum of a block's values may be longer than the longest of them."""

_HUGE, _TINY = 2.0**300, 2.0**-300
"""Between them, squares and their rounding errors neither overflow nor lose bits."""

Floats = npt.NDArray[np.float64]


def exact_sum(values: npt.NDArray[Any]) -> Fraction:
    """The sum of finite numbers (or bools)."""
    if values.dtype.kind == "f":
        return _sum_blocks(_blocks(values), _largest(values)) if len(values) else Fraction(0)
    if values.dtype.itemsize < 8:
        return Fraction(int(values.sum(dtype=np.int64)))  # of less than 2^31 rows
    high, low = values >> 32, values & 0xFFFFFFFF  # the high half keeps the sign
    return Fraction((int(high.sum()) << 32) + int(low.sum()))


def exact_squares(values: npt.NDArray[Any]) -> Fraction:
    """The sum of the squares of finite numbers (or bools). 64-bit integers are rounded to doubles first."""
    small = values.dtype.kind == "f" and values.dtype.itemsize < 8
    return sum((_square_block(block, small) for block in _blocks(values)), Fraction(0))


def root(square: Fraction) -> float:
    """The square root, also of what no double holds."""
    if not square:
        return 0.0
    half = (square.numerator.bit_length() - square.denominator.bit_length()) // 2
    return math.ldexp(math.sqrt(float(square / Fraction(4) ** half)), half)


def _blocks(values: npt.NDArray[Any]) -> Iterator[Floats]:
    for start in range(0, len(values), _BLOCK):
        yield values[start : start + _BLOCK].astype(np.float64)


def _largest(values: npt.NDArray[Any]) -> float:
    return max(float(values.max()), -float(values.min()))


def _sum_blocks(blocks: Iterator[Floats], largest: float) -> Fraction:
    return sum((_sum_block(block, largest) for block in blocks), Fraction(0))


def _sum_block(rest: Floats, largest: float) -> Fraction:
    """Error-free extraction (Rump, Ogita, Oishi 2008): consumes `rest`, of at most `_BLOCK` values up to `largest`.

    Adding and subtracting a power of two well above all values cuts each in a high part and a rest, both exact.
    The high parts are multiples of one unit and so few that any order of adding them is exact as well.
    """
    if largest >= 2.0**1000:  # the power of two above it would overflow
        above = np.abs(rest) >= 2.0**500
        total = _sum_block(rest[above] * 2.0**-100, largest * 2.0**-100) * 2**100
        rest[above] = 0
        return total + _sum_block(rest, 2.0**500)
    if not largest:
        return Fraction(0)
    total = Fraction(0)
    high = np.empty_like(rest)
    anchor = math.ldexp(1.0, math.frexp(largest)[1] + _GUARD)
    while True:
        np.add(rest, anchor, out=high)
        np.subtract(high, anchor, out=high)
        np.subtract(rest, high, out=rest)
        total += Fraction(float(high.sum()))
        if not rest.any():
            return total
        rest = rest[rest != 0]  # few, where all values are about the same size
        high = np.empty_like(rest)
        anchor = math.ldexp(anchor, _GUARD - 53)  # what is left is at most half of the last bit that was cut


def _square_block(block: Floats, small: bool) -> Fraction:
    if small:
        square = block * block
        return _sum_block(square, float(square.max()))  # 48 bits: exact
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
    if not len(block):
        return total
    return total + _sum_block(square, float(square.max())) + _sum_block(error, _largest(error))
