"""From the fitted pipeline to one ONNX graph, preprocessing inside, with one input per column.

`tensors` is the one place that says how a column becomes an input; training, the graph's input
types and the comparison of the two all follow it.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pandas as pd
import pyarrow as pa
import pyarrow.types as pat
from prepare import FEATURES, SCHEDULE
from skl2onnx import to_onnx, update_registered_converter
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
from skl2onnx.common.shape_calculator import calculate_linear_classifier_output_shapes
from skl2onnx.operator_converters.random_forest import convert_sklearn_random_forest_classifier
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import Pipeline

MISSING_TEXT = ""
STRINGS = [field.name for field in FEATURES if pat.is_string(field.type)]
INTEGERS = [name for name in SCHEDULE if name not in STRINGS]
"""The schedule is always complete; every other number may be missing, so is a float, for NaN."""

# Versions that ONNX Runtime has read since 1.14, of 2023.
OPSETS = {"": 18, "ai.onnx.ml": 3}
LABEL, PROBABILITIES = "output_label", "output_probability"  # as skl2onnx names a classifier's


def tensors(inputs: pa.Table) -> dict[str, npt.NDArray[Any]]:
    """Each feature as its ONNX input wants it: string, int64, or float32 with NaN for null."""
    return {name: tensor(name, inputs[name]) for name in FEATURES.names}


def tensor(name: str, column: pa.ChunkedArray) -> npt.NDArray[Any]:
    if name in STRINGS:
        return cast(npt.NDArray[Any], column.fill_null(MISSING_TEXT).to_numpy())
    if name in INTEGERS:
        return cast(npt.NDArray[Any], column.cast(pa.int64()).to_numpy())
    return cast(npt.NDArray[Any], column.cast(pa.float32()).to_numpy())


def frame(inputs: pa.Table) -> pd.DataFrame:
    """The same values for scikit-learn, whose ColumnTransformer knows columns by pandas' names."""
    return pd.DataFrame(tensors(inputs))


def convert(classifier: Pipeline, name: str) -> bytes:
    """The ONNX graph of a fitted pipeline; the same pipeline gives the same bytes."""
    columns = [(feature, input_type(feature)) for feature in FEATURES.names]
    model = to_onnx(classifier, initial_types=columns, name=name, target_opset=OPSETS)
    opsets = sorted(model.opset_import, key=lambda opset: opset.domain)  # skl2onnx's order is a set's
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    return cast(bytes, model.SerializeToString(deterministic=True))


def input_type(feature: str) -> Any:
    if feature in STRINGS:
        return StringTensorType([None, 1])
    if feature in INTEGERS:
        return Int64TensorType([None, 1])
    return FloatTensorType([None, 1])


def score(onnx: bytes, inputs: pa.Table) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Labels and probabilities of being late, as the graph gives them."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1  # with more, the order of the trees' sum follows the core count
    session = ort.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    feed = {name: values.reshape(-1, 1) for name, values in tensors(inputs).items()}
    labels, maps = session.run([LABEL, PROBABILITIES], feed)
    p_late = np.fromiter((by_label[1] for by_label in maps), np.float32, count=len(maps))
    return labels, p_late


def convert_boosted_trees(scope: Any, operator: Any, container: Any) -> None:
    """skl2onnx's own conversion, with its flags written as integers.

    skl2onnx 1.20 puts booleans into `nodes_missing_value_tracks_true`, a list of integers in ONNX,
    and protobuf 7 no longer takes one for the other.
    """
    add_node = container.add_node

    def add_node_with_integers(*args: Any, **attributes: Any) -> None:
        flags = attributes.get("nodes_missing_value_tracks_true")
        if flags is not None:
            attributes["nodes_missing_value_tracks_true"] = [int(flag) for flag in flags]
        add_node(*args, **attributes)

    container.add_node = add_node_with_integers
    try:
        convert_sklearn_random_forest_classifier(scope, operator, container)
    finally:
        container.add_node = add_node


update_registered_converter(
    HistGradientBoostingClassifier,
    "SklearnHistGradientBoostingClassifier",
    calculate_linear_classifier_output_shapes,
    convert_boosted_trees,
    options={
        "zipmap": [True, False, "columns"],
        "raw_scores": [True, False],
        "nocl": [True, False],
    },
)
