"""Reading a unit: positions, order, bounds, and files that are no longer those that were planned."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchinfer.core import WorkUnit
from batchinfer.errors import InputChanged, InputError
from batchinfer.source import _read, discover, plan_units, read_unit, schema_of, unit_of_row


def table(first: int, rows: int) -> pa.Table:
    ids = np.arange(first, first + rows)
    return pa.table({"id": ids, "x": np.sin(ids), "note": [f"row {i}" for i in ids]})


def write(path: Path, content: pa.Table, row_group_size: int = 100, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(content, path, row_group_size=row_group_size, **options)
    return path


def planned(where: Path | str, columns: Sequence[str] | None = None) -> WorkUnit:
    found = discover(str(where))
    (unit,) = plan_units(found.files, dict.fromkeys((f.input.path for f in found.files), ()), columns)
    return unit


def test_positions_are_rows_of_their_file_over_row_groups_and_files(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", table(0, 250))
    write(tmp_path / "b.parquet", table(1000, 130), row_group_size=60)
    first = {str(tmp_path / "a.parquet"): 0, str(tmp_path / "b.parquet"): 1000}
    rows = dict.fromkeys(first, 0)
    for batch, path, position in read_unit(planned(tmp_path), ["id"]):
        assert position == rows[path]
        expected = np.arange(position, position + batch.num_rows) + first[path]
        assert batch.column("id").to_numpy().tolist() == expected.tolist()
        rows[path] += batch.num_rows
    assert list(rows.values()) == [250, 130]


def test_a_unit_in_the_middle_of_a_file_starts_at_its_own_position(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", table(0, 250))
    for row in (0, 99, 100, 249):
        unit = unit_of_row(str(path), row)
        found = [
            batch.column("id")[row - position].as_py()
            for batch, _, position in read_unit(unit, None)
            if position <= row < position + batch.num_rows
        ]
        assert found == [row]
    with pytest.raises(InputError, match="has 250 rows, so no row 250"):
        unit_of_row(str(path), 250)


@pytest.mark.parametrize("columns", [["note", "id"], ["id"], ["x", "note", "id"]])
def test_columns_come_in_the_order_that_was_asked_for(tmp_path: Path, columns: list[str]) -> None:
    content = table(0, 30)
    path = write(tmp_path / "a.parquet", content)
    batches = [batch for batch, _, _ in read_unit(planned(path), columns)]
    assert pa.Table.from_batches(batches).equals(content.select(columns))


def test_all_columns_are_those_of_the_file_then_those_of_its_folders(tmp_path: Path) -> None:
    write(tmp_path / "ds=d%201" / "id=9" / "a.parquet", table(0, 3))
    ((batch, _, _),) = read_unit(planned(tmp_path), None)
    assert [n for n in batch.schema.names if n in ("id", "x", "note", "ds")] == ["id", "x", "note", "ds"]
    assert batch.column("ds").to_pylist() == ["d 1"] * 3
    assert batch.column("id").to_pylist() == [0, 1, 2]  # the file's own column wins


def test_folder_columns_alone_make_rows_and_hives_null_is_null(tmp_path: Path) -> None:
    write(tmp_path / "a=x" / "b=__HIVE_DEFAULT_PARTITION__" / "a.parquet", table(0, 250))
    batches = [batch for batch, _, _ in read_unit(planned(tmp_path), ["b", "a"])]
    assert pa.Table.from_batches(batches).to_pydict() == {"b": [None] * 250, "a": ["x"] * 250}


def test_a_column_that_is_nowhere_is_an_input_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", table(0, 3))
    with pytest.raises(InputError, match=r"a\.parquet: no column 'nope'"):
        list(read_unit(planned(path), ["nope"]))


def test_batches_are_bounded_in_rows(tmp_path: Path) -> None:
    rows = 2 * _read.BATCH_ROWS + 5
    path = write(tmp_path / "a.parquet", pa.table({"id": np.arange(rows)}), row_group_size=rows)
    sizes = [batch.num_rows for batch, _, _ in read_unit(planned(path), ["id"])]
    assert sum(sizes) == rows
    assert max(sizes) <= _read.BATCH_ROWS


@pytest.mark.parametrize("kind", ["numbers", "text", "repeating text"])
def test_wide_rows_come_in_batches_of_bounded_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(_read, "BATCH_BYTES", 1 << 20)
    rows, width = 4000, 2048
    values: pa.Array = {
        "numbers": lambda: pa.FixedSizeListArray.from_arrays(np.random.rand(rows * width // 8), width // 8),
        "text": lambda: pa.array([os.urandom(width // 2).hex() for _ in range(rows)]),
        "repeating text": lambda: pa.array(["x" * width, "y" * width] * (rows // 2)),
    }[kind]()
    path = write(tmp_path / "a.parquet", pa.table({"wide": values}), row_group_size=rows)
    batches = [batch for batch, _, _ in read_unit(planned(path), ["wide"])]
    assert sum(batch.num_rows for batch in batches) == rows
    assert max(batch.num_rows for batch in batches) <= 2 * (1 << 20) // width


def test_dictionaries_are_handed_out_where_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", pa.table({"c": ["a", "b", "a"]}))
    ((batch, _, _),) = read_unit(planned(path), ["c"], dictionaries=["c"])
    assert pa.types.is_dictionary(batch.schema.field("c").type)
    assert batch.column("c").to_pylist() == ["a", "b", "a"]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.string_view(), ["a", None, "ü longer than twelve bytes"]),
        (pa.binary_view(), [b"a", None, b"longer than twelve bytes"]),
        (pa.list_(pa.string_view()), [["a"], None, []]),
        (pa.list_(pa.string_view(), 1), [["a"], ["b"], ["c"]]),
        (pa.struct([("x", pa.large_list(pa.string_view()))]), [{"x": ["a"]}, None, {"x": None}]),
        (pa.map_(pa.string_view(), pa.int8()), [[("a", 1)], None, []]),
    ],
)
def test_views_are_handed_out_as_what_rows_can_be_taken_from(
    tmp_path: Path, kind: pa.DataType, values: list[object]
) -> None:
    write(tmp_path / "a.parquet", pa.table({"x": pa.array(values, kind)}))
    ((batch, _, _),) = read_unit(planned(tmp_path), None)
    assert schema_of(discover(str(tmp_path))) == batch.schema
    assert batch.take(pa.array([2, 0, 1]))["x"].to_pylist() == [values[2], values[0], values[1]]


def test_zero_row_groups_are_stepped_over(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with pq.ParquetWriter(path, table(0, 1).schema) as writer:
        for first, rows in ((0, 0), (0, 4), (4, 0), (4, 3)):
            writer.write_table(table(first, rows).cast(writer.schema))
    got = [(position, batch.num_rows) for batch, _, position in read_unit(planned(path), ["id"])]
    assert got == [(0, 4), (4, 3)]


def remove(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    stat = path.stat()
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


CHANGES = pytest.mark.parametrize(
    ("change", "said"), [(remove, "removed"), (replace, "replaced"), (cut, "cut"), (grow, "grown")]
)


@CHANGES
def test_a_file_changed_before_it_is_read_is_transient_and_named(
    tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    path = write(tmp_path / "a.parquet", table(0, 250))
    unit = planned(path)
    change(path)
    with pytest.raises(
        InputChanged, match=rf"a\.parquet: the file .*{said}.* after the run was planned"
    ) as e:
        list(read_unit(unit, None))
    assert e.value.exit_code == 75
    assert e.value.fields["path"] == str(path)


@CHANGES
def test_a_file_changed_while_it_is_read_is_noticed_at_the_end(
    tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    path = write(tmp_path / "a.parquet", table(0, 250))
    batches = read_unit(planned(path), None)
    next(batches)
    change(path)
    with pytest.raises(InputChanged, match=said):
        list(batches)


def test_a_replacement_that_the_clock_hides_is_told_by_its_row_groups(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", pa.table({"id": np.arange(200)}))
    unit, stat = planned(path), path.stat()
    write(path, pa.table({"id": np.arange(200)}), row_group_size=50)
    with path.open("ab") as file:  # as large as before, whatever the row groups cost
        file.truncate(stat.st_size) if path.stat().st_size > stat.st_size else None
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises((InputChanged, InputError)):
        list(read_unit(unit, None))


def test_flipped_bytes_in_a_page_name_the_file_and_the_row_group(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", table(0, 300), write_page_checksum=True, use_dictionary=False)
    unit = planned(path)
    chunk = pq.ParquetFile(path).metadata.row_group(1).column(1)
    stat, content = path.stat(), bytearray(path.read_bytes())
    middle = chunk.data_page_offset + chunk.total_compressed_size // 2
    content[middle : middle + 8] = bytes(b ^ 0xFF for b in content[middle : middle + 8])
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(InputError, match=r"a\.parquet: row group 1 cannot be decoded") as caught:
        list(read_unit(unit, None))
    assert caught.value.fields["row_group"] == 1
    assert caught.value.fields["path"] == str(path)


def test_a_file_url_is_read_as_its_path(tmp_path: Path) -> None:
    write(tmp_path / "ds=1" / "a b.parquet", table(0, 3))
    ((batch, path, position),) = read_unit(planned(f"file://{tmp_path}"), ["ds", "id"])
    assert (batch.column("ds").to_pylist(), position) == (["1"] * 3, 0)
    assert path == f"file://{tmp_path}/ds=1/a%20b.parquet"
