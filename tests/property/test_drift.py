"""Profiles: any cut and any order of the rows gives the same, and what follows from one follows from the rows."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchinfer.core import exact_sum
from batchinfer.drift import Profile, Reference, Thresholds, build_reference, measure
from batchinfer.drift._counting import BLOCK

EMPTY = pa.RecordBatch.from_arrays([], names=[])
TEXTS = st.none() | st.sampled_from(["a", "b", "", "ü", "c" * 40])
VALUES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.float32(): st.none() | st.floats(width=32) | st.sampled_from([0.0, -0.0, 1.5, 2.5, 1e-30]),
    pa.float64(): st.none() | st.floats() | st.sampled_from([0.0, -0.0, 0.1, 1e300, 5e-324]),
    pa.float16(): st.none() | st.floats(width=16),
    pa.int8(): st.none() | st.integers(-128, 127),
    pa.int64(): st.none() | st.integers(-(2**63), 2**63 - 1) | st.integers(0, 3),
    pa.uint64(): st.none() | st.integers(0, 2**64 - 1),
    pa.bool_(): st.none() | st.booleans(),
    pa.string(): TEXTS,
    pa.dictionary(pa.int8(), pa.string()): TEXTS,
}
KINDS = st.sampled_from(list(VALUES))


@st.composite
def columns(draw: st.DrawFn, least: int = 0) -> pa.RecordBatch:
    """Rows of up to three columns of any type that is profiled."""
    kinds = draw(st.lists(KINDS, min_size=1, max_size=3))
    rows = draw(st.integers(least, 40))
    arrays = [
        pa.array(draw(st.lists(VALUES[kind], min_size=rows, max_size=rows)), kind, from_pandas=False)
        for kind in kinds
    ]
    return pa.RecordBatch.from_arrays(arrays, names=[f"c{i}" for i in range(len(kinds))])


def reference_of(rows: pa.RecordBatch) -> Reference:
    nothing = rows.select([])
    return build_reference(lambda: iter([(rows, nothing, None)]))


def merged(parts: Sequence[Profile]) -> Profile:
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.merge(part)
    return whole


@given(st.data())
@settings(max_examples=200)
def test_the_profile_of_the_whole_is_that_of_its_pieces_in_any_order(data: st.DataObject) -> None:
    rows = data.draw(columns(least=1))
    profiler = reference_of(rows).profiler
    cuts = sorted(data.draw(st.lists(st.integers(0, rows.num_rows), max_size=4)))
    ends = [0, *cuts, rows.num_rows]
    pieces = [rows.slice(a, b - a) for a, b in itertools.pairwise(ends)]
    parts = [profiler.profile(piece, EMPTY) for piece in data.draw(st.permutations(pieces))]
    whole = profiler.profile(rows, EMPTY)
    assert json.dumps(merged(parts).to_dict()) == json.dumps(whole.to_dict())
    middle = data.draw(st.integers(0, len(parts) - 1))
    if middle > 0:
        assert merged(parts[:middle]).merge(merged(parts[middle:])) == whole


@given(columns(least=1), columns())
@settings(max_examples=200)
def test_profiles_and_references_survive_json_which_never_holds_nan(
    rows: pa.RecordBatch, run: pa.RecordBatch
) -> None:
    reference = reference_of(rows)
    assert Reference.from_json(reference.to_json()) == reference
    if run.schema != rows.schema:
        run = rows.slice(rows.num_rows // 2)
    profile = reference.profiler.profile(run, EMPTY)
    text = json.dumps(profile.to_dict(), allow_nan=False)
    assert reference.profiler.tally(json.loads(text)) == profile
    json.dumps(measure(reference, profile, Thresholds()).to_dict(), allow_nan=False)


def shares(values: Sequence[Any], edges: Sequence[float]) -> npt.NDArray[np.float64]:
    """Shares of the bins by the definition, one value at a time; the last is that of the nulls."""
    counts = [0] * (len(edges) + 2)
    for value in values:
        missing = value is None or math.isnan(value)
        counts[-1 if missing else sum(value >= edge for edge in edges)] += 1
    return np.array(counts) / len(values)


numbers = st.lists(st.none() | st.floats(-50, 50, width=32) | st.sampled_from([0.0, 1.0]), min_size=1)


@given(numbers, numbers, st.sampled_from([pa.float32(), pa.float64()]))
@settings(max_examples=200)
def test_the_psi_of_profiles_is_that_of_the_raw_values_on_the_same_bins(
    expected: list[float | None], found: list[float | None], kind: pa.DataType
) -> None:
    rows, run = (pa.RecordBatch.from_pydict({"x": pa.array(v, kind)}) for v in (expected, found))
    reference = reference_of(rows)
    (column,) = reference.columns
    edges = column.column.bins.to_dict()["edges"]
    p, q = (np.maximum(shares(values, edges), 1e-4) for values in (expected, found))
    drift = measure(reference, reference.profiler.profile(run, EMPTY), Thresholds()).columns["x"]
    assert drift.psi == float(np.sum((q - p) * np.log(q / p)))
    assert sum(column.profile.counts[place] for place in column.column.bins.unseen) == 0


@given(st.data(), st.sampled_from([np.float32, np.float64, np.int8, np.int64, np.uint64]))
@settings(max_examples=300)
def test_sums_are_exact(data: st.DataObject, dtype: type[np.generic]) -> None:
    kind = pa.from_numpy_dtype(np.dtype(dtype))
    some = VALUES[kind].filter(lambda value: value is not None and math.isfinite(value))
    values = np.array(data.draw(st.lists(some, min_size=1, max_size=30)), dtype)
    values = np.tile(values, data.draw(st.sampled_from([1, 50, 1000])))
    found = exact_sum(values, values.min().item(), values.max().item())
    assert found == sum(map(Fraction, values.tolist()))


@given(
    st.lists(st.integers(-3000, 3000) | st.just(0), min_size=1, max_size=30),
    st.sampled_from([2.0**-140, 2.0**-9, 1.0, 2.0**90]),
    st.sampled_from([4095, 4096, 5000, 131_072]),
)
def test_sums_of_short_float32_are_exact_and_so_of_any_number_of_them(
    some: list[int], unit: float, rows: int
) -> None:
    values = np.resize(np.array(some, np.float32), rows) * np.float32(unit)
    found = exact_sum(values, values.min().item(), values.max().item())
    assert found == sum(np.resize(some, rows).tolist()) * Fraction(unit)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_blocks_make_no_difference(dtype: type[np.generic]) -> None:
    """More rows than are counted at a time, NaN and infinities in some blocks only."""
    values = (np.random.default_rng(3).normal(0, 100, 3 * BLOCK + 17)).astype(dtype)
    if np.dtype(dtype).kind == "f":
        values[BLOCK + 5 : BLOCK + 9] = np.array([np.nan, np.inf, -np.inf, np.inf], dtype)
    rows = pa.RecordBatch.from_pydict({"x": pa.array(values)})
    reference = reference_of(rows)
    pieces = [rows.slice(at, 1000) for at in range(0, rows.num_rows, 1000)]
    parts = [reference.profiler.profile(piece, EMPTY) for piece in pieces]
    assert merged(parts) == reference.profile
    (column,) = reference.columns
    counted = np.histogram(values[np.isfinite(values)], column.column.bins.to_dict()["edges"])[0]
    assert list(column.profile.counts[1:-2]) == counted.tolist()
