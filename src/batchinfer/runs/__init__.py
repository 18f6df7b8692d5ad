"""The composition root: models and their references, plan, batch job, run records, and explaining a row."""

from batchinfer.runs._drift import SAMPLE, drift_path, read_drift
from batchinfer.runs._explain import Explanation, explain
from batchinfer.runs._job import Progress, find_rows, open_quarantine, open_results, run
from batchinfer.runs._models import add_model
from batchinfer.runs._plan import Plan, load_model, load_transform, make_plan
from batchinfer.runs._quality import VALIDATION
from batchinfer.runs._records import RunRecords
from batchinfer.runs._report import RunReport

__all__ = [
    "SAMPLE",
    "VALIDATION",
    "Explanation",
    "Plan",
    "Progress",
    "RunRecords",
    "RunReport",
    "add_model",
    "drift_path",
    "explain",
    "find_rows",
    "load_model",
    "load_transform",
    "make_plan",
    "open_quarantine",
    "open_results",
    "read_drift",
    "run",
]
