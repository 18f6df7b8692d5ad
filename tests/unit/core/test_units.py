"""Names for work, receipts, and the types under which results are kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchinfer.core import (
    InputFile,
    RowCounts,
    Slice,
    StagedPart,
    UnitReport,
    WorkUnit,
    merge_counts,
    partition_path,
    run_id,
    storable,
    total_rows,
)
from batchinfer.errors import InputError

FILE = InputFile("in/ds=1/a.parquet", 1000, 5, 10)
WORK: dict[str, Any] = {
    "pipeline": "p",
    "parameters": {"a": "1", "b": "2"},
    "spec_digest": "s",
    "model_digest": "m",
    "inputs": (FILE,),
}


def test_the_same_work_has_the_same_id_whatever_the_order_of_its_parameters() -> None:
    same = {**WORK, "parameters": {"b": "2", "a": "1"}, "inputs": iter([FILE])}
    assert run_id(**WORK) == run_id(**same)
    assert len(run_id(**WORK)) == 20


@pytest.mark.parametrize(
    "other",
    [
        {"pipeline": "q"},
        {"parameters": {"a": "1", "b": "3"}},
        {"parameters": {"a": "1"}},
        {"spec_digest": "t"},
        {"model_digest": "n"},
        {"inputs": ()},
        {"inputs": (FILE, FILE)},
        {"inputs": (replace(FILE, path="b"),)},
        {"inputs": (replace(FILE, size_bytes=1001),)},
        {"inputs": (replace(FILE, modified_ns=6),)},
        {"inputs": (replace(FILE, rows=11),)},
    ],
    ids=str,
)
def test_other_work_has_another_id(other: dict[str, Any]) -> None:
    assert run_id(**WORK) != run_id(**{**WORK, **other})


@pytest.mark.parametrize(
    ("partition", "path"),
    [
        ((), ""),
        ((("ds", "2013-01-08"),), "ds=2013-01-08"),
        ((("ds", "1"), ("to", "Köln/Bonn")), "ds=1/to=K%C3%B6ln%2FBonn"),
        ((("a", "x=y:z%"), ("b", "")), "a=x%3Dy%3Az%25/b="),
    ],
)
def test_partition_values_are_escaped_in_paths(partition: Any, path: str) -> None:
    assert partition_path(partition) == path


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
counts = st.integers(0, 2**62)
parts = st.builds(
    StagedPart,
    texts,
    counts,
    counts,
    texts,
    st.dictionaries(texts, st.none() | texts | st.integers() | st.booleans()),
    st.dictionaries(texts, st.floats(allow_nan=False)),
)
reports = st.builds(
    UnitReport,
    unit=counts,
    unit_digest=texts,
    partition=st.lists(st.tuples(texts, texts), max_size=3).map(tuple),
    rows=st.builds(RowCounts, counts, counts, counts, counts),
    results=st.none() | parts,
    quarantine=st.none() | parts,
    reasons=st.dictionaries(texts, counts, max_size=3),
    nonfinite=st.dictionaries(texts, counts, max_size=3),
    model_loads=counts,
    reused=st.booleans(),
)


@given(reports)
def test_a_receipt_reads_back_as_it_was_written(report: UnitReport) -> None:
    assert UnitReport.from_json(report.to_json()) == report
    assert UnitReport.from_json(report.to_json().encode()) == report


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[]", "{}", "3", '{"partition": [], "rows": {}}', b"\xff\xfe"]
)
def test_what_is_no_receipt_is_told_apart(text: str | bytes) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        UnitReport.from_json(text)


def test_a_units_digest_changes_with_all_that_it_reads() -> None:
    unit = WorkUnit(3, (("ds", "1"),), (Slice(FILE, 0, 2, 0, 10),))
    others = [
        replace(unit, index=4),
        replace(unit, partition=(("ds", "2"),)),
        replace(unit, slices=(Slice(FILE, 1, 2, 0, 10),)),
        replace(unit, slices=(Slice(FILE, 0, 2, 0, 9),)),
        replace(unit, slices=(Slice(replace(FILE, modified_ns=6), 0, 2, 0, 10),)),
    ]
    assert len({unit.digest(), *(other.digest() for other in others)}) == len(others) + 1
    assert unit.digest() == replace(unit).digest()


def test_counts_add_up() -> None:
    report = UnitReport(0, "", (), RowCounts(3, 1, 1, 1), None, None, {}, {})
    assert total_rows([report, report]) == RowCounts(6, 2, 2, 2)
    assert total_rows([]) == RowCounts()
    assert list(merge_counts([{"a": 1, "b": 2}, {"b": 1}]).items()) == [("b", 3), ("a", 1)]


@pytest.mark.parametrize(
    ("kind", "kept"),
    [
        (pa.int8(), pa.int8()),
        (pa.uint8(), pa.int16()),
        (pa.uint16(), pa.int32()),
        (pa.uint32(), pa.int64()),
        (pa.float16(), pa.float32()),
        (pa.float64(), pa.float64()),
        (pa.bool_(), pa.bool_()),
        (pa.date64(), pa.date32()),
        (pa.large_string(), pa.string()),
        (pa.string_view(), pa.string()),
        (pa.large_binary(), pa.binary()),
        (pa.decimal128(10, 2), pa.decimal128(10, 2)),
        (pa.timestamp("s"), pa.timestamp("us")),
        (pa.timestamp("ns", "UTC"), pa.timestamp("us", "UTC")),
        (pa.dictionary(pa.int8(), pa.large_string()), pa.string()),
        (pa.list_(pa.uint8(), 3), pa.list_(pa.int16())),
        (pa.large_list(pa.list_(pa.float16())), pa.list_(pa.list_(pa.float32()))),
    ],
    ids=str,
)
def test_every_value_has_a_type_that_all_stores_keep(kind: pa.DataType, kept: pa.DataType) -> None:
    assert storable(kind, "it") == kept


@pytest.mark.parametrize(
    "kind",
    [
        pa.uint64(),
        pa.null(),
        pa.time32("s"),
        pa.duration("s"),
        pa.struct([("a", pa.int8())]),
        pa.map_(pa.string(), pa.int8()),
        pa.list_(pa.time32("s")),
        pa.decimal256(60, 2),
        pa.binary(4),
    ],
    ids=str,
)
def test_types_that_a_store_would_lose_are_refused(kind: pa.DataType) -> None:
    with pytest.raises(InputError, match=r"^it has the type .* which results cannot hold"):
        storable(kind, "it")
