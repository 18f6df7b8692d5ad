"""The one scoring path: each row of a batch ends as a result or in quarantine, once, and knows where it is from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchinfer.core import BlockMap, Lineage, Reason, Refusals, ScoringPath, Transform, arrays
from batchinfer.errors import InputError, TransformError

KEY = [pa.field("id", pa.int64())]
CARRY = [pa.field("note", pa.string())]


class Doubling:
    """Scores 2 x; refuses negative x."""

    identity = "doubling@1"
    output_schema = pa.schema([pa.field("score", pa.float64())])

    def score_rows(
        self, features: pa.RecordBatch, blocks: BlockMap[Any, Any] = map
    ) -> tuple[pa.RecordBatch, Refusals]:
        x, _ = arrays.to_numpy(features.column("x"))
        bad = np.flatnonzero(x < 0)
        (scores,) = blocks(lambda good: 2 * good, [np.delete(x, bad)])
        batch = pa.RecordBatch.from_arrays([arrays.from_numpy(scores)], schema=self.output_schema)
        return batch, Refusals(bad, (bad % 2).astype(np.int32), (Reason("negative"), Reason("odd")))


def batch_of(xs: list[float], ids: pa.DataType | None = None) -> pa.RecordBatch:
    rows = range(100, 100 + len(xs))
    return pa.record_batch(
        {
            "note": pa.array([f"n{i}" for i in rows]).dictionary_encode(),
            "id": pa.array(rows, ids or pa.int32()),
            "x": pa.array(xs, pa.float64()),
        }
    )


def lineage(rows: int) -> Lineage:
    return Lineage("doubling@1", "run", "in/x.parquet", pa.array(range(50, 50 + rows), pa.int64()))


finite = st.floats(-1e6, 1e6)


@given(st.lists(finite, min_size=1, max_size=30))
def test_every_row_is_scored_or_quarantined_once_in_order(xs: list[float]) -> None:
    scored = ScoringPath(Doubling(), None, KEY, CARRY).score(batch_of(xs), lineage(len(xs)))
    good = [i for i, x in enumerate(xs) if not x < 0]
    bad = [i for i, x in enumerate(xs) if x < 0]
    assert scored.results.column("id").to_pylist() == [100 + i for i in good]
    assert scored.results.column("note").to_pylist() == [f"n{100 + i}" for i in good]
    assert scored.results.column("score").to_pylist() == [2 * xs[i] for i in good]
    assert scored.results.column("_position").to_pylist() == [50 + i for i in good]
    assert scored.refused.rows.tolist() == bad
    assert sum(scored.refused.counts().values()) == len(bad)


def test_batches_have_the_schemas_that_the_path_promises() -> None:
    path = ScoringPath(Doubling(), None, KEY, CARRY)
    scored = path.score(batch_of([1.0, -1.0]), lineage(2))
    assert scored.results.schema == path.result_schema
    scored.results.validate(full=True)


def test_reasons_and_values_that_are_no_numbers_are_counted() -> None:
    xs = [-1.0, -1.0, -1.0, float("inf"), float("nan"), 1e307]
    scored = ScoringPath(Doubling(), None, KEY, CARRY).score(batch_of(xs), lineage(6))
    assert scored.refused.counts() == {"negative": 2, "odd": 1}
    assert scored.nonfinite == {"score": 2}


def test_scores_whose_sum_overflows_are_still_finite() -> None:
    scored = ScoringPath(Doubling(), None, KEY, CARRY).score(batch_of([8e307] * 4), lineage(4))
    assert scored.nonfinite == {}


def test_the_transform_feeds_the_model_but_not_the_kept_columns() -> None:
    def build(batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"x": pa.array([7.0] * batch.num_rows)})

    path = ScoringPath(Doubling(), Transform("f.py:build", build), KEY, CARRY)
    scored = path.score(batch_of([1.0, 2.0]), lineage(2))
    assert scored.results.column("score").to_pylist() == [14.0, 14.0]
    assert scored.results.column("note").to_pylist() == ["n100", "n101"]


def test_a_transform_that_breaks_is_blamed_with_the_rows() -> None:
    path = ScoringPath(Doubling(), Transform("f.py:build", lambda _: None), KEY, [])
    with pytest.raises(TransformError, match=r"in/x\.parquet, rows 50 to 51"):
        path.score(batch_of([1.0, 2.0]), lineage(2))


def test_a_transform_whose_columns_the_model_does_not_take_is_blamed() -> None:
    class Refusing(Doubling):
        def score_rows(
            self, features: pa.RecordBatch, blocks: BlockMap[Any, Any] = map
        ) -> tuple[pa.RecordBatch, Refusals]:
            raise InputError("no column 'x'")

    path = ScoringPath(Refusing(), Transform("f.py:build", lambda batch: batch), KEY, [])
    with pytest.raises(TransformError, match=r"f\.py:build .*in/x\.parquet, rows 50 to 51.*no column 'x'"):
        path.score(batch_of([1.0, 2.0]), lineage(2))
    with pytest.raises(InputError, match=r"^no column 'x'"):
        ScoringPath(Refusing(), None, KEY, []).score(batch_of([1.0]), lineage(1))


def test_a_kept_column_that_is_not_there_is_named() -> None:
    path = ScoringPath(Doubling(), None, [pa.field("key", pa.int64())], [])
    with pytest.raises(InputError, match=r"in/x\.parquet: no column 'key'"):
        path.score(batch_of([1.0]), lineage(1))


def test_a_kept_value_that_does_not_fit_its_type_is_refused_not_cut() -> None:
    path = ScoringPath(Doubling(), None, [pa.field("id", pa.int8())], [])
    late = pa.record_batch({"id": [1, 300], "x": [1.0, 2.0]})
    with pytest.raises(InputError, match=r"rows 50 to 51: column 'id' cannot be stored as int8"):
        path.score(late, lineage(2))
