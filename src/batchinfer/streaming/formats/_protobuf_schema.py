"""What a Protobuf message type says of its fields, as much as reading them in bulk needs to know."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from batchinfer.errors import InputError, needs

VARINT, FIXED64, SIZED, START_GROUP, END_GROUP, FIXED32 = 0, 1, 2, 3, 4, 5
"""Wire types."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of value: what it is on the wire, as NumPy's number, and in Arrow."""

    wire: int
    dtype: str
    type: pa.DataType
    zigzag: bool = False


KINDS = {
    1: Kind(FIXED64, "<f8", pa.float64()),
    2: Kind(FIXED32, "<f4", pa.float32()),
    3: Kind(VARINT, "<i8", pa.int64()),
    4: Kind(VARINT, "<u8", pa.uint64()),
    5: Kind(VARINT, "<i4", pa.int32()),
    6: Kind(FIXED64, "<u8", pa.uint64()),
    7: Kind(FIXED32, "<u4", pa.uint32()),
    8: Kind(VARINT, "?", pa.bool_()),
    9: Kind(SIZED, "", pa.large_string()),
    10: Kind(START_GROUP, "", pa.struct([])),
    11: Kind(SIZED, "", pa.struct([])),
    12: Kind(SIZED, "", pa.large_binary()),
    13: Kind(VARINT, "<u4", pa.uint32()),
    14: Kind(VARINT, "<i4", pa.large_string()),
    15: Kind(FIXED32, "<i4", pa.int32()),
    16: Kind(FIXED64, "<i8", pa.int64()),
    17: Kind(VARINT, "<i4", pa.int32(), zigzag=True),
    18: Kind(VARINT, "<i8", pa.int64(), zigzag=True),
}
"""By the number that descriptors give a type."""
INT32, MESSAGE, ENUM = 5, 11, 14
_WRAPPERS = {
    f"google.protobuf.{name}Value"
    for name in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
}
_TIMESTAMP = "google.protobuf.Timestamp"


@dataclass(frozen=True, slots=True)
class ProtobufField:
    """A field of a message type.

    Attributes:
        number: its number. kind: its type. repeated: whether it is a list.
        nullable: whether a message can do without it and it is null then; else it is `default`.
        required: whether a message without it is none.
        enum: the numbers and names of an enum's symbols.
        inner: the fields of its message, where that is a wrapper of a value or a timestamp.
        type: the Arrow type.
    """

    name: str
    number: int
    kind: Kind
    repeated: bool
    nullable: bool
    required: bool
    default: Any
    enum: tuple[tuple[int, str], ...]
    inner: tuple[ProtobufField, ...]
    type: pa.DataType

    @property
    def bulk(self) -> bool:
        """Whether many messages can be read at once."""
        return not self.repeated or (self.kind.wire != SIZED and not self.enum)

    @property
    def tags(self) -> list[bytes]:
        """What stands before it in a message: its number and a wire type."""
        wires = [SIZED] if self.repeated and self.kind.wire in {VARINT, FIXED32, FIXED64} else []
        return [tag(self.number, wire) for wire in [*wires, self.kind.wire]]

    def as_number(self) -> ProtobufField:
        """An enum as the number that a message holds."""
        plain = KINDS[INT32].type
        return replace(self, enum=(), type=pa.large_list(plain) if self.repeated else plain)

    def value(self, message: Any) -> Any:
        """Its value in a message that protobuf has read.

        Raises:
            LookupError: an enum has no symbol of the number.
        """
        if self.nullable and not message.HasField(self.name):
            return None
        value = getattr(message, self.name)
        if self.inner:
            return value.ToNanoseconds() if pa.types.is_timestamp(self.type) else value.value
        if self.enum:
            names = dict(reversed(self.enum))
            return [names[number] for number in value] if self.repeated else names[value]
        return list(value) if self.repeated else value


def message_type(files: Sequence[bytes], path: Sequence[int] | str | None, name: str) -> Any:
    """The descriptor of a message type.

    Args:
        files: serialized FileDescriptorProtos, each after those that it imports; the last holds the type.
        path: indexes of the type and of those within it, or its full name; None for the one type that there is.
        name: what messages call the schema.

    Raises:
        InputError: these are no descriptors, or there is no such type.
        MissingExtra: protobuf is not installed.
    """
    with needs("kafka", "reading Protobuf"):
        from google.protobuf import descriptor_pb2, descriptor_pool
        from google.protobuf.message import DecodeError
    pool = descriptor_pool.DescriptorPool()
    try:
        given = [descriptor_pb2.FileDescriptorProto.FromString(content) for content in files]
        last = given[-1]
        own = {file.name for file in given}
        known = [descriptor_pb2.FileDescriptorProto.FromString(content) for content in _well_known()]
        for file in [*(file for file in known if file.name not in own), *given]:
            pool.Add(file)
        types = list(pool.FindFileByName(last.name).message_types_by_name.values())
        if isinstance(path, str):
            return pool.FindMessageTypeByName(path)
        if path is None and len(types) != 1:
            raise InputError(f"{name} has {len(types)} message types: state which, as 'message'", schema=name)
        found = types[path[0] if path else 0]
        for index in (path or ())[1:]:
            found = found.nested_types[index]
        return found
    except (DecodeError, TypeError, KeyError, IndexError) as e:
        raise InputError(f"{name} has no such message type: {type(e).__name__}: {e}", schema=name) from e


def descriptor_set(content: bytes, name: str) -> list[bytes]:
    """The files of a FileDescriptorSet, as protoc writes it.

    Raises:
        InputError: it is none.
        MissingExtra: protobuf is not installed.
    """
    with needs("kafka", "reading Protobuf"):
        from google.protobuf import descriptor_pb2
        from google.protobuf.message import DecodeError
    try:
        files = descriptor_pb2.FileDescriptorSet.FromString(content).file
    except DecodeError as e:
        raise InputError(
            f"{name} is no set of Protobuf descriptors",
            next_step=f"protoc --include_imports --descriptor_set_out={name} FILE.proto",
            schema=name,
        ) from e
    return [file.SerializeToString() for file in files]


def serialized(text: str, name: str) -> bytes:
    """A descriptor as a registry gives it with `format=serialized`.

    Raises:
        InputError: the registry does not know that form, and gave the source.
    """
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as e:
        raise InputError(f"{name}: the registry gives no serialized descriptor of it", schema=name) from e


def fields_of(descriptor: Any) -> list[ProtobufField]:
    """The fields of a message type, by number."""
    return [_field(each) for each in sorted(descriptor.fields, key=lambda each: each.number)]


def _field(each: Any) -> ProtobufField:
    kind = KINDS[each.type]
    found, inner = kind.type, []
    if each.type == MESSAGE and not each.is_repeated:
        if each.message_type.full_name in _WRAPPERS:
            inner = fields_of(each.message_type)
            found = inner[0].type
        elif each.message_type.full_name == _TIMESTAMP:
            inner = fields_of(each.message_type)
            found = pa.timestamp("ns", "UTC")
    enum = tuple((value.number, value.name) for value in each.enum_type.values) if each.type == ENUM else ()
    return ProtobufField(
        each.name,
        each.number,
        kind,
        each.is_repeated,
        each.has_presence and not each.has_default_value,
        each.is_required,
        None if each.type == MESSAGE or each.is_repeated else each.default_value,
        enum,
        tuple(inner),
        pa.large_list(found) if each.is_repeated else found,
    )


def _well_known() -> list[bytes]:
    """The files that every compiler of Protobuf brings along."""
    from google.protobuf import (
        any_pb2,
        duration_pb2,
        empty_pb2,
        field_mask_pb2,
        struct_pb2,
        timestamp_pb2,
        wrappers_pb2,
    )

    modules = (any_pb2, duration_pb2, empty_pb2, field_mask_pb2, struct_pb2, timestamp_pb2, wrappers_pb2)
    return [module.DESCRIPTOR.serialized_pb for module in modules]


def tag(number: int, wire: int) -> bytes:
    """What stands before a field in a message."""
    octets = bytearray()
    rest = number << 3 | wire
    while rest >= 0x80:
        octets.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*octets, rest])
