"""The certificate: what is measured, the rule that is found, and that no model that mixes rows gets one."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any
from unittest import mock

import lightgbm
import numpy as np
import onnx
import pyarrow as pa
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from tests.unit.model.graphs import (
    F32,
    I64,
    TEXT,
    Array,
    Bench,
    batch,
    centred,
    depends_on_rows,
    graph,
    lookup,
    mlp,
    node,
)

from batchinfer.model import Certificate, Padding, _certify

RANDOM = np.random.default_rng(0)
FEATURES = RANDOM.normal(size=(300, 3)).astype(np.float32)
ROWS = batch(**{name: FEATURES[:, i] for i, name in enumerate("abc")})
PACK = {"inputs": {"x": {"pack": ["a", "b", "c"]}}}
SPREAD = batch(x=RANDOM.normal(size=200))


def tree_features() -> tuple[Array, Array]:
    features = RANDOM.normal(size=(400, 3)).astype(np.float32)
    features[::5, 0] = np.nan
    features[::7, 2] = np.nan
    target = (np.nan_to_num(features[:, 0]) + features[:, 1] > 0).astype(int)
    return features, target


@cache
def hist_gb() -> onnx.ModelProto:
    from skl2onnx import to_onnx
    from skl2onnx.common._container import ModelComponentContainer

    features, target = tree_features()
    model = HistGradientBoostingClassifier(max_iter=10, min_samples_leaf=5).fit(features, target)
    add_node = ModelComponentContainer.add_node

    def add_node_with_integers(*args: Any, **attributes: Any) -> None:
        # skl2onnx 1.20 writes booleans into a list of integers, which protobuf 7 refuses.
        flags = attributes.get("nodes_missing_value_tracks_true")
        if flags is not None:
            attributes["nodes_missing_value_tracks_true"] = [int(flag) for flag in flags]
        add_node(*args, **attributes)

    with mock.patch.object(ModelComponentContainer, "add_node", add_node_with_integers):
        return to_onnx(model, features[:1])


@cache
def light_gbm() -> onnx.ModelProto:
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    features, target = tree_features()
    model = lightgbm.LGBMRegressor(n_estimators=10, verbose=-1, min_child_samples=5, n_jobs=1)
    model.fit(features, target)
    return convert_lightgbm(model, initial_types=[("X", FloatTensorType([None, 3]))])


TREES = pytest.mark.parametrize("export", [hist_gb, light_gbm])


def certificate(bench: Bench, model: onnx.ModelProto, sample: Any, config: Any = None) -> Certificate:
    return bench.add(model, sample, config).manifest.certificate


def test_an_mlp_is_bit_exact_and_takes_no_nan(bench: Bench) -> None:
    found = certificate(bench, mlp(), ROWS, PACK)
    assert (found.bit_exact, found.max_ulp, found.takes_nan) == (True, 0, ())
    assert found.measured_on["sample_rows"] == 300


@TREES
@pytest.mark.parametrize("nulls", [True, False], ids=["sample with nulls", "sample without"])
def test_trees_are_bit_exact_and_take_nan(
    bench: Bench, export: Callable[[], onnx.ModelProto], nulls: bool
) -> None:
    features, _ = tree_features()
    if not nulls:
        features = np.nan_to_num(features)
    sample = {name: pa.array(features[:, i], from_pandas=True) for i, name in enumerate("abc")}
    found = certificate(bench, export(), sample, {"inputs": {"X": {"pack": ["a", "b", "c"]}}})
    assert found.bit_exact
    assert found.takes_nan == ("a", "b", "c")


def test_a_sample_in_which_every_row_misses_something_still_shows_what_may_be_missing(bench: Bench) -> None:
    nan = float("nan")
    sample = {"a": [nan, 1.0] * 10, "b": [0.5, nan] * 10, "c": [1.0, nan] * 10}
    found = certificate(bench, hist_gb(), sample, {"inputs": {"X": {"pack": ["a", "b", "c"]}}})
    assert found.takes_nan == ("a", "b", "c")


def test_a_column_with_fill_null_takes_no_nan(bench: Bench) -> None:
    features, _ = tree_features()
    sample = {name: features[:, i] for i, name in enumerate("abc")}
    config = {"inputs": {"X": {"pack": ["a", "b", "c"], "fill_null": 0}}}
    assert certificate(bench, hist_gb(), sample, config).takes_nan == ()


def test_a_label_alone_does_not_show_that_nan_is_taken(bench: Bench) -> None:
    model = graph(
        [node("ArgMax", ["x"], ["label"], axis=1, keepdims=0)],
        {"x": (F32, ["N", 3])},
        {"label": (I64, ["N"])},
    )
    assert certificate(bench, model, ROWS, PACK).takes_nan == ()


def test_an_operator_that_swallows_nan_by_chance_does_not_take_it(bench: Bench) -> None:
    model = graph(
        [node("Greater", ["x", "zero"], ["above"]), node("Cast", ["above"], ["y"], to=F32)],
        {"x": (F32, ["N"])},
        {"y": (F32, ["N"])},
        {"zero": np.array(0, np.float32)},
    )
    assert certificate(bench, model, SPREAD).takes_nan == ()


def test_a_list_column_takes_no_nan_even_where_the_graph_would(bench: Bench) -> None:
    nodes = [node("IsNaN", ["x"], ["lost"]), node("Where", ["lost", "zero", "x"], ["y"])]
    values = {"zero": np.array(0, np.float32)}
    model = graph(nodes, {"x": (F32, ["N", 2])}, {"y": (F32, ["N", 2])}, values)
    found = certificate(bench, model, {"x": [[1.0, 2.0], [3.0, float("nan")]]})
    assert found.takes_nan == ()


@pytest.mark.parametrize("rows", ["N", 8])
def test_a_model_that_mixes_rows_is_never_bit_exact(bench: Bench, rows: str | int) -> None:
    found = certificate(bench, centred(rows), SPREAD, {"inputs": {"x": {"column": "x"}}})
    assert not found.bit_exact
    assert found.max_ulp > 1000
    assert not found.full_width
    assert found.padding == (Padding() if rows == "N" else Padding(rule="fixed", rows=8))


@pytest.mark.parametrize("rows", ["N", 8])
@pytest.mark.parametrize(
    "sample", [batch(x=[1.5]), batch(x=[2.0] * 40), batch(x=[3]), batch(x=[0.0])], ids=str
)
def test_a_sample_of_equal_rows_does_not_hide_that_a_model_mixes_rows(
    bench: Bench, sample: pa.RecordBatch, rows: str | int
) -> None:
    found = certificate(bench, centred(rows), sample)
    assert not found.bit_exact
    assert found.max_ulp > 0


def test_a_model_quantised_by_the_range_of_its_batch_is_not_bit_exact(bench: Bench) -> None:
    model = graph(
        [
            node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero_point"]),
            node("DequantizeLinear", ["q", "scale", "zero_point"], ["y"]),
        ],
        {"x": (F32, ["N", 1])},
        {"y": (F32, ["N", 1])},
    )
    assert not certificate(bench, model, SPREAD).bit_exact
    assert not certificate(bench, model, batch(x=np.full(50, 0.5))).bit_exact


def test_lists_and_tokens_of_neighbours_matter_too(bench: Bench) -> None:
    model = graph(
        [node("ReduceMax", ["ids"], ["top"], keepdims=0), node("ReduceSum", ["ids", "axis"], ["s"], keepdims=0),
         node("Sub", ["s", "top"], ["y"])],
        {"ids": (I64, ["N", "T"])},
        {"y": (I64, ["N"])},
        {"axis": np.array([1])},
    )  # fmt: skip
    found = certificate(bench, model, {"t": [[1, 2]]}, {"inputs": {"ids": {"column": "t", "pad": 0}}})
    assert (found.bit_exact, found.max_ulp) == (False, 1)


def test_a_neighbour_that_an_embedding_does_not_know_is_no_reason_to_refuse_a_certificate(
    bench: Bench,
) -> None:
    assert certificate(bench, lookup(3), {"i": [2, 0, 1, 2]}).bit_exact
    assert certificate(bench, lookup(1), {"i": [0, 0]}).bit_exact


def test_a_model_of_texts_is_certified(bench: Bench) -> None:
    model = graph(
        [node("LabelEncoder", ["x"], ["y"], domain="ai.onnx.ml", keys_strings=["a", "b"], values_floats=[1.0, 2.0])],
        {"x": (TEXT, ["N"])},
        {"y": (F32, ["N"])},
    )  # fmt: skip
    found = certificate(bench, model, {"x": ["a", "b", "c"]})
    assert (found.bit_exact, found.padding.rule) == (True, "none")


@pytest.mark.parametrize("k", [2, 8, 64])
def test_the_cheapest_padding_rule_that_is_exact_is_found(bench: Bench, k: int) -> None:
    found = certificate(bench, depends_on_rows(multiple_of=k), SPREAD)
    assert found.bit_exact
    assert found.padding == Padding(rule="multiple", rows=k)
    assert found.batch_size % k == 0


def test_a_model_that_is_exact_at_one_size_only_gets_a_fixed_size(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_certify, "_SIZES", (256,))
    found = certificate(bench, depends_on_rows(), SPREAD)
    assert found.bit_exact
    assert found.padding == Padding(rule="fixed", rows=256)
    assert found.batch_size == 256


def test_calls_of_the_full_size_are_part_of_the_search_however_short_the_sample(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that switches its code in large calls only."""
    model = graph(
        [
            node("Shape", ["x"], ["rows"], start=0, end=1),
            node("Greater", ["rows", "limit"], ["large"]),
            node("Where", ["large", "one", "zero"], ["more"]),
            node("Add", ["x", "more"], ["y"]),
        ],
        {"x": (F32, ["N", 1])},
        {"y": (F32, ["N", 1])},
        {"limit": np.array([9000]), "one": np.ones(1, np.float32), "zero": np.zeros(1, np.float32)},
    )
    monkeypatch.setattr(_certify, "_SIZES", (32768,))
    found = certificate(bench, model, SPREAD)
    assert found.padding.rule == "fixed"


def test_one_row_in_a_hundred_that_scores_otherwise_when_it_is_alone_is_found(bench: Bench) -> None:
    """As a linear model's do: a product of one row is summed in another order, which seldom shows."""
    model = graph(
        [
            node("Shape", ["x"], ["rows"], start=0, end=1),
            node("Equal", ["rows", "alone"], ["single"]),
            node("Equal", ["x", "rare"], ["odd"]),
            node("And", ["single", "odd"], ["both"]),
            node("Where", ["both", "one", "x"], ["y"]),
        ],
        {"x": (F32, ["N", 1])},
        {"y": (F32, ["N", 1])},
        {"alone": np.array([1]), "rare": np.array([7], np.float32), "one": np.ones(1, np.float32)},
    )
    for place in (0, 199):  # wherever it stands in the sample
        values = np.full(200, 3, np.float32)
        values[place] = 7
        found = certificate(bench, model, batch(x=values))
        assert found.padding == Padding(rule="multiple", rows=2)


def test_a_slow_model_is_not_called_for_each_row_of_a_long_sample() -> None:
    """Here with a second for each call."""
    slow = Certificate(batch_size=64, rows_per_second={1: 1, 64: 64}, measured_on={})
    calls = [len(order) / size for order, size in _certify._arrangements(10_000, 10_000, slow) if size < 64]
    assert calls
    assert max(calls) == 40


def test_the_smallest_size_near_the_best_is_taken() -> None:
    rates = {1: 100, 64: 60_000, 256: 99_000, 1024: 100_000, 4096: 98_000}
    assert _certify._smallest_near_best(rates, 0.97) == 256
    assert _certify._smallest_near_best({1: 10, 8: 9}, 0.97) == 1


def test_the_same_bundle_is_made_of_the_same_model_but_for_what_was_measured(bench: Bench) -> None:
    first, second = (bench.add(mlp(), ROWS, PACK).manifest for _ in range(2))
    assert first.files == second.files
    assert (first.inputs, first.outputs) == (second.inputs, second.outputs)
