"""Results in a Delta Lake table: one transaction replaces a run's partitions, and the log says who did.

The fence of a partition is the version of its application transaction. It is read and advanced in the same
snapshot that the commit is made from, so of two writers that began on the same state one is refused.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import fs

from batchinfer.core import (
    CommitInfo,
    Fence,
    Partition,
    StagedPart,
    StagingArea,
    files,
    partition_path,
    table_schema,
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

_CONFLICTS = 30


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
        with self._translated("open"):
            table = self._open()
            tokens = {p: str(_token(table, p)) for p in partitions}
            self._check(table, _delta_schema(schema, self._partition_by))
            if table is None and files.exists(_runs.parquet_state(self.path)):
                raise StoreError(
                    f"{self.path}: a table of the Parquet store, whose rows a Delta table would not show",
                    next_step="set output.store to parquet, or write to another output.path",
                    table=self.path,
                )
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
        for attempt in range(_CONFLICTS):
            with self._translated("commit to"):
                schema = _delta_schema(_runs.schema_of(self._state, info.run_id), self._partition_by)
                table = self._open() or self._create(schema)
                self._check(table, schema)
                if not self._widen(table, schema):
                    _wait_a_little(attempt)
                    continue
                if (standing := self._standing(table, fence, info.run_id)) is not None:
                    return standing
                _runs.check_present(self.path, parts)
                actions = _actions(table, fence, parts)
                properties = _properties(fence, parts, info)
            error = _try(lambda t=table, a=actions, p=properties: self._transact(t, a, p))
            try:
                version = self._outcome(fence, info.run_id)
            except BatchinferError:
                raise
            except Exception as looked:
                raise CommitUnknown(
                    f"{self.path}: run {info.run_id} may or may not be committed: {_said(error or looked)}; "
                    f"the log could not be read either: {_said(looked)}",
                    next_step="run again when the table can be reached: it asks the log first",
                    table=self.path,
                    run_id=info.run_id,
                ) from (error or looked)
            if version is not None:
                return version
            if not _is_conflict(error):
                raise StoreError(
                    f"{self.path}: cannot commit: {_said(error)}",
                    next_step="see the reason above, then run again: staged units are reused",
                    table=self.path,
                    run_id=info.run_id,
                ) from error
            # Someone else's commit went first and left our partitions alone: the fence still holds.
            _wait_a_little(attempt)
        raise Transient(
            f"{self.path}: {_CONFLICTS} commits of others went first; nothing was changed",
            next_step="run again: staged units are reused",
            table=self.path,
            run_id=info.run_id,
        )

    def committed(self, run_id: str, partitions: Sequence[Partition]) -> tuple[int, CommitInfo] | None:
        """See `StoreHistory.committed`. Rows that OPTIMIZE has moved to other files still count."""
        with self._translated("read the history of"):
            table = self._open()
            return None if table is None else self._committed(table, run_id, partitions)

    def history(self, limit: int) -> list[dict[str, Any]]:
        """See `StoreHistory.history`. Commits of other writers are told too, with run_id None."""
        with self._translated("read the history of"):
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
        return swept

    def dataset(self) -> Any:
        """What readers see now, as a `pyarrow.dataset.Dataset`.

        Raises:
            StoreError: there is no table.
        """
        with self._translated("read"):
            table = self._open()
            if table is None:
                raise StoreError(f"{self.path}: no Delta table here", table=self.path)
            # Arrow's own filesystem: delta-rs' is called back in Python, also by threads that outlive it at exit.
            filesystem, root = files.locate(self.path)
            return table.to_pyarrow_dataset(filesystem=fs.SubTreeFileSystem(root, filesystem))

    def exists(self) -> bool:
        """Whether there is a table."""
        return files.exists(self.path)

    def find(self, equal: Mapping[str, pa.Scalar]) -> pa.Table:
        """The rows whose columns have these values."""
        return _rules.matching(self.dataset(), equal)

    def clear(self, run_id: str) -> None:
        """Delete the run's receipts. Its parts are the table."""
        files.delete(_runs.receipts(self._state, run_id))

    def _open(self) -> Any:
        from deltalake import DeltaTable

        return DeltaTable(self.path) if DeltaTable.is_deltatable(self.path) else None

    def _create(self, schema: Any) -> Any:
        from deltalake import DeltaTable
        from deltalake.exceptions import CommitFailedError

        # Creators may race. "ignore" takes a table that is there; one that comes up in between is a conflict.
        with suppress(CommitFailedError):
            DeltaTable.create(
                self.path,
                schema,
                mode="ignore",
                partition_by=list(self._partition_by),
                description=f"Results of the batchinfer pipeline {self._pipeline}",
            )
        return DeltaTable(self.path)

    def _check(self, table: Any, schema: Any) -> None:
        if table is not None:
            found = table.metadata().partition_columns
            _rules.check_partition_columns(self.path, self._partition_by, found)
            _rules.check_schema(self.path, _types(schema), _types(table.schema()), widens=self._widens)

    def _widen(self, table: Any, schema: Any) -> bool:
        """Add the columns that the table lacks. Without rows in them nothing changes for its readers.

        Returns whether it has them now; not where another writer changed the table first.
        """
        held = _types(table.schema())
        new = [field for field in schema.fields if field.name not in held]
        error = _try(lambda: table.alter.add_columns(new)) if new else None
        if error is not None and not _is_conflict(error):
            raise error
        return error is None

    def _transact(self, table: Any, actions: list[Any], properties: Any) -> None:
        table.create_write_transaction(
            actions,
            mode="append",  # the only mode that takes removals; together they replace
            schema=table.schema(),
            partition_by=list(self._partition_by),
            commit_properties=properties,
        )

    def _outcome(self, fence: Fence, run_id: str) -> int | None:
        """The version that this very commit became; None where the fence still holds, so nothing happened."""
        table = self._open()
        advanced = {_label(p): int(token) + 1 for p, token in fence.tokens.items()}
        for entry in self._log.entries(table):
            if entry.info.run_id == run_id and advanced == {
                label: state["token"] for label, state in entry.partitions.items()
            }:
                return entry.version
        return self._standing(table, fence, run_id)

    def _standing(self, table: Any, fence: Fence, run_id: str) -> int | None:
        """None while the fence holds; the version if this run stands already; else the commit is refused."""
        moved = [p for p, token in fence.tokens.items() if str(_token(table, p)) != token]
        if not moved:
            return None
        if (done := self._committed(table, run_id, list(fence.tokens))) is not None:
            return done[0]
        holder = next((e for e in self._log.entries(table) if _label(moved[0]) in e.partitions), None)
        raise _rules.refusal(self.path, moved[0], run_id, holder.info.run_id if holder else None)

    def _committed(
        self, table: Any, run_id: str, partitions: Sequence[Partition]
    ) -> tuple[int, CommitInfo] | None:
        if not all(_token(table, p) for p in partitions):
            return None  # the log need not be searched for what was never committed
        found: Entry | None = None
        pending = {_label(p): p for p in partitions}
        for entry in self._log.entries(table):
            if not pending:
                break
            for label in [label for label in pending if label in entry.partitions]:
                if entry.info.run_id != run_id or not _stands(table, entry, pending.pop(label)):
                    return None
                found = found or entry
        return (found.version, found.info) if found and not pending else None

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except BatchinferError:
            raise
        except Exception as e:  # delta-rs raises plain Exception too
            raise StoreError(
                f"{self.path}: cannot {doing} the Delta table: {_said(e)}",
                next_step="check output.path, the credentials in the environment and the permissions",
                table=self.path,
                reason=_said(e),
            ) from e


def _label(partition: Partition) -> str:
    return partition_path(partition) or "-"


def _app_id(partition: Partition) -> str:
    # Without the pipeline's name: two pipelines that write one partition must meet at one fence.
    return f"batchinfer/{_label(partition)}"


def _token(table: Any, partition: Partition) -> int:
    return 0 if table is None else table.transaction_version(_app_id(partition)) or 0


def _active(table: Any, partition: Partition) -> list[dict[str, Any]]:
    actions = pa.RecordBatchReader.from_stream(table.get_add_actions()).read_all()
    columns = ["path", "size_bytes", "num_records", "partition"]
    rows = actions.select([c for c in columns if c in actions.column_names]).to_pylist()
    return [row for row in rows if (row.get("partition") or {}) == dict(partition)]


def _actions(table: Any, fence: Fence, parts: Sequence[tuple[Partition, StagedPart]]) -> list[Any]:
    from deltalake.transaction import AddAction, RemoveAction

    now_ms = int(time.time() * 1000)
    # A rerun that reuses every unit names files that are active already: they stay, untouched.
    active = {unquote(row["path"]): (p, row) for p in fence.tokens for row in _active(table, p)}
    staged = {part.path: (partition, part) for partition, part in parts}
    removals = [
        RemoveAction(path, True, now_ms, row["size_bytes"], dict(partition))
        for path, (partition, row) in active.items()
        if path not in staged
    ]
    additions = [
        AddAction(path, part.size_bytes, dict(partition), now_ms, True, _statistics(part))
        for path, (partition, part) in staged.items()
        if path not in active
    ]
    return [*additions, *removals]


def _statistics(part: StagedPart) -> str:
    # No ranges: delta-rs reads a column without one, in a file where others have one, as "id >= null", and then
    # hides all rows from a filter on that column. Row groups keep their ranges in the files themselves.
    return json.dumps({"numRecords": part.rows})


def _properties(fence: Fence, parts: Sequence[tuple[Partition, StagedPart]], info: CommitInfo) -> Any:
    from deltalake import CommitProperties
    from deltalake.transaction import Transaction

    partitions = {
        _label(p): {"token": int(token) + 1, "rows": sum(part.rows for q, part in parts if q == p)}
        for p, token in fence.tokens.items()
    }
    told = {"pipeline": info.pipeline, "report": info.report, "partitions": partitions}
    return CommitProperties(
        custom_metadata={"run_id": info.run_id, METADATA: json.dumps(told)},
        app_transactions=[Transaction(_app_id(p), int(token) + 1) for p, token in fence.tokens.items()],
    )


def _stands(table: Any, entry: Entry, partition: Partition) -> bool:
    """Whether the rows that `entry` committed are what readers of the partition see."""
    state = entry.partitions[_label(partition)]
    active = _active(table, partition)
    if state["token"] != _token(table, partition):
        return False
    if sum(row["num_records"] or 0 for row in active) != state["rows"]:
        return False
    if all(_rules.is_part_of(entry.info.run_id, unquote(row["path"])) for row in active):
        return True
    later = table.version() - entry.version
    since = commits(table, later) if later else []
    return all(raw["operation"] == "OPTIMIZE" or entry_of(raw) is not None for raw in since)


def _delta_schema(part: pa.Schema, partition_by: Sequence[str]) -> Any:
    from deltalake import Schema

    columns = table_schema(part, partition_by)
    return Schema.from_arrow(pa.schema([pa.field(f.name, _in_utc(f.type)) for f in columns]))


def _in_utc(kind: pa.DataType) -> pa.DataType:
    # Delta keeps instants, and Parquet stores them in UTC whatever zone the Arrow type names.
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return pa.timestamp("us", "UTC")
    return pa.list_(_in_utc(kind.value_type)) if pa.types.is_list(kind) else kind


def _types(schema: Any) -> dict[str, str]:
    return {field.name: str(field.type.to_json()).strip('"') for field in schema.fields}


def _try(commit: Any) -> Exception | None:
    try:
        commit()
    except Exception as e:
        return e
    return None


def _wait_a_little(attempt: int) -> None:
    """Let others go first, by chance and longer each time, so that writers who met do not meet again."""
    time.sleep(random.uniform(0, min(1.0, 0.005 * 2**attempt)))


def _is_conflict(error: Exception | None) -> bool:
    from deltalake.exceptions import CommitFailedError

    return isinstance(error, CommitFailedError)


def _said(error: Exception | None) -> str:
    """A vendor error on one line, without its colours and its Rust backtrace."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    lines = [line.strip(" ↳") for line in plain.splitlines()]
    kept = [line for line in lines if line and not re.match(r"\d+: |at /", line)]
    return " / ".join(kept[:4]) or type(error).__name__
