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
    from batchinfer.runs._parity import ParityReport, SinkParity, parity
    from batchinfer.runs._stream import StreamProgress, create_topics, stream
    from batchinfer.runs._stream_repair import RepairReport, repair_stream
    from batchinfer.runs._stream_replay import ReplayReport, replay_dead_letters
    from batchinfer.runs._stream_report import StreamReport
    from batchinfer.runs._stream_window import Bound, parse_bound

__all__ = [
    "SAMPLE",
    "VALIDATION",
    "BackfillProgress",
    "BackfillReport",
    "Bound",
    "DayReport",
    "DriftPages",
    "Explanation",
    "ParityReport",
    "Plan",
    "Progress",
    "RepairReport",
    "ReplayReport",
    "RunRecords",
    "RunReport",
    "SinkParity",
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
    "parity",
    "parse_bound",
    "read_drift",
    "read_suite",
    "read_validation",
    "repair_stream",
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
    "_parity": ("ParityReport", "SinkParity", "parity"),
    "_stream": ("StreamProgress", "create_topics", "stream"),
    "_stream_repair": ("RepairReport", "repair_stream"),
    "_stream_replay": ("ReplayReport", "replay_dead_letters"),
    "_stream_report": ("StreamReport",),
    "_stream_window": ("Bound", "parse_bound"),
}
"""What a run does not need: modules of this package that are imported when one of their names is."""


def __getattr__(name: str) -> Any:
    for module, names in _WHEN_USED.items():
        if name in names:
            return getattr(import_module(f"batchinfer.runs.{module}"), name)
    raise AttributeError(f"module 'batchinfer.runs' has no attribute '{name}'")
