"""Quality: a Great Expectations suite, compiled to Arrow and run on every row in the scoring pass."""

from batchinfer.quality._checks import SuiteChecks, SuiteTally, refuses, sets_aside
from batchinfer.quality._compile import compile_suite
from batchinfer.quality._docs import render_docs
from batchinfer.quality._expectation import Check, Expectation, Judgement, State
from batchinfer.quality._foreign import run_foreign
from batchinfer.quality._hidden import concerns, hide, hide_verdict
from batchinfer.quality._result import validation_result
from batchinfer.quality._suite import Suite, load_suite
from batchinfer.quality._survey import Unsurveyed, survey

__all__ = [
    "Check",
    "Expectation",
    "Judgement",
    "State",
    "Suite",
    "SuiteChecks",
    "SuiteTally",
    "Unsurveyed",
    "compile_suite",
    "concerns",
    "hide",
    "hide_verdict",
    "load_suite",
    "refuses",
    "render_docs",
    "run_foreign",
    "sets_aside",
    "survey",
    "validation_result",
]
