"""Parity: a window of a topic scored again through the batch path, and held against what the stream wrote."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchinfer.core import MODEL, POSITION, RUN_ID, SOURCE, StagingArea, arrays, table_schema
from batchinfer.engines import open_engine
from batchinfer.errors import UsageError
from batchinfer.runs._parity_compare import Compared, compare, keys_of
from batchinfer.runs._plan import make_plan
from batchinfer.runs._stream_plan import StreamPlan, StreamPlanner, stream_of
from batchinfer.runs._stream_table import open_table
from batchinfer.runs._stream_window import Bound, TopicReader, Window, by_source, sources, told
from batchinfer.runs._work import RunWork
from batchinfer.runs._worker import Staging
from batchinfer.spec import AlertsSpec, EngineSpec, PipelineSpec, QualitySpec
from batchinfer.store import StreamedTable, in_window, open_store
from batchinfer.streaming import Client, open_client, open_decoder

_MOST_EXAMPLES = 20
_NOT_COMPARED = {RUN_ID, SOURCE, POSITION}


@dataclass(frozen=True, slots=True)
class SinkParity:
    """What came out for one sink.

    Attributes:
        sink: `topic` or `store`, and `place`: the topic's name, or the table.
        window: by topic-partition, the first offset and the one after the last.
        rows: that the stream wrote.
        equal: of them, all bits as the batch path has them.
        different: by result column, rows with other bits.
        missing: rows that the batch path has, and the stream has not.
        extra: rows that the stream has, and the batch path has not, or has once.
        models: rows by the model that the stream says it scored them with.
        examples: the first differences: source, position, column, written, scored.
    """

    sink: str
    place: str
    window: dict[str, list[int]]
    rows: int
    equal: int
    different: dict[str, int]
    missing: int
    extra: int
    models: dict[str, int]
    examples: list[dict[str, Any]]

    @property
    def agrees(self) -> bool:
        """Whether nothing differs."""
        return not (self.different or self.missing or self.extra)


@dataclass(frozen=True, slots=True)
class ParityReport:
    """What `batchinfer parity --json` prints. `messages` are those of the largest window."""

    pipeline: str
    messages: int
    equal: bool
    sinks: list[SinkParity] = field(default_factory=list)

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))


def parity(spec: PipelineSpec, low: Bound, high: Bound, *, sinks: Sequence[str] = ()) -> ParityReport:
    """Score a window's messages again from a Parquet file, by the worker of batch runs, and compare.

    Each row is scored by the model that the stream's row names. Nothing is written but temporary files.

    Args:
        spec: a pipeline with a stream.
        low: where the window begins.
        high: where it ends; no later than the sink has come.
        sinks: `topic`, `store`; by default all of the stream's.

    Raises:
        UsageError: the stream has no such sink, has not come so far, or the window is empty: nothing was compared.
        ModelError: a model that scored rows is not in the registry any more.
    """
    stream = stream_of(spec)
    if absent := [sink for sink in sinks if sink not in stream.sinks]:
        raise UsageError(f"stream.sinks: the stream writes to no {absent[0]}", found=absent[0])
    planner = StreamPlanner(spec)
    plan = planner.plan(planner.resolve())
    client = open_client(stream)
    table = open_table(plan) if "store" in stream.sinks else None
    found, messages = [], 0
    for sink in sinks or stream.sinks:
        with (
            TopicReader.reading(client, stream.input_topic) as reader,
            tempfile.TemporaryDirectory(prefix="batchinfer-parity-") as folder,
        ):
            window = reader.window(low, high, _reached(sink, plan, table, client, reader))
            written = _from_table(plan, window) if sink == "store" else _from_topic(plan, client, window)
            batch = _Batch(plan, table, Path(folder))
            messages = max(messages, batch.read(reader, window))
            found.append(_held(sink, plan, window, written, batch))
    return ParityReport(spec.name, messages, all(sink.agrees for sink in found), found)


def _reached(
    sink: str, plan: StreamPlan, table: StreamedTable | None, client: Client, reader: TopicReader
) -> dict[Any, int]:
    """Where the stream's sink has come."""
    if sink == "store" and table is not None:
        names = sources(reader.partitions)
        return {names[source]: at for source, at in table.positions(list(names)).items()}
    consumer = client.consumer(plan.group)
    try:
        return consumer.committed(reader.partitions)
    finally:
        consumer.close()


def _from_table(plan: StreamPlan, window: Window) -> pa.Table:
    output = plan.spec.output
    table = open_store(output.store, output.path, output.partition_by, plan.spec.name)
    names = table_schema(plan.score.path.result_schema, ()).names
    found: pa.Table = table.dataset().to_table(names, filter=in_window(by_source(window)))
    return found


def _from_topic(plan: StreamPlan, client: Client, window: Window) -> pa.Table:
    """The predictions of a window. Nothing says where in the topic they are: all of it is read."""
    schema = table_schema(plan.score.path.result_schema, ())
    decoder = open_decoder(schema, plan.stream.output_format, plan.spec.folder)
    output = plan.stream.output_topic
    assert output is not None
    pieces = []
    with TopicReader.reading(client, output) as reader:
        for records in reader.all():
            table = pa.Table.from_batches([decoder.decode(records.values).batch])
            pieces.append(table.filter(in_window(by_source(window))))
    return pa.concat_tables([schema.empty_table(), *(piece.cast(schema) for piece in pieces)])


class _Batch:
    """The window's messages as a Parquet file, and what batch workers make of it."""

    def __init__(self, plan: StreamPlan, table: StreamedTable | None, folder: Path) -> None:
        self._plan, self._table, self._folder = plan, table, folder
        self._input = folder / "input" / "messages.parquet"
        self._sources: list[pa.Array] = []
        self._positions: list[pa.Array] = []

    def read(self, reader: TopicReader, window: Window) -> int:
        """Decode the messages into the file; returns how many there are."""
        plan, messages = self._plan, 0
        self._input.parent.mkdir()
        with pq.ParquetWriter(self._input, plan.schema) as writer:
            for records in reader.read(window):
                decoded = plan.score.decoder.decode(records.decodable)
                codes, partitions = records.partition_codes()
                names = pa.array([str(partition) for partition in partitions], pa.string())
                self._sources.append(names.take(arrays.from_numpy(codes[decoded.rows])))
                self._positions.append(records.offsets.take(arrays.from_numpy(decoded.rows)))
                if decoded.batch.num_rows:
                    writer.write_batch(decoded.batch)
                messages += len(records)
        return messages

    def score(self, model: str, identity: str) -> pa.Table:
        """The result rows of a model, with the sources and positions of their messages."""
        plan, folder = self._plan, self._folder / identity
        result = table_schema(plan.score.path.result_schema, ())
        if not sum(map(len, self._positions)):
            return result.empty_table()
        spec = plan.spec.model_copy(
            update={
                "model": model,
                "input": plan.spec.input.model_copy(update={"path": str(self._input.parent)}),
                "output": plan.spec.output.model_copy(
                    update={"store": "delta", "path": str(folder), "partition_by": (), "mode": "replace"}
                ),
                "quality": QualitySpec(),
                "drift": None,
                "alerts": AlertsSpec(),
                "engine": EngineSpec(),
                "schedule": None,
                "stream": None,
            }
        )
        run = make_plan(spec, {})
        area = StagingArea(str(folder / "parts"), str(folder / "receipts"))
        aside = StagingArea(str(folder / "quarantine"), str(folder / "letters"))
        work = RunWork.of(run, Staging(area, aside), (), plan.score.path.checks)
        with open_engine(spec.engine) as engine:
            worker = work.worker(run.scorer, run.transform, engine.blocks or map, lambda _: None)
            reports = list(engine.map(worker, run.units))
        parts = [folder / "parts" / report.results.path for report in reports if report.results is not None]
        rows = pa.concat_tables([result.empty_table(), *(pq.read_table(part).cast(result) for part in parts)])
        places = rows[POSITION].combine_chunks()
        at = rows.schema.get_field_index
        rows = rows.set_column(at(SOURCE), result.field(SOURCE), pa.chunked_array(self._sources).take(places))
        rows = rows.set_column(
            at(POSITION), result.field(POSITION), pa.chunked_array(self._positions).take(places)
        )
        return rows if self._table is None else _storable(rows, self._table)


def _storable(rows: pa.Table, table: StreamedTable) -> pa.Table:
    """Without the messages that the stream refused because its table cannot hold a row of them."""
    [whole] = rows.combine_chunks().to_batches() or [None]
    found = {} if whole is None else table.unstorable(whole)
    if not found:
        return rows
    names = sorted({rows[SOURCE][place].as_py() for place in found})
    keys = keys_of(rows, names)[["source", "position"]]
    return rows.filter(pa.array(~np.isin(keys, keys[sorted(found)])))


def _held(sink: str, plan: StreamPlan, window: Window, written: pa.Table, batch: _Batch) -> SinkParity:
    """Hold each model's rows against what batch makes of their messages with it."""
    counts = pc.value_counts(written[MODEL].combine_chunks().cast(pa.string())).to_pylist()
    models = {str(each["values"]): int(each["counts"]) for each in counts}
    columns = [name for name in plan.score.path.result_schema.names if name not in _NOT_COMPARED]
    names = [str(partition) for partition in window]
    there = keys_of(written, names)
    total, absent = Compared(), None
    for model in models or {plan.scorer.identity: 0}:
        scored = batch.score(plan.spec.model if model == plan.scorer.identity else model, model)
        mine = written.filter(pc.equal(written[MODEL], model))
        total = total.joined(
            compare(
                mine,
                scored,
                names,
                columns,
                as_json=sink == "topic" and plan.stream.output_format.kind == "json",
            )
        )
        # A message without a row is missed where each of the models that were live gives it one.
        lacking = np.setdiff1d(keys_of(scored, names), there, assume_unique=True)
        absent = lacking if absent is None else np.intersect1d(absent, lacking, assume_unique=True)
    examples = list(total.examples)
    for source, position, _ in [] if absent is None else absent[: _MOST_EXAMPLES - len(examples)].tolist():
        at = {"source": names[source], "position": position}
        examples.append({**at, "column": None, "written": "no row", "scored": "a row"})
    place = plan.stream.output_topic if sink == "topic" else plan.spec.output.path
    return SinkParity(
        sink=sink,
        place=str(place),
        window=told(window),
        rows=written.num_rows,
        equal=total.equal,
        different=dict(total.different),
        missing=0 if absent is None else len(absent),
        extra=total.extra,
        models=models,
        examples=examples,
    )
