"""Reading a unit: batches of bounded size, from files that are still those that were planned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from batchinfer.core import InputFile, Slice, WorkUnit, files
from batchinfer.errors import InputChanged, InputError
from batchinfer.source._files import changed, discover, hive_keys

BATCH_ROWS = 131_072
BATCH_BYTES = 16 * 1024 * 1024
"""A batch holds at most so many decoded bytes, so that wide rows come in small batches."""


def read_unit(unit: WorkUnit, columns: Sequence[str] | None) -> Iterator[tuple[pa.RecordBatch, str, int]]:
    """Stream a unit: batches, each with its file's path and the position in the file of its first row.

    Files are read through ordinary reads, never mapped: a file cut under a map would kill the process.

    Args:
        unit: what to read.
        columns: the columns to read, in this order; None for all. A column that a file lacks and that one of
            its folders names (`ds=…`) is that folder's value as text.

    Raises:
        InputChanged: a file is not the one that was planned, before or after reading.
        InputError: a page cannot be decoded; names the file and row group.
    """
    for piece in unit.slices:
        _check_unchanged(piece.file)
        yield from _read_slice(piece, columns)
        _check_unchanged(piece.file)


def unit_of_row(path: str, position: int) -> WorkUnit:
    """The unit of the one row group that holds a row of a file; its batches are to be searched.

    Raises:
        InputError: no such file, or it has no such row.
    """
    file = discover(path).files[0]
    first = 0
    for index, group in enumerate(file.row_groups):
        if first <= position < first + group.rows:
            return WorkUnit(0, (), (Slice(file.input, index, 1, first, group.rows),))
        first += group.rows
    raise InputError(f"{path}: has {first} rows, so no row {position}", path=path, row=position)


def _check_unchanged(file: InputFile) -> None:
    if (how := changed(file)) is not None:
        raise InputChanged(
            f"{file.path}: the file {how} after the run was planned",
            next_step="run again when the input is complete: the run is then planned anew",
            path=file.path,
        )


def _read_slice(piece: Slice, columns: Sequence[str] | None) -> Iterator[tuple[pa.RecordBatch, str, int]]:
    path = piece.file.path
    filesystem, inner = files.locate(path)
    position = piece.first_row
    group = piece.first_row_group
    try:
        with pq.ParquetFile(inner, filesystem=filesystem, pre_buffer=not files.is_local(filesystem)) as file:
            wanted = file.schema_arrow.names if columns is None else list(columns)
            stored = [name for name in wanted if name in file.schema_arrow.names]
            if columns is None:
                wanted += [name for name in hive_keys(path) if name not in wanted]
            for group in range(piece.first_row_group, piece.first_row_group + piece.row_groups):
                for batch in _row_group_batches(file, group, stored):
                    yield _with_folders(batch, wanted, path), path, position
                    position += batch.num_rows
    except (OSError, pa.ArrowException) as e:
        _check_unchanged(piece.file)
        raise InputError(
            f"{path}: row group {group} cannot be decoded: {str(e).strip().splitlines()[0]}",
            next_step="write this file again, or take it out of the input",
            path=path,
            row_group=group,
        ) from e
    if position != piece.first_row + piece.rows:
        raise InputError(
            f"{path}: row groups {piece.first_row_group} to {group} hold {position - piece.first_row} rows, "
            f"the footer says {piece.rows}",
            path=path,
        )


def _row_group_batches(file: pq.ParquetFile, group: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
    metadata = file.metadata.row_group(group)
    rows = metadata.num_rows
    if not rows:
        return
    leaves = [metadata.column(i) for i in range(metadata.num_columns)]
    size = sum(c.total_uncompressed_size for c in leaves if c.path_in_schema.split(".")[0] in columns)
    batch_rows = max(1, min(BATCH_ROWS, BATCH_BYTES * rows // max(size, 1)))
    if not columns:
        yield pa.RecordBatch.from_struct_array(pa.nulls(rows, pa.struct([])))
        return
    yield from file.iter_batches(batch_rows, row_groups=[group], columns=columns, use_threads=False)


def _with_folders(batch: pa.RecordBatch, wanted: list[str], path: str) -> pa.RecordBatch:
    """The wanted columns in order; those that the file lacks are its folders' values."""
    if batch.schema.names == wanted:
        return batch
    folders = hive_keys(path)
    arrays = [
        batch.column(name)
        if batch.schema.get_field_index(name) >= 0
        else pa.repeat(folders[name], batch.num_rows)
        for name in wanted
    ]
    return pa.RecordBatch.from_arrays(arrays, names=wanted)
