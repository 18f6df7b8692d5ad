from __future__ import annotations

import numpy as np
import pytest

from batchinfer.core import hashed

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
