"""Finding Parquet files at a path, and reading no more of them than their footers."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from batchinfer.core import InputFile, files
from batchinfer.errors import InputError

_SUFFIXES = (".parquet", ".parq")
_FOOTERS_AT_ONCE = 16
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class RowGroup:
    """What the plan needs of a row group: its rows and its decoded size by top-level column."""

    rows: int
    column_bytes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A Parquet file as its footer and its path describe it. `hive` holds the `name=value` folders above it."""

    input: InputFile
    schema: pa.Schema
    row_groups: tuple[RowGroup, ...]
    hive: dict[str, str]


@dataclass(frozen=True, slots=True)
class Discovered:
    """The Parquet files at a path, sorted by path; at least one."""

    path: str
    files: tuple[SourceFile, ...]


def discover(path: str) -> Discovered:
    """Find the Parquet files at a local path or URL: one file, or all below a folder.

    Names that start with `_` or `.` are skipped, folders too, as every reader of Parquet folders does.

    Raises:
        InputError: no such path, no Parquet file in it, or files that are not whole; names them all.
    """
    filesystem, inner = files.locate(path)
    prefix = path[: len(path) - len(inner)] if path.endswith(inner) else ""
    info = filesystem.get_file_info(inner)
    if info.type is fs.FileType.NotFound:
        raise _no_such_path(path)
    found = [info] if info.is_file else _below(filesystem, inner)
    parquet = [i for i in found if info.is_file or i.path.endswith(_SUFFIXES)]
    if not parquet:
        others = ", ".join(sorted(i.base_name for i in found)[:_SHOWN]) or "nothing"
        raise InputError(
            f"{path}: no Parquet file in this folder (it holds {others})",
            next_step="check the run's parameters, and that the files are named *.parquet",
            path=path,
        )
    return Discovered(path, _read_footers(filesystem, parquet, prefix))


def _below(filesystem: fs.FileSystem, folder: str) -> list[fs.FileInfo]:
    found = filesystem.get_file_info(fs.FileSelector(folder, recursive=True))
    depth = len(Path(folder).parts)

    def hidden(info: fs.FileInfo) -> bool:
        return any(part.startswith(("_", ".")) for part in Path(info.path).parts[depth:])

    return sorted((i for i in found if i.is_file and not hidden(i)), key=lambda i: i.path)


def _no_such_path(path: str) -> InputError:
    parent = Path(path).parent
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    if "://" in path:
        near = ""
    else:
        names = sorted(p.name for p in parent.iterdir() if not p.name.startswith("."))
        near = f"; {parent} holds {', '.join(names[-_SHOWN:]) or 'nothing'}"
    return InputError(
        f"{path}: no such file or folder{near}",
        next_step="check input.path and the run's parameters",
        path=path,
    )


def _read_footers(
    filesystem: fs.FileSystem, infos: Iterable[fs.FileInfo], prefix: str
) -> tuple[SourceFile, ...]:
    schemas: dict[str, pa.Schema] = {}

    def read(info: fs.FileInfo) -> SourceFile | InputError:
        try:
            return _read_footer(filesystem, info, prefix, schemas)
        except (OSError, pa.ArrowException) as e:
            return InputError(f"{prefix}{info.path}: {_why(info, e)}", path=prefix + info.path)

    with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
        footers = list(pool.map(read, infos))
    bad = [footer for footer in footers if isinstance(footer, InputError)]
    if bad:
        shown = "\n".join(error.message for error in bad[:_SHOWN])
        more = f"\n… and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        raise InputError(
            f"{len(bad)} of {len(footers)} input files cannot be read:\n{shown}{more}",
            next_step="write these files again, or take them out of the input",
            paths=[error.fields["path"] for error in bad],
        )
    return tuple(footer for footer in footers if isinstance(footer, SourceFile))


def _read_footer(
    filesystem: fs.FileSystem, info: fs.FileInfo, prefix: str, schemas: dict[str, pa.Schema]
) -> SourceFile:
    with pq.ParquetFile(info.path, filesystem=filesystem, pre_buffer=False) as file:
        metadata = file.metadata
        schema = file.schema_arrow.remove_metadata()
        columns = _top_level_columns(file.schema, schema)
    path = prefix + info.path
    return SourceFile(
        InputFile(path, info.size, info.mtime_ns or 0, metadata.num_rows),
        schemas.setdefault(schema.to_string(), schema),  # one object for all files alike
        tuple(
            _row_group(metadata.row_group(i), columns, len(schema)) for i in range(metadata.num_row_groups)
        ),
        hive_keys(path),
    )


def _top_level_columns(parquet: pq.ParquetSchema, schema: pa.Schema) -> list[int]:
    """For each Parquet leaf the index of the Arrow column that it belongs to."""
    positions = {name: i for i, name in enumerate(schema.names)}
    leaves = [parquet.column(i).path for i in range(len(parquet.names))]
    return [positions.get(leaf, positions.get(leaf.split(".")[0], 0)) for leaf in leaves]


def _row_group(metadata: pq.RowGroupMetaData, columns: list[int], width: int) -> RowGroup:
    sizes = [0] * width
    for leaf, column in enumerate(columns):
        sizes[column] += metadata.column(leaf).total_uncompressed_size
    return RowGroup(metadata.num_rows, tuple(sizes))


def _why(info: fs.FileInfo, error: Exception) -> str:
    if info.size == 0:
        return "the file is empty (0 bytes)"
    if isinstance(error, PermissionError) or "Permission denied" in str(error):
        return "no permission to read it"
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"not a whole Parquet file ({info.size:,} bytes): {reason}"


def hive_keys(path: str) -> dict[str, str]:
    """The `name=value` folders of a path, unescaped."""
    pairs = (folder.partition("=") for folder in path.split("/")[:-1] if "=" in folder)
    return {unquote(name): unquote(value) for name, _, value in pairs if name}


def changed(file: InputFile) -> str | None:
    """How a file differs from what the plan saw, or None."""
    filesystem, inner = files.locate(file.path)
    info = filesystem.get_file_info(inner)
    if info.type is fs.FileType.NotFound:
        return "was removed"
    if info.size != file.size_bytes:
        verb = "was cut" if info.size < file.size_bytes else "has grown"
        return f"{verb} from {file.size_bytes:,} to {info.size:,} bytes"
    if (info.mtime_ns or 0) != file.modified_ns:
        return "was replaced"
    return None
