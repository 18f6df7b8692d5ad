"""The suite of a run: compiled at the plan, measured by the workers, judged before the commit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import reduce
from typing import Any

import pyarrow as pa

from batchinfer import source
from batchinfer.core import Sensitive, UnitReport, WorkUnit, merge_counts
from batchinfer.errors import QualityGate
from batchinfer.quality import (
    Check,
    Expectation,
    Judgement,
    Suite,
    SuiteChecks,
    SuiteTally,
    compile_suite,
    concerns,
    hide,
    hide_verdict,
    load_suite,
    run_foreign,
    sets_aside,
    survey,
    validation_result,
)
from batchinfer.runs._report import RunReport
from batchinfer.spec import PipelineSpec, QualitySpec

VALIDATION = "validation.json"
"""The run's artefact that holds Great Expectations' own result."""


@dataclass(frozen=True, slots=True)
class SuitePlan:
    """A suite as the run will check it: what is compiled, and what Great Expectations does itself."""

    suite: Suite
    compiled: tuple[Check, ...]
    uncompiled: tuple[Expectation, ...]
    schema: pa.Schema
    sensitive: Sensitive

    @property
    def columns(self) -> tuple[str, ...]:
        """The input columns that the scoring pass reads for the checks."""
        return tuple(dict.fromkeys(column for check in self.compiled for column in check.columns))

    def prepare(self, units: Sequence[WorkUnit], quality: QualitySpec) -> SuiteChecks:
        """Learn what takes all rows of the run to know, in passes over the columns that need it.

        Raises:
            MissingExtra: an expectation takes Great Expectations itself, and it is not installed.
            InputError, InputChanged: see `source.read_unit`.
        """

        def read(columns: tuple[str, ...]) -> Iterator[tuple[pa.RecordBatch, str, int]]:
            for unit in units:
                yield from source.read_unit(unit, columns)

        surveyed = survey(self.compiled, read)
        found = [
            *(new for new, old in zip(surveyed, self.compiled, strict=True) if new is not old),
            *run_foreign(
                self.uncompiled, self.schema, read, quotes=lambda one: not concerns(one, self.sensitive)
            ),
        ]
        checks = [new for new, old in zip(surveyed, self.compiled, strict=True) if new is old]
        checks += [hide_verdict(check, self.sensitive) for check in found]
        checks.sort(key=lambda check: check.expectation.index)
        return SuiteChecks(checks, quarantines=quality.on_failure == "quarantine")


def read_suite(spec: PipelineSpec) -> Suite | None:
    """The spec's suite; None where the spec names none.

    Raises:
        SpecError: it cannot be read; names file and expectation.
    """
    return None if spec.suite_file is None else load_suite(spec.suite_file)


def plan_checks(suite: Suite | None, schema: pa.Schema, sensitive: Sensitive) -> SuitePlan | None:
    """A suite, compiled for an input of `schema`; what it says of `sensitive` columns holds none of their values.

    Raises:
        SpecError: it does not fit the input; names file, expectation and column.
    """
    if suite is None:
        return None
    compiled, uncompiled = hide(*compile_suite(suite, schema), sensitive)
    return SuitePlan(suite, tuple(compiled), tuple(uncompiled), schema, sensitive)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a suite says of a run. `broken` are the judgements that stop it before its commit."""

    summary: dict[str, Any]
    broken: tuple[str, ...]
    validation: bytes


def judge_suite(
    plan: SuitePlan,
    checks: SuiteChecks,
    reports: Sequence[UnitReport],
    quality: QualitySpec,
    report: RunReport,
) -> Verdict:
    """Judge all rows that the units measured."""
    tallies = [checks.tally(unit.checks) for unit in reports if unit.checks is not None]
    judged = checks.judge(reduce(SuiteTally.merge, tallies or [checks.nothing(plan.schema)]))
    failed = [(check, judgement) for check, judgement in judged if not judgement.success]
    broken = tuple(
        _said(check, judgement, plan.sensitive)
        for check, judgement in failed
        if _stops(check, judgement, quality)
    )
    summary = {
        "suite": plan.suite.name,
        "success": not failed,
        "expectations": len(judged),
        "failed": [_told(check, judgement) for check, judgement in failed],
    }
    stated = validation_result(
        plan.suite,
        [(check.expectation, judgement) for check, judgement in judged],
        run_id=report.run_id or "",
        started=datetime.fromisoformat(report.started_at),
        asset=report.pipeline,
        facts={"parameters": report.parameters, "model": report.model, "rows": asdict(report.rows)},
    )
    return Verdict(summary, broken, json.dumps(stated, indent=1).encode())


def hold_gate(quality: QualitySpec, report: RunReport, broken: Sequence[str]) -> None:
    """Hold what was found against what the spec allows, before the commit.

    Raises:
        QualityGate: it is too much; nothing was committed.
    """
    if broken:
        raise QualityGate(
            f"{len(broken)} expectation{'s' if len(broken) > 1 else ''} failed on {report.rows.read} rows; "
            "nothing was committed:\n    " + "\n    ".join(broken),
            next_step="mend the input or the suite; 'on_failure: warn' or a lower severity only counts",
            report=report,
        )
    rows = report.rows
    if not rows.quarantined:
        return
    share = rows.quarantined / rows.read
    limit = 0.0 if quality.on_failure == "fail" else quality.max_quarantined
    if share <= limit:
        return
    reasons = "; ".join(f"{reason}: {count}" for reason, count in report.quality["quarantined"].items())
    rule = (
        "quality.on_failure is 'fail'"
        if quality.on_failure == "fail"
        else f"quality.max_quarantined allows {limit:.2%}"
    )
    raise QualityGate(
        f"{rows.quarantined} of {rows.read} rows ({share:.2%}) were set aside, but {rule}; "
        f"nothing was committed ({reasons})",
        next_step="mend the input, or allow more with quality.max_quarantined",
        report=report,
    )


def row_quality(reports: Sequence[UnitReport]) -> dict[str, Any]:
    """Rows refused by reason, NaN and infinite scores by column."""
    quality: dict[str, Any] = {}
    if reasons := merge_counts(unit.reasons for unit in reports):
        quality["quarantined"] = reasons
    if nonfinite := merge_counts(unit.nonfinite for unit in reports):
        quality["nonfinite_scores"] = nonfinite
    return quality


def _stops(check: Check, judgement: Judgement, quality: QualitySpec) -> bool:
    """Whether this expectation's failure stops the run: its rows were not simply set aside."""
    if quality.on_failure == "warn" or check.expectation.severity != "critical":
        return False
    return quality.on_failure == "fail" or not sets_aside(check, judgement)


def _told(check: Check, judgement: Judgement) -> dict[str, Any]:
    told: dict[str, Any] = {"expectation": check.expectation.name, "severity": check.expectation.severity}
    for key in ("observed_value", "unexpected_count", "element_count"):
        if judgement.result.get(key) is not None:
            told[key] = judgement.result[key]
    return told


def _said(check: Check, judgement: Judgement, sensitive: Sensitive) -> str:
    result, told = judgement.result, _told(check, judgement)
    sets = [
        f"{result[f'{kind}_count']} {kind}"
        for kind in ("unexpected", "missing")
        if result.get(f"{kind}_count")
    ]
    if "exception_message" in result:
        found = f"Great Expectations could not judge it: {result['exception_message']}"
    elif "unexpected_count" in told and "element_count" in told:
        found = f"{told['unexpected_count']} of {told['element_count']} rows"
    elif sets:
        found = f"{' and '.join(sets)} values"
    elif "observed_value" in result:
        found = f"observed {told.get('observed_value')}"
    elif concerns(check.expectation, sensitive):
        found = "what was observed is sensitive"
    else:
        found = "it does not hold"
    return f"{check.expectation.name}: {found}"
