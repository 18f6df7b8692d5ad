"""What an Avro schema says of a record's fields: which Arrow types they have, and which can be read in bulk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from batchinfer.errors import InputError, needs

_PRIMITIVES = {
    "null": pa.null(),
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "bytes": pa.large_binary(),
    "string": pa.large_string(),
}
_LOGICAL = {
    ("int", "date"): pa.date32(),
    ("int", "time-millis"): pa.time32("ms"),
    ("long", "time-micros"): pa.time64("us"),
    ("long", "timestamp-millis"): pa.timestamp("ms", "UTC"),
    ("long", "timestamp-micros"): pa.timestamp("us", "UTC"),
    ("long", "timestamp-nanos"): pa.timestamp("ns", "UTC"),
    ("long", "local-timestamp-millis"): pa.timestamp("ms"),
    ("long", "local-timestamp-micros"): pa.timestamp("us"),
    ("long", "local-timestamp-nanos"): pa.timestamp("ns"),
}
_BULK_ITEMS = ("boolean", "float", "double", "int", "long")


@dataclass(frozen=True, slots=True)
class Node:
    """A type within a schema.

    Attributes:
        kind: Avro's name of it, or `nullable` for a union of null and one other, `union` for any other union.
        type: the Arrow type of its values; None where there is no single one (unions, records within themselves).
        bulk: whether `_avro` can read it in many messages at once.
        fields: a record's fields, in order. items: of an array or nullable. symbols: an enum's. size: a fixed's.
        null_branch: the branch of a nullable that is null.
    """

    kind: str
    type: pa.DataType | None
    bulk: bool = True
    fields: tuple[tuple[str, Node], ...] = ()
    items: Node | None = None
    symbols: tuple[str, ...] = ()
    size: int = 0
    null_branch: int = 0

    @property
    def names(self) -> str:
        """The type in a word or two, for a reason."""
        if self.kind == "nullable" and self.items is not None:
            return self.items.names
        return str(self.type).replace("large_", "") if self.type is not None else self.kind


@dataclass(frozen=True, slots=True)
class AvroSchema:
    """A writer's schema of a record: as fastavro takes it, as a tree, and its fields that have a default."""

    parsed: Any
    record: Node
    defaults: dict[str, Any]


def avro_schema(text: str, name: str, references: Sequence[str] = ()) -> AvroSchema:
    """Read a schema; `references` are those that it needs, in an order in which each needs only earlier ones.

    Raises:
        InputError: not a valid schema, or not one of a record; calls it `name`.
        MissingExtra: fastavro is not installed.
    """
    with needs("kafka", "reading Avro"):
        import fastavro.schema
    named: dict[str, Any] = {}
    try:
        for reference in references:
            fastavro.schema.parse_schema(json.loads(reference), named_schemas=named)
        parsed: Any = fastavro.schema.parse_schema(json.loads(text), named_schemas=named)
        node = _node(parsed, named, ())
    except (ValueError, TypeError, KeyError, RecursionError, fastavro.schema.SchemaParseException) as e:
        raise InputError(f"{name} is no valid Avro schema: {type(e).__name__}: {e}", schema=name) from e
    if node.kind != "record":
        raise InputError(f"{name} is no schema of a record but of {node.names}", schema=name)
    defaults = {field["name"]: field["default"] for field in parsed["fields"] if "default" in field}
    return AvroSchema(parsed, node, defaults)


def _node(schema: Any, named: Mapping[str, Any], within: tuple[str, ...]) -> Node:
    if isinstance(schema, list):
        return _union(schema, named, within)
    if isinstance(schema, str):
        if schema in _PRIMITIVES:
            return Node(schema, _PRIMITIVES[schema])
        if schema in within:
            return Node("recursive", None, bulk=False)
        return _node(named[schema], named, within)
    kind = schema["type"]
    if isinstance(kind, list | dict):
        return _node(kind, named, within)
    match kind:
        case "record" | "error":
            inside = (*within, schema["name"])
            fields = tuple((field["name"], _node(field["type"], named, inside)) for field in schema["fields"])
            return _record(fields)
        case "enum":
            return Node("enum", pa.large_string(), symbols=tuple(schema["symbols"]))
        case "array":
            item = _node(schema["items"], named, within)
            listed = pa.large_list(item.type) if item.type is not None else None
            bulk = item.kind in _BULK_ITEMS and item.type in _PRIMITIVES.values()
            return Node("array", listed, bulk=bulk, items=item)
        case "map":
            value = _node(schema["values"], named, within)
            mapped = pa.map_(pa.string(), value.type) if value.type is not None else None
            return Node("map", mapped, bulk=False)
    if schema.get("logicalType") == "decimal":
        digits, scale = schema["precision"], schema.get("scale", 0)
        exact = pa.decimal128(digits, scale) if digits <= 38 else pa.decimal256(digits, scale)
        return Node(kind, exact, bulk=False)
    if kind == "fixed":
        return Node("fixed", pa.binary(schema["size"]), bulk=schema["size"] > 0, size=schema["size"])
    if kind in _PRIMITIVES:
        return Node(kind, _LOGICAL.get((kind, schema.get("logicalType")), _PRIMITIVES[kind]))
    return _node(kind, named, within)


def _record(fields: tuple[tuple[str, Node], ...]) -> Node:
    known = all(node.type is not None for _, node in fields)
    kind = pa.struct([pa.field(name, node.type) for name, node in fields]) if known else None
    bulk = len(fields) > 0 and all(node.bulk for _, node in fields)
    return Node("record", kind, bulk=bulk, fields=fields)


def _union(branches: list[Any], named: Mapping[str, Any], within: tuple[str, ...]) -> Node:
    nodes = [_node(branch, named, within) for branch in branches]
    if len(nodes) == 2 and sum(node.kind == "null" for node in nodes) == 1:
        null = next(i for i, node in enumerate(nodes) if node.kind == "null")
        other = nodes[1 - null]
        return Node("nullable", other.type, bulk=other.bulk, items=other, null_branch=null)
    return Node("union", None, bulk=False)
