"""What a Parquet file's footer says, kept as small values: a plan may hold a hundred thousand of them."""

from __future__ import annotations

import errno
import os
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from batchinfer.core import InputFile, views
from batchinfer.errors import InputError

SHOWN = 5
"""Of what is wrong with many files, so many are told."""
DECODING_ERRORS = (OSError, pa.ArrowException, UnicodeDecodeError)
"""What Arrow raises on bytes that are no Parquet, or no longer."""
_FOOTERS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class RowGroup:
    """What the plan needs of a row group: its rows, and its uncompressed bytes by top-level column."""

    rows: int
    column_bytes: array[int]


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A Parquet file as its footer and its path describe it.

    `schema` holds names and types alone, and is one object for all files alike; `hive` holds the
    `name=value` folders above the file.
    """

    input: InputFile
    schema: pa.Schema
    row_groups: tuple[RowGroup, ...]
    hive: dict[str, str]


def read_footers(
    filesystem: fs.FileSystem, found: Sequence[tuple[str, fs.FileInfo]]
) -> tuple[SourceFile, ...]:
    """Read the footers of files, given by name and location, many at a time and nothing but the footers.

    Raises:
        InputError: files are not whole, or may not be read; names them all.
    """
    layouts: _Layouts = {}

    def read(named: tuple[str, fs.FileInfo]) -> SourceFile | InputError:
        path, info = named
        try:
            return _read_footer(filesystem, path, info, layouts)
        except DECODING_ERRORS as e:
            return InputError(f"{path}: {_why(info, e)}", path=path)

    pool = ThreadPoolExecutor(_FOOTERS_AT_ONCE, thread_name_prefix="footer")
    try:
        footers = list(pool.map(read, found))
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt does not wait for the rest
    bad = [footer for footer in footers if isinstance(footer, InputError)]
    if bad:
        raise unreadable(bad, len(footers))
    return tuple(footer for footer in footers if isinstance(footer, SourceFile))


def unreadable(bad: Sequence[InputError], files: int) -> InputError:
    """One error of many: how many of the `files` input files are bad, and why the first ones are."""
    return InputError(
        f"{len(bad)} of {files} input files cannot be read:\n{first_of([e.message for e in bad])}",
        next_step="write these files again, or take them out of the input",
        paths=[error.fields["path"] for error in bad],
    )


def first_of(lines: Sequence[str]) -> str:
    """The first lines, and how many more there are."""
    more = f"\n… and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return "\n".join(lines[:SHOWN]) + more


_Layouts = dict[str, tuple[pa.Schema, list[int]]]
"""For each sort of file, by its schema in words: names and types, and the column of each Parquet leaf."""


def _read_footer(filesystem: fs.FileSystem, path: str, info: fs.FileInfo, layouts: _Layouts) -> SourceFile:
    with filesystem.open_input_file(info.path) as opened, pq.ParquetFile(opened, pre_buffer=False) as file:
        metadata = file.metadata
        arrow = pa.schema([pa.field(field.name, views.free_type(field.type)) for field in file.schema_arrow])
        words = arrow.to_string()
        schema, columns = layouts.get(words, (arrow, []))
        if len(columns) != metadata.num_columns:
            columns = column_of_leaves(file.schema, arrow)
            schema, columns = layouts.setdefault(words, (arrow, columns))
    groups = tuple(
        _row_group(metadata.row_group(i), columns, len(arrow)) for i in range(metadata.num_row_groups)
    )
    rows = sum(group.rows for group in groups)
    if rows != metadata.num_rows or any(group.rows < 0 for group in groups):
        raise pa.ArrowInvalid(f"its footer says {metadata.num_rows} rows, its row groups {rows}")
    return SourceFile(
        InputFile(path, info.size, info.mtime_ns or 0, rows), schema, groups, hive_keys(info.path)
    )


def column_of_leaves(parquet: pq.ParquetSchema, arrow: pa.Schema) -> list[int]:
    """For each Parquet leaf of a file the index of the Arrow column that it belongs to."""
    positions = {name: i for i, name in enumerate(arrow.names)}
    leaves = [parquet.column(i).path for i in range(len(parquet))]
    return [positions.get(leaf, positions.get(leaf.split(".")[0], 0)) for leaf in leaves]


def _row_group(metadata: pq.RowGroupMetaData, columns: Sequence[int], width: int) -> RowGroup:
    sizes = array("Q", bytes(8 * width))
    for leaf, column in enumerate(columns):
        sizes[column] += max(metadata.column(leaf).total_uncompressed_size, 0)
    return RowGroup(metadata.num_rows, sizes)


def _why(info: fs.FileInfo, error: Exception) -> str:
    if info.size == 0:
        return "the file is empty (0 bytes)"
    number = getattr(error, "errno", None)
    if number == errno.ENOENT:
        return "the file was removed while the run was planned"
    if number in {errno.EACCES, errno.EPERM}:
        return "no permission to read it"
    if number:
        return f"cannot be read: {os.strerror(number)}"
    return f"not a whole Parquet file ({info.size:,} bytes): {reason_of(error)}"


def reason_of(error: Exception) -> str:
    """The first line of what an error says, or its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def hive_keys(inner: str) -> dict[str, str]:
    """The `name=value` folders of a path within its filesystem, unescaped."""
    pairs = (folder.partition("=") for folder in inner.split("/")[:-1] if "=" in folder)
    return {unquote(name): unquote(value) for name, _, value in pairs if name}
