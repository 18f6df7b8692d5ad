"""The composition root: plan, batch job, run records, and explaining a row."""

from batchinfer.run._explain import Explanation, explain
from batchinfer.run._job import Progress, open_results, run
from batchinfer.run._plan import Plan, load_model, load_transform, make_plan
from batchinfer.run._records import RunRecords
from batchinfer.run._report import RunReport

__all__ = [
    "Explanation",
    "Plan",
    "Progress",
    "RunRecords",
    "RunReport",
    "explain",
    "load_model",
    "load_transform",
    "make_plan",
    "open_results",
    "run",
]
