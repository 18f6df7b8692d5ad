"""A loaded model: many threads, blocks of the certificate's size, and nothing that depends on the rows around."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
from tests.unit.model.graphs import (
    F32,
    F64,
    I64,
    Array,
    Bench,
    batch,
    bits,
    depends_on_rows,
    graph,
    identity,
    mlp,
    node,
    refused,
)

import batchinfer
from batchinfer.core import Model
from batchinfer.model import Certificate, Padding, Scorer, _certify
from batchinfer.model._session import Session

RANDOM = np.random.default_rng(3)


def features(rows: int) -> pa.RecordBatch:
    return batch(**{name: RANDOM.normal(size=rows).astype(np.float32) for name in "abc"})


@pytest.fixture
def scorer(bench: Bench) -> Scorer:
    return bench.scorer(mlp(), features(100), {"inputs": {"x": {"pack": ["a", "b", "c"]}}})


def test_a_scorer_is_the_model_of_the_scoring_path(scorer: Scorer) -> None:
    model: Model = scorer
    assert model.identity == "m@1"
    assert batchinfer.Scorer is Scorer


def test_eight_threads_score_the_same_bits(scorer: Scorer) -> None:
    batches = [features(500 + 37 * i) for i in range(16)]
    expected = [bits(scorer.score(b)) for b in batches]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            assert [bits(result) for result in pool.map(scorer.score, batches)] == expected


def test_blocks_may_be_scored_by_many_threads_in_any_order(scorer: Scorer) -> None:
    rows = features(3000)
    rows = rows.set_column(
        0, "a", pa.array([None if i % 91 == 5 else float(i) for i in range(3000)], pa.float32())
    )
    expected, expected_refused = scorer.score_rows(rows)
    with ThreadPoolExecutor(8) as pool:
        found, found_refused = scorer.score_rows(rows, pool.map)
        backwards, _ = scorer.score_rows(rows, lambda f, starts: [f(s) for s in reversed(list(starts))])
    assert bits(found) == bits(expected) == bits(backwards)
    assert refused(found_refused) == refused(expected_refused)
    assert len(expected_refused) == 33


def test_two_models_of_the_same_input_name_share_no_tensor(bench: Bench) -> None:
    config = {"inputs": {"x": {"pack": ["a", "b", "c"]}}, "outputs": {"y": {"column": "v"}}}
    rows = features(50)
    one = bench.scorer(identity(F32, ["N", 3]), rows, config)
    two = bench.scorer(identity(F64, ["N", 3]), rows, config)
    first = one.score(rows)
    before = bits(first)
    two.score(features(50))
    one.score(features(50))
    assert bits(first) == before


@pytest.mark.parametrize("rows", [1, 7, 8, 63, 64, 65, 200])
def test_a_padding_rule_is_obeyed_for_every_length(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    scorer = bench.scorer(depends_on_rows(multiple_of=8), batch(x=np.arange(100.0)))
    certificate = scorer.bundle.manifest.certificate
    sizes: list[int] = []
    run = Session.run

    def recording(self: Session, outputs: Any, feeds: Any) -> list[Any]:
        sizes.append(len(feeds["x"]))
        return run(self, outputs, feeds)

    monkeypatch.setattr(Session, "run", recording)
    result = scorer.score(batch(x=np.arange(float(rows))))
    assert result.column("y").to_pylist() == [i + 1.0 for i in range(rows)]
    full, rest = divmod(rows, certificate.batch_size)
    assert sizes == [certificate.batch_size] * full + [-(-rest // 8) * 8] * bool(rest)


def test_a_fixed_rule_is_obeyed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_certify, "_SIZES", (256,))
    scorer = bench.scorer(depends_on_rows(), batch(x=np.arange(100.0)))
    result = scorer.score(batch(x=np.arange(300.0)))
    assert result.column("y").to_pylist() == [i + 256.0 for i in range(300)]


def test_padding_rows_never_show(bench: Bench) -> None:
    model = graph(
        [node("Identity", ["x"], ["y"]), node("Identity", ["text"], ["t"])],
        {"x": (I64, [8]), "text": (I64, [8, 2])},
        {"y": (I64, [8]), "t": (I64, [8, 2])},
    )
    pairs = pa.array([[i, -i] for i in range(11)])
    scorer = bench.scorer(model, {"x": np.arange(11), "text": pairs})
    result = scorer.score(batch(x=np.arange(11), text=pairs))
    assert result.to_pydict() == {
        "y": list(range(11)),
        "t_0": list(range(11)),
        "t_1": [-i for i in range(11)],
    }


def row_sums(rows: str | int, width: int) -> onnx.ModelProto:
    """`y` [N], the sum of each row of `x`: a kernel whose bits depend on where in memory a row lies."""
    return graph(
        [node("ReduceSum", ["x", "axis"], ["y"], keepdims=0)],
        {"x": (F32, [rows, width])},
        {"y": (F32, [rows])},
        {"axis": np.array([1])},
    )


def test_bits_do_not_depend_on_where_in_memory_a_batch_lies(bench: Bench) -> None:
    rows, width = 40, 16
    values = RANDOM.normal(size=rows * width).astype(np.float32)

    def lying_at(place: int) -> pa.RecordBatch:
        memory = np.empty(rows * width + place, np.float32)
        memory[place:] = values
        flat = pa.Array.from_buffers(pa.float32(), rows * width, [None, pa.py_buffer(memory)[4 * place :]])
        return batch(x=pa.FixedSizeListArray.from_arrays(flat, width))

    scorer = bench.scorer(row_sums("N", width), lying_at(0))
    assert scorer.bundle.manifest.certificate.bit_exact
    assert len({tuple(bits(scorer.score(lying_at(place)))) for place in range(17)}) == 1


@pytest.mark.parametrize("width", [7, 13])
def test_a_row_scored_alone_has_the_same_bits_in_every_place(bench: Bench, width: int) -> None:
    names = [f"c{i}" for i in range(width)]
    rows = batch(**{name: np.full(50, RANDOM.normal(), np.float32) for name in names})
    scorer = bench.scorer(row_sums(1, width), rows, {"inputs": {"x": {"pack": names}}})
    assert scorer.bundle.manifest.certificate.bit_exact
    assert len(set(scorer.score(rows).column("y").to_pylist())) == 1


def test_the_neighbours_of_a_failing_row_keep_their_bits(bench: Bench) -> None:
    model = row_sums("N", 8)
    model.graph.input.append(onnx.helper.make_tensor_value_info("i", I64, ["N"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("known", F32, ["N"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(3, np.float32), "table"))
    model.graph.node.append(node("Gather", ["table", "i"], ["known"]))
    names = [f"c{i}" for i in range(8)]
    columns = {name: RANDOM.normal(size=200).astype(np.float32) for name in names}
    config = {"inputs": {"x": {"pack": names}}}
    scorer = bench.scorer(model, {**columns, "i": np.zeros(200, np.int64)}, config)
    assert scorer.bundle.manifest.certificate.bit_exact
    undisturbed = scorer.score(batch(**columns, i=np.zeros(200, np.int64))).column("y").to_numpy()
    bad = np.array([3, 50, 51, 130])
    i = np.zeros(200, np.int64)
    i[bad] = 9
    result, refusals = scorer.score_rows(batch(**columns, i=i))
    assert refusals.rows.tolist() == bad.tolist()
    assert result.column("y").to_numpy().tobytes() == np.delete(undisturbed, bad).tobytes()


def test_results_keep_the_values_of_their_batch_when_the_next_is_scored(scorer: Scorer) -> None:
    first = scorer.score(features(200))
    before = bits(first)
    for _ in range(3):
        scorer.score(features(200))
    assert bits(first) == before


def test_no_number_passes_through_python_one_by_one(scorer: Scorer) -> None:
    rows = features(50_000)

    lines = 0

    def count(frame: Any, event: str, arg: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return count

    scorer.score(rows)
    before = sys.gettrace()
    sys.settrace(count)
    try:
        scorer.score(rows)
    finally:
        sys.settrace(before)
    blocks = -(-50_000 // scorer.bundle.manifest.certificate.batch_size)
    assert lines < 500 + 100 * blocks


def test_padding_says_how_many_rows_a_call_has() -> None:
    assert [Padding().padded(n) for n in (1, 7, 64)] == [1, 7, 64]
    assert [Padding(rule="multiple", rows=8).padded(n) for n in (1, 8, 9)] == [8, 8, 16]
    assert [Padding(rule="fixed", rows=32).padded(n) for n in (1, 32)] == [32, 32]
    assert Certificate(batch_size=4).padding == Padding()


def test_a_scorer_survives_values_at_the_edge_of_its_floats(bench: Bench) -> None:
    values: Array = np.array(
        [np.finfo(np.float32).max, -np.finfo(np.float32).max, 1e-45, -0.0, np.inf], np.float32
    )
    scorer = bench.scorer(identity(F32, ["N"]), {"x": [1.0]})
    result = scorer.score(batch(x=values))
    assert result.column("y").to_numpy().tobytes() == values.tobytes()
