"""Results in a Delta Lake table: one transaction replaces a run's partitions, and the log says who did.

The fence of a partition is the version of its application transaction. It is read and advanced in the same
snapshot that the commit is made from, so of two writers that began on the same state one is refused.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from pyarrow import fs

from batchinfer.core import (
    CommitInfo,
    Fence,
    Partition,
    StagedPart,
    StagingArea,
    files,
    rows_of_partition,
)
from batchinfer.errors import BatchinferError, CommitUnknown, StoreError, Transient
from batchinfer.store import _rules, _runs
from batchinfer.store._delta_log import (
    METADATA,
    Entry,
    Log,
    commits,
    entry_of,
    history_row,
    referenced_paths,
)
from batchinfer.store._delta_table import (
    MOST_TURNS,
    active_files,
    app_id_of,
    check_table,
    claim_of,
    created,
    delta_schema,
    is_conflict,
    is_streamed,
    label_of,
    opened,
    said_by,
    statistics_of,
    token_of,
    transact,
    translated,
    tried,
    turns,
    types_of,
)


class DeltaStore:
    """A Delta table as a results store: the `Store` and `StoreHistory` ports, and `dataset`.

    Args:
        path: local path or URL. Credentials and storage options come from the environment.
        partition_by: the table's partition columns, all text.
        pipeline: named in the table's description when it is created.
        widens: columns that a run brings and the table lacks are added to it.
    """

    def __init__(
        self, path: str, partition_by: Sequence[str], pipeline: str, *, widens: bool = False
    ) -> None:
        self._widens = widens
        self.path = _runs.absolute(path)
        self._partition_by = tuple(partition_by)
        self._pipeline = pipeline
        self._state = files.join(self.path, "_batchinfer")
        self._log = Log()

    def begin(self, run_id: str, schema: pa.Schema, partitions: Sequence[Partition]) -> Fence:
        """See `Store.begin`. Writes the run's marker, which proves that the table can be written."""
        _rules.check_partitions(self.path, self._partition_by, partitions)
        _runs.refuse_url_parts(self.path)
        with translated(self.path, "open"):
            table = self._open()
            tokens = {p: str(token_of(table, p)) for p in partitions}
            self._check(table, delta_schema(schema, self._partition_by))
            if table is None:
                _runs.refuse_parquet(self.path)
        _runs.begin(self._state, run_id, schema)
        return Fence(tokens)

    def staging(self, run_id: str) -> StagingArea:
        """Parts lie in the table's own folders, invisible until the log names them."""
        return StagingArea(self.path, _runs.receipts(self._state, run_id))

    def commit(self, fence: Fence, parts: Sequence[tuple[Partition, StagedPart]], info: CommitInfo) -> int:
        """See `Store.commit`. Done twice with the same fence and run, it is done once.

        Raises:
            StoreError: the log cannot be written, or a staged part is gone. Nothing has changed.
            Transient: others commit to the table without a pause. Nothing has changed.
        """
        _rules.check_staged(self.path, fence, parts)
        for _ in turns():
            with translated(self.path, "commit to"):
                schema = delta_schema(_runs.schema_of(self._state, info.run_id), self._partition_by)
                table = self._open() or self._create(schema)
                self._check(table, schema)
                if not self._widen(table, schema):
                    continue
                if (standing := self._standing(table, fence, info.run_id)) is not None:
                    return standing
                _runs.check_present(self.path, parts)
                actions = _actions(table, fence, parts)
                properties = _properties(fence, parts, info)
            error = tried(lambda t=table, a=actions, p=properties: self._transact(t, a, p))
            try:
                version = self._outcome(fence, info.run_id)
            except BatchinferError:
                raise
            except Exception as looked:
                raise CommitUnknown(
                    f"{self.path}: run {info.run_id} may or may not be committed: {said_by(error or looked)}; "
                    f"the log could not be read either: {said_by(looked)}",
                    next_step="run again when the table can be reached: it asks the log first",
                    table=self.path,
                    run_id=info.run_id,
                ) from (error or looked)
            if version is not None:
                return version
            if not is_conflict(error):
                raise StoreError(
                    f"{self.path}: cannot commit: {said_by(error)}",
                    next_step="see the reason above, then run again: staged units are reused",
                    table=self.path,
                    run_id=info.run_id,
                ) from error
            # Someone else's commit went first and left our partitions alone: the fence still holds.
        raise Transient(
            f"{self.path}: {MOST_TURNS} commits of others went first; nothing was changed",
            next_step="run again: staged units are reused",
            table=self.path,
            run_id=info.run_id,
        )

    def committed(self, run_id: str, partitions: Sequence[Partition]) -> tuple[int, CommitInfo] | None:
        """See `StoreHistory.committed`. Rows that OPTIMIZE has moved to other files still count."""
        with translated(self.path, "read the history of"):
            table = self._open()
            return None if table is None else self._committed(table, run_id, partitions)

    def history(self, limit: int) -> list[dict[str, Any]]:
        """See `StoreHistory.history`. Commits of other writers are told too, with run_id None."""
        with translated(self.path, "read the history of"):
            table = self._open()
            told = commits(table, limit) if table is not None else []
        return [history_row(raw) for raw in told]

    def sweep(self, older_than_seconds: float, *, dry_run: bool) -> list[str]:
        """See `StoreHistory.sweep`. Files that a past version holds are left to Delta's own VACUUM."""
        before = time.time() - older_than_seconds
        swept: list[str] = []
        _, root = files.locate(self.path)
        listed = files.list_files(self.path, recursive=True)
        relative = {i.path[len(root) :].strip("/"): i.mtime.timestamp() for i in listed}
        # The log is read after the listing: a part committed in between is seen as referenced.
        referenced = referenced_paths(self.path)
        for run_id, folder, changed in _runs.all_runs(self._state):
            found = _rules.orphans(run_id, relative, referenced, changed, before)
            if found is None:
                continue
            doomed = [files.join(self.path, path) for path in found]
            swept += [*doomed, folder]
            for path in () if dry_run else (*doomed, folder):
                files.delete(path)
        lost = [path for path, at in relative.items() if is_streamed(path) and at <= before]
        for path in (files.join(self.path, path) for path in sorted({*lost} - referenced)):
            swept.append(path)
            if not dry_run:
                files.delete(path)
        return swept

    def dataset(self) -> Any:
        """What readers see now, as a `pyarrow.dataset.Dataset`.

        Raises:
            StoreError: there is no table.
        """
        with translated(self.path, "read"):
            table = self._open()
            if table is None:
                raise StoreError(f"{self.path}: no Delta table here", table=self.path)
            # Arrow's own filesystem: delta-rs' is called back in Python, also by threads that outlive it at exit.
            filesystem, root = files.locate(self.path)
            return table.to_pyarrow_dataset(filesystem=fs.SubTreeFileSystem(root, filesystem))

    def exists(self) -> bool:
        """Whether there is a table."""
        return files.exists(self.path)

    def provide(self, schema: pa.Schema) -> None:
        """Nothing: who may write the results' files may write these."""

    def find(self, equal: Mapping[str, pa.Scalar]) -> pa.Table:
        """The rows whose columns have these values."""
        return _rules.matching(self.dataset(), equal)

    def clear(self, run_id: str) -> None:
        """Delete the run's receipts. Its parts are the table."""
        files.delete(_runs.receipts(self._state, run_id))

    def _open(self) -> Any:
        return opened(self.path)

    def _create(self, schema: Any) -> Any:
        return created(self.path, schema, self._partition_by, self._pipeline)

    def _check(self, table: Any, schema: Any) -> None:
        check_table(self.path, self._partition_by, table, schema, widens=self._widens)

    def _widen(self, table: Any, schema: Any) -> bool:
        """Add the columns that the table lacks. Without rows in them nothing changes for its readers.

        Returns whether it has them now; not where another writer changed the table first.
        """
        held = types_of(table.schema())
        new = [field for field in schema.fields if field.name not in held]
        error = tried(lambda: table.alter.add_columns(new)) if new else None
        if error is not None and not is_conflict(error):
            raise error
        return error is None

    def _transact(self, table: Any, actions: list[Any], properties: Any) -> None:
        transact(table, actions, self._partition_by, properties)

    def _outcome(self, fence: Fence, run_id: str) -> int | None:
        """The version that this very commit became; None where the fence still holds, so nothing happened."""
        table = self._open()
        advanced = {label_of(p): int(token) + 1 for p, token in fence.tokens.items()}
        for entry in self._log.entries(table):
            if entry.info.run_id == run_id and advanced == {
                label: state["token"] for label, state in entry.partitions.items()
            }:
                return entry.version
        return self._standing(table, fence, run_id)

    def _standing(self, table: Any, fence: Fence, run_id: str) -> int | None:
        """None while the fence holds; the version if this run stands already; else the commit is refused."""
        moved = [p for p, token in fence.tokens.items() if str(token_of(table, p)) != token]
        if not moved:
            return None
        if (done := self._committed(table, run_id, list(fence.tokens))) is not None:
            return done[0]
        holder = next((e for e in self._log.entries(table) if label_of(moved[0]) in e.partitions), None)
        raise _rules.refusal(self.path, moved[0], run_id, holder.info.run_id if holder else None)

    def _committed(
        self, table: Any, run_id: str, partitions: Sequence[Partition]
    ) -> tuple[int, CommitInfo] | None:
        if not all(token_of(table, p) for p in partitions):
            return None  # the log need not be searched for what was never committed
        found: Entry | None = None
        pending = {label_of(p): p for p in partitions}
        for entry in self._log.entries(table):
            if not pending:
                break
            for label in [label for label in pending if label in entry.partitions]:
                if entry.info.run_id != run_id or not _stands(table, entry, pending.pop(label)):
                    return None
                found = found or entry
        return (found.version, found.info) if found and not pending else None


def _active(table: Any, partition: Partition) -> list[dict[str, Any]]:
    """The partition's files, but for those of a stream: a run replaces what runs wrote."""
    files_ = [row for row in active_files(table) if row["partition"] == dict(partition)]
    return [row for row in files_ if not is_streamed(row["path"])]


def _actions(table: Any, fence: Fence, parts: Sequence[tuple[Partition, StagedPart]]) -> list[Any]:
    from deltalake.transaction import AddAction, RemoveAction

    now_ms = int(time.time() * 1000)
    for partition in fence.tokens:
        _check_unmixed(table, partition)
    # A rerun that reuses every unit names files that are active already: they stay, untouched.
    active = {row["path"]: (p, row) for p in fence.tokens for row in _active(table, p)}
    staged = {part.path: (partition, part) for partition, part in parts}
    removals = [
        RemoveAction(path, True, now_ms, row["size_bytes"], dict(partition))
        for path, (partition, row) in active.items()
        if path not in staged
    ]
    additions = [
        AddAction(path, part.size_bytes, dict(partition), now_ms, True, statistics_of(part))
        for path, (partition, part) in staged.items()
        if path not in active
    ]
    return [*additions, *removals]


def _check_unmixed(table: Any, partition: Partition) -> None:
    """Refuse to replace files in which a compaction may have put rows of a stream together with a run's.

    Raises:
        StoreError: there are such files.
    """
    if table.transaction_version(claim_of(partition)) is None:
        return
    mixed = [row["path"] for row in _active(table, partition) if not _rules.is_part(row["path"])]
    if mixed:
        raise StoreError(
            f"{table.table_uri}: {rows_of_partition(partition)} was compacted while it held rows of a stream; "
            "to replace the run's own would take the stream's too",
            next_step="let runs and stream write to tables of their own, or delete the partition's rows by hand",
            table=table.table_uri,
            paths=mixed,
        )


def _properties(fence: Fence, parts: Sequence[tuple[Partition, StagedPart]], info: CommitInfo) -> Any:
    from deltalake import CommitProperties
    from deltalake.transaction import Transaction

    partitions = {
        label_of(p): {"token": int(token) + 1, "rows": sum(part.rows for q, part in parts if q == p)}
        for p, token in fence.tokens.items()
    }
    told = {"pipeline": info.pipeline, "report": info.report, "partitions": partitions}
    return CommitProperties(
        custom_metadata={"run_id": info.run_id, METADATA: json.dumps(told)},
        app_transactions=[Transaction(app_id_of(p), int(token) + 1) for p, token in fence.tokens.items()],
    )


def _stands(table: Any, entry: Entry, partition: Partition) -> bool:
    """Whether the rows that `entry` committed are what readers of the partition see."""
    state = entry.partitions[label_of(partition)]
    active = _active(table, partition)
    if state["token"] != token_of(table, partition):
        return False
    if sum(row["num_records"] or 0 for row in active) != state["rows"]:
        return False
    if all(_rules.is_part_of(entry.info.run_id, row["path"]) for row in active):
        return True
    later = table.version() - entry.version
    since = commits(table, later) if later else []
    return all(raw["operation"] == "OPTIMIZE" or entry_of(raw) is not None for raw in since)
