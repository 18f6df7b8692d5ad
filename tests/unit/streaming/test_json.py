"""JSON decoding: what becomes of a message follows from its own bytes alone, and nothing is guessed."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchinfer.errors import SpecError
from batchinfer.spec import FormatSpec
from batchinfer.streaming._json import JsonDecoder, JsonEncoder

SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("small", pa.int8()),
        ("x", pa.float32()),
        ("text", pa.string()),
        ("yes", pa.bool_()),
        ("at", pa.timestamp("us", "UTC")),
        ("day", pa.date32()),
        ("list", pa.list_(pa.float32(), 2)),
        ("ints", pa.list_(pa.int32())),
        ("words", pa.list_(pa.string())),
    ]
)
GOOD = {
    "id": 1,
    "small": -5,
    "x": 1.5,
    "text": "a",
    "yes": True,
    "at": "2013-01-08T10:00:00Z",
    "day": "2013-01-08",
    "list": [1, 2],
    "ints": [3, -4],
    "words": ["a", "b, 5"],
}
DECODER = JsonDecoder(SCHEMA, FormatSpec(), Path())


def decoded(*values: bytes | None) -> Any:
    return DECODER.decode(pa.array(values, pa.large_binary()))


def encoded(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def test_values_have_the_columns_types() -> None:
    found = decoded(encoded(), encoded(x=None, text=None, at=None, list=None))
    assert found.rejected == []
    assert found.rows.tolist() == [0, 1]
    assert found.batch.schema == SCHEMA
    first, second = found.batch.to_pylist()
    assert first["at"].isoformat() == "2013-01-08T10:00:00+00:00"
    assert first["day"].isoformat() == "2013-01-08"
    assert first["list"] == [1, 2]
    assert second["x"] is second["text"] is second["at"] is second["list"] is None


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (encoded(small=200), "beyond int8"),
        (encoded(at="yesterday"), "'at'"),
        (encoded(day=5), "'day'"),
        (encoded(list=[1, 2, 3]), "expected 2 values"),
        (encoded(list=[1, "2"]), "'list'"),
        (encoded(list=5), "'list'"),
        (encoded(yes=1), "'yes'"),
        (encoded(yes="true"), "'yes'"),
        (encoded(text=["a"]), "'text'"),
        (encoded(text=False), "'text'"),
        (encoded(id=True), "'id'"),
        (encoded(id=1.0), "'id'"),
        (encoded(id=1e18), "'id'"),
        (encoded(id=2**63), "beyond int64"),
        (encoded(x=False), "'x'"),
        (encoded(x=1e39), "beyond float"),
        (encoded(list=[1, 1e39]), "beyond float"),
        (encoded(list=[1, True]), "'list'"),
        (encoded(ints=[1, 2.0]), "'ints'"),
        (encoded(ints=[1, 2**31]), "beyond int32"),
        (encoded(ints=[1, 2**70]), "beyond int32"),
        (encoded(words=["a", 5]), "'words'"),
        (encoded(words=[["a"]]), "'words'"),
        (encoded(at="\ud800"), "'at'"),
        (encoded(text="\ud800"), "surrogate"),
        (None, "no value"),
        (b"  ", "empty"),
        (b"\xef\xbb\xbf" + encoded(), "byte order mark"),
        (encoded().decode().encode("utf-16-le"), "not JSON"),
        (b"[1]", "an array"),
        (b"null", "null"),
        (encoded() + encoded(), "Extra data"),
        (encoded(text="\n").replace(b"\\n", b"\n"), "control character"),
    ],
)
def test_a_faulty_message_is_rejected_alone(value: bytes | None, reason: str) -> None:
    found = decoded(encoded(), value, encoded(id=3))
    assert found.batch["id"].to_pylist() == [1, 3]
    assert found.rows.tolist() == [0, 2]
    [(place, said)] = found.rejected
    assert place == 1
    assert reason in said


def test_faulty_messages_are_found_among_many() -> None:
    faulty = {5: "'yes'", 255: "not JSON", 256: "'text'", 599: "'yes'"}
    values: list[bytes | None] = [encoded(id=number) for number in range(600)]
    values[5] = values[599] = encoded(yes=1)
    values[255] = encoded()[:-10] + b"}"
    values[256] = encoded(text={})
    found = decoded(*values)
    assert [place for place, _ in found.rejected] == list(faulty)
    assert all(faulty[place] in why for place, why in found.rejected)
    assert found.rows.tolist() == found.batch["id"].to_pylist() == sorted(set(range(600)) - faulty.keys())


def test_fields_beyond_the_schema_and_any_order_and_blanks_are_fine() -> None:
    more = {"zz": {"id": [1, {"text": '"text":'}]}, **dict(reversed(GOOD.items()))}
    values = [json.dumps(more).encode(), json.dumps(GOOD, indent=2).encode(), b"  " + encoded() + b"\r\n"]
    found = decoded(*values)
    assert found.rejected == []
    assert found.batch["text"].to_pylist() == ["a", "a", "a"]


def test_escapes_and_surrogate_pairs_are_text() -> None:
    found = decoded(encoded(text='ü "quoted" \\ \U0001f600\n'), encoded(text="x\x00y"))
    assert found.batch["text"].to_pylist() == ['ü "quoted" \\ \U0001f600\n', "x\x00y"]


def test_no_message_at_all_is_no_row() -> None:
    assert decoded().batch.num_rows == 0
    assert decoded(None, b"").batch.num_rows == 0


def test_a_type_that_json_cannot_hold_is_refused_by_name() -> None:
    with pytest.raises(SpecError, match="'raw'"):
        JsonDecoder(pa.schema([("raw", pa.struct([("a", pa.int8())]))]), FormatSpec(), Path())


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


_TEXTS = [
    "1.0",
    "1e2",
    "-0",
    "1e39",
    "1e400",
    "9223372036854775808",
    "[1.0, 2]",
    "[1,\n2]",
    '["a", 5]',
    "[true, 1]",
    "[[1]]",
]


@st.composite
def _messages(draw: st.DrawFn) -> bytes:
    content: Any = {
        **GOOD,
        **draw(st.dictionaries(st.sampled_from([*SCHEMA.names, "zz"]), _VALUES, max_size=2)),
    }
    for name in draw(st.sets(st.sampled_from(SCHEMA.names), max_size=1)):
        del content[name]
    if draw(st.booleans()):
        content[draw(st.sampled_from(SCHEMA.names))] = "@"
    written = json.dumps(content, ensure_ascii=draw(st.booleans()))
    text = written.replace('"@"', draw(st.sampled_from(_TEXTS)), 1).encode("utf-8", "surrogatepass")
    match draw(st.integers(0, 9)):
        case 0:
            at = draw(st.integers(0, len(text)))
            return text[:at] + draw(st.binary(max_size=3)) + text[at:]
        case 1:
            return text[: draw(st.integers(0, len(text)))]
        case 2:
            return text[:-1] + b', "id": 2}'
        case _:
            return text


@settings(max_examples=100, deadline=None)
@given(st.lists(_messages(), max_size=12))
def test_neighbours_and_what_came_before_change_nothing(values: list[bytes]) -> None:
    """`DECODER` knows the layout of good messages; a new one reads its first message by the letter."""
    decoded(encoded())
    together = decoded(*values)
    rejected = dict(together.rejected)
    rows = {place: together.batch.slice(at, 1) for at, place in enumerate(together.rows.tolist())}
    assert rows.keys() | rejected.keys() == set(range(len(values)))
    assert not rows.keys() & rejected.keys()
    for place, value in enumerate(values):
        alone = JsonDecoder(SCHEMA, FormatSpec(), Path()).decode(pa.array([value], pa.large_binary()))
        assert [why for _, why in alone.rejected] == ([rejected[place]] if place in rejected else [])
        if place in rows:
            assert alone.batch.equals(rows[place])
            assert set(SCHEMA.names) <= json.loads(value).keys()


def test_a_prediction_is_one_object_without_what_json_has_not() -> None:
    rows = pa.RecordBatch.from_pylist(
        [{"a": 1, "x": float("nan"), "t": 'line\n"two"'}, {"a": None, "x": 0.5, "t": "ü"}],
        schema=pa.schema([("a", pa.int64()), ("x", pa.float32()), ("t", pa.string())]),
    )
    values = JsonEncoder(rows.schema, FormatSpec(), "topic").encode(rows).to_pylist()
    assert [json.loads(value) for value in values] == [
        {"a": 1, "x": None, "t": 'line\n"two"'},
        {"a": None, "x": 0.5, "t": "ü"},
    ]
    assert not any(b"\n" in value for value in values)


@pytest.mark.parametrize("kind", [pa.binary(), pa.list_(pa.large_binary()), pa.binary(16)])
def test_a_column_of_bytes_is_refused_before_the_first_prediction(kind: pa.DataType) -> None:
    with pytest.raises(SpecError, match="'raw'"):
        JsonEncoder(pa.schema([("id", pa.int64()), ("raw", kind)]), FormatSpec(), "topic")


def test_layouts_that_are_known_from_before_change_nothing() -> None:
    decoder = JsonDecoder(SCHEMA, FormatSpec(), Path())
    layouts = [dict(random.Random(n).sample(list(GOOD.items()), len(GOOD))) for n in range(20)]
    twice = encoded()[:-1] + b', "id": 2}'
    values = [*(json.dumps(layout).encode() for layout in layouts), encoded(text=5), twice, encoded()]
    for _ in range(3):
        found = decoder.decode(pa.array(values, pa.large_binary()))
        assert found.rows.tolist() == [*range(20), 22]
        assert [place for place, _ in found.rejected] == [20, 21]
        assert found.batch["text"].to_pylist() == ["a"] * 21


@pytest.mark.parametrize("letters", [1, 6, 7, 8, 15, 16, 17, 25])
def test_a_name_that_differs_in_one_letter_is_another(letters: int) -> None:
    name = "abcdefghijklmnopqrstuvwxy"[:letters]
    decoder = JsonDecoder(pa.schema([(name, pa.int64()), ("n", pa.int64())]), FormatSpec(), Path())
    others = [f"{name[:place]}_{name[place + 1 :]}" for place in range(letters)]
    values = [json.dumps({each: 1, "n": None}).encode() for each in [name, *others]]
    found = decoder.decode(pa.array(values, pa.large_binary()))
    assert found.batch.to_pylist() == [{name: 1, "n": None}]
    assert found.rejected == [(place + 1, f"no field '{name}'") for place in range(letters)]
