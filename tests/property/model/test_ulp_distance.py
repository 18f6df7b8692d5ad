"""`ulp_distance` counts the floats between two values, as the number line has them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchinfer.model._certify import ulp_distance

DTYPES = pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
FINITE = st.floats(allow_nan=False, allow_infinity=False, width=16)


def array(dtype: Any, *values: float) -> Any:
    return np.array(values, dtype)


@DTYPES
@given(value=FINITE, steps=st.integers(0, 40), up=st.booleans())
def test_it_counts_the_steps_of_nextafter_across_zero_too(
    dtype: Any, value: float, steps: int, up: bool
) -> None:
    start = array(dtype, value + 0.0)  # -0.0 and 0.0 are one place of the line
    end = start.copy()
    towards = array(dtype, np.inf if up else -np.inf)
    with np.errstate(over="ignore", under="ignore"):
        for _ in range(steps):
            end = np.nextafter(end, towards)
    expected = steps if np.isfinite(end[0]) else ulp_distance(start, end)
    found = ulp_distance(start, end)
    assert found == expected
    assert ulp_distance(end, start) == found
    assert ulp_distance(-start, -end) == found


@DTYPES
@given(a=FINITE, b=FINITE, c=FINITE)
def test_it_adds_up_along_the_line(dtype: Any, a: float, b: float, c: float) -> None:
    low, middle, high = (array(dtype, v + 0.0) for v in sorted((a, b, c)))
    assert ulp_distance(low, high) == ulp_distance(low, middle) + ulp_distance(middle, high)


@DTYPES
def test_the_largest_distance_is_that_of_the_farthest_pair(dtype: Any) -> None:
    before = array(dtype, 1, 2, -3, 0)
    after = before.copy()
    after[2] = np.nextafter(np.nextafter(after[2], dtype(0)), dtype(0))
    after[0] = np.nextafter(after[0], dtype(2))
    assert ulp_distance(before, after) == 2


def test_the_extremes_of_double_do_not_overflow() -> None:
    top = np.finfo(np.float64).max
    assert ulp_distance(array(np.float64, -top), array(np.float64, top)) == 2 * int(
        np.float64(top).view(np.int64)
    )


def test_equal_bits_are_no_distance_and_other_bits_are_never_none() -> None:
    nan = array(np.float32, np.nan, np.inf)
    assert ulp_distance(nan, nan.copy()) == 0
    assert ulp_distance(nan, nan[::-1]) > 0
    assert ulp_distance(array(np.float32, 0.0), array(np.float32, -0.0)) == 1


def test_what_is_no_float_is_equal_or_one_apart() -> None:
    words = np.array(["a", "b"], object)
    assert ulp_distance(words, words.copy()) == 0
    assert ulp_distance(words, words[::-1]) == 1
    assert ulp_distance(np.array([1, 2]), np.array([1, 900])) == 1
