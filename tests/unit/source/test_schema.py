"""Columns of all files held against what the pipeline takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchinfer.errors import InputError
from batchinfer.source import Discovered, check_columns, discover, kept_fields


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def write(folder: Path, name: str, **columns: Any) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def found(folder: Path) -> Discovered:
    return discover(str(folder))


def ints(kind: pa.DataType) -> pa.Array:
    return pa.array([1, 2], kind)


def accept_all(types: dict[str, pa.DataType]) -> None:
    pass


def test_a_missing_column_is_answered_with_the_nearest_name_and_the_file(folder: Path) -> None:
    write(folder, "a.parquet", distance=[1], hour=[2])
    write(folder, "b.parquet", hour=[2])
    with pytest.raises(InputError, match=r"a\.parquet: no column 'distanse'; did you mean 'distance'\?") as e:
        check_columns(found(folder), ["hour", "distanse"], accept_all)
    assert "b.parquet: no column 'distanse'; there are hour" in e.value.message


def test_a_type_that_is_wrong_in_one_file_names_that_file_alone(folder: Path) -> None:
    for name in "acd":
        write(folder, f"{name}.parquet", x=[1.0])
    write(folder, "b.parquet", x=["1.0"])

    def numbers(types: dict[str, pa.DataType]) -> None:
        if not pa.types.is_floating(types["x"]):
            raise InputError(f"x is {types['x']}")

    with pytest.raises(InputError, match=r"^\S*b\.parquet: x is string$"):
        try:
            check_columns(found(folder), ["x"], numbers)
        except InputError as e:
            raise InputError(e.message) from e


def test_further_columns_and_another_order_are_fine_and_files_alike_are_checked_once(folder: Path) -> None:
    write(folder, "a.parquet", x=[1.0], y=[2])
    write(folder, "b.parquet", y=[2], more=["m"], x=[1.0])
    write(folder, "c.parquet", x=[5.0], y=[6])
    seen: list[dict[str, pa.DataType]] = []
    check_columns(found(folder), ["x", "y"], seen.append)
    assert [list(types)[-3:] for types in seen] == [["x", "y"], ["y", "more", "x"]]


def test_folder_names_serve_as_columns_of_text(folder: Path) -> None:
    write(folder, "ds=2013-01-08/a.parquet", id=[1])
    key, carry = kept_fields(found(folder), ["id"], ["ds"])
    assert (key, carry) == ((pa.field("id", pa.int64()),), (pa.field("ds", pa.string()),))


def test_a_folder_name_that_one_file_lacks_is_a_missing_column(folder: Path) -> None:
    write(folder, "a.parquet", id=[1])
    write(folder, "region=eu/b.parquet", id=[1])
    with pytest.raises(InputError, match=r"/a\.parquet: no column 'region'"):
        kept_fields(found(folder), ["id"], ["region"])


def test_integers_of_different_width_meet_in_the_wider(folder: Path) -> None:
    write(folder, "a.parquet", id=ints(pa.int32()))
    write(folder, "b.parquet", id=ints(pa.int64()))
    write(folder, "c.parquet", id=ints(pa.int16()))
    assert kept_fields(found(folder), ["id"], []) == ((pa.field("id", pa.int64()),), ())


@pytest.mark.parametrize("first", ["text", "number"])
def test_text_and_numbers_do_not_meet_and_both_files_are_named(folder: Path, first: str) -> None:
    names = ("a.parquet", "b.parquet") if first == "text" else ("b.parquet", "a.parquet")
    write(folder, names[0], id=["1"])
    write(folder, names[1], id=[1])
    with pytest.raises(InputError, match=r"b\.parquet: column 'id' is .*a\.parquet it is") as caught:
        kept_fields(found(folder), ["id"], [])
    assert caught.value.fields["column"] == "id"


def test_text_and_bytes_do_not_meet(folder: Path) -> None:
    write(folder, "a.parquet", id=["1"])
    write(folder, "b.parquet", id=[b"1"])
    with pytest.raises(InputError, match=r"is binary, but in .* it is string"):
        kept_fields(found(folder), ["id"], [])


@pytest.mark.parametrize(
    ("values", "stored"),
    [
        (pa.array(["a", "b"]).dictionary_encode(), pa.string()),
        (pa.array(["a", "b"], pa.large_string()), pa.string()),
        (pa.array([b"a", b"b"], pa.large_binary()), pa.binary()),
        (ints(pa.timestamp("ns")), pa.timestamp("us")),
        (ints(pa.timestamp("ms", "UTC")), pa.timestamp("us", "UTC")),
        (ints(pa.uint32()), pa.int64()),
        (pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2)), pa.list_(pa.float32())),
    ],
)
def test_types_that_no_store_keeps_become_the_nearest_that_all_keep(
    folder: Path, values: pa.Array, stored: pa.DataType
) -> None:
    write(folder, "a.parquet", id=[1, 2], c=values)
    assert kept_fields(found(folder), ["id"], ["c"])[1] == (pa.field("c", stored),)


@pytest.mark.parametrize("kind", [pa.struct([("a", pa.int64())]), pa.time64("us"), pa.uint64()])
def test_types_that_results_cannot_hold_are_refused_with_the_column(folder: Path, kind: pa.DataType) -> None:
    value = {"a": 1} if pa.types.is_struct(kind) else 1
    write(folder, "a.parquet", id=[1], bad=pa.array([value], kind))
    with pytest.raises(InputError, match=r"a\.parquet: column 'bad' has the type") as caught:
        kept_fields(found(folder), ["id"], ["bad"])
    assert caught.value.fields["column"] == "bad"


def test_all_columns_that_cannot_be_kept_are_named_at_once(folder: Path) -> None:
    write(folder, "a.parquet", t=pa.array([1], pa.time64("us")), id=["x"])
    write(folder, "b.parquet", t=pa.array([1], pa.time64("us")), id=[1])
    with pytest.raises(InputError) as caught:
        kept_fields(found(folder), ["id"], ["t"])
    assert caught.value.fields["columns"] == ["id", "t"]
