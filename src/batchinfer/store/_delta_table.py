"""A Delta table as delta-rs has it: opened, made, held against a schema and written to, its errors as ours."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from batchinfer.core import Partition, StagedPart, partition_path, table_schema
from batchinfer.errors import BatchinferError, StoreError
from batchinfer.store import _rules

STREAMED = "stream-"
"""What the names of parts begin with that a stream wrote."""
MOST_TURNS = 30
"""How often a commit is tried while those of others go first."""


def opened(path: str) -> Any:
    """The table as of now; None where there is none."""
    from deltalake import DeltaTable

    return DeltaTable(path) if DeltaTable.is_deltatable(path) else None


def created(path: str, schema: Any, partition_by: Sequence[str], pipeline: str) -> Any:
    """A new table, or the one that another writer made meanwhile."""
    from deltalake import DeltaTable
    from deltalake.exceptions import CommitFailedError

    # Creators may race. "ignore" takes a table that is there; one that comes up in between is a conflict.
    with suppress(CommitFailedError):
        DeltaTable.create(
            path,
            schema,
            mode="ignore",
            partition_by=list(partition_by),
            description=f"Results of the batchinfer pipeline {pipeline}",
        )
    return DeltaTable(path)


def check_table(
    path: str, partition_by: Sequence[str], table: Any, schema: Any, *, widens: bool = False
) -> None:
    """Hold a table (None fits all) against a run's partition columns and schema.

    Raises:
        StoreError: they differ.
    """
    if table is not None:
        _rules.check_partition_columns(path, partition_by, table.metadata().partition_columns)
        _rules.check_schema(path, types_of(schema), types_of(table.schema()), widens=widens)


def transact(table: Any, actions: list[Any], partition_by: Sequence[str], properties: Any) -> None:
    """Commit additions and removals in one version."""
    table.create_write_transaction(
        actions,
        mode="append",  # the only mode that takes removals; together they replace
        schema=table.schema(),
        partition_by=list(partition_by),
        commit_properties=properties,
    )


@contextmanager
def translated(path: str, doing: str) -> Iterator[None]:
    """Say what a failed call means.

    Raises:
        StoreError: for any error that is not ours.
    """
    try:
        yield
    except BatchinferError:
        raise
    except Exception as e:  # delta-rs raises plain Exception too
        raise StoreError(
            f"{path}: cannot {doing} the Delta table: {said_by(e)}",
            next_step="check output.path, the credentials in the environment and the permissions",
            table=path,
            reason=said_by(e),
        ) from e


def active_files(table: Any) -> list[dict[str, Any]]:
    """The files that readers see: path (not quoted), size_bytes, num_records, partition (column → value)."""
    actions = pa.RecordBatchReader.from_stream(table.get_add_actions()).read_all()
    columns = ["path", "size_bytes", "num_records", "partition"]
    rows = actions.select([c for c in columns if c in actions.column_names]).to_pylist()
    return [{**row, "path": unquote(row["path"]), "partition": row.get("partition") or {}} for row in rows]


def is_streamed(path: str) -> bool:
    """Whether a stream wrote this file."""
    return path.rpartition("/")[2].startswith(STREAMED)


def label_of(partition: Partition) -> str:
    """A partition, as fences and the log name it."""
    return partition_path(partition) or "-"


def app_id_of(partition: Partition) -> str:
    """The application transaction that fences a partition."""
    # Without the pipeline's name: two pipelines that write one partition must meet at one fence.
    return f"batchinfer/{label_of(partition)}"


def claim_of(partition: Partition) -> str:
    """The application transaction that says of a partition that a stream has rows in it."""
    return f"batchinfer-streamed/{label_of(partition)}"


def position_of(pipeline: str, source: str) -> str:
    """The application transaction whose version is the next offset of a source, for a pipeline."""
    return f"batchinfer-stream/{pipeline}/{source}"


def token_of(table: Any, partition: Partition) -> int:
    """The fence's token: how often the partition was replaced."""
    return 0 if table is None else table.transaction_version(app_id_of(partition)) or 0


def statistics_of(part: StagedPart) -> str:
    """What the log says of a part's rows."""
    # No ranges: delta-rs reads a column without one, in a file where others have one, as "id >= null", and then
    # hides all rows from a filter on that column. Row groups keep their ranges in the files themselves.
    return json.dumps({"numRecords": part.rows})


def delta_schema(part: pa.Schema, partition_by: Sequence[str]) -> Any:
    """The table's columns for parts of this schema."""
    from deltalake import Schema

    columns = table_schema(part, partition_by)
    return Schema.from_arrow(pa.schema([pa.field(f.name, _in_utc(f.type)) for f in columns]))


def _in_utc(kind: pa.DataType) -> pa.DataType:
    # Delta keeps instants, and Parquet stores them in UTC whatever zone the Arrow type names.
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return pa.timestamp("us", "UTC")
    return pa.list_(_in_utc(kind.value_type)) if pa.types.is_list(kind) else kind


def types_of(schema: Any) -> dict[str, str]:
    """Each column's type as Delta spells it."""
    return {field.name: str(field.type.to_json()).strip('"') for field in schema.fields}


def tried(commit: Any) -> Exception | None:
    """What a commit raised; None where it did not."""
    try:
        commit()
    except Exception as e:
        return e
    return None


def turns() -> Iterator[None]:
    """One for each time that a commit is tried.

    Between two others go first, by chance and longer each time, so that writers who met do not meet again.
    """
    for attempt in range(MOST_TURNS):
        yield
        if attempt + 1 < MOST_TURNS:
            time.sleep(random.uniform(0, min(1.0, 0.005 * 2**attempt)))


def is_conflict(error: Exception | None) -> bool:
    """Whether another writer's commit went first."""
    from deltalake.exceptions import CommitFailedError

    return isinstance(error, CommitFailedError)


def said_by(error: Exception | None) -> str:
    """A vendor error on one line, without its colours and its Rust backtrace."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    lines = [line.strip(" ↳") for line in plain.splitlines()]
    kept = [line for line in lines if line and not re.match(r"\d+: |at /", line)]
    return " / ".join(kept[:4]) or type(error).__name__
