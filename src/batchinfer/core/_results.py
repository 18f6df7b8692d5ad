"""Result rows: which columns they have, of which types, and the lineage that every one carries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from batchinfer.core import arrays
from batchinfer.core._units import Partition
from batchinfer.errors import InputError

MODEL, RUN_ID, SOURCE, POSITION = "_model", "_run_id", "_source", "_position"
REASON, EXPECTATIONS = "_reason", "_expectations"

_LABEL = pa.dictionary(pa.int32(), pa.string())
LINEAGE: tuple[pa.Field, ...] = (
    pa.field(MODEL, _LABEL, nullable=False),
    pa.field(RUN_ID, _LABEL, nullable=False),
    pa.field(SOURCE, _LABEL, nullable=False),
    pa.field(POSITION, pa.int64(), nullable=False),
)
"""`_model` (name@version), `_run_id`, `_source` (file), `_position` (row in the file)."""


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where the rows of a batch come from. `positions` is int64, one for each row.

    `sources` (of the type of `_source`) says it for each row, where they have several; `source` names them all.
    """

    model: str
    run_id: str
    source: str
    positions: pa.Array
    sources: pa.DictionaryArray | None = None

    def take(self, rows: pa.Array) -> Lineage:
        """The lineage of some of the rows."""
        sources = None if self.sources is None else self.sources.take(rows)
        return Lineage(self.model, self.run_id, self.source, self.positions.take(rows), sources)

    def columns(self) -> list[pa.Array]:
        """One array for each field of `LINEAGE`."""
        rows = len(self.positions)
        labels = [constant_label(text, rows) for text in (self.model, self.run_id)]
        sources = constant_label(self.source, rows) if self.sources is None else self.sources
        return [*labels, sources, self.positions]


_ZEROS = pa.py_buffer(np.zeros(1 << 17, np.int32))
"""The indices of constant labels, shared by all batches of up to so many rows: nobody writes to them."""


def constant_label(text: str, rows: int) -> pa.DictionaryArray:
    """The same text `rows` times, at the price of nothing for common batch sizes."""
    indices = _ZEROS if rows * 4 <= _ZEROS.size else pa.py_buffer(np.zeros(rows, np.int32))
    return pa.DictionaryArray.from_buffers(_LABEL, rows, [None, indices], arrays.from_texts([text]))


def result_schema(kept: Sequence[pa.Field], outputs: pa.Schema) -> pa.Schema:
    """The columns of a results part: key and carried columns, model outputs, lineage.

    Raises:
        InputError: a model output has the name of a kept column.
    """
    for field in outputs:
        if field.name in {k.name for k in kept}:
            raise InputError(
                f"column '{field.name}' is an output of the model and also in input.key or output.carry",
                next_step="rename the model's output in its model.yaml, or do not carry the column",
                column=field.name,
            )
    # No output is null: columns without definition levels are written in half the time.
    stored_outputs = [
        pa.field(f.name, storable(f.type, f"the model's output '{f.name}'"), nullable=False) for f in outputs
    ]
    return pa.schema([*kept, *stored_outputs, *LINEAGE])


def quarantine_schema(originals: Sequence[pa.Field]) -> pa.Schema:
    """The columns of a quarantine part: the input's own, why the row was refused, lineage.

    `_reason` says it in words; `_expectations` names the expectations that the row failed, and is empty where
    the model refused it.
    """
    why = [pa.field(REASON, pa.string()), pa.field(EXPECTATIONS, pa.list_(pa.string()))]
    return pa.schema([*originals, *why, *LINEAGE])


def table_schema(part: pa.Schema, partition_by: Sequence[str]) -> pa.Schema:
    """What a reader of the table sees: a part's columns, labels as plain strings, and partition columns."""
    fields = [pa.field(f.name, pa.string() if f.type == _LABEL else f.type) for f in part]
    return pa.schema([*fields, *(pa.field(name, pa.string()) for name in partition_by)])


_NARROWED = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.float16(): pa.float32(),
    pa.date64(): pa.date32(),
    pa.large_string(): pa.string(),
    pa.string_view(): pa.string(),
    pa.large_binary(): pa.binary(),
    pa.binary_view(): pa.binary(),
}
_AS_IS = (
    pa.types.is_signed_integer,
    pa.types.is_float32,
    pa.types.is_float64,
    pa.types.is_boolean,
    pa.types.is_string,
    pa.types.is_binary,
    pa.types.is_date32,
    pa.types.is_decimal128,
)


def storable(kind: pa.DataType, what: str) -> pa.DataType:
    """The type under which every results store keeps a value of type `kind`, without loss.

    Delta Lake knows no unsigned integers, no half floats, no nanoseconds and no fixed-size lists.

    Raises:
        InputError: there is no such type; says what it is of.
    """
    if kind in _NARROWED:
        return _NARROWED[kind]
    if pa.types.is_dictionary(kind):
        return storable(kind.value_type, what)
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.list_(storable(kind.value_type, what))
    if any(accepts(kind) for accepts in _AS_IS):
        return kind
    raise InputError(
        f"{what} has the type {kind}, which results cannot hold",
        next_step="leave it out of input.key and output.carry, or store it as a number, text, date or list",
        found=str(kind),
    )


def rows_of_partition(partition: Partition) -> str:
    """A partition in words, for messages."""
    return ", ".join(f"{name}={value}" for name, value in partition) or "the whole table"
