"""JSON: one object a message, decoded in bulk by Polars' `json_decode`, and held to more than it asks for.

The reader refuses what is no object. It would let pass a number for a text, true for 1, a field that is absent or
stands twice, and half a surrogate pair: whether a message may have one of these is decided in bulk (`_json_shape`),
and the few that may are read one by one (`_json_strict`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from batchinfer.core import arrays
from batchinfer.errors import SpecError
from batchinfer.spec import FormatSpec
from batchinfer.streaming._json_shape import Layouts
from batchinfer.streaming._json_strict import Field, fault
from batchinfer.streaming._ports import Decoded

Mask = npt.NDArray[np.bool_]

_NUMBERS = {
    pa.uint64(): pl.UInt64(),
    pa.float32(): pl.Float32(),
    pa.float64(): pl.Float64(),
    pa.bool_(): pl.Boolean(),
}

_BLOCK_MESSAGES = 4096
"""So many are read at once: what the reader makes of more does not stay in the processor's cache."""
_PIECE_MESSAGES = 256
"""So many are read one by one where one of them cannot be read."""


class JsonDecoder:
    """See `batchinfer.streaming.Decoder`. Text, dates and times are JSON strings, lists are arrays."""

    def __init__(self, schema: pa.Schema, _spec: FormatSpec, _folder: Path) -> None:
        self._schema = schema
        self._fields = {field.name: Field.of(field) for field in schema}
        self._layouts = Layouts(self._fields)
        self._reads = pl.Struct({field.name: _read_as(field.type) for field in schema})

    def decode(self, values: pa.LargeBinaryArray) -> Decoded:
        """See `Decoder.decode`."""
        rejected: dict[int, str] = {}
        for place in _no_objects(values).tolist():
            if (why := fault(values[place].as_py(), self._fields)) is not None:
                rejected[place] = why
        places = np.arange(len(values))
        if rejected:
            places = np.delete(places, list(rejected))
        batch = self._read(values, places)
        if batch is None:
            places, batch = self._read_in_pieces(values, places, rejected)
        suspect = self._layouts.suspects(_taken(values, places), batch)
        if suspect.any():
            batch, places = self._examined(values, places, batch, suspect, rejected)
        return Decoded(batch, places, sorted(rejected.items()))

    def _read(self, values: pa.LargeBinaryArray, places: npt.NDArray[np.int64]) -> pa.RecordBatch | None:
        """The messages at these places as rows; None where one of them is not to be read."""
        if not len(places):
            return pa.RecordBatch.from_arrays(
                [pa.nulls(0, f.type) for f in self._schema], schema=self._schema
            )
        taken, blocks = _taken(values, places), []
        try:
            for start in range(0, len(taken), _BLOCK_MESSAGES):
                texts = pl.Series(taken.slice(start, _BLOCK_MESSAGES).cast(pa.large_string()))
                objects = texts.str.json_decode(self._reads).to_arrow()
                if objects.null_count:
                    return None
                blocks.append(self._typed(objects))
        except (pl.exceptions.PolarsError, pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
            return None
        return blocks[0] if len(blocks) == 1 else pa.concat_batches(blocks)

    def _typed(self, objects: pa.StructArray) -> pa.RecordBatch:
        columns = [
            found if found.type == field.type else _cast(found, field.type)
            for field, found in zip(self._schema, objects.flatten(), strict=True)
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)

    def _read_in_pieces(
        self, values: pa.LargeBinaryArray, places: npt.NDArray[np.int64], rejected: dict[int, str]
    ) -> tuple[npt.NDArray[np.int64], pa.RecordBatch]:
        """The messages without those that the reader refuses, which are looked for in the pieces where they are."""
        found, batches = [], []
        for start in range(0, len(places), _PIECE_MESSAGES):
            piece = places[start : start + _PIECE_MESSAGES]
            batch = self._read(values, piece)
            if batch is None:
                piece, batch = self._without_faults(values, piece, rejected)
            found.append(piece)
            batches.append(batch)
        return np.concatenate(found), pa.concat_batches(batches)

    def _without_faults(
        self, values: pa.LargeBinaryArray, places: npt.NDArray[np.int64], rejected: dict[int, str]
    ) -> tuple[npt.NDArray[np.int64], pa.RecordBatch]:
        """Find the messages that the reader refuses: those that look faulty are read alone, the rest at once."""
        faulty = [p for p in places.tolist() if fault(values[p].as_py(), self._fields) is not None]
        alone = [p for p in faulty if self._read(values, np.array([p])) is None]
        good = np.setdiff1d(places, alone)
        batch = self._read(values, good)
        if batch is None:  # the two readers do not agree: the bulk reader's word holds
            hidden = self._refused(values, good)
            good = np.setdiff1d(good, hidden)
            alone += hidden
            batch = self._read(values, good)
            assert batch is not None, "messages that are read in parts are read together"
        for place in alone:
            rejected[place] = fault(values[place].as_py(), self._fields) or "the JSON reader refuses it"
        return good, batch

    def _refused(self, values: pa.LargeBinaryArray, places: npt.NDArray[np.int64]) -> list[int]:
        if self._read(values, places) is not None:
            return []
        if len(places) == 1:
            return [int(places[0])]
        middle = len(places) // 2
        return [*self._refused(values, places[:middle]), *self._refused(values, places[middle:])]

    def _examined(
        self,
        values: pa.LargeBinaryArray,
        places: npt.NDArray[np.int64],
        batch: pa.RecordBatch,
        suspect: Mask,
        rejected: dict[int, str],
    ) -> tuple[pa.RecordBatch, npt.NDArray[np.int64]]:
        keep = np.ones(len(places), np.bool_)
        for row in np.flatnonzero(suspect).tolist():
            place = int(places[row])
            if (why := fault(values[place].as_py(), self._fields)) is not None:
                rejected[place] = why
                keep[row] = False
        if keep.all():
            return batch, places
        return batch.filter(arrays.from_numpy(keep)), places[keep]


class JsonEncoder:
    """See `batchinfer.streaming.Encoder`: one object for each row. NaN and infinities, which JSON has not, are null."""

    def __init__(self, schema: pa.Schema, _spec: FormatSpec | None = None, _topic: str = "") -> None:
        for field in schema:
            if _holds_bytes(field.type):
                raise SpecError(
                    f"stream.output_format: '{field.name}' is {field.type}, which JSON cannot hold",
                    next_step="write predictions as avro or protobuf, or leave the column out of output.carry",
                    column=field.name,
                )

    def encode(self, rows: pa.RecordBatch) -> pa.LargeBinaryArray:
        """See `Encoder.encode`."""
        objects = pl.Series(pa.StructArray.from_arrays(rows.columns, fields=list(rows.schema)))
        return objects.struct.json_encode().to_arrow().cast(pa.large_binary())


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_nested(kind):
        return any(_holds_bytes(kind.field(place).type) for place in range(kind.num_fields))
    return arrays.is_bytes(kind)


def _no_objects(values: pa.LargeBinaryArray) -> npt.NDArray[np.int64]:
    """The places of values that do not begin and end with braces."""
    _, offsets, data = values.buffers()
    if data is None:  # none has a byte
        return np.arange(len(values))
    bounds = np.frombuffer(offsets, np.int64, len(values) + 1, values.offset * 8)
    characters = np.frombuffer(data, np.uint8)
    found = np.diff(bounds) >= len("{}")
    if (valid := arrays.valid(values)) is not None:
        found &= valid
    rows = slice(None) if found.all() else np.flatnonzero(found)
    opened = characters[bounds[:-1][rows]] == ord("{")
    found[rows] = opened & (characters[bounds[1:][rows] - 1] == ord("}"))
    return np.flatnonzero(~found)


def _read_as(kind: pa.DataType) -> pl.DataType:
    if kind in _NUMBERS:
        return _NUMBERS[kind]
    if pa.types.is_integer(kind):
        return pl.Int64()
    if pa.types.is_floating(kind):
        return pl.Float32()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = kind.value_type
        # A number beyond the type would be null, and nobody sees it in a list: a text that is no number is refused.
        return pl.List(pl.String() if pa.types.is_integer(inner) else _read_as(inner))
    return pl.String()  # texts, dates and times


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """As Arrow casts, but for lists of a fixed size: there, casting some lists from Polars ends the process."""
    if not pa.types.is_fixed_size_list(kind):
        return column.cast(kind)
    size = kind.list_size
    lengths, _ = arrays.to_numpy(pc.fill_null(pc.list_value_length(column), size))
    if (lengths != size).any():
        raise pa.ArrowInvalid(f"lists of other lengths than {size}")
    starts = arrays.to_numpy(column.offsets)[0][:-1].astype(np.int64)
    places = (starts[:, None] + np.arange(size)).reshape(-1)
    null = arrays.to_numpy(pc.is_null(column))[0]
    absent = np.repeat(null, size)
    values = column.values.take(pa.array(np.where(absent, 0, places), mask=absent)).cast(kind.value_type)
    return pa.FixedSizeListArray.from_arrays(values, type=kind, mask=arrays.from_numpy(null))


def _taken(values: pa.Array, places: npt.NDArray[np.int64]) -> pa.Array:
    return values if len(places) == len(values) else values.take(arrays.from_numpy(places))
