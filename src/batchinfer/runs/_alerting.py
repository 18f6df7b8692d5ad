"""Telling of a run that ended: what it says of its pipeline's state, and what is remembered of it."""

from __future__ import annotations

import logging
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from batchinfer.errors import BatchinferError, QualityGate, StoreError, Transient
from batchinfer.runs._drift import said_drift
from batchinfer.runs._records import RunRecords
from batchinfer.runs._report import RunReport
from batchinfer.secrets import without_secrets
from batchinfer.spec import PipelineSpec

if TYPE_CHECKING:
    from batchinfer.drift import AlertState, RunFacts, State

_log = logging.getLogger("batchinfer.runs")
_FOLDER = "alerts"


def tell(
    spec: PipelineSpec, records: RunRecords, report: RunReport, error: BaseException | None = None
) -> list[dict[str, Any]]:
    """Send the alert of a run that ended, if its pipeline's state has changed; returns the deliveries.

    A run that only has to be tried again says nothing of its pipeline. Nothing is raised: what a run has done
    is not undone by a receiver that cannot be reached.
    """
    receivers = spec.alerts
    if (receivers.webhook is None and receivers.command is None) or isinstance(error, Transient):
        return []
    from batchinfer.drift import next_alert, next_state, send

    name = f"{spec.name}.json"
    previous = _previous(records, name)
    facts = _facts(report, error)
    alert = next_alert(previous, facts)
    deliveries = send(alert, receivers.webhook, receivers.command) if alert is not None else []
    state = next_state(previous, facts, deliveries)
    if state is not None and state is not previous:
        try:
            records.keep(_FOLDER, name, state.to_bytes())
        except StoreError as e:
            _log.error("%s; the alert will be sent again", e, extra={"run_id": report.run_id})
    return [asdict(delivery) for delivery in deliveries]


def _previous(records: RunRecords, name: str) -> AlertState | None:
    from batchinfer.drift import AlertState

    content = records.kept(_FOLDER, name)
    try:
        return None if content is None else AlertState.from_bytes(content)
    except ValueError as e:
        _log.error("%s/%s: %s; the state is taken for unknown", _FOLDER, name, e)
        return None


def _facts(report: RunReport, error: BaseException | None) -> RunFacts:
    from batchinfer.drift import RunFacts

    state: State
    if error is not None:
        state, why = ("quality-failed" if isinstance(error, QualityGate) else "failed"), _one_line(error)
    elif report.drift.get("alarm"):
        state, why = "drift", said_drift(report)
    else:
        state, why = "ok", f"{report.rows.scored} rows scored"
    drift: dict[str, Any] = {}
    if report.drift:
        drift = {key: report.drift[key] for key in ("alarm", "drifted_columns", "rows")}
        drift["drifted"] = {n: c["psi"] for n, c in report.drift["columns"].items() if c["drifted"]}
    return RunFacts(
        pipeline=report.pipeline,
        run_id=report.run_id or "",
        state=state,
        why=why,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        parameters=report.parameters,
        drift=drift,
        quality=report.quality,
    )


def _one_line(error: BaseException) -> str:
    said = error.message if isinstance(error, BatchinferError) else f"{type(error).__name__}: {error}"
    return " ".join(without_secrets(said).split())[:500] or type(error).__name__
