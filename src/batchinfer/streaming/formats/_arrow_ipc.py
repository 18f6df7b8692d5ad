"""Arrow IPC messages: each a stream or file of its own, with its schema and any number of rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from batchinfer.spec import FormatSpec
from batchinfer.streaming._ports import Decoded, Decoder
from batchinfer.streaming.formats._columns import Columns, conform, misfit
from batchinfer.streaming.formats._framed import NO_VALUE, joined

_FILE = b"ARROW1"


def arrow_decoder(schema: pa.Schema, spec: FormatSpec, folder: Path) -> Decoder:
    """A decoder of Arrow IPC, which carries its schema and needs no registry."""
    return ArrowDecoder(schema)


class ArrowDecoder:
    """Decodes messages of many rows; one bad row refuses its message, which is answered for as a whole."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema

    def decode(self, values: pa.LargeBinaryArray) -> Decoded:
        """See `Decoder.decode`."""
        batches, rows = [], []
        rejected: dict[int, str] = {}
        for place in range(len(values)):
            value = values[place]
            if not value.is_valid:
                rejected[place] = NO_VALUE
                continue
            batch = self._message(value.as_buffer())
            if isinstance(batch, str):
                rejected[place] = batch
                continue
            batches.append(batch)
            rows.append(np.full(batch.num_rows, place, np.int64))
        return joined(self._schema, batches, rows, rejected)

    def _message(self, value: pa.Buffer) -> pa.RecordBatch | str:
        try:
            opened = _open(value)
            with opened as reader:
                table = reader.read_all()
            # What a message claims of its buffers is believed by every kernel: look first.
            table.validate(full=True)
            batch = table.combine_chunks()
        except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as e:
            return f"the value is no Arrow IPC stream: {type(e).__name__}"
        fields = {field.name: field.type for field in table.schema if field.name in self._schema.names}
        names = table.schema.names
        if twice := [name for name in fields if names.count(name) > 1]:
            return f"field '{twice[0]}' stands twice"
        if (why := misfit(fields, self._schema)) is not None:
            return why
        columns = {name: _whole(batch.column(name)) for name in fields}
        found, refused = conform(Columns(columns, {}), self._schema, table.num_rows)
        if refused:
            row = min(refused)
            return f"{refused[row]}, in a row of it"
        return found


def _open(value: pa.Buffer) -> pa.RecordBatchReader:
    if value.size >= len(_FILE) and value.slice(0, len(_FILE)).to_pybytes() == _FILE:
        return pa.ipc.open_file(value)
    return pa.ipc.open_stream(value)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    chunks = column.chunks
    return chunks[0] if len(chunks) == 1 else pa.concat_arrays([pa.nulls(0, column.type), *chunks])
