"""The stream job: a plan, a client, sinks and the service, put together and taken apart in the right order."""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from batchinfer.errors import BatchinferError, BrokerRefused
from batchinfer.runs._stream_drift import DriftWindows
from batchinfer.runs._stream_encoding import PredictionEncoders
from batchinfer.runs._stream_plan import StreamPlan, StreamPlanner, stream_of
from batchinfer.runs._stream_refresh import CurrentPlan
from batchinfer.runs._stream_report import StreamReport
from batchinfer.runs._stream_table import open_table, storable, table_sink
from batchinfer.spec import BudgetSpec, PipelineSpec
from batchinfer.streaming import (
    Client,
    Consumer,
    ErrorBudget,
    Flow,
    Health,
    Meter,
    MetricsServer,
    MicroBatch,
    Offsets,
    Reading,
    Score,
    StreamService,
    TopicPartition,
    TopicPlan,
    TopicSink,
    open_client,
    tuned_process,
)

_log = logging.getLogger("batchinfer.stream")
_SHOW_SECONDS = 0.5


class StreamProgress(Protocol):
    """Shown how a stream gets on."""

    def started(self, pipeline: str, model: str, topic: str) -> None:
        """Once, before the first message."""

    def show(self, reading: Reading) -> None:
        """About twice a second."""

    def finished(self) -> None:
        """Once."""


@dataclass(frozen=True, slots=True)
class _Watchers:
    """Told of each commit, in this order: the windows of drift, then the budget, which may stop the stream."""

    windows: DriftWindows | None
    budget: ErrorBudget

    def committed(self, batches: Sequence[MicroBatch]) -> None:
        """See `batchinfer.streaming.Watcher`."""
        if self.windows is not None:
            self.windows.committed(batches)
        self.budget.committed(batches)


def stream(
    spec: PipelineSpec,
    *,
    until_end: bool = False,
    stop: threading.Event | None = None,
    progress: StreamProgress | None = None,
) -> StreamReport:
    """Score a pipeline's topic until `stop` is set, then drain; see docs/streaming.md.

    Args:
        spec: a pipeline with a `stream:` section.
        until_end: stop at the offsets that were the end when it started.
        stop: set from a signal handler or another thread.
        progress: shown the counts.

    Raises:
        BatchinferError: what stopped it; its report is in the error's fields. All that was committed stands, and the
            same command goes on from there.
    """
    planner = StreamPlanner(spec)
    plan = planner.plan(planner.resolve())
    meter, started_at = Meter(), datetime.now(UTC).isoformat(timespec="seconds")
    report = StreamReport(
        run_id=plan.run_id, status="failed", pipeline=spec.name, model=_told(plan), started_at=started_at
    )
    job = _Job(planner, plan, meter)
    try:
        with tuned_process():
            job.run(stop or threading.Event(), until_end=until_end, progress=progress)
    except BatchinferError as e:
        e.fields["report"] = _summed(report, job).with_(error=str(e))
        raise
    return _summed(report, job).with_(status="done")


class _Job:
    def __init__(self, planner: StreamPlanner, plan: StreamPlan, meter: Meter) -> None:
        self._planner, self._first, self.meter = planner, plan, meter
        self.current: CurrentPlan | None = None
        self.drained = True

    @property
    def plan(self) -> StreamPlan:
        """The plan that scores now."""
        return self._first if self.current is None else self.current.now

    def run(self, stop: threading.Event, *, until_end: bool, progress: StreamProgress | None) -> None:
        plan, stream = self._first, self._first.stream
        table = open_table(plan) if "store" in stream.sinks else None
        client = open_client(stream)
        partitions = _topics(client, plan)
        encoders = PredictionEncoders(stream)
        encoders.provide(plan)
        consumer = client.consumer(plan.group)
        ends: Offsets | None = None
        with ExitStack() as closing:
            if until_end:
                ends = consumer.end_offsets(
                    [TopicPartition(stream.input_topic, n) for n in range(partitions)]
                )
            windows = DriftWindows(plan) if plan.drift is not None else None
            if windows is not None:
                closing.callback(windows.close)

            def follow(moved: StreamPlan) -> None:
                encoders.provide(moved)
                if windows is not None:
                    windows.follow(moved)

            def score() -> Score:
                now = self.plan
                scored = now.score if table is None else storable(now.score, table)
                return topics.encoded(scored, encoders.of(now))

            self.current = CurrentPlan(self._planner, plan, stream.refresh_seconds, follow)
            closing.callback(self.current.close)
            topics = _topic_sink(client, plan, consumer)
            service = StreamService(
                consumer=consumer,
                topic=stream.input_topic,
                sinks=[topics] if table is None else [topics, table_sink(plan, table, consumer)],
                score=score,
                flow=_flow(plan),
                meter=self.meter,
                watcher=_Watchers(windows, ErrorBudget(_budget(plan))),
                commits_offsets=stream.delivery == "at-least-once",
            )
            if stream.metrics_port is not None:
                health = Health(
                    alive=lambda: True,
                    ready=lambda: service.ready,
                    model=lambda: self.plan.scorer.identity,
                    drift=lambda: windows.psi if windows is not None else {},
                )
                server = MetricsServer(
                    stream.metrics_host, stream.metrics_port, plan.spec.name, self.meter, health
                )
                closing.callback(server.close)
                _log.info("metrics on http://%s:%d/metrics", stream.metrics_host, server.port)
            closing.enter_context(_shown(progress, plan, self.meter))
            try:
                service.run(stop, ends)
            finally:
                self.drained = service.drained


def _topics(client: Client, plan: StreamPlan) -> int:
    """Check the input topic, and create the others where there are none; returns the input's partitions."""
    stream = plan.stream
    partitions = client.partitions(stream.input_topic)
    if partitions is None:
        raise BrokerRefused(
            f"stream.input_topic: there is no topic '{stream.input_topic}' at {stream.bootstrap_servers}",
            next_step="create it, or start `batchinfer kafka dev PIPELINE`, which does",
            topic=stream.input_topic,
        )
    for topic in (stream.output_topic, stream.dead_letters):
        if topic is not None and client.partitions(topic) is None:
            _log.info("creating the topic %s with %d partitions", topic, partitions)
            client.create_topic(topic, partitions)
    return partitions


def create_topics(spec: PipelineSpec, bootstrap_servers: str, partitions: int) -> list[str]:
    """Create the topics of a pipeline's stream on a broker, where there are none; returns their names."""
    stream = stream_of(spec).model_copy(update={"bootstrap_servers": bootstrap_servers})
    client = open_client(stream)
    topics = [stream.input_topic, stream.output_topic, stream.dead_letters]
    for topic in (names := [topic for topic in topics if topic is not None]):
        if client.partitions(topic) is None:
            client.create_topic(topic, partitions)
    return names


def _topic_sink(client: Client, plan: StreamPlan, consumer: Consumer) -> TopicSink:
    stream = plan.stream
    exactly_once = stream.delivery == "exactly-once"
    transactional_id = f"{plan.group}-{stream.instance_id or uuid.uuid4().hex}" if exactly_once else None
    topics = TopicPlan(
        output=stream.output_topic,
        dead_letters=stream.dead_letters,
        pipeline=plan.spec.name,
        exactly_once=exactly_once,
        output_limit_bytes=client.message_limit_bytes(stream.output_topic or stream.dead_letters),
        # What is sensitive is not written a second time: the letter says where its value is.
        letter_limit_bytes=0
        if plan.spec.input.sensitive
        else client.message_limit_bytes(stream.dead_letters),
    )
    return TopicSink(
        topics,
        lambda: client.producer(transactional_id),
        own_id=stream.instance_id is None,
        committed=consumer.committed,
        group=consumer.group,
    )


def _flow(plan: StreamPlan) -> Flow:
    stream = plan.stream
    return Flow(
        max_batch=stream.max_batch,
        max_latency_s=stream.max_latency_ms / 1e3,
        max_bytes=int(stream.max_queue_mb * 1e6),
        threads=stream.threads or _cores(),
        drain_s=stream.drain_seconds,
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _budget(plan: StreamPlan) -> BudgetSpec:
    """The spec's budget; none at all where a failed expectation is to stop the pipeline."""
    budget = plan.stream.error_budget
    if plan.spec.quality.on_failure == "fail":
        return budget.model_copy(update={"share": 0.0, "min_records": 1})
    return budget


def _show(progress: StreamProgress, meter: Meter, closing: threading.Event) -> None:
    while not closing.wait(_SHOW_SECONDS):
        progress.show(meter.read())
    progress.show(meter.read())
    progress.finished()


@contextmanager
def _shown(progress: StreamProgress | None, plan: StreamPlan, meter: Meter) -> Iterator[None]:
    if progress is None:
        yield
        return
    progress.started(plan.spec.name, plan.scorer.identity, plan.stream.input_topic)
    done = threading.Event()
    thread = threading.Thread(target=_show, args=(progress, meter, done), name="show", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _told(plan: StreamPlan) -> dict[str, str]:
    manifest = plan.scorer.bundle.manifest
    return {"name": manifest.name, "version": manifest.version, "digest": manifest.digest}


def _summed(report: StreamReport, job: _Job) -> StreamReport:
    now = job.meter.read()
    letters = sum(now.dead_letters.values())
    latency = {f"p{share}": now.quantile_ms(share / 100) for share in (50, 99)}
    return report.with_(
        run_id=job.plan.run_id,
        model=_told(job.plan),
        messages={"read": now.messages, "predicted": now.messages - letters, "dead_letters": letters},
        rows=now.rows,
        dead_letters=now.dead_letters,
        expectations=now.expectations,
        models=now.models,
        batches=now.batches,
        commits=now.commits,
        aborted=now.aborted,
        rebalances=now.rebalances,
        latency_ms={name: None if ms is None else round(ms, 1) for name, ms in latency.items()},
        seconds=round(now.seconds, 3),
        records_per_second=int(now.messages / max(1e-3, now.busy_seconds)),
        drained=job.drained,
    )
