"""A value is refused if and only if the tensor cannot hold it."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.model.conftest import quick_sweep
from tests.unit.model.graphs import F16, F32, F64, I32, I64, Bench, batch, identity

from batchinfer.model import Scorer

FLOATS: dict[int, Any] = {F16: np.float16, F32: np.float32, F64: np.float64}
INTEGERS: dict[int, Any] = {I32: np.int32, I64: np.int64}
EDGES = [2**e + d for e in (10, 11, 15, 16, 23, 24, 25, 31, 32, 52, 53, 54, 62, 63, 64) for d in (-1, 0, 1)]


@pytest.fixture(scope="module")
def scorer_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Scorer]:
    @cache
    def make(dtype: int) -> Scorer:
        with pytest.MonkeyPatch.context() as patch:
            quick_sweep(patch)
            return Bench(tmp_path_factory.mktemp("bench")).scorer(identity(dtype, ["N"]), {"x": [1]})

    return make


def whole_numbers(low: int, high: int) -> st.SearchStrategy[int]:
    edges = [sign * edge for edge in EDGES for sign in (1, -1) if low <= sign * edge <= high]
    return st.integers(low, high) | st.sampled_from(edges)


def check(scorer: Scorer, column: pa.Array, holds: Callable[[Any], bool]) -> list[Any]:
    """All refused rows are those that do not hold; returns the values that were fed, as the model saw them."""
    result, refused = scorer.score_rows(batch(x=column))
    expected = [i for i, value in enumerate(column.to_pylist()) if not holds(value)]
    assert refused.rows.tolist() == expected
    found: list[Any] = result.column("y").to_pylist()
    return found


@pytest.mark.parametrize("dtype", FLOATS)
@given(values=st.lists(st.none() | whole_numbers(-(2**63), 2**63 - 1), min_size=1, max_size=30))
def test_integers_in_float_tensors_are_exact(
    scorer_of: Callable[[int], Scorer], dtype: int, values: list[int | None]
) -> None:
    def holds(value: int | None) -> bool:
        if value is None:
            return False
        with np.errstate(over="ignore"):
            rounded = float(FLOATS[dtype](value))
        return math.isfinite(rounded) and Fraction(rounded) == value

    fed = check(scorer_of(dtype), pa.array(values, pa.int64()), holds)
    assert fed == [v for v in values if v is not None and holds(v)]


@pytest.mark.parametrize("dtype", FLOATS)
@given(values=st.lists(whole_numbers(0, 2**64 - 1), min_size=1, max_size=30))
def test_unsigned_integers_in_float_tensors_are_exact(
    scorer_of: Callable[[int], Scorer], dtype: int, values: list[int]
) -> None:
    def holds(value: int) -> bool:
        with np.errstate(over="ignore"):
            rounded = float(FLOATS[dtype](value))
        return math.isfinite(rounded) and Fraction(rounded) == value

    fed = check(scorer_of(dtype), pa.array(values, pa.uint64()), holds)
    assert fed == [v for v in values if holds(v)]


@pytest.mark.parametrize("dtype", FLOATS)
@given(values=st.lists(st.none() | st.floats() | st.floats(width=32), min_size=1, max_size=30))
def test_floats_in_float_tensors_stay_finite(
    scorer_of: Callable[[int], Scorer], dtype: int, values: list[float | None]
) -> None:
    def narrow(value: float) -> float:
        with np.errstate(over="ignore", under="ignore"):
            return float(FLOATS[dtype](value))

    def holds(value: float | None) -> bool:
        return value is not None and not math.isnan(value) and math.isinf(narrow(value)) == math.isinf(value)

    fed = check(scorer_of(dtype), pa.array(values, pa.float64()), holds)
    assert fed == [narrow(v) for v in values if v is not None and holds(v)]


@pytest.mark.parametrize("dtype", INTEGERS)
@given(
    values=st.lists(
        st.none() | st.floats() | whole_numbers(-(2**64), 2**64).map(float), min_size=1, max_size=30
    )
)
def test_floats_in_integer_tensors_are_whole_and_in_range(
    scorer_of: Callable[[int], Scorer], dtype: int, values: list[float | None]
) -> None:
    limits = np.iinfo(INTEGERS[dtype])

    def holds(value: float | None) -> bool:
        if value is None or not math.isfinite(value) or value != int(value):
            return False
        return limits.min <= int(value) <= limits.max

    fed = check(scorer_of(dtype), pa.array(values, pa.float64()), holds)
    assert fed == [int(v) for v in values if v is not None and holds(v)]


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64(), pa.int16()], ids=str)
@pytest.mark.parametrize("dtype", INTEGERS)
@given(data=st.data())
def test_integers_in_integer_tensors_are_in_range(
    scorer_of: Callable[[int], Scorer], dtype: int, kind: pa.DataType, data: st.DataObject
) -> None:
    source, limits = np.iinfo(kind.to_pandas_dtype()), np.iinfo(INTEGERS[dtype])
    values = data.draw(
        st.lists(st.none() | whole_numbers(int(source.min), int(source.max)), min_size=1, max_size=30)
    )

    def holds(value: int | None) -> bool:
        return value is not None and limits.min <= value <= limits.max

    fed = check(scorer_of(dtype), pa.array(values, kind), holds)
    assert fed == [v for v in values if holds(v)]
