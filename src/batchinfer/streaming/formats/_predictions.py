"""Result rows as Avro or Protobuf messages in a registry's frame: the schema is made from theirs, and registered."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from batchinfer.core import LINEAGE, arrays
from batchinfer.errors import SpecError
from batchinfer.spec import FormatSpec
from batchinfer.streaming._ports import Encoder
from batchinfer.streaming.formats import _pieces as pieces
from batchinfer.streaming.formats._protobuf_schema import FIXED32, FIXED64, SIZED, VARINT, tag
from batchinfer.streaming.formats._registry import SchemaRegistry

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAMESPACE, _RECORD = "batchinfer", "Prediction"


@dataclass(frozen=True, slots=True)
class _Kind:
    """How values of a type are written: Avro's and Protobuf's names of it, and NumPy's, where they are numbers."""

    avro: Any
    protobuf: str
    dtype: str = ""


_BOOLEAN = _Kind("boolean", "bool", "u1")
_INT, _LONG = _Kind("int", "int32", "i4"), _Kind("long", "int64", "i8")
_FLOAT, _DOUBLE = _Kind("float", "float", "<f4"), _Kind("double", "double", "<f8")
_BYTES, _TEXT = _Kind("bytes", "bytes"), _Kind("string", "string")
_UNITS = {"s": ("millis", "ms"), "ms": ("millis", "ms"), "us": ("micros", "us"), "ns": ("nanos", "ns")}
_NUMBERS: tuple[tuple[tuple[Callable[[pa.DataType], bool], ...], _Kind], ...] = (
    ((pt.is_int8, pt.is_int16, pt.is_int32, pt.is_uint8, pt.is_uint16), _INT),
    ((pt.is_int64, pt.is_uint32), _LONG),
    ((pt.is_float16, pt.is_float32), _FLOAT),
    ((pt.is_float64,), _DOUBLE),
    ((pt.is_boolean,), _BOOLEAN),
    ((pt.is_string, pt.is_large_string), _TEXT),
    ((pt.is_binary, pt.is_large_binary, pt.is_fixed_size_binary), _BYTES),
)


def avro_encoder(schema: pa.Schema, spec: FormatSpec, topic: str) -> Encoder:
    """An encoder of results as Avro.

    Raises:
        SpecError: there is no registry, or a column has a name or type that Avro has not.
        InputError: the registry has an incompatible schema, or is not to be written to and has none.
        RegistryUnavailable: it does not answer. RegistryRefused: it does not want to.
    """
    fields = [
        {"name": field.name, "type": ["null", _avro(field)], "default": None}
        for field in _checked(schema, spec)
    ]
    record = {"type": "record", "name": _RECORD, "namespace": _NAMESPACE, "fields": fields}
    number = _register(spec, topic, "AVRO", json.dumps(record))
    return _Predictions(b"\0" + number.to_bytes(4, "big"), list(schema.names), _avro_piece)


def protobuf_encoder(schema: pa.Schema, spec: FormatSpec, topic: str) -> Encoder:
    """An encoder of results as Protobuf: lineage has the first numbers, so that more outputs may follow; see above."""
    checked = _checked(schema, spec)
    known = sorted(checked, key=lambda field: field.name not in {each.name for each in LINEAGE})
    lines = [f"  {_protobuf(field)} {field.name} = {number};" for number, field in enumerate(known, 1)]
    imports = 'import "google/protobuf/timestamp.proto";\n' if "Timestamp" in "".join(lines) else ""
    text = (
        f'syntax = "proto3";\npackage {_NAMESPACE};\n{imports}message {_RECORD} {{\n'
        + "\n".join(lines)
        + "\n}\n"
    )
    number = _register(spec, topic, "PROTOBUF", text)
    order = [field.name for field in known]
    return _Predictions(b"\0" + number.to_bytes(4, "big") + b"\0", order, _protobuf_piece)


class _Predictions:
    """See `Encoder`."""

    def __init__(
        self,
        frame: bytes,
        order: list[str],
        piece: Callable[[pa.Array, int], pieces.Piece],
    ) -> None:
        self._frame = frame
        self._order = order
        self._piece = piece

    def encode(self, rows: pa.RecordBatch) -> pa.LargeBinaryArray:
        """See `Encoder.encode`."""
        parts = [pieces.constant(self._frame, np.ones(rows.num_rows, np.bool_))]
        for number, name in enumerate(self._order, 1):
            column = rows.column(name)
            plain = column.cast(column.type.value_type) if pt.is_dictionary(column.type) else column
            parts.append(self._piece(_without_holes(plain), number))
        return pieces.written(pieces.together(parts))


def _without_holes(column: pa.Array) -> pa.Array:
    """The column; a list that holds a null is null itself, as neither format has a null among numbers."""
    if not _is_list(column.type) or not pc.list_flatten(column).null_count:
        return column
    owners = pc.list_parent_indices(column).filter(pc.is_null(pc.list_flatten(column)))
    whole = np.ones(len(column), np.bool_)
    whole[arrays.to_numpy(owners)[0]] = False
    listed = column.cast(pa.large_list(column.type.value_type))
    return pc.if_else(arrays.from_numpy(whole), listed, pa.nulls(len(column), listed.type))


def _avro_piece(column: pa.Array, _number: int) -> pieces.Piece:
    there = _there(column)
    branch = pieces.fixed(np.where(there, 2, 0).astype(np.uint8), np.ones(len(column), np.bool_))
    return pieces.together([branch, _avro_value(column, there)])


def _avro_value(column: pa.Array, there: npt.NDArray[np.bool_]) -> pieces.Piece:
    kind = column.type
    if pt.is_timestamp(kind):
        column = column.cast(pa.timestamp(_UNITS[kind.unit][1], kind.tz)).view(pa.int64())
        return pieces.varints(pieces.folded(arrays.to_numpy(column)[0]), there)
    if pt.is_date(kind):
        return pieces.varints(
            pieces.folded(arrays.to_numpy(column.cast(pa.date32()).view(pa.int32()))[0]), there
        )
    if _is_list(kind):
        offsets, items = _flat(column)
        counts = np.diff(offsets)
        block = pieces.varints(pieces.folded(counts), there & (counts > 0))
        return pieces.together([block, _items(items, offsets, zigzag=True), pieces.constant(b"\0", there)])
    known = _kind(kind)
    assert known is not None
    if not known.dtype:
        offsets, octets = _octets(column)
        return pieces.together(
            [pieces.varints(pieces.folded(np.diff(offsets)), there), pieces.spans(offsets, octets)]
        )
    values = arrays.to_numpy(column)[0].astype(known.dtype)
    if known in (_INT, _LONG):
        return pieces.varints(pieces.folded(values), there)
    return pieces.fixed(values, there)


def _protobuf_piece(column: pa.Array, number: int) -> pieces.Piece:
    there = _there(column)
    kind = column.type
    if pt.is_date(kind):
        column, kind = column.cast(pa.string()), pa.string()
    if pt.is_timestamp(kind):
        return _sized(number, there, _timestamp(column, there))
    if _is_list(kind):
        offsets, items = _flat(column)
        return _sized(number, np.diff(offsets) > 0, _items(items, offsets, zigzag=False))
    known = _kind(kind)
    assert known is not None
    if not known.dtype:
        return _sized(number, there, pieces.spans(*_octets(column)))
    values = arrays.to_numpy(column)[0].astype(known.dtype)
    if known is _FLOAT or known is _DOUBLE:
        wire = FIXED32 if known is _FLOAT else FIXED64
        return pieces.together([pieces.constant(tag(number, wire), there), pieces.fixed(values, there)])
    unsigned = values.astype(np.int64).view(np.uint64)
    return pieces.together([pieces.constant(tag(number, VARINT), there), pieces.varints(unsigned, there)])


def _sized(number: int, there: npt.NDArray[np.bool_], content: pieces.Piece) -> pieces.Piece:
    size = pieces.varints(content.sizes.astype(np.uint64), there)
    return pieces.together([pieces.constant(tag(number, SIZED), there), size, content])


def _timestamp(column: pa.Array, there: npt.NDArray[np.bool_]) -> pieces.Piece:
    """The content of a google.protobuf.Timestamp: seconds, and nanoseconds from there on."""
    a_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[column.type.unit]
    ticks = arrays.to_numpy(column.view(pa.int64()))[0]
    seconds, rest = np.divmod(ticks, a_second)
    nanos = rest * (10**9 // a_second)
    parts = []
    for number, values in ((1, seconds), (2, nanos)):
        some = there & (values != 0)
        parts += [pieces.constant(tag(number, VARINT), some), pieces.varints(values.view(np.uint64), some)]
    return pieces.together(parts)


def _items(items: pa.Array, offsets: pieces.Places, *, zigzag: bool) -> pieces.Piece:
    """The numbers of lists, packed."""
    known = _kind(items.type)
    assert known is not None
    values = arrays.to_numpy(items)[0].astype(known.dtype)
    if known not in (_INT, _LONG):
        octets = np.ascontiguousarray(values).view(np.uint8)
        return pieces.spans(offsets * values.dtype.itemsize, octets)
    unsigned = pieces.folded(values) if zigzag else values.astype(np.int64).view(np.uint64)
    sizes = pieces.varint_sizes(unsigned)
    ends = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=ends[1:])
    octets = np.empty(int(ends[-1]), np.uint8)
    pieces.put_varints(octets, ends[:-1], unsigned, sizes)
    return pieces.spans(ends[offsets], octets)


def _there(column: pa.Array) -> npt.NDArray[np.bool_]:
    valid = arrays.valid(column)
    return np.ones(len(column), np.bool_) if valid is None else valid


def _octets(column: pa.Array) -> tuple[pieces.Places, pieces.Octets]:
    """The bytes of texts, one after the other, none for a null."""
    plain = column.cast(pa.large_binary())
    plain = plain.fill_null(b"") if plain.null_count else plain
    if not len(plain):
        return np.zeros(1, np.int64), np.empty(0, np.uint8)
    _, offsets, data = plain.buffers()
    bounds = np.frombuffer(offsets, np.int64, len(plain) + 1, plain.offset * 8)
    size = int(bounds[-1] - bounds[0])
    octets = np.frombuffer(data, np.uint8, size, int(bounds[0])) if size else np.empty(0, np.uint8)
    return bounds - bounds[0], octets


def _flat(column: pa.Array) -> tuple[pieces.Places, pa.Array]:
    """The items of lists, one after the other, none for a null."""
    listed = column.cast(pa.large_list(column.type.value_type))
    sizes = np.where(_there(listed), np.diff(arrays.to_numpy(listed.offsets)[0]), 0)
    offsets = np.zeros(len(listed) + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    return offsets, listed.flatten()


def _is_list(kind: pa.DataType) -> bool:
    return bool(pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind))


def _kind(kind: pa.DataType) -> _Kind | None:
    return next((known for checks, known in _NUMBERS if any(is_it(kind) for is_it in checks)), None)


def _avro(field: pa.Field) -> Any:
    kind = field.type
    if pt.is_timestamp(kind):
        local = "" if kind.tz else "local-"
        return {"type": "long", "logicalType": f"{local}timestamp-{_UNITS[kind.unit][0]}"}
    if pt.is_date(kind):
        return {"type": "int", "logicalType": "date"}
    if _is_list(kind):
        return {"type": "array", "items": _avro(field.with_type(kind.value_type))}
    known = _kind(kind)
    assert known is not None
    return known.avro


def _protobuf(field: pa.Field) -> str:
    kind = field.type
    if pt.is_timestamp(kind):
        return "google.protobuf.Timestamp"
    if pt.is_date(kind):
        return "optional string"
    known = _kind(kind.value_type if _is_list(kind) else kind)
    assert known is not None
    return f"{'repeated' if _is_list(kind) else 'optional'} {known.protobuf}"


def _checked(schema: pa.Schema, spec: FormatSpec) -> list[pa.Field]:
    """The fields, without dictionaries."""
    fields = []
    for field in schema:
        kind = field.type.value_type if pt.is_dictionary(field.type) else field.type
        if not _NAME.fullmatch(field.name):
            raise SpecError(
                f"column '{field.name}' cannot be a field of {spec.kind}: letters, digits and _ alone",
                next_step="name it otherwise, or write JSON",
                column=field.name,
            )
        item = _kind(kind.value_type) if _is_list(kind) else _kind(kind)
        if not (pt.is_timestamp(kind) or pt.is_date(kind)) and (
            item is None or (_is_list(kind) and not item.dtype)
        ):
            raise SpecError(
                f"column '{field.name}' is {kind}, which is not written as {spec.kind}",
                next_step="write JSON",
                column=field.name,
            )
        fields.append(field.with_type(kind))
    return fields


def _register(spec: FormatSpec, topic: str, kind: str, text: str) -> int:
    if spec.registry is None:
        raise SpecError(
            f"predictions as {spec.kind} need a schema registry", next_step="state its URL as 'registry'"
        )
    settings: Mapping[str, Any] = spec.registry_settings
    registry = SchemaRegistry(spec.registry, settings)
    subject = str(settings.get("subject", f"{topic}-value"))
    return registry.register(subject, kind, text, may_write=bool(settings.get("register", True)))
