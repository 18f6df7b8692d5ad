"""A sketch counts by several ways, chosen by what the values look like: all of them give the same."""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchinfer.quality._sketch import MAX_EXACT, Sketch

Values = npt.NDArray[Any]


def drawn(family: str, rows: int, random: np.random.Generator) -> Values:
    """Values of one look; `rows` of them decide whether they have more distinct ones than are counted exactly."""
    match family:
        case "whole":
            return random.integers(-800, 3 * MAX_EXACT, rows).astype(np.float32)
        case "mostly whole":
            return np.where(random.random(rows) < 0.001, 0.5, random.integers(0, 50, rows)).astype(np.float64)
        case "wide integers":
            return random.integers(-(2**40), 2**40, rows)
        case "unsigned":
            return random.integers(0, 3 * MAX_EXACT, rows).astype(np.uint64)
        case "largest":
            return np.uint64(2**64 - 1) - random.integers(0, 3 * MAX_EXACT, rows).astype(np.uint64)
        case "bytes":
            return random.integers(-128, 128, rows).astype(np.int8)
        case "bools":
            return random.random(rows) < 0.3
        case "both signs":
            signs: Values = random.choice([-0.0, 0.0, 1.0, -1.0], rows)
            return np.asarray(random.lognormal(0, 10, rows) * signs, np.float32)
        case "doubles":
            return random.normal(0, 1, rows) * 10.0 ** random.integers(-300, 300, rows)
        case "infinities":
            return random.choice([math.inf, -math.inf, 1.5, *random.normal(0, 1, rows)], rows)
        case "subnormals":
            return (random.normal(0, 1, rows) * 2.0 ** random.integers(-148, -120, rows)).astype(np.float32)
    raise ValueError(family)


def bucket(value: float) -> int:
    """The upper bits of a double, counted from 0 to either side."""
    bits = int.from_bytes(struct.pack(">d", abs(value)))
    return ~(bits >> 44) if value < 0 else bits >> 44


def counted(values: Values) -> tuple[bool, dict[Any, int]]:
    """What a sketch of the values must hold, value by value."""
    each = [value + 0 for value in values.tolist()]
    exact = Counter(each)
    if len(exact) <= MAX_EXACT:
        return True, dict(exact)
    return False, dict(Counter(bucket(float(value)) for value in each))


FAMILIES = [
    *("whole", "mostly whole", "wide integers", "unsigned", "largest", "bytes", "bools"),
    *("both signs", "doubles", "infinities", "subnormals"),
]


@pytest.mark.parametrize("family", FAMILIES)
@given(
    rows=st.sampled_from([0, 1, 900, 5_000, 5_000, 40_000]),
    seed=st.integers(0, 2**32),
    cuts=st.lists(st.floats(0, 1), max_size=4),
)
@settings(max_examples=8, deadline=None)
def test_a_sketch_is_what_counting_each_value_gives_whatever_the_cut(
    family: str, rows: int, seed: int, cuts: list[float]
) -> None:
    values = drawn(family, rows, np.random.default_rng(seed))
    exact, counts = counted(values)
    parts = np.split(values, sorted(int(cut * rows) for cut in cuts))
    merged = reduce(Sketch.merge, map(Sketch.of, parts))
    for sketch in (Sketch.of(values), merged, Sketch.from_dict(json.loads(json.dumps(merged.to_dict())))):
        assert (sketch.exact, sketch.counts) == (exact, counts)
        assert (sketch.low, sketch.high) == ((values.min(), values.max()) if rows else (None, None))
