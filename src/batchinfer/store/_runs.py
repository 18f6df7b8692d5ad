"""The folder that a store keeps for each run: its marker, which holds the schema, and its receipts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from batchinfer.core import Partition, StagedPart, files
from batchinfer.errors import StoreError

_SCHEMA = "schema.arrow"
_URL_PARTS = re.compile(r"[#?]|%[0-9A-Fa-f]{2}")


def absolute(path: str) -> str:
    """A local path made absolute, for workers with another working directory; a URL as it is."""
    return path if "://" in path else str(Path(path).absolute())


def parquet_state(path: str) -> str:
    """Where the Parquet store keeps what it knows of the table at `path`: a hidden sibling."""
    folder, _, name = path.rstrip("/").rpartition("/")
    return f"{folder}/.{name}.batchinfer"


def refuse_url_parts(path: str) -> None:
    """delta-rs takes a local path for a URL where such characters stand in it: it writes to one place, reads another.

    Raises:
        StoreError: the path has such a character.
    """
    if "://" not in path and (found := _URL_PARTS.search(path)):
        raise StoreError(
            f"{path}: Delta Lake's library reads '{found[0]}' in a path as a part of a URL",
            next_step="write to an output.path without it, or set output.store to parquet",
            table=path,
        )


def refuse_parquet(path: str) -> None:
    """Where no Delta table is yet, none may begin in or in place of a table of the Parquet store.

    Raises:
        StoreError: the Parquet store has a table at `path`, or its state of one that was deleted.
    """
    state = parquet_state(path)
    if files.exists(state):
        raise StoreError(
            f"{path}: a table of the Parquet store, whose rows a Delta table would not show; {state} holds its state",
            next_step="set output.store to parquet, write to another output.path, or delete that table together "
            "with its state",
            table=path,
            state=state,
        )


def begin(state: str, run_id: str, schema: pa.Schema) -> None:
    """Mark that the run is under way. Its age protects what the run staged earlier from a sweep.

    Raises:
        StoreError: the store cannot be written.
    """
    files.write_bytes(files.join(_folder(state, run_id), _SCHEMA), schema.serialize())


def schema_of(state: str, run_id: str) -> pa.Schema:
    """The schema that the run began with.

    Raises:
        StoreError: the run did not begin.
    """
    path = files.join(_folder(state, run_id), _SCHEMA)
    try:
        return pa.ipc.read_schema(pa.py_buffer(files.read_bytes(path)))
    except (OSError, pa.ArrowInvalid) as e:
        raise StoreError(
            f"{path}: run {run_id} did not begin here, or was swept since",
            next_step="run again from the start",
            path=path,
            run_id=run_id,
        ) from e


def receipts(state: str, run_id: str) -> str:
    """Where the run's receipts lie."""
    return files.join(_folder(state, run_id), "receipts")


def all_runs(state: str) -> Iterator[tuple[str, str, list[float]]]:
    """Each run's id, folder, and when its files were last changed (seconds since the epoch)."""
    root = files.join(state, "runs")
    filesystem, inner = files.locate(root)
    for info in filesystem.get_file_info(fs.FileSelector(inner, allow_not_found=True)):
        if info.type is fs.FileType.Directory:
            folder = files.join(root, info.base_name)
            changed = [f.mtime.timestamp() for f in files.list_files(folder, recursive=True)]
            yield info.base_name, folder, changed


def check_present(root: str, parts: Sequence[tuple[Partition, StagedPart]]) -> None:
    """Hold the staged files against what their writers said of them, before a commit names them.

    Raises:
        StoreError: one is gone or of another size.
    """
    filesystem, inner = files.locate(root)
    paths = [files.join(inner, part.path) for _, part in parts]
    for (_, part), info in zip(parts, filesystem.get_file_info(paths) if paths else [], strict=True):
        if not info.is_file or info.size != part.size_bytes:
            found = f"{info.size} bytes" if info.is_file else "nothing"
            raise StoreError(
                f"{files.join(root, part.path)}: a staged part of {part.size_bytes} bytes, found {found}",
                next_step="run again: the unit is scored anew",
                path=part.path,
                expected=part.size_bytes,
            )


def _folder(state: str, run_id: str) -> str:
    return files.join(state, "runs", run_id)
