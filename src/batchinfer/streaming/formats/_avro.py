"""Avro records to Arrow columns: flat ones in bulk, the others with fastavro, message by message."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchinfer.core import arrays
from batchinfer.errors import InputError
from batchinfer.spec import FormatSpec
from batchinfer.streaming._ports import Decoder
from batchinfer.streaming.formats._avro_schema import AvroSchema, Node, avro_schema
from batchinfer.streaming.formats._columns import Columns, from_objects
from batchinfer.streaming.formats._cursors import (
    ALL,
    MORE,
    Cursors,
    Payloads,
    Rows,
    badly_encoded,
    spread,
    strings,
    zigzag,
)
from batchinfer.streaming.formats._framed import SchemaDecoder, Written, decoder_of_file
from batchinfer.streaming.formats._registry import SchemaRegistry

_INT_LIMIT = 2**31
_MOST_BLOCKS = 1000
_DTYPES = {"float": "<f4", "double": "<f8", "boolean": "u1"}


def avro_decoder(schema: pa.Schema, spec: FormatSpec, folder: Path) -> Decoder:
    """A decoder of Avro: in Confluent's frame with a registry, plain with the schema of a file.

    Raises:
        SpecError: the file is no schema, or one that makes no such rows.
        MissingExtra: fastavro is not installed.
    """
    if spec.registry is None:

        def of_file(name: str, content: bytes) -> AvroReader:
            return AvroReader(avro_schema(content.decode(errors="replace"), name), schema)

        return decoder_of_file(schema, spec, folder, "an .avsc", of_file)
    registry = SchemaRegistry(spec.registry, spec.registry_settings)

    def reader(written: Written) -> AvroReader:
        found = registry.schema(written[0])
        name = f"schema {written[0]}"
        if found.kind != "AVRO":
            raise InputError(f"{name} is of kind {found.kind}, the stream takes Avro")
        references = [registered.text for _, registered in registry.references(found)]
        return AvroReader(avro_schema(found.text, name, references), schema)

    return SchemaDecoder(schema, registry, reader)


class AvroReader:
    """Reads records of one schema; see `Reader`."""

    def __init__(self, written: AvroSchema, schema: pa.Schema) -> None:
        self._written = written
        self._wanted = [(name, node) for name, node in written.record.fields if name in schema.names]

    @property
    def types(self) -> dict[str, pa.DataType | None]:
        """The wanted fields' types."""
        return {name: node.type for name, node in self._wanted}

    @property
    def defaults(self) -> dict[str, Any]:
        """Those that have a default."""
        return self._written.defaults

    def read(self, payloads: Payloads) -> Columns:
        """The wanted fields."""
        if not self._written.record.bulk:
            return _read_singly(payloads, self._written, self._wanted)
        cursors = Cursors(payloads)
        columns = {
            name: _read(cursors, node, ALL, len(payloads), f"field '{name}'")
            for name, node in self._written.record.fields
        }
        cursors.finish()
        return Columns({name: columns[name] for name, _ in self._wanted}, cursors.failed)


def _read(cursors: Cursors, node: Node, rows: Rows, count: int, what: str) -> pa.Array:
    """The values of a type in `count` messages, those at `rows`."""
    match node.kind:
        case "null":
            return pa.nulls(count)
        case "nullable":
            return _nullable(cursors, node, rows, count, what)
        case "boolean":
            values = cursors.fixed(rows, "u1", what)
            cursors.fail(rows, values > 1, f"{what} is no boolean")
            return arrays.from_numpy(values.astype(np.bool_))
        case "float" | "double":
            return arrays.from_numpy(cursors.fixed(rows, _DTYPES[node.kind], what))
        case "int" | "long":
            return _integers(zigzag(cursors.varints(rows, what)), node, cursors, rows, what)
        case "bytes" | "string":
            return _texts(cursors, node, rows, what)
        case "fixed":
            starts, taken = cursors.spans(rows, np.full(count, node.size), what)
            there = taken == node.size
            octets = np.zeros((count, node.size), np.uint8)
            octets[there] = cursors.gather(starts[there], taken[there])[1].reshape(-1, node.size)
            return pa.Array.from_buffers(node.type, count, [None, pa.py_buffer(octets)])
        case "enum":
            return _enum(cursors, node, rows, what)
        case "record":
            inner = [_read(cursors, each, rows, count, f"{what[:-1]}.{name}'") for name, each in node.fields]
            return pa.StructArray.from_arrays(inner, fields=list(node.type or ()))
        case _:
            return _array(cursors, node, rows, count, what)


def _nullable(cursors: Cursors, node: Node, rows: Rows, count: int, what: str) -> pa.Array:
    branches = cursors.varints(rows, what)  # zigzag: 0 is the first branch, 2 the second
    cursors.fail(rows, (branches != 0) & (branches != 2), f"{what} is of a branch that its union has not")
    assert node.items is not None
    there = branches == (2 - 2 * node.null_branch)
    if there.all():
        return _read(cursors, node.items, rows, count, what)
    places = np.flatnonzero(there)
    values = _read(
        cursors, node.items, places if isinstance(rows, slice) else rows[places], len(places), what
    )
    return spread(values, there)


def _integers(values: npt.NDArray[np.int64], node: Node, cursors: Cursors, rows: Rows, what: str) -> pa.Array:
    if node.kind == "int":
        wide = (values < -_INT_LIMIT) | (values >= _INT_LIMIT)
        cursors.fail(rows, wide, f"{what} is a number of more than 32 bits")
        values = values.astype(np.int32)
    return pa.Array.from_buffers(node.type, len(values), [None, pa.py_buffer(values)])


def _texts(cursors: Cursors, node: Node, rows: Rows, what: str) -> pa.Array:
    starts, sizes = cursors.spans(rows, zigzag(cursors.varints(rows, what)), what)
    values = strings(*cursors.gather(starts, sizes), pa.large_binary())
    if node.kind == "bytes":
        return values
    bad = badly_encoded(values)
    if bad.any():
        cursors.fail(rows, bad, f"{what} is not UTF-8 text")
        values = strings(*cursors.gather(starts, np.where(bad, 0, sizes)), pa.large_binary())
    return values.view(pa.large_string())


def _enum(cursors: Cursors, node: Node, rows: Rows, what: str) -> pa.Array:
    symbols = zigzag(cursors.varints(rows, what))
    unknown = (symbols < 0) | (symbols >= len(node.symbols))
    cursors.fail(rows, unknown, f"{what} is of a symbol that its enum has not")
    texts = arrays.from_texts(node.symbols).cast(pa.large_string())
    return texts.take(arrays.from_numpy(np.where(unknown, 0, symbols)))


def _array(cursors: Cursors, node: Node, rows: Rows, count: int, what: str) -> pa.Array:
    """Arrays of numbers. They come in blocks, nearly always one, and end with an empty block."""
    assert node.items is not None and node.type is not None
    open_rows = np.arange(len(cursors)) if isinstance(rows, slice) else rows
    places = np.arange(count)
    lengths = np.zeros(count, np.int64)
    blocks: list[tuple[npt.NDArray[np.int64], pa.Array]] = []
    for _ in range(_MOST_BLOCKS):
        if blocks and not len(open_rows):
            break
        sizes = zigzag(cursors.varints(open_rows, what))
        if (sized := sizes < 0).any():  # then the block's bytes are counted too
            cursors.varints(open_rows[sized], what)
            sizes = np.abs(sizes)
        more = sizes != 0
        open_rows, places, sizes = open_rows[more], places[more], sizes[more]
        items, taken = _items(cursors, node.items, open_rows, sizes, what)
        blocks.append((np.repeat(places, taken), items))
        lengths[places] += taken
        open_rows, places = open_rows[taken > 0], places[taken > 0]  # the others have failed
    cursors.fail(
        open_rows, np.ones(len(open_rows), np.bool_), f"{what} is of more than {_MOST_BLOCKS} blocks"
    )
    items = blocks[0][1]
    if sum(len(each) > 0 for _, each in blocks) > 1:
        order = np.argsort(np.concatenate([owner for owner, _ in blocks]), kind="stable")
        items = pa.concat_arrays([each for _, each in blocks]).take(arrays.from_numpy(order))
    offsets = np.zeros(count + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return pa.LargeListArray.from_arrays(arrays.from_numpy(offsets), items, type=node.type)


def _items(
    cursors: Cursors, node: Node, rows: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], what: str
) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """Blocks of so many numbers, one after the other; and how many these are, 0 where the message failed."""
    if node.kind in {"int", "long"}:
        values, taken = cursors.runs(rows, sizes, what)
        whole = zigzag(values)
        if node.kind == "int":
            wide = (whole < -_INT_LIMIT) | (whole >= _INT_LIMIT)
            owners = np.repeat(np.arange(len(rows)), taken)
            cursors.fail(rows, np.bincount(owners[wide], minlength=len(rows)) > 0, f"{what} has wide numbers")
            whole = whole.astype(np.int32)
        return arrays.from_numpy(whole), taken
    dtype = np.dtype(_DTYPES[node.kind])
    octets_each = np.clip(sizes, 0, _INT_LIMIT) * dtype.itemsize
    starts, taken = cursors.spans(rows, octets_each, what)
    _, octets = cursors.gather(starts, taken)
    numbers = octets.view(dtype)
    return arrays.from_numpy(numbers != 0 if node.kind == "boolean" else numbers), taken // dtype.itemsize


def _read_singly(payloads: Payloads, written: AvroSchema, wanted: Sequence[tuple[str, Node]]) -> Columns:
    """Message by message, for what only fastavro reads: maps, arrays of records, unions of more than two."""
    import fastavro

    found: dict[str, list[Any]] = {name: [None] * len(payloads) for name, _ in wanted}
    failed: dict[int, str] = {}
    for row, value in enumerate(payloads.singly()):
        stream = io.BytesIO(value)
        try:
            record: Any = fastavro.schemaless_reader(stream, written.parsed, None)
        except Exception as e:  # for wrong bytes fastavro raises what they happen to cause
            failed[row] = f"the value is no record of its schema: {type(e).__name__}"
            continue
        if stream.tell() < len(value):
            failed[row] = MORE
            continue
        for name, _ in wanted:
            found[name][row] = record[name]
    return Columns({name: from_objects(found[name], node.type) for name, node in wanted}, failed)
