from __future__ import annotations

import numpy as np
import pytest

from batchinfer.core._sample import _lowest

ROWS = 400_000


@pytest.mark.parametrize("first", [0, 2**32 - ROWS // 2, 2**40 + 5])
def test_the_share_is_kept_and_a_cut_does_not_change_it(first: int) -> None:
    positions = np.arange(first, first + ROWS)
    whole = _lowest("a.parquet", positions, 0.01)
    assert len(whole) == pytest.approx(ROWS * 0.01, rel=0.1)
    halves = [_lowest("a.parquet", part, 0.01) for part in np.split(positions, [12_345])]
    assert np.concatenate([halves[0], halves[1] + 12_345]).tolist() == whole.tolist()
    gaps = np.bincount(whole * 10 // ROWS, minlength=10)
    assert gaps.min() > ROWS * 0.01 / 10 * 0.7, "the sample is spread over all of the file"


def test_each_file_has_its_own_sample() -> None:
    positions = np.arange(ROWS)
    one, other = (set(_lowest(source, positions, 0.1).tolist()) for source in ("a.parquet", "b.parquet"))
    assert len(one & other) == pytest.approx(ROWS * 0.01, rel=0.1)


def test_a_share_of_one_is_every_row_and_no_row_is_none() -> None:
    positions = np.arange(ROWS)
    assert len(_lowest("a.parquet", positions, 1.0)) == ROWS
    assert len(_lowest("a.parquet", positions[:0], 1.0)) == 0
