"""For a certified model, any way to split a batch gives the same bits as the whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import lightgbm
import numpy as np
import onnx
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.model.graphs import F32, I64, Array, Bench, batch, bits, depends_on_rows, graph, mlp, node

from batchinfer.model import Scorer, _certify

ROWS = 700
VALUES = np.random.default_rng(5).normal(size=(ROWS, 3)).astype(np.float32)
COLUMNS = {name: VALUES[:, i] for i, name in enumerate("abc")}


@dataclass(frozen=True)
class Case:
    """A certified model, a batch of which some rows are refused, and the bits of the whole."""

    scorer: Scorer
    rows: pa.RecordBatch
    whole: list[Array]
    kept: Array


def light_gbm() -> onnx.ModelProto:
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    model = lightgbm.LGBMRegressor(n_estimators=30, verbose=-1, n_jobs=1).fit(VALUES, VALUES.sum(axis=1))
    return convert_lightgbm(model, initial_types=[("x", FloatTensorType([None, 3]))])


def embedding() -> onnx.ModelProto:
    table = np.random.default_rng(6).normal(size=(50, 16)).astype(np.float32)
    return graph(
        [
            node("Gather", ["table", "ids"], ["vectors"]),
            node("Cast", ["mask"], ["m"], to=F32),
            node("Unsqueeze", ["m", "last"], ["m3"]),
            node("Mul", ["vectors", "m3"], ["real"]),
            node("ReduceSum", ["real", "middle"], ["embedding"], keepdims=0),
        ],
        {"ids": (I64, ["N", "T"]), "mask": (I64, ["N", "T"])},
        {"embedding": (F32, ["N", 16])},
        {"table": table, "last": np.array([2]), "middle": np.array([1])},
    )


PACK = {"inputs": {"x": {"pack": ["a", "b", "c"]}}}
IDS = {
    "inputs": {"ids": {"column": "t", "pad": 0, "max": 20}, "mask": {"mask_of": "ids"}},
    "outputs": {"embedding": {"column": "embedding"}},
}
MODELS: dict[str, tuple[Callable[[], onnx.ModelProto], dict[str, Any], dict[str, Any]]] = {
    "mlp": (mlp, COLUMNS, PACK),
    "trees": (light_gbm, COLUMNS, PACK),
    "multiple of 8": (lambda: depends_on_rows(multiple_of=8), {"x": VALUES[:, 0]}, {}),
    "one size": (depends_on_rows, {"x": VALUES[:, 0]}, {}),
    "tokens": (embedding, {"t": [[j % 50 for j in range(i * 7 % 21)] for i in range(ROWS)]}, IDS),
}


@pytest.fixture(scope="module")
def case_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    @cache
    def make(name: str) -> Case:
        build, columns, config = MODELS[name]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_certify, "_SIZES", (256,) if name == "one size" else (64,))
            patch.setattr(_certify, "_SECONDS_A_SIZE", 1e-9)
            scorer = Bench(tmp_path_factory.mktemp("bench")).scorer(build(), columns, config)
        assert scorer.bundle.manifest.certificate.bit_exact
        rows = batch(**columns)
        whole, refused = scorer.score_rows(rows)
        kept = np.delete(np.arange(ROWS), refused.rows)
        return Case(scorer, rows, [by_row(column) for column in whole.columns], kept)

    return make


def by_row(column: pa.Array) -> Array:
    flat = column.flatten() if pa.types.is_nested(column.type) else column
    found: Array = flat.to_numpy(zero_copy_only=False).reshape(len(column), -1)
    return found


@pytest.mark.parametrize("name", MODELS)
@given(cuts=st.sets(st.integers(1, ROWS - 1), max_size=12))
@settings(max_examples=25)
def test_any_split_of_a_batch_gives_the_bits_of_the_whole(
    case_of: Callable[[str], Case], name: str, cuts: set[int]
) -> None:
    case = case_of(name)
    for start, stop in pairwise([0, *sorted(cuts), ROWS]):
        part, _ = case.scorer.score_rows(case.rows.slice(start, stop - start))
        here = (case.kept >= start) & (case.kept < stop)
        for found, expected in zip(part.columns, case.whole, strict=True):
            assert by_row(found).tobytes() == expected[here].tobytes()


@pytest.mark.parametrize("name", MODELS)
@given(order=st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=150))
@settings(max_examples=25)
def test_a_row_has_the_same_bits_in_any_place_beside_any_rows(
    case_of: Callable[[str], Case], name: str, order: list[int]
) -> None:
    case = case_of(name)
    found, refused = case.scorer.score_rows(case.rows.take(pa.array(order)))
    kept = np.delete(np.array(order), refused.rows)
    places = np.searchsorted(case.kept, kept)
    for column, expected in zip(found.columns, case.whole, strict=True):
        assert by_row(column).tobytes() == expected[places].tobytes()


def test_bits_of_a_result_are_its_values_not_its_buffers() -> None:
    values = batch(v=np.arange(10.0))
    assert bits(values.slice(3, 4)) == bits(batch(v=np.arange(3.0, 7.0)))
