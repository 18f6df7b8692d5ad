"""Checks of sensitive columns: verdicts and counts as ever, values as hashes or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from batchinfer.core import Sensitive
from batchinfer.quality._aggregates import Aggregate
from batchinfer.quality._expectation import Check, Expectation, Judgement
from batchinfer.quality._marks import Known
from batchinfer.quality._metrics import NonNullProportion, RowCount
from batchinfer.quality._rows import RowCheck
from batchinfer.quality._survey import Unique, Unsurveyed

_COUNTS = {"element_count", "unexpected_count", "missing_count"}
_SHARES = {
    "unexpected_percent",
    "unexpected_percent_total",
    "unexpected_percent_nonmissing",
    "missing_percent",
}
_OBSERVED_COUNTS = ("unique_value_count", "proportion_of_unique_values", "proportion_of_non_null_values")


def hide(
    checks: Sequence[Check], foreign: Sequence[Expectation], sensitive: Sensitive
) -> tuple[list[Check], list[Expectation]]:
    """The same checks, of which no state holds a sensitive value.

    A minimum, a quantile or a sum that units hand on is such a value: those aggregates are left to Great
    Expectations, which sees the whole run in one process and hands on its verdict.
    """
    kept: list[Check] = []
    left = list(foreign)
    for check in checks:
        if not concerns(check.expectation, sensitive) or not check.expectation.columns:
            kept.append(check)
        elif isinstance(check, RowCheck):
            kept.append(replace(check, sensitive=sensitive))
        elif isinstance(check, Unsurveyed) and isinstance(check.question, Unique):
            shown = replace(check.question.check, sensitive=sensitive)
            kept.append(Unsurveyed(Unique(shown)))
        elif isinstance(check, Aggregate) and not isinstance(check.metric, RowCount | NonNullProportion):
            left.append(check.expectation)
        else:
            kept.append(check)
    return kept, left


def hide_verdict(check: Check, sensitive: Sensitive) -> Check:
    """A verdict that is known before the run is scored, with no more of it than counts and shares."""
    if not isinstance(check, Known) or not concerns(check.expectation, sensitive):
        return check
    told = {k: v for k, v in check.judgement.result.items() if k in _COUNTS | _SHARES}
    observed = check.judgement.result.get("observed_value")
    if any(name in check.expectation.type for name in _OBSERVED_COUNTS):
        told["observed_value"] = observed
    if "exception_message" in check.judgement.result:
        told["exception_message"] = "left out, for the input has sensitive columns"
    return replace(check, judgement=Judgement(check.judgement.success, told))


def concerns(expectation: Expectation, sensitive: Sensitive) -> bool:
    """Whether the verdict may show values of a sensitive column: one that names no column may show any."""
    return bool(sensitive) and (not expectation.columns or any(c in sensitive for c in expectation.columns))
