"""Rows that cannot be scored are refused one by one, with the first of their reasons; all others are scored."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.unit.model.graphs import (
    F16,
    F32,
    F64,
    I32,
    I64,
    TEXT,
    Bench,
    batch,
    graph,
    identity,
    lookup,
    mlp,
    node,
    refused,
)

from batchinfer.errors import InputError, ModelError

ROUNDED = "number that float32 cannot hold in 'x'"


def numbers(kind: pa.DataType, *values: Any) -> pa.Array:
    return pa.array(values, kind)


@pytest.mark.parametrize(
    ("dtype", "column", "expected"),
    [
        (F32, numbers(pa.float32(), 1, None, float("nan"), float("inf")), {1: "null in 'x'", 2: "NaN in 'x'"}),
        (F32, numbers(pa.float64(), 1, None, float("nan"), -1e39, 3.4e38, float("-inf")),
         {1: "null in 'x'", 2: "NaN in 'x'", 3: ROUNDED}),
        (F32, numbers(pa.int64(), 2**24, 2**24 + 1, 2**25, -(2**24) - 1, -(2**53) - 1, 2**62, -(2**63), 2**63 - 1),
         {1: ROUNDED, 3: ROUNDED, 4: ROUNDED, 7: ROUNDED}),
        (F32, numbers(pa.uint64(), 2**64 - 1, 2**63, 2**24 + 1, 0, None),
         {0: ROUNDED, 2: ROUNDED, 4: "null in 'x'"}),
        (F32, numbers(pa.int32(), 2**31 - 1, -(2**31), 5), {0: ROUNDED}),
        (F64, numbers(pa.int64(), 2**53, 2**53 + 1, 2**63 - 1, -(2**63)),
         {1: "number that float64 cannot hold in 'x'", 2: "number that float64 cannot hold in 'x'"}),
        (F16, numbers(pa.float32(), 65504, 65520, 1e9, float("nan"), float("inf")),
         {1: "number that float16 cannot hold in 'x'", 2: "number that float16 cannot hold in 'x'", 3: "NaN in 'x'"}),
        (F16, numbers(pa.int64(), 2048, 2049, 70000, -(2**63)),
         dict.fromkeys([1, 2, 3], "number that float16 cannot hold in 'x'")),
        (I64, numbers(pa.float64(), 1, 1.5, None, float("nan"), 2.0**63, -(2.0**63), float("inf"), 1e300),
         {1: "number that is not whole in 'x'", 2: "null in 'x'", 3: "NaN in 'x'",
          **dict.fromkeys([4, 6, 7], "number that int64 cannot hold in 'x'")}),
        (I64, numbers(pa.float16(), 1, 0.5, float("inf"), None),
         {1: "number that is not whole in 'x'", 2: "number that int64 cannot hold in 'x'", 3: "null in 'x'"}),
        (I64, numbers(pa.uint64(), 2**63 - 1, 2**63, 0), {1: "number that int64 cannot hold in 'x'"}),
        (I32, numbers(pa.int64(), 2**31 - 1, 2**31, -(2**31), -(2**31) - 1),
         dict.fromkeys([1, 3], "number that int32 cannot hold in 'x'")),
        (I32, numbers(pa.float64(), 2.0**31, 2.0**31 - 1, -(2.0**31) - 1),
         dict.fromkeys([0, 2], "number that int32 cannot hold in 'x'")),
        (TEXT, numbers(pa.string(), "a", None, ""), {1: "null in 'x'"}),
    ],
    ids=lambda v: str(v.type) if isinstance(v, pa.Array) else "",
)  # fmt: skip
def test_values_that_a_tensor_cannot_hold_are_refused_and_no_others(
    bench: Bench, dtype: int, column: pa.Array, expected: dict[int, str]
) -> None:
    good = {TEXT: pa.array(["a"])}.get(dtype, pa.array([1.0]))
    scorer = bench.scorer(identity(dtype, ["N"]), {"x": good})
    result, refusals = scorer.score_rows(batch(x=column))
    assert refused(refusals) == expected
    assert refusals.rows.dtype == np.int64
    kept = [v for i, v in enumerate(column.to_pylist()) if i not in expected]
    found = result.column("y").to_pylist()
    if dtype in {F32, F16}:
        kept = np.array(kept, np.float64).astype(np.float32).tolist()
    assert found == kept


def test_garbage_under_a_null_is_not_looked_at(bench: Bench) -> None:
    hidden = np.array([1, np.nan, 1e300, 2], np.float64)
    column = pa.Array.from_buffers(pa.float64(), 4, [pa.py_buffer(bytes([0b1001])), pa.py_buffer(hidden)])
    config = {"inputs": {"x": {"column": "x", "fill_null": -1}}}
    scorer = bench.scorer(identity(F32, ["N"]), {"x": [1.0]}, config)
    assert scorer.score(batch(x=column)).to_pydict() == {"y": [1, -1, -1, 2]}


@pytest.mark.parametrize("kind", ["list", "large", "fixed"])
def test_lists_that_do_not_fit_are_refused(bench: Bench, kind: str) -> None:
    nan = float("nan")
    values = [[1.0, 2.0], [None, 1.0], None, [3.0, nan], [5.0, 6.0], [1e39, 0.0]]
    kinds = {
        "list": pa.list_(pa.float64()),
        "large": pa.large_list(pa.float64()),
        "fixed": pa.list_(pa.float64(), 2),
    }
    expected = {1: "null in 'x'", 2: "null in 'x'", 3: "NaN in 'x'", 5: ROUNDED}
    if kind != "fixed":
        values += [[1.0], [], [1.0, 2.0, 3.0], [7.0, 8.0]]
        expected |= dict.fromkeys([6, 7, 8], "list that is not 2 long in 'x'")
    scorer = bench.scorer(identity(F32, ["N", 2]), {"x": [[1.0, 2.0]]}, {"outputs": {"y": {"column": "y"}}})
    result, refusals = scorer.score_rows(batch(x=pa.array(values, kinds[kind])))
    assert refused(refusals) == expected
    assert result.column("y").to_pylist() == [v for i, v in enumerate(values) if i not in expected]


def test_the_first_element_of_a_batch_of_lists_does_not_speak_for_the_last_row(bench: Bench) -> None:
    scorer = bench.scorer(identity(F32, ["N", 2]), {"x": [[1.0, 2.0]]}, {"outputs": {"y": {"column": "y"}}})
    _, refusals = scorer.score_rows(batch(x=pa.array([[None, 1.0], [3.0, 4.0], [5.0, 6.0]])))
    assert refused(refusals) == {0: "null in 'x'"}


@pytest.mark.parametrize("width", ["T", 3])
def test_lists_longer_than_max_or_than_the_graph_takes_are_refused(bench: Bench, width: str | int) -> None:
    model = graph(
        [node("ReduceSum", ["ids", "axis"], ["total"], keepdims=0)],
        {"ids": (I64, ["N", width])},
        {"total": (I64, ["N"])},
        {"axis": np.array([1])},
    )
    limit = {"max": 3} if width == "T" else {}
    scorer = bench.scorer(
        model, {"t": [[1], [1, 2, 3]]}, {"inputs": {"ids": {"column": "t", "pad": 0, **limit}}}
    )
    rows = batch(t=[[1, 2, 3], [1, 2, 3, 4], [], None, [5, None]])
    result, refusals = scorer.score_rows(rows)
    assert result.to_pydict() == {"total": [6, 0]}
    assert refused(refusals) == {1: "list longer than 3 in 't'", 3: "null in 't'", 4: "null in 't'"}


def test_a_row_with_several_reasons_is_refused_once_with_the_first(bench: Bench) -> None:
    config = {"inputs": {"x": {"pack": ["a", "b"]}}, "outputs": {"y": {"columns": ["a", "b"]}}}
    scorer = bench.scorer(identity(F32, ["N", 2]), {"a": [1.0], "b": [1.0]}, config)
    nan = float("nan")
    rows = batch(a=[None, 1.0, nan, 2.0], b=[nan, None, None, 3.0])
    result, refusals = scorer.score_rows(rows)
    assert refused(refusals) == {0: "null in 'a'", 1: "null in 'b'", 2: "NaN in 'a'"}
    assert result.to_pydict() == {"a": [2.0], "b": [3.0]}


def test_a_batch_whose_rows_are_all_refused_gives_no_results_of_the_right_schema(bench: Bench) -> None:
    scorer = bench.scorer(mlp(2), {"a": [1.0], "b": [1.0]}, {"inputs": {"x": {"pack": ["a", "b"]}}})
    result, refusals = scorer.score_rows(batch(a=pa.array([None, None], pa.float32()), b=[1, 2]))
    assert result.schema == scorer.output_schema
    assert result.num_rows == 0
    assert refused(refusals) == {0: "null in 'a'", 1: "null in 'a'"}


def test_a_batch_without_rows_is_scored(bench: Bench) -> None:
    lists = pa.array([], pa.list_(pa.float32(), 2))
    scorer = bench.scorer(identity(F32, ["N", 2]), {"x": [[1.0, 2.0]]}, {"outputs": {"y": {"column": "y"}}})
    result, refusals = scorer.score_rows(batch(x=lists))
    assert (result.num_rows, len(refusals)) == (0, 0)
    assert result.schema == scorer.output_schema


def test_columns_that_the_model_does_not_read_may_hold_anything(bench: Bench) -> None:
    scorer = bench.scorer(identity(F32, ["N"]), {"x": [1.0]})
    rows = batch(x=[1.0, None], other=pa.array(["a", "b"], pa.string_view()), nothing=pa.nulls(2))
    result, refusals = scorer.score_rows(rows)
    assert (result.to_pydict(), refused(refusals)) == ({"y": [1.0]}, {1: "null in 'x'"})


def test_only_the_rows_on_which_the_model_fails_are_refused(bench: Bench) -> None:
    scorer = bench.scorer(lookup(5), {"i": np.arange(5)})
    indices = np.arange(200) % 5
    bad = [0, 63, 64, 130, 199]
    indices[bad] = [7, 8, -9, 5, 1000]
    column = pa.array([None if i == 100 else v for i, v in enumerate(indices.tolist())], pa.int64())
    result, refusals = scorer.score_rows(batch(i=column))
    assert refusals.rows.tolist() == sorted([*bad, 100])
    assert refusals.reason(3).text == "null in 'i'"
    reasons = {reason.text for reason in refusals.reasons if "null" not in reason.text}
    assert len(reasons) == 1, "rows are counted by their reason, so it names no value of its own"
    assert "Gather" in reasons.pop()
    good = np.delete(np.arange(200), [*bad, 100])
    assert result.column("score").to_pylist() == (indices[good] * 10.0).tolist()


def test_rows_on_which_the_model_fails_may_lie_together(bench: Bench) -> None:
    scorer = bench.scorer(lookup(5), {"i": np.arange(5)})
    indices = np.full(1000, 2)
    indices[300:400] = 99
    result, refusals = scorer.score_rows(batch(i=indices))
    assert refusals.rows.tolist() == list(range(300, 400))
    assert result.num_rows == 900


def test_failing_rows_print_nothing(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    scorer = bench.scorer(lookup(5), {"i": np.arange(5)})
    scorer.score_rows(batch(i=[1, 99]))
    assert capfd.readouterr() == ("", "")


def test_a_model_that_fails_on_all_rows_is_an_error_of_the_model(bench: Bench) -> None:
    scorer = bench.scorer(lookup(5), {"i": np.arange(5)})
    with pytest.raises(ModelError, match=r"cannot score .* of .* rows; the first: the model failed"):
        scorer.score_rows(batch(i=np.full(300, 99)))


def test_a_row_by_row_model_that_fails_on_all_rows_is_an_error_of_the_model(bench: Bench) -> None:
    model = lookup(5)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    scorer = bench.scorer(model, {"i": np.arange(5)})
    with pytest.raises(ModelError, match="cannot score 100 of 100 rows"):
        scorer.score_rows(batch(i=np.full(100, 99)))


def test_one_bad_row_alone_is_refused_not_an_error(bench: Bench) -> None:
    result, refusals = bench.scorer(lookup(5), {"i": np.arange(5)}).score_rows(batch(i=[99]))
    assert (result.num_rows, refusals.rows.tolist()) == (0, [0])


def test_score_names_the_first_row_that_cannot_be_scored(bench: Bench) -> None:
    scorer = bench.scorer(identity(F32, ["N"]), {"x": [1.0]})
    with pytest.raises(InputError, match=r"row 1 cannot be scored: null in 'x' \(2 of 4 rows\)"):
        scorer.score(batch(x=[1.0, None, 2.0, None]))


def test_a_sample_of_which_no_row_can_be_fed_is_refused_with_the_reasons(bench: Bench) -> None:
    config = {"inputs": {"x": {"pack": ["a", "b"]}}}
    with pytest.raises(
        InputError, match="no row of the sample can be fed to the model: NaN in 'b'; null in 'a'"
    ):
        bench.add(mlp(2), {"a": [None, 1.0], "b": [1.0, float("nan")]}, config)
