"""Quality: a Great Expectations suite, compiled to Arrow and run on every row in the scoring pass."""

from batchinfer.quality._checks import SuiteChecks, SuiteTally, refuses
from batchinfer.quality._expectation import Check, Expectation, Judgement, State

__all__ = ["Check", "Expectation", "Judgement", "State", "SuiteChecks", "SuiteTally", "refuses"]
