"""What a Delta log says: which commits are ours, and which files it has ever named."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from batchinfer.core import CommitInfo, files
from batchinfer.errors import StoreError

METADATA = "batchinfer"
_HISTORY_STEPS = (20, 400, None)


@dataclass(frozen=True, slots=True)
class Entry:
    """A commit of ours, as the log tells it. `partitions`: partition path → its token and rows."""

    version: int
    info: CommitInfo
    partitions: dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True)
class _Read:
    """The latest `count` commits up to a version, ours and others'; `entries` are ours, newest first."""

    version: int
    count: int
    entries: tuple[Entry, ...]


class Log:
    """Our commits in a table's log. What was read of it once is not read again: a log only grows."""

    def __init__(self) -> None:
        self._read: _Read | None = None

    def entries(self, table: Any) -> Iterator[Entry]:
        """Newest first, from the version that `table` is opened at.

        The log is read in growing steps: the answer is nearly always near.
        """
        read = self._up_to(table)
        told = len(read.entries)
        yield from read.entries
        for limit in _HISTORY_STEPS:
            if read.count > read.version:
                return
            if limit is None or limit > read.count:
                history = commits(table, limit)
                more = (*read.entries, *_ours(history[read.count :]))
                self._read = read = _Read(read.version, len(history), more)
                yield from read.entries[told:]
                told = len(read.entries)

    def _up_to(self, table: Any) -> _Read:
        read, version = self._read, table.version()
        if read is None or read.version > version:  # later ones were read in another thread
            return _Read(version, 0, ())
        newer = commits(table, version - read.version) if version > read.version else []
        self._read = read = _Read(version, read.count + len(newer), (*_ours(newer), *read.entries))
        return read


def _ours(raws: Iterable[dict[str, Any]]) -> Iterator[Entry]:
    return (entry for raw in raws if (entry := entry_of(raw)) is not None)


def commits(table: Any, limit: int | None) -> list[dict[str, Any]]:
    """The latest commits up to the version that `table` is opened at, by whomever, newest first.

    delta-rs 1.6.6 lists also those that came since, and counts the versions of all of them back from the one
    that is opened.
    """
    while True:
        since = _commits_since(table)
        told: list[dict[str, Any]] = table.history(limit)
        if since == _commits_since(table):
            break
    numbered = [{**raw, "version": raw["version"] + since} for raw in told]
    return [raw for raw in numbered if raw["version"] <= table.version()][:limit]


def _commits_since(table: Any) -> int:
    log, count = files.join(_location(table.table_uri), "_delta_log"), 0
    while files.exists(files.join(log, f"{table.version() + count + 1:020}.json")):
        count += 1
    return count


def _location(table_uri: str) -> str:
    """Where delta-rs says that a table is. It quotes some characters of a local path, Arrow reads them otherwise."""
    return unquote(table_uri.removeprefix("file://")) if table_uri.startswith("file:///") else table_uri


def entry_of(raw: dict[str, Any]) -> Entry | None:
    try:
        told = json.loads(raw[METADATA])
        info = CommitInfo(raw["run_id"], told["pipeline"], told["report"])
        return Entry(raw["version"], info, told["partitions"])
    except (KeyError, TypeError, ValueError):
        return None


def history_row(raw: dict[str, Any]) -> dict[str, Any]:
    entry = entry_of(raw)
    return {
        "version": raw["version"],
        "timestamp_ms": raw.get("timestamp"),
        "run_id": entry.info.run_id if entry else None,
        "pipeline": entry.info.pipeline if entry else None,
        "operation": raw.get("operation"),
        "report": entry.info.report if entry else {},
    }


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
