"""What the formats have in common: the same rows in, the same rows out, and the same messages refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.messages import arrow, avro, avro_schema, base64_of, framed, protobuf_file, protobuf_type, values
from tests.schema_registry import TestRegistry, schema_registry

from batchinfer.core import LINEAGE
from batchinfer.errors import InputError, SpecError
from batchinfer.spec import FormatSpec
from batchinfer.streaming import Decoder
from batchinfer.streaming._adapters import open_decoder, open_encoder

ROW = pa.schema(
    [("flight_id", pa.int64()), ("seats", pa.int32()), ("carrier", pa.string()), ("temp", pa.float32())]
)
AVRO = avro_schema(
    {"flight_id": "long", "seats": ["null", "long"], "carrier": "string", "temp": ["null", "float"]}
)
PROTOBUF = protobuf_file(
    ["int64 flight_id = 1", "optional int64 seats = 2", "string carrier = 3", "optional float temp = 4"]
)
ARROW = pa.schema(
    [("flight_id", pa.int64()), ("seats", pa.int64()), ("carrier", pa.string()), ("temp", pa.float64())]
)


@pytest.fixture(scope="module")
def registry() -> Iterator[TestRegistry]:
    with schema_registry() as registry:
        registry.add("flights-value", AVRO)
        registry.add("flights-proto-value", base64_of(PROTOBUF), "PROTOBUF")
        yield registry


def decoder(kind: Any, registry: TestRegistry, schema: pa.Schema = ROW) -> Decoder:
    url = registry.url if kind in {"avro", "protobuf"} else None
    return open_decoder(schema, FormatSpec(kind=kind, registry=url), Path())


def message(kind: str, row: dict[str, Any]) -> bytes:
    if kind == "json":
        return json.dumps(row).encode()
    if kind == "avro":
        return framed(1, avro(AVRO, row))
    if kind == "protobuf":
        there = {name: value for name, value in row.items() if value is not None}
        return framed(2, protobuf_type(PROTOBUF)(**there).SerializeToString(), b"\0")
    return arrow(pa.RecordBatch.from_pylist([row], schema=ARROW))


FLIGHTS: list[dict[str, Any]] = [
    {"flight_id": 1, "seats": 180, "carrier": "UA", "temp": 3.5},
    {"flight_id": 2**62, "seats": None, "carrier": "", "temp": None},
    {"flight_id": -3, "seats": -1, "carrier": "Ünïted ✈", "temp": -0.25},
]


@pytest.mark.parametrize("kind", ["json", "avro", "protobuf", "arrow"])
def test_all_formats_give_the_same_rows_and_refuse_the_same_messages(
    kind: str, registry: TestRegistry
) -> None:
    beyond = FLIGHTS[0] | {"seats": 2**40}
    good = [message(kind, row) for row in FLIGHTS]
    messages = [good[0], message(kind, beyond), good[1], None, good[2][:-1], good[2]]
    decoded = decoder(kind, registry).decode(values(messages))
    assert decoded.batch.schema == ROW
    assert decoded.batch.to_pylist() == FLIGHTS
    assert decoded.rows.tolist() == [0, 2, 5]
    reasons = dict(decoded.rejected)
    assert sorted(reasons) == [1, 3, 4]
    assert "'seats'" in reasons[1] and "beyond int32" in reasons[1]
    assert reasons[3] == "the message has no value"


@pytest.mark.parametrize("kind", ["json", "avro", "protobuf", "arrow"])
def test_messages_of_a_slice_and_of_none_are_decoded(kind: str, registry: TestRegistry) -> None:
    messages = values([b"x" * 9, *(message(kind, row) for row in FLIGHTS), b""])
    decode = decoder(kind, registry).decode
    assert decode(messages.slice(1, 3)).batch.to_pylist() == FLIGHTS
    nothing = decode(messages.slice(0, 0))
    assert (nothing.batch.num_rows, nothing.batch.schema, nothing.rejected) == (0, ROW, [])
    refused = decode(values([None, None]))
    assert (refused.batch.num_rows, [row for row, _ in refused.rejected]) == (0, [0, 1])


def test_a_message_of_arrow_has_any_number_of_rows_and_is_refused_as_a_whole(registry: TestRegistry) -> None:
    many = pa.RecordBatch.from_pylist(FLIGHTS, schema=ARROW)
    wrong = pa.RecordBatch.from_pylist([FLIGHTS[0], FLIGHTS[0] | {"seats": 2**40}], schema=ARROW)
    text = many.set_column(1, "seats", pa.array(["a", "b", "c"]))
    less = many.select(["flight_id", "carrier", "temp"])
    more = many.append_column("gate", pa.array(["A", "B", "C"]).dictionary_encode())
    messages = [arrow(b) for b in (many, wrong, text, less, many.slice(0, 0), more)]
    decoded = decoder("arrow", registry).decode(values([*messages, arrow(many)[:-60], b"ARROW1"]))
    assert decoded.batch.to_pylist() == FLIGHTS * 2
    assert decoded.rows.tolist() == [0, 0, 0, 5, 5, 5]
    reasons = dict(decoded.rejected)
    assert reasons[1] == "field 'seats': a value beyond int32, in a row of it"
    assert reasons[2] == "field 'seats': expected int32, found string"
    assert reasons[3] == "no field 'seats'"
    assert reasons[6].startswith("the value is no Arrow IPC stream")
    assert reasons[7].startswith("the value is no Arrow IPC stream")
    assert sorted(reasons) == [1, 2, 3, 6, 7]


RESULTS = pa.schema(
    [
        pa.field("flight_id", pa.int64()),
        pa.field("day", pa.date32()),
        pa.field("at", pa.timestamp("us", "UTC")),
        pa.field("carrier", pa.dictionary(pa.int32(), pa.string())),
        pa.field("raw", pa.binary()),
        pa.field("late", pa.bool_()),
        pa.field("gate", pa.int16()),
        pa.field("p_late", pa.float32()),
        pa.field("score", pa.float64()),
        pa.field("embedding", pa.list_(pa.float32(), 2)),
        pa.field("tokens", pa.list_(pa.int64())),
        *LINEAGE,
    ]
)
_label = st.sampled_from(["a", "bc"])
_results = st.fixed_dictionaries(
    {
        "flight_id": st.none() | st.integers(-(2**63), 2**63 - 1),
        "day": st.none() | st.dates(),
        "at": st.none() | st.integers(-(10**15), 10**15),
        "carrier": st.none() | st.text(max_size=200),
        "raw": st.none() | st.binary(max_size=5),
        "late": st.none() | st.booleans(),
        "gate": st.none() | st.integers(-(2**15), 2**15 - 1),
        "p_late": st.none() | st.floats(width=32, allow_nan=False),
        "score": st.none() | st.floats(allow_nan=False),
        "embedding": st.none() | st.lists(st.floats(width=32, allow_nan=False), min_size=2, max_size=2),
        "tokens": st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
        "_model": _label,
        "_run_id": _label,
        "_source": _label,
        "_position": st.integers(0, 2**63 - 1),
    }
)


@settings(max_examples=10, deadline=None)
@given(st.lists(_results, max_size=4))
@pytest.mark.parametrize("kind", ["avro", "protobuf"])
def test_predictions_are_read_back_as_they_were_written(
    kind: Any, registry: TestRegistry, rows: list[dict[str, Any]]
) -> None:
    batch = pa.RecordBatch.from_pylist(rows, schema=RESULTS)
    spec = FormatSpec(kind=kind, registry=registry.url)
    encoded = open_encoder(RESULTS, spec, f"{kind}-predictions").encode(batch)
    if kind == "protobuf":
        _compile(registry)
    columns = {"day": pa.string(), "embedding": pa.list_(pa.float32())} if kind == "protobuf" else {}
    read = pa.schema([pa.field(each.name, columns.get(each.name, each.type)) for each in RESULTS])
    decoded = open_decoder(read, spec, Path()).decode(encoded)
    assert decoded.rejected == []
    for name in RESULTS.names:
        expected = batch.column(name).cast(columns.get(name, batch.column(name).type)).to_pylist()
        if kind == "protobuf" and name == "embedding":  # a list of Protobuf's is empty where there is none
            expected = [each or [] for each in expected]
        assert decoded.batch.column(name).to_pylist() == expected, name


def test_a_list_that_holds_a_null_is_null(registry: TestRegistry) -> None:
    schema = pa.schema([("a", pa.list_(pa.int64())), ("b", pa.list_(pa.float32(), 2))])
    rows = [{"a": [1, 2], "b": [1.0, 2.0]}, {"a": [1, None], "b": None}, {"a": None, "b": [None, 3.0]}]
    spec = FormatSpec(kind="avro", registry=registry.url)
    batch = pa.RecordBatch.from_pylist(rows, schema=schema)
    decoded = open_decoder(schema, spec, Path()).decode(open_encoder(schema, spec, "lists").encode(batch))
    nothing = {"a": None, "b": None}
    assert decoded.batch.to_pylist() == [rows[0], nothing, nothing]


def _compile(registry: TestRegistry) -> None:
    """Let the registry answer for the schema's source with its descriptor, as real ones do."""
    for entry in registry.schemas:
        if entry["schema"].startswith("syntax"):
            fields = [line.strip(" ;") for line in entry["schema"].splitlines() if line.startswith("  ")]
            file = protobuf_file(fields, imports=["google/protobuf/timestamp.proto"])
            entry["schema"] = base64_of(file)


def test_columns_that_a_format_cannot_hold_are_refused_by_name(registry: TestRegistry) -> None:
    def opened(kind: Any, schema: pa.Schema) -> None:
        open_encoder(schema, FormatSpec(kind=kind, registry=registry.url), "predictions")

    with pytest.raises(SpecError, match="column 'p late' cannot be a field of avro"):
        opened("avro", pa.schema([("p late", pa.float32())]))
    with pytest.raises(SpecError, match="column 'p' is struct"):
        opened("protobuf", pa.schema([("p", pa.struct([]))]))
    with pytest.raises(SpecError, match="predictions as avro need a schema registry"):
        open_encoder(RESULTS, FormatSpec(kind="avro"), "predictions")
    with pytest.raises(SpecError, match="arrow"):
        open_encoder(RESULTS, FormatSpec(kind="arrow"), "predictions")
    registry.incompatible = True
    with pytest.raises(InputError, match="incompatible"):
        opened("avro", pa.schema([("other", pa.float32())]))
    registry.incompatible = False


@pytest.mark.parametrize(
    ("stated", "reason"),
    [
        ({"kind": "json", "schema_file": "a.avsc"}, "json needs neither"),
        ({"kind": "avro", "schema_file": "a.avsc", "registry": "http://r"}, "two sources of schemas"),
        ({"kind": "avro", "schema_file": "a.avsc", "message": "a.B"}, "message names a type"),
        ({"kind": "avro", "registry": "http://u:s3cret@r"}, "states a password"),
    ],
)
def test_a_format_has_one_source_of_schemas_and_no_secret(stated: dict[str, str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        FormatSpec.model_validate(stated)
