"""Sums are exact, the sketch keeps its error bound, and neither depends on order or cut of the rows."""

from __future__ import annotations

import itertools
import math
import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchinfer.quality._exact import root, sum_of, sum_of_squares
from batchinfer.quality._sketch import MAX_EXACT, RELATIVE_ERROR, Sketch

finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(finite, max_size=50))
def test_sums_of_floats_are_exact(values: list[float]) -> None:
    column = np.array(values, np.float64)
    assert sum_of(column) == sum(map(Fraction, values))
    assert sum_of_squares(column) == sum(Fraction(value) ** 2 for value in values)


@pytest.mark.parametrize("value", [np.nextafter(2.0, 1), 2 - 2**-36, -1.0, 0.1, 5e-324, -1.7e308])
def test_a_sum_of_many_equal_values_is_exact(value: float) -> None:
    rows = (1 << 15) + 7
    assert sum_of(np.full(rows, value)) == Fraction(value) * rows


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=50))
def test_sums_of_integers_do_not_overflow(values: list[int]) -> None:
    assert sum_of(np.array(values, np.int64)) == sum(values)
    assert sum_of(np.array([value + 2**63 for value in values], np.uint64)) == sum(values) + 2**63 * len(
        values
    )


@given(st.fractions(min_value=0, max_value=10**30))
def test_a_root_is_that_of_its_square(value: Fraction) -> None:
    assert root(value * value) == pytest.approx(float(value), rel=1e-15)
    assert root((value * 2**700) ** 2) == pytest.approx(float(value * 2**700), rel=1e-15)


@pytest.mark.parametrize("seed", range(6))
def test_an_estimated_order_statistic_is_within_the_stated_error(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = 5000
    values = [
        rng.normal(size=rows),
        rng.lognormal(0, 20, rows),
        -rng.lognormal(0, 20, rows),
        rng.integers(-(2**62), 2**62, rows),
        np.concatenate([np.zeros(rows // 2), rng.normal(size=rows) * 1e-200, [math.inf, -math.inf]]),
        rng.normal(10, 5, rows).astype(np.float32),
    ][seed]
    sketch = Sketch.of(values)
    assert not sketch.exact
    ranks = [0, 1, rows // 4, rows // 2, len(values) - 2, len(values) - 1]
    ordered = np.sort(values)
    for rank, found in zip(ranks, sketch.at(ranks), strict=True):
        true = ordered[rank].item()
        assert found == true or abs(found - true) <= RELATIVE_ERROR * abs(true)
    assert sketch.at([0, len(values) - 1]) == [ordered[0], ordered[-1]]


@pytest.mark.parametrize("distinct", [MAX_EXACT // 4, MAX_EXACT, MAX_EXACT + 1, 4 * MAX_EXACT])
def test_merging_in_any_order_gives_the_same_bits(distinct: int) -> None:
    rng = np.random.default_rng(distinct)
    values = rng.permutation(np.concatenate([np.linspace(-5, 7, distinct)] * 3))
    whole = Sketch.of(values)
    assert whole.exact == (distinct <= MAX_EXACT)
    for seed in range(5):
        chance = random.Random(seed)
        cuts = sorted({0, len(values), *(chance.randint(0, len(values)) for _ in range(6))})
        parts = [Sketch.of(values[first:last]) for first, last in itertools.pairwise(cuts)]
        while len(parts) > 1:
            chance.shuffle(parts)
            parts.append(Sketch.from_dict(parts.pop().merge(parts.pop()).to_dict()))
        assert parts[0].to_dict() == whole.to_dict()
