"""Which types meet over many files, and how much is said of those that do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchinfer.errors import InputError
from batchinfer.source import Discovered, check_columns, discover, kept_fields


def inputs(folder: Path, *tables: pa.Table | dict[str, Any]) -> Discovered:
    for i, table in enumerate(tables):
        pq.write_table(pa.table(table), folder / f"{i}.parquet")
    return discover(str(folder))


def types_of(column: str, *kinds: pa.DataType) -> list[pa.Table]:
    return [pa.table({column: pa.nulls(2, kind)}) for kind in kinds]


def accept_all(types: dict[str, pa.DataType]) -> None:
    pass


def test_where_no_name_is_near_the_columns_there_are_listed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there are a, b"):
        check_columns(inputs(tmp_path, {"a": [1], "b": [1]}), ["distance"], accept_all)


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    found = inputs(tmp_path, *({f"c{i}": [1]} for i in range(7)))
    with pytest.raises(InputError) as refused:
        check_columns(found, ["id"], accept_all)
    assert "0.parquet" in refused.value.message
    assert "… and 2 more" in refused.value.message


def test_a_needed_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2]), pa.array([3])], names=["a", "a", "b"])
    found = inputs(tmp_path, twice)
    check_columns(found, ["b"], accept_all)
    with pytest.raises(InputError, match="column 'a' stands twice"):
        check_columns(found, ["a"], accept_all)


@pytest.mark.parametrize(
    ("kinds", "kept"),
    [
        ((pa.int32(), pa.int64()), pa.int64()),
        ((pa.int64(), pa.int8(), pa.int32()), pa.int64()),
        ((pa.float32(), pa.float64()), pa.float64()),
        ((pa.string(), pa.large_string()), pa.string()),
        ((pa.dictionary(pa.int8(), pa.string()), pa.string()), pa.string()),
        ((pa.timestamp("ms"), pa.timestamp("us")), pa.timestamp("us")),
        ((pa.null(), pa.int64()), pa.int64()),
        ((pa.string(), pa.null()), pa.string()),
        ((pa.uint8(), pa.uint8()), pa.int16()),
    ],
    ids=str,
)
def test_kept_columns_have_one_type_that_holds_the_values_of_all_files(
    tmp_path: Path, kinds: tuple[pa.DataType, ...], kept: pa.DataType
) -> None:
    key, carry = kept_fields(inputs(tmp_path, *types_of("id", *kinds)), ["id"], [])
    assert key == (pa.field("id", kept, nullable=True),)
    assert carry == ()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.string(), pa.int64()),
        (pa.binary(), pa.string()),
        (pa.bool_(), pa.int8()),
        (pa.timestamp("us"), pa.timestamp("us", "UTC")),
        (pa.list_(pa.field("element", pa.int64())), pa.int64()),
    ],
    ids=str,
)
def test_types_without_a_common_one_name_both_files_the_column_and_both_types(
    tmp_path: Path, one: pa.DataType, other: pa.DataType
) -> None:
    with pytest.raises(InputError) as refused:
        kept_fields(inputs(tmp_path, *types_of("id", one, one, other)), [], ["id"])
    error = refused.value
    assert error.message == (
        f"{tmp_path}/2.parquet: column 'id' is {other}, but in {tmp_path}/0.parquet it is {one}"
    )
    assert (error.fields["expected"], error.fields["found"]) == (str(one), str(other))


def test_a_kept_column_that_results_cannot_hold_is_refused_when_planned(tmp_path: Path) -> None:
    found = inputs(tmp_path, {"id": [1], "point": [{"x": 1}]})
    assert kept_fields(found, ["id"], [])[0]
    with pytest.raises(InputError, match=r"0\.parquet: column 'point' has the type struct"):
        kept_fields(found, ["id"], ["point"])
