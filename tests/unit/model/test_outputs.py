"""Tensors become result columns: labels, matrices, vectors and scikit-learn's maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.linear_model import LogisticRegression
from tests.unit.model.graphs import (
    BOOL,
    F16,
    F32,
    F64,
    I64,
    TEXT,
    Array,
    Bench,
    Shape,
    batch,
    graph,
    identity,
    node,
)

from batchinfer.errors import ModelError
from batchinfer.model import Scorer

PACKED = {"inputs": {"x": {"pack": ["a", "b"]}}}


@pytest.mark.parametrize("shape", [["N"], ["N", 1]], ids=str)
@pytest.mark.parametrize(
    ("dtype", "kind", "values"),
    [
        (I64, pa.int64(), [3, -1, 2]),
        (TEXT, pa.string(), ["yes", "", "nö"]),
        (BOOL, pa.bool_(), [True, False, True]),
        (F32, pa.float32(), [0.5, -1, 2]),
        (F64, pa.float64(), [0.1, -1, 2]),
        (F16, pa.float16(), [0.5, -1, 2]),
    ],
    ids=str,
)
def test_one_value_a_row_becomes_a_column_of_its_type(
    bench: Bench, dtype: int, kind: pa.DataType, values: list[Any], shape: Shape
) -> None:
    rows = batch(x=pa.array(values, kind))
    scorer = bench.scorer(identity(dtype, shape), rows, {"outputs": {"y": {"column": "label"}}})
    assert scorer.output_schema == pa.schema([pa.field("label", kind)])
    result = scorer.score(rows)
    assert result.schema == scorer.output_schema
    assert result.column("label").to_pylist() == values


@pytest.mark.parametrize("shape", [["N", 3], ["N", None]], ids=str)
def test_a_matrix_becomes_one_column_for_each_of_its_columns(bench: Bench, shape: Shape) -> None:
    rows = batch(x=[[0.1, 0.2, 0.7], [0.5, 0.25, 0.25]])
    config = {"inputs": {"x": {"column": "x", "shape": [3]}}, "outputs": {"y": {"columns": ["p", "q", "r"]}}}
    result = bench.scorer(identity(F64, shape), rows, config).score(rows)
    assert result.to_pydict() == {"p": [0.1, 0.5], "q": [0.2, 0.25], "r": [0.7, 0.25]}


@pytest.mark.parametrize("shape", [["N", 3], ["N", None]], ids=str)
def test_some_columns_of_a_matrix_are_kept_by_their_index(bench: Bench, shape: Shape) -> None:
    rows = batch(x=[[0.1, 0.2, 0.7], [0.5, 0.25, 0.25]])
    config = {"inputs": {"x": {"column": "x", "shape": [3]}}, "outputs": {"y": {"columns": {2: "r", 0: "p"}}}}
    result = bench.scorer(identity(F64, shape), rows, config).score(rows)
    assert result.to_pydict() == {"r": [0.7, 0.25], "p": [0.1, 0.5]}


@pytest.mark.parametrize("shape", [["N", 6], ["N", 2, 3]], ids=str)
@pytest.mark.parametrize("dtype", [F32, F64, F16, I64, TEXT, BOOL])
def test_a_vector_becomes_a_fixed_size_list_flattened(bench: Bench, dtype: int, shape: Shape) -> None:
    kinds = {F32: pa.float32(), F64: pa.float64(), F16: pa.float16(), I64: pa.int64(), TEXT: pa.string()}
    kind = kinds.get(dtype, pa.bool_())
    numbers = [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11], [1, 0, 1, 0, 1, 1]]
    values = [[str(v) if dtype == TEXT else bool(v % 2) if dtype == BOOL else v for v in r] for r in numbers]
    rows = batch(x=pa.array(values, pa.list_(kind)))
    scorer = bench.scorer(identity(dtype, shape), rows, {"outputs": {"y": {"column": "embedding"}}})
    assert scorer.output_schema.field("embedding").type == pa.list_(kind, 6)
    assert scorer.score(rows).column("embedding").to_pylist() == values
    empty = scorer.score(rows.slice(0, 0))
    assert empty.schema == scorer.output_schema
    assert empty.num_rows == 0


def sklearn_export(labels: Array, **options: Any) -> tuple[LogisticRegression, Array, Any]:
    from skl2onnx import to_onnx

    random = np.random.default_rng(0)
    features = random.normal(size=(90, 2)).astype(np.float32)
    chosen = (features[:, 0] > 0).astype(int) + (features[:, 1] > 0.5)
    model = LogisticRegression().fit(features, labels[chosen])
    return model, features, to_onnx(model, features[:1], **options)


@pytest.mark.parametrize("labels", [["late", "on time", "very late"], [10, 20, 30]], ids=str)
def test_sklearns_default_export_gives_sklearns_probabilities(bench: Bench, labels: list[Any]) -> None:
    model, features, exported = sklearn_export(np.array(labels))
    assert "ZipMap" in {n.op_type for n in exported.graph.node}
    rows = batch(a=features[:, 0], b=features[:, 1])
    config = {
        "inputs": {"X": {"pack": ["a", "b"]}},
        "outputs": {
            "output_label": {"column": "label"},
            "output_probability": {"columns": {labels[2]: "p2", labels[0]: "p0"}},
        },
    }
    result = bench.scorer(exported, rows, config).score(rows)
    expected = model.predict_proba(features)
    np.testing.assert_allclose(result.column("p0").to_numpy(), expected[:, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result.column("p2").to_numpy(), expected[:, 2], rtol=1e-5, atol=1e-6)
    assert result.column("label").to_pylist() == model.predict(features).tolist()


def test_the_columns_of_a_map_are_named_after_its_classes(bench: Bench) -> None:
    _, features, exported = sklearn_export(np.array(["low", "mid", "high"]))
    rows = batch(a=features[:, 0], b=features[:, 1])
    scorer = bench.scorer(exported, rows, {"inputs": {"X": {"pack": ["a", "b"]}}})
    assert scorer.output_schema.names == [
        "output_label",
        "output_probability_high",
        "output_probability_low",
        "output_probability_mid",
    ]
    assert scorer.bundle.manifest.outputs["output_probability"].classes == ("high", "low", "mid")


def test_a_map_and_the_matrix_in_front_of_it_can_both_be_outputs(bench: Bench) -> None:
    import onnx

    _, features, exported = sklearn_export(np.array([0, 1, 2]))
    zipmap = next(n for n in exported.graph.node if n.op_type == "ZipMap")
    exported.graph.output.append(onnx.helper.make_tensor_value_info(zipmap.input[0], F32, ["N", 3]))
    rows = batch(a=features[:, 0], b=features[:, 1])
    result = bench.scorer(exported, rows, {"inputs": {"X": {"pack": ["a", "b"]}}}).score(rows)
    assert result.num_columns == 7
    assert result.column("output_probability_1").equals(result.column(f"{zipmap.input[0]}_1"))


def test_a_class_that_the_model_does_not_know_is_refused_with_those_it_knows(bench: Bench) -> None:
    _, features, exported = sklearn_export(np.array(["low", "mid", "high"]))
    config = {
        "inputs": {"X": {"pack": ["a", "b"]}},
        "outputs": {"output_probability": {"columns": {"top": "p"}}},
    }
    with pytest.raises(ModelError, match="no class 'top'; it has high, low, mid"):
        bench.add(exported, batch(a=features[:, 0], b=features[:, 1]), config)


def test_outputs_that_are_not_named_are_not_computed(bench: Bench) -> None:
    model = graph(
        [
            node("Identity", ["x"], ["kept"]),
            node("Cast", ["x"], ["index"], to=I64),
            node("Gather", ["table", "index"], ["costly"]),
        ],
        {"x": (F32, ["N"])},
        {"costly": (F32, ["N"]), "kept": (F32, ["N"])},
        {"table": np.zeros(4, np.float32)},
    )
    scorer = bench.scorer(model, {"x": [1.0, 2.0]}, {"outputs": {"kept": {"column": "kept"}}})
    beyond_the_table = batch(x=[1.0, 100.0])
    assert scorer.score(beyond_the_table).to_pydict() == {"kept": [1.0, 100.0]}
    _, refusals = bench.scorer(model, {"x": [1.0, 2.0]}).score_rows(beyond_the_table)
    assert refusals.rows.tolist() == [1]


def test_what_a_kept_output_needs_inside_a_branch_is_kept(bench: Bench) -> None:
    import onnx

    def branch(name: str, op: str) -> Any:
        output = onnx.helper.make_tensor_value_info("branch", F32, ["N"])
        return onnx.helper.make_graph([node(op, ["x", "outer"], ["branch"])], name, [], [output])

    model = graph(
        [
            node("Add", ["x", "x"], ["outer"]),
            node("ReduceSum", ["one"], ["total"], keepdims=0),
            node("Greater", ["total", "zero"], ["positive"]),
            node("If", ["positive"], ["y"], then_branch=branch("t", "Add"), else_branch=branch("e", "Sub")),
            node("Neg", ["x"], ["unused"]),
        ],
        {"x": (F32, ["N"])},
        {"y": (F32, ["N"]), "unused": (F32, ["N"])},
        {"zero": np.array(0, np.float32), "one": np.ones(1, np.float32)},
    )
    scorer = bench.scorer(model, {"x": [1.0, 2.0]}, {"outputs": {"y": {"column": "y"}}})
    assert scorer.score(batch(x=[1.0, 2.0])).to_pydict() == {"y": [3.0, 6.0]}


def test_an_output_that_is_no_tensor_matters_only_where_it_is_named(bench: Bench) -> None:
    import onnx

    model = graph(
        [node("Identity", ["x"], ["y"]), node("SequenceConstruct", ["x", "x"], ["pair"])],
        {"x": (F32, ["N"])},
        {"y": (F32, ["N"])},
    )
    model.graph.output.append(onnx.helper.make_tensor_sequence_value_info("pair", F32, ["N"]))
    rows = batch(x=[1.0, 2.0])
    assert bench.scorer(model, rows, {"outputs": {"y": {"column": "y"}}}).score(rows).to_pydict() == {
        "y": [1.0, 2.0]
    }
    with pytest.raises(ModelError, match="'pair' is a seq"):
        bench.add(model, rows, {"outputs": {"pair": {"column": "pair"}}})
    with pytest.raises(ModelError, match="'pair' is a seq") as caught:
        bench.add(model, rows)
    assert "y: {column: y}" in caught.value.next_step


def test_an_output_whose_first_dimension_is_not_the_batch_is_refused_with_those_that_can_be_kept(
    bench: Bench,
) -> None:
    model = graph(
        [node("Identity", ["x"], ["y"]), node("ReduceSum", ["x"], ["total"], keepdims=0)],
        {"x": (F32, ["N"])},
        {"y": (F32, ["N"]), "total": (F32, [])},
    )
    with pytest.raises(ModelError, match="first dimension is not the batch") as caught:
        bench.add(model, {"x": [1.0, 2.0]})
    assert caught.value.next_step.endswith("outputs:\n      y: {column: y}")
    bench.add(model, {"x": [1.0, 2.0]}, {"outputs": {"y": {"column": "y"}}})


def test_an_output_of_as_many_rows_as_the_first_call_had_is_not_taken_for_the_batch(bench: Bench) -> None:
    model = graph(
        [node("Identity", ["x"], ["y"]), node("Add", ["table", "zero"], ["constant"])],
        {"x": (F32, ["N"])},
        {"y": (F32, ["N"]), "constant": (F32, [8])},
        {"table": np.ones(8, np.float32), "zero": np.zeros(8, np.float32)},
    )
    with pytest.raises(ModelError, match="first dimension is not the batch"):
        bench.add(model, {"x": np.arange(20.0)})


def test_an_output_whose_width_changes_with_the_call_is_refused(bench: Bench) -> None:
    model = graph(
        [node("Identity", ["ids"], ["logits"])], {"ids": (F32, ["N", "T"])}, {"logits": (F32, ["N", "T"])}
    )
    lists = pa.array([[float(i)] * (1 + i) for i in range(9)])
    with pytest.raises(ModelError, match="cannot become columns"):
        bench.add(model, {"t": lists}, {"inputs": {"ids": {"column": "t", "pad": 0}}})


def test_an_output_that_changes_its_width_later_is_an_error_not_a_wrong_score(bench: Bench) -> None:
    model = graph(
        [node("Identity", ["ids"], ["logits"])], {"ids": (F32, ["N", "T"])}, {"logits": (F32, ["N", "T"])}
    )
    config = {"inputs": {"ids": {"column": "t", "pad": 0}}, "outputs": {"logits": {"column": "v"}}}
    scorer = bench.scorer(model, {"t": pa.array([[1.0, 2.0, 3.0]] * 9)}, config)
    with pytest.raises(ModelError, match="has 1 values for each row, expected 3"):
        scorer.score(batch(t=pa.array([[1.0], [2.0]])))


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"nope": {"column": "y"}}, "no output 'nope'; it has y"),
        ({"y": {"columns": ["p", "p"]}}, "'p' is named twice"),
        ({"y": {"columns": ["p", "_run_id"]}}, "'_run_id': names with a leading _"),
        ({"y": {"columns": ["p"]}}, "2 columns, but 1 names"),
        ({"y": {"columns": {5: "p"}}}, "no column 5; columns count from 0"),
        ({"y": {"columns": {"late": "p"}}}, "no column 'late'"),
        ({"y": {}}, "either columns or column"),
        ({"y": {"column": "p", "columns": ["q"]}}, "either columns or column"),
        ({"y": {"colum": "p"}}, "unknown key"),
    ],
    ids=str,
)
def test_a_wrong_mapping_of_an_output_is_named(bench: Bench, outputs: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        bench.add(identity(F32, ["N", 2]), batch(a=[1.0], b=[2.0]), {**PACKED, "outputs": outputs})


def test_two_outputs_cannot_have_the_same_column(bench: Bench) -> None:
    model = graph(
        [node("Identity", ["x"], ["y"]), node("Neg", ["x"], ["z"])],
        {"x": (F32, ["N"])},
        {"y": (F32, ["N"]), "z": (F32, ["N"])},
    )
    config = {"outputs": {"y": {"column": "score"}, "z": {"column": "score"}}}
    with pytest.raises(ModelError, match="'score' is named twice"):
        bench.add(model, {"x": [1.0]}, config)


def test_a_bundle_keeps_the_order_of_the_outputs_that_the_config_states(bench: Bench) -> None:
    model = graph(
        [node("Identity", ["x"], ["y"]), node("Neg", ["x"], ["z"])],
        {"x": (F32, ["N"])},
        {"y": (F32, ["N"]), "z": (F32, ["N"])},
    )
    bundle = bench.add(model, {"x": [1.0]}, {"outputs": {"z": {"column": "b"}, "y": {"column": "a"}}})
    assert Scorer.load(bundle.location).output_schema.names == ["b", "a"]
