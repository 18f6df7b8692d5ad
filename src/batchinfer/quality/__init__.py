"""Quality: a Great Expectations suite, compiled to Arrow and run on every row in the scoring pass."""

from batchinfer.quality._compile import compile_suite
from batchinfer.quality._expectation import Check, Expectation, Judgement, State
from batchinfer.quality._suite import Suite, load_suite
from batchinfer.quality._survey import Unsurveyed, survey

__all__ = [
    "Check",
    "Expectation",
    "Judgement",
    "State",
    "Suite",
    "Unsurveyed",
    "compile_suite",
    "load_suite",
    "survey",
]
