"""The sample of a reference: as many rows as asked for, the same ones however the rows came."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest

from batchinfer.drift import FixedSample


def sampled(rows: int, total: int, cut: int) -> list[int]:
    sample = FixedSample(rows)
    for first in range(0, total, cut):
        batch = pa.RecordBatch.from_pydict({"n": pa.array(range(first, min(first + cut, total)))})
        sample.add(batch, first)
    found: list[int] = sample.table()["n"].to_pylist()
    return found


@pytest.mark.parametrize(("rows", "total"), [(100, 5000), (100, 100), (100, 99), (1, 700)])
def test_the_cut_of_the_rows_makes_no_difference(rows: int, total: int) -> None:
    found = [sampled(rows, total, cut) for cut in (1, 7, 250, 10_000)]
    assert all(one == other for one, other in itertools.pairwise(found))
    assert len(found[0]) == min(rows, total) and found[0] == sorted(set(found[0]))


def test_rows_from_everywhere_are_taken() -> None:
    counts = np.histogram(sampled(1000, 50_000, 4096), 10, (0, 50_000))[0]
    assert counts.min() > 60 and counts.max() < 140  # 100 each, give or take four standard deviations
