"""The results table of a stream: opened as the spec says, as a sink and for its repair."""

from __future__ import annotations

from collections.abc import Mapping

from batchinfer.runs._stream_plan import StreamPlan
from batchinfer.spec import PipelineSpec
from batchinfer.store import Move, StreamedTable, open_stream_table
from batchinfer.streaming import (
    Consumer,
    MicroBatch,
    Records,
    Score,
    TablePlan,
    TableSink,
)


def table_sink(plan: StreamPlan, table: StreamedTable, consumer: Consumer) -> TableSink:
    """The sink for a plan's table."""
    stream = plan.stream
    rows = TablePlan(
        schema=plan.score.path.result_schema,
        partition=partition_sources(plan.spec),
        max_bytes=int(stream.sink_max_mb * 1e6),
        max_seconds=stream.sink_max_seconds,
        run_id=plan.run_id,
    )
    return TableSink(
        rows,
        table,
        Move,
        committed=consumer.committed,
        begin_offsets=consumer.begin_offsets,
        end_offsets=consumer.end_offsets,
    )


def open_table(plan: StreamPlan) -> StreamedTable:
    """The table of `output`, held against the plan's rows, and made where there is none.

    Raises:
        SpecError: the store cannot take a stream. StoreError: the table does not take such rows.
    """
    spec = plan.spec
    upsert = spec.input.key if spec.output.mode == "upsert" else ()
    table = open_stream_table(
        spec.output.store, spec.output.path, spec.output.partition_by, spec.name, upsert=upsert
    )
    table.begin(plan.score.path.result_schema)
    return table


def partition_sources(spec: PipelineSpec) -> Mapping[str, str]:
    """For each partition column, in order, where a stream's rows have it from."""
    stated = {} if spec.stream is None else spec.stream.sink_partition
    return {name: stated.get(name, "timestamp") for name in spec.output.partition_by}


def storable(score: Score, table: StreamedTable) -> Score:
    """Score, and refuse messages with a row that the table cannot hold: no message may stop its stream."""

    def scored(records: Records, polled_at: float) -> MicroBatch:
        batch = score(records, polled_at)
        found = table.unstorable(batch.results)
        why = {int(batch.rows[row]): reason for row, reason in sorted(found.items(), reverse=True)}
        return batch.refusing(why) if why else batch

    return scored
