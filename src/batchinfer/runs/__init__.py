"""The composition root: models and their references, plan, batch job, backfill, run records, explaining a row."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from batchinfer.runs._drift import SAMPLE, drift_path, read_drift
from batchinfer.runs._explain import Explanation, explain
from batchinfer.runs._job import Progress, find_rows, open_quarantine, open_results, run
from batchinfer.runs._plan import Plan, load_model, load_transform, make_plan
from batchinfer.runs._quality import VALIDATION, read_suite
from batchinfer.runs._records import RunRecords
from batchinfer.runs._report import RunReport

if TYPE_CHECKING:
    from batchinfer.runs._backfill import BackfillProgress, backfill
    from batchinfer.runs._backfill_report import BackfillReport, DayReport
    from batchinfer.runs._docs import read_validation, write_docs
    from batchinfer.runs._drift_pages import DriftPages, drift_history, write_drift_pages
    from batchinfer.runs._models import add_model
    from batchinfer.runs._stream import StreamProgress, create_topics, stream
    from batchinfer.runs._stream_replay import ReplayReport, replay_dead_letters
    from batchinfer.runs._stream_report import StreamReport

__all__ = [
    "SAMPLE",
    "VALIDATION",
    "BackfillProgress",
    "BackfillReport",
    "DayReport",
    "DriftPages",
    "Explanation",
    "Plan",
    "Progress",
    "ReplayReport",
    "RunRecords",
    "RunReport",
    "StreamProgress",
    "StreamReport",
    "add_model",
    "backfill",
    "create_topics",
    "drift_history",
    "drift_path",
    "explain",
    "find_rows",
    "load_model",
    "load_transform",
    "make_plan",
    "open_quarantine",
    "open_results",
    "read_drift",
    "read_suite",
    "read_validation",
    "replay_dead_letters",
    "run",
    "stream",
    "write_docs",
    "write_drift_pages",
]

_WHEN_USED = {
    "_backfill": ("BackfillProgress", "backfill"),
    "_backfill_report": ("BackfillReport", "DayReport"),
    "_docs": ("read_validation", "write_docs"),
    "_drift_pages": ("DriftPages", "drift_history", "write_drift_pages"),
    "_models": ("add_model",),
    "_stream": ("StreamProgress", "create_topics", "stream"),
    "_stream_replay": ("ReplayReport", "replay_dead_letters"),
    "_stream_report": ("StreamReport",),
}
"""What a run does not need: modules of this package that are imported when one of their names is."""


def __getattr__(name: str) -> Any:
    for module, names in _WHEN_USED.items():
        if name in names:
            return getattr(import_module(f"batchinfer.runs.{module}"), name)
    raise AttributeError(f"module 'batchinfer.runs' has no attribute '{name}'")
