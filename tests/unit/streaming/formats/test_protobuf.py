"""Protobuf: read as protobuf reads it, message by message on its own, whatever order the fields are in."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.messages import base64_of, framed, protobuf_file, protobuf_type, values
from tests.schema_registry import TestRegistry, schema_registry

from batchinfer.errors import SpecError
from batchinfer.spec import FormatSpec
from batchinfer.streaming import Decoded, Decoder
from batchinfer.streaming.formats import protobuf_decoder

ROW = pa.schema([("flight_id", pa.int64()), ("distance", pa.float32()), ("carrier", pa.string())])
FIELDS = ["int64 flight_id = 1", "optional float distance = 2", "string carrier = 3"]

EVERYTHING = [
    "double a = 1",
    "float b = 2",
    "int64 c = 3",
    "uint64 d = 4",
    "int32 e = 5",
    "fixed64 f = 6",
    "fixed32 g = 7",
    "bool h = 8",
    "string i = 9",
    "bytes j = 10",
    "uint32 k = 11",
    "sfixed32 l = 12",
    "sfixed64 m = 13",
    "sint32 n = 14",
    "sint64 o = 15",
    "optional int32 p = 16",
    "optional string q = 17",
    "repeated float r = 18",
    "repeated int32 s = 19",
    "repeated sint64 t = 20",
    "google.protobuf.DoubleValue u = 21",
    "google.protobuf.StringValue v = 2000",
    "sample.Flight.Inner unwanted = 22",
]
IMPORTS = ["google/protobuf/wrappers.proto", "google/protobuf/timestamp.proto"]
_COLUMNS = pa.schema(
    [
        ("a", pa.float64()),
        ("b", pa.float32()),
        ("c", pa.int64()),
        ("d", pa.uint64()),
        ("e", pa.int32()),
        ("f", pa.uint64()),
        ("g", pa.uint32()),
        ("h", pa.bool_()),
        ("i", pa.string()),
        ("j", pa.binary()),
        ("k", pa.uint32()),
        ("l", pa.int32()),
        ("m", pa.int64()),
        ("n", pa.int32()),
        ("o", pa.int64()),
        ("p", pa.int32()),
        ("q", pa.string()),
        ("r", pa.list_(pa.float32())),
        ("s", pa.list_(pa.int32())),
        ("t", pa.list_(pa.int64())),
        ("u", pa.float64()),
        ("v", pa.string()),
    ]
)
_i32, _i64 = st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1)
_u32, _u64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
_f32, _f64 = st.floats(width=32, allow_nan=False), st.floats(allow_nan=False)
_text = st.text(max_size=6)
_messages = st.fixed_dictionaries(
    {},
    optional=dict(
        zip(
            "abcdefghijklmnopqrstuv",
            [
                *(
                    _f64,
                    _f32,
                    _i64,
                    _u64,
                    _i32,
                    _u64,
                    _u32,
                    st.booleans(),
                    _text,
                    st.binary(max_size=6),
                    _u32,
                ),
                *(_i32, _i64, _i32, _i64, _i32, _text),
                *(
                    st.lists(_f32, max_size=4),
                    st.lists(_i32, max_size=4),
                    st.lists(_i64, max_size=4),
                    _f64,
                    _text,
                ),
            ],
            strict=True,
        )
    ),
)


@functools.cache
def everything() -> Any:
    return protobuf_type(protobuf_file(EVERYTHING, imports=IMPORTS))


def written(content: dict[str, Any]) -> bytes:
    message = everything()()
    for name, value in content.items():
        if name in "uv":
            getattr(message, name).value = value
        elif isinstance(value, list):
            getattr(message, name).extend(value)
        else:
            setattr(message, name, value)
    return bytes(message.SerializeToString())


def read_by_protobuf(value: bytes) -> dict[str, Any] | None:
    try:
        message = everything().FromString(value)
    except DecodeError:
        return None
    found = {}
    for name in _COLUMNS.names:
        content = getattr(message, name)
        absent = name in "pquv" and not message.HasField(name)
        found[name] = None if absent else content.value if name in "uv" else content
        if name in "rst":
            found[name] = list(content)
    return found


def descriptors(folder: Path, *files: descriptor_pb2.FileDescriptorProto) -> Path:
    (folder / "flight.desc").write_bytes(descriptor_pb2.FileDescriptorSet(file=files).SerializeToString())
    return folder


def plain(folder: Path, schema: pa.Schema, message: str | None = None) -> Decoder:
    return protobuf_decoder(
        schema, FormatSpec(kind="protobuf", schema_file="flight.desc", message=message), folder
    )


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    folder = descriptors(tmp_path_factory.mktemp("s"), protobuf_file(EVERYTHING, imports=IMPORTS))
    return plain(folder, _COLUMNS)


@pytest.fixture
def registry() -> Iterator[TestRegistry]:
    with schema_registry() as registry:
        yield registry


def decoder(registry: TestRegistry, schema: pa.Schema = ROW) -> Decoder:
    return protobuf_decoder(schema, FormatSpec(kind="protobuf", registry=registry.url), Path())


def rows(decoded: Decoded) -> list[dict[str, Any]]:
    return list(decoded.batch.to_pylist())


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(_messages, min_size=1, max_size=3), min_size=1, max_size=4))
def test_every_type_is_read_as_protobuf_does_also_from_messages_in_pieces(
    every: Decoder, pieces: list[list[dict[str, Any]]]
) -> None:
    messages = [b"".join(written(piece) for piece in each) for each in pieces]
    decoded = every.decode(values(messages))
    assert decoded.rejected == []
    assert repr(rows(decoded)) == repr([read_by_protobuf(message) for message in messages])


@settings(max_examples=30, deadline=None)
@given(_messages, st.data())
def test_a_damaged_message_is_judged_as_protobuf_judges_it_and_its_neighbours_stand(
    every: Decoder, content: dict[str, Any], data: st.DataObject
) -> None:
    good = written(content)
    place = data.draw(st.integers(0, len(good)))
    damage = data.draw(st.binary(max_size=3))
    bad = data.draw(
        st.sampled_from([good[:place] + damage, good[:place] + damage + good[place:], damage + good])
    )
    expected = read_by_protobuf(bad)
    decoded = every.decode(values([good, bad, good]))
    found = {int(row): each for row, each in zip(decoded.rows, rows(decoded), strict=True)}
    assert repr(found[0]) == repr(found[2]) == repr(read_by_protobuf(good))
    assert expected is not None or 1 not in found, "protobuf refuses it"
    if 1 in found:
        assert repr(found[1]) == repr(expected)
    else:
        [(_, reason)] = decoded.rejected
        assert expected is None or "of another type" in reason or "64 bits" in reason


@pytest.mark.parametrize("field", ["i", "q", "v"])
def test_of_a_text_that_stands_twice_each_has_to_be_utf8(every: Decoder, field: str) -> None:
    first, second = written({field: "a"}), written({field: "b"})
    messages = [first + second, first.replace(b"a", b"\xff") + second, second]
    assert read_by_protobuf(messages[1]) is None
    decoded = every.decode(values(messages))
    assert [row[field] for row in rows(decoded)] == ["b", "b"]
    assert [place for place, _ in decoded.rejected] == [1]


def test_enums_and_times_become_what_their_columns_hold(tmp_path: Path) -> None:
    fields = ["Colour c = 1", "Colour n = 2", "optional Colour o = 3", "google.protobuf.Timestamp t = 4"]
    file = protobuf_file(fields, imports=IMPORTS)
    schema = pa.schema(
        [("c", pa.string()), ("n", pa.int32()), ("o", pa.string()), ("t", pa.timestamp("us", "UTC"))]
    )
    made = protobuf_type(file)
    seen = made(c=1, n=2, o=2)
    seen.t.seconds, seen.t.nanos = -1, 999_999_000
    fine = made(c=1)
    fine.t.seconds, fine.t.nanos = 1, 1
    unknown = made(c=7)
    messages = [made().SerializeToString(), seen.SerializeToString(), unknown.SerializeToString()]
    decoded = plain(descriptors(tmp_path, file), schema).decode(values([*messages, fine.SerializeToString()]))
    first, second = rows(decoded)
    assert first == {"c": "NONE", "n": 0, "o": None, "t": None}
    assert (second["c"], second["n"], second["o"]) == ("RED", 2, "BLUE")
    assert decoded.batch.column("t").cast(pa.int64())[1].as_py() == -1
    assert decoded.rejected == [
        (2, "field 'c' is of a symbol that its enum has not"),
        (3, "field 't': a value beyond timestamp[us, tz=UTC]"),  # it would have to be cut
    ]


def test_lists_of_texts_and_fields_of_proto2_are_read_too(tmp_path: Path) -> None:
    fields = [
        "required int64 flight_id = 1",
        "optional float distance = 2",
        "repeated string tags = 3",
        "repeated int32 codes = 4",
    ]
    file = protobuf_file(fields, syntax="proto2")
    made = protobuf_type(file)
    schema = pa.schema(
        [("flight_id", pa.int64()), ("distance", pa.float32()), ("codes", pa.list_(pa.int64()))]
    )
    content = made(flight_id=1, tags=["a", "b"], codes=[1, -2]).SerializeToString()
    decode = plain(descriptors(tmp_path, file), schema).decode
    decoded = decode(values([content, b""]))
    assert rows(decoded) == [{"flight_id": 1, "distance": None, "codes": [1, -2]}]
    assert decoded.rejected == [(1, "no field 'flight_id'")]
    tagged = plain(tmp_path, pa.schema([*schema, ("tags", pa.list_(pa.string()))])).decode(
        values([content, b"\xff"])
    )
    assert rows(tagged) == [{"flight_id": 1, "distance": None, "codes": [1, -2], "tags": ["a", "b"]}]
    assert tagged.rejected == [(1, "the value is no Protobuf message")]
    many = made(flight_id=2, tags=["a"] * 3000, codes=range(3000)).SerializeToString()
    assert rows(decode(values([many, content])))[0]["codes"] == list(range(3000))


def test_groups_and_many_unknown_fields_are_left_to_protobuf(tmp_path: Path) -> None:
    file = protobuf_file(FIELDS)
    content = protobuf_type(file)(flight_id=5, carrier="UA").SerializeToString()
    group = b"\x9b\x01\x08\x01\x9c\x01"  # field 19: a group with a number in it
    unknown = b"\xa0\x01\x01" * 3000  # field 20, as often
    open_group = b"\x9b\x01\x08\x01"
    messages = [content + group, group + content, unknown + content, content + open_group, content]
    decoded = plain(descriptors(tmp_path, file), ROW).decode(values(messages))
    assert rows(decoded) == [{"flight_id": 5, "distance": None, "carrier": "UA"}] * 4
    assert decoded.rejected == [(3, "the value is no Protobuf message")]


def test_a_field_of_another_type_is_refused_and_not_dropped(tmp_path: Path) -> None:
    other = protobuf_type(protobuf_file(["string flight_id = 1"]))(flight_id="x").SerializeToString()
    decoded = plain(descriptors(tmp_path, protobuf_file(FIELDS)), ROW).decode(values([other]))
    assert decoded.rejected == [(0, "field 'flight_id' is of another type than its schema says")]


def test_frames_lead_to_the_type_within_the_schema_of_each_message(registry: TestRegistry) -> None:
    file = protobuf_file(FIELDS)
    file.message_type.add(name="Other").nested_type.add(name="Deep").CopyFrom(file.message_type[0])
    number = registry.add("flights-value", base64_of(file), "PROTOBUF")
    more = protobuf_file([*FIELDS, "string gate = 9"], name="more.proto")
    newer = registry.add("flights-value", base64_of(more), "PROTOBUF")
    content = protobuf_type(file)(flight_id=1, distance=2.5, carrier="UA").SerializeToString()
    gate = protobuf_type(more)(flight_id=2, carrier="AA", gate="A").SerializeToString()
    messages = [
        framed(number, content, b"\0"),
        framed(newer, gate, b"\0"),
        framed(number, content, b"\x02\0"),  # one index, 0
        framed(number, content, b"\x04\x02\0"),  # two, 1 and 0: Other.Deep
        framed(number, content, b"\x02\x0a"),  # one, 5: there is no such type
        framed(number, content, b"\x7f"),  # a negative count
        framed(77, content, b"\0"),
        content,
        framed(number, b"", b"\x02"),  # one index, and none follows
    ]
    decoded = decoder(registry).decode(values(messages))
    row = {"flight_id": 1, "distance": 2.5, "carrier": "UA"}
    assert rows(decoded) == [row, {"flight_id": 2, "distance": None, "carrier": "AA"}, row, row]
    assert decoded.rows.tolist() == [0, 1, 2, 3]
    reasons = dict(decoded.rejected)
    assert sorted(reasons) == [4, 5, 6, 7, 8]
    assert reasons[4].startswith(f"schema {number} has no such message type")
    pathless = f"schema {number}: its id is not followed by the path to a message type, as Protobuf's is"
    assert reasons[5] == reasons[8] == pathless
    assert reasons[6] == "schema 77 is not in the registry"
    assert reasons[7].startswith("the value does not begin with the id of a schema")


def test_schemas_change_compatibly_or_are_refused_by_subject_and_field(registry: TestRegistry) -> None:
    registry.add("flights-value", base64_of(protobuf_file(FIELDS)), "PROTOBUF")
    bare = protobuf_file(["int32 flight_id = 1", "string carrier = 3"], name="bare.proto")
    text = protobuf_file(["string flight_id = 1", *FIELDS[1:]], name="text.proto")
    without = registry.add("flights-value", base64_of(bare), "PROTOBUF")  # distance was optional
    wrong = registry.add("flights-value", base64_of(text), "PROTOBUF")
    source = registry.add("flights-value", 'syntax = "proto3";', "PROTOBUF")
    short = protobuf_type(bare)(flight_id=3, carrier="UA").SerializeToString()
    decoded = decoder(registry).decode(values([framed(n, short, b"\0") for n in (without, wrong, source)]))
    assert rows(decoded) == [{"flight_id": 3, "distance": None, "carrier": "UA"}]
    assert decoded.rejected == [
        (
            1,
            f"schema {wrong} (flights-value, version 3): field 'flight_id': expected int64, found string",
        ),
        (2, f"schema {source}: the registry gives no serialized descriptor of it"),
    ]


def test_files_that_hold_no_such_message_are_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "flight.desc").write_bytes(b"\xff")
    with pytest.raises(SpecError, match="--descriptor_set_out"):
        plain(tmp_path, ROW)
    file = protobuf_file(FIELDS)
    descriptors(tmp_path, file)
    with pytest.raises(SpecError, match="no such message type"):
        plain(tmp_path, ROW, "sample.Train")
    with pytest.raises(SpecError, match="no field 'seats'"):
        plain(tmp_path, pa.schema([("seats", pa.int64())]))
    file.message_type.add(name="Other")
    descriptors(tmp_path, file)
    with pytest.raises(SpecError, match="has 2 message types: state which"):
        plain(tmp_path, ROW)
    assert plain(tmp_path, ROW, "sample.Flight").decode(values([b""])).batch.num_rows == 1
