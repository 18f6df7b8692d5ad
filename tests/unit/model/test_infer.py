"""What a graph's names say of its mappings is inferred; the rest is asked for, ready to paste."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from tests.unit.model.graphs import (
    BOOL,
    F32,
    I64,
    TEXT,
    Bench,
    batch,
    graph,
    identity,
    linear,
    node,
    tokens,
)

from batchinfer.errors import ModelError


def pasted(error: ModelError) -> dict[str, Any]:
    """The config in an error's advice, as somebody would copy it."""
    text = error.next_step[error.next_step.index("    inputs:") :]
    document = yaml.safe_load(text)
    assert isinstance(document, dict)
    return document


def test_an_input_takes_the_column_of_its_own_name(bench: Bench) -> None:
    bundle = bench.add(identity(F32, ["N"]), {"unused": ["a"], "x": [1.0]})
    assert bundle.manifest.inputs["x"].column == "x"
    assert bundle.manifest.outputs["y"].column == "y"


def test_a_list_column_of_any_size_is_padded_where_the_graph_leaves_the_size_open(bench: Bench) -> None:
    model = graph(
        [node("ReduceSum", ["ids", "axis"], ["total"], keepdims=0)],
        {"ids": (I64, ["N", "T"])},
        {"total": (I64, ["N"])},
        {"axis": np.array([1])},
    )
    scorer = bench.scorer(model, {"ids": [[1, 2], [3]]})
    assert scorer.bundle.manifest.inputs["ids"].pad == 0
    assert scorer.score(batch(ids=[[1, 2, 3], []])).to_pydict() == {"total": [6, 0]}


def test_a_fixed_size_list_fills_an_open_shape(bench: Bench) -> None:
    column = pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2))
    bundle = bench.add(identity(F32, ["N", "D"]), {"x": column})
    assert bundle.manifest.inputs["x"].shape == (2,)


def test_a_wide_matrix_becomes_a_vector_and_a_narrow_one_columns(bench: Bench) -> None:
    wide = pa.array(np.ones((3, 17)).tolist(), pa.list_(pa.float32()))
    assert bench.add(identity(F32, ["N", 17]), {"x": wide}).manifest.outputs["y"].column == "y"
    narrow = pa.array(np.ones((3, 2)).tolist(), pa.list_(pa.float32()))
    assert bench.add(identity(F32, ["N", 2]), {"x": narrow}).manifest.outputs["y"].columns == ("y_0", "y_1")


@pytest.mark.parametrize("width", [3, None], ids=["width known", "width open"])
def test_a_packed_input_is_asked_for_with_the_numeric_columns(bench: Bench, width: int | None) -> None:
    sample = {"id": ["r1"], "a": [1.0], "b": [2], "c": [3.0]}
    model = linear([1, 2, 3])
    if width is None:
        model.graph.input[0].type.tensor_type.shape.dim[1].Clear()
    with pytest.raises(ModelError, match=r"input 'x'.*say what feeds it") as caught:
        bench.add(model, sample)
    config = pasted(caught.value)
    assert config == {"inputs": {"x": {"pack": ["a", "b", "c"]}}}
    assert bench.add(model, sample, config).manifest.columns == ("a", "b", "c")


def test_every_input_that_is_unclear_is_asked_for_at_once_beside_those_stated(bench: Bench) -> None:
    model = graph(
        [
            node("Identity", ["word"], ["w"]),
            node("Identity", ["flag"], ["f"]),
            node("Identity", ["n"], ["m"]),
        ],
        {"word": (TEXT, ["N"]), "flag": (BOOL, ["N", 1]), "n": (F32, ["N", 1])},
        {"w": (TEXT, ["N"]), "f": (BOOL, ["N", 1]), "m": (F32, ["N", 1])},
    )
    sample = {"title": ["a"], "price": [1.5], "sold": [True]}
    with pytest.raises(ModelError) as caught:
        bench.add(model, sample, {"inputs": {"n": {"column": "price", "fill_null": 0}}})
    config = pasted(caught.value)
    assert config["inputs"] == {
        "n": {"column": "price", "fill_null": 0},
        "word": {"column": "title"},
        "flag": {"column": "sold"},
    }
    bench.add(model, sample, config)


def test_tokens_and_their_mask_are_asked_for_as_such(bench: Bench) -> None:
    with pytest.raises(ModelError) as caught:
        bench.add(tokens(), {"words": [[1, 2], [3]]})
    config = pasted(caught.value)
    assert config == {"inputs": {"ids": {"column": "words", "pad": 0}, "mask": {"mask_of": "ids"}}}
    bench.add(tokens(), {"words": [[1, 2], [3]]}, {**config, "outputs": {"total": {"column": "total"}}})


def test_an_image_is_asked_for_with_its_shape(bench: Bench) -> None:
    sample = {"pixels": pa.array([[0.0] * 12], pa.list_(pa.float32()))}
    with pytest.raises(ModelError) as caught:
        bench.add(identity(F32, ["N", 3, 2, 2]), sample)
    assert pasted(caught.value) == {"inputs": {"x": {"column": "pixels", "shape": [3, 2, 2]}}}
    bench.add(identity(F32, ["N", 3, 2, 2]), sample, pasted(caught.value))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"nope": {"column": "a"}}, "no input 'nope'; it has x"),
        ({"x": {"pack": ["a"]}}, "takes 2 columns, but pack names 1"),
        ({"x": {"pack": []}}, "pack names no column"),
        ({"x": {"pack": ["a", "a"]}}, "pack names a column twice"),
        ({"x": {}}, "found none of them"),
        ({"x": {"column": "a", "constant": 1}}, "found column and constant"),
        ({"x": {"column": "a", "max": 3}}, "max goes with pad"),
        ({"x": {"pack": ["a", "b"], "pad": 3}}, "pad goes with column, not with pack"),
        ({"x": {"pack": ["a", "b"], "shape": [2]}}, "shape goes with column or constant"),
        ({"x": {"constant": 1, "fill_null": 0}}, "fill_null goes with pack or column"),
        ({"x": {"column": "a", "shape": ["batch"]}}, "shape takes whole numbers"),
        ({"x": {"column": "a", "shape": [0]}}, "shape takes whole numbers"),
        ({"x": {"column": "a", "shape": [2], "pad": 0}}, "not both"),
        ({"x": {"pack": ["a", "b"], "fill_null": "none"}}, "cannot hold fill_null: 'none'"),
        ({"x": {"constant": 1e300}}, "cannot hold constant"),
        ({"x": {"mask_of": "ids"}}, "is no padded input"),
        ({"x": {"colunm": "a"}}, "unknown key 'inputs.x.colunm'"),
    ],
    ids=str,
)
def test_a_wrong_mapping_of_an_input_is_named(bench: Bench, inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        bench.add(identity(F32, ["N", 2]), batch(a=[1.0], b=[2.0]), {"inputs": inputs})


@pytest.mark.parametrize(
    ("dtype", "value", "fits"),
    [
        (I64, 1.5, False),
        (I64, 2.0, True),
        (BOOL, 1, True),
        (BOOL, 2, False),
        (TEXT, 3, False),
        (TEXT, "", True),
    ],
)
def test_a_value_that_a_tensor_cannot_hold_is_refused(
    bench: Bench, dtype: int, value: Any, fits: bool
) -> None:
    sample = {"x": {I64: [1], BOOL: [True], TEXT: ["a"]}[dtype]}
    config = {"inputs": {"x": {"column": "x", "fill_null": value}}}
    if fits:
        bench.add(identity(dtype, ["N"]), sample, config)
    else:
        with pytest.raises(ModelError, match="cannot hold fill_null"):
            bench.add(identity(dtype, ["N"]), sample, config)


def test_inputs_of_different_fixed_batches_are_refused(bench: Bench) -> None:
    model = graph(
        [node("Identity", ["a"], ["b"]), node("Identity", ["c"], ["d"])],
        {"a": (F32, [4]), "c": (F32, [8])},
        {"b": (F32, [4]), "d": (F32, [8])},
    )
    with pytest.raises(ModelError, match="different numbers of rows: 'a' 4, 'c' 8"):
        bench.add(model, {"a": [1.0], "c": [1.0]})


def test_a_config_file_is_read_and_its_wrong_keys_are_named(bench: Bench) -> None:
    from batchinfer.model import add_model

    config = bench.root / "config.yaml"
    config.write_text("inputs:\n  x: {pack: [a, b]}\ntraining: {auc: 0.7, rows: 100}\n")
    model, sample = bench.write(linear([1, 2])), bench.sample({"a": [1.0], "b": [2.0]})
    place = bench.registry.location
    bundle = add_model("m", onnx=model, sample=sample, config=config, registry=place)
    assert bundle.manifest.training == {"auc": 0.7, "rows": 100}
    config.write_text("input:\n  x: {pack: [a, b]}\n")
    with pytest.raises(ModelError, match="unknown key 'input'; did you mean 'inputs'"):
        add_model("m", onnx=model, sample=sample, config=config, registry=place)
