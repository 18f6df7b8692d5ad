"""Tensors become columns: each ONNX output's values, written block by block into arrays of the batch's size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchinfer.core import arrays
from batchinfer.errors import ModelError
from batchinfer.model._manifest import OutputMapping
from batchinfer.model._session import TensorSpec

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class OutputColumn:
    """One result column: which output it is from, and which of its values ([N, K] index, or all D)."""

    name: str
    output: str
    dtype: np.dtype[Any]
    index: int | None
    size: int | None

    @property
    def field(self) -> pa.Field:
        """The Arrow field of the column."""
        value = pa.string() if self.dtype == np.object_ else pa.from_numpy_dtype(self.dtype)
        return pa.field(self.name, value if self.size is None else pa.list_(value, self.size))

    def allocate(self, rows: int) -> Array:
        """An array for the whole batch, uninitialised."""
        return np.empty(rows if self.size is None else (rows, self.size), self.dtype)

    def fill(self, target: Array, tensor: Array, start: int, stop: int) -> None:
        """Write a block's values to their rows; rows of the tensor beyond the block are padding."""
        rows = stop - start
        if len(tensor) < rows:
            raise ModelError(
                f"output '{self.output}' has {len(tensor)} rows for {rows}: its first dimension is not the batch",
                output=self.output,
            )
        values = tensor[:rows].reshape(rows, -1)
        if self.size is not None:
            target[start:stop] = values
            return
        index = self.index or 0
        if index >= values.shape[1]:
            raise ModelError(f"output '{self.output}' has {values.shape[1]} columns, none at {index}")
        target[start:stop] = values[:, index]

    def arrow(self, values: Array) -> pa.Array:
        """The column; numbers are not copied."""
        if self.size is None:
            return arrays.from_texts(values) if self.dtype == np.object_ else arrays.from_numpy(values)
        return pa.FixedSizeListArray.from_arrays(arrays.from_numpy(values.reshape(-1)), self.size)


def output_columns(
    mappings: Mapping[str, OutputMapping], specs: Mapping[str, TensorSpec]
) -> tuple[OutputColumn, ...]:
    """The result columns of a model, in the order of its manifest.

    Raises:
        ModelError: a mapping names an unknown output, class or size, or a result column twice.
    """
    columns: list[OutputColumn] = []
    for output, mapping in mappings.items():
        if output not in specs:
            raise ModelError(f"the graph has no output '{output}'; it has {', '.join(specs)}")
        columns += _columns_of(output, mapping, specs[output])
    names = [column.name for column in columns]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise ModelError(f"the result column '{twice[0]}' is named by two outputs")
    if reserved := [n for n in names if n.startswith("_")]:
        raise ModelError(f"the result column '{reserved[0]}': names with a leading _ are kept for lineage")
    return tuple(columns)


def _columns_of(output: str, mapping: OutputMapping, spec: TensorSpec) -> list[OutputColumn]:
    if mapping.column is not None:
        return [OutputColumn(mapping.column, output, spec.dtype, None, mapping.size)]
    if isinstance(mapping.columns, dict):
        return [
            OutputColumn(name, output, spec.dtype, _class_index(output, label, mapping, spec), None)
            for label, name in mapping.columns.items()
        ]
    names = mapping.columns or ()
    width = spec.shape[1] if len(spec.shape) == 2 else None
    if width is not None and width != len(names):
        raise ModelError(
            f"output '{output}' is {spec}: {width} columns, but {len(names)} names are given",
            next_step="name each of them, or some of them as a mapping {index: name}",
        )
    return [OutputColumn(name, output, spec.dtype, i, None) for i, name in enumerate(names)]


def _class_index(output: str, label: int | str, mapping: OutputMapping, spec: TensorSpec) -> int:
    if mapping.classes is not None:
        for index, known in enumerate(mapping.classes):
            if str(known) == str(label):
                return index
        known_labels = ", ".join(map(str, mapping.classes))
        raise ModelError(f"output '{output}' has no class '{label}'; it has {known_labels}")
    width = spec.shape[1] if len(spec.shape) == 2 else None
    if not isinstance(label, int) or label < 0 or (width is not None and label >= width):
        raise ModelError(f"output '{output}' is {spec}: no column {label!r}; columns count from 0")
    return label
