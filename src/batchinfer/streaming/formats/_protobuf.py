"""Protobuf messages to Arrow columns: in bulk where that can be, else by protobuf itself, message by message."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from batchinfer.core import arrays
from batchinfer.errors import InputError
from batchinfer.spec import FormatSpec
from batchinfer.streaming._ports import Decoder
from batchinfer.streaming.formats._columns import Columns
from batchinfer.streaming.formats._cursors import Payloads
from batchinfer.streaming.formats._framed import SchemaDecoder, Written, decoder_of_file
from batchinfer.streaming.formats._protobuf_scan import NO_MESSAGE, Scan, no_symbol, wrong_wire
from batchinfer.streaming.formats._protobuf_schema import descriptor_set, fields_of, message_type, serialized
from batchinfer.streaming.formats._registry import SchemaRegistry

_FORM = "serialized"


def protobuf_decoder(schema: pa.Schema, spec: FormatSpec, folder: Path) -> Decoder:
    """A decoder of Protobuf: in Confluent's frame with a registry, plain with a file of protoc's descriptors.

    Raises:
        SpecError: the file holds no descriptors, or a message type that makes no such rows.
        MissingExtra: protobuf is not installed.
    """
    if spec.registry is None:

        def of_file(name: str, content: bytes) -> ProtobufReader:
            return ProtobufReader(message_type(descriptor_set(content, name), spec.message, name), schema)

        return decoder_of_file(schema, spec, folder, "what protoc --descriptor_set_out writes", of_file)
    registry = SchemaRegistry(spec.registry, spec.registry_settings)

    def reader(written: Written) -> ProtobufReader:
        number, path = written
        name = f"schema {number}"
        found = registry.schema(number, _FORM)
        if found.kind != "PROTOBUF":
            raise InputError(f"{name} is of kind {found.kind}, the stream takes Protobuf")
        files = [*(imported for _, imported in registry.references(found, _FORM)), found]
        return ProtobufReader(message_type([serialized(f.text, name) for f in files], path, name), schema)

    return SchemaDecoder(schema, registry, reader, indexed=True)


class ProtobufReader:
    """Reads messages of one type; see `Reader`. An enum is text, or its number where the column is a number's."""

    def __init__(self, descriptor: Any, schema: pa.Schema) -> None:
        from google.protobuf.message_factory import GetMessageClass

        numbers = {field.name for field in schema if pa.types.is_integer(field.type)}
        self._message = GetMessageClass(descriptor)
        self._fields = [f.as_number() if f.enum and f.name in numbers else f for f in fields_of(descriptor)]
        self._wanted = [field for field in self._fields if field.name in schema.names]
        self._bulk = all(field.bulk for field in self._wanted)

    @property
    def types(self) -> Mapping[str, pa.DataType | None]:
        """The wanted fields' types."""
        return {field.name: field.type for field in self._wanted}

    @property
    def defaults(self) -> Mapping[str, Any]:
        """Those that messages can do without."""
        return {field.name: None for field in self._wanted if field.nullable}

    def read(self, payloads: Payloads) -> Columns:
        """The wanted fields."""
        if not self._bulk:
            return self._read_singly(payloads)
        scan = Scan(payloads, self._fields, [field.number for field in self._wanted])
        columns = {field.name: scan.column(field) for field in self._wanted}
        odd = np.flatnonzero(scan.odd)
        if not len(odd):
            return Columns(columns, scan.failed)
        singly = self._read_singly(payloads.take(odd))
        places = np.arange(len(payloads))
        places[odd] = len(payloads) + np.arange(len(odd))
        merged = {
            name: pa.concat_arrays([column, singly.columns[name]]).take(arrays.from_numpy(places))
            for name, column in columns.items()
        }
        failed = {row: why for row, why in scan.failed.items() if not scan.odd[row]}
        return Columns(merged, failed | {int(odd[row]): why for row, why in singly.failed.items()})

    def _read_singly(self, payloads: Payloads) -> Columns:
        from google.protobuf.message import DecodeError
        from google.protobuf.unknown_fields import UnknownFieldSet

        known = {field.number: field.name for field in self._fields}
        found: dict[str, list[Any]] = {field.name: [None] * len(payloads) for field in self._wanted}
        failed: dict[int, str] = {}
        for row, value in enumerate(payloads.singly()):
            try:
                message = self._message.FromString(value)
            except DecodeError:
                failed[row] = NO_MESSAGE
                continue
            foreign = {each.field_number for each in UnknownFieldSet(message)} & known.keys()
            if foreign:
                failed[row] = wrong_wire(known[min(foreign)])
                continue
            for field in self._wanted:
                try:
                    found[field.name][row] = field.value(message)
                except LookupError:
                    failed.setdefault(row, no_symbol(field.name))
        columns = {field.name: pa.array(found[field.name], field.type) for field in self._wanted}
        return Columns(columns, failed)
