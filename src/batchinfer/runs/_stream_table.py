"""The results table of a stream: opened as the spec says, as a sink and for its repair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from batchinfer.core import arrays
from batchinfer.runs._stream_plan import StreamPlan
from batchinfer.spec import PipelineSpec
from batchinfer.store import Move, StreamedTable, open_stream_table
from batchinfer.streaming import (
    Consumer,
    MicroBatch,
    Records,
    Refused,
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
        return _refused(batch, found) if found else batch

    return scored


def _refused(batch: MicroBatch, found: Mapping[int, str]) -> MicroBatch:
    why = dict(zip(batch.refused.messages.tolist(), batch.refused.reasons, strict=True))
    names = dict(zip(batch.refused.messages.tolist(), batch.refused.expectations, strict=True))
    for row, reason in found.items():
        why.setdefault(int(batch.rows[row]), reason)
    order = sorted(why)
    keep = ~np.isin(batch.rows, order)
    return replace(
        batch,
        results=batch.results.filter(arrays.from_numpy(keep)),
        rows=batch.rows[keep],
        refused=Refused(
            np.array(order, np.int64), [why[m] for m in order], [names.get(m, ()) for m in order]
        ),
    )
