"""Arrow IPC messages: each a stream or file of its own, with its schema and any number of rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from batchinfer.core import arrays
from batchinfer.spec import FormatSpec
from batchinfer.streaming._ports import Decoded, Decoder
from batchinfer.streaming.formats._columns import Columns, conform, misfit
from batchinfer.streaming.formats._framed import NO_VALUE, joined

_FILE = b"ARROW1"
_NOTHING = pa.RecordBatch.from_arrays([], names=[])


def arrow_decoder(schema: pa.Schema, spec: FormatSpec, folder: Path) -> Decoder:
    """A decoder of Arrow IPC, which carries its schema and needs no registry."""
    return ArrowDecoder(schema)


class ArrowDecoder:
    """Decodes messages of many rows; one bad row refuses its message, which is answered for as a whole."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema

    def decode(self, values: pa.LargeBinaryArray) -> Decoded:
        """See `Decoder.decode`."""
        rejected: dict[int, str] = {}
        alike: dict[bytes, list[tuple[int, pa.Table]]] = {}  # by the schema's bytes: then all go at once
        for place in range(len(values)):
            value = values[place]
            table = _table(value.as_buffer()) if value.is_valid else NO_VALUE
            if isinstance(table, str):
                rejected[place] = table
            else:
                alike.setdefault(table.schema.serialize().to_pybytes(), []).append((place, table))
        batches, rows = [], []
        for messages in alike.values():
            places = np.array([place for place, _ in messages])
            owners = np.repeat(places, [table.num_rows for _, table in messages])
            batch, why = self._conformed([table for _, table in messages])
            if isinstance(why, str):
                rejected |= dict.fromkeys(places.tolist(), why)
                continue
            for row, reason in sorted(why.items()):
                rejected.setdefault(int(owners[row]), f"{reason}, in a row of it")
            kept = ~np.isin(owners, list(rejected)) if why else np.ones(len(owners), np.bool_)
            batches.append(batch.filter(arrays.from_numpy(kept)) if why else batch)
            rows.append(owners[kept])
        return joined(self._schema, batches, rows, rejected)

    def _conformed(self, tables: list[pa.Table]) -> tuple[pa.RecordBatch, dict[int, str] | str]:
        """The rows of messages of one schema, and which are none; or why none of the messages is."""
        names = tables[0].schema.names
        types = {field.name: field.type for field in tables[0].schema if field.name in self._schema.names}
        if twice := [name for name in types if names.count(name) > 1]:
            return _NOTHING, f"field '{twice[0]}' stands twice"
        if (why := misfit(types, self._schema)) is not None:
            return _NOTHING, why
        whole = pa.concat_tables([table.select(list(types)) for table in tables])
        columns = {name: _combined(whole.column(name)) for name in types}
        return conform(Columns(columns, {}), self._schema, whole.num_rows)


def _table(value: pa.Buffer) -> pa.Table | str:
    """What a message holds, or why it holds nothing."""
    try:
        with _open(value) as reader:
            table = reader.read_all()
        table.validate(full=True)  # what a message claims of its buffers is believed by every kernel
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as e:
        return f"the value is no Arrow IPC stream: {type(e).__name__}"
    return table


def _open(value: pa.Buffer) -> pa.RecordBatchReader:
    if value.size >= len(_FILE) and value.slice(0, len(_FILE)).to_pybytes() == _FILE:
        return pa.ipc.open_file(value)
    return pa.ipc.open_stream(value)


def _combined(column: pa.ChunkedArray) -> pa.Array:
    if pa.types.is_dictionary(column.type):  # each message has a dictionary of its own
        column = column.cast(column.type.value_type)
    return pa.concat_arrays([pa.nulls(0, column.type), *column.chunks])
