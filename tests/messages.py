"""Messages for the tests of formats: written by fastavro, protobuf and Arrow, which know nothing of our readers."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import fastavro
import pyarrow as pa
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message_factory import GetMessageClass

_TYPES = {name[5:].lower(): number for name, number in descriptor_pb2.FieldDescriptorProto.Type.items()}
_LABELS = {"required": 2, "repeated": 3}


def values(messages: Sequence[bytes | None]) -> pa.LargeBinaryArray:
    return pa.array(messages, pa.large_binary())


def framed(number: int, content: bytes, path: bytes = b"") -> bytes:
    """Confluent's frame; for Protobuf with the path to the type."""
    return b"\0" + number.to_bytes(4, "big") + path + content


def avro_schema(fields: Mapping[str, Any], **defaults: Any) -> str:
    """A record's schema; `defaults` by field."""
    described = [
        {"name": name, "type": kind} | ({"default": defaults[name]} if name in defaults else {})
        for name, kind in fields.items()
    ]
    return json.dumps({"type": "record", "name": "Flight", "fields": described})


def avro(schema: str, record: Mapping[str, Any]) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(json.loads(schema)), dict(record))
    return out.getvalue()


def protobuf_file(
    fields: Sequence[str], *, syntax: str = "proto3", name: str = "flight.proto", imports: Sequence[str] = ()
) -> descriptor_pb2.FileDescriptorProto:
    """A file with a message type Flight, whose fields are as in `optional int32 seats = 3` or `int64 id = 1`.

    It has an enum Colour too (NONE, RED, BLUE), and a type Inner within Flight: `string note = 1`.
    """
    file = descriptor_pb2.FileDescriptorProto(name=name, package="sample", syntax=syntax, dependency=imports)
    message = file.message_type.add(name="Flight")
    inner = message.nested_type.add(name="Inner")
    inner.field.add(name="note", number=1, type=_TYPES["string"], label=1)
    colour = file.enum_type.add(name="Colour")
    for place, symbol in enumerate(("NONE", "RED", "BLUE")):
        colour.value.add(name=symbol, number=place)
    for line in fields:
        *labels, kind, title, _, number = line.split()
        label = labels[0] if labels else ""
        added = message.field.add(name=title, number=int(number), label=_LABELS.get(label, 1))
        if kind in _TYPES:
            added.type = _TYPES[kind]
        else:
            added.type = _TYPES["enum"] if kind == "Colour" else _TYPES["message"]
            added.type_name = f".sample.{kind}" if kind == "Colour" else f".{kind}"
        if label == "optional" and syntax == "proto3":
            added.proto3_optional = True
            added.oneof_index = len(message.oneof_decl)
            message.oneof_decl.add(name=f"_{title}")
    return file


def protobuf_type(file: descriptor_pb2.FileDescriptorProto, name: str = "sample.Flight") -> Any:
    """The class of a message type."""
    from google.protobuf import timestamp_pb2, wrappers_pb2

    pool = descriptor_pool.DescriptorPool()
    for known in (timestamp_pb2, wrappers_pb2):
        pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName(name))


def base64_of(file: descriptor_pb2.FileDescriptorProto) -> str:
    return base64.b64encode(file.SerializeToString()).decode()


def arrow(batch: pa.RecordBatch) -> bytes:
    out = io.BytesIO()
    with pa.ipc.new_stream(out, batch.schema) as writer:
        writer.write_batch(batch)
    return out.getvalue()
