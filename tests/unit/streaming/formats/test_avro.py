"""Avro: read as fastavro reads it, message by message on its own, with every schema that a topic has had."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.messages import avro, avro_schema, framed, values
from tests.schema_registry import TestRegistry, schema_registry

from batchinfer.errors import SpecError
from batchinfer.spec import FormatSpec
from batchinfer.streaming import Decoded, Decoder
from batchinfer.streaming.formats import avro_decoder

ROW = pa.schema([("flight_id", pa.int64()), ("distance", pa.float32()), ("carrier", pa.string())])
PLAIN = avro_schema({"flight_id": "long", "distance": "float", "carrier": "string"})
FLIGHT = {"flight_id": 7, "distance": 1400.0, "carrier": "UA"}

EVERYTHING: dict[str, Any] = {
    "truth": "boolean",
    "small": "int",
    "wide": "long",
    "single": "float",
    "double": "double",
    "text": "string",
    "octets": "bytes",
    "perhaps": ["null", "double"],
    "perhaps_text": ["string", "null"],
    "colour": {"type": "enum", "name": "Colour", "symbols": ["RED", "BLUE"]},
    "four": {"type": "fixed", "name": "Four", "size": 4},
    "pixels": {"type": "array", "items": "float"},
    "tokens": {"type": "array", "items": "long"},
    "inner": {"type": "record", "name": "Inner", "fields": [{"name": "note", "type": ["null", "string"]}]},
    "when": {"type": "long", "logicalType": "timestamp-micros"},
    "day": {"type": "int", "logicalType": "date"},
}
_finite = st.floats(allow_nan=False)
_records = st.fixed_dictionaries(
    {
        "truth": st.booleans(),
        "small": st.integers(-(2**31), 2**31 - 1),
        "wide": st.integers(-(2**63), 2**63 - 1),
        "single": st.floats(width=32, allow_nan=False),
        "double": _finite,
        "text": st.text(max_size=20),
        "octets": st.binary(max_size=20),
        "perhaps": st.none() | _finite,
        "perhaps_text": st.none() | st.text(max_size=5),
        "colour": st.sampled_from(["RED", "BLUE"]),
        "four": st.binary(min_size=4, max_size=4),
        "pixels": st.lists(st.floats(width=32, allow_nan=False), max_size=5),
        "tokens": st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5),
        "inner": st.fixed_dictionaries({"note": st.none() | st.text(max_size=5)}),
        "when": st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1)).map(lambda t: t.replace(tzinfo=UTC)),
        "day": st.dates(date(1900, 1, 1)),
    }
)
_EVERY_COLUMN = pa.schema(
    [
        ("truth", pa.bool_()),
        ("small", pa.int32()),
        ("wide", pa.int64()),
        ("single", pa.float32()),
        ("double", pa.float64()),
        ("text", pa.string()),
        ("octets", pa.binary()),
        ("perhaps", pa.float64()),
        ("perhaps_text", pa.string()),
        ("colour", pa.string()),
        ("four", pa.binary(4)),
        ("pixels", pa.list_(pa.float32())),
        ("tokens", pa.list_(pa.int64())),
        ("inner", pa.struct([("note", pa.string())])),
        ("when", pa.timestamp("us", "UTC")),
        ("day", pa.date32()),
    ]
)


@pytest.fixture
def registry() -> Iterator[TestRegistry]:
    with schema_registry() as registry:
        yield registry


def plain(folder: Path, text: str, schema: pa.Schema) -> Decoder:
    (folder / "flight.avsc").write_text(text)
    return avro_decoder(schema, FormatSpec(kind="avro", schema_file="flight.avsc"), folder)


def decoder(registry: TestRegistry, schema: pa.Schema = ROW) -> Decoder:
    return avro_decoder(schema, FormatSpec(kind="avro", registry=registry.url), Path())


def rows(decoded: Decoded) -> list[dict[str, Any]]:
    return list(decoded.batch.to_pylist())


def singly(schema: str, value: bytes) -> dict[str, Any] | None:
    """What fastavro reads; None where the value is no record, whole."""
    stream = io.BytesIO(value)
    try:
        found = fastavro.schemaless_reader(stream, fastavro.parse_schema(json.loads(schema)), None)
    except Exception:
        return None
    return dict(found) if stream.tell() == len(value) and isinstance(found, dict) else None


@settings(max_examples=15, deadline=None)
@given(st.lists(_records, min_size=1, max_size=4))
def test_every_type_that_is_read_in_bulk_is_read_as_fastavro_does(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]]
) -> None:
    text = avro_schema(EVERYTHING)
    decoded = plain(tmp_path_factory.mktemp("s"), text, _EVERY_COLUMN).decode(
        values([avro(text, record) for record in records])
    )
    assert rows(decoded) == records
    assert decoded.rows.tolist() == list(range(len(records)))
    assert decoded.rejected == []


@settings(max_examples=25, deadline=None)
@given(_records, st.data())
def test_a_damaged_record_is_judged_as_fastavro_judges_it_and_its_neighbours_stand(
    tmp_path_factory: pytest.TempPathFactory, record: dict[str, Any], data: st.DataObject
) -> None:
    text = avro_schema({name: kind for name, kind in EVERYTHING.items() if name not in {"when", "day"}})
    schema = pa.schema([field for field in _EVERY_COLUMN if field.name not in {"when", "day"}])
    del record["when"], record["day"]  # Python's end in the year 9999
    good = avro(text, record)
    place = data.draw(st.integers(0, len(good)))
    damage = data.draw(st.binary(max_size=3))
    bad = data.draw(
        st.sampled_from([good[:place] + damage, good[:place] + damage + good[place:], good + damage])
    )
    expected = singly(text, bad)
    decoded = plain(tmp_path_factory.mktemp("s"), text, schema).decode(values([good, bad, good]))
    found = {int(row): each for row, each in zip(decoded.rows, rows(decoded), strict=True)}
    assert found[0] == found[2] == record
    assert expected is not None or 1 not in found, "fastavro refuses it"
    if 1 in found:
        assert repr(found[1]) == repr(expected)
    else:  # fastavro cuts numbers of more bits than their type has, and takes any byte for a boolean
        [(_, reason)] = decoded.rejected
        assert expected is None or " bits" in reason or "no boolean" in reason


def test_arrays_in_several_blocks_are_one_list(tmp_path: Path) -> None:
    text = avro_schema(
        {"pixels": {"type": "array", "items": "float"}, "tokens": {"type": "array", "items": "int"}}
    )
    schema = pa.schema([("pixels", pa.list_(pa.float32())), ("tokens", pa.list_(pa.int32()))])
    one = b"\x02\0\0\x80\x3f"  # a block of one float
    sized = b"\x01\x08\0\0\0\x40"  # a block of one float whose bytes are counted
    blocks = one + sized + b"\0" + b"\x02\x02" + b"\x04\x04\x06" + b"\0"
    nothing = b"\0\0"
    decoded = plain(tmp_path, text, schema).decode(values([nothing, blocks, nothing]))
    assert decoded.rejected == []
    assert rows(decoded)[1] == {"pixels": [1.0, 2.0], "tokens": [1, 2, 3]}
    assert rows(decoded)[0] == rows(decoded)[2] == {"pixels": [], "tokens": []}


def test_a_fixed_value_larger_than_all_messages_is_cut_short(tmp_path: Path) -> None:
    text = avro_schema({"raw": {"type": "fixed", "name": "Raw", "size": 5000}})
    decoded = plain(tmp_path, text, pa.schema([("raw", pa.binary(5000))])).decode(
        values([b"x" * 9, b"y" * 5000])
    )
    assert rows(decoded) == [{"raw": b"y" * 5000}]
    assert decoded.rejected == [(0, "field 'raw' is cut short")]


def test_what_only_fastavro_reads_is_read_too(tmp_path: Path) -> None:
    text = avro_schema(
        {
            "flight_id": ["null", "long", "string"],
            "distance": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2},
            "carrier": "string",
            "tags": {"type": "map", "values": "string"},
        }
    )
    records: list[dict[str, Any]] = [
        {"flight_id": 1, "distance": Decimal("1.25"), "carrier": "UA", "tags": {"a": "b"}},
        {"flight_id": "two", "distance": Decimal("2.25"), "carrier": "UA", "tags": {}},
        {"flight_id": None, "distance": Decimal("-3.5"), "carrier": "AA", "tags": {}},
    ]
    decoded = plain(tmp_path, text, ROW).decode(values([*(avro(text, r) for r in records), b"\x02", b""]))
    assert rows(decoded) == [
        {"flight_id": 1, "distance": 1.25, "carrier": "UA"},
        {"flight_id": None, "distance": -3.5, "carrier": "AA"},
    ]
    assert [row for row, _ in decoded.rejected] == [1, 3, 4]
    assert decoded.rejected[0][1] == "field 'flight_id': a value beyond int64"


def test_messages_of_all_versions_of_a_schema_are_rows_in_their_order(registry: TestRegistry) -> None:
    first = registry.add("flights-value", PLAIN)
    widened = avro_schema({"carrier": "string", "gate": "string", "flight_id": "int", "distance": "double"})
    second = registry.add("flights-value", widened)
    new = avro(widened, FLIGHT | {"gate": "A1"})
    old = avro(PLAIN, FLIGHT)
    decoded = decoder(registry).decode(
        values([framed(first, old), framed(second, new), None, framed(first, old)])
    )
    assert rows(decoded) == [FLIGHT] * 3
    assert decoded.rows.tolist() == [0, 1, 3]
    assert decoded.rejected == [(2, "the message has no value")]


def test_an_optional_field_that_was_removed_is_its_default(registry: TestRegistry) -> None:
    registry.add(
        "flights-value",
        avro_schema(
            {"flight_id": "long", "distance": ["null", "float"], "carrier": "string"},
            distance=None,
            carrier="?",
        ),
    )
    bare = avro_schema({"flight_id": "long"})
    number = registry.add("flights-value", bare)
    decoded = decoder(registry).decode(values([framed(number, avro(bare, {"flight_id": 1}))]))
    assert rows(decoded) == [{"flight_id": 1, "distance": None, "carrier": "?"}]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"flight_id": "long", "carrier": "string"}, "no field 'distance'"),
        (
            {"flight_id": "long", "distance": "string", "carrier": "string"},
            "field 'distance': expected float, found string",
        ),
        (
            {"flight_id": "double", "distance": "float", "carrier": "string"},
            "field 'flight_id': expected int64, found double",
        ),
    ],
)
def test_an_incompatible_schema_is_refused_by_subject_id_and_field(
    registry: TestRegistry, fields: dict[str, Any], reason: str
) -> None:
    good = registry.add("flights-value", PLAIN)
    text = avro_schema(fields)
    number = registry.add("flights-value", text)
    kinds: dict[str, Any] = {"string": "x", "double": 1.5, "long": 1, "float": 0.5}
    bad = avro(text, {name: kinds[kind] for name, kind in fields.items()})
    decoded = decoder(registry).decode(values([framed(number, bad), framed(good, avro(PLAIN, FLIGHT))]))
    assert rows(decoded) == [FLIGHT]
    assert decoded.rejected == [(0, f"schema {number} (flights-value, version 2): {reason}")]


def test_values_beyond_their_column_are_refused_alone(registry: TestRegistry) -> None:
    schema = pa.schema([("flight_id", pa.int16()), pa.field("distance", pa.float32(), nullable=False)])
    text = avro_schema({"flight_id": "long", "distance": ["null", "double"]})
    number = registry.add("flights-value", text)
    records = [(1, 0.5), (40_000, 0.5), (2, 1e300), (3, None), (4, float("inf"))]
    messages = [framed(number, avro(text, {"flight_id": i, "distance": d})) for i, d in records]
    decoded = decoder(registry, schema).decode(values(messages))
    assert decoded.rows.tolist() == [0, 4]
    assert decoded.rejected == [
        (1, "field 'flight_id': a value beyond int16"),
        (2, "field 'distance': a value beyond float"),
        (3, "field 'distance': null"),
    ]


def test_messages_without_a_frame_or_of_unknown_schemas_are_refused(registry: TestRegistry) -> None:
    number = registry.add("flights-value", PLAIN)
    broken = registry.add("flights-value", '{"type": "record", "name": "X", "fields": [{"name": 1}]}')
    scalar = registry.add("flights-value", '"long"')
    other = registry.add("flights-value", 'syntax = "proto3";', "PROTOBUF")
    good = avro(PLAIN, FLIGHT)
    messages = [
        b"",
        b"\0\xff\0\0\1",
        b'{"flight_id": 1}',
        *(framed(n, good) for n in (99, broken, scalar, other, number)),
    ]
    decoded = decoder(registry).decode(values(messages))
    assert rows(decoded) == [FLIGHT]
    reasons = [reason for _, reason in decoded.rejected]
    assert [row for row, _ in decoded.rejected] == list(range(7))
    assert all("id of a schema" in reason for reason in reasons[:3])
    assert reasons[3] == "schema 99 is not in the registry"
    assert reasons[4].startswith(f"schema {broken} is no valid Avro schema")
    assert reasons[5] == f"schema {scalar} is no schema of a record but of int64"
    assert reasons[6] == f"schema {other} is of kind PROTOBUF, the stream takes Avro"


def test_a_schema_may_refer_to_others(registry: TestRegistry) -> None:
    registry.add(
        "money", '{"type": "record", "name": "Money", "fields": [{"name": "amount", "type": "double"}]}'
    )
    text = avro_schema({"flight_id": "long", "distance": "float", "carrier": "string", "fare": "Money"})
    number = registry.add(
        "flights-value", text, references=({"name": "Money", "subject": "money", "version": 1},)
    )
    value = b"\x0e\0\0\x80\x3f\x04UA" + b"\0" * 8
    decoded = decoder(registry).decode(values([framed(number, value)]))
    assert rows(decoded) == [{"flight_id": 7, "distance": 1.0, "carrier": "UA"}]


def test_a_registry_is_asked_once_for_each_schema(registry: TestRegistry) -> None:
    number = registry.add("flights-value", PLAIN)
    reads = decoder(registry)
    for _ in range(3):
        reads.decode(values([framed(number, avro(PLAIN, FLIGHT))] * 5))
    assert [path for _, path, _ in registry.requests] == [f"/schemas/ids/{number}"]


def test_a_file_that_makes_no_such_rows_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no field 'carrier'"):
        plain(tmp_path, avro_schema({"flight_id": "long", "distance": "float"}), ROW)
    with pytest.raises(SpecError, match="no valid Avro schema"):
        plain(tmp_path, "{", ROW)
    with pytest.raises(SpecError, match="cannot read the file"):
        avro_decoder(ROW, FormatSpec(kind="avro", schema_file="absent.avsc"), tmp_path)
    with pytest.raises(SpecError, match="needs a registry, or a schema_file"):
        avro_decoder(ROW, FormatSpec(kind="avro"), tmp_path)
