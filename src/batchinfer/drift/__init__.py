"""Drift: profiles of features and predictions, taken in the scoring pass and held against the reference's."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from batchinfer.drift._choose import ScoredRows
from batchinfer.drift._history import (
    HISTORY,
    ColumnHistory,
    DriftHistory,
    MeasuredRun,
    RunDrift,
    history_rows,
    summarise,
)
from batchinfer.drift._measure import ColumnDrift, DriftReport, Thresholds, measure
from batchinfer.drift._profile import ColumnProfile, Profile, Profiler
from batchinfer.drift._reference import Reference, ReferenceColumn, build_reference
from batchinfer.drift._sample import FixedSample

if TYPE_CHECKING:
    from batchinfer.drift._alerts import (
        Alert,
        AlertState,
        Delivery,
        RunFacts,
        State,
        check_webhook,
        next_alert,
        next_state,
        send,
    )
    from batchinfer.drift._chart import chart_page, number, share
    from batchinfer.drift._evidently import write_drift_report, write_labels_report
    from batchinfer.drift._labels import LabelledRows, join_labels, read_labels
    from batchinfer.drift._picture import chart_svg
    from batchinfer.drift._task import Predictions, Task

__all__ = [
    "HISTORY",
    "Alert",
    "AlertState",
    "ColumnDrift",
    "ColumnHistory",
    "ColumnProfile",
    "Delivery",
    "DriftHistory",
    "DriftReport",
    "FixedSample",
    "LabelledRows",
    "MeasuredRun",
    "Predictions",
    "Profile",
    "Profiler",
    "Reference",
    "ReferenceColumn",
    "RunDrift",
    "RunFacts",
    "ScoredRows",
    "State",
    "Task",
    "Thresholds",
    "build_reference",
    "chart_page",
    "chart_svg",
    "check_webhook",
    "history_rows",
    "join_labels",
    "measure",
    "next_alert",
    "next_state",
    "number",
    "read_labels",
    "send",
    "share",
    "summarise",
    "write_drift_report",
    "write_labels_report",
]

_WHEN_USED = {
    "_alerts": (
        *("Alert", "AlertState", "Delivery", "RunFacts", "State"),
        *("check_webhook", "next_alert", "next_state", "send"),
    ),
    "_chart": ("chart_page", "number", "share"),
    "_evidently": ("write_drift_report", "write_labels_report"),
    "_labels": ("LabelledRows", "join_labels", "read_labels"),
    "_picture": ("chart_svg",),
    "_task": ("Predictions", "Task"),
}
"""What few runs need: modules of this package that are imported when one of their names is."""


def __getattr__(name: str) -> Any:
    for module, names in _WHEN_USED.items():
        if name in names:
            return getattr(import_module(f"batchinfer.drift.{module}"), name)
    raise AttributeError(f"module 'batchinfer.drift' has no attribute '{name}'")
