"""Telling of a run: metrics at its end, lineage at its start and end. Whatever becomes of it, the run goes on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchinfer.errors import BatchinferError, DriftGate, Interrupted, RunFailed, UsageError
from batchinfer.runs._plan import Plan
from batchinfer.runs._report import RunReport
from batchinfer.secrets import without_secrets
from batchinfer.spec import PipelineSpec, parameters_of
from batchinfer.telemetry import (
    BackfillFacts,
    Columns,
    Dataset,
    Delivery,
    LineageReceiver,
    LineageRun,
    MetricsReceivers,
    RunFacts,
    Trigger,
    emit,
    of_backfill,
    of_run,
    of_success,
    push,
)

if TYPE_CHECKING:
    from batchinfer.runs._backfill_report import BackfillReport
    from batchinfer.telemetry import Kind


class RunTelemetry:
    """What one attempt at a run tells. Nothing is raised: failures are logged, and stand in the run's report.

    Args:
        spec: the run's pipeline.
        trigger: what started it; days of a backfill say nothing in the place of nightly runs.
    """

    def __init__(self, spec: PipelineSpec, trigger: Trigger) -> None:
        self._spec = spec
        self._trigger: Trigger = trigger
        self._metrics = MetricsReceivers.of(spec.metrics)
        self._lineage = LineageReceiver.of(spec.lineage)
        self._started_s = time.time()
        self._deliveries: list[Delivery] = []

    def started(self, plan: Plan, report: RunReport) -> None:
        """The run has a plan, and its work begins."""
        self._emit("START", report, plan)

    def ended(
        self, plan: Plan, report: RunReport, error: BaseException | None = None
    ) -> list[dict[str, Any]]:
        """The run has ended; returns what became of all that was told of it."""
        self._push(report, error)
        self._emit(_KINDS.get(report.status, "FAIL"), report, plan)
        return [asdict(delivery) for delivery in self._deliveries]

    def unplanned(self, parameters: Mapping[str, str], error: BaseException) -> None:
        """The run has ended before it had a plan. A command that was typed wrongly says nothing of its pipeline."""
        if isinstance(error, UsageError):
            return
        report = RunReport(
            run_id="",
            status="interrupted" if isinstance(error, KeyboardInterrupt) else "failed",
            pipeline=self._spec.name,
            parameters=dict(parameters),
            model={},
            started_at=_utc(self._started_s),
            seconds=round(time.time() - self._started_s, 3),
            error=without_secrets(str(error) or repr(error)),
        )
        self._push(report, error)
        self._emit(_KINDS.get(report.status, "FAIL"), report, None)

    def _push(self, report: RunReport, error: BaseException | None) -> None:
        if self._metrics is None:
            return

        def facts() -> RunFacts:
            return RunFacts(
                report.to_dict(),
                _exit_code(self._spec, report, error),
                self._started_s,
                time.time(),
                _limits(self._spec),
            )

        groups = {"": lambda: of_run(facts()), "success": lambda: of_success(facts())}
        self._deliveries += push(self._metrics, groups, self._spec.name, self._trigger, report.run_id)

    def _emit(self, kind: Kind, report: RunReport, plan: Plan | None) -> None:
        if self._lineage is None:
            return
        namespace = self._lineage.namespace

        def event() -> LineageRun:
            inputs, outputs = ((), ()) if plan is None else _datasets(plan, report)
            stated = " ".join(f"{name}={value}" for name, value in sorted(report.parameters.items()))
            return LineageRun(
                kind=kind,
                time=_utc(time.time()),
                run_id=report.run_id or f"{report.pipeline} {stated}: no plan",
                namespace=namespace,
                pipeline=report.pipeline,
                parameters=report.parameters,
                model=report.model,
                details={
                    "status": report.status,
                    "trigger": self._trigger,
                    "engine": self._spec.engine.kind,
                    "started_at": report.started_at,
                    "rows": asdict(report.rows),
                    "drift_alarm": report.drift.get("alarm"),
                },
                inputs=inputs,
                outputs=outputs,
                error=report.error if kind == "FAIL" else None,
            )

        self._deliveries.append(emit(self._lineage.url, report.run_id, event))


def tell_backfill(spec: PipelineSpec, report: BackfillReport) -> None:
    """A backfill has ended: its metrics. What its days told was told by each run."""
    receivers = MetricsReceivers.of(spec.metrics)
    if receivers is not None:
        push(
            receivers,
            {"days": lambda: of_backfill(BackfillFacts(report.to_dict(), time.time()))},
            spec.name,
            "backfill",
        )


_KINDS: dict[str, Kind] = {"done": "COMPLETE", "interrupted": "ABORT"}


def _limits(spec: PipelineSpec) -> dict[str, float]:
    """The shares that a spec allows."""
    limits = {"quarantined": 0.0 if spec.quality.on_failure == "fail" else spec.quality.max_quarantined}
    if spec.drift is not None:
        limits["drifted_columns"] = spec.drift.thresholds.drifted_columns
    return limits


def _exit_code(spec: PipelineSpec, report: RunReport, error: BaseException | None) -> int:
    """What the command will end with."""
    if isinstance(error, BatchinferError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return Interrupted.exit_code
    if error is not None:
        return RunFailed.exit_code
    fails = spec.drift is not None and spec.drift.on_drift == "fail" and report.drift.get("alarm")
    return DriftGate.exit_code if fails else 0


def _datasets(plan: Plan, report: RunReport) -> tuple[tuple[Dataset, ...], tuple[Dataset, ...]]:
    """What a run reads and writes. Counts of the output stand there once it is committed."""
    committed = report.table_version is not None
    spec, layer = plan.spec, plan.spec.output.store
    sensitive = frozenset(spec.input.sensitive)
    read = Dataset(
        location=_table_of(spec.input.path, plan.input_path),
        layer="parquet",
        columns=Columns(_types(plan.originals)),
        rows=plan.rows,
        size_bytes=sum(file.size_bytes for file in plan.inputs),
        files=len(plan.inputs),
        failed={each["expectation"]: each["severity"] for each in report.quality.get("failed", [])},
    )
    partitions = [pa.field(name, pa.string()) for name in spec.output.partition_by]
    sources = plan.columns if plan.transform is None else tuple(read.columns.types)
    scored_from = plan.scorer.columns if plan.transform is None else sources
    results = Dataset(
        location=plan.output_path,
        layer=layer,
        columns=Columns(
            _types([*plan.result_schema, *partitions]),
            copied=tuple(field.name for field in (*plan.key, *plan.carry)),
            hashed=sensitive - {*spec.output.clear},
            computed=tuple(plan.scorer.output_schema.names),
            computed_from=tuple(scored_from or ()),
        ),
        rows=report.rows.scored if committed else None,
        version=str(report.table_version) if committed else None,
    )
    if not (committed and report.rows.quarantined):
        return (read,), (results,)
    refused = Dataset(
        location=f"{plan.output_path.rstrip('/')}_quarantine",
        layer=layer,
        columns=Columns(
            _types([*plan.originals, *partitions]),
            copied=tuple(field.name for field in plan.originals),
            hashed=sensitive,
        ),
        rows=report.rows.quarantined,
    )
    return (read,), (results, refused)


def _table_of(template: str, filled: str) -> str:
    """The folder above the first that a parameter names: the same dataset on each day."""
    if not parameters_of(template):
        return filled
    above, slash, _ = template.partition("{")[0].rpartition("/")
    return above if slash and not above.endswith(("/", ":")) else filled


def _types(fields: Sequence[pa.Field]) -> dict[str, str]:
    return {field.name: str(field.type) for field in fields}


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
