"""A compiled suite on the scoring path: every batch is measured, and rows that must not be scored are named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchinfer.core import Lineage, Reason, Refusals, arrays
from batchinfer.quality._expectation import Check, Judgement, State
from batchinfer.quality._marks import Known


@dataclass(frozen=True, slots=True)
class SuiteTally:
    """The states of a suite's checks over some rows: the `Tally` of `SuiteChecks`."""

    checks: tuple[Check, ...]
    states: tuple[State, ...]

    def merge(self, other: SuiteTally) -> SuiteTally:
        """Over the rows of both."""
        merged = (c.merge(a, b) for c, a, b in zip(self.checks, self.states, other.states, strict=True))
        return SuiteTally(self.checks, tuple(merged))

    def to_dict(self) -> dict[str, Any]:
        """The states, in the suite's order."""
        return {"states": list(self.states)}


class SuiteChecks:
    """The `Checks` of a compiled suite.

    A row is refused if a critical expectation about rows that tolerates none (`mostly` is 1) finds it
    unexpected. All others are judged when the run's last row is measured.

    Args:
        checks: the compiled expectations, in the suite's order.
        quarantines: whether rows are refused; else everything is counted, and nothing more.
    """

    def __init__(self, checks: Sequence[Check], *, quarantines: bool) -> None:
        self._checks = tuple(checks)
        self._refusing = frozenset(
            place for place, check in enumerate(checks) if quarantines and refuses(check)
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """See `batchinfer.core.Checks.columns`."""
        return tuple(dict.fromkeys(column for check in self._checks for column in check.columns))

    def check(self, batch: pa.RecordBatch, lineage: Lineage) -> tuple[Refusals, SuiteTally]:
        """See `batchinfer.core.Checks.check`."""
        states = []
        failed: dict[str, npt.NDArray[np.bool_]] = {}
        for place, check in enumerate(self._checks):
            state, unexpected = check.measure(batch, lineage)
            states.append(state)
            if place in self._refusing and unexpected is not None and unexpected.any():
                name = check.expectation.name
                failed[name] = failed[name] | unexpected if name in failed else unexpected
        return _refusals(failed), SuiteTally(self._checks, tuple(states))

    def nothing(self, schema: pa.Schema) -> SuiteTally:
        """The tally of no rows at all: what an empty input is judged by."""
        nulls = [pa.nulls(0, field.type) for field in schema]
        lineage = Lineage("", "", "", arrays.from_numpy(np.empty(0, np.int64)))
        _, tally = self.check(pa.RecordBatch.from_arrays(nulls, schema=schema), lineage)
        return tally

    def tally(self, value: dict[str, Any]) -> SuiteTally:
        """See `batchinfer.core.Checks.tally`."""
        return SuiteTally(self._checks, tuple(value["states"]))

    def judge(self, tally: SuiteTally) -> list[tuple[Check, Judgement]]:
        """Each expectation's verdict on all rows that the tally is over."""
        return [(c, c.judge(state)) for c, state in zip(self._checks, tally.states, strict=True)]


def refuses(check: Check) -> bool:
    """Whether a row that this expectation finds unexpected must not be scored."""
    expectation = check.expectation
    mostly = expectation.kwargs.get("mostly")
    return expectation.severity == "critical" and (mostly is None or mostly >= 1)


def sets_aside(check: Check, judgement: Judgement) -> bool:
    """Whether a failure means rows that were not scored, so that the rest may be: a set of distinct values has none."""
    of_no_row = isinstance(check, Known) and check.marks is None
    return refuses(check) and "unexpected_count" in judgement.result and not of_no_row


def _refusals(failed: dict[str, npt.NDArray[np.bool_]]) -> Refusals:
    """One reason for each combination of failed expectations that a row has."""
    if not failed:
        return Refusals.none()
    rows = np.flatnonzero(np.logical_or.reduce(list(failed.values())))
    marks = np.stack([mask[rows] for mask in failed.values()], axis=1)
    combinations, codes = np.unique(marks, axis=0, return_inverse=True)
    names = list(failed)
    reasons = []
    for combination in combinations:
        of = tuple(name for name, holds in zip(names, combination, strict=True) if holds)
        reasons.append(Reason("; ".join(of), of))
    return Refusals(rows, codes.reshape(-1).astype(np.int32), tuple(reasons))
