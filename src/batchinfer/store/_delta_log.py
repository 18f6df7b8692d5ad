"""Which files a Delta log has ever named. Read from the log itself: a sweep must not guess."""

from __future__ import annotations

import json
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from batchinfer.core import files
from batchinfer.errors import StoreError


def referenced_paths(table: str) -> set[str]:
    """The path within the table of every file that an add or remove action of the log names.

    Removed files count: time travel reads them, and deleting them is VACUUM's affair. JSON commits, compacted
    commits, checkpoints and their sidecars are read, so a file is missing only if no version that can still
    be opened has it.

    Raises:
        StoreError: a file of the log cannot be read; nothing can be said then.
    """
    paths: set[str] = set()
    for info in files.list_files(files.join(table, "_delta_log"), recursive=True):
        try:
            if info.path.endswith(".json"):
                paths |= _in_commit(info.path, table)
            elif info.path.endswith(".parquet"):
                paths |= _in_checkpoint(info.path, table)
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as e:
            raise StoreError(
                f"{info.path}: cannot read this file of the table's log: {e}",
                next_step="run the sweep again; if it stays, check the table with another Delta reader",
                path=info.path,
            ) from e
    return paths


def _in_commit(path: str, table: str) -> set[str]:
    filesystem, _ = files.locate(table)
    with filesystem.open_input_stream(path) as stream:
        actions = [json.loads(line) for line in stream.read().splitlines() if line.strip()]
    named = [action[kind]["path"] for action in actions for kind in ("add", "remove") if action.get(kind)]
    return {unquote(name) for name in named}


def _in_checkpoint(path: str, table: str) -> set[str]:
    filesystem, _ = files.locate(table)
    with filesystem.open_input_file(path) as source:
        parquet = pq.ParquetFile(source)
        kinds = [kind for kind in ("add", "remove") if kind in parquet.schema_arrow.names]
        rows = parquet.read(columns=[f"{kind}.path" for kind in kinds])
    found = set()
    for kind in kinds:
        for chunk in rows[kind].chunks:
            found |= {unquote(name) for name in chunk.field("path").drop_null().to_pylist()}
    return found
