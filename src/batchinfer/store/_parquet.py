"""Results as plain Parquet folders on a local filesystem: a fresh folder changes places with the live one.

A partition's folder is exchanged whole, with a hidden `._commit.json` in it, so rows and the word of who
wrote them can never disagree. All else is kept in a hidden sibling of the table, `.NAME.batchinfer/`:

    lock              held while partitions are replaced
    runs/RUN/         the run's marker and receipts
    staged/RUN/       its parts
    ready/            folders about to go live
    retired/          folders that were live: a reader may be in the midst of listing one
    pending.json      the commit under way, for the next one to finish its bookkeeping
    history.jsonl     a line for each commit
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchinfer.core import (
    CommitInfo,
    Fence,
    Partition,
    StagedPart,
    StagingArea,
    files,
    partition_path,
    rows_of_partition,
)
from batchinfer.errors import StoreError
from batchinfer.store import _rules, _runs
from batchinfer.store._exchange import exchange
from batchinfer.store._parts import encoding

_COMMIT = "._commit.json"
_RETIRED_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _Commit:
    """What a live folder says of itself. `token` is unique to the commit; `parts`: file name → bytes."""

    token: str
    version: int
    timestamp_ms: int
    run_id: str
    pipeline: str
    report: dict[str, Any]
    parts: dict[str, int]

    @property
    def info(self) -> CommitInfo:
        return CommitInfo(self.run_id, self.pipeline, self.report)


class ParquetStore:
    """A folder of Parquet files as a results store: the `Store` and `StoreHistory` ports, and `dataset`.

    Each partition is replaced atomically. A run of several partitions replaces one after the other; after a
    kill in between, its rerun goes on to the end.

    Args:
        path: local path of the table.
        partition_by: the table's partition columns, as Hive folders.
        pipeline: named where the table's folder turns out to be somebody else's.
        widens: partitions may have more or fewer columns than others.

    Raises:
        StoreError: `path` is a URL.
    """

    def __init__(
        self, path: str, partition_by: Sequence[str], pipeline: str, *, widens: bool = False
    ) -> None:
        self._widens = widens
        if "://" in path:
            raise StoreError(
                f"{path}: the Parquet store needs a local filesystem, where folders can be exchanged",
                next_step="set output.store to delta, which commits on object stores",
                path=path,
            )
        self.path = _runs.absolute(path.rstrip("/"))
        self._table = Path(self.path).resolve()  # a link is not exchanged, what it leads to is
        self._partition_by = tuple(partition_by)
        self._pipeline = pipeline
        self._state = Path(_runs.parquet_state(str(self._table)))

    def begin(self, run_id: str, schema: pa.Schema, partitions: Sequence[Partition]) -> Fence:
        """See `Store.begin`. Writes the run's marker, which proves that the table can be written."""
        _rules.check_partitions(self.path, self._partition_by, partitions)
        with files.storing(self.path):
            if self._table.exists() and not self._table.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, "a file is in the folder's place", self.path)
            if (self._table / "_delta_log").exists():
                raise StoreError(
                    f"{self.path}: a Delta table, whose readers would not see folders of Parquet files in it",
                    next_step="set output.store to delta, or write to another output.path",
                    path=self.path,
                )
            with self._locked():
                self._check_schema(schema)
                tokens = {partition: self._token(partition) for partition in partitions}
        _runs.begin(str(self._state), run_id, schema)
        return Fence(tokens)

    def staging(self, run_id: str) -> StagingArea:
        """Beside the table, on the same filesystem."""
        return StagingArea(str(self._state / "staged" / run_id), _runs.receipts(str(self._state), run_id))

    def commit(self, fence: Fence, parts: Sequence[tuple[Partition, StagedPart]], info: CommitInfo) -> int:
        """See `Store.commit`. Done twice with the same fence and run, it is done once.

        Raises:
            StoreError: the table cannot be written, or a staged part is gone.
        """
        _rules.check_staged(self.path, fence, parts)
        with files.storing(self.path), self._locked():
            self._finish_bookkeeping()
            todo = self._replaceable(fence, info.run_id)
            if fence.tokens and not todo:
                return max(commit.version for p in fence.tokens if (commit := self._live(p)))
            self._check_schema(_runs.schema_of(str(self._state), info.run_id))
            _runs.check_present(self.staging(info.run_id).parts, parts)
            commit = _Commit(
                uuid.uuid4().hex,
                self._next_version(fence),
                int(time.time() * 1000),
                info.run_id,
                info.pipeline,
                info.report,
                {},
            )
            self._announce(commit, todo)
            try:
                for partition in todo:
                    ready = self._prepare(commit, [part for p, part in parts if p == partition])
                    self._go_live(ready, partition)
            except OSError:
                if not all(self._holds(partition_path(p), commit.token) for p in todo):
                    raise
            with suppress(OSError):  # all is live; what fails here, the next commit does
                self._finish_bookkeeping()
                self._drop_retired(_RETIRED_SECONDS)
            return commit.version

    def committed(self, run_id: str, partitions: Sequence[Partition]) -> tuple[int, CommitInfo] | None:
        """See `StoreHistory.committed`."""
        version, info = 0, None
        for partition in partitions:
            live = self._live(partition)
            if live is None or live.run_id != run_id or not self._whole(partition, live):
                return None
            if live.version > version:
                version, info = live.version, live.info
        return None if info is None else (version, info)

    def history(self, limit: int) -> list[dict[str, Any]]:
        """See `StoreHistory.history`. A commit whose line a kill prevented is told too."""
        lines = self._lines()
        pending = self._pending()
        if pending is not None and not _told(lines, pending["token"]):
            held = [path for path in pending["partitions"] if self._holds(path, pending["token"])]
            if held == pending["partitions"]:
                lines.append(_line(pending, held))
        return [{k: v for k, v in line.items() if k != "token"} for line in lines[::-1][:limit]]

    def sweep(self, older_than_seconds: float, *, dry_run: bool) -> list[str]:
        """See `StoreHistory.sweep`. A live folder has names of its own for its files, and keeps them."""
        before = time.time() - older_than_seconds
        swept: list[str] = []
        for run_id, folder, changed in _runs.all_runs(str(self._state)):
            staged = self._state / "staged" / run_id
            parts = files.list_files(str(staged), recursive=True)
            if max([*changed, *(part.mtime.timestamp() for part in parts)], default=0) > before:
                continue
            swept += [*(part.path for part in parts), folder]
            for path in () if dry_run else (str(staged), folder):
                files.delete(path)
        if (self._state / "lock").exists():
            with files.storing(self.path), self._locked():
                stale = [p for p in _children(self._state / "ready") if p.stat().st_ctime <= before]
                swept += [str(path) for path in stale]
                for ready in () if dry_run else stale:
                    shutil.rmtree(ready)
                swept += self._drop_retired(older_than_seconds, dry_run=dry_run)
        return swept

    def dataset(self) -> Any:
        """What readers see now, as a `pyarrow.dataset.Dataset`.

        Raises:
            StoreError: there is no table.
        """
        if not self._table.is_dir():
            raise StoreError(f"{self.path}: no table here", path=self.path)
        columns = pa.schema([pa.field(name, pa.string()) for name in self._partition_by])
        import pyarrow.dataset as ds  # imports pandas

        layout = ds.HivePartitioning(columns, segment_encoding="uri")
        found = ds.dataset(self.path, format="parquet", partitioning=layout)
        for _ in range(10):  # a listing in the midst of an exchange may have come back empty
            if found.files:
                break
            found = ds.dataset(self.path, format="parquet", partitioning=layout)
        if self._widens:
            every = [part.physical_schema for part in found.get_fragments()]
            found = found.replace_schema(pa.unify_schemas([*every, found.schema]))
        return found

    def exists(self) -> bool:
        """Whether there is a table."""
        return files.exists(self.path)

    def provide(self, schema: pa.Schema) -> None:
        """Nothing: who may write the results' files may write these."""

    def find(self, equal: Mapping[str, pa.Scalar]) -> pa.Table:
        """The rows whose columns have these values."""
        return _rules.matching(self.dataset(), equal)

    def clear(self, run_id: str) -> None:
        """Delete the run's receipts. Its parts share their bytes with the table's."""
        files.delete(_runs.receipts(str(self._state), run_id))

    # The steps of a commit, in their order.

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._state.mkdir(parents=True, exist_ok=True)
        with (self._state / "lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                # Closing would not do: a process that was forked meanwhile has the open file too, and lives on.
                fcntl.flock(file, fcntl.LOCK_UN)

    def _replaceable(self, fence: Fence, run_id: str) -> list[Partition]:
        """The partitions still to replace. Those that this run holds already were done before a kill."""
        todo = []
        for partition, token in fence.tokens.items():
            live = self._live(partition)
            if self._token(partition) == token:
                todo.append(partition)
            elif live is None or live.run_id != run_id or not self._whole(partition, live):
                raise _rules.refusal(self.path, partition, run_id, live.run_id if live else None)
        return todo

    def _announce(self, commit: _Commit, partitions: Sequence[Partition]) -> None:
        told = {**_fields(commit), "partitions": [partition_path(p) for p in partitions]}
        files.write_bytes(str(self._state / "pending.json"), json.dumps(told).encode())

    def _prepare(self, commit: _Commit, parts: Sequence[StagedPart]) -> Path:
        """A folder with exactly the chosen parts, under names of its own for the same bytes."""
        staged = Path(self.staging(commit.run_id).parts)
        ready = self._state / "ready" / f"{commit.run_id}-{uuid.uuid4().hex}"
        ready.mkdir(parents=True)
        for part in parts:
            os.link(staged / part.path, ready / Path(part.path).name)
        told = {**_fields(commit), "parts": {Path(p.path).name: p.size_bytes for p in parts}}
        (ready / _COMMIT).write_text(json.dumps(told))
        return ready

    def _go_live(self, ready: Path, partition: Partition) -> None:
        live = self._folder(partition)
        if not live.exists():
            live.parent.mkdir(parents=True, exist_ok=True)
            ready.rename(live)
            return
        exchange(ready, live)
        retired = self._state / "retired" / f"{time.time():.3f}-{uuid.uuid4().hex}"
        retired.parent.mkdir(exist_ok=True)
        ready.rename(retired)

    def _finish_bookkeeping(self) -> None:
        """Write the history line of the last commit, now or after a kill, for what of it went live."""
        if (pending := self._pending()) is None:
            return
        held = [path for path in pending["partitions"] if self._holds(path, pending["token"])]
        if held and not _told(self._lines(), pending["token"]):
            _append(self._state / "history.jsonl", json.dumps(_line(pending, held)))
        (self._state / "pending.json").unlink()

    def _drop_retired(self, older_than_seconds: float, *, dry_run: bool = False) -> list[str]:
        before = time.time() - older_than_seconds
        stale = [p for p in _children(self._state / "retired") if float(p.name.split("-")[0]) <= before]
        for path in () if dry_run else stale:
            shutil.rmtree(path)
        return [str(path) for path in stale]

    # What lies on disk.

    def _folder(self, partition: Partition) -> Path:
        return self._table / partition_path(partition)

    def _live(self, partition: Partition) -> _Commit | None:
        return _read_commit(self._folder(partition))

    def _token(self, partition: Partition) -> str:
        """The live commit's token, "" where nothing lives.

        Raises:
            StoreError: files are there that no commit of ours put there; replacing would lose them.
        """
        folder = self._folder(partition)
        live = _read_commit(folder)
        if live is None and folder.is_dir() and any(folder.iterdir()):
            raise StoreError(
                f"{folder}: holds files that batchinfer did not write, and the pipeline {self._pipeline} "
                f"would replace {rows_of_partition(partition)} with all that is in it",
                next_step="move them away, or write to another output.path",
                path=str(folder),
            )
        return live.token if live else ""

    def _whole(self, partition: Partition, commit: _Commit) -> bool:
        folder = self._folder(partition)
        try:
            sizes = {p.name: p.stat().st_size for p in _children(folder) if p.suffix == ".parquet"}
        except FileNotFoundError:
            return False  # replaced while we looked
        return sizes == commit.parts

    def _pending(self) -> dict[str, Any] | None:
        return _read_json(self._state / "pending.json")

    def _holds(self, path: str, token: str) -> bool:
        live = _read_commit(self._table / path)
        return live is not None and live.token == token

    def _lines(self) -> list[dict[str, Any]]:
        try:
            text = (self._state / "history.jsonl").read_text()
        except FileNotFoundError:
            return []
        lines = []
        for line in text.splitlines():
            with suppress(ValueError):  # a kill may have cut one line short; the next commit wrote it again
                lines.append(json.loads(line))
        return lines

    def _next_version(self, fence: Fence) -> int:
        told = [line["version"] for line in self._lines()]
        live = [commit.version for p in fence.tokens if (commit := self._live(p))]
        return max([*told, *live], default=0) + 1

    def _check_schema(self, schema: pa.Schema) -> None:
        part = _first_part(self._table)
        if part is None:
            return
        folders = part.relative_to(self._table).parent.parts
        found = [folder.partition("=")[0] for folder in folders]
        _rules.check_partition_columns(self.path, self._partition_by, found)
        _rules.check_schema(self.path, _as_stored(schema), _types(pq.read_schema(part)), widens=self._widens)


def _fields(commit: _Commit) -> dict[str, Any]:
    return {name: getattr(commit, name) for name in _Commit.__slots__}


def _line(pending: Mapping[str, Any], held: Sequence[str]) -> dict[str, Any]:
    told = ("version", "timestamp_ms", "run_id", "pipeline", "report", "token")
    operation = "replace" if list(held) == pending["partitions"] else f"replace, cut short after {held}"
    return {**{name: pending[name] for name in told}, "operation": operation}


def _told(lines: Sequence[Mapping[str, Any]], token: str) -> bool:
    return any(line["token"] == token for line in lines[-8:])


def _append(path: Path, line: str) -> None:
    with path.open("ab") as file:
        cut_short = file.tell() and not path.read_bytes().endswith(b"\n")
        file.write(("\n" if cut_short else "").encode() + line.encode() + b"\n")


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _read_commit(folder: Path) -> _Commit | None:
    value = _read_json(folder / _COMMIT)
    try:
        return None if value is None else _Commit(**value)
    except TypeError:
        return None


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _first_part(folder: Path) -> Path | None:
    """Any visible Parquet file of the table: all have one schema, so the first will do."""
    for child in _children(folder):
        if child.name[0] in "._":
            continue
        if child.is_file() and child.suffix == ".parquet":
            return child
        if child.is_dir() and (found := _first_part(child)) is not None:
            return found
    return None


def _as_stored(schema: pa.Schema) -> dict[str, str]:
    """The column types that a reader gets back from a part of this schema."""
    sink = pa.BufferOutputStream()
    pq.ParquetWriter(sink, schema, **encoding(schema, ())).close()
    return _types(pq.read_schema(pa.BufferReader(sink.getvalue())))


def _types(schema: pa.Schema) -> dict[str, str]:
    return {field.name: str(field.type) for field in schema}
