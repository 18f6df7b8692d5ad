"""What a suite states, and what a compiled expectation does: measure batches, merge, judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchinfer.core import Lineage

Severity = Literal["critical", "warning", "info"]

State = dict[str, Any]
"""What an expectation knows of the rows it has measured: plain JSON values, so that receipts can carry it."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """One expectation as the suite states it.

    Attributes:
        index: its place in the suite.
        type: Great Expectations' own name, as `expect_column_values_to_not_be_null`.
        kwargs: its arguments, by Great Expectations' own names.
        severity: critical fails the gate or quarantines the row; warning and info are counted only.
        meta: kept for the validation result.
        id: kept for the validation result.
    """

    index: int
    type: str
    kwargs: Mapping[str, Any]
    severity: Severity = "critical"
    meta: Mapping[str, Any] = field(default_factory=dict)
    id: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it names."""
        named = [self.kwargs.get(key) for key in ("column", "column_A", "column_B")]
        return tuple(name for name in [*named, *(self.kwargs.get("column_list") or ())] if name)

    @property
    def name(self) -> str:
        """How reports and quarantined rows call it: `expect_column_values_to_not_be_null(temp)`."""
        return f"{self.type}({', '.join(self.columns)})"


@dataclass(frozen=True, slots=True)
class Judgement:
    """An expectation's verdict on all rows. `result` is what Great Expectations calls so."""

    success: bool
    result: dict[str, Any]


class Check(Protocol):
    """A compiled expectation. Pure and thread-safe; merging is associative and commutative, bit for bit."""

    @property
    def expectation(self) -> Expectation:
        """What it was compiled from."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The input columns it reads, those of its row condition included."""

    def measure(self, batch: pa.RecordBatch, lineage: Lineage) -> tuple[State, npt.NDArray[np.bool_] | None]:
        """The state of these rows alone, and which of them it finds unexpected.

        None instead of the mask: none is, or the expectation is not about rows.
        """

    def merge(self, one: State, other: State) -> State:
        """The state of the rows of both."""

    def judge(self, state: State) -> Judgement:
        """The verdict. Called once, at the end, with the state of all rows."""
