from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from batchinfer.core import hashed, pack_rows, unpack_rows

ROWS = 400_000


@pytest.mark.parametrize("first", [0, 2**32 - ROWS // 2, 2**40 + 5])
def test_low_hashes_are_evenly_spread_and_a_cut_does_not_change_them(first: int) -> None:
    positions = np.arange(first, first + ROWS)
    whole = hashed(positions, 7)
    low = np.flatnonzero(whole < 2**32 // 100)
    counts = np.bincount(low * 10 // ROWS, minlength=10)
    assert counts.min() > ROWS * 0.01 / 10 * 0.7 and counts.max() < ROWS * 0.01 / 10 * 1.3
    parts = [hashed(part, 7) for part in np.split(positions, [0, 12_345])]
    assert np.array_equal(np.concatenate(parts), whole)


def test_no_two_positions_of_a_file_hash_alike_and_other_seeds_give_others() -> None:
    positions = np.arange(ROWS)
    one, other = hashed(positions, 1), hashed(positions, 2)
    assert len(np.unique(one)) == ROWS
    both_low = np.count_nonzero((one < 2**32 // 10) & (other < 2**32 // 10))
    assert both_low == pytest.approx(ROWS * 0.01, rel=0.1)


@pytest.mark.parametrize(
    ("one", "other", "values"),
    [
        (pa.array([1.5], pa.float32()), pa.array([0.1], pa.float64()), [1.5, 0.1]),
        (pa.array([2**60]), pa.array([0.5], pa.float32()), [2.0**60, 0.5]),
        (pa.array([-1], pa.int8()), pa.array([2**63], pa.uint64()), [-1.0, 2.0**63]),
        (pa.array(["a"]).dictionary_encode(), pa.array(["b", None]), ["a", "b", None]),
        (pa.array(["a"], pa.large_string()), pa.array(["b"]).dictionary_encode(), ["a", "b"]),
        (pa.array(["a"], pa.string_view()), pa.array(["b"]), ["a", "b"]),
    ],
)
def test_a_column_that_files_hold_in_different_types_is_sampled_whole(
    one: pa.Array, other: pa.Array, values: list[object]
) -> None:
    batches = [pa.record_batch({"x": one}), pa.record_batch({"x": other})]
    in_a_unit = unpack_rows([pack_rows(batches)])
    of_two_units = unpack_rows([pack_rows(batches[:1]), None, pack_rows(batches[1:])])
    assert in_a_unit is not None and of_two_units is not None
    assert in_a_unit["x"].to_pylist() == of_two_units["x"].to_pylist() == values
