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
    """One result column.

    Attributes:
        name: its name.
        output: the ONNX output that it is from.
        dtype: the dtype of its values.
        width: how many values the output has for each row; None where the graph and the manifest leave it open.
        index: which of these the column takes; None for all of them, as a fixed-size list.
    """

    name: str
    output: str
    dtype: np.dtype[Any]
    width: int | None
    index: int | None

    @property
    def field(self) -> pa.Field:
        """The Arrow field of the column."""
        value = pa.string() if self.dtype == np.object_ else pa.from_numpy_dtype(self.dtype)
        return pa.field(self.name, value if self.index is not None else pa.list_(value, self.width))

    def allocate(self, rows: int) -> Array:
        """An array for the whole batch, uninitialised."""
        return np.empty(rows if self.index is not None else (rows, self.width or 0), self.dtype)

    def fill(self, target: Array, tensor: Array, start: int, stop: int) -> None:
        """Write a block's values to their rows; rows of the tensor beyond the block are padding.

        Raises:
            ModelError: the tensor is not of the rows and values a row that were measured.
        """
        rows = stop - start
        values = tensor[:rows].reshape(rows, -1) if tensor.ndim and len(tensor) >= rows else None
        if values is None:
            raise ModelError(
                f"output '{self.output}' has the shape {list(tensor.shape)} for {rows} rows: its first dimension "
                "is not the batch",
                output=self.output,
            )
        found = values.shape[1]
        if self.width not in {None, found} or (self.index or 0) >= found:
            raise ModelError(
                f"output '{self.output}' has {found} values for each row, expected {self.width or 'more'}",
                output=self.output,
            )
        target[start:stop] = values if self.index is None else values[:, self.index]

    def arrow(self, values: Array) -> pa.Array:
        """The column; numbers are not copied."""
        flat = values.reshape(-1)
        column = arrays.from_texts(flat.tolist()) if self.dtype == np.object_ else arrays.from_numpy(flat)
        return column if self.index is not None else pa.FixedSizeListArray.from_arrays(column, self.width)


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
        raise ModelError(
            f"the result column '{twice[0]}' is named twice",
            next_step="name the columns apart in the config, under outputs",
            column=twice[0],
        )
    if reserved := [n for n in names if n.startswith("_") or not n]:
        raise ModelError(
            f"the result column '{reserved[0]}': names with a leading _ are kept for lineage",
            next_step="give the column another name in the config, under outputs",
            column=reserved[0],
        )
    return tuple(columns)


def _columns_of(output: str, mapping: OutputMapping, spec: TensorSpec) -> list[OutputColumn]:
    dtype = spec.dtype
    if mapping.column is not None:
        width = mapping.size or 1
        return [OutputColumn(mapping.column, output, dtype, width, 0 if width == 1 else None)]
    width_or_none = spec.shape[1] if len(spec.shape) == 2 else mapping.size
    if isinstance(mapping.columns, dict):
        return [
            OutputColumn(name, output, dtype, width_or_none, _class_index(output, label, mapping, spec))
            for label, name in mapping.columns.items()
        ]
    names = mapping.columns or ()
    if width_or_none not in {None, len(names)}:
        raise ModelError(
            f"output '{output}' is {spec}: {width_or_none} columns, but {len(names)} names are given",
            next_step="name each of them, or some of them as a mapping {index: name}",
            output=output,
        )
    return [OutputColumn(name, output, dtype, len(names), i) for i, name in enumerate(names)]


def _class_index(output: str, label: int | str, mapping: OutputMapping, spec: TensorSpec) -> int:
    if mapping.classes is not None:
        for index, known in enumerate(mapping.classes):
            if str(known) == str(label):
                return index
        known_labels = ", ".join(map(str, mapping.classes))
        raise ModelError(f"output '{output}' has no class '{label}'; it has {known_labels}", output=output)
    width = spec.shape[1] if len(spec.shape) == 2 else mapping.size
    if isinstance(label, str) and label.isdecimal():
        label = int(label)  # model.yaml keeps keys as text
    if not isinstance(label, int) or label < 0 or (width is not None and label >= width):
        raise ModelError(
            f"output '{output}' is {spec}: no column {label!r}; columns count from 0", output=output
        )
    return label
