"""Small real ONNX graphs, and a bench that makes bundles of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from onnx import TensorProto, helper, numpy_helper

from batchinfer.core import Refusals
from batchinfer.model import Bundle, Registry, Scorer, add_model

Array = npt.NDArray[Any]
Shape = Sequence[int | str | None]
F32, F64, F16 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16
I32, I64, BOOL, TEXT = TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL, TensorProto.STRING


def graph(
    nodes: Sequence[Any],
    inputs: Mapping[str, tuple[int, Shape]],
    outputs: Mapping[str, tuple[int, Shape]],
    values: Mapping[str, Array] | None = None,
) -> onnx.ModelProto:
    """A model of nodes; `values` are its initializers."""
    made = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(n, t, list(s)) for n, (t, s) in inputs.items()],
        [helper.make_tensor_value_info(n, t, list(s)) for n, (t, s) in outputs.items()],
        [numpy_helper.from_array(v, n) for n, v in (values or {}).items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(made, opset_imports=opsets, ir_version=9)


node = helper.make_node


def identity(dtype: int, shape: Shape) -> onnx.ModelProto:
    """`y` is the tensor `x`: what was fed can be read."""
    return graph([node("Identity", ["x"], ["y"])], {"x": (dtype, shape)}, {"y": (dtype, shape)})


def mlp(width: int = 3, hidden: int = 32, seed: int = 0) -> onnx.ModelProto:
    """Two layers of floats; `x` [N, width] → `score` [N, 1]."""
    random = np.random.default_rng(seed)
    return graph(
        [
            node("Gemm", ["x", "w1", "b1"], ["h"]),
            node("Relu", ["h"], ["r"]),
            node("Gemm", ["r", "w2", "b2"], ["score"]),
        ],
        {"x": (F32, ["N", width])},
        {"score": (F32, ["N", 1])},
        {
            "w1": random.normal(size=(width, hidden)).astype(np.float32),
            "b1": random.normal(size=hidden).astype(np.float32),
            "w2": random.normal(size=(hidden, 1)).astype(np.float32),
            "b2": random.normal(size=1).astype(np.float32),
        },
    )


def linear(weights: Sequence[float], rows: str | int = "N") -> onnx.ModelProto:
    """`x` [N, F] → `score` [N, 1], the weighted sum."""
    return graph(
        [node("MatMul", ["x", "w"], ["score"])],
        {"x": (F32, [rows, len(weights)])},
        {"score": (F32, [rows, 1])},
        {"w": np.array(weights, np.float32)[:, None]},
    )


def centred(rows: str | int = "N") -> onnx.ModelProto:
    """A model that mixes rows: each value less the mean of its batch."""
    return graph(
        [
            node("ReduceMean", ["x", "axis"], ["mean"], keepdims=1),
            node("Sub", ["x", "mean"], ["y"]),
        ],
        {"x": (F32, [rows, 1])},
        {"y": (F32, [rows, 1])},
        {"axis": np.array([0])},
    )


def depends_on_rows(*, multiple_of: int | None = None) -> onnx.ModelProto:
    """`y` is `x` + 1 in a call whose number of rows is a multiple of `multiple_of`, else + 1.5.

    With None it is `x` + the number of rows: only calls of one size agree.
    """
    nodes = [
        node("Shape", ["x"], ["shape"], start=0, end=1),
        node("Cast", ["shape"], ["rows"], to=F32),
    ]
    values: dict[str, Array] = {}
    if multiple_of is None:
        nodes.append(node("Add", ["x", "rows"], ["y"]))
    else:
        values = {"k": np.array([multiple_of]), "zero": np.array([0]), "even": np.array([1], np.float32)}
        values["odd"] = np.array([1.5], np.float32)
        nodes += [
            node("Mod", ["shape", "k"], ["rest"]),
            node("Equal", ["rest", "zero"], ["fits"]),
            node("Where", ["fits", "even", "odd"], ["more"]),
            node("Add", ["x", "more"], ["y"]),
        ]
    return graph(nodes, {"x": (F32, ["N", 1])}, {"y": (F32, ["N", 1])}, values)


def lookup(size: int = 5) -> onnx.ModelProto:
    """`score` of an index `i`; fails at run time for an index that the table does not have."""
    return graph(
        [node("Gather", ["table", "i"], ["score"])],
        {"i": (I64, ["N"])},
        {"score": (F32, ["N"])},
        {"table": np.arange(size, dtype=np.float32) * 10},
    )


def tokens() -> onnx.ModelProto:
    """`total` [N]: the sum over `ids` [N, T] where `mask` [N, T] is 1; `width` [N]: T."""
    return graph(
        [
            node("Mul", ["ids", "mask"], ["real"]),
            node("ReduceSum", ["real", "axis"], ["total"], keepdims=0),
            node("Or", ["true", "mask_bool"], ["ones_bool"]),
            node("Cast", ["mask"], ["mask_bool"], to=BOOL),
            node("Cast", ["ones_bool"], ["ones"], to=I64),
            node("ReduceSum", ["ones", "axis"], ["width"], keepdims=0),
        ],
        {"ids": (I64, ["N", "T"]), "mask": (I64, ["N", "T"])},
        {"total": (I64, ["N"]), "width": (I64, ["N"])},
        {"axis": np.array([1]), "true": np.array([[True]])},
    )


@dataclass(frozen=True)
class Bench:
    """A folder with a registry, in which bundles are made."""

    root: Path

    @property
    def registry(self) -> Registry:
        return Registry(str(self.root / "models"))

    def write(self, model: onnx.ModelProto | bytes, name: str = "graph.onnx") -> Path:
        path = self.root / name
        path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        return path

    def sample(self, columns: pa.Table | pa.RecordBatch | Mapping[str, Any]) -> Path:
        path = self.root / "sample.parquet"
        pq.write_table(table(columns), path)
        return path

    def add(
        self,
        model: onnx.ModelProto | bytes | Path,
        sample: pa.Table | pa.RecordBatch | Mapping[str, Any],
        config: Mapping[str, Any] | None = None,
        *,
        name: str = "m",
        alias: str | None = None,
    ) -> Bundle:
        return add_model(
            name,
            onnx=model if isinstance(model, Path) else self.write(model),
            sample=self.sample(sample),
            config=config,
            registry=self.registry.location,
            alias=alias,
        )

    def scorer(
        self,
        model: onnx.ModelProto | bytes | Path,
        sample: pa.Table | pa.RecordBatch | Mapping[str, Any],
        config: Mapping[str, Any] | None = None,
    ) -> Scorer:
        return Scorer.load(self.add(model, sample, config).location)


def table(columns: pa.Table | pa.RecordBatch | Mapping[str, Any]) -> pa.Table:
    if isinstance(columns, pa.RecordBatch):
        return pa.Table.from_batches([columns])
    return columns if isinstance(columns, pa.Table) else pa.table(dict(columns))


def batch(**columns: Any) -> pa.RecordBatch:
    """A record batch of columns by name."""
    return pa.RecordBatch.from_pydict(columns)


def refused(refusals: Refusals) -> dict[int, str]:
    """The reasons by row."""
    return {int(row): refusals.reason(place).text for place, row in enumerate(refusals.rows)}


def bits(result: pa.RecordBatch) -> list[bytes]:
    """The bits of each column of a result, whatever buffers they lie in."""
    found = []
    for column in result.columns:
        flat = column.flatten() if pa.types.is_nested(column.type) else column
        if pa.types.is_string(flat.type):
            found.append(repr(flat.to_pylist()).encode())
        else:
            found.append(flat.to_numpy(zero_copy_only=False).tobytes())
    return found
