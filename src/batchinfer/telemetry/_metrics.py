"""A run and a backfill as Prometheus metrics. Pure: from facts to the text that collectors read.

Everything is a gauge, for it is said of one run, the latest: a batch job has no process that could count on. So no
name ends in _total, and `increase` says nothing here. Labels are those of the stream: `pipeline`, `model` as
name@version, `column`, `reason`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

Trigger = Literal["run", "backfill"]
_STATUSES = ("done", "failed", "unknown", "interrupted")
_MOST_REASONS = 20


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric: its name, what it says, and the labels that it has besides `pipeline` and `trigger`."""

    name: str
    help: str
    labels: tuple[str, ...] = ()


METRICS = (
    Metric("batchinfer_run_info", "The latest run; always 1.", ("run_id", "model")),
    Metric("batchinfer_run_status", "1 for how the latest run ended, 0 for each other way.", ("status",)),
    Metric("batchinfer_run_exit_code", "The latest run's exit code: 0 done, 3 quality gate, 4 drift gate, …"),
    Metric("batchinfer_run_start_timestamp_seconds", "When the latest run began, in seconds since 1970."),
    Metric("batchinfer_run_end_timestamp_seconds", "When the latest run ended, in seconds since 1970."),
    Metric(
        "batchinfer_run_last_success_timestamp_seconds",
        "When a run last ended with its results committed, in seconds since 1970.",
    ),
    Metric("batchinfer_run_duration_seconds", "Wall time of the latest run."),
    Metric("batchinfer_run_stage_duration_seconds", "Wall time of the latest run's stages.", ("stage",)),
    Metric(
        "batchinfer_run_worker_seconds",
        "Time of the latest run's workers, all threads and machines together.",
        ("step",),
    ),
    Metric(
        "batchinfer_run_rows", "Rows of the latest run; those read are the sum over outcomes.", ("outcome",)
    ),
    Metric("batchinfer_run_rows_per_second", "Rows read by the latest run in a second of its wall time."),
    Metric("batchinfer_run_units", "Units of work of the latest run.", ("state",)),
    Metric("batchinfer_run_model_loads", "Model sessions that the latest run opened, over all its workers."),
    Metric("batchinfer_run_table_version", "Version of the results table with the latest run's rows."),
    Metric("batchinfer_run_quarantined_ratio", "Share of the rows read that were set aside, 0 to 1."),
    Metric("batchinfer_run_quarantine_limit_ratio", "The share that quality.max_quarantined allows, 0 to 1."),
    Metric(
        "batchinfer_run_quarantined_rows",
        "Rows set aside, by the reason; the rarest as 'other'.",
        ("reason",),
    ),
    Metric("batchinfer_run_expectations", "Expectations of the suite.", ("result",)),
    Metric("batchinfer_run_nonfinite_scores", "NaN and infinite scores.", ("column",)),
    Metric("batchinfer_run_drift_alarm", "1 where the latest run's drift raised the alarm, else 0."),
    Metric("batchinfer_run_drifted_columns_ratio", "Share of the features that have drifted, 0 to 1."),
    Metric(
        "batchinfer_run_drifted_columns_limit_ratio", "The share from which on there is an alarm, 0 to 1."
    ),
    Metric("batchinfer_run_drift_psi", "Population stability index against the reference.", ("column",)),
    Metric("batchinfer_run_drift_psi_limit", "The index that is no drift of the column yet.", ("column",)),
    Metric("batchinfer_backfill_days", "Days of the latest backfill.", ("status",)),
    Metric("batchinfer_backfill_rows", "Rows of the latest backfill's days that stand.", ("outcome",)),
    Metric("batchinfer_backfill_exit_code", "The latest backfill's exit code."),
    Metric("batchinfer_backfill_duration_seconds", "Wall time of the latest backfill."),
    Metric("batchinfer_backfill_end_timestamp_seconds", "When the latest backfill ended, since 1970."),
)
"""All that a run or a backfill may say."""

_BY_NAME = {metric.name: metric for metric in METRICS}
_OUTCOMES = ("scored", "quarantined", "skipped")

Sample = tuple[str, tuple[str, ...], float]
"""A metric's name, the values of its own labels, and its value."""


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A run that ended.

    Attributes:
        report: the run's report, as `--json` prints it; `run_id` is empty where there was no plan.
        exit_code: what the command ends with.
        started_s: when it began; Unix time.
        ended_s: when it ended.
        limits: `quarantined` and, where drift is measured, `drifted_columns`: shares that the spec allows.
    """

    report: Mapping[str, Any]
    exit_code: int
    started_s: float
    ended_s: float
    limits: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BackfillFacts:
    """A backfill that ended; `report` as `--json` prints it."""

    report: Mapping[str, Any]
    ended_s: float


def of_run(facts: RunFacts) -> Iterator[Sample]:
    """What is said of a run. What it did not come to is left out."""
    report = facts.report
    status, model = report["status"], report["model"]
    identity = f"{model['name']}@{model['version']}" if model else ""
    yield "batchinfer_run_info", (report["run_id"], identity), 1
    for each in _STATUSES:
        yield "batchinfer_run_status", (each,), float(each == status)
    yield "batchinfer_run_exit_code", (), facts.exit_code
    yield "batchinfer_run_start_timestamp_seconds", (), facts.started_s
    yield "batchinfer_run_end_timestamp_seconds", (), facts.ended_s
    yield "batchinfer_run_duration_seconds", (), report["seconds"]
    if not report["run_id"]:
        return
    yield from _work(report)
    yield from _quality(report, facts.limits)
    yield from _drift(report, facts.limits)


def of_success(facts: RunFacts) -> Iterator[Sample]:
    """What outlives later runs that fail; nothing where this one did."""
    if facts.report["status"] == "done":
        yield "batchinfer_run_last_success_timestamp_seconds", (), facts.ended_s


def of_backfill(facts: BackfillFacts) -> Iterator[Sample]:
    """What is said of a backfill as a whole."""
    report = facts.report
    for status, count in report["counts"].items():
        yield "batchinfer_backfill_days", (status,), count
    for outcome in _OUTCOMES:
        yield "batchinfer_backfill_rows", (outcome,), report["rows"][outcome]
    yield "batchinfer_backfill_exit_code", (), report["exit_code"]
    yield "batchinfer_backfill_duration_seconds", (), report["seconds"]
    yield "batchinfer_backfill_end_timestamp_seconds", (), facts.ended_s


def exposition(samples: Iterable[Sample], pipeline: str, trigger: Trigger) -> CollectorRegistry:
    """The samples as a registry of prometheus_client's. Values that are not finite are left out."""
    from prometheus_client import CollectorRegistry, Gauge

    registry = CollectorRegistry()
    families: dict[str, Gauge] = {}
    for name, labels, value in samples:
        if not isfinite(value):
            continue
        if name not in families:
            metric = _BY_NAME[name]
            families[name] = Gauge(
                name, metric.help, ("pipeline", "trigger", *metric.labels), registry=registry
            )
        families[name].labels(pipeline, trigger, *labels).set(value)
    return registry


def _work(report: Mapping[str, Any]) -> Iterator[Sample]:
    for stage, seconds in report["timings"].get("stages", {}).items():
        yield "batchinfer_run_stage_duration_seconds", (stage,), seconds
    for step, seconds in report["timings"].get("workers", {}).items():
        yield "batchinfer_run_worker_seconds", (step,), seconds
    for outcome in _OUTCOMES:
        yield "batchinfer_run_rows", (outcome,), report["rows"][outcome]
    yield "batchinfer_run_rows_per_second", (), report["rows_per_second"]
    units = report["units"]
    yield "batchinfer_run_units", ("reused",), units["reused"]
    yield "batchinfer_run_units", ("scored",), units["total"] - units["reused"]
    yield "batchinfer_run_model_loads", (), report["model_loads"]
    if report["table_version"] is not None:
        yield "batchinfer_run_table_version", (), report["table_version"]


def _quality(report: Mapping[str, Any], limits: Mapping[str, float]) -> Iterator[Sample]:
    quality, rows = report["quality"], report["rows"]
    if rows["read"]:
        yield "batchinfer_run_quarantined_ratio", (), rows["quarantined"] / rows["read"]
    yield "batchinfer_run_quarantine_limit_ratio", (), limits["quarantined"]
    reasons = list(quality.get("quarantined", {}).items())  # the most frequent first
    for reason, count in reasons[:_MOST_REASONS]:
        yield "batchinfer_run_quarantined_rows", (reason,), count
    if rest := sum(count for _, count in reasons[_MOST_REASONS:]):
        yield "batchinfer_run_quarantined_rows", ("other",), rest
    if "expectations" in quality:
        failed = len(quality["failed"])
        yield "batchinfer_run_expectations", ("failed",), failed
        yield "batchinfer_run_expectations", ("passed",), quality["expectations"] - failed
    for column, count in quality.get("nonfinite_scores", {}).items():
        yield "batchinfer_run_nonfinite_scores", (column,), count


def _drift(report: Mapping[str, Any], limits: Mapping[str, float]) -> Iterator[Sample]:
    drift = report["drift"]
    if not drift:
        return
    yield "batchinfer_run_drift_alarm", (), float(bool(drift["alarm"]))
    yield "batchinfer_run_drifted_columns_ratio", (), drift["drifted_columns"]
    if "drifted_columns" in limits:
        yield "batchinfer_run_drifted_columns_limit_ratio", (), limits["drifted_columns"]
    for column, figures in drift["columns"].items():
        for key in ("psi", "limit"):
            if figures.get(key) is not None:
                name = "batchinfer_run_drift_psi" + ("_limit" if key == "limit" else "")
                yield name, (column,), figures[key]
