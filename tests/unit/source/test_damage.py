"""Damaged data is read right or refused by name, never read wrong; batches are plain and bounded."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchinfer.core import Slice, WorkUnit
from batchinfer.errors import InputChanged, InputError
from batchinfer.source import discover, plan_units, read_unit
from batchinfer.source._read import BATCH_BYTES


def unit_of(path: Path) -> WorkUnit:
    found = discover(str(path))
    (unit,) = plan_units(found.files, {file.input.path: () for file in found.files}, None)
    return unit


def read(unit: WorkUnit, columns: list[str] | None = None) -> pa.Table:
    return pa.Table.from_batches([batch for batch, _, _ in read_unit(unit, columns)])


def damage(path: Path, at: int, mask: int = 0xFF) -> None:
    """Flip bits, and leave size and time as they were."""
    stat = path.stat()
    data = bytearray(path.read_bytes())
    data[at] ^= mask
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@settings(deadline=None)
@given(st.integers(0, 1_000_000), st.integers(1, 255))
def test_any_changed_byte_under_a_checksum_is_read_right_or_refused(offset: int, mask: int) -> None:
    values = np.random.default_rng(0).integers(0, 50, 20_000)
    table = pa.table({"v": values, "s": [f"text {v}" for v in values]})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.parquet"
        pq.write_table(table, path, row_group_size=10_000, compression="zstd", write_page_checksum=True)
        unit = unit_of(path)
        data = path.stat().st_size - int.from_bytes(path.read_bytes()[-8:-4], "little") - 8
        damage(path, offset % data, mask)
        with contextlib.suppress(InputError):
            assert read(unit).equals(table)


def test_one_flipped_bit_in_a_page_with_a_checksum_never_becomes_a_value(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    table = pa.table({"v": np.arange(1000)})
    pq.write_table(table, path, compression="none", use_dictionary=False, write_page_checksum=True)
    unit = unit_of(path)
    assert read(unit).equals(table)
    damage(path, path.read_bytes().index(np.arange(500, 502).tobytes()), 1)
    with pytest.raises(InputError, match=r"x\.parquet: row group 0 cannot be decoded"):
        read(unit)


def test_a_footer_that_does_not_fit_the_plan_is_a_change(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"v": range(100)}), path, row_group_size=50)
    file = unit_of(path).slices[0].file
    for piece in (Slice(file, 1, 2, 50, 50), Slice(file, 1, 1, 40, 60), Slice(file, 0, 1, 0, 51)):
        with pytest.raises(InputChanged, match="row groups changed"):
            list(read_unit(WorkUnit(0, (), (piece,)), ["v"]))


def test_names_with_dots_are_names(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1], "a.b": [2], "c": [{"b": 3}]}), tmp_path / "x.parquet")
    unit = unit_of(tmp_path)
    assert read(unit, ["a.b"]).to_pydict() == {"a.b": [2]}
    assert read(unit, ["c", "a"]).to_pydict() == {"c": [{"b": 3}], "a": [1]}


def test_a_column_of_the_file_wins_over_a_folder_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "v=folder").mkdir()
    pq.write_table(pa.table({"v": ["file"]}), tmp_path / "v=folder" / "x.parquet")
    assert read(unit_of(tmp_path), ["v"]).to_pydict() == {"v": ["file"]}


@pytest.mark.parametrize("columns", [["v", "s"], ["s"], None], ids=str)
def test_files_that_differ_in_metadata_alone_give_batches_of_one_schema(
    tmp_path: Path, columns: list[str] | None
) -> None:
    schema = pa.schema([pa.field("v", pa.int64(), nullable=False), ("s", pa.string())], {"pandas": "{}"})
    pq.write_table(pa.table({"v": [1], "s": ["a"]}, schema=schema), tmp_path / "a.parquet")
    pq.write_table(pa.table({"v": [2], "s": ["b"]}), tmp_path / "b.parquet")
    first, second = (batch.schema for batch, _, _ in read_unit(unit_of(tmp_path), columns))
    assert first.equals(second, check_metadata=True)


@pytest.mark.parametrize(
    "wide",
    [
        pa.array([bytes([i % 251]) * 2000 for i in range(20_000)]),
        pa.array(["w" * 2000] * 20_000),
        pa.array([[0.5] * 500] * 20_000),
        pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(500 * 20_000, np.float32)), 500),
    ],
    ids=["bytes", "text", "lists", "lists of one size"],
)
def test_values_that_repeat_are_bounded_by_what_they_are_decoded(tmp_path: Path, wide: pa.Array) -> None:
    """The footer counts what is encoded, and that is next to nothing."""
    pq.write_table(pa.table({"w": wide}), tmp_path / "x.parquet")
    largest = max(batch.nbytes for batch, _, _ in read_unit(unit_of(tmp_path), None))
    assert largest < 1.25 * BATCH_BYTES
