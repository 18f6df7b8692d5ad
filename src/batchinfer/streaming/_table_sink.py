"""The table sink: rows gather to parts, and a part is committed with the offsets that it brings its partitions to.

Where a partition goes on is the table's own word, never the group's offsets: those belong to the topic sink, which is
ahead by what is gathered here. A commit says from where it moves a position on, so a member whose partitions are
another's by now is refused by the table itself.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchinfer.core import HIVE_NULL, MODEL, SOURCE, arrays
from batchinfer.errors import CommitRefused, GroupFenced, StoreError
from batchinfer.streaming._ports import MicroBatch
from batchinfer.streaming._records import Offsets, TopicPartition

_log = logging.getLogger("batchinfer.stream")
TIMESTAMP = "timestamp"
UNKNOWN = "unknown"
"""The partition of rows whose message has no timestamp, or whose column is null."""


class Position(Protocol):
    """From where to where a commit moves a source; `at` is None where the table knows none yet."""

    @property
    def at(self) -> int | None:
        """Where it is."""

    @property
    def to(self) -> int:
        """Where it comes to."""


class Table(Protocol):
    """A table that takes rows and positions in one step. A source is a partition as `_source` has it."""

    def positions(self, sources: Sequence[str]) -> dict[str, int]:
        """The sources' next offsets, of those that the table knows."""

    def append(self, rows: pa.Table, moves: Mapping[str, Any], told: Mapping[str, Any]) -> int:
        """Commit both. Raises CommitRefused where a source is not at its move's `at`; Transient, StoreError."""


@dataclass(frozen=True, slots=True)
class TablePlan:
    """How rows become parts. `partition` says for each partition column where its value comes from.

    `schema` are the columns of results, without those.
    """

    schema: pa.Schema
    partition: Mapping[str, str]
    max_bytes: int
    max_seconds: float
    run_id: str


class TableSink:
    """See `batchinfer.streaming.Sink`.

    Args:
        plan: how rows become parts.
        table: where they go.
        move: makes a `Position` of (at, to), as the table takes it.
        committed: the group's progress: `Consumer.committed`.
        begin_offsets: `Consumer.begin_offsets`.
        end_offsets: `Consumer.end_offsets`.
        clock: seconds that only go on.
    """

    def __init__(
        self,
        plan: TablePlan,
        table: Table,
        move: Callable[[int | None, int], Position],
        *,
        committed: Callable[[Sequence[TopicPartition]], dict[TopicPartition, int]],
        begin_offsets: Callable[[Sequence[TopicPartition]], dict[TopicPartition, int]],
        end_offsets: Callable[[Sequence[TopicPartition]], dict[TopicPartition, int]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan, self._table, self._move = plan, table, move
        self._committed, self._begin_offsets, self._end_offsets = committed, begin_offsets, end_offsets
        self._clock = clock
        self._durable: dict[TopicPartition, int] = {}
        self._reached: dict[TopicPartition, int] = {}
        """By partition, the offset after what is gathered."""
        self._gathered: list[pa.RecordBatch] = []
        self._bytes = 0
        self._since: float | None = None

    def assigned(self, partitions: Sequence[TopicPartition]) -> Offsets:
        """See `Sink.assigned`. A partition that the table does not know begins where the group is, else at its start.

        Raises:
            StoreError: the table is ahead of a topic, which must have been made anew.
        """
        self.revoked(partitions)
        found = self._table.positions([str(partition) for partition in partitions])
        starts = {p: found[str(p)] for p in partitions if str(p) in found}
        if new := [p for p in partitions if p not in starts]:
            fresh = {**self._begin_offsets(new), **self._committed(new)}
            self._append([], {p: (None, fresh[p]) for p in new})  # now it stays so, whatever the group does
            starts |= {p: fresh[p] for p in new}
        for partition, end in self._end_offsets(list(starts)).items():
            if starts[partition] > end:
                raise StoreError(
                    f"{partition} ends at offset {end}, but the results table has come to {starts[partition]}: "
                    "the topic was made anew",
                    next_step="write to another output.path, or give the topic another name",
                    partition=str(partition),
                )
        self._durable |= starts
        self._reached |= starts
        return starts

    def deliver(self, batches: Sequence[MicroBatch]) -> Offsets:
        """See `Sink.deliver`."""
        for batch in (batch.after(self._reached) for batch in batches):
            if batch.results.num_rows:
                rows = with_partition(batch, self._plan.partition)
                self._gathered.append(rows)
                self._bytes += rows.nbytes
            for partition, offset in batch.next_offsets.items():
                self._reached[partition] = max(offset, self._reached[partition])
            if self._bytes >= self._plan.max_bytes:
                self.flush()
        if self._since is None and self._reached != self._durable:
            self._since = self._clock()
        return self.tick()

    def tick(self) -> Offsets:
        """See `Sink.tick`."""
        if self._since is not None and self._clock() - self._since >= self._plan.max_seconds:
            return self.flush()
        return dict(self._durable)

    def flush(self) -> Offsets:
        """See `Sink.flush`."""
        moves = {
            p: (self._durable[p], offset) for p, offset in self._reached.items() if offset > self._durable[p]
        }
        if moves:
            self._append(self._gathered, moves)
            self._durable |= {p: to for p, (_, to) in moves.items()}
        self._gathered, self._bytes, self._since = [], 0, None
        return dict(self._durable)

    def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        """See `Sink.revoked`."""
        for partition in partitions:
            self._durable.pop(partition, None)
            self._reached.pop(partition, None)
        gone = arrays.from_texts([str(partition) for partition in partitions])
        kept = [
            b.filter(pc.invert(pc.is_in(b.column(SOURCE).cast(pa.string()), gone))) for b in self._gathered
        ]
        self._gathered = [batch for batch in kept if batch.num_rows]
        self._bytes = sum(batch.nbytes for batch in self._gathered)
        if self._reached == self._durable:
            self._since = None

    def close(self) -> None:
        """See `Sink.close`."""
        self.revoked(list(self._reached))

    def _append(
        self, rows: list[pa.RecordBatch], moves: Mapping[TopicPartition, tuple[int | None, int]]
    ) -> None:
        table = pa.Table.from_batches(rows, table_columns(self._plan.schema, list(self._plan.partition)))
        models: Counter[str] = Counter()
        for batch in rows:
            for count in pc.value_counts(batch.column(MODEL).cast(pa.string())).to_pylist():
                models[count["values"]] += count["counts"]
        told = {"run_id": self._plan.run_id, "rows": table.num_rows, "models": dict(models)}
        try:
            version = self._table.append(
                table, {str(p): self._move(*move) for p, move in moves.items()}, told
            )
        except CommitRefused as e:
            raise GroupFenced(e.message, **e.fields) from e
        _log.info("version %d of the table has %d rows more", version, table.num_rows)


def table_columns(results: pa.Schema, partition_by: Sequence[str]) -> pa.Schema:
    """The columns that a table sink appends: those of results, then the partition columns as text."""
    return pa.schema([*results, *(pa.field(name, pa.string()) for name in partition_by)])


def with_partition(batch: MicroBatch, partition: Mapping[str, str]) -> pa.RecordBatch:
    """The results of a batch as a table sink appends them."""
    rows = batch.results
    columns = [
        _days(batch.records.timestamps.take(arrays.from_numpy(batch.rows)))
        if source == TIMESTAMP
        else _texts(rows.column(source))
        for source in partition.values()
    ]
    schema = table_columns(rows.schema, list(partition))
    return pa.RecordBatch.from_arrays([*rows.columns, *columns], schema=schema)


def _days(milliseconds: pa.Int64Array) -> pa.StringArray:
    """UTC days, as 2013-01-31."""
    values, present = arrays.to_numpy(milliseconds)
    if present is not None:
        values = np.where(present, values, 0)
    days, places = np.unique(values // 86_400_000, return_inverse=True)
    names = arrays.from_texts(np.datetime_as_string(days.astype("datetime64[D]")).tolist())
    texts = names.take(arrays.from_numpy(places.reshape(-1)))
    return pc.if_else(pc.is_valid(milliseconds), texts, arrays.repeated(UNKNOWN, len(texts)))


def _texts(column: pa.Array) -> pa.StringArray:
    if pa.types.is_timestamp(column.type):
        texts = _days(column.cast(pa.timestamp("ms"), safe=False).cast(pa.int64()))
    elif pa.types.is_date32(column.type):
        texts = _days(column.cast(pa.timestamp("ms")).cast(pa.int64()))
    else:
        texts = column.cast(pa.string())
    named = pc.invert(pc.or_(pc.is_null(texts), pc.is_in(texts, arrays.from_texts(["", HIVE_NULL]))))
    return pc.if_else(named, texts, arrays.repeated(UNKNOWN, len(texts)))
