"""Repair: the rows of an offset window scored again, in the place of those that the stream wrote, in one commit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from batchinfer.errors import UsageError
from batchinfer.runs._stream_plan import StreamPlan, StreamPlanner, stream_of
from batchinfer.runs._stream_table import open_table, partition_sources, storable
from batchinfer.runs._stream_window import Bound, TopicReader, Window, by_source, sources, told
from batchinfer.spec import PipelineSpec
from batchinfer.store import StreamedTable
from batchinfer.streaming import open_client, table_columns, with_partition

_PIECE_BYTES = 128_000_000


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What `batchinfer stream repair --json` prints.

    Attributes:
        pipeline: the spec's name.
        model: `name@version` that scored the rows that stand now.
        run_id: what they carry.
        table: where.
        window: by topic-partition, the first offset and the one after the last.
        messages: in the window.
        refused: messages of it that get no row: undecodable, failing a check, or refused by the model.
        removed: rows that stood there.
        written: rows that stand there now.
        version: of the table.
    """

    pipeline: str
    model: str
    run_id: str
    table: str
    window: dict[str, list[int]]
    messages: int
    refused: int
    removed: int
    written: int
    version: int

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))


def repair_stream(spec: PipelineSpec, low: Bound, high: Bound, *, model: str | None = None) -> RepairReport:
    """Replace exactly the rows of a window in the results table by rows that are scored now.

    A stream may go on meanwhile. Dead letters stay where they are: a message that gets a row now and had none is one
    whose letter is out of date.

    Args:
        spec: a pipeline whose stream writes to its table.
        low: where the window begins.
        high: where it ends; no later than the table has come.
        model: NAME@VERSION, or an alias, in the place of the spec's.

    Raises:
        UsageError: the stream writes to no table, or the window is not in it.
        StoreError, Transient: nothing has changed, or all: done twice it is done once.
    """
    stream = stream_of(spec)
    if "store" not in stream.sinks:
        raise UsageError(
            "stream.sinks: there is no table to repair; a topic keeps what was written",
            next_step="add 'store' to stream.sinks",
        )
    if model is not None:
        spec = spec.model_copy(update={"model": model})
    planner = StreamPlanner(spec)
    plan = planner.plan(planner.resolve())
    table = open_table(plan)
    with TopicReader.reading(open_client(stream), stream.input_topic) as reader:
        names = sources(reader.partitions)
        reached = {names[source]: at for source, at in table.positions(list(names)).items()}
        window = reader.window(low, high, reached)
        return _Repair(plan, table).run(reader, window)


class _Repair:
    def __init__(self, plan: StreamPlan, table: StreamedTable) -> None:
        self._plan, self._table = plan, table
        self._score = storable(plan.score, table)
        self._messages = self._refused = 0

    def run(self, reader: TopicReader, window: Window) -> RepairReport:
        plan, identity = self._plan, self._plan.scorer.identity
        info = {"run_id": plan.run_id, "repair": identity}
        done = self._table.replace(self._pieces(reader, window), by_source(window), info)
        return RepairReport(
            pipeline=plan.spec.name,
            model=identity,
            run_id=plan.run_id,
            table=self._table.path,
            window=told(window),
            messages=self._messages,
            refused=self._refused,
            removed=done.removed,
            written=done.written,
            version=done.version,
        )

    def _pieces(self, reader: TopicReader, window: Window) -> Iterator[pa.Table]:
        """The rows, in pieces that fit in memory."""
        partition = partition_sources(self._plan.spec)
        schema = table_columns(self._plan.score.path.result_schema, list(partition))
        gathered: list[Any] = []
        size = 0
        for records in reader.read(window):
            batch = self._score(records, 0.0)
            self._messages += len(batch.records)
            self._refused += len(batch.refused)
            gathered.append(with_partition(batch, partition))
            size += gathered[-1].nbytes
            if size >= _PIECE_BYTES:
                yield pa.Table.from_batches(gathered, schema)
                gathered, size = [], 0
        yield pa.Table.from_batches(gathered, schema)
